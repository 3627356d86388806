"""The optimizers against torch's AdamW, an SVD, and themselves on another number of ranks."""

import copy
import multiprocessing
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import AdamWGroup, MuonGroup, Optimizer, Rates, muon_update, orthogonalize, parameter_groups

# Children are forked from a process that has imported torch already; starting one costs little.
processes = multiprocessing.get_context("fork")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(noise(*shape, seed=seed))


# ---------------------------------------------------------------- orthogonalisation


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40), cols=st.integers(1, 40), seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1, 1e3])
)
def test_orthogonalize_keeps_the_singular_directions_and_evens_out_the_values(rows, cols, seed, scale):
    # Small singular values would drown in the rounding to bfloat16, so the smallest is a fifth of the largest.
    rank = min(rows, cols)
    u, _, vt = torch.linalg.svd(noise(rows, cols, seed=seed).double(), full_matrices=False)
    matrix = (u * torch.linspace(1, 0.2, rank)) @ vt * scale
    got = orthogonalize(matrix.float()[None])[0]
    assert got.shape == (rows, cols) and got.dtype == torch.float32
    inner = u.mT @ got.double() @ vt.mT  # diagonal where the directions are kept
    values = inner.diagonal()
    assert values.min() > 0.6 and values.max() < 1.4
    assert (inner - values.diag()).abs().max() < 0.2
    assert (got.double() - u @ inner @ vt).abs().max() < 0.2  # and nothing outside them


def test_orthogonalize_takes_each_matrix_of_a_stack_by_itself():
    stack = torch.stack([noise(6, 10, seed=seed) * 10.0**seed for seed in range(3)])
    for matrix, got in zip(stack, orthogonalize(stack), strict=True):
        torch.testing.assert_close(got, orthogonalize(matrix[None])[0], rtol=0, atol=0.02)


def test_orthogonalize_of_nothing_is_nothing():
    assert orthogonalize(torch.zeros(2, 3, 5)).abs().max() == 0


# ---------------------------------------------------------------- AdamW


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_that_of_torch(decay):
    ours, theirs = parameter(7, 5), parameter(7, 5)
    mine = Optimizer([AdamWGroup({"w": ours}, 0.1, (0.8, 0.95), decay)], [])
    adamw = torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-10, weight_decay=decay)
    for step in range(8):
        factor = 1 - step / 10
        ours.grad = noise(7, 5, seed=step + 1)
        theirs.grad = ours.grad.clone()
        adamw.param_groups[0]["lr"] = 0.1 * factor
        adamw.step()
        mine.step(Rates(lr=factor))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    mine.zero_grad()
    assert ours.grad is None


# ---------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)], ids=str)
def test_muon_updates_have_even_rows_or_columns_and_the_size_of_a_rotation(shape):
    gradient = noise(2, *shape)
    rows, cols = shape
    second = torch.zeros(2, rows, 1) if rows >= cols else torch.zeros(2, 1, cols)
    update = muon_update(gradient, torch.zeros(2, *shape), second, 0.95, 0.9)
    spread = update.square().mean(-1 if rows >= cols else -2).sqrt()
    torch.testing.assert_close(spread, spread.mean(1, keepdim=True).expand_as(spread))
    size = update.norm(dim=(-2, -1))  # that of a matrix whose singular values are all about 1
    assert ((size / min(shape) ** 0.5 - 1).abs() < 0.3).all()


def test_muon_remembers_with_nesterov_momentum():
    """The momentum is a running mean of gradients, and the update looks one step ahead of it."""
    gradients = [noise(1, 6, 6, seed=seed) for seed in range(3)]
    momentum, second, mean = torch.zeros(1, 6, 6), torch.zeros(1, 6, 1), torch.zeros(1, 6, 6)
    for gradient in gradients:
        update = muon_update(gradient, momentum, second, 0.9, 1.0)  # beta2 = 1: no second moment yet
        mean = 0.9 * mean + 0.1 * gradient
        torch.testing.assert_close(momentum, mean)
        ahead = orthogonalize(0.1 * gradient + 0.9 * mean)
        torch.testing.assert_close(update, ahead, rtol=0, atol=0.03)


@pytest.mark.parametrize("shape, stretch", [((20, 5), 2.0), ((5, 20), 1.0), ((6, 6), 1.0)], ids=str)
def test_the_rate_of_tall_matrices_is_stretched(shape, stretch):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = noise(*shape)
    Optimizer([], [MuonGroup({"w": weight}, lr=0.01)]).step(Rates(lr=0.5))
    rms = float(weight.detach().norm()) / min(shape) ** 0.5
    assert rms == pytest.approx(0.005 * stretch, rel=0.3)


def test_muons_decay_is_cautious_and_scheduled():
    """It pulls only where the update goes towards zero anyway."""
    def step(decay: float, scheduled: float) -> tuple[torch.Tensor, torch.Tensor]:
        weight = parameter(6, 8)
        before = weight.detach().clone()
        weight.grad = noise(6, 8, seed=1)
        group = MuonGroup({"w": weight}, lr=0.01, weight_decay=decay)
        Optimizer([], [group]).step(Rates(weight_decay=scheduled))
        return before, weight.detach() - before

    before, without = step(0.0, 1.0)
    _, moved = step(3.0, 0.5)
    pulled = moved - without
    towards_zero = without * before < 0
    torch.testing.assert_close(pulled[towards_zero], (-0.01 * 1.5 * before)[towards_zero], rtol=1e-3, atol=1e-6)
    assert pulled[~towards_zero].abs().max() == 0
    assert towards_zero.any() and not towards_zero.all()


def test_muon_and_adamw_lower_a_loss():
    torch.manual_seed(0)
    config = GPTConfig(sequence_len=8, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32, ve_gate_channels=8)
    model = GPT(config)
    model.init_weights()
    optimizer = Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1))
    ids = torch.randint(64, (4, 9))
    losses = []
    for _ in range(30):
        loss = model(ids[:, :-1], ids[:, 1:]).mean()
        torch.autograd.backward(loss)
        optimizer.step(Rates())
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(4.16, abs=0.05) and losses[-1] < 0.5


# ---------------------------------------------------------------- groups


def test_every_parameter_has_one_optimizer_with_its_rate():
    config = GPTConfig(sequence_len=8, vocab_size=64, n_layer=4, n_head=4, n_kv_head=2, n_embd=192)
    model = GPT(config)
    adamw, muon = parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.28)
    names = [name for group in (*adamw, *muon) for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    rates = {name: group for group in (*adamw, *muon) for name in group.parameters}
    # 192 is a quarter of 768, so AdamW's rates for matrices are doubled.
    expected = {"lm_head.weight": 0.016, "transformer.wte.weight": 0.6, "value_embeds.1.weight": 0.3,
                "resid_lambdas": 0.005, "x0_lambdas": 0.5, "smear_gate.weight": 0.2, "backout_lambda": 0.2,
                "transformer.h.0.attn.c_q.weight": 0.02, "transformer.h.3.attn.ve_gate.weight": 0.02}  # fmt: skip
    assert {name: rates[name].lr for name in expected} == pytest.approx(expected)
    shapes = [{tuple(p.shape) for p in group.parameters.values()} for group in muon]
    assert shapes == [{(2, 12)}, {(96, 192)}, {(192, 192)}, {(192, 768)}, {(768, 192)}]
    assert {group.weight_decay for group in muon} == {0.28}


def test_a_plain_model_has_no_empty_groups():
    config = GPTConfig(sequence_len=8, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32,
                       lambdas=False, value_embeds=False, smear=False, backout=False)  # fmt: skip
    adamw, muon = parameter_groups(GPT(config), 0.3, 0.008, 0.02, 0.5, 0.0)
    assert [list(group.parameters) for group in adamw] == [["lm_head.weight"], ["transformer.wte.weight"]]
    assert all(group.parameters for group in muon)


# ---------------------------------------------------------------- state, and ranks


def parts(seed: int = 0) -> Optimizer:
    """Three matrices of one shape, so that the second rank's share is short, one alone, so that it is empty."""
    muon = [
        MuonGroup({f"m{n}": parameter(6, 4, seed=seed + n) for n in range(3)}, 0.02, 0.1),
        MuonGroup({"wide": parameter(3, 9, seed=seed + 7)}, 0.02),
    ]
    return Optimizer([AdamWGroup({"a": parameter(5, seed=seed + 8), "unused": parameter(2)}, 0.1, (0.8, 0.9))], muon)


def parameters(optimizer: Optimizer) -> dict[str, nn.Parameter]:
    return {name: p for group in (*optimizer.adamw, *optimizer.muon) for name, p in group.parameters.items()}


def run_steps(optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for n, (name, p) in enumerate(parameters(optimizer).items()):
            p.grad = None if name == "unused" else noise(*p.shape, seed=100 * step + n)
        optimizer.step(Rates(lr=1 - step / 20, momentum=0.9))


def assert_same(one: object, other: object, rtol: float = 0.0, atol: float = 0.0) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], rtol, atol)
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
    else:
        assert one == other


def test_the_state_goes_through_a_file_and_on_to_the_bit(tmp_path):
    whole, first = parts(), parts()
    run_steps(whole, range(7))
    run_steps(first, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = parts(seed=50)
    for name, p in parameters(second).items():
        p.data.copy_(parameters(first)[name].data)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run_steps(first, range(3, 7))  # what was loaded is a copy: going on here does not change it there
    run_steps(second, range(3, 7))
    for name, p in parameters(whole).items():
        assert torch.equal(p, parameters(second)[name]), name
    assert_same(whole.state_dict(), second.state_dict())
    assert "unused" not in whole.state_dict()["state"]
    assert whole.state_dict()["state"]["m2"]["momentum"].shape == (6, 4)
    assert whole.state_dict()["state"]["m2"]["second"].shape == (6, 1)
    assert whole.state_dict()["state"]["wide"]["second"].shape == (1, 9)


def test_a_state_from_before_the_first_step():
    fresh = parts()
    state = copy.deepcopy(fresh.state_dict())
    other = parts()
    run_steps(other, range(2))
    other.load_state_dict(state)
    assert (other.steps, other.state) == (0, {})


def two_ranks(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    optimizer = parts()
    fresh = optimizer.state_dict()  # a collective call also before the first step
    run_steps(optimizer, range(4))
    after4 = copy.deepcopy(optimizer.state_dict())
    taken_up = parts()
    with torch.no_grad():
        one_rank = torch.load(Path(folder, "one.pt"), weights_only=True)
        for name, p in parameters(taken_up).items():
            p.copy_(one_rank["parameters"][name])
    taken_up.load_state_dict(one_rank["state"])
    run_steps(taken_up, range(4, 6))
    result = {
        "fresh": fresh,
        "after4": after4,
        "parameters": {name: p.data for name, p in parameters(optimizer).items()},
        "after6": {name: p.data for name, p in parameters(taken_up).items()},
        "state6": taken_up.state_dict(),
    }
    torch.save(result, Path(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    yield number


def test_two_ranks_do_what_one_does(tmp_path, port):
    one = parts()
    run_steps(one, range(4))
    state4, after4 = copy.deepcopy(one.state_dict()), {name: p.data.clone() for name, p in parameters(one).items()}
    torch.save({"state": state4, "parameters": after4}, tmp_path / "one.pt")
    run_steps(one, range(4, 6))
    children = [processes.Process(target=two_ranks, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert_same(first, second)
    assert first["fresh"] == {"steps": 0, "state": {}}
    assert_same(first["after4"], state4, rtol=1e-4, atol=1e-5)
    assert_same(first["parameters"], after4, rtol=1e-4, atol=1e-5)
    assert_same(first["after6"], {name: p.data for name, p in parameters(one).items()}, rtol=1e-4, atol=1e-5)
    assert_same(first["state6"], one.state_dict(), rtol=1e-4, atol=1e-5)
