"""What lets a GPU work without waiting for the program, nor the program for it.

A program only queues a GPU's work, and should be about a step ahead of it. It falls behind where it reads a number that
is not computed yet, where copies are queued behind a whole step, and where Python's garbage collector walks through all
objects at a moment of its choosing.
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from nanochat.data.batch import Batch

FREEZE_AFTER = 10  # steps; what exists by then (modules, compiled code) stays until the end
COLLECT_EVERY = 200  # steps


class OnTheWay:
    """Numbers of a device, as a vector. On a GPU their copy is queued at once, and only `read` waits for it."""

    def __init__(self, numbers: Tensor) -> None:
        # Of a GPU's tensor, a copy that does not block goes to pinned memory.
        self.numbers = numbers.to("cpu", non_blocking=True) if numbers.is_cuda else numbers
        self.copied = torch.cuda.Event() if numbers.is_cuda else None
        if self.copied is not None:
            self.copied.record()

    def read(self) -> list[float]:
        if self.copied is not None:
            self.copied.synchronize()
        return self.numbers.tolist()


def on_device(batches: Iterable[Batch], device: torch.device) -> list[Batch]:
    """The batches on a device. To a GPU they are copied beside the step that it still works on."""
    if device.type != "cuda":
        return [batch.to(device) for batch in batches]
    working, copying = torch.cuda.current_stream(device), _copying(device)
    with torch.cuda.stream(copying):
        moved = [batch.to(device) for batch in batches]
    working.wait_stream(copying)
    for batch in moved:
        for tensor in vars(batch).values():
            if isinstance(tensor, Tensor):
                tensor.record_stream(working)  # its memory may not be used anew before the step has read it
    return moved


@lru_cache(maxsize=8)
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class Garbage:
    """Collects garbage after so many steps; see `few_collections`."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.steps = 0

    def step(self) -> None:
        """A step is over."""
        self.steps += 1
        if self.steps == FREEZE_AFTER:
            gc.collect()
            gc.freeze()
            gc.disable()
        elif self.steps > FREEZE_AFTER and self.steps % self.every == 0:
            gc.collect()

    def collect(self) -> None:
        """Something else than a step is over."""
        if self.steps >= FREEZE_AFTER:
            gc.collect()


@contextmanager
def few_collections(every: int = COLLECT_EVERY) -> Iterator[Garbage]:
    """Collect Python's garbage every `every` steps only, so that it costs no step in between, and all ranks the same.

    Objects of the first steps are frozen, which means that later collections do not look at them.
    """
    was_enabled = gc.isenabled()
    try:
        yield Garbage(every)
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
