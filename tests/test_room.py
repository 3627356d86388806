"""Memory that runs out: for real, in processes with a limit, and then for every micro-batch above some rows."""

import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from children import processes
from test_loop import ONE, batch, by_hand, gradient, metrics, model, rows_in_turn, run, stage

from nanochat import runtime
from nanochat.data.batch import Batch
from nanochat.errors import UserError
from nanochat.optim import AdamWGroup, Optimizer
from nanochat.train.loop import probed_rows
from nanochat.train.objective import loss_of

ROOT = Path(__file__).resolve().parent.parent


def with_room_for(rows: int, seen: list[int] | None = None) -> Callable[[Batch], torch.Tensor]:
    """A loss that runs out of memory above so many rows, after its forward pass."""
    loss = loss_of(made := model(), False, ONE)

    def limited(one: Batch) -> torch.Tensor:
        found = loss(one)
        if len(one.inputs) > rows:
            torch.empty(1 << 60, dtype=torch.uint8)  # no allocator has that
        if seen is not None:
            seen.append(len(one.inputs))
        return found

    limited.model = made  # type: ignore[attr-defined]
    return limited


def trained(loss: Callable, folder: Path, stream: Iterator[Batch], **settings: object) -> dict[str, torch.Tensor]:
    """The gradient that AdamW is given last, with beta1 = 0 and rate 0."""
    made = loss.model  # type: ignore[attr-defined]
    optimizer = Optimizer([AdamWGroup(dict(made.named_parameters()), 0.0, (0.0, 0.9))], [])
    run(stage(made, stream, optimizer, loss=loss, **settings), folder)
    return {name: state["exp_avg"] for name, state in optimizer.state.items()}


@pytest.mark.parametrize("rows, seen", [(4, [4]), (3, [2, 2]), (1, [1, 1, 1, 1])])
def test_a_step_is_computed_again_with_fewer_rows(tmp_path, capsys, rows, seen):
    parts: list[int] = []
    got = trained(with_room_for(rows, parts), tmp_path, rows_in_turn(4), num_iterations=1)
    whole = by_hand(batch(0, 4))
    for name, value in whole.items():
        assert torch.allclose(got[name], value, rtol=1e-4, atol=1e-6), name
    assert parts == seen
    assert metrics(tmp_path)[0]["tok_per_second"] > 0
    said = capsys.readouterr().out.count("memory ran out")
    assert said == {4: 0, 3: 1, 1: 2}[rows]


def test_what_was_learned_of_the_room_stays(tmp_path, capsys):
    """The second micro-batch of a step fails when the first has left gradients; they may not count twice."""
    parts: list[int] = []
    loss = with_room_for(2, parts)
    sizes = iter([batch(0, 2), batch(2, 6), batch(6, 10), batch(10, 13)])
    got = trained(loss, tmp_path, sizes, accumulation=2, num_iterations=2)
    whole = by_hand(batch(6, 13))
    for name, value in whole.items():
        assert torch.allclose(got[name], value, rtol=1e-4, atol=1e-6), name
    assert parts == [2, 2, 2, 2, 2, 2, 1, 2]
    assert capsys.readouterr().out.count("memory ran out") == 1


def test_counts_that_a_batch_brings_along_are_halved_with_it(tmp_path):
    one = batch(0, 4)
    counted = Batch(one.inputs, one.targets, one.weights * -0.5, 0.0, {}, count=37)
    whole = gradient(tmp_path / "whole", iter([counted]), 1)
    halved = trained(with_room_for(2), tmp_path / "halved", iter([counted]), num_iterations=1)
    for name, value in whole.items():
        assert torch.allclose(halved[name], value, rtol=1e-4, atol=1e-7), name


def test_a_single_row_without_room_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"ran out of memory with a single row of 8 tokens; the last checkpoint"):
        trained(with_room_for(0), tmp_path, rows_in_turn(4), num_iterations=1)


def test_other_errors_are_no_matter_of_memory(tmp_path):
    def broken(one: Batch) -> torch.Tensor:
        raise RuntimeError("a bug")

    broken.model = model()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="a bug"):
        trained(broken, tmp_path, rows_in_turn(4), num_iterations=1)


class Sent(Optimizer):
    """Gradients of the step have gone to other ranks."""

    has_sent = True  # type: ignore[assignment]


def test_gradients_that_were_sent_cannot_be_taken_back(tmp_path):
    loss = with_room_for(2)
    optimizer = Sent([AdamWGroup(dict(loss.model.named_parameters()), 0.0, (0.0, 0.9))], [])  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="while the ranks exchanged their gradients; .*smaller --device_batch_size"):
        run(stage(loss.model, rows_in_turn(4), optimizer, loss=loss), tmp_path)  # type: ignore[attr-defined]


class Full(Optimizer):
    def step(self, *arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_an_optimizer_without_room_is_a_sentence(tmp_path):
    made = model()
    optimizer = Full([AdamWGroup(dict(made.named_parameters()), 0.0, (0.0, 0.9))], [])
    with pytest.raises(UserError, match="in the optimizer's part of a step"):
        run(stage(made, rows_in_turn(4), optimizer), tmp_path)


def on_a_rank(rank: int, port: int, folder: str) -> None:
    """Two micro-batches of two rows; on rank 1 a row fits at a time."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    parts: list[int] = []
    with runtime.start("cpu", "float32", 0) as rt:
        loss: Any = with_room_for(2 - rank, parts)
        optimizer = Optimizer([AdamWGroup(dict(loss.model.named_parameters()), 0.0, (0.0, 0.9))], [])
        rows = rows_in_turn(2, rank, 2)
        made = stage(loss.model, rows, optimizer, loss=loss, accumulation=2, num_iterations=1)
        run(made, Path(folder, str(rank)), rt)
        state = optimizer.state_dict()["state"]  # whole on rank 0
        torch.save({name: each["exp_avg"] for name, each in state.items()}, Path(folder, f"gradient{rank}.pt"))
        Path(folder, f"parts{rank}.json").write_text(json.dumps(parts), encoding="utf-8")
        assert probed_rows(loss.model, loss, 2, 8, 1.0, rt) == 1


def test_a_rank_without_room_keeps_step_with_the_others(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [processes.Process(target=on_a_rank, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    parts = [json.loads((tmp_path / f"parts{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert parts == [[2, 2], [1, 1, 1, 1]]
    whole, got = by_hand(batch(0, 8)), torch.load(tmp_path / "gradient0.pt", weights_only=True)
    assert got.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.allclose(got[name], value, rtol=1e-4, atol=1e-6), name


# ---------------------------------------------------------------- --device_batch_size=auto


@pytest.mark.parametrize("room, rows", [(8, 8), (7, 4), (1, 1)])
def test_the_probe_finds_how_many_rows_fit_and_leaves_nothing_behind(room, rows):
    loss = with_room_for(room)
    made = loss.model  # type: ignore[attr-defined]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert probed_rows(made, loss, 8, 8, 1000.0, ONE) == rows
    assert all(parameter.grad is None for parameter in made.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_probe_holds_the_room_of_the_optimizer():
    made = model()
    with pytest.raises(UserError, match="single row"):
        probed_rows(made, loss_of(made, False, ONE), 2, 8, 2.0**60, ONE)


# ---------------------------------------------------------------- for real

LIMITED = """
import resource, sys
from nanochat import runtime
from nanochat.data.batch import Batch
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.train.loop import Stage, TrainState, train
from nanochat.train.objective import loss_of
from pathlib import Path
import torch

config = GPTConfig(sequence_len=256, vocab_size=512, n_layer=2, n_head=2, n_kv_head=2, n_embd=128)
torch.set_num_threads(1)
with runtime.start("cpu", "float32", 0) as rt:
    torch.manual_seed(0)
    model = GPT(config)
    ids = torch.randint(512, (64, 257))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(64, 256), 0.0, {})
    small = Batch(batch.inputs[:1], batch.targets[:1], batch.weights[:1], 0.0, {})
    stage = Stage("test", model, loss_of(model, False, rt), Optimizer(*parameter_groups(model, .1, .01, .01, .1, 0.)),
                  iter([small, batch, batch]), 1, lambda *_: Rates(), lambda *_: None, lambda *_: None)
    stage.num_iterations = 1
    train(stage, TrainState(), rt, MetricsLog(Path(sys.argv[1]), "dummy", {}))
    if more := int(sys.argv[2]):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)
    stage.num_iterations = 3
    train(stage, TrainState(step=1), rt, MetricsLog(Path(sys.argv[1]), "dummy", {}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit on memory")
def test_a_run_whose_memory_runs_out_goes_on_with_fewer_rows(tmp_path):
    def losses(name: str, more: int) -> tuple[list[float], str]:
        command = [sys.executable, "-c", LIMITED, str(tmp_path / name), str(more)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["loss"] for line in lines], done.stdout

    free, said = losses("free", 0)
    assert "memory ran out" not in said
    limited, said = losses("limited", 150 << 20)
    rows = [int(number) for number in re.findall(r"continues with (\d+)", said)]
    assert rows and rows[-1] < 64 and said.count("memory ran out") == len(rows)
    assert limited == pytest.approx(free, rel=1e-4)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # this process is as it was
