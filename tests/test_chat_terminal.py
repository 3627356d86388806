"""The chat in a terminal: the command as a person starts it, in a pseudo-terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat import chat, terminal
from nanochat.checkpoint import manager
from nanochat.paths import checkpoints_dir, tokenizer_dir
from tasks.customjson import CustomJSON
from tests.scripted import scripted

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 180.0  # seconds, for a machine that does something else as well
COLUMNS = 40
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A process in a terminal of COLUMNS columns."""

    def __init__(self, *words: str, **environment: str):
        self.end, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        settings = {**os.environ, "TERM": "xterm", "INPUTRC": os.devnull, "PYTHONPATH": str(ROOT), **environment}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            if name not in environment:
                settings.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanochat", "chat", "--device_type=cpu", "--dtype=float32", *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env=settings, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self.shown = self.all = ""

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def until(self, text: str) -> str:
        """What is shown up to a text, from where the last call stopped; without codes and returns."""
        deadline = time.monotonic() + PATIENCE
        while text not in (plain := CODES.sub("", self.shown).replace("\r", "")):
            ready, _, _ = select.select([self.end], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} never came: {self.shown!r}"
            try:
                piece = os.read(self.end, 65536).decode("utf-8", "replace")
            except OSError:  # the process has ended
                piece = ""
            assert piece, f"{text!r} never came: {self.shown!r}"
            self.shown += piece
            self.all += piece
        found, _, rest = plain.partition(text)
        self.shown = rest
        return found + text


@contextlib.contextmanager
def opened(*words: str, **environment: str) -> Iterator[Terminal]:
    seen = Terminal(*words, **environment)
    try:
        yield seen
    finally:
        seen.process.kill()
        seen.process.wait()
        os.close(seen.end)


@pytest.fixture
def words(tokenizer) -> str:
    """A model that says this word again and again."""
    word = "wxyz"
    letters = [tokenizer.encode(letter)[0] for letter in f"{word} "]
    model = scripted(tokenizer, [[tokenizer.special(chat.ASSISTANT_START), *letters, letters[0]]], 512)
    tokenizer.save(tokenizer_dir())
    for source in ("sft", "rl"):
        manager.save(checkpoints_dir(source) / "d1", 7, model, {}, {"tokenizer_hash": tokenizer.hash})
    return word


def test_a_conversation_in_a_terminal(words: str, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    with opened("--max_tokens=99") as seen:
        assert seen.until("…").endswith("loading d1 · SFT …")  # at once, before anything heavy is imported
        seen.type("Who sle")  # while the model is loaded
        loaded = seen.until("you: Who sle")
        assert loaded.count("Who sle") == 1, "typed ahead, it stands at the prompt and nowhere else"
        seen.type("eps?\n")
        answer = seen.until("[cut off")
        lines = answer[answer.index("model: ") :].splitlines()[:-1]
        assert all(COLUMNS - 5 < len(line) <= COLUMNS for line in lines[:-1]) and len(lines) >= 3
        assert " ".join(lines).split() == ["model:", *[words] * 19, words[:4]], "broken between words only"
        seen.until("you: ")

        seen.type("/agian\n")
        assert "[there is no command /agian; did you mean /again?]" in " ".join(seen.until("you: ").split())
        seen.type("/again\n")
        assert f"model: {words} {words}" in seen.until("you: ")
        seen.type(f"/save {file}\n")
        assert "wrote" in seen.until("you: ")
        seen.type("/save " + str(file) + "\n")
        assert "exists; name another file" in " ".join(seen.until("you: ").split())
        seen.type("/model rl:d1\n")
        assert "rl d1, step 7" in seen.until("you: ")
        seen.type("/model\n")
        assert "sft:d1" in seen.until("you: ")
        seen.type("/system Be kind.\n")
        assert "new conversation with this system message" in " ".join(seen.until("you: ").split())
        seen.type("/again\n")
        assert "no question to answer again" in " ".join(seen.until("you: ").split())
        seen.type("/help\n")
        assert {f"/{name}" for name in ("help", "clear", "again", "system", "save", "model", "quit")} <= {
            *seen.until("you: ").split()
        }
        seen.type("/quit\n")
        assert seen.process.wait(timeout=PATIENCE) == 0
    assert CustomJSON(file).contents()
    (saved,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"]  # /again replaced the answer
    assert saved["messages"][0]["content"] == "Who sleeps?"


def test_a_question_is_answered_without_colours_where_none_are_wanted(words: str, base: Path) -> None:
    with opened("Who", "sleeps?", "--max_tokens=9", NO_COLOR="1") as seen:
        seen.until(f"{words} {words}")
        assert "\x1b" not in seen.all
        assert seen.process.wait(timeout=PATIENCE) == 0


@pytest.mark.parametrize(
    "text, width, expected",
    [
        ("one two three", 9, "one two\nthree"),
        ("one  two", 20, "one  two"),
        ("a\n  indented line", 12, "a\n  indented\nline"),
        ("abcdefghijklmno", 6, "abcdef\nghijkl\nmno"),
        ("日本語の文", 6, "日本語\nの文"),
    ],
)
def test_lines_break_between_words(text, width, expected, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    for pieces in ([text], list(text)):  # however it comes
        shown = terminal.Wrapped()
        for piece in pieces:
            shown.add(piece)
        shown.end()
        assert capsys.readouterr().out == expected
