"""scripts/sample.py: nanoGPT's way to sample, and gpt-generate's. transformers is asked what is right."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.api import Model
from nanochat.checkpoint import door, manager
from nanochat.config import parse
from nanochat.engine.serving import serve_model
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import sample
from scripts.sample import RULE, GenerateFlags
from tests.gpt2s import write_gpt2, write_nanogpt
from tests.scripted import scripted

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 32
CPU = ["--device=cpu", "--dtype=float32"]
TEXT = "hello the cat"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory):
    """transformers' model and the folder it was saved in."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return write_gpt2(folder, CONTEXT), folder


@pytest.fixture
def folder(theirs) -> str:
    return str(theirs[1])


def run(capsys: pytest.CaptureFixture, *flags: str) -> str:
    """What the script prints on stdout."""
    capsys.readouterr()
    sample.main([*CPU, *flags])
    return capsys.readouterr().out


def samples(out: str) -> list[str]:
    assert out.endswith(f"\n{RULE}\n")
    return out.removesuffix(f"\n{RULE}\n").split(f"\n{RULE}\n")


def text_of(folder: str, ids: list[int]) -> str:
    return Tokenizer.load(Path(folder)).decode(ids)


def test_beyond_the_context_it_sees_the_last_tokens_as_nanogpt_does(theirs, folder: str, capsys) -> None:
    ids = Tokenizer.load(Path(folder)).encode(TEXT)
    begin = len(ids)
    with torch.no_grad():
        for _ in range(2 * CONTEXT):
            ids.append(int(theirs[0](torch.tensor([ids[-CONTEXT:]])).logits[0, -1].argmax()))
    out = run(capsys, f"--init_from={folder}", f"--start={TEXT}", "--temperature=0", "--num_samples=1",
              f"--max_new_tokens={len(ids) - begin}")  # fmt: skip
    assert samples(out) == [text_of(folder, ids).removesuffix("\ufffd")]  # without half a character at its end


def test_a_text_longer_than_the_context_is_said_to_be_cut(folder: str, capsys) -> None:
    long = "x" * (CONTEXT + 5)
    flags = [f"--init_from={folder}", "--num_samples=1", "--max_new_tokens=4", "--temperature=0"]
    sample.main([*CPU, *flags, f"--start={long}"])
    said = capsys.readouterr()
    assert f"{CONTEXT + 5} tokens" in said.err and f"the last {CONTEXT}" in said.err
    assert said.out.removeprefix("xxxxx") == run(capsys, *flags, f"--start={long[5:]}")


def test_ten_samples_by_default_the_same_with_the_same_seed(folder: str, capsys) -> None:
    flags = [f"--init_from={folder}", "--max_new_tokens=6"]
    first = run(capsys, *flags)
    said = samples(first)
    assert len(said) == 10 and len(set(said)) > 5 and all(text.startswith("\n") for text in said)
    assert run(capsys, *flags, "--seed=1337", "--temperature=0.8", "--top_k=200", "--compile") == first
    assert run(capsys, *flags, "--seed=1") != first
    assert samples(run(capsys, *flags, "--num_samples=3")) == said[:3]
    assert run(capsys, *flags, "--stream") == first


def test_a_stream_comes_in_pieces_and_all_else_in_whole_samples(folder: str, capsys, monkeypatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(sample, "show", pieces.append)
    flags = [f"--init_from={folder}", "--max_new_tokens=20", f"--start={TEXT}", "--num_samples=2"]
    run(capsys, *flags)
    whole, pieces[:] = pieces[:], []
    run(capsys, *flags, "--stream")
    assert len(whole) == 2 and len(pieces) > 6 and "".join(pieces) == "".join(whole)


def test_the_text_comes_from_a_file(folder: str, capsys, tmp_path: Path) -> None:
    (tmp_path / "start.txt").write_text("the cat é\n", encoding="utf-8")
    flags = [f"--init_from={folder}", "--num_samples=1", "--max_new_tokens=3"]
    said = run(capsys, *flags, f"--start=FILE:{tmp_path / 'start.txt'}")
    assert said.startswith("the cat é\n") and said == run(capsys, *flags, "--start=the cat é\n")


def test_several_texts_as_lines_of_json(folder: str, capsys, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hello\n\nthe cat\n", encoding="utf-8")
    flags = [f"--init_from={folder}", "--max_new_tokens=5", "--num_samples=2"]
    shown = run(capsys, *flags, "--prompt", "hello", "the cat")
    assert shown == run(capsys, *flags, "--prompt_file", str(prompts))
    output = tmp_path / "new" / "out.jsonl"
    assert run(capsys, *flags, "--prompt_file", str(prompts), "--output", str(output)) == ""
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(line["prompt"], line["sample"]) for line in lines] == [
        ("hello", 0), ("hello", 1), ("the cat", 0), ("the cat", 1),
    ]  # fmt: skip
    assert [line["prompt"] + line["text"] for line in lines] == samples(shown)
    assert {line["finish"] for line in lines} <= {"stop", "length"}
    alone = run(capsys, f"--init_from={folder}", "--max_new_tokens=5", "--prompt", "the cat")
    assert samples(alone) == [lines[2]["prompt"] + lines[2]["text"]]  # whatever else is asked for


def test_settings_come_from_a_file_and_flags_win(folder: str, capsys, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"init_from: {folder}\nprompt: [hello]\nmax_new_tokens: 9\n", encoding="utf-8")
    (tmp_path / "b.py").write_text(f"init_from = '{folder}'\nstart = 'hello'\nnum_samples = 1\n", encoding="utf-8")
    from_yaml = run(capsys, str(tmp_path / "a.yaml"), "--max_new_tokens=4")
    assert from_yaml == run(capsys, str(tmp_path / "b.py"), "--max_new_tokens=4")


def test_a_stop_string_ends_a_sample_and_is_not_shown(folder: str, capsys) -> None:
    flags = [f"--init_from={folder}", "--prompt", TEXT, "--max_new_tokens=40"]
    whole = samples(run(capsys, *flags))[0]
    stop = whole[len(TEXT) + 6 : len(TEXT) + 8]
    assert samples(run(capsys, *flags, f"--stop={stop}"))[0] == whole[: whole.index(stop, len(TEXT))]


def test_nanogpts_checkpoint_of_characters_is_resumed(capsys, tmp_path: Path) -> None:
    letters = "\n !abcdefgh"
    theirs = write_nanogpt(tmp_path / "out", letters, CONTEXT)
    with torch.no_grad():
        ids = [0]
        for _ in range(CONTEXT + 8):
            ids.append(int(theirs(torch.tensor([ids[-CONTEXT:]])).logits[0, -1].argmax()))
    flags = [f"--out_dir={tmp_path / 'out'}", "--num_samples=1", f"--max_new_tokens={CONTEXT + 8}"]
    assert samples(run(capsys, *flags, "--temperature=0")) == ["".join(letters[id] for id in ids)]
    (said,) = samples(run(capsys, *flags, "--start="))
    assert len(said) == CONTEXT + 8 and set(said) <= set(letters)  # it has no token that would end the text
    with pytest.raises(UserError, match="'é'"):
        run(capsys, *flags, "--start=abé")
    os.remove(tmp_path / "out/meta.pkl")
    with pytest.raises(UserError, match="meta.pkl"):
        run(capsys, *flags)


def test_our_own_checkpoints_are_sampled_too(tokenizer: Tokenizer, capsys) -> None:
    a, b, c = tokenizer.encode("abc")
    tokenizer.save(tokenizer_dir())
    model = scripted(tokenizer, [[tokenizer.bos, a, b, c, a]])
    manager.save(checkpoints_dir("sft") / "d1", 7, model, {}, {"tokenizer_hash": tokenizer.hash})
    flags = ["--init_from=sft:d1", "--num_samples=1", "--max_new_tokens=5", "--temperature=0"]
    assert samples(run(capsys, *flags, "--start=")) == ["abcab"]
    assert samples(run(capsys, *flags, "--start=b")) == ["bcabca"]


# ---------------------------------------------------------------- as regression tests


def test_samples_are_compared_with_saved_ones(folder: str, capsys, tmp_path: Path) -> None:
    """The first difference is shown, whatever it is, and ends with code 1."""
    saved = tmp_path / "saved.jsonl"
    flags = [*CPU, f"--init_from={folder}", "--max_new_tokens=12"]
    texts = ["--prompt", "hello", "the cat", "hello", "--num_samples=2"]
    assert sample.main([*flags, *texts, f"--output={saved}"]) == 0
    for again in ([], texts):  # the texts of the file, or those of the command that wrote it
        capsys.readouterr()
        assert sample.main([*flags, *again, f"--check={saved}"]) == 0
        assert capsys.readouterr().out == "all 6 samples are the same\n"
    whole = saved.read_text(encoding="utf-8").splitlines(keepends=True)

    def difference(lines: list[str], *more: str) -> str:
        saved.write_text("".join(lines), encoding="utf-8")
        assert sample.main([*flags, *more, f"--check={saved}"]) == 1
        return capsys.readouterr().out

    line = json.loads(whole[2])
    expected, line["text"] = line["text"], line["text"][:5] + "?" + line["text"][6:]
    said = difference([*whole[:2], json.dumps(line) + "\n", *whole[3:]])
    assert said.startswith("sample 3 of 'the cat': its text differs from character 5 on\n  expected ")
    assert said.endswith(f"\n  found    {expected!r}\n") and said.count("\n") == 3
    line = {**json.loads(whole[0]), "finish": "stop"}
    assert "sample 1 of 'hello': its finish differs" in difference([json.dumps(line), "\n", *whole[1:]])
    assert difference(whole[:4], *texts) == "sample 5: not in the file\n"
    assert difference([*whole, whole[-1]], *texts) == "sample 7: missing now\n"
    assert "its prompt differs from character 0 on" in difference(whole[2:], *texts)
    assert "its text differs" in difference(whole, "--seed=7")


def test_what_cannot_be_compared_is_told(folder: str, tmp_path: Path) -> None:
    for content, said in (("", "has no samples"), ("{}\n", r":1 is not a sample"), ("[]\n", r":1 is not a sample"),
                          ("{\n", r":1 is not a sample")):  # fmt: skip
        (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            sample.main([*CPU, f"--init_from={folder}", f"--check={tmp_path / 'x.jsonl'}"])


# ---------------------------------------------------------------- as gpt-generate


def test_gpt_generate_has_its_own_defaults(theirs, folder: str, capsys, tmp_path: Path) -> None:
    flags = parse(GenerateFlags, [])
    assert (flags.source, flags.max_new_tokens, flags.num_samples) == ("gpt2", 100, 1)
    assert flags.prompts() == ["Hello, I'm a language model,"]
    assert parse(sample.Flags, []).source == "resume"
    (tmp_path / "poem.txt").write_text("hello\n\nthe cat\n", encoding="utf-8")
    sample.gpt_generate([*CPU, f"--checkpoint={folder}", f"--prompt-file={tmp_path / 'poem.txt'}", "--max-tokens=3"])
    (said,) = samples(capsys.readouterr().out)
    assert said.startswith("hello\n\nthe cat\n")
    write_nanogpt(tmp_path / "out", "ehlo", CONTEXT)
    sample.gpt_generate([*CPU, f"--out-dir={tmp_path / 'out'}", "--prompt=hello", "--max-tokens=3"])
    assert len(samples(capsys.readouterr().out)[0]) == len("hello") + 3


def test_settings_change_between_two_texts(folder: str, capsys, monkeypatch) -> None:
    """Also where the value does not fit; what only looks like a command is continued."""
    typed = ["help", "set max_tokens 3", "set temperature 0", "hello", "set the table", "set temprature 1",
             "set top_k many", "set top_p 2", "set num_samples 2", "hello", "help", "quit"]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed) + "\n"))
    sample.gpt_generate([*CPU, f"--model={folder}", "--interactive"])
    parts = capsys.readouterr().out.split("text: ")[1:]
    said = dict(zip(range(len(typed)), parts, strict=True))
    assert "max_new_tokens  100\n" in said[0] and "set temperature 0.5" in said[0]
    assert said[1].strip() == "set max_tokens 3\nmax_new_tokens is now 3"
    greedy = Model("tiny", serve_model(door.find(folder), "cpu", "float32", 1)).generate("hello", 3, temperature=0)
    assert said[3].removeprefix("hello\n").rstrip("\n") == greedy.rstrip("\n")
    assert "setting" not in said[4] and len(said[4]) > len("set the table\n")
    assert "[there is no setting temprature; did you mean temperature?]" in said[5]
    assert "[top_k is a number, not many; type for example: set top_k 200]" in said[6]
    assert "top_p is 2" in said[7]
    assert said[9].count(RULE) == 2
    assert "temperature     0.0\n" in said[10] and "top_p           1.0\n" in said[10]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "dumb"}


def test_a_conversation_with_piped_input(folder: str) -> None:
    command = [sys.executable, "-m", "scripts.sample", *CPU, f"--init_from={folder}", "--interactive",
               "--max_new_tokens=4"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment(), input="hello\nhello\nthe cat\nquit\nnever\n",
                          capture_output=True, text=True, encoding="utf-8")  # fmt: skip
    assert done.returncode == 0 and "seed 1337" in done.stderr and "Traceback" not in done.stderr
    asked = done.stdout.split("\ntext: ")
    assert [turn.split("\n")[0] for turn in asked[1:]] == ["hello", "hello", "the cat", "quit"]
    answers = [turn.split("\n", 1)[1] for turn in asked[1:4]]
    assert all(answers) and answers[0] != answers[1]  # each has random numbers of its own


def test_on_a_terminal_text_comes_as_it_is_written_and_ctrl_c_stops_it(tmp_path: Path) -> None:
    write_nanogpt(tmp_path / "out", "ehlo", CONTEXT)  # has no token that would end the text
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "scripts.sample", *CPU, f"--out_dir={tmp_path / 'out'}", "--interactive",
               "--max_new_tokens=1000000"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=its, stdout=its, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(its)
    said = b""

    def read_until(count: int) -> None:
        nonlocal said
        while said.count(b"text: ") < count:
            piece = os.read(ours, 4096)
            assert piece, said
            said += piece

    with process:
        read_until(1)
        os.write(ours, b"hello\n")
        begun = len(said)
        while len(said) < begun + 300:  # far from a million tokens
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        read_until(2)
        os.write(ours, b"quit\n")
        assert process.wait(timeout=60) == 0
    os.close(ours)
    assert b"\x1b" not in said.replace(b"\x1b[?2004h", b"").replace(b"\x1b[?2004l", b"")


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--temperature=-1"], "temperature is -1"), (["--top_k=-1"], "top_k is -1"), (["--top_p=2"], "top_p is 2"),
        (["--num_samples=0"], "--num_samples is 0"), (["--max_new_tokens=0"], "--max_new_tokens is 0"),
        (["--init_from=no/such/place"], "there is no model 'no/such/place'"),
        (["--init_from=resume", "--out_dir=nowhere"], "nowhere"),
        (["--start=FILE:nowhere.txt"], "cannot read nowhere.txt"), (["--prompt_file=nowhere.txt"], "nowhere.txt"),
        (["--start=a", "--prompt", "b"], "--start and --prompt"), (["--interactive", "--prompt", "b"], "--interactive"),
        (["--stream", "--output=x.jsonl"], "--stream"), (["--interactive", "--output=x.jsonl"], "--interactive"),
        (["--output=x.jsonl", "--check=y.jsonl"], "--check only compares; leave out --output"),
        (["--check=nowhere.jsonl"], "cannot read nowhere.jsonl"), (["--output=."], "is a folder"),
        (["--stop="], "stop"), (["--temprature=1"], "did you mean --temperature"),
        (["--device=tpu"], "tpu"), (["--dtype=float8"], "float8"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    flags: list[str], complaint: str, folder: str, base: Path, tmp_path: Path, monkeypatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        sample.main([*CPU, f"--init_from={folder}", *flags])
    assert not base.exists() and list(tmp_path.iterdir()) == []


def test_files_without_a_text_are_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"empty\.txt has no line"):
        sample.main([*CPU, f"--init_from={folder}", f"--prompt_file={tmp_path / 'empty.txt'}"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8: byte 3 is 0xe9"):
        sample.main([*CPU, f"--init_from={folder}", f"--start=FILE:{tmp_path / 'latin.txt'}"])
