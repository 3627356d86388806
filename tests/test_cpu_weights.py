"""Packed weights give what plain ones give, and give it to the bit the same whatever else is in the batch."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.checkpoint import door, manager
from nanochat.engine import serving
from nanochat.engine.cpu_weights import _plain, join, pack
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.kv_cache import KVCache
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.runtime import multiplies_bfloat16

SIZES: dict[str, Any] = {
    "sequence_len": 256, "vocab_size": 300, "n_layer": 2, "n_head": 4, "n_embd": 64, "short_window": 64,
    "bigram_rows": 331, "key_offset": True,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "n_kv_head": 4, "learned_positions": True, "layer_norm": True, "bias": True, "qk_norm": False, "embed_norm": False,
    "tied": True, "softcap": 0.0, "lambdas": False, "value_embeds": False, "smear": False, "backout": False,
    "bigram_rows": 0, "key_offset": False,
}  # fmt: skip
KINDS: dict[str, tuple[torch.dtype, bool, dict[str, Any]]] = {
    "bfloat16, wide": (torch.bfloat16, False, {"n_kv_head": 4, "n_embd": 768}),  # K = 3072 is added up in two parts
    "bfloat16, shared heads": (torch.bfloat16, False, {"n_kv_head": 2}),
    "float32, shared heads": (torch.float32, False, {"n_kv_head": 2}),
    "int8": (torch.bfloat16, True, {"n_kv_head": 4}),
    "bfloat16, GPT-2": (torch.bfloat16, False, {**GPT2, "activation": "gelu_tanh"}),
    "float32, nanoGPT": (torch.float32, False, {**GPT2, "activation": "gelu", "bias": False}),
    "int8, GPT-2": (torch.bfloat16, True, {**GPT2, "activation": "gelu_tanh"}),
}
packs = pytest.mark.skipif(not multiplies_bfloat16(), reason="oneDNN packs no bfloat16 for this processor")


def random_model(config: GPTConfig, dtype: torch.dtype = torch.float32) -> GPT:
    torch.manual_seed(1)
    model = GPT(config, dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype)


@torch.inference_mode()
def read(
    model: GPT, texts: list[list[int]], size: Callable[[], int], who: Callable[[list[int]], list[int]]
) -> list[Tensor]:
    """The logits (T, V) of every text, when `who` of those that are not done read `size` tokens in a step."""
    cache = KVCache(model.config, len(texts), 256, "cpu", model.dtype)
    logits: list[list[Tensor]] = [[] for _ in texts]
    while alive := [i for i, text in enumerate(texts) if cache.lengths[i] < len(text)]:
        group = who(alive)
        T = min(size(), *(len(texts[i]) - cache.lengths[i] for i in group))
        ids = [texts[i][cache.lengths[i] : cache.lengths[i] + T] for i in group]
        for i, row in zip(group, model(torch.tensor(ids), cache=cache.rows(group)), strict=True):
            logits[i].append(row)
    return [torch.cat(parts) for parts in logits]


@packs
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_and_pieces_do_not_change_a_bit(kind: str) -> None:
    dtype, int8, sizes = KINDS[kind]
    model = random_model(GPTConfig(**{**SIZES, **sizes}), dtype)
    pack(model, int8)
    rng = random.Random(0)
    texts = [[rng.randrange(300) for _ in range(length)] for length in (3, 64, 65, 200)]
    alone = [read(model, [text], lambda: 1, lambda alive: alive)[0] for text in texts]

    def some(alive: list[int]) -> list[int]:
        return sorted(rng.sample(alive, rng.randint(1, len(alive))))

    whole = (lambda: 999, lambda alive: alive[:1])
    together = (lambda: 1, lambda alive: alive)
    in_pieces = (lambda: rng.choice([1, 2, 7, 33]), some)
    for size, who in (whole, together, in_pieces):
        for logits, expected in zip(read(model, texts, size, who), alone, strict=True):
            assert torch.equal(logits, expected)


@packs
def test_an_engine_gives_the_same_reply_in_any_company() -> None:
    model = random_model(GPTConfig(**SIZES, n_kv_head=2), torch.bfloat16)
    pack(model)
    rng = random.Random(1)
    requests = [
        Request([rng.randrange(300) for _ in range(rng.randint(1, 90))], 20, rng.choice([0.0, 1.5]), seed=i)
        for i in range(12)
    ]
    together = Engine(model, slots=5, prefill_chunk=17).generate(requests)
    assert together == [Engine(model, slots=1).generate([request])[0] for request in requests]


@packs
def test_packed_equals_unpacked() -> None:
    config = GPTConfig(**SIZES, n_kv_head=2)
    ids = torch.arange(40)[None] * 7 % 300
    with torch.no_grad():
        plain = random_model(config)(ids)
        blocked, int8 = random_model(config), random_model(config)
        pack(blocked)
        pack(int8, int8=True)
        torch.testing.assert_close(blocked(ids), plain, atol=1e-4, rtol=0)
        # An output's weights are off by half of 1/127 of its largest: here that is a hundredth of what logits span.
        assert 0 < (int8(ids) - plain).abs().max() < 0.03 * (plain.max() - plain.min())


def test_int8_needs_a_cpu() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(**SIZES, n_kv_head=4))
    with pytest.raises(UserError, match="int8 weights are for CPUs"):
        pack(model, int8=True)


@pytest.fixture
def checkpoint(base, tokenizer) -> GPT:
    model = random_model(GPTConfig(**{**SIZES, "vocab_size": tokenizer.vocab_size}, n_kv_head=4))
    tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("sft") / "d2", 5, model, {}, {"tokenizer_hash": tokenizer.hash})
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_serving_a_checkpoint(checkpoint, dtype: str, tokenizer) -> None:
    served = serving.serve_model(door.find("sft"), "cpu", dtype)
    assert (served.tag, served.step, served.dtype_name, served.tokenizer.hash) == ("d2", 5, dtype, tokenizer.hash)
    assert served.engine.slots == serving.MOST_SLOTS  # it is a tiny model
    assert f"in {dtype} on cpu" in str(served)
    with torch.no_grad():
        expected = checkpoint(torch.tensor([[1, 2, 3, 4]]))[0, -1]
    assert torch.corrcoef(torch.stack([expected, served.engine.next_logits([[1, 2, 3, 4]])[0]]))[0, 1] > 0.99


@pytest.mark.parametrize("hardware, expected", [(True, "bfloat16"), (False, "int8")])
def test_auto_takes_what_the_processor_is_quick_with(checkpoint, monkeypatch, hardware: bool, expected: str) -> None:
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    for module in ("nanochat.runtime", "nanochat.engine.serving"):
        monkeypatch.setattr(f"{module}.multiplies_bfloat16", lambda: hardware)
    assert serving.serve_model(door.find("sft"), "cpu").dtype_name == expected
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
    assert serving.serve_model(door.find("sft"), "cpu", slots=3).dtype_name == "float32"


@pytest.mark.parametrize("settings, said", [({"dtype": "int4"}, "int4"), ({"slots": -1}, "--slots is -1")])
def test_what_cannot_be_served_is_said(checkpoint, settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        serving.serve_model(door.find("sft"), "cpu", **settings)


@torch.no_grad()
@pytest.mark.parametrize("more", [{"n_kv_head": 2}, {**GPT2, "activation": "gelu"}])
def test_joined_matrices_give_what_three_give(more: dict[str, Any]) -> None:
    """As on other devices than a CPU."""
    model = random_model(GPTConfig(**{**SIZES, **more}))
    ids = torch.arange(40).view(2, 20)
    before = model(ids)
    join(model, _plain)
    assert not any("c_q" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(model(ids), before, atol=2e-4, rtol=1e-5)
