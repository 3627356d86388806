"""Eight GPUs that are not there: rank 0 to 7 of a process group that sends nothing, on fake tensors of device cuda.

What each rank would send in a step is counted at the collective calls, and memory at the storages; both are compared
with nanochat.plan. That ranks get the same numbers is shown with real ones (tests/test_ranks.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch.distributed as dist
from fakecuda import Memory, Training, fake_cuda, on_cuda
from steps import counted_part
from torch.testing._internal.distributed.fake_pg import FakeStore

from dev.scale_rank import Sent
from nanochat.gpt import GPTConfig
from nanochat.optim import Optimizer, adamw_groups, parameter_groups
from nanochat.plan import cost
from nanochat.plan.gpus import GPUS
from nanochat.scaling import config_from_depth

WORLD = 8


@contextmanager
def rank_of_eight(rank: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=WORLD)
    try:
        with fake_cuda():
            yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("rank, rows, accumulated", [(0, 32, False), (7, 4, True)])
def test_bytes_and_memory_of_a_rank_are_those_of_the_plan(rank, rows, accumulated):
    config = config_from_depth(20, 32768, 2048)
    with rank_of_eight(rank), Memory() as memory, Sent() as sent:
        training = Training(on_cuda(config), rows, 2048, world=WORLD).begun(accumulated)
        sent.bytes.clear()
        memory.peak = memory.bytes
        training.step()
        training.optimizer.wait()
        traffic = training.optimizer.traffic()
    gathered, scattered = sent.bytes["weights"], sent.bytes["gradients"]
    planned = cost.communication(config, GPUS["h100"], rows * 2048, WORLD)
    assert gathered == scattered == pytest.approx(traffic["weights"], abs=100) == pytest.approx(traffic["gradients"])
    assert planned.sent == pytest.approx(gathered + scattered, rel=1e-6)
    assert sum(sent.bytes.values()) - gathered - scattered < 100  # the loss and the norm
    plan = cost.training_memory(config, rows, 2048, compiled=False, ranks=WORLD)
    if not accumulated:  # no gradients where memory is fullest
        plan["gradients"] = 0.0
    assert counted_part(plan) == pytest.approx(memory.peak, rel=0.03)


def test_the_ranks_share_the_optimizer_state_evenly():
    config = config_from_depth(12, 32768, 2048)
    held = []
    for rank in range(WORLD):
        with rank_of_eight(rank):
            state = Training(on_cuda(config), 1, 64, world=WORLD).begun().optimizer.state
            held.append(sum(tensor.nbytes for of in state.values() for tensor in of.values()))
    assert max(held) < 1.02 * sum(held) / WORLD
    assert sum(held) == pytest.approx(cost.training_memory(config, 1, 64)["optimizer state"], rel=0.01)


@pytest.mark.parametrize("with_muon", [True, False])
def test_only_weights_of_the_blocks_arrive_late(with_muon):
    """Small parameters share a bucket, and the embedding is read before any block waits for its own."""
    config = GPTConfig(64, 500, 2, 2, 2, 64)
    with rank_of_eight(0):
        model = on_cuda(config)
        groups = parameter_groups(model, 1, 1, 1, 1, 0) if with_muon else (adamw_groups(model, 1, (0.9, 0.95), 0), [])
        optimizer = Optimizer(*groups)
        optimizer.gather_late(model.transformer.blocks)
    late = [name for bucket in optimizer._late for name in bucket.parameters]
    assert all(name.startswith("transformer.h.") for name in late)
    assert bool(late) == with_muon
