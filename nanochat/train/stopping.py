"""How a run is asked to end, and how its ranks agree on it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist

from nanochat.runtime import Runtime

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 + the signal, as a shell reports it
SAME_CTRL_C = 1.0  # seconds in which torchrun repeats the Ctrl-C that the terminal has sent to all ranks already


@dataclass
class Stop:
    """Whether a signal has asked the run to end: code is 0, or the exit code for the first of them."""

    code: int = 0
    since: float = 0.0


def agreed(stop: Stop, late: bool, rt: Runtime) -> tuple[int, bool]:
    """stop.code and `late`, the same on all ranks, so that they save, and leave the loop, at the same step.

    The ranks exchange them in the processors' memory, so that no GPU is waited for.
    """
    if rt.world == 1:
        return stop.code, late
    flags = torch.tensor([stop.code, int(late)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    code, late = flags.tolist()
    return code, bool(late)


@contextmanager
def stop_signals(rt: Runtime, saves: bool = True) -> Iterator[Stop]:
    """Note SIGTERM and the first Ctrl-C for as long as the context lasts; a second Ctrl-C interrupts as usual.

    saves: whether the step is saved before the run ends.
    """
    stop = Stop()
    does = b"finishing this step and saving it" if saves else b"finishing this step"

    def note(number: int, frame: FrameType | None) -> None:
        is_ctrl_c = number == signal.SIGINT
        if not stop.code:
            stop.code, stop.since = EXIT_CODES[signal.Signals(number)], time.monotonic()
            if is_ctrl_c and rt.is_main:  # os.write, because a handler must not enter Python's buffered print again
                os.write(2, b"\nCtrl-C: " + does + b"; Ctrl-C again ends at once\n")
        elif is_ctrl_c and (rt.world == 1 or time.monotonic() - stop.since > SAME_CTRL_C):
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
