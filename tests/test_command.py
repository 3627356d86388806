"""The command nanochat, as a person types it; and what --help looks like."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import config, flag_help
from nanochat.errors import UserError
from scripts import __main__ as command
from scripts import chat_sft, chat_web

ROOT = Path(__file__).resolve().parent.parent


def typed(*words: str, module: str = "nanochat") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, env=environment, capture_output=True,
                          text=True, timeout=300)  # fmt: skip


def test_alone_it_lists_every_script_with_a_line() -> None:
    done = typed()
    assert done.returncode == 0 and done.stderr == ""
    listed = re.findall(r"^  (\S+)  +\S", done.stdout, re.M)
    scripts = {path.stem for path in (ROOT / "scripts").glob("[!_]*.py")}
    assert {command.script_of(name) for name in listed} == scripts and len(listed) == len(scripts)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_command_is_its_script_under_the_name_that_was_typed() -> None:
    ours, theirs = typed("chat", "--help"), typed("--help", module="scripts.chat_cli")
    assert ours.returncode == theirs.returncode == 0
    assert ours.stdout.startswith("usage: python -m nanochat chat [QUESTION ...] [flags]\n")
    assert ours.stdout.replace("python -m nanochat chat", "python -m scripts.chat_cli") == theirs.stdout
    wrong = typed("show_data", "--nmu", "3")  # _ or -, as with flags
    assert wrong.returncode == 2 and wrong.stderr == "error: unknown flag --nmu; did you mean --num?\n"


@pytest.mark.parametrize(
    "word, hint", [("cht", "did you mean chat?"), ("base_trian", "did you mean base-train?"), ("xyzzy", "lists the")]
)
def test_an_unknown_command_is_one_sentence_with_the_nearest(word: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"there is no command '{word}'; .*{hint}"):
        command.main([word])


def test_a_shell_learns_the_commands_and_their_flags(tmp_path: Path) -> None:
    script = tmp_path / "nanochat.bash"
    done = typed("--tyro-write-completion", "bash", str(script))
    assert done.returncode == 0, done.stderr
    asked = """source "$1"; COMP_WORDS=(nanochat $2 "$3"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    "$(complete -p nanochat | sed 's/.*-F \\([^ ]*\\).*/\\1/')"; printf '%s\n' "${COMPREPLY[@]}\""""

    def completed(before: str, word: str) -> set[str]:
        done = subprocess.run(["bash", "-c", asked, "bash", str(script), before, word], capture_output=True, text=True)
        return {each.strip() for each in done.stdout.splitlines()}

    assert {"chat", "chat-sft", "chat-rl"} <= completed("", "ch")
    assert "--max_tokens" in completed("chat", "--max")
    assert typed("--tyro-print-completion").returncode == 2


def test_help_has_groups_in_their_order_and_plain_types() -> None:
    page = flag_help.page(chat_sft.Flags, "nanochat chat-sft")
    titles = [line for line in page.splitlines() if line in flag_help.GROUPS and line]
    assert titles == sorted(titles, key=flag_help.GROUPS.index) and len(titles) >= 7
    assert f"example: nanochat chat-sft {chat_sft.Flags.EXAMPLE}" in page
    assert re.search(r"^  --num_epochs X  ", page, re.M) and "NoneType" not in page and "Path" not in page
    assert "--compile [max-autotune], --no-compile" in page
    assert re.search(r"-i, --source TEXT", page) and "also --init-from" in page
    web = flag_help.page(chat_web.Flags, "nanochat web")
    assert web.index("--host") < web.index("--temperature") < web.index("--dtype")


def test_every_long_help_is_grouped() -> None:
    for name in (name for group in command.COMMANDS.values() for name in group):
        flags = __import__(f"scripts.{command.script_of(name)}", fromlist=["Flags"]).Flags
        described = flag_help.described(flags)
        alone = [flag for flag in described if not flag.group]
        assert len(alone) <= 9, f"{name}: give its flags headings, as in # --- output"
        assert {flag.field for flag in described} == set(config.helps(flags)) & {flag.field for flag in described}
