"""The terminal chat: a real checkpoint on disk, the script as a user starts it."""

import io
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat import chat
from nanochat.checkpoint import manager
from nanochat.engine.engine import Engine
from nanochat.engine.request import ContextLengthError
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.paths import checkpoints_dir, tokenizer_dir
from scripts import chat_cli
from scripts.chat_cli import Flags, Talk
from tests.scripted import calculating, scripted

ROOT = Path(__file__).resolve().parent.parent


def rambling(tokenizer, context: int) -> GPT:
    """Says xyxyxy... for ever."""
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    return scripted(tokenizer, [[tokenizer.special(chat.ASSISTANT_START), x, y, x]], context)


def save(tokenizer, model: GPT, step: int = 7) -> None:
    tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("sft") / "d1", step, model, {}, {"tokenizer_hash": tokenizer.hash})


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))


CPU = ["--device_type", "cpu", "--dtype", "float32"]


def test_one_answer_is_all_that_goes_to_stdout(tokenizer, capsys) -> None:
    save(tokenizer, calculating(tokenizer, "é!"), step=3)
    save(tokenizer, calculating(tokenizer, "é!"))
    chat_cli.main([*CPU, "-p", "What is 6*7?", "--seed", "11"])
    said = capsys.readouterr()
    assert said.out == "é!\n"
    assert "sft d1, step 7" in said.err and "seed 11" in said.err
    chat_cli.main([*CPU, "-p", "", "--step", "3"])
    assert "step 3" in capsys.readouterr().err


def test_a_conversation_with_piped_input(tokenizer, capsys, monkeypatch) -> None:
    save(tokenizer, calculating(tokenizer, "é!"))
    type_in(monkeypatch, "What is 6*7?", "", "  CLEAR ", "again", "quit", "never")
    chat_cli.main([*CPU, "--seed", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert "sft d1, step 7" in lines[0] and "seed 5" in lines[0]
    spoken = [line for line in lines[2:] if line]
    assert spoken == [
        "you: What is 6*7?", "model: [6*7][= 42]é!", "you: ", "you:   CLEAR ", "Started a new conversation.",
        "you: again", "model: [6*7][= 42]é!", "you: quit",
    ]  # fmt: skip


def test_the_end_of_the_input_ends_the_chat_and_the_seed_is_random(tokenizer, capsys, monkeypatch) -> None:
    save(tokenizer, calculating(tokenizer, "é!"))
    seeds = set()
    for _ in range(3):
        type_in(monkeypatch, "hello")
        chat_cli.main(CPU)
        out = capsys.readouterr().out
        assert out.endswith("é!\n\nyou: \n")
        seeds.add(out.splitlines()[0].split("seed ")[1])
    assert len(seeds) == 3


def test_same_seed_same_answer_and_another_one_to_the_next_question(tokenizer) -> None:
    torch.manual_seed(0)
    model = scripted(tokenizer, [], context=128)
    model.lm_head.weight.data.normal_(std=0.1)
    model.lm_head.weight.data[tokenizer.bos :] = -10.0  # text only
    flags = Flags(temperature=1.0, top_k=0, max_tokens=12)

    def answers(seed: int) -> list[str]:
        talk = Talk(Engine(model, slots=1), tokenizer, flags, seed)
        texts = []
        for _ in range(2):
            talk.clear()
            texts.append(talk.answer(talk.request("?")[0], lambda chunk: None).text)
        return texts

    first = answers(1)
    assert first == answers(1)
    assert first[0] != first[1]
    assert first != answers(2)


def test_the_model_sees_the_whole_conversation(tokenizer) -> None:
    talk = Talk(Engine(calculating(tokenizer, "é!", 256), slots=1), tokenizer, Flags(system="Be kind."), seed=0)
    talk.answer(talk.request("What is 6*7?")[0], lambda chunk: None)
    request, dropped = talk.request("And now?")
    assert dropped == 0
    assert request.prompt == chat.prompt(tokenizer, [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is 6*7?"},
        {"role": "assistant", "content": [
            {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}, {"type": "text", "text": "é!"},
        ]},
        {"role": "user", "content": "And now?"},
    ])  # fmt: skip
    talk.clear()
    after = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert talk.request("Hello")[0].prompt == chat.prompt(tokenizer, after)


def test_the_oldest_turns_go_when_the_context_is_full(tokenizer) -> None:
    talk = Talk(Engine(calculating(tokenizer, "é!", 80), slots=1), tokenizer, Flags(system="Be kind."), seed=0)
    forgotten = []
    for turn in range(6):
        request, dropped = talk.request(f"turn {turn}")
        assert len(request.prompt) <= 40  # half of it is kept for the answer
        assert talk.messages[0]["role"] == "system" and talk.messages[-1]["content"] == f"turn {turn}"
        forgotten.append(dropped)
        assert talk.answer(request, lambda chunk: None).finish == "stop"
    assert forgotten[0] == 0 and sum(forgotten) >= 3
    before = talk.messages
    with pytest.raises(ContextLengthError, match="maximum context length is 80 tokens"):
        talk.request("too long " * 50)
    assert talk.messages == before


def test_a_full_context_is_said_in_one_sentence_and_the_chat_goes_on(tokenizer, capsys, monkeypatch) -> None:
    save(tokenizer, rambling(tokenizer, 64))
    type_in(monkeypatch, "one", "too long " * 50, "two", "three", "exit")
    chat_cli.main([*CPU, "--max_tokens", "30"])
    said = capsys.readouterr().out
    assert "[cut off after 30 tokens]" in said
    assert "[this model's maximum context length is 64 tokens, but the prompt has" in said
    assert "forgotten" not in said.split("two")[0]
    assert "the oldest 1 turns are dropped" in said.split("three")[1]
    assert "xyxyxy" in said.split("three")[1]


def test_a_terminal_gets_no_control_characters_and_dimmed_tool_calls(tokenizer, capsys, monkeypatch) -> None:
    hostile = [tokenizer.special(chat.ASSISTANT_START), *tokenizer.encode("\x1b[2J"),
               tokenizer.special(chat.ASSISTANT_END)]  # fmt: skip
    save(tokenizer, scripted(tokenizer, [hostile]))
    chat_cli.main([*CPU, "-p", "?"])
    assert capsys.readouterr().out == "\x1b[2J\n"  # a file gets what was said
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    chat_cli.main([*CPU, "-p", "?"])
    assert capsys.readouterr().out == "�[2J\n"
    save(tokenizer, calculating(tokenizer, "é!"))
    type_in(monkeypatch, "?")
    chat_cli.main(CPU)
    assert "\x1b[2m[6*7]\x1b[0m\x1b[2m[= 42]\x1b[0mé!" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, complaint",
    [
        ([], "no sft checkpoint in .* train one with"),
        (["--max_tokens", "0"], "--max_tokens is 0"),
        (["-i", "bse"], "bse"),
        (["--temprature", "1"], "did you mean --temperature"),
    ],
)
def test_mistakes_are_named(argv: list[str], complaint: str, base: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        chat_cli.main([*CPU, *argv])
    assert not base.exists()


def test_ctrl_c_stops_an_answer_and_at_the_prompt_leaves(tokenizer, base: Path) -> None:
    save(tokenizer, rambling(tokenizer, 30_000))
    command = [sys.executable, "-u", "-m", "scripts.chat_cli", *CPU, "--max_tokens", "29000"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A suite that runs in a shell's background ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr

    def read_until(text: bytes) -> None:
        said = b""
        while text not in said:
            piece = os.read(process.stdout.fileno(), 4096)  # type: ignore[union-attr]
            assert piece, said + process.stderr.read()  # type: ignore[union-attr]
            said += piece

    with process:
        for question in (b"one\n", b"two\n"):
            read_until(b"you: ")
            process.stdin.write(question)
            process.stdin.flush()
            read_until(b"xyxyxy")
            process.send_signal(signal.SIGINT)
        read_until(b"you: ")
        left: list = []
        while not left:  # a signal between the prompt and the read that follows is noticed with the next one
            process.send_signal(signal.SIGINT)
            left, _, _ = select.select([process.stdout], [], [], 1.0)  # the line that ends the prompt
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
