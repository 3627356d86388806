"""Jobs: training that was started from the page, one at a time on each device.

The server only keeps the queue. What runs a job is a process in a session of its own (`runner`), so that closing the
page, stopping the server or killing it changes nothing; a server that starts later finds it by its record.
"""

import functools
import logging
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from extras.dashboard import processes, record
from extras.dashboard.record import LOG, OPEN, RECORD, Job
from extras.dashboard.runner import device_lock, note_end
from nanochat.errors import UserError
from nanochat.web.http.flags import API_KEYS

log = logging.getLogger("nanochat.web")

ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
BEFORE_KILL = 10.0  # seconds that a stage has to save, before it can be killed
PATIENCE = 5.0  # seconds in which a process that has nothing left to do should end
MOST_WAITING = 100  # jobs in all queues


class NotNow(UserError):
    """A request that does not suit the state that a job is in."""


class Missing(UserError):
    """There is no such job."""


class Jobs:
    """The jobs of a base folder. Every method may be called by any thread."""

    def __init__(self, base: Path) -> None:
        self.folder = base / "jobs"
        self._lock = threading.RLock()
        self._seen: dict[str, tuple[tuple[int, int], Job | None]] = {}
        self._runners: dict[str, subprocess.Popen] = {}  # that this server has started, by job

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        with self._lock:
            names = sorted(os.listdir(self.folder), reverse=True) if self.folder.is_dir() else []
            found = [self._read(name) for name in names if ID.fullmatch(name)]
            return sorted((job for job in found if job is not None), key=lambda job: job.created, reverse=True)

    def get(self, id: str) -> Job:
        """One job. Raises Missing."""
        with self._lock:
            job = self._read(id) if ID.fullmatch(id) else None
            if job is None:
                raise Missing(f"there is no job {id[:40]!r}; GET /dashboard/jobs lists them")
            return job

    def log(self, id: str, lines: int) -> str:
        """The last lines that a job printed."""
        text = record.tail(self._place(self.get(id).id) / LOG, 400 * lines)
        return "\n".join(text.splitlines()[-lines:])

    def queue(self) -> dict[str, list[str]]:
        """The jobs that wait for each device, the first to start first."""
        waiting: dict[str, list[str]] = {}
        for job in reversed(self.all()):
            if job.state == "queued":
                waiting.setdefault(job.device, []).append(job.id)
        return waiting

    def running(self) -> dict[str, str]:
        """The runs that are being trained, or wait for it, with the ids of their jobs."""
        return {job.run: job.id for job in self.all() if job.run is not None and job.state in OPEN}

    def submit(self, stage: str, argv: Sequence[str], values: Mapping[str, Any], device: str, run: str | None) -> Job:
        """Queue a job, and start it if its device is free. It exists once its record does."""
        with self._lock:
            if sum(map(len, self.queue().values())) >= MOST_WAITING:
                raise NotNow(f"{MOST_WAITING} jobs are waiting already; stop some of them first")
            now = time.time()
            id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + secrets.token_hex(3)
            record.write(self._place(id), Job(id, stage, list(argv), dict(values), device, run, now))
            self.advance()
            return self.get(id)

    def stop(self, id: str) -> Job:
        """Ask a job to save and end; asked again after a while, end it at once. Raises NotNow if it is over."""
        self.get(id)
        with record.editing(self._place(id)) as job:
            now, last = time.time(), job.stopped_at or 0.0
            if job.state not in OPEN:
                raise NotNow(f"this job has {job.state} already")
            if job.state == "stopping" and now - last < BEFORE_KILL:
                raise NotNow(f"this job is saving; after {BEFORE_KILL:g} seconds it can be killed")
            is_kill, job.stopped_at = job.state == "stopping", now
            if job.state == "queued":
                job.state, job.ended, job.message = "stopped", now, "it was taken out of the queue"
            else:
                job.state = "stopping"
        if job.state == "stopping" and job.pid is not None and job.start is not None:
            number = signal.SIGKILL if is_kill else signal.SIGTERM
            processes.send(job.pid, job.start, number, group=is_kill)
        self.advance()
        return self.get(id)

    def resume(self, id: str, again: Callable[[Job], Sequence[str]]) -> Job:
        """Queue a job that is over once more. again: the words of its command. Raises NotNow if it is not over."""
        argv = again(self.get(id))
        self._wait_for_runner(id)
        with record.editing(self._place(id)) as job:
            if job.state in OPEN:
                raise NotNow(f"this job is {job.state}; it can be resumed when it is over")
            job.argv, job.attempt, job.created, job.state = list(argv), job.attempt + 1, time.time(), "queued"
            job.pid = job.start = job.started = job.stopped_at = job.ended = job.exit = job.message = None
        self.advance()
        return self.get(id)

    def forget(self, id: str) -> None:
        """Delete what is known of a job that is over; its run stays."""
        job, place = self.get(id), self._place(id)
        if job.state in OPEN:
            raise NotNow(f"this job is {job.state}; stop it first")
        self._wait_for_runner(id)
        gone = place.with_name(f".{id}.gone")
        os.rename(place, gone)  # at once, so that nobody sees a half of it
        shutil.rmtree(gone)

    def _wait_for_runner(self, id: str) -> None:
        """Return when no process of a job that is over lives: its runner has a moment to live after its last word."""
        until = time.monotonic() + PATIENCE
        while self.get(id).state not in OPEN and record.is_alive(self._place(id)):
            if time.monotonic() > until:
                raise NotNow("this job is ending; try again in a moment")
            time.sleep(0.05)

    def advance(self, starts: bool = True) -> None:
        """Note which jobs have ended unseen, and if it `starts` any, start the next on every device that is free."""
        with self._lock:
            self._runners = {id: runner for id, runner in self._runners.items() if runner.poll() is None}
            busy, waiting = set(), []
            for job in reversed(self.all()):
                if job.state not in OPEN:
                    continue
                if job.id in self._runners or record.is_alive(self._place(job.id)):
                    busy.add(job.device)
                elif job.state == "queued":
                    waiting.append(job)
                else:
                    self._note_unseen_end(job)
            for job in waiting if starts else ():
                if job.device not in busy and not record.is_held(device_lock(self.folder, job.device)):
                    busy.add(job.device)
                    self._start(job)

    def _start(self, job: Job) -> None:
        """Start the runner of a job. It outlives this process, also if that is killed right now."""
        command = [sys.executable, "-m", "extras.dashboard.runner", str(self._place(job.id))]
        # Neither the key of the server is the job's, nor what makes its threads sleep for the sake of replies.
        environment = {name: value for name, value in os.environ.items() if name not in (*API_KEYS, "OMP_WAIT_POLICY")}
        with open(self._place(job.id) / LOG, "ab") as output:
            runner = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        self._runners[job.id] = runner

    def _note_unseen_end(self, seen: Job) -> None:
        """Close a job whose processes have ended without anybody to note it, as after a power cut."""
        place = self._place(seen.id)
        with record.editing(place) as job:
            if (job.state, job.attempt) == (seen.state, seen.attempt) and not record.is_alive(place):
                note_end(job, place, None)

    def _read(self, id: str) -> Job | None:
        """A job, read again only if its file has changed; None if it does not exist."""
        try:
            found = os.stat(self._place(id) / RECORD)
        except FileNotFoundError:
            return None
        stamp = found.st_mtime_ns, found.st_ino
        if self._seen.get(id, (None,))[0] != stamp:
            try:
                self._seen[id] = stamp, record.read(self._place(id))
            except UserError as error:  # one that was damaged must not hide the others
                log.warning("%s", error)
                self._seen[id] = stamp, None
        return self._seen[id][1]

    def _place(self, id: str) -> Path:
        return self.folder / id


def shown(job: Job) -> dict[str, Any]:
    """A job as the page gets it."""
    return {
        "id": job.id, "stage": job.stage, "run": job.run, "state": job.state, "device": job.device,
        "command": f"python -m {shlex.join(job.argv)}", "values": job.values, "attempt": job.attempt, "pid": job.pid,
        "created": job.created, "started": job.started, "ended": job.ended, "exit": job.exit, "message": job.message,
        "log": job.started is not None,
    }  # fmt: skip


@functools.cache
def devices() -> tuple[str, ...]:
    """The devices of this machine, the best first, as --device_type names them. Does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    else:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", errors="replace")
            count = listed.stdout.count("GPU ")
        except OSError:
            count = 0
    has_mps = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    return (*(f"cuda:{n}" for n in range(count)), *(["mps"] if has_mps else []), "cpu")


def device_of(name: str) -> str:
    """The device that a stage takes for a --device_type. Raises UserError for one that this machine lacks."""
    found = devices()[0] if not name else "cuda:0" if name == "cuda" else name
    if found not in devices():
        raise UserError(f"--device_type {name} is not available on this machine (available: {', '.join(devices())})")
    return found
