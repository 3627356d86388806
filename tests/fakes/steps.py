"""What a GPU would run, on a machine without one: whole training and decoding steps on fake tensors of device cuda.

An operation on tensors of two devices, on shapes or dtypes that do not fit, or that has to wait for a number, fails.
The bytes of all storages are followed, so peak memory is counted, and compared with what nanochat.plan predicts.
"""

import gc
from dataclasses import replace

import pytest
import torch
from fakecuda import Memory, Training, fake_cuda, on_cuda
from torch._subclasses.fake_tensor import DataDependentOutputException

from nanochat import lora
from nanochat.checkpoint import gpt2
from nanochat.engine.passes import Passes
from nanochat.engine.request import Request
from nanochat.engine.sampling import Row, settings_of
from nanochat.gpt import GPTConfig
from nanochat.paged_cache import PagedCache
from nanochat.plan import cost
from nanochat.scaling import config_from_depth
from nanochat.train.objective import compile_parts

SMALL = GPTConfig(256, 500, 4, 4, 2, 256, short_window=64, long_window=256)
CLASSIC = {"window_pattern": "L", "lambdas": False, "value_embeds": False, "smear": False, "backout": False}
LIKE_GPT2 = replace(gpt2.published("gpt2"), sequence_len=256, n_layer=3, n_head=4, n_kv_head=4, n_embd=128)


# ---------------------------------------------------------------- a training step


@pytest.mark.parametrize(
    "config, settings",
    [
        (SMALL, {"accumulation": 2, "clip": 1.0}),
        (SMALL, {"share": 0.55}),
        (SMALL, {"dtype": torch.float32}),
        (replace(SMALL, tied=True, softcap=0.0), {}),
        (replace(LIKE_GPT2, dropout=0.1), {}),
    ],
)
def test_a_training_step_runs_on_cuda_and_waits_for_nothing(config, settings):
    with fake_cuda():
        training = Training(on_cuda(config, settings.get("dtype", torch.bfloat16)), 3, 200, **settings)
        for _ in range(2):
            figures = training.step()
        assert figures.device.type == "cuda" and figures.shape == (4,) and figures.dtype == torch.float32
        state = [tensor for of in training.optimizer.state.values() for tensor in of.values()]
        for tensor in [*training.model.parameters(), *state]:
            assert tensor.device.type == "cuda" and tensor.dtype == torch.float32
        assert all(parameter.grad is None for parameter in training.model.parameters())


def test_recomputed_blocks_keep_their_input_only():
    with fake_cuda(), Memory() as memory:
        training = Training(on_cuda(SMALL), 8, 256)
        kept = {}
        for recompute in (False, True):
            training.model.recompute = recompute
            before = memory.bytes
            loss = training.stage.loss(training.batch())
            gc.collect()
            kept[recompute] = memory.bytes - before - 4 * SMALL.padded_vocab * SMALL.n_embd
            loss.backward()
            del loss
            training.optimizer.zero_grad()
            gc.collect()
    layers = 2 * 8 * 256 * SMALL.n_embd * SMALL.n_layer
    assert layers < kept[True] < 4 * layers < 15 * layers < kept[False]


def test_what_does_not_fit_together_is_found():
    with fake_cuda():
        training = Training(on_cuda(SMALL), 2, 128)
        loss, matrix = training.stage.loss, training.model.transformer.blocks[2].mlp.c_fc
        batch = training.batch()
        loss(batch).backward()
        weight = matrix.weight
        for wrong, message in (
            (torch.empty(weight.shape), "devices"),
            (torch.empty(weight.size(0), weight.size(1) + 1, device="cuda"), "same reduction dim"),
        ):
            matrix.weight = torch.nn.Parameter(wrong)
            with pytest.raises(RuntimeError, match=message):
                loss(batch)
        matrix.weight = weight
        with pytest.raises(RuntimeError, match="devices"):
            loss(replace(batch, targets=batch.targets.cpu()))
        with pytest.raises((RuntimeError, DataDependentOutputException)):
            training.stage.loss = lambda batch: loss(batch) * (2.0 if loss(batch) > 1 else 1.0)  # reads a number
            training.step()


# ---------------------------------------------------------------- decoding


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, LIKE_GPT2])
def test_passes_of_the_engine_run_on_cuda(config):
    with fake_cuda():
        model = on_cuda(config, weights=torch.bfloat16)
        cache = PagedCache(config, 4, 256, "cuda", torch.bfloat16)
        passes = Passes(model, cache, 128, record=False)
        sampled = settings_of([Row(Request([1], temperature=1.0, top_k=50), 0.5)] * 3, config.vocab_size).kind
        greedy = settings_of([Row(Request([1], temperature=0.0), 0.5)] * 3, config.vocab_size).kind
        for kind in (sampled, greedy, None):
            passes._make_decoding(4, kind)[1]()
        for size in passes.pieces:
            passes._make_reading(size)[1]()
        assert passes._drawn.device.type == passes._logits.device.type == "cuda"


# ---------------------------------------------------------------- memory


def counted_part(planned: dict[str, float]) -> float:
    """A plan's memory without its two allowances, for what a count of tensors cannot see."""
    return sum(planned.values()) - planned["context and workspaces"] - planned["gaps"]


@pytest.mark.parametrize("depth, rows", [(12, 32), (20, 32), (26, 16), (34, 1)])
def test_the_plan_predicts_the_peak_of_a_training_step(depth, rows):
    """Not more and not less, within 3 %. What Inductor makes of it is counted in kernels.py."""
    config = config_from_depth(depth, 32768, 2048)
    with fake_cuda(), Memory() as memory:
        training = Training(on_cuda(config), rows, 2048).begun()
        memory.peak = memory.bytes
        training.step()
    assert counted_part(cost.training_memory(config, rows, 2048, compiled=False)) == pytest.approx(
        memory.peak, rel=0.03
    )


SOME = ("attn.c_q", "attn.c_v")


@pytest.mark.parametrize(
    "config, rows, matrices",
    [
        (config_from_depth(12, 32768, 2048), 16, lora.BLOCKS), (config_from_depth(20, 32768, 2048), 4, lora.MATRICES),
        (config_from_depth(12, 32768, 2048), 8, SOME), (gpt2.published("gpt2"), 8, lora.BLOCKS),
        (gpt2.published("gpt2-medium"), 4, SOME),
    ],
)  # fmt: skip
def test_the_plan_predicts_the_peak_of_a_training_step_with_adapters(config, rows, matrices):
    adapters, T = lora.Adapters(16, 16.0, matrices), config.sequence_len
    with fake_cuda(), Memory() as memory:
        model = lora.attach(on_cuda(config, weights=torch.bfloat16), adapters)
        training = Training(model, rows, T).begun()
        memory.peak = memory.bytes
        training.step()
    planned = cost.training_memory(config, rows, T, compiled=False, adapters=adapters)
    assert counted_part(planned) == pytest.approx(memory.peak, rel=0.03)


def kept_bytes(
    config: GPTConfig, rows: int, length: int, compiled: bool, adapters: lora.Adapters | None = None
) -> int:
    """What is kept from a forward pass to its backward, besides the parameters."""
    torch._dynamo.reset()
    with fake_cuda(), Memory() as memory:
        model = on_cuda(config)
        if adapters is not None:
            model = lora.attach(on_cuda(config, weights=torch.bfloat16), adapters)
        if compiled:  # the partitioner of inductor without its code generation: the same tensors are kept
            compile_parts(model, dynamic=False, backend="aot_eager_decomp_partition")
        ids = torch.zeros(rows, length, dtype=torch.int64, device="cuda")
        before = memory.bytes
        x = model.hidden(ids)
        gc.collect()
        assert x.requires_grad
        return memory.bytes - before


@pytest.mark.parametrize(
    "features",
    [CLASSIC, {}, {"window_pattern": "L"}, {"value_embeds": False}, {"smear": False}, {"lambdas": False},
     {"qk_norm": False}, {"key_offset": True, "bigram_rows": 331}],
)  # fmt: skip
@pytest.mark.parametrize(
    "layers, heads, kv_heads, width, rows, length", [(3, 2, 2, 128, 2, 1024), (6, 4, 2, 256, 3, 512)]
)
def test_activations_are_those_that_autograd_keeps(features, layers, heads, kv_heads, width, rows, length):
    config = GPTConfig(
        length, 640, layers, heads, kv_heads, width, short_window=length // 2, long_window=length, **features
    )
    predicted = cost.activation_bytes(config, rows, length, compiled=False) + 2 * cost.sizes(config).matrices
    assert predicted == pytest.approx(kept_bytes(config, rows, length, compiled=False), rel=0.01)


@pytest.mark.parametrize("features", [{}, {"key_offset": True, "bigram_rows": 331}, CLASSIC, None])
def test_activations_are_those_that_compiled_blocks_keep(features):
    if features is None:
        config = replace(LIKE_GPT2, sequence_len=512)
    else:
        config = GPTConfig(512, 640, 3, 4, 2, 256, short_window=128, long_window=512, **features)
    predicted = cost.activation_bytes(config, 4, 512) + 2 * cost.sizes(config).matrices
    assert predicted == pytest.approx(kept_bytes(config, 4, 512, compiled=True), rel=0.01)


@pytest.mark.parametrize(
    "is_gpt2, matrices, compiled",
    [(False, lora.BLOCKS, False), (False, lora.BLOCKS, True), (False, SOME, True), (False, ("mlp.c_proj",), False),
     (True, lora.BLOCKS, False), (True, lora.BLOCKS, True)],
)  # fmt: skip
def test_activations_are_those_that_adapters_keep(is_gpt2, matrices, compiled):
    config = GPTConfig(512, 640, 6, 4, 2, 256, short_window=128, long_window=512)
    if is_gpt2:
        config = replace(LIKE_GPT2, sequence_len=512, n_layer=6)
    adapters = lora.Adapters(8, 16.0, matrices)
    predicted = cost.activation_bytes(config, 4, 512, compiled=compiled, adapters=adapters)
    predicted += 2 * lora.count(config, adapters)
    assert predicted == pytest.approx(kept_bytes(config, 4, 512, compiled, adapters), rel=0.03)
