"""Where the time of a training stage goes."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nanochat.log import duration

PARTS = (
    "starting", "data", "sampling", "compile", "forward", "backward", "optimizer", "computing", "evaluation", "saving",
    "waiting", "other",
)  # fmt: skip
OWN = ("data", "sampling", "forward", "backward")  # of a step, what a rank does at its own pace
QUEUED = ("forward", "backward")  # of these, what a program only queues for a GPU


class Times:
    """Seconds of each of PARTS. At any moment exactly one of them runs, so together they are the whole time.

    A part within another one interrupts it. "starting" is all from `began` to the loop, which leaves out Python's
    imports; "compile" is what torch.compile takes of any part, by its own count; "waiting" is for other ranks. A GPU
    computes after the program has queued the work, so there forward, backward and optimizer cannot be told apart
    without slowing it down: they, and the wait for their results, are "computing".
    """

    def __init__(
        self, so_far: dict[str, float] | None = None, is_gpu: bool = False, began: float | None = None
    ) -> None:  # fmt: skip
        self.seconds = dict.fromkeys(PARTS, 0.0) | (so_far or {})
        self.is_gpu = is_gpu
        self._part, self._since, self._compiled = "other", time.perf_counter(), _compiled()
        self.has_events = False  # whether `own` is asked for, and what a GPU takes is measured
        self._queued: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # when passes begin and end there
        self._computed = 0.0  # seconds of those that have ended
        if began is not None:
            self.seconds["starting"] += self._since - began

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """The time inside belongs to `part`."""
        before = self._part
        self._turn_to("computing" if self.is_gpu and part in (*QUEUED, "optimizer") else part)
        began = _now_on_gpu() if self.has_events and part in QUEUED else None
        try:
            yield
        finally:
            if began is not None:
                self._queued.append((began, _now_on_gpu()))
            self._turn_to(before)

    def _turn_to(self, part: str) -> None:
        now, compiled = time.perf_counter(), _compiled()
        compiling = compiled - self._compiled
        self.seconds["compile"] += compiling
        self.seconds[self._part] += now - self._since - compiling
        self._part, self._since, self._compiled = part, now, compiled

    def own(self) -> float:
        """Seconds in which this rank has worked on its part of the steps, without the time it has waited for others.

        What a GPU takes is measured there, up to what is finished by now; nothing waits for it. Of a model in parts it
        includes waiting, as every layer's weights come from all ranks.
        """
        while self._queued and self._queued[0][1].query():
            began, ended = self._queued.popleft()
            self._computed += began.elapsed_time(ended) / 1000
        return self._computed + sum(seconds for part, seconds in self.read().items() if part in OWN)

    def read(self) -> dict[str, float]:
        """The seconds of the parts that took any, up to now."""
        self._turn_to(self._part)
        return {part: self.seconds[part] for part in PARTS if self.seconds[part] > 0}


def in_words(seconds: dict[str, float]) -> str:
    """One line: the whole, and each part's share."""
    total = sum(seconds.values())
    shares = (f"{part} {_short(each)} ({each / total:.0%})" for part, each in seconds.items() if each >= 0.001 * total)
    return f"{_short(total)}: {', '.join(shares)}"


def _short(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 60 else duration(seconds)


def _now_on_gpu() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _compiled() -> float:
    """Seconds that torch.compile has taken in this process; 0 where nothing has imported it."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    spent = getattr(dynamo, "calculate_time_spent", None)  # missing while a checkpoint's thread is importing it
    return spent()["total_wall_time"] if spent else 0.0
