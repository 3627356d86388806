"""What is written about a job: <base>/jobs/ID/job.json, and whether its process lives.

job.json is written whole, by rename, and changed only while the folder is locked (`editing`). Whether a job lives says
no file, but a lock: its runner and its stage hold `alive` for as long as either of them runs, and the kernel lets go of
it when the last one has ended, however that was. So a server that was killed finds its jobs again, and one that comes
too late finds that they have ended.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from nanochat.errors import UserError
from nanochat.paths import read_json, write_text

RECORD, LOG, ALIVE = "job.json", "log.txt", "alive"
TAIL = 4096  # bytes of the log in which its last line is looked for
LONGEST_MESSAGE = 300
PROGRESS = re.compile(r"\w+ +\d+/\d+ steps ")

State = Literal["queued", "running", "stopping", "stopped", "finished", "failed"]
OPEN = ("queued", "running", "stopping")  # states of a job that is not over


@dataclass
class Job:
    """A job, as it is written. argv are the words after `python -m`; values what the form had, to build it again.

    start is that of `pid`, as `processes.start_of` gives it. exit is negative for the signal that ended the process.
    """

    id: str
    stage: str
    argv: list[str]
    values: dict[str, Any]
    device: str
    run: str | None
    created: float
    state: State = "queued"
    attempt: int = 1
    pid: int | None = None
    start: str | None = None
    started: float | None = None
    stopped_at: float | None = None
    """when it was asked to stop"""
    ended: float | None = None
    exit: int | None = None
    message: str | None = None


def read(folder: Path) -> Job:
    """The job in a folder. Raises UserError if its file is damaged."""
    known = {entry.name for entry in dataclasses.fields(Job)}
    content = read_json(folder / RECORD, f"delete {folder}")
    try:
        return Job(**{name: value for name, value in content.items() if name in known})
    except TypeError as error:
        raise UserError(f"{folder / RECORD} is damaged ({error}); delete {folder}") from None


def write(folder: Path, job: Job) -> None:
    write_text(folder / RECORD, json.dumps(dataclasses.asdict(job), indent=1) + "\n")


@contextlib.contextmanager
def editing(folder: Path) -> Iterator[Job]:
    """A job that nobody else changes meanwhile; it is written if the body succeeds."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        job = read(folder)
        yield job
        write(folder, job)
    finally:
        os.close(held)


def locked(path: Path) -> int | None:
    """A descriptor that holds the lock on a file for as long as it, or a copy in a child, is open; None if taken."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a file."""
    if not path.exists():
        return False
    if (held := locked(path)) is None:
        return True
    os.close(held)
    return False


def is_alive(folder: Path) -> bool:
    """Whether a process of the job in a folder runs."""
    return is_held(folder / ALIVE)


def tail(path: Path, size: int) -> str:
    """The last bytes of a text file, from the beginning of a line if it is longer; "" if it does not exist."""
    try:
        with open(path, "rb") as file:
            return _last(file, size)
    except FileNotFoundError:
        return ""


def _last(file: IO[bytes], size: int) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - size))
    data = file.read(size)
    if end > size:
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", "replace")


def last_line(folder: Path) -> str | None:
    """The last line that a job printed, for its message, but for lines of progress, which stages print to the end."""
    lines = [line.strip() for line in tail(folder / LOG, TAIL).splitlines()]
    printed = next((line for line in reversed(lines) if line and not PROGRESS.match(line)), None)
    return printed[-LONGEST_MESSAGE:] if printed else None
