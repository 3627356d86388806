"""The model against a plain forward in float64, against the original programs' outputs, and against itself cached."""

import dataclasses
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.checkpoint import legacy
from nanochat.errors import UserError
from nanochat.eval.bpb import text_loss
from nanochat.gpt import GPT, GPTConfig
from nanochat.kv_cache import KVCache

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
T = 14
# Every feature on, with windows that cut within T tokens and grouped heads.
FULL = GPTConfig(
    sequence_len=T, vocab_size=50, n_layer=4, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SSL",
    short_window=3, long_window=9, softcap=15.0, ve_gate_channels=8,
    bigram_rows=31, key_offset=True,
)  # fmt: skip
CLASSIC = {"rope_base": 10000.0, "rope_in_bfloat16": True, "qk_scale": 1.0, "lambdas": False, "value_embeds": False,
           "smear": False, "backout": False, "bigram_rows": 0, "key_offset": False, "short_window": 0,
           "long_window": 0}  # fmt: skip
VARIANTS = {
    "full": {},
    "classic": CLASSIC,
    "no lambdas": {"lambdas": False},
    "no value embeddings": {"value_embeds": False},
    "no smear": {"smear": False},
    "no backout": {"backout": False},
    "no bigrams": {"bigram_rows": 0},
    "no key offset": {"key_offset": False},
    "no windows": {"short_window": 0, "long_window": 0},
    "short windows everywhere but last": {"window_pattern": "s"},
    "no softcap": {"softcap": 0.0},
    "another softcap": {"softcap": 20.0},
    "no query and key scale": {"qk_scale": 1.0},
    "another rotary base": {"rope_base": 10000.0},
    "rounded rotary tables": {"rope_in_bfloat16": True},
    "another gate range": {"ve_gate_range": 2.0},
    "another epsilon": {"norm_eps": 1e-2},
}


def draw(config: GPTConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> GPT:
    """A model whose every parameter is far from neutral, the same values whatever the features."""
    model = GPT(config, dtype)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
            noise = torch.randn(parameter.shape, generator=generator)
            near = {"resid_lambdas": 1.0, "x0_lambdas": 0.3, "smear_lambda": 0.8, "backout_lambda": 0.4}.get(name, 0.0)
            scale = 0.1 if near else 1.5 * parameter.size(-1) ** -0.5 if "transformer.h." in name else 1.0
            parameter.copy_(near + scale * noise)
    return model


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(FULL.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def expected_logits(config: GPTConfig, weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Logits (T, V) of one row in float64, by the independent reference."""
    c = config
    has_windows = c.short_window > 0
    described = reference.Nanochat(
        context=c.long_window, layers=c.n_layer, heads=c.n_head, kv_heads=c.n_kv_head, width=c.n_embd,
        vocab=c.vocab_size, pad_to=c.pad_vocab_to, pattern=c.window_pattern.upper() if has_windows else "",
        short=c.short_window, rope_base=c.rope_base, rounds_rope=c.rope_in_bfloat16, qk_scale=c.qk_scale,
        softcap=c.softcap or 1e9, eps=c.norm_eps, lambdas=c.lambdas,
        gate_channels=c.ve_gate_channels if c.value_embeds else 0, gate_range=c.ve_gate_range, smear=c.smear,
        backout=c.backout, bigrams=c.bigram_rows, key_offset=c.key_offset,
    )  # fmt: skip
    return reference.nanochat_logits(described, weights, ids)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_forward_equals_the_reference(name):
    config = dataclasses.replace(FULL, **VARIANTS[name])
    model, ids = draw(config), random_ids(2, T)
    logits = model(ids)
    assert logits.shape == (2, T, config.vocab_size) and logits.dtype == torch.float32
    for row in range(2):
        expected = expected_logits(config, model.state_dict(), ids[row].tolist())
        assert (logits[row] - expected).abs().max() < 5e-5
    if VARIANTS[name]:  # each feature must move the logits in this model, or the comparison says nothing
        assert (logits - draw(FULL)(ids)).abs().max() > 2e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (5, 8, 1)], ids=str)
@torch.no_grad()
def test_other_shapes_equal_the_reference(shape):
    layers, heads, kv_heads = shape
    config = dataclasses.replace(FULL, n_layer=layers, n_head=heads, n_kv_head=kv_heads, pad_vocab_to=1)
    model, ids = draw(config), random_ids(1, 8)
    assert (model(ids)[0] - expected_logits(config, model.state_dict(), ids[0].tolist())).abs().max() < 5e-5


@torch.no_grad()
def test_rows_do_not_touch_each_other_and_the_future_does_not_reach_the_past():
    model, ids = draw(FULL), random_ids(3, T)
    other = ids.clone()
    other[1] = random_ids(1, T, seed=9)[0]
    other[0, 9:] = random_ids(1, T - 9, seed=8)[0]
    before, after = model(ids), model(other)
    torch.testing.assert_close(after[2], before[2])
    torch.testing.assert_close(after[0, :9], before[0, :9])
    assert (after[0, 9:] - before[0, 9:]).abs().max() > 0.1


@torch.no_grad()
def test_bfloat16_is_close_and_gives_float32_logits():
    ids = random_ids(2, T)
    exact, rounded = draw(FULL)(ids), draw(FULL, dtype=torch.bfloat16)(ids)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.15


# ---------------------------------------------------------------- targets, padding, initial weights


@pytest.mark.parametrize("softcap", [0.0, 15.0])
def test_targets_give_the_cross_entropy_of_the_logits_and_its_gradient(softcap):
    model = draw(dataclasses.replace(FULL, softcap=softcap))
    ids, targets = random_ids(2, T), random_ids(2, T, seed=1)
    nll = model(ids, targets)
    by_hand = -model(ids).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert nll.shape == (2, T) and nll.dtype == torch.float32
    torch.testing.assert_close(nll, by_hand)
    parameters = dict(model.named_parameters())
    weights = torch.rand(2, T, generator=torch.Generator().manual_seed(2))
    got = torch.autograd.grad((nll * weights).sum(), list(parameters.values()))
    expected = torch.autograd.grad((by_hand * weights).sum(), list(parameters.values()))
    for name, one, other in zip(parameters, got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
        assert one.abs().max() > 0, f"{name} gets no gradient"


def test_the_gradient_is_that_of_finite_differences():
    """A softcap computed through sigmoid, a fused kernel or a detach could leave the values right and this wrong."""
    config = dataclasses.replace(FULL, n_layer=2)
    model = draw(config)
    ids, targets = random_ids(1, 6), random_ids(1, 6, seed=1)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(model(ids, targets).sum(), list(parameters.values()))

    def loss() -> float:
        logits = expected_logits(config, model.state_dict(), ids[0].tolist())
        return float(F.cross_entropy(logits, targets[0], reduction="sum"))

    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        flat, at = parameter.data.view(-1), int(gradient.abs().argmax())
        before = float(flat[at])
        step = 1e-3
        flat[at] = before + step
        above = loss()
        flat[at] = before - step
        below = loss()
        flat[at] = before
        assert float(gradient.view(-1)[at]) == pytest.approx((above - below) / (2 * step), rel=0.02, abs=1e-3), name


def test_padding_of_the_vocabulary_never_shows():
    model, ids, targets = draw(FULL), random_ids(2, T), random_ids(2, T, seed=1)
    assert model.lm_head.weight.shape == (64, 32) and FULL.padded_vocab == 64
    with torch.no_grad():
        logits, nll = model(ids), model(ids, targets)
        model.lm_head.weight[FULL.vocab_size :] = 1e6
        assert torch.equal(model(ids), logits) and logits.size(-1) == 50
        assert torch.equal(model(ids, targets), nll)
    (gradient,) = torch.autograd.grad(model(ids, targets).sum(), [model.lm_head.weight])
    assert gradient[FULL.vocab_size :].abs().max() == 0


def test_every_parameter_is_initialised_also_from_the_meta_device():
    with torch.device("meta"):
        model = GPT(FULL)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    torch.manual_seed(3)
    model.init_weights()
    drawn = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert all(tensor.isfinite().all() for tensor in drawn.values())
    for name, tensor in drawn.items():
        assert (tensor == 0).all() == name.endswith(("c_proj.weight", "smear_lambda", "bigram.weight")), name
    assert drawn["transformer.wte.weight"].std().item() == pytest.approx(0.8, rel=0.1)
    assert drawn["lm_head.weight"].std().item() == pytest.approx(0.001, rel=0.1)
    assert drawn["transformer.h.1.attn.c_q.weight"].std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert drawn["transformer.h.1.mlp.c_fc.weight"].std().item() == pytest.approx(0.4 * 32**-0.5, rel=0.1)
    assert drawn["resid_lambdas"].tolist() == pytest.approx([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
    assert drawn["x0_lambdas"].tolist() == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert drawn["backout_lambda"].item() == pytest.approx(0.2)
    torch.manual_seed(3)
    model.init_weights()
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in model.named_parameters())


# ---------------------------------------------------------------- the cache

FULL_IDS = random_ids(3, T)
CACHE_CONFIGS = {"full": FULL, "classic": dataclasses.replace(FULL, **CLASSIC)}
chunks = st.lists(st.integers(1, T), min_size=1, max_size=T).map(
    lambda sizes: [size for n, size in enumerate(sizes) if sum(sizes[: n + 1]) <= T] or [T]
)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", CACHE_CONFIGS)
@settings(max_examples=25)
@given(sizes=chunks, slot=st.integers(0, 2))
@torch.no_grad()
def test_cached_equals_uncached_in_any_pieces(name, sizes, slot):
    model = draw(CACHE_CONFIGS[name])
    sizes = [*sizes, T - sum(sizes)] if sum(sizes) < T else sizes
    cache = KVCache(model.config, 3, T, "cpu", torch.float32)
    start = 0
    expected = model(FULL_IDS[:1])
    for size in sizes:
        got = model(FULL_IDS[:1, start : start + size], cache=cache.rows([slot]))
        close(got, expected[:, start : start + size])
        start += size
        assert cache.lengths[slot] == start
    with pytest.raises(ValueError, match="exceed"):  # the last position was used, and there is no other
        model(FULL_IDS[:1, :1], cache=cache.rows([slot]))
    assert cache.lengths[slot] == T


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, T - 3), min_size=3, max_size=3),
    slots=st.permutations(range(5)).map(lambda slots: slots[:3]),
)
@torch.no_grad()
def test_rows_of_different_lengths_decode_together(lengths, slots):
    model = draw(FULL)
    expected = model(FULL_IDS)
    cache = KVCache(FULL, 5, T, "cpu", torch.float32)
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        close(model(FULL_IDS[row : row + 1, :length], cache=cache.rows([slot])), expected[row : row + 1, :length])
    for step in range(3):
        at = [length + step for length in lengths]
        ids = torch.stack([FULL_IDS[row, t] for row, t in enumerate(at)])[:, None]
        logits = model(ids, cache=cache.rows(slots))
        close(logits[:, 0], torch.stack([expected[row, t] for row, t in enumerate(at)]))
    assert [cache.lengths[slot] for slot in slots] == [length + 3 for length in lengths]
    assert sum(cache.lengths) == sum(lengths) + 9  # the other slots were left alone


@torch.no_grad()
def test_a_fork_continues_by_itself():
    model = draw(FULL)
    cache = KVCache(FULL, 3, T, "cpu", torch.float32)
    model(FULL_IDS[:1, :6], cache=cache.rows([0]))
    model(FULL_IDS[1:2, :9], cache=cache.rows([2]))  # what stood in the slot must not shine through
    cache.fork(0, 2)
    assert cache.lengths == [6, 0, 6]
    branch = torch.cat([FULL_IDS[:1, :6], FULL_IDS[2:, 6:]], dim=1)
    for t in range(6, T):
        got = model(torch.cat([FULL_IDS[:1, t : t + 1], branch[:, t : t + 1]]), cache=cache.rows([0, 2]))
        close(got[:1], model(FULL_IDS[:1])[:, t : t + 1])
        close(got[1:], model(branch)[:, t : t + 1])


@torch.no_grad()
def test_a_cache_may_be_longer_than_the_context():
    """The position, not the number of new tokens, decides the rotation; nothing ends at sequence_len."""
    model, ids = draw(FULL), random_ids(1, 3 * T)
    cache = KVCache(FULL, 1, 3 * T, "cpu", torch.float32)
    expected = model(ids)
    close(model(ids[:, : T + 2], cache=cache.rows([0])), expected[:, : T + 2])
    for t in range(T + 2, 3 * T):
        close(model(ids[:, t : t + 1], cache=cache.rows([0])), expected[:, t : t + 1])


# ---------------------------------------------------------------- the original programs


class Original(NamedTuple):
    model: GPT
    expected: dict
    arrays: dict[str, np.ndarray]
    token_bytes: torch.Tensor


@pytest.fixture(scope="module", params=["classic", "modern"])
def original(request: pytest.FixtureRequest) -> Original:
    folder = FIXTURES / request.param
    if not folder.is_dir():
        pytest.skip(f"the models made by the original programs are not at {folder}")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["models"][0]
    checkpoint = folder / "base_checkpoints" / expected["resolved_tag"]
    meta = json.loads((checkpoint / "meta_000020.json").read_text(encoding="utf-8"))
    state = torch.load(checkpoint / "model_000020.pt", map_location="cpu", weights_only=True)
    config, state = legacy.translate(meta["model_config"], state, checkpoint)
    model = GPT(config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    with np.load(folder / "expected.npz") as arrays:
        loaded = {name: arrays[name] for name in arrays.files}
    token_bytes = torch.load(folder / "tokenizer" / "token_bytes.pt", weights_only=True)
    return Original(model, expected, loaded, token_bytes)


@torch.no_grad()
def test_logits_of_the_original(original):
    assert len(original.expected["logits"]) >= 3
    for case in original.expected["logits"]:
        ids = torch.tensor(case["ids"])
        logits = original.model(ids)
        shown = logits if case["positions"] is None else logits[:, case["positions"]]
        assert (shown - torch.from_numpy(original.arrays[case["npz"]])).abs().max() < 2e-5, case["label"]
        cache = KVCache(original.model.config, len(ids), ids.size(1), "cpu", torch.float32)
        rows = list(range(len(ids)))
        half = ids.size(1) // 2
        pieces = [original.model(part, cache=cache.rows(rows)) for part in ids.tensor_split([half, half + 1], dim=1)
                  if part.size(1)]  # fmt: skip
        assert (torch.cat(pieces, dim=1) - logits).abs().max() < 2e-5, case["label"]


@torch.no_grad()
def test_greedy_continuations_of_the_original(original):
    for case in original.expected["greedy"]:
        ids, new = torch.tensor([case["prompt"]]), []
        cache = KVCache(original.model.config, 1, len(case["prompt"]) + case["max_tokens"], "cpu", torch.float32)
        for _ in case["tokens"]:
            new.append(int(original.model(ids, cache=cache.rows([0]))[0, -1].argmax()))
            ids = torch.tensor([new[-1:]])
        assert new == case["tokens"]


class Example(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def test_bits_per_byte_of_the_original(original):
    case = original.expected["bpb"]
    batches = [
        Example(torch.tensor(x), torch.tensor(y), torch.ones(torch.tensor(y).shape))
        for x, y in zip(case["x"], case["y"], strict=True)
    ]
    loss = text_loss(original.model, batches, original.token_bytes)
    assert loss.bits_per_byte == pytest.approx(case["bpb"], rel=1e-6)


def test_a_configuration_that_is_not_known_is_refused():
    config = {"sequence_len": T, "vocab_size": 50, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
    with pytest.raises(UserError, match="flux_capacitor"):
        legacy.translate({**config, "flux_capacitor": 1}, {}, Path("model.pt"))
    del config["n_head"]
    with pytest.raises(UserError, match="lacks n_head"):
        legacy.translate(config, {}, Path("model.pt"))


def test_legacy_names_and_missing_scalars():
    """Saved from a compiled model; and modern files without the lambdas of each layer."""
    state = {f"_orig_mod.{name}": tensor for name, tensor in draw(FULL).state_dict().items() if "d_lambdas" not in name}
    state = {name: tensor for name, tensor in state.items() if "x0_lambdas" not in name}
    config = {"sequence_len": 300, "vocab_size": 50, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
    translated, renamed = legacy.translate(config, state, Path("model.pt"))
    assert renamed["resid_lambdas"].tolist() == [1.0] * 4 and renamed["x0_lambdas"].tolist() == [0.0] * 4
    assert not any(name.startswith("_orig_mod.") for name in renamed)
    assert (translated.short_window, translated.long_window, translated.window_pattern) == (128, 300, "L")
    own = dataclasses.asdict(FULL)
    assert legacy.translate(own, renamed, Path("model.pt"))[0] == FULL
    del own["key_offset"], own["bigram_rows"]  # as in files from before there were any
    older = dataclasses.replace(FULL, key_offset=False, bigram_rows=0)
    assert legacy.translate(own, renamed, Path("model.pt"))[0] == older
