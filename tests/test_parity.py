"""Every kind of model gives the logits of an independent reference, wherever the tests are run (tests/reference.py)."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from reference import GENERATIONS, NANOGPT, PORT

from nanochat.checkpoint import door
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from scripts import pull

transformers = pytest.importorskip("transformers")

CLOSE = 1e-4  # float32 against float64 is about 2e-5; the logits go up to 15 and more
APART = 5e-3  # what a convention got wrong moves them by, at least
BFLOAT16 = ("wte", "value_embeds")  # what training on a GPU stores so
TEXT = [(17 * i * i + 5 * i) % reference.VOCAB for i in range(430)]  # longer than the context of 400


def nanochat(folder: Path, name: str) -> tuple[reference.Nanochat, reference.Weights]:
    """A checkpoint of one generation, its embeddings in bfloat16 as training on a GPU stores them."""
    c = GENERATIONS[name]
    drawn = reference.draw_nanochat(c)
    weights = {key: w.bfloat16() if any(part in key for part in BFLOAT16) else w for key, w in drawn.items()}
    reference.write_nanochat(folder, c, weights)
    if c.softcap == 20:
        pull.main(["--set_softcap", str(folder), "--softcap=20"])
    return c, weights


def distance(folder: Path, expected: torch.Tensor, ids: list[int]) -> float:
    with torch.inference_mode():
        return (door.open(str(folder)).model(torch.tensor([ids]))[0] - expected).abs().max().item()


@pytest.mark.parametrize("name", GENERATIONS)
def test_nanochat(name: str, tmp_path: Path) -> None:
    c, weights = nanochat(tmp_path, name)
    assert distance(tmp_path, reference.nanochat_logits(c, weights, TEXT), TEXT) < CLOSE
    loaded = door.open(str(tmp_path))
    assert ("record 20 with python -m scripts.pull" in loaded.note) == name.startswith("16 January")
    assert loaded.source == "base" and loaded.tokenizer.token_bytes[0xE9] == 3  # half a letter counts as U+FFFD


@pytest.mark.parametrize("name", GENERATIONS)
def test_nanochat_with_a_cache(name: str, tmp_path: Path) -> None:
    """The engine reads the prompt in chunks and continues it; the reference computes everything anew."""
    c, weights = nanochat(tmp_path, name)
    engine = Engine(door.open(str(tmp_path)).model, slots=1, max_len=320, prefill_chunk=100)
    (reply,) = engine.generate([Request(TEXT[:300], 5, temperature=0)])
    ids = TEXT[:300]
    for _ in range(5):
        ids = [*ids, int(reference.nanochat_logits(c, weights, ids)[-1].argmax())]
    assert reply.tokens == ids[300:]


@pytest.mark.parametrize("change", [
    {"rope_base": 50000.0}, {"rounds_rope": True}, {"qk_scale": 1.15}, {"softcap": 20.0}, {"short": 127},
    {"pattern": "SLSL"}, {"context": 399}, {"gate_range": 2.0}, {"smear": False}, {"backout": False},
    {"lambdas": False}, {"eps": 1e-2},
], ids=str)  # fmt: skip
def test_every_convention_matters(change: dict) -> None:
    """Otherwise a model that gets it wrong would pass."""
    c = GENERATIONS["modern, since 14 March 2026"]
    weights = reference.draw_nanochat(c)
    right, wrong = (reference.nanochat_logits(each, weights, TEXT) for each in (c, replace(c, **change)))
    assert (wrong - right).abs().max() > APART


@pytest.mark.parametrize(
    "change", [{}, {"softcap": 3.0}, {"rope_base": 500.0}, {"eps": 1e-2}, {"kv_heads": 4}], ids=str
)
def test_the_port_of_transformers(change: dict, tmp_path: Path) -> None:
    c = replace(PORT, **change)
    weights = reference.draw_nanochat(c)
    reference.write_port(tmp_path, c, weights)
    expected = reference.nanochat_logits(c, weights, TEXT[:400])
    assert distance(tmp_path, expected, TEXT[:400]) < CLOSE
    theirs = transformers.NanoChatForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert (theirs(torch.tensor([TEXT[:400]])).logits[0] - expected).abs().max() < CLOSE


@pytest.mark.parametrize("prefix", ["", "transformer."], ids=["from the hub", "save_pretrained"])
@pytest.mark.parametrize("change", [{}, {"exact_gelu": True}, {"eps": 1e-2}], ids=str)
def test_gpt2(change: dict, prefix: str, tmp_path: Path) -> None:
    c = replace(reference.GPT2(), **change)
    weights = reference.draw_gpt2(c)
    reference.write_gpt2(tmp_path, c, weights, prefix)
    ids = [id % c.vocab for id in TEXT[: c.context]]
    expected = reference.gpt2_logits(c, weights, ids)
    assert distance(tmp_path, expected, ids) < CLOSE
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert (theirs(torch.tensor([ids])).logits[0] - expected).abs().max() < CLOSE
    if change:  # it matters
        assert (reference.gpt2_logits(reference.GPT2(), weights, ids) - expected).abs().max() > APART / 5
    text = "The  theater's ïnnër café\n"
    tokenizer = door.open(str(tmp_path)).tokenizer
    assert tokenizer.encode(text) == transformers.GPT2TokenizerFast.from_pretrained(tmp_path)(text)["input_ids"]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."], ids=["plain", "compiled"])
def test_nanogpt(bias: bool, prefix: str, tmp_path: Path) -> None:
    c = replace(NANOGPT, bias=bias)
    weights = reference.draw_gpt2(c)
    reference.write_nanogpt(tmp_path, c, weights, prefix)
    ids = [id % c.vocab for id in TEXT[: c.context]]
    assert distance(tmp_path, reference.gpt2_logits(c, weights, ids), ids) < CLOSE
    loaded = door.open(str(tmp_path))
    assert (loaded.step, loaded.source, loaded.meta["best_val_loss"]) == (10, "base", 3.25)
    assert loaded.tokenizer.encode("cab") == [reference.CHARACTERS.index(character) for character in "cab"]


# ---------------------------------------------------------------- the reference against the original programs

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


def original(name: str) -> tuple[reference.Nanochat, reference.Weights]:
    """A model that the original nanochat made."""
    (folder,) = (FIXTURES / name / "base_checkpoints").iterdir()
    (model,), (meta,) = folder.glob("model_*.pt"), folder.glob("meta_*.json")
    said = json.loads(meta.read_text(encoding="utf-8"))["model_config"]
    pattern, T = said.get("window_pattern", ""), said["sequence_len"]
    c = replace(
        GENERATIONS["modern, since 14 March 2026" if pattern else "classic, October 2025 to 10 January 2026"],
        context=T, layers=said["n_layer"], heads=said["n_head"], kv_heads=said["n_kv_head"], width=said["n_embd"],
        vocab=said["vocab_size"], pattern=pattern, short=128 * math.ceil(math.ceil(T / 4) / 128),
    )  # fmt: skip
    weights = torch.load(model, weights_only=True)
    return c, {key.removeprefix("_orig_mod."): tensor for key, tensor in weights.items()}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the originals' models are not at {FIXTURES}")
@pytest.mark.parametrize("name", ["classic", "modern", "nanogpt"])
def test_the_reference_gives_what_the_originals_gave(name: str) -> None:
    expected = json.loads((FIXTURES / name / "expected.json").read_text(encoding="utf-8"))["models"][0]
    arrays = np.load(FIXTURES / name / "expected.npz")
    if name == "nanogpt":
        content = torch.load(FIXTURES / "nanogpt/ckpt.pt", weights_only=True)
        args = content["model_args"]
        shape = {"layers": "n_layer", "heads": "n_head", "width": "n_embd", "context": "block_size"}
        c = replace(NANOGPT, bias=args["bias"], **{ours: args[theirs] for ours, theirs in shape.items()})
        logits = [reference.gpt2_logits(c, content["model"], case["ids"][0]) for case in expected["logits"]]
    else:
        logits = [reference.nanochat_logits(*original(name), case["ids"][0]) for case in expected["logits"]]
    for case, found in zip(expected["logits"], logits, strict=True):
        shown = found if case["positions"] is None else found[case["positions"]]
        assert (shown - torch.from_numpy(arrays[case["npz"]])[0]).abs().max() < CLOSE, case["label"]
