"""Memory that large requests leave with the C library goes back to the machine when nothing runs."""

import contextlib
import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

GROWTH = 32 << 20  # bytes that are worth the milliseconds


class Memory:
    """What this process holds, and gives back."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._held = resident()

    def give_back(self) -> None:
        """Call it when nothing runs. Does something only after the process has grown."""
        if self._trim is not None and resident() > self._held + GROWTH:
            self._trim(0)
            self._held = resident()


def resident() -> int:
    """Bytes of memory that this process takes; 0 where there is no /proc."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return 0


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function, or None where the C library is another one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
