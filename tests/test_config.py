"""Flags: hyphen or underscore, booleans in every spelling, and one sentence for every mistake."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import alias, changes, default, parse, positional
from nanochat.errors import UserError, run

ROOT = Path(__file__).parent.parent


@dataclass
class Flags:
    """A script for this test."""

    files: Annotated[list[Path], positional] = field(default_factory=list)
    """files to read"""
    total_batch_size: int = 64
    """tokens per step"""
    matrix_lr: float = 0.02
    """learning rate"""
    model_tag: Annotated[str | None, alias("-g")] = None
    """folder of the checkpoints"""
    source: Literal["base", "mid"] = "mid"
    """where to start"""
    compile: bool = True
    """use a compiler"""
    dry_run: bool = False
    """do nothing"""
    data_path: list[Path] = field(default_factory=list)
    """files of conversations"""


@dataclass
class Sometimes:
    """A script with a flag that is a boolean or a word."""

    compile: bool | Literal["max-autotune"] = False
    """use a compiler"""
    rows: int | Literal["auto"] = 32
    """rows at a time"""
    name: str = ""
    """a name"""


@dataclass
class Tolerant(Flags):
    """A script that knows flags of another program."""

    NO_EFFECT: ClassVar = {"debug": "errors are always printed", "num_workers": "reading takes no time"}


@given(size=st.integers(), rate=st.floats(allow_nan=False), equals=st.booleans(), hyphen=st.booleans())
def test_a_flag_is_found_in_either_spelling(size, rate, equals, hyphen):
    pairs = [("total_batch_size", str(size)), ("matrix_lr", repr(rate))]
    argv: list[str] = []
    for name, value in pairs:
        flag = "--" + (name.replace("_", "-") if hyphen else name)
        argv += [f"{flag}={value}"] if equals or value.startswith("-") else [flag, value]
    flags = parse(Flags, argv)
    assert (flags.total_batch_size, flags.matrix_lr) == (size, rate)


@pytest.mark.parametrize(
    "argv, compile, dry_run",
    [
        ([], True, False),
        (["--no-compile", "--dry-run"], False, True),
        (["--no_compile", "--dry_run"], False, True),
        (["--compile=False", "--dry_run=True"], False, True),
        (["--compile=true", "--dry-run=false"], True, False),
        (["--compile", "--no-dry-run"], True, False),
    ],
)
def test_booleans(argv, compile, dry_run):
    flags = parse(Flags, argv)
    assert (flags.compile, flags.dry_run) == (compile, dry_run)


@pytest.mark.parametrize(
    "argv, compile",
    [
        ([], False),
        (["--compile"], True),
        (["--compile=true"], True),
        (["--compile=False"], False),
        (["--no-compile"], False),
        (["--no_compile=false"], True),
        (["--compile=max-autotune"], "max-autotune"),
        (["--compile", "max-autotune"], "max-autotune"),
        (["--compile", "--name", "max-autotune"], True),
        (["--name", "max-autotune", "--no-compile"], False),
    ],
)
def test_booleans_that_may_be_a_word(argv, compile):
    assert parse(Sometimes, argv).compile == compile


@pytest.mark.parametrize("argv", [["--compile=maybe"], ["--compile", "maybe"], ["--no-compile", "max-autotune"]])
def test_other_words_are_refused(argv):
    with pytest.raises(UserError):
        parse(Sometimes, argv)


def test_numbers_that_may_be_a_word(tmp_path):
    assert [parse(Sometimes, argv).rows for argv in ([], ["--rows=4"], ["--rows", "auto"])] == [32, 4, "auto"]
    with pytest.raises(UserError, match="--rows"):
        parse(Sometimes, ["--rows=all"])
    (tmp_path / "run.yaml").write_text("rows: auto\ncompile: max-autotune\n", encoding="utf-8")
    read = parse(Sometimes, [str(tmp_path / "run.yaml")])
    assert (read.rows, read.compile) == ("auto", "max-autotune")


def test_short_names_lists_and_positions():
    flags = parse(Flags, ["a.txt", "b.txt", "-g", "d4", "--data_path", "x.jsonl", "y.jsonl"])
    assert (flags.model_tag, flags.files) == ("d4", [Path("a.txt"), Path("b.txt")])
    assert flags.data_path == [Path("x.jsonl"), Path("y.jsonl")]
    assert parse(Flags, ["--model-tag", "d4"]).model_tag == "d4"
    assert parse(Flags, ["--data_path=x.jsonl"]).data_path == [Path("x.jsonl")]


def test_without_arguments_the_command_line_is_read(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script", "--total_batch_size", "7"])
    assert parse(Flags).total_batch_size == 7
    assert parse(Flags, []).total_batch_size == 64


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--total_batch_siez", "3"], "unknown flag --total_batch_siez; did you mean --total_batch_size?"),
        (["--total-batch-siez=3"], "unknown flag --total-batch-siez; did you mean --total_batch_size?"),
        (["--zebra"], "unknown flag --zebra; --help lists the flags"),
        (["--total_batch_size", "many"], "many"),
        (["--total_batch_size"], "total.batch.size"),
        (["--source", "sft"], "base.*mid"),
    ],
)
def test_a_mistake_is_one_sentence(argv, said, capsys):
    with pytest.raises(UserError, match=said) as error:
        parse(Flags, argv)
    assert "\n" not in str(error.value) and not any(line in str(error.value) for line in "│╭─")
    assert capsys.readouterr() == ("", "")  # it is for `run` to print


def test_help_shows_every_flag_with_its_docstring(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Flags, ["--help"])
    assert stop.value.code in (0, None)
    shown = capsys.readouterr().out
    for text in ("A script for this test", "tokens per step", "learning rate", "do nothing", "-g"):
        assert text in shown


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--debug", "a.txt"], ["--debug has no effect here; errors are always printed"]),
        (["--debug=true", "--num-workers", "4", "a.txt"], ["--debug has", "--num-workers has no effect here; reading"]),
        (["x.json", "--model-tag=d1"], ["x.json: loader.num_workers has no effect here", "x.json: debug has no"]),
        (["--files", "debug"], []),
    ],
)
def test_what_means_nothing_here_is_named_and_left_out(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text('{"loader": {"num_workers": 4}, "debug": true, "dry_run": true}', encoding="utf-8")

    @dataclass
    class Script:
        dry_run: bool = False
        model_tag: str | None = None
        files: list[str] = field(default_factory=list)
        NO_EFFECT: ClassVar = Tolerant.NO_EFFECT

    flags = parse(Script if "x.json" in argv else Tolerant, argv) if "--files" not in argv else parse(Script, argv)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(said) and all(line in "\n".join(printed) for line in said)
    assert flags.dry_run == ("x.json" in argv)


def test_what_means_nothing_here_is_named_once_by_several_ranks(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    parse(Tolerant, ["--debug", "yes"])
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="unknown flag --debug"):
        parse(Flags, ["--debug"])


def test_changes_are_what_differs_from_the_defaults():
    assert changes(Flags()) == {}
    flags = parse(Flags, ["--no-compile", "--matrix_lr=0.02", "-g", "d4", "--data_path", "x"])
    assert changes(flags) == {"compile": False, "model_tag": "d4", "data_path": [Path("x")]}


def test_defaults():
    fields = {one.name: one for one in Flags.__dataclass_fields__.values()}
    assert default(fields["total_batch_size"]) == 64 and default(fields["data_path"]) == []

    @dataclass
    class Needs:
        name: str

    assert default(Needs.__dataclass_fields__["name"]) is None


def exits(main: object, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stop:
        run(main)  # type: ignore[arg-type]
    return stop.value.code, capsys.readouterr().err


def test_run_turns_a_user_error_into_a_line_and_exit_code_2(capsys):
    def wrong(argv: Sequence[str] | None = None) -> None:
        parse(Flags, ["--zebra"])

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exits(wrong, capsys) == (2, "error: unknown flag --zebra; --help lists the flags\n")
    assert exits(lambda: None, capsys)[0] in (0, None)
    assert exits(lambda: 3, capsys) == (3, "")
    assert exits(interrupted, capsys)[0] == 130
    with pytest.raises(ZeroDivisionError):  # a fault of ours is not dressed up
        run(lambda: 1 // 0)


@pytest.mark.parametrize(
    "argv, expected",
    [(["--names", "a", "b"], ["a", "b"]), (["--names=a", "--names=b"], ["a", "b"]), ([], []),
     (["--names", "a", "--depth=3", "--names", "b", "c"], ["a", "b", "c"]),
     (["--names=a", "--names", "b=c"], ["a", "b=c"])],
)  # fmt: skip
def test_a_list_is_given_at_once_or_piece_by_piece(argv: list[str], expected: list[str]) -> None:
    @dataclass
    class Flags:
        names: list[str] = field(default_factory=list)
        depth: int = 1

    parsed = parse(Flags, argv)
    assert (parsed.names, parsed.depth) == (expected, 3 if "--depth=3" in argv else 1)


SPEAKER = r"""
from rich.console import Console
from rich.table import Table
from nanochat.errors import UserError, run
from nanochat.log import Progress

def main():
    print("a 中 é \udcff")
    with Progress(2, "läuft") as progress:
        progress.update(1, note="→ ö")
        progress.update(2, note="→ ö")
    table = Table("größe")
    table.add_row("✓ " * 9)
    Console().print(table)
    raise UserError("no 中")

run(main)
"""


@pytest.mark.parametrize("settings", [
    {"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "utf-8"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
])  # fmt: skip
@pytest.mark.parametrize("on_terminal", [False, True])
def test_what_the_terminal_cannot_show_is_escaped(settings: dict, on_terminal: bool, tmp_path: Path) -> None:
    """Printed lines, progress bars, tables and errors alike, on a terminal and into a file."""
    ours, theirs = os.openpty() if on_terminal else os.pipe()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), **settings}
    (tmp_path / "speaker.py").write_text(SPEAKER, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, tmp_path / "speaker.py"], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=environment,
    ) as program:  # fmt: skip
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 1 << 16):
                said += piece
        os.close(ours)
    assert program.returncode == 2 and b"Traceback" not in said
    shown = {"utf-8": "a 中 é \\udcff", "cp1252": r"a \u4e2d é \udcff"}
    encoding = settings.get("PYTHONIOENCODING", "ascii")
    assert shown.get(encoding, r"a \u4e2d \xe9 \udcff").encode(encoding) in said
    assert ("no 中" if encoding == "utf-8" else r"no \u4e2d").encode(encoding) in said


def test_how_odd_text_is_printed_is_left_to_who_has_chosen(monkeypatch, capsys) -> None:
    chosen = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="xmlcharrefreplace")
    monkeypatch.setattr(sys, "stdout", chosen)
    with pytest.raises(SystemExit):
        run(lambda: print("é", flush=True))
    assert chosen.buffer.getvalue() == b"&#233;\n"
