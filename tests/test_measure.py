"""scripts.measure: perplexity with windows and intervals, speed, and prompting studies, on tiny models."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanochat
from extras.measure import losses, study
from nanochat import chat
from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.eval.bpb import TextLoss, token_losses, total
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import measure
from tests.gpt2s import write_gpt2
from tests.scripted import calculating

CONTEXT = 32
QUESTIONS = [{"q": f"{word} is", "a": answer} for word, answer in (("the sky", "blue"), ("a crow", "black"),
             ("the sea", "blue"), ("coal", "black"), ("a berry", "blue"))]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_gpt2(folder, CONTEXT)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> nanochat.Model:
    return nanochat.open(str(folder), device="cpu", dtype="float32", slots=4)


def write_study(folder: Path, **keys: object) -> Path:
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    path = folder / "colours.json"
    content = {"data": "q.jsonl", "answer": "a", "templates": {"plain": "{q}"}, **keys}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# ---------------------------------------------------------------- perplexity


@settings(max_examples=20)
@given(st.integers(2, 90), st.integers(1, CONTEXT - 1))
def test_windows_of_any_stride_score_every_token_once(model: nanochat.Model, length: int, stride: int):
    """Each token's loss is that of the window that first holds it, here computed by the model's own logits."""
    ids = [(7 * i + i * i) % model.config.vocab_size for i in range(length)]
    found = token_losses(model.engine, model.tokenizer, ids, stride)
    nats, seen, start = 0.0, 1, 0
    while seen < length:
        window = ids[start : start + CONTEXT]
        log_probs = model.logits(window).double().log_softmax(dim=-1)
        for at in range(seen - start, len(window)):
            nats -= log_probs[at - 1, window[at]].item()
        seen, start = start + len(window), start + stride
    assert total(found).tokens == length - 1
    assert total(found).bytes == sum(model.tokenizer.token_bytes[id] for id in ids[1:])
    assert total(found).nats == pytest.approx(nats, rel=1e-5)


def test_a_stride_that_leaves_gaps_is_refused(model: nanochat.Model):
    with pytest.raises(UserError, match="--stride is 32; expected 1 to 31"):
        token_losses(model.engine, model.tokenizer, [1] * 50, CONTEXT)


def test_intervals_are_those_of_the_ratio():
    """Beside the delta method for a ratio of sums, which holds for many pieces."""
    rng = np.random.default_rng(3)
    size = rng.integers(50, 400, 300)
    nats = size * rng.normal(1.0, 0.2, 300)
    pieces = [TextLoss(n, int(s) // 4, int(s)) for n, s in zip(nats, size, strict=True)]
    (low, high), (under, over) = losses.intervals(pieces)
    rate = nats.sum() / size.sum()
    error = math.sqrt(300 / 299 * ((nats - rate * size) ** 2).sum()) / size.sum() / math.log(2)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)
    assert low < total(pieces).bits_per_byte < high and under < total(pieces).perplexity < over
    assert losses.intervals(pieces * 20)[0][1] - losses.intervals(pieces * 20)[0][0] < (high - low) / 3
    assert all(map(math.isnan, losses.intervals(pieces[:1])[0]))


def test_perplexities_of_models_and_texts(folder: Path, model: nanochat.Model, tmp_path: Path, capsys):
    text, lines, out = tmp_path / "one.txt", tmp_path / "two.jsonl", tmp_path / "out"
    text.write_text("the cat sat on the mat, and then it slept. " * 4, encoding="utf-8")
    bodies = [json.dumps({"body": f"hello number {n}, how are you?"}) for n in range(6)]
    lines.write_text("\n".join(bodies), encoding="utf-8")
    measure.main(["perplexity", "-i", str(folder), "--text", str(lines), "--text", str(text), "--column=body",
                  "--out", str(out), "--device=cpu", "--dtype=float32"])  # fmt: skip
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(row["text"], row["pieces"] > 1) for row in found] == [("two.jsonl", True), ("one.txt", True)]
    perplexity = model.perplexity(text.read_text(encoding="utf-8"))
    assert found[1]["perplexity"]["value"] == pytest.approx(perplexity, rel=1e-4)
    assert found[0]["bits_per_byte"]["low"] < found[0]["bits_per_byte"]["value"] < found[0]["bits_per_byte"]["high"]
    assert "one.txt" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") == 2 and (out / "text0.svg").exists() and "two.jsonl" in page


# ---------------------------------------------------------------- speed


def test_speed_and_its_price(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    measure.main(["speed", "-i", str(folder), "--batch_sizes", "1", "2", "--prompt_tokens=4", "--tokens=3",
                  "--repeats=1", "--train_rows=2", "--train_steps=1", "--no-compile", "--price_per_hour=3.6",
                  "--out", str(out), "--device=cpu"])  # fmt: skip
    row = json.loads((out / "results.json").read_text(encoding="utf-8"))[0]
    assert [each["batch"] for each in row["generation"]] == [1, 2]
    for each in (*row["generation"], row["training"]):
        assert each["dollars_per_million"] == pytest.approx(1000 / each["tok_per_second"])  # $ 0.001 a second
        assert each["memory"] is None or 1 << 24 < each["memory"] < 1 << 36
    assert "training" in capsys.readouterr().out


# ---------------------------------------------------------------- prompts


def test_a_choice_is_the_likeliest_after_the_prompt(model: nanochat.Model, tmp_path: Path):
    path = write_study(tmp_path, choices=["blue", "black"], shots=[0, 1], seeds=[1, 2])
    setup, questions, examples = study.load(path)
    none, one = study.ask(setup, questions, examples, "tiny", model.engine, model.tokenizer)

    def best(prompt: list[int]) -> str:
        def likely(choice: str) -> float:
            ids = prompt + model.tokenizer.encode(f" {choice}")
            log_probs = model.logits(ids).log_softmax(dim=-1)
            return sum(log_probs[at - 1, ids[at]].item() for at in range(len(prompt), len(ids)))
        return max(("blue", "black"), key=likely)

    expected = [best(chat.text_prompt(model.tokenizer, row["q"])) for row in QUESTIONS]
    assert none.answers == expected and (none.n, none.shots, one.shots) == (5, 0, 1)
    assert none.correct == sum(given == row["a"] for given, row in zip(expected, QUESTIONS, strict=True))
    assert none.interval[0] <= none.accuracy <= none.interval[1]


def test_examples_stand_in_front_and_never_hold_the_question(model: nanochat.Model, tmp_path: Path):
    setup, questions, examples = study.load(write_study(tmp_path, shots=[4], between=" / "))
    texts = set()
    for seed in range(8):
        ids = study._prompt(setup, "{q}", questions[0], examples, 4, f"{seed} 0", model.tokenizer)
        text = model.tokenizer.decode(ids)
        assert text.endswith(" / the sky is") and text.count("the sky") == 1
        others = {f"{row['q']} {row['a']}" for row in QUESTIONS[1:]}
        assert set(text.removesuffix(" / the sky is").split(" / ")) == {*others} or len(ids) > 60
        texts.add(text)
    assert len(texts) > 1


def test_chat_models_are_asked_in_turns(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tokenizer_dir())
    about = {"tokenizer_hash": tokenizer.hash}
    manager.save(checkpoints_dir("sft") / "d1", 7, calculating(tokenizer, " Rome.\nno"), {}, about)
    path = write_study(tmp_path, chat=True, max_tokens=40)
    (tmp_path / "q.jsonl").write_text(json.dumps({"q": "What is 6 * 7?", "a": "Rome"}), encoding="utf-8")
    measure.main(["prompts", "-i", "sft:d1", "--study", str(path), "--out", str(tmp_path / "out"), "--device=cpu"])
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert found[0]["answers"] == ["Rome."] and found[0]["correct"] == 1


@pytest.mark.parametrize(("keys", "message"), [
    ({"templates": {}}, "templates is empty"),
    ({"templates": {"a": "{nothing}"}}, "has no field 'nothing'"),
    ({"template": {"a": "{q}"}}, "did you mean templates?"),
    ({"shots": [-1]}, "shots has -1; expected 0 or more"),
    ({"choices": ["blue"]}, "expected two or more"),
    ({"choices": ["blue", "red"]}, "a question's answer is 'black'; expected one of blue, red"),
    ({"limit": 0}, "limit is 0; expected 1 or more"),
    ({"data": "none.jsonl"}, "cannot read"),
    ({"answer": "b"}, "has no field 'b'"),
])  # fmt: skip
def test_mistakes_in_a_study_are_named(tmp_path: Path, keys: dict, message: str):
    with pytest.raises(UserError, match=message):
        study.load(write_study(tmp_path, **keys))


def test_prompts_that_the_context_cannot_hold(model: nanochat.Model, tmp_path: Path):
    setup, questions, examples = study.load(write_study(tmp_path, templates={"long": "{q} " * 9}, shots=[4]))
    with pytest.raises(UserError, match="with 4 examples a prompt has .* the context of 32 has room for 16"):
        study.ask(setup, questions, examples, "tiny", model.engine, model.tokenizer)
    with pytest.raises(UserError, match="shots is 4, but there are 2 examples"):
        study.ask(setup, questions, examples[1:3], "tiny", model.engine, model.tokenizer)


@pytest.mark.parametrize(("argv", "message"), [
    ([], "name what to measure"),
    (["perplexity"], "perplexity needs texts"),
    (["prompts"], "prompts needs a study"),
    (["speed", "--tokens=1"], "--tokens is 1; expected 2 or more"),
    (["speed", "--batch_sizes", "0"], "--batch_sizes needs"),
    (["perplexity", "--text", "x.txt", "--dtype=int8"], "measured without rounding"),
    (["speed", "--price_per_hour=-1"], "--price_per_hour is -1.0; expected 0 or more"),
])  # fmt: skip
def test_mistakes_on_the_command_line_are_named(argv: list[str], message: str):
    with pytest.raises(UserError, match=message):
        measure.main(argv)
