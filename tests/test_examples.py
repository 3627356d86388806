"""The programs in examples/ run, on tiny models, and print what they promise."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import served
import torch

from nanochat import chat
from nanochat.checkpoint import manager
from nanochat.gpt import GPT
from nanochat.paths import checkpoints_dir
from nanochat.tokenizer import Tokenizer
from scripts import chat_sft

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def models(tokenizer: Tokenizer, base: Path) -> GPT:
    """A random model in the base folder, as base:d2 and sft:d2."""
    model = served.random_model(tokenizer, context=512)
    tokenizer.save(base / "tokenizer")
    for source in ("base", "sft"):
        manager.save(checkpoints_dir(source) / "d2", 1, model, None, {"tokenizer_hash": tokenizer.hash})
    return model


def test_training_on_a_text_ends_with_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("The cat sat on the mat.\n" * 200, encoding="utf-8")
    example("train_on_your_text").main(["notes.txt", "--steps", "2"])
    out = capsys.readouterr().out
    assert re.search(r"[\d,]+ tokens to train on", out)
    assert Path("out-example/ckpt.pt").is_file()
    assert len(out.splitlines()[-1]) > 0


def test_a_conversation_goes_turn_by_turn(models: GPT, capsys: pytest.CaptureFixture[str]) -> None:
    example("chat").main(["sft", "Hi", "And?"])
    assert re.findall(r"^you: (.*)$", capsys.readouterr().out, re.M) == ["Hi", "And?"]


def test_streaming_shows_each_token_with_its_probability(
    tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = served.Engine(served.random_model(tokenizer), slots=1)
    greedy = served.Settings(temperature=0)
    with served.served([served.loaded(engine, tokenizer)], settings=greedy) as live:
        example("stream").main(["Hi", "--base_url", f"{live.url}/v1"])
    rows = re.findall(r"([\d.]+) %$", capsys.readouterr().out, re.M)
    assert rows and all(0 <= float(row) <= 100 for row in rows)


def test_looking_inside_shows_probabilities_and_layers(
    models: GPT, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    example("look_inside").main(["base", "The cat sat"])
    rows = capsys.readouterr().out.splitlines()[1:]
    ids = chat.text_prompt(tokenizer, "The cat sat")
    assert len(rows) == len(ids) - 1
    with torch.no_grad():
        expected = models(torch.tensor([ids]))[0].float().softmax(-1)[0, ids[1]]
    shown = re.search(r"([\d.]+) %", rows[0])
    assert shown and float(shown[1]) == pytest.approx(100 * float(expected), abs=0.06)
    assert re.search(r" {3}( +[\d.]+){2}$", rows[0])


def test_probes_read_off_what_the_last_token_says(
    models: GPT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{kind}\tThe {word} is {kind}" for word in ("cat", "oven", "cafe", "bill", "letter", "winter")
            for kind in ("warm", "grey")]  # fmt: skip
    (tmp_path / "labelled.tsv").write_text("\n".join(rows), encoding="utf-8")
    example("probe").main(["base", str(tmp_path / "labelled.tsv")])
    head, *layers = capsys.readouterr().out.splitlines()
    assert head == "12 texts, 3 held out, labels: grey, warm"
    assert [line.split(":")[1] for line in layers] == [" 100.0 % right"] * 2  # the last tokens differ
    # The same texts under both labels: what is held out was learned under the other label only.
    (tmp_path / "labelled.tsv").write_text("\n".join(row.rpartition(" ")[0] for row in rows), encoding="utf-8")
    example("probe").main(["base", str(tmp_path / "labelled.tsv")])
    assert capsys.readouterr().out.count("   0.0 % right") == 2


def test_models_are_compared_by_bits_per_byte(
    models: GPT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat sleeps on the warm oven, for the winter is long.", encoding="utf-8")
    example("compare_models").main([str(text), "base", "sft:d2"])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["base", "sft:d2"]
    assert rows[0].split()[1:] == rows[1].split()[1:] and float(rows[0].split()[-1]) > 1


def test_the_first_hour_leaves_a_model_of_ones_own(
    models: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def quickly(argv: list[str]) -> None:
        trained([*argv, "--no-compile", "--dtype=float32", "--device_batch_size=2", "--total_batch_size=1024"])

    trained = chat_sft.main
    monkeypatch.setattr(chat_sft, "main", quickly)
    monkeypatch.chdir(tmp_path)
    manager.update_meta(checkpoints_dir("sft") / "d2", 1, {"conversations": "littleworld"})
    given = ["--num=50", "--device_type=cpu"]
    example("first_hour").main(given)
    out = capsys.readouterr().out
    assert [out.index(f"[{number}/5]") for number in range(1, 6)] == sorted(out.index(f"[{n}/5]") for n in range(1, 6))
    own = Path("my.jsonl").read_text(encoding="utf-8").splitlines()
    mix = Path("my-mix.jsonl").read_text(encoding="utf-8").splitlines()
    assert (len(own), len(mix), sum(line in own for line in mix)) == (16, 50, 10)  # a fifth is one's own
    assert re.search(r"^you: Who made you\?\nsft:d2: .*\nsft:mine: ", out, re.M)
    assert out.splitlines()[-1].endswith("scripts.chat_web --model sft:d2 --model sft:mine")
    meta = manager.read_meta(checkpoints_dir("sft") / "mine", manager.steps(checkpoints_dir("sft") / "mine")[-1])
    assert meta["parent"]["tag"] == "d2"
    Path("my.jsonl").write_text(own[0] + "\n", encoding="utf-8")  # change the data, and run it again
    example("first_hour").main(given)
    mix = Path("my-mix.jsonl").read_text(encoding="utf-8").splitlines()
    assert mix.count(own[0]) == 10


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'example("{path.stem}")' not in tested] == []
