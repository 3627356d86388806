"""The process beside a job: python -m extras.dashboard.runner FOLDER, started by a server, in a session of its own.

It starts the job in FOLDER, waits for its end, however long that takes and whatever becomes of the server, and writes
down the exit code. It may be started twice for one job: the second finds the lock taken and ends.
"""

import contextlib
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from extras.dashboard import processes, record
from extras.dashboard.record import ALIVE, LOG, Job

PATIENCE = 2.0  # seconds in which a lock is tried, since somebody may only be looking whether it is taken
SAVED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of stages that were asked to stop, and saved
NOT_STARTED = 127


def main(folder: Path) -> None:
    held = [take(folder / ALIVE), take(device_lock(folder.parent, record.read(folder).device))]
    if None in held:
        return
    for descriptor in held:
        os.set_inheritable(descriptor, True)  # type: ignore[arg-type]  # the locks hold until the stage has ended, too
    pid = os.fork()
    if pid == 0:
        become_stage(folder)
    wait_for_end(pid)
    _, status = os.waitpid(pid, 0)
    with record.editing(folder) as job:
        if job.pid == pid:
            note_end(job, folder, os.waitstatus_to_exitcode(status))


def device_lock(jobs: Path, device: str) -> Path:
    """The file whose lock the job that has a device holds."""
    return jobs / f".{device.replace(':', '-')}.lock"


def take(path: Path) -> int | None:
    """The lock on a file; None if somebody keeps it."""
    until = time.monotonic() + PATIENCE
    while (held := record.locked(path)) is None and time.monotonic() < until:
        time.sleep(0.05)
    return held


def become_stage(folder: Path) -> None:
    """In the child: write down who it is, then become the stage. Only a job that still waits is started."""
    code = NOT_STARTED
    try:
        os.setsid()
        with record.editing(folder) as job:
            if job.state != "queued":
                os._exit(0)
            job.pid, job.start = os.getpid(), processes.start_of(os.getpid())
            job.state, job.started = "running", time.time()
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(log, f"$ python -m {shlex.join(job.argv)}\n".encode())
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        # A stage's output shows at once, line by line.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        os.execve(sys.executable, [sys.executable, "-m", *job.argv], environment)
    except Exception as error:
        print(f"the job could not be started: {error}", file=sys.stderr, flush=True)
        raise
    finally:
        os._exit(code)


def wait_for_end(pid: int) -> None:
    """Return when the stage has ended, and then end what it left running.

    Where the system can tell without taking the exit code, the stage still has its pid then, so that its group cannot
    be another's.
    """
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def note_end(job: Job, folder: Path, code: int | None) -> None:
    """Write into a job how it ended; code None: nobody saw it."""
    was_asked = job.state == "stopping"
    job.ended, job.exit = time.time(), code
    job.state = "finished" if code == 0 else "stopped" if was_asked or code in SAVED else "failed"
    job.message = record.last_line(folder)
    if code is None or code == -signal.SIGKILL:
        how = "it was killed" if code else "its process ended, and nothing saw how"
        job.message = f"{how}; the last line: {job.message}" if job.message else how


if __name__ == "__main__":
    main(Path(sys.argv[1]))
