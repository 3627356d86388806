"""The chunked loss against its definition in float64; what it never holds; and blocks that are computed twice."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat import loss
from nanochat.data.batch import Batch, trained_positions
from nanochat.eval.bpb import text_loss
from nanochat.gpt import GPT, GPTConfig
from nanochat.loss import loss_of_rows, summed_nll
from nanochat.train.objective import compile_parts
from nanochat.train.times import Times

B, T, D, V, PADDED = 3, 7, 8, 50, 64
MODEL = GPTConfig(sequence_len=16, vocab_size=V, n_layer=3, n_head=2, n_kv_head=2, n_embd=32, short_window=5,
                  long_window=16, ve_gate_channels=8)  # fmt: skip


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 rows, so that 21 positions take six of them, the last one not full."""
    monkeypatch.setattr(loss, "CPU_CHUNK", 4 * PADDED)


class Watch(TorchDispatchMode):
    """Notes every operation's results, and the rows of all products with the output layer's matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.rows = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
            if "mm" in func.__name__ and result.size(-1) == PADDED:
                self.rows += result.size(0)
        return result


def example(dtype: torch.dtype = torch.float32, some: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, T, D), matrix (PADDED, D), targets and weights (B, T): some are 0, others negative, as in RL."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, T, D, generator=generator).to(dtype)
    matrix = 3 * torch.randn(PADDED, D, generator=generator)
    targets = torch.randint(V, (B, T), generator=generator)
    weights = torch.randn(B, T, generator=generator)
    if some:
        weights[torch.rand(B, T, generator=generator) < 0.4] = 0
    return x.requires_grad_(), matrix.requires_grad_(), targets, weights


def definition(x: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor, softcap: float) -> Tensor:
    logits = x.double() @ matrix.double().T
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    nll = F.cross_entropy(logits[..., :V].flatten(0, 1), targets.flatten(), reduction="none")
    return (nll * weights.flatten()).sum()


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 15.0])
def test_loss_and_gradients_are_those_of_the_definition(softcap, skips):
    x, matrix, targets, weights = example()
    trained = trained_positions(weights) if skips else None
    got = summed_nll(x, matrix, targets, weights, trained, softcap, V)
    expected = definition(x, matrix, targets, weights, softcap)
    assert got.dtype == torch.float32 and float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for one, other in zip(
        torch.autograd.grad(got * 0.5, [x, matrix]), torch.autograd.grad(expected * 0.5, [x, matrix]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_are_close(dtype):
    x, matrix, targets, weights = example(dtype)
    got = summed_nll(x, matrix, targets, weights, trained_positions(weights), 15.0, V)
    expected = definition(x, matrix, targets, weights, 15.0)
    assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=0.05)
    for one, other in zip(
        torch.autograd.grad(got, [x, matrix]), torch.autograd.grad(expected, [x, matrix]), strict=True
    ):
        assert (one.double() - other).norm() < 0.05 * other.norm()


def test_float16_holds_gradients_that_only_the_scale_makes_large_or_small():
    """The sum over a chunk may exceed 65504, and 1 / tokens of a large step is below what float16 knows."""
    x, matrix, targets, _ = example(torch.float16)
    weights = torch.full((B, T), 3e4)
    got = summed_nll(x, matrix, torch.full_like(targets, 3), weights, None, 0.0, V)
    gradients = torch.autograd.grad(got * 1e-9, [matrix])
    expected = torch.autograd.grad(1e-9 * definition(x, matrix, torch.full_like(targets, 3), weights, 0.0), [matrix])
    assert (gradients[0] - expected[0]).norm() < 0.02 * expected[0].norm() and expected[0].norm() > 0


def test_padding_of_the_vocabulary_is_never_predicted():
    x, matrix, targets, weights = example()
    with torch.no_grad():
        matrix[V:] = 1e6
    got = summed_nll(x, matrix, targets, weights, None, 15.0, V)
    assert float(got.detach()) == pytest.approx(float(definition(x, matrix, targets, weights, 15.0).detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(got, [matrix])
    assert gradient[V:].abs().max() == 0 and gradient[:V].abs().max() > 0


def test_positions_without_a_weight_are_not_computed():
    x, matrix, targets, weights = example()
    trained = trained_positions(weights)
    assert trained is not None and trained.tolist() == [n for n, w in enumerate(weights.flatten().tolist()) if w]
    assert 8 < len(trained) <= 12  # three chunks of four
    with Watch() as some:
        summed_nll(x, matrix, targets, weights, trained, 15.0, V)
    with Watch() as whole:
        summed_nll(x, matrix, targets, weights, None, 15.0, V)
    assert (some.rows, whole.rows) == (12, 24)
    assert trained_positions(torch.ones(2, 3)) is None


def test_there_are_never_more_logits_than_those_of_a_chunk():
    model = GPT(MODEL)
    ids = torch.randint(V, (8, 17), generator=torch.Generator().manual_seed(0))
    inputs, targets, weights = ids[:, :-1], ids[:, 1:], torch.ones(8, 16)
    most = max(parameter.numel() for parameter in model.parameters())
    assert most < 128 * V / 1.5  # the logits of 128 positions would show
    with Watch() as training:
        model.loss(model.hidden(inputs), targets, weights).backward()
    with Watch() as validation:
        text_loss(model, [Batch(inputs, targets, weights, 0.0, {})], [1] * V)
    with torch.no_grad(), Watch() as scoring:
        nll = model(inputs, targets)
    activations = 8 * 16 * 4 * MODEL.n_embd  # the MLP's
    assert max(training.largest, validation.largest, scoring.largest) <= max(most, activations)
    torch.testing.assert_close(nll, model(inputs, targets).detach())  # with a gradient: all logits at once


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_has_the_gradient_of_the_definition(tied):
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(MODEL, tied=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(V, (2, 17))
    inputs, targets, weights = ids[:, :-1], ids[:, 1:], torch.randn(2, 16) * (torch.rand(2, 16) < 0.5)
    parameters = list(model.parameters())
    got = model.loss(model.hidden(inputs), targets, weights, trained_positions(weights))
    expected = (model(inputs, targets) * weights).sum()
    pairs = zip(torch.autograd.grad(got, parameters), torch.autograd.grad(expected, parameters), strict=True)
    for (name, _), (one, other) in zip(model.named_parameters(), pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_without_anything_to_learn_gives_gradients_of_zero():
    model, ids = GPT(MODEL), torch.zeros(2, 16, dtype=torch.int64)
    got = model.loss(model.hidden(ids), ids, torch.zeros(2, 16), trained_positions(torch.zeros(2, 16)))
    got.backward()
    assert float(got.detach()) == 0
    assert all(parameter.grad is not None and parameter.grad.abs().max() == 0 for parameter in model.parameters())


def test_one_shape_serves_any_number_of_trained_positions():
    counter = CompileCounter()
    compiled = torch.compile(loss_of_rows, backend=counter, dynamic=False)
    x, matrix, targets, weights = example(some=False)
    for M in (21, 20, 13, 5, 4, 1):
        some = weights.clone().flatten()
        some[M:] = 0
        got = summed_nll(x, matrix, targets, some.view(B, T), torch.arange(M), 15.0, V, compiled)
        expected = definition(x, matrix, targets, some.view(B, T), 15.0)
        assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert counter.frame_count == 1


def test_halves_keep_what_is_trained():
    weights = torch.tensor([[0, 1, 0], [2, 0, 0], [0, 0, 3]]).float()
    ids = torch.arange(9).view(3, 3)
    whole = Batch(ids, ids + 1, weights, 0.0, {}, ends_step=True, trained=trained_positions(weights))
    first, second = whole.halves()
    assert [half.trained.tolist() for half in (first, second)] == [[1], [0, 5]]
    assert all(
        torch.equal(half.weights.flatten()[half.trained], half.weights[half.weights != 0]) for half in (first, second)
    )
    moved = whole.to(torch.device("cpu"))
    assert moved.trained is not None and moved.trained.tolist() == [1, 3, 8]


# ---------------------------------------------------------------- compiled and recomputed blocks


def test_blocks_of_one_kind_share_a_graph_and_only_training_is_compiled():
    counter = CompileCounter()
    config = dataclasses.replace(MODEL, n_layer=9, window_pattern="SSSL")
    plain, model = GPT(config), GPT(config)
    model.load_state_dict(plain.state_dict())
    compile_parts(model, backend=counter, dynamic=False)
    ids = torch.randint(V, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids[:, :8]), plain(ids[:, :8]))
    assert counter.frame_count == 0
    with (spent := Times()).of("forward"):
        found = [gradients(each, ids)[0] for each in (model, plain)]
    assert min(spent.read()[part] for part in ("compile", "forward")) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # Before and after the blocks; and blocks with a window or without, with value embeddings or without.
    assert counter.frame_count == 2 + 4
    again = copy.deepcopy(model)
    assert again.transformer.blocks[0]._computed.args[-1] is again.transformer.blocks[0]  # a copy computes its own


def gradients(model: GPT, ids: Tensor) -> tuple[list[Tensor], int]:
    """Of a loss with a fixed seed, and how many bytes were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = model.loss(model.hidden(ids[:, :-1]), ids[:, 1:], torch.ones(ids[:, 1:].shape))
    return list(torch.autograd.grad(total, list(model.parameters()))), sum(kept.values())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(dropout, compiled):
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(MODEL, dropout=dropout))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(V, (4, 17))
    found = []
    for model.recompute in (False, True):
        if compiled:
            torch.compiler.reset()
            compile_parts(model, backend="aot_eager", dynamic=False)
        found.append(gradients(model, ids))
    (plain, all_kept), (again, kept) = found
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert kept < 0.7 * all_kept
