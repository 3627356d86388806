"""What a rank does for dev/bench_scale.py: steps of THE loop's kind, with its collectives counted and timed."""

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed as dist
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanochat import runtime
from nanochat.data.batch import Batch
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan.scale import Layout
from nanochat.runtime import Runtime
from nanochat.scaling import config_from_depth
from nanochat.train.loop import Stage, compute
from nanochat.train.objective import loss_of
from nanochat.train.parallel import divide, optimizer_for
from nanochat.train.room import Room
from nanochat.train.times import Times

SMALL = 1024  # bytes; what is smaller is a loss, a norm or a count
KINDS = {"allgather": "weights", "reduce_scatter": "gradients", "alltoall": "muon", "allreduce": "sums"}


@dataclass(frozen=True)
class Size:
    """Of the measured step."""

    depth: int
    vocab_size: int
    rows: int
    length: int
    accumulation: int = 1

    @property
    def config(self) -> GPTConfig:
        return config_from_depth(self.depth, self.vocab_size, self.length)


class Sent(TorchDispatchMode):
    """Counts the bytes that a rank sends over a ring, by kind, of what torch.distributed is asked for within it.

    "sums" are all-reduces, which send everything twice: once to sum it and once to tell all. `calls` counts how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self._count(func.__name__.strip("_"), [*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: list) -> None:
        (kind,) = (kind for start, kind in KINDS.items() if name.replace("_", "").startswith(start.replace("_", "")))
        ranks = next(dist.ProcessGroup.unbox(each).size() for each in args if isinstance(each, torch.ScriptObject)
                     and "ProcessGroup" in str(each._type()))  # fmt: skip
        # Of the tensors in a call the largest is the whole, the other one, if any, a rank's part.
        largest = max(tensor.nbytes for tensor in tree_leaves(args) if isinstance(tensor, torch.Tensor))
        kind = "small" if largest < SMALL else kind
        self.bytes[kind] += (2 if "allreduce" in name else 1) * largest * (ranks - 1) // ranks
        self.calls[kind] += 1


class Training:
    """A model as it lies on the ranks, its optimizer, and steps on random ids."""

    def __init__(self, size: Size, layout: Layout, rt: Runtime) -> None:
        self.size, self.rt = size, rt
        torch.manual_seed(0)
        self.model = GPT(size.config, rt.dtype)
        divide(self.model, layout, rt)
        self.optimizer: Optimizer = optimizer_for(self.model, *parameter_groups(self.model, 0.3, 0.004, 0.02, 0.5, 0.2))
        self.stage = Stage(
            "bench", self.model, loss_of(self.model, False, rt), self.optimizer, iter(()), size.accumulation,
            lambda step, progress: Rates(), lambda *_: None, lambda *_: None,
        )  # fmt: skip

    def step(self) -> None:
        shape, vocab = (self.size.rows, self.size.length), self.size.vocab_size
        batches = [
            Batch(torch.randint(0, vocab, shape), torch.randint(0, vocab, shape), torch.ones(shape), 0.0, {})
            for _ in range(self.size.accumulation)
        ]
        counted = self.rt.world * self.size.accumulation * self.size.rows * self.size.length
        compute(self.stage, batches, counted, Rates(), self.rt, Room("bench", "--rows", self.rt))
        self.optimizer.wait()


def measured(size: Size, layout: Layout, steps: int, rt: Runtime) -> dict:
    """Of a step: bytes and calls by kind; seconds of all, of its parts, and in which a collective was under way."""
    training = Training(size, layout, rt)
    for _ in range(2):
        training.step()
    with Sent() as sent:
        training.step()
    seconds = [_seconds(training.step) for _ in range(steps)]
    training.stage.times = Times()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            training.step()
    spans = [(event.time_range.start, event.time_range.end) for event in profiled.events() or []
             if event.name.startswith("gloo:")]  # fmt: skip
    parts = training.stage.times.read()
    return {
        "bytes": dict(sent.bytes), "calls": dict(sent.calls), "traffic": training.optimizer.traffic(),
        "seconds": statistics.median(seconds), "communication": covered(spans) / 1e6 / steps,
        **{part: parts.get(part, 0.0) / steps for part in ("forward", "backward", "optimizer")},
    }  # fmt: skip


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of all spans together, what several of them share counted once."""
    total, end = 0.0, float("-inf")
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(size: Size, layout: Layout, steps: int) -> None:
    torch.set_num_threads(1)
    with runtime.start("cpu", "float32", seed=0) as rt:
        found = measured(size, layout, steps, rt)
        if rt.is_main:
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asked = json.loads(os.environ["BENCH_SCALE"])
    main(Size(**asked["size"]), Layout(*asked["layout"]), asked["steps"])
