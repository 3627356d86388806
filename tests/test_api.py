"""nanochat as a library: the examples of its documentation, and what they promise."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

import nanochat
from nanochat import api, chat
from nanochat.checkpoint import manager
from nanochat.engine.request import ContextLengthError
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import sample
from tests.gpt2s import write_gpt2, write_nanogpt
from tests.scripted import calculating
from tests.served import get, post

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 32
TEXT = "hello the cat"
LETTERS = "\n !abcdefgh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_gpt2(folder, CONTEXT)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path):
    """transformers' model."""
    import transformers

    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def model(folder: Path) -> nanochat.Model:
    return nanochat.open(str(folder), device="cpu", dtype="float32", slots=4)


def teach(tokenizer: Tokenizer) -> None:
    """A chat model, sft:d1, that answers everything by 6*7 and "é! Rome"."""
    tokenizer.save(tokenizer_dir())
    about = {"tokenizer_hash": tokenizer.hash}
    manager.save(checkpoints_dir("sft") / "d1", 7, calculating(tokenizer, "é! Rome"), {}, about)


# ---------------------------------------------------------------- import


def test_importing_nanochat_does_no_work() -> None:
    """Neither does looking at what is there; torch comes with the first use."""
    program = """
        import sys, nanochat
        assert {"Model", "open", "prepare_data", "serve"} <= set(dir(nanochat)) and "torch" not in sys.modules
        assert [name for name in sys.modules if name.startswith("nanochat.")] == []
        try:
            nanochat.lode
        except AttributeError as error:
            assert "lode" in str(error)
        else:
            raise AssertionError
        nanochat.open
        assert "torch" in sys.modules and "fastapi" not in sys.modules and "transformers" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")



def test_the_names_of_other_libraries_are_known(model: nanochat.Model) -> None:
    """Several samples of a prompt are those that the same prompt several times gives."""
    several = model.generate(TEXT, max_new_tokens=5, seed=1, num_samples=3)
    assert several == model.generate([TEXT] * 3, max_tokens=5, seed=1) and len({*several}) > 1
    assert model.generate([TEXT, "a"], max_new_tokens=5, seed=1, num_samples=2) == [
        *several[:2], *model.generate(["a", "a"], max_tokens=5, seed=1)
    ]  # fmt: skip
    assert model.generate(TEXT, max_new_tokens=5, seed=1, num_samples=1) == several[:1]
    assert "".join(model.stream(TEXT, max_new_tokens=5, seed=1)) == several[0]
    for wrong in ({"num_samples": 0}, {"max_new_tokens": -1}):
        with pytest.raises(UserError, match=r"(num_samples|max_tokens) is (0|-1)"):
            model.generate(TEXT, **wrong)


def test_the_documented_example_runs(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    teach(tokenizer)
    (tmp_path / "story.txt").write_text("Once upon a time there was a cat.\n" * 9, encoding="utf-8")
    lines = (api.__doc__ or "").splitlines()
    program = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line.strip()))
    for written, here in (('"gpt2"', repr(str(folder))), ("port=8000", "port=0")):
        assert written in program
        program = program.replace(written, here)
    process = subprocess.Popen(
        [sys.executable, "-X", "utf8", "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout and process.stderr
    with process:
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said + process.stderr.read()
            said += line
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, process.stderr.read()
    assert "perplexity " in said and "é! Rome" in said and "http://127.0.0.1:" in said
    assert f"\n{int(0.9 * 34 * 9)} tokens to train on\n" in said
    assert (tmp_path / "data/story/train.bin").exists()


# ---------------------------------------------------------------- texts


def test_generate_is_what_the_script_samples(model: nanochat.Model, folder: Path, capsys) -> None:
    flags = ["--device=cpu", "--dtype=float32", f"--init_from={folder}", "--max_new_tokens=40", "--num_samples=3"]
    settings = {"max_tokens": 40, "temperature": 0.9, "top_k": 50, "seed": 11}
    sample.main([*flags, f"--start={TEXT}", "--temperature=0.9", "--top_k=50", "--seed=11"])
    ours = model.generate([TEXT] * 3, **settings)
    assert capsys.readouterr().out == "".join(f"{TEXT}{text}\n{sample.RULE}\n" for text in ours)
    assert len(set(ours)) == 3
    assert model.generate(TEXT, **settings) == ours[0]
    assert "".join(model.stream(TEXT, **settings)) == ours[0]
    assert model.generate(["hello", TEXT, TEXT], **settings)[1:] == ours[:2]  # whoever runs beside it


def test_greedy_logits_and_perplexity_are_those_of_transformers(model: nanochat.Model, theirs) -> None:
    ids = model.tokenizer.encode(TEXT)
    with torch.no_grad():
        out = theirs(torch.tensor([ids]), labels=torch.tensor([ids]))
        grown = theirs.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False, pad_token_id=0)[0].tolist()
    logits = model.logits(TEXT)
    assert logits.shape == (len(ids), model.tokenizer.vocab_size) and logits.dtype == torch.float32
    assert (logits - out.logits[0]).abs().max() < 2e-5
    assert torch.equal(model.logits(ids), logits)
    assert model.perplexity(TEXT) == pytest.approx(math.exp(out.loss), rel=1e-5)
    assert model.generate(TEXT, max_tokens=10, temperature=0) == model.tokenizer.decode(grown[len(ids) :])


def test_every_token_of_a_long_text_counts_once(model: nanochat.Model, theirs) -> None:
    """With at least half a context before it: the windows overlap."""
    for length in (CONTEXT, CONTEXT + 1, 2 * CONTEXT + 5):
        ids = [97 + n % 7 for n in range(length)]  # one token a letter
        text = "".join(map(chr, ids))
        ids = model.tokenizer.encode(text)
        assert len(ids) == length
        total = 0.0
        for i in range(1, length):
            start = 0 if i < CONTEXT else (i - CONTEXT) // (CONTEXT // 2) * (CONTEXT // 2) + CONTEXT // 2
            with torch.no_grad():
                total -= theirs(torch.tensor([ids[start:i]])).logits[0, -1].log_softmax(-1)[ids[i]].item()
        assert model.perplexity(text) == pytest.approx(math.exp(total / (length - 1)), rel=1e-4)


def test_a_stream_comes_in_whole_characters_and_can_be_left(model: nanochat.Model) -> None:
    pieces = list(model.stream(TEXT, max_tokens=30, seed=3))
    assert len(pieces) > 3 and all(pieces)
    for _ in model.stream(TEXT, max_tokens=1000):
        break
    assert not model.engine.busy
    assert model.generate(TEXT, max_tokens=30, seed=3) == "".join(pieces)


def test_stop_strings_end_a_text(model: nanochat.Model) -> None:
    whole = model.generate(TEXT, max_tokens=40, seed=5)
    stop = whole[5:7]
    assert model.generate(TEXT, max_tokens=40, seed=5, stop=stop) == whole[: whole.index(stop)]
    assert model.generate(TEXT, max_tokens=40, seed=5, stop=["never", stop]) == whole[: whole.index(stop)]
    assert model.generate([], max_tokens=4) == []
    finishes = [part.finish for part in model.parts([TEXT, TEXT], 40, seed=5, stop=[stop]) if part.finish]
    assert len(finishes) == 2 and finishes[0] == "stop"


def test_a_character_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nanogpt(tmp_path / "out", LETTERS, CONTEXT)
    monkeypatch.chdir(tmp_path)
    model = nanochat.open("resume", device="cpu", dtype="float32", slots=2)
    assert model.config.sequence_len == CONTEXT and model.tokenizer.pattern is None
    assert len(model.generate("abc", max_tokens=2 * CONTEXT)) == 2 * CONTEXT
    assert len(model.generate("", max_tokens=5)) == 5 and model.perplexity("abc") > 1
    assert torch.equal(model.logits("abc"), nanochat.open("out/ckpt.pt", "cpu", "float32").logits([3, 4, 5]))
    with pytest.raises(UserError, match="'é'"):
        model.generate(["abc", "é"])
    with pytest.raises(UserError, match="has not learned to chat"):
        model.chat("abc")


# ---------------------------------------------------------------- chats


def test_a_chat_model_answers(tokenizer: Tokenizer) -> None:
    teach(tokenizer)
    model = nanochat.open("sft:d1", device="cpu", dtype="float32", slots=1)
    assert "sft:d1" in repr(model) and "step 7" in repr(model)
    assert model.chat("What is 6*7?", seed=1) == "é! Rome"  # the calculation is not shown
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
    assert model.chat(turns, temperature=0) == "é! Rome"
    assert model.chat("Hello!", temperature=0, stop=" ") == "é!"
    assert model.logits("é").shape[0] == 1 + len(tokenizer.encode("é"))  # behind what opens a document
    assert math.isfinite(model.perplexity("a"))
    with pytest.raises(UserError, match="not a conversation: .*the last message is the assistant's"):
        model.chat([*turns, {"role": "assistant", "content": "Hi."}])
    with pytest.raises(ContextLengthError):
        model.chat("long " * 100)
    assert chat.stop_ids(tokenizer)


# ---------------------------------------------------------------- mistakes


def test_mistakes_are_named(model: nanochat.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, device, dtype, said in (
        ("no/such/place", "cpu", "auto", "there is no model"), ("resume", "cpu", "auto", "out is missing"),
        ("resume", "tpu", "auto", "tpu"), ("resume", "cpu", "float8", "float8"), ("sft:d9", "cpu", "auto", "no sft"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            nanochat.open(name, device=device, dtype=dtype)
    for wrong, complaint in (
        (lambda: model.generate("a", temperature=-1), "temperature is -1"),
        (lambda: model.generate("a", stop=["b", ""]), "empty string"),
        (lambda: model.perplexity("a"), "too short"),
        (lambda: model.logits("x" * (CONTEXT + 1)), "context"),
        (lambda: model.logits([1, 5000]), "outside the model's vocabulary"),
    ):
        with pytest.raises(nanochat.UserError, match=complaint):
            wrong()
    assert nanochat.UserError is UserError and "UserError" in dir(nanochat)


# ---------------------------------------------------------------- serving


def test_serve_answers_until_it_is_stopped(model: nanochat.Model, capsys) -> None:
    ready = threading.Event()
    servers = []

    def is_ready(server) -> None:
        servers.append(server)
        ready.set()

    settings = {"port": 0, "api_key": "s3cret", "ready": is_ready}
    thread = threading.Thread(target=nanochat.serve, args=(model,), kwargs=settings)
    thread.start()
    try:
        assert ready.wait(60)
        address = next(word for word in capsys.readouterr().out.split() if word.startswith("http://"))
        body = {"prompt": TEXT, "max_tokens": 9, "temperature": 0}
        assert post(f"{address}/generate", json=body).status_code == 401
        key = {"Authorization": "Bearer s3cret"}
        said = post(f"{address}/generate", json=body, headers=key).json()
        assert get(address).json()["model"] == Path(model.name).name  # not where it lies
    finally:
        servers[0].stop()
        thread.join(60)
    assert not thread.is_alive()
    assert said == {"text": model.generate(TEXT, max_tokens=9, temperature=0).strip()}
