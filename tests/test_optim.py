"""The optimizers against torch's AdamW, an SVD, and themselves on another number of ranks."""

import copy
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from children import processes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from nanochat import optim, reduce
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import (
    AdamWGroup,
    MuonGroup,
    Optimizer,
    Rates,
    muon_step,
    muon_update,
    orthogonalize,
    parameter_groups,
)
from nanochat.reduce import Exchange


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


@pytest.mark.parametrize("shape", [(24, 96), (96, 24)], ids=str)
def test_wide_matrices_take_the_same_steps_in_fewer_products(monkeypatch, shape):
    """Of float32; singular values from 1 down to 1e-4, which the first of the steps enlarges most."""
    monkeypatch.setattr(optim, "multiplies_bfloat16", lambda: False)
    matrices = noise(3, *shape) * torch.logspace(0, -4, shape[-1])
    x = matrices.double() / (matrices.double().norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in optim.POLAR_EXPRESS:
        cube = x @ x.mT @ x
        x = a * x + b * cube + c * x @ x.mT @ cube
    torch.testing.assert_close(orthogonalize(matrices).double(), x, rtol=0, atol=2e-4)


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
    update = muon_update(gradient, torch.zeros(2, *shape), second, 0.95, 0.05, 0.1)
    spread = update.square().mean(-1 if rows >= cols else -2).sqrt()
    torch.testing.assert_close(spread, spread.mean(1, keepdim=True).expand_as(spread))
    size = update.norm(dim=(-2, -1))  # that of a matrix whose singular values are all about 1
    assert ((size / min(shape) ** 0.5 - 1).abs() < 0.3).all()


def test_muon_remembers_with_nesterov_momentum():
    """The momentum is a running mean of gradients, and the update looks one step ahead of it."""
    gradients = [noise(1, 6, 6, seed=seed) for seed in range(3)]
    momentum, second, mean = torch.zeros(1, 6, 6), torch.zeros(1, 6, 1), torch.zeros(1, 6, 6)
    for gradient in gradients:
        update = muon_update(gradient, momentum, second, 0.9, 0.1, 0.0)  # no second moment yet
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
    config = GPTConfig(sequence_len=8, vocab_size=64, n_layer=4, n_head=4, n_kv_head=2, n_embd=192, bigram_rows=31)
    model = GPT(config)
    adamw, muon = parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.28)
    names = [name for group in (*adamw, *muon) for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    rates = {name: group for group in (*adamw, *muon) for name in group.parameters}
    # 192 is a quarter of 768, so AdamW's rates for matrices are doubled.
    expected = {"lm_head.weight": 0.016, "transformer.wte.weight": 0.6, "value_embeds.1.weight": 0.3,
                "bigram.weight": 0.15,
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


# ---------------------------------------------------------------- a step that counts, and one that does not


def parts(seed: int = 0, compiled: bool = False) -> Optimizer:
    """Three matrices of one shape, so that the second rank's share is short, one alone, so that it is empty."""
    muon = [
        MuonGroup({f"h.{n}.m": parameter(6, 4, seed=seed + n) for n in range(3)}, 0.02, 0.1),
        MuonGroup({"h.1.wide": parameter(3, 9, seed=seed + 7)}, 0.02),
    ]
    adamw = AdamWGroup({"a": parameter(5, seed=seed + 8), "b": parameter(4, 2, seed=seed + 9)}, 0.1, (0.8, 0.9), 0.01)
    return Optimizer([adamw], muon, compiled)


def parameters(optimizer: Optimizer) -> dict[str, nn.Parameter]:
    return {name: p for group in (*optimizer.adamw, *optimizer.muon) for name, p in group.parameters.items()}


def gradients(optimizer: Optimizer, step: int) -> dict[str, torch.Tensor]:
    return {name: noise(*p.shape, seed=100 * step + n) for n, (name, p) in enumerate(parameters(optimizer).items())}


def run_steps(optimizer: Optimizer, steps: range, factor: float = 1.0) -> None:
    """Steps with gradients of noise, each rank having its share of them; they are divided by `factor` at first."""
    for step in steps:
        for name, gradient in gradients(optimizer, step).items():
            parameters(optimizer)[name].grad = gradient / optimizer.world / factor
        optimizer.reduce()
        given = () if factor == 1 else (torch.tensor(factor), torch.tensor(False))
        optimizer.step(Rates(lr=1 - step / 20, momentum=0.9), *given)
        optimizer.zero_grad()


def values(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters(optimizer).items()}


def assert_same(one: object, other: object, rtol: float = 0.0, atol: float = 0.0) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], rtol, atol)
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
    else:
        assert one == other


@pytest.mark.parametrize("on_device", [False, True])
def test_gradients_are_multiplied_by_the_factor(on_device):
    plain, scaled = parts(), parts()
    scaled.skips_on_device = on_device
    run_steps(plain, range(3))
    run_steps(scaled, range(3), factor=2**-7)
    assert_same(values(plain), values(scaled), rtol=1e-5, atol=1e-6)
    assert_same(plain.state_dict(), scaled.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_skipped_step_changes_nothing(on_device):
    """Neither on the host nor where, as on a GPU, the device alone knows that it is skipped."""
    plain, skipping = parts(), parts()
    skipping.skips_on_device = on_device
    run_steps(plain, range(4))
    run_steps(skipping, range(2))
    before, state = values(skipping), copy.deepcopy(skipping.state_dict())
    for name, gradient in gradients(skipping, 2).items():
        gradient.view(-1)[0] = float("nan") if name == "a" else float("inf")
        parameters(skipping)[name].grad = gradient
    norm = skipping.reduce()
    skipping.step(Rates(), 1 / norm, ~norm.isfinite())
    skipping.zero_grad()
    assert_same(values(skipping), before)
    assert_same(skipping.state_dict(), state)
    run_steps(skipping, range(2, 4))
    assert_same(values(plain), values(skipping))
    assert_same(plain.state_dict(), skipping.state_dict())


def test_a_first_step_that_is_skipped_leaves_no_state():
    optimizer = parts()
    optimizer.skips_on_device = True
    for name, gradient in gradients(optimizer, 0).items():
        parameters(optimizer)[name].grad = gradient
    optimizer.step(Rates(), None, torch.tensor(True))
    assert optimizer.state_dict() == {"steps": 0, "state": {}}


def test_the_norm_is_that_of_the_whole_gradient():
    optimizer = parts()
    for name, gradient in gradients(optimizer, 0).items():
        parameters(optimizer)[name].grad = gradient
    whole = torch.cat([gradient.flatten() for gradient in gradients(optimizer, 0).values()])
    torch.testing.assert_close(optimizer.reduce(), whole.norm())
    optimizer.step(Rates())
    assert all(p.grad is None for group in optimizer.muon for p in group.parameters.values())


def test_a_parameter_without_a_gradient_has_one_of_zero():
    some, all_ = parts(), parts()
    for optimizer in (some, all_):
        for name, gradient in gradients(optimizer, 0).items():
            is_left_out = name in ("b", "h.1.m")
            parameters(optimizer)[name].grad = gradient * (not is_left_out)
            if is_left_out and optimizer is some:
                parameters(optimizer)[name].grad = None
        optimizer.step(Rates())
    assert_same(values(some), values(all_))
    assert_same(some.state_dict(), all_.state_dict())


# ---------------------------------------------------------------- state


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
    assert_same(values(whole), values(second))
    assert_same(whole.state_dict(), second.state_dict())
    assert whole.state_dict()["steps"] == 7
    assert whole.state_dict()["state"]["h.2.m"]["momentum"].shape == (6, 4)
    assert whole.state_dict()["state"]["h.2.m"]["second"].shape == (6, 1)
    assert whole.state_dict()["state"]["h.1.wide"]["second"].shape == (1, 9)
    assert whole.state_dict()["state"]["b"]["exp_avg_sq"].shape == (4, 2)


def test_a_state_from_before_the_first_step():
    fresh = parts()
    state = copy.deepcopy(fresh.state_dict())
    other = parts()
    run_steps(other, range(2))
    other.load_state_dict(state)
    assert (other.steps, other.state) == (0, {})


def test_adamw_begins_anew_with_a_parameter_that_a_checkpoint_lacks():
    optimizer, again = parts(), parts()
    run_steps(optimizer, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    del state["state"]["b"]
    again.load_state_dict(state)
    assert again.state_dict()["state"]["b"]["exp_avg"].abs().max() == 0
    del state["state"]
    with pytest.raises(KeyError):
        again.load_state_dict({"steps": 2, "state": {"a": {}}})


# ---------------------------------------------------------------- several ranks


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    yield number


def as_rank(rank: int, world: int, port: int, bucket: int, folder: Path, main: Callable[[Path], dict]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    reduce.BUCKET_BYTES = bucket
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.save(main(folder), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def on_ranks(world: int, port: int, bucket: int, folder: Path, main: Callable[[Path], dict]) -> list[dict]:
    """What `main` returns on each rank, with buckets of that many bytes."""
    each = (world, port, bucket, folder, main)
    children = [processes.Process(target=as_rank, args=(rank, *each)) for rank in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0] * world
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def steps_and_more(folder: Path) -> dict:
    optimizer = parts()
    fresh = optimizer.state_dict()  # a collective call also before the first step
    run_steps(optimizer, range(4))
    after4 = copy.deepcopy(optimizer.state_dict())
    taken_up = parts()
    with torch.no_grad():
        one_rank = torch.load(folder / "one.pt", weights_only=True)
        for name, p in parameters(taken_up).items():
            p.copy_(one_rank["parameters"][name])
    taken_up.load_state_dict(one_rank["state"])
    run_steps(taken_up, range(4, 6))
    return {
        "fresh": fresh,
        "after4": after4,
        "parameters": values(optimizer),
        "after6": values(taken_up),
        "state6": taken_up.state_dict(),
        "held": sum(x.numel() for state in taken_up.state.values() for x in state.values()),
    }


@pytest.mark.parametrize("bucket", [1, 2**25], ids=["alone", "together"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_do_what_one_does(world, bucket, tmp_path, port):
    """Each holds its share of the state only, and a state may go from one number of ranks to another."""
    one = parts()
    run_steps(one, range(4))
    state4, after4 = copy.deepcopy(one.state_dict()), values(one)
    torch.save({"state": state4, "parameters": after4}, tmp_path / "one.pt")
    run_steps(one, range(4, 6))
    first, *others = on_ranks(world, port, bucket, tmp_path, steps_and_more)
    close = {"rtol": 1e-4, "atol": 1e-5}
    assert first["fresh"] == {"steps": 0, "state": {}}
    assert_same(first["after4"], state4, **close)
    assert_same(first["parameters"], after4, **close)
    assert_same(first["after6"], values(one), **close)
    assert_same(first["state6"], one.state_dict(), **close)
    for other in others:  # of the state only the first rank has all
        assert_same(other["parameters"], first["parameters"])
        assert_same(other["after6"], first["after6"])
        assert other["state6"] == {"steps": 6, "state": {}}
    whole = sum(x.numel() for state in one.state.values() for x in state.values())
    assert first["held"] + sum(other["held"] for other in others) == whole
    assert max(rank["held"] for rank in (first, *others)) < whole


CONFIG = GPTConfig(sequence_len=8, vocab_size=50, n_layer=3, n_head=2, n_kv_head=1, n_embd=32, ve_gate_channels=8)


def train(folder: Path, late: bool = False, tied: bool = False) -> dict:
    """Four steps of two micro-batches; the rows are shared out among the ranks, and one rank may have none."""
    torch.manual_seed(0)
    model = GPT(replace(CONFIG, tied=tied))
    with torch.no_grad():  # where a gradient is 0 but for rounding, Adam's first steps would be rounding
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    optimizer = Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1))
    if late:
        optimizer.gather_late(model.transformer.blocks)
    seen: list[bool] = []
    model.transformer.wte.weight.register_hook(lambda _: seen.append(optimizer.has_sent))
    norms = []
    for _ in range(4):
        for micro in range(2):
            ids = torch.randint(50, (6, 9))
            mine = torch.arange(6) % max(1, optimizer.world - 1) == optimizer.rank  # the last of several has none
            nll = model(ids[:, :-1], ids[:, 1:])
            with optimizer.reducing() if micro else nullcontext():
                torch.autograd.backward((nll * mine[:, None]).sum() / 96)
        norms.append(optimizer.reduce())
        optimizer.step(Rates(lr=0.1), (1 / norms[-1]).clamp_max(1), ~norms[-1].isfinite())
        optimizer.zero_grad()
    pending = [name for b in optimizer.exchange.buckets if b.work is not None for name in b.parameters]
    optimizer.wait()
    return {
        "weights": {name: p.detach() for name, p in model.named_parameters()},
        "norms": torch.stack(norms), "sent": seen, "pending": pending, "state": optimizer.state_dict(),
    }  # fmt: skip


def train_late(folder: Path) -> dict:
    return train(folder, late=True)


def train_tied(folder: Path) -> dict:
    return train(folder, tied=True)


@pytest.mark.parametrize("world, main", [(2, train), (4, train), (4, train_late), (2, train_tied)])
def test_a_model_learns_on_ranks_what_it_learns_on_one(world, main, tmp_path, port):
    """Gradients leave while the backward pass still runs, on the last micro-batch only."""
    one = main(tmp_path)
    first, *others = on_ranks(world, port, 20_000, tmp_path, main)
    assert_same(first["weights"], one["weights"], rtol=1e-2, atol=2e-3)
    assert_same(first["norms"], one["norms"], rtol=1e-3, atol=1e-5)
    for other in others:
        assert_same(other["weights"], first["weights"])
        assert_same(other["norms"], first["norms"])
    assert not any(one["sent"]) and first["sent"] == [False, True] * 4
    assert any(name.startswith("transformer.h.") for name in first["pending"]) == (main is train_late)
    assert all(name.startswith("transformer.h.") for name in first["pending"])


def abort(folder: Path) -> dict:
    optimizer, plain = parts(), parts()
    with optimizer.reducing():
        torch.autograd.backward(torch.stack([p.sum() for p in list(parameters(optimizer).values())[2:]]).sum())
    has_sent = optimizer.has_sent
    optimizer.zero_grad()
    run_steps(optimizer, range(2))
    run_steps(plain, range(2))
    return {"has_sent": [has_sent, optimizer.has_sent], "weights": values(optimizer), "plain": values(plain)}


def test_gradients_that_were_sent_can_be_dropped(tmp_path, port):
    """As those of a step that is begun anew."""
    for rank in on_ranks(2, port, 1, tmp_path, abort):
        assert rank["has_sent"] == [True, False]
        assert_same(rank["weights"], rank["plain"])


def traced(folder: Path) -> dict:
    plain, traced = parts(), parts(compiled=True)
    graphs = CompileCounterWithBackend("aot_eager")
    traced._muon_step = torch.compile(muon_step, dynamic=False, fullgraph=True, backend=graphs)
    traced.skips_on_device = True
    run_steps(plain, range(4), factor=0.5)
    run_steps(traced, range(4), factor=0.5)
    states = [optimizer.state_dict() for optimizer in (plain, traced)]
    return {"graphs": graphs.frame_count, "values": [values(plain), values(traced)], "states": states}


def test_muon_in_a_graph_is_muon_and_new_rates_need_no_new_graph(tmp_path, port):
    """All of Inductor but its kernels: those round in another order, and compiling them takes a minute.

    In a process of its own, because none that has compiled something can fork others that compute gradients.
    """
    (got,) = on_ranks(1, port, 1, tmp_path, traced)
    assert got["graphs"] == len(parts().muon)
    assert_same(*got["values"], rtol=0, atol=1e-3)
    assert_same(*got["states"], rtol=1e-2, atol=1e-2)


# ---------------------------------------------------------------- who owns what, and how much is sent


@settings(max_examples=60)
@given(
    world=st.integers(2, 8), layers=st.integers(1, 20), per_layer=st.integers(1, 3), size=st.sampled_from([60, 2**25])
)
def test_matrices_are_shared_out_evenly_and_all_are_packed(world, layers, per_layer, size):
    names = [f"transformer.h.{layer}.m{n}" for layer in range(layers) for n in range(per_layer)]
    shape = {name: parameter(2, 3, seed=n) for n, name in enumerate(names)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "BUCKET_BYTES", size)
        shapes = [shape, {"transformer.h.0.w": parameter(3, 3)}]
        exchanges = [Exchange(shapes, {}, rank, world) for rank in range(world)]
    owned = [exchange.owned(0) for exchange in exchanges]
    assert sorted(name for mine in owned for name in mine) == sorted(names)
    counts = [len(mine) for mine in owned]
    if size == 60:  # one of each rank's at a time
        assert max(counts) - min(counts) <= 1
    assert sum(len(exchange.owned(1)) for exchange in exchanges) == 1
    full_first = [len(mine) + len(e.owned(1)) for mine, e in zip(owned, exchanges, strict=True)]
    assert max(full_first) - min(full_first) <= 1 or size != 60  # the odd one goes to a rank that has fewer
    for bucket in exchanges[0].matrices[0]:
        tensors = list(bucket.parameters.values())
        array = bucket.pack([t.detach() for t in tensors])
        assert array.shape == (world, bucket.width)
        for before, after in zip(tensors, bucket.unpack(array), strict=True):
            assert torch.equal(before, after)


def test_buckets_leave_from_the_last_layer_to_the_first():
    model = GPT(GPTConfig(sequence_len=8, vocab_size=50, n_layer=4, n_head=2, n_kv_head=1, n_embd=32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "BUCKET_BYTES", 1)
        adamw, muon = parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1)
        others = {name: p for group in adamw for name, p in group.parameters.items()}
        exchange = Exchange([group.parameters for group in muon], others, 0, 2)
    order = [name for bucket in exchange.buckets for name in bucket.parameters]
    assert sorted(order) == sorted(name for name, _ in model.named_parameters())
    assert order[0] == "lm_head.weight"
    layers = [[int(name.split(".h.")[1][0]) for name in b.parameters if ".h." in name] for b in exchange.buckets]
    firsts = [min(layer) for layer in layers if layer]  # a bucket leaves with its first layer, whose gradient is last
    assert firsts == sorted(firsts, reverse=True) and {3, 2, 1, 0} == set(firsts)
    assert order.index("value_embeds.3.weight") < order.index("transformer.h.2.attn.c_q.weight")
    assert "transformer.wte.weight" in order[-6:]


def test_traffic_is_what_rings_send():
    """d20 on 8 ranks, from shapes alone: each rank sends 7/8 of all gradients, and 7/8 of all weights."""
    config = GPTConfig(sequence_len=2048, vocab_size=65536, n_layer=20, n_head=10, n_kv_head=10, n_embd=1280)
    with torch.device("meta"):
        model = GPT(config)
    adamw, muon = parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1)
    others = {name: p for group in adamw for name, p in group.parameters.items()}
    traffic = Exchange([group.parameters for group in muon], others, 3, 8).traffic()
    bytes_ = 4 * sum(p.numel() for p in model.parameters())
    assert traffic["gradients"] == traffic["weights"]
    assert 1 <= traffic["gradients"] / (bytes_ * 7 / 8) < 1.05  # what fills up the last buckets is little
    assert traffic["norm"] == 7
    assert set(parts().traffic().values()) == {0}
