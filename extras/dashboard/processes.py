"""Processes told apart by pid and start time, so that one whose pid was used again is never taken for another."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
ENDED = ("Z", "X")  # states of a process that runs no more: its parent has not asked for its exit code yet


def start_of(pid: int) -> str | None:
    """When a process started, as a text to compare; None where no such process runs.

    Linux: clock ticks since the boot, and the boot. Elsewhere: the second, from ps.
    """
    if not BOOT_ID.exists():
        return _start_from_ps(pid)
    try:
        # The name, in parentheses, may hold anything; state and start are fields 1 and 20 after it (man 5 proc).
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # ended, perhaps while it was read
        return None
    return None if fields[0] in ENDED else f"{BOOT_ID.read_text(encoding='ascii').strip()} {fields[19]}"


def _start_from_ps(pid: int) -> str | None:
    ps = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    plain = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(ps, capture_output=True, encoding="utf-8", errors="replace", env=plain)
    state, _, started = done.stdout.strip().partition(" ")
    return started.strip() if started and state[:1] not in ENDED else None


def send(pid: int, start: str, number: signal.Signals, group: bool = False) -> bool:
    """Send a signal to the process that started then, or to its whole group; False if it runs no more.

    On Linux a pidfd holds on to the process, so that nothing can take its pid between the look and the signal.
    """
    held = _held(pid)
    try:
        if start_of(pid) != start:
            return False
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(pid, number)
            elif held is not None:
                signal.pidfd_send_signal(held, number)
            else:
                os.kill(pid, number)
            return True
        return False
    finally:
        if held is not None:
            os.close(held)


def _held(pid: int) -> int | None:
    """A descriptor of a process; None if it has ended, or the system has no such descriptors."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
