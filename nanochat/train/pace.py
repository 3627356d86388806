"""Whether the ranks of a run belong together and keep up with each other: the slowest one sets everybody's pace."""

import socket
import statistics
import time

import torch
import torch.distributed as dist

from nanochat.errors import UserError
from nanochat.runtime import Runtime
from nanochat.train.times import Times

EVERY = 20  # steps between two comparisons: a few numbers of each rank, through the processors' memory
SLOW = 1.5  # times the median; a rank that takes longer is named
QUIET = 60.0  # seconds after a line in which there is no other
NAME = 64  # bytes of a host's name


class Pace:
    """Compares what the ranks take for their own part of a step, and prints which hold the others up."""

    def __init__(self, name: str, times: Times, rt: Runtime) -> None:
        self.name, self.times, self.rt = name, times, rt
        times.has_events = times.is_gpu and rt.world > 1
        self.since: tuple[int, float] | None = None  # the step and the own seconds of the last comparison
        self.hosts: list[str] = []
        self.printed = float("-inf")

    def step(self, step: int) -> None:
        """A step is over. Every EVERY steps a collective call; the first steps, which compile, do not count."""
        if self.rt.world == 1 or step % EVERY:
            return
        before, self.since = self.since, (step, self.times.own())
        if before is None or step <= before[0]:
            return
        self.hosts = self.hosts or _hosts(self.rt.world)
        mine = (self.since[1] - before[1]) / (step - before[0])
        seconds = [float(each) for each in _gathered(torch.tensor([mine], dtype=torch.float64), self.rt.world)]
        slow = stragglers(seconds)
        if slow and time.monotonic() - self.printed >= QUIET:
            named = " and by ".join(f"rank {n} on {self.hosts[n]}, whose own part of a step takes {seconds[n]:.3g} s"
                                    for n in slow)  # fmt: skip
            self.rt.print(f"{self.name}: step {step} is held up by {named}; the median of the {self.rt.world} ranks is "
                          f"{statistics.median_low(seconds):.3g} s")  # fmt: skip
            self.printed = time.monotonic()


def stragglers(seconds: list[float]) -> list[int]:
    """The ranks that take more than SLOW times the median. Of an even number of ranks the lower median counts."""
    most = SLOW * statistics.median_low(seconds)
    return [n for n, each in enumerate(seconds) if each > most]


def check_same_step(step: int, rt: Runtime) -> None:
    """Raise UserError where ranks would start from different steps: they do not see the same checkpoints.

    A collective call.
    """
    if rt.world == 1:
        return
    steps = [int(each) for each in _gathered(torch.tensor([step]), rt.world)]
    if other := next((n for n, each in enumerate(steps) if each != steps[0]), 0):
        raise UserError(
            f"rank 0 starts from step {steps[0]} and rank {other} on {_hosts(rt.world)[other]} from step "
            f"{steps[other]}, so they do not see the same checkpoints; put NANOCHAT_BASE_DIR on storage that all nodes "
            "share"
        )


def _hosts(world: int) -> list[str]:
    name = socket.gethostname().encode()[:NAME].ljust(NAME, b"\0")
    named = _gathered(torch.frombuffer(bytearray(name), dtype=torch.uint8), world)
    return [bytes(each.tolist()).rstrip(b"\0").decode("utf-8", "replace") for each in named]


def _gathered(mine: torch.Tensor, world: int) -> list[torch.Tensor]:
    """A tensor of every rank, in the processors' memory, so that no GPU is waited for."""
    gathered = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(gathered, mine)
    return gathered
