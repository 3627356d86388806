"""Runs of an experiment: each in processes of its own and in a base folder of its own, below the experiment's folder.

    FOLDER/shared-HASH/            base folder of the shared stages
    FOLDER/runs/ARM-sSEED-HASH/    base folder of a run; run.json has its commands, which stages are done, and its error
    FOLDER/report.md, report.html

HASH is of all commands and what they read, so a changed flag is another run, and a run that is done is never repeated.
A run reads what the shared stages wrote; without any, the tokenizer, datasets and models of the usual base folder.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from extras.experiment.file import STEPS, Experiment, commands, shared_commands
from nanochat import paths
from nanochat.log import Progress, strict_json
from nanochat.report.sections import git_commit

SHARED = "shared"
RECORD = "run.json"
LOG = "log.txt"
OUT_DIR = "out"  # of scripts.train, below a run's folder
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# What a run may read of another base folder: links to these, but for what it writes itself.
LINKED = ("tokenizer", "base_data*", "*_checkpoints/*", "eval_bundle", "*.jsonl")
WRITES = {"tok_train": "tokenizer", "tasks.littleworld": "base_data_tinyworld"} | {
    stage: paths.SOURCES[source] for stage, source in
    {"base_train": "base", "mid_train": "mid", "chat_sft": "sft", "chat_dpo": "dpo", "chat_rl": "rl"}.items()
}  # fmt: skip
WEIGHTS = ("*_checkpoints/*/model_*", "*_checkpoints/*/optim_*", f"{OUT_DIR}/*.pt")
ATTENTION = 0.5  # seconds between two looks at how far the runs are


@dataclass(frozen=True)
class Run:
    """An arm with a seed: its stages with the words after `python`, its base folder, and the one that it reads."""

    arm: str
    seed: int
    folder: Path
    commands: list[tuple[str, list[str]]]
    reads: Path

    @property
    def record(self) -> dict:
        path = self.folder / RECORD
        return paths.read_json(path, "delete its folder to run it again") if path.exists() else {"done": []}

    @property
    def is_done(self) -> bool:
        return len(self.record["done"]) == len(self.commands)

    @property
    def error(self) -> str:
        """The last line of what failed; "" for a run that did not fail."""
        return self.record.get("error", "")

    @property
    def progress(self) -> float:
        """The fraction of its stages that is done, in [0, 1]; a training stage counts by its own progress."""
        done = self.record["done"]
        current = [stage for stage, _ in self.commands if stage not in done][:1]
        return (len(done) + sum(_progress(self.folder, stage) for stage in current)) / len(self.commands)


def plan(experiment: Experiment, folder: Path) -> list[Run]:
    """The runs, seed by seed, so that every arm has a result early; the shared stages first, as arm "shared"."""
    reads, runs, read = paths.base_dir(), [], ""
    if shared := shared_commands(experiment):
        digest = _digest(shared, experiment.threads)
        reads = folder / f"{SHARED}-{digest}"
        runs.append(Run(SHARED, 0, reads, shared, reads))
        read = digest
    else:
        read = _fingerprint(reads, _readable(reads, list(experiment.stages)))
    for seed in experiment.seeds:
        for arm in experiment.arms:
            script = hashlib.sha256(Path(arm.script).read_bytes()).hexdigest() if arm.script else ""
            made = commands(experiment, arm, seed)
            words = [[word for word in words if word != arm.script or not script] for _, words in made]
            digest = _digest(words, script, read, experiment.threads)
            there = sorted((folder / "runs").glob(f"*-s{seed}-{digest}"))  # perhaps of an arm that had another name
            own = folder / "runs" / f"{arm.name}-s{seed}-{digest}"
            runs.append(Run(arm.name, seed, there[0] if there else own, made, reads))
    return runs


def run_missing(experiment: Experiment, folder: Path, jobs: int = 1, seconds: float | None = None) -> list[Run]:
    """Run what is not done, `jobs` at a time. Returns the runs that failed.

    A signal ends the stages that are running, which save, and raises SystemExit with its code; a second one ends them
    at once. After so many seconds they are ended in the same way, and what they had is returned; the next call resumes.
    """
    runs = plan(experiment, folder)
    with paths.alone_in(folder):
        until = math.inf if seconds is None else time.monotonic() + seconds
        return _Runner(experiment, folder, jobs, until).run(runs)


class _Runner:
    """Runs what is missing. A signal ends the processes, and then the program."""

    def __init__(self, experiment: Experiment, folder: Path, jobs: int, until: float) -> None:
        self.experiment, self.folder, self.jobs, self.until = experiment, folder, jobs, until
        self.is_over = False  # once there was a signal, or no time is left
        self.processes: dict[subprocess.Popen, Run] = {}
        self.lock = threading.Lock()
        self.code = 0  # of the signal, if there was one
        threads = experiment.threads or max(1, len(os.sched_getaffinity(0)) // jobs)
        # malloc keeps its pages, as in scripts.speedrun: training on a CPU is faster by a sixth (dev/LOG.md).
        malloc = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.hugetlb=1"
        found = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "GLIBC_TUNABLES": malloc, **os.environ,
            "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, found)),
        }  # fmt: skip

    def run(self, runs: Sequence[Run]) -> list[Run]:
        missing = [run for run in runs if not run.is_done]
        with self._signals():
            for run in [run for run in missing if run.arm == SHARED]:
                self._execute(run)
                if run.error:
                    self._end()
                    return [run]
            self._execute_all([run for run in missing if run.arm != SHARED], runs)
            self._end()
        return [run for run in runs if run.error]

    def _execute_all(self, missing: Sequence[Run], runs: Sequence[Run]) -> None:
        ours = [run for run in runs if run.arm != SHARED]
        with (
            Progress(100, self.experiment.name, unit="") as bar,
            ThreadPoolExecutor(self.jobs) as pool,
        ):
            futures = {pool.submit(self._execute, run): run for run in missing}
            while True:
                are_done = [future.done() for future in futures]
                done = [run.progress for run in ours]
                finished = sum(run.is_done or bool(run.error) for run in ours)
                active = ",".join(f"{run.arm}-s{run.seed}" for run in list(self.processes.values()))
                bar.update(round(100 * sum(done) / len(done)), runs=f"{finished}/{len(ours)}", now=active or "-")
                if all(are_done):
                    break
                if time.monotonic() > self.until and not self.is_over:
                    self._stop()
                time.sleep(ATTENTION)
            for future in futures:
                future.result()  # raises what was no failure of a run

    def _execute(self, run: Run) -> None:
        """Run the stages of a run that are not done, and note how it went."""
        if self.is_over:
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        with _alone(run.folder) as lock:  # a process that a killed program left may still be at work
            typed = [" ".join(["python", *words]) for _, words in run.commands]
            new = {"arm": run.arm, "seed": run.seed, "commands": typed, "commit": git_commit(), "seconds": 0.0}
            record = new | run.record
            record.pop("error", None)
            self._write(run, record)
            if run.arm != SHARED:
                _link(_readable(run.reads, [stage for stage, _ in run.commands]), run.reads, run.folder)
            for stage, words in run.commands:
                if stage in record["done"]:
                    continue
                began = time.monotonic()
                code = self._wait(run, [*words, *_of_this_start(stage, run.folder)], lock)
                record["seconds"] += time.monotonic() - began
                if self.is_over and code:
                    self._write(run, record)
                    return
                if code:
                    error = f"{stage} ended with code {code}: {_last_line(run.folder / LOG)}"
                    self._write(run, {**record, "error": error})
                    return
                record["done"] = [*record["done"], stage]
                self._write(run, record)
            if not self.experiment.keep_models and run.arm != SHARED:
                for pattern in WEIGHTS:
                    for path in run.folder.glob(pattern):
                        if not path.parent.is_symlink():
                            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _write(self, run: Run, record: dict) -> None:
        paths.write_text(run.folder / RECORD, strict_json(record, indent=2) + "\n")

    def _wait(self, run: Run, words: list[str], lock: int) -> int:
        """Run python with these words; its exit code. It inherits the lock, and the terminal's signals pass it by."""
        environment = {**self.environment, "NANOCHAT_BASE_DIR": str(run.folder)}
        with open(run.folder / LOG, "ab") as log:
            with self.lock:
                if self.is_over:
                    return 143
                process = subprocess.Popen(
                    [sys.executable, *words], env=environment, stdout=log, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, pass_fds=[lock], start_new_session=True,
                )  # fmt: skip
                self.processes[process] = run
            if self.is_over:  # the signal came before the process was among those to end
                process.terminate()
            code = process.wait()
            with self.lock:
                del self.processes[process]
        return code

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS
                  if signal.getsignal(number) != signal.SIG_IGN}  # fmt: skip
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.code = self.code or 128 + number
        self._stop()

    def _stop(self) -> None:
        """End what is running, which saves; the second time at once."""
        again, self.is_over = self.is_over, True
        for process in list(self.processes):
            process.kill() if again else process.terminate()

    def _end(self) -> None:
        if self.code:
            print("stopped; start it again to resume", file=sys.stderr)
            raise SystemExit(self.code)


def _of_this_start(stage: str, folder: Path) -> list[str]:
    """Flags that are no part of what a run is: where it writes, and that it resumes."""
    if stage != "train":
        return []
    out_dir = folder / OUT_DIR
    is_there = any(out_dir.glob("*.pt"))
    return [f"--out_dir={out_dir}", *(["--init_from=resume"] if is_there else [])]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Wait until no process works in a run's folder; the lock ends with the last process that has its descriptor."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _readable(base: Path, stages: Sequence[str]) -> list[Path]:
    """What runs of these stages read in a base folder, as far as they do not write it themselves."""
    own = {WRITES.get(stage, "") for stage in stages}
    found = {path for pattern in LINKED for path in base.glob(pattern)}
    return sorted(path for path in found if path.relative_to(base).parts[0] not in own)


def _link(found: Sequence[Path], base: Path, folder: Path) -> None:
    for path in found:
        link = folder / path.relative_to(base)
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.abspath(path))


def _fingerprint(base: Path, found: Sequence[Path]) -> str:
    """Names and sizes of files, and the content of small ones: tells other data without reading all of it."""
    files = {file for path in found for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    described = []
    for file in sorted(files):
        size = file.stat().st_size
        described.append([str(file.relative_to(base)), size, paths.sha256(file) if size < 1 << 20 else ""])
    return _digest(described)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def _progress(folder: Path, stage: str) -> float:
    """How far a training stage is, by the last line of its metrics."""
    if (path := metrics_of(folder, stage)) is None:
        return 0.0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        for line in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and "progress" in found:
                    return min(float(found["progress"]), 0.99)
    return 0.0


def metrics_of(folder: Path, stage: str) -> Path | None:
    """The metrics.jsonl of a training stage in a run's base folder; None where there is none yet."""
    if stage not in STEPS:
        return None
    places = [folder / OUT_DIR] if stage == "train" else sorted((folder / WRITES[stage]).glob("*"))
    return next((place / "metrics.jsonl" for place in places if (place / "metrics.jsonl").exists()), None)


def _last_line(log: Path) -> str:
    """The last line of a log that says something."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")[:300]
