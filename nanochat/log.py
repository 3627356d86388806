"""What a run reports: metrics for machines (JSONL, wandb) and progress for people."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from nanochat import paths
from nanochat.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

WITHOUT_WANDB = "train without it (--run dummy, in scripts.train --wandb_log=False)"


class MetricsLog:
    """A run's metrics: a line of strict JSON per call in <folder>/metrics.jsonl, and wandb unless `run` is "dummy".

    A line is {"step": int, "time": seconds since 1970, name: value, ...}. JSON has no NaN and no infinity; they are
    written as the strings "NaN", "Infinity" and "-Infinity", which Python's float() understands. A line of `note` has
    a dictionary "start" instead of values.
    The first line also writes `config` to <folder>/config.json. With is_main=False every call does nothing.
    wandb's run id is kept in <folder>/wandb_run.json, so a resumed run continues the same wandb run.
    """

    def __init__(
        self, folder: Path, run: str, config: dict, is_main: bool = True, project: str = "nanochat",
        resumed: bool = False,
    ) -> None:  # fmt: skip
        self.path = folder / "metrics.jsonl"
        self.config = config
        self.is_main = is_main
        self._started = False
        self._size_before = 0  # of the file, before this run's first line
        self._is_new = False  # whether there was no file before this run's first line
        self._held: list[tuple[int, str]] | None = None  # steps and lines, see `hold`
        self._noted: list[tuple[int, str]] = []  # likewise, until there is a line to put them before
        self._reached = -1  # the last step that a resumed run takes back
        self._wandb = _start_wandb(folder, project, run, config, resumed) if is_main and run != "dummy" else None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line and hand it to the operating system, so that killing the process does not lose it."""
        if not self.is_main:
            return
        lines, self._noted = [*self._noted, _line(step, metrics)], []
        for logged, line in lines:
            if self._held is not None:
                self._held.append((logged, line))
            else:
                self._write(logged, line)
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def note(self, step: int, start: dict) -> None:
        """Write how the run was started, or resumed, at this step, in front of its next line.

        Where steps are trained again, the last of them is added as "reached". wandb has all this in its config.
        """
        again = {"reached": self._reached} if self._reached > step else {}
        self._noted = [_line(step, {"start": {**start, **again}})]

    @property
    def is_held(self) -> bool:
        return self._held is not None

    def hold(self) -> None:
        """Buffer all lines until `release`: a run that replaces another one touches nothing before its first save."""
        self._held = []

    def release(self) -> None:
        """Write the buffered lines in place of the other run's."""
        held, self._held = self._held, None
        if held is None or not self.is_main:
            return
        self._keep(-1)
        for step, line in held:
            self._write(step, line)

    def _write(self, step: int, line: str) -> None:
        if not self._started:
            self._is_new = not self.path.exists()
            paths.write_text(self.path.with_name("config.json"), strict_json(self.config, indent=2) + "\n")
            self._keep(math.inf)
            self._size_before = self.path.stat().st_size if self.path.exists() else 0
            self._started = True
        try:
            with self._refusals(), open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        except UserError:
            self.take_back(step - 1)
            raise

    def resume(self, step: int, measured: bool = True) -> None:
        """Drop the lines after `step`, for a run that resumes from there; -1 drops all.

        With measured=False the evaluations at `step` will run again, so of that step only the first line stays, and
        what `note` wrote right after it.
        """
        if self.is_main:
            self._reached = self._keep(step, measured)

    def take_back(self, step: int) -> None:
        """Drop the lines after `step`, and the files and folders too if nothing else was written to them."""
        if not self.is_main:
            return
        if self._held is not None:
            self._held = [(logged, line) for logged, line in self._held if logged <= step]
            return
        # rmdir keeps a folder that holds something else. If the file system became read-only, everything stays, and
        # the caller's error already reports that.
        with contextlib.suppress(OSError, UserError):
            self._keep(step)
            self._drop_own_start()
            if self._is_new and self.path.exists() and self.path.stat().st_size == 0:
                self.path.unlink()
                self.path.with_name("config.json").unlink(missing_ok=True)
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()

    def _drop_own_start(self) -> None:
        """Truncate the file to what it was before this run, if nothing but the note of its start is left of it."""
        if not self._started or not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            file.seek(self._size_before)
            if all(b'"start": {' in line for line in file.read().splitlines()):
                file.truncate(self._size_before)

    def close(self) -> None:
        """End the wandb run, if there is one."""
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn the file system's refusals into a UserError."""
        try:
            yield
        except OSError as error:
            if refused := paths.refusal(error, self.path):
                raise refused from error
            raise

    def _keep(self, last: float, measured: bool = True) -> int:
        """Truncate the file after the last line whose step is at most `last`; an incomplete last line goes too.

        Truncating in place needs no disk space (the disk may be full) and is atomic. Returns the last step there was,
        -1 without any.
        """
        if not self.path.exists():
            return -1
        with self._refusals(), open(self.path, "r+b") as file:
            size, before, lines = 0, None, file.read().splitlines(keepends=True)
            for line in lines:
                step = _step_of(line)
                is_again = not measured and step == before == last and b'"start": {' not in line
                if step is None or step > last or is_again:
                    break
                size, before = size + len(line), step
            file.truncate(size)
        steps = (_step_of(line) for line in reversed(lines))
        return next((step for step in steps if step is not None), -1)


class Progress:
    """Shows progress: a bar on a terminal, otherwise plain lines: the first, the last, and one every few seconds.

        with Progress(900, "base_train") as progress:
            progress.update(120, loss=2.345, tok_per_second=6100.0)

    prints `base_train  120/900 steps  13%  loss 2.345  6.1k tok/s  3m12s left`. A figure named x_per_second is shown
    as x/s. The time left is estimated from the speed since the first update, which in training comes after compilation
    and, in a resumed run, not at 0. With lines_every there is no bar, but a line every so many units. Without a unit
    only the percentage is shown.
    """

    def __init__(
        self, total: int, title: str, unit: str = "steps", is_main: bool = True, seconds_between_lines: float = 10.0,
        lines_every: int = 0,
    ) -> None:  # fmt: skip
        self.total = total
        self.title = title
        self.unit = unit
        self.is_main = is_main
        self.seconds_between_lines = seconds_between_lines
        self.lines_every = lines_every
        self._first: tuple[float, int] | None = None  # time and count of the first update
        self._printed_at = -math.inf
        self._unprinted = ""
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self.is_main and not self.lines_every and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = _bar(self.unit)
            self._task = self._bar.add_task(self.title, total=self.total, figures="")
            self._bar.start()
        return self

    def update(self, done: int, **figures: float | str) -> None:
        """Report that `done` of the total are done, with current figures."""
        if not self.is_main:
            return
        shown = [figure(name, value) for name, value in figures.items()]
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures="  ".join(shown))
            return
        now = time.monotonic()
        percent = done * 100 // max(self.total, 1)
        counts = [self.title, *([f"{done}/{self.total} {self.unit}"] if self.unit else []), f"{percent}%"]
        line = "  ".join([*counts, *shown, *self._time_left(now, done)])
        waited = now - self._printed_at >= self.seconds_between_lines
        if (done % self.lines_every == 0 if self.lines_every else waited) or done >= self.total:
            print(line, flush=True)
            self._printed_at, self._unprinted = now, ""
        else:
            self._unprinted = line

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._unprinted:  # the latest figures, also when the loop ended early
            print(self._unprinted, flush=True)
            self._unprinted = ""

    def _time_left(self, now: float, done: int) -> list[str]:
        if self._first is None:
            self._first = (now, done)
        since, first = self._first
        if done <= first or done >= self.total:
            return []
        return [f"{duration((now - since) / (done - first) * (self.total - done))} left"]


def _bar(unit: str) -> "Bar":
    # The bar alone needs rich; training without a terminal needs no package but torch and numpy.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    counted = [TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit)] if unit else []
    return Progress(
        TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), *counted,
        TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
        console=Console(file=sys.stdout, soft_wrap=True),  # a command that is printed meanwhile stays one line to copy
    )  # fmt: skip


def figure(name: str, value: float | str) -> str:
    """A named value for people: figure("loss", 2.3451) is "loss 2.345", figure("tok_per_second", 6100) "6.1k tok/s"."""
    if isinstance(value, str):
        return f"{name} {value}"
    if name.endswith("_per_second"):
        return f"{short(value)} {name.removesuffix('_per_second')}/s"
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4g}"


def short(number: float) -> str:
    """A number in three or so characters: 950, 6.1k, 19k, 4.6M, 1.2B."""
    if not math.isfinite(number):
        return str(number)
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.1f}{letter}" if abs(scaled) < 9.95 else f"{scaled:.0f}{letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds for people: 45s, 3m12s, 1h02m, 5d03h."""
    if not math.isfinite(seconds):
        return str(seconds)
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 4 * 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def strict_json(value: object, indent: int | None = None) -> str:
    """JSON that every parser reads: NaN and infinities become strings, other objects their str()."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _line(step: int, values: dict) -> tuple[int, str]:
    """A step, and a line about it."""
    return step, strict_json({"step": step, "time": round(time.time(), 3), **values}) + "\n"


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics.jsonl; None for a line that was cut short."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def _start_wandb(folder: Path, project: str, run: str, config: dict, resumed: bool):
    # Returns wandb's run, whose type is known only once it is imported.
    kept = folder / "wandb_run.json"
    known = paths.read_json(kept, "delete it, and wandb shows what follows as a new run") if kept.exists() else {}
    try:
        import wandb
    except ImportError:
        raise UserError(f"the run {run} needs wandb, which is not installed; {WITHOUT_WANDB}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if refused := paths.refusal(error, folder / "wandb"):
            raise refused from error
        raise
    try:
        started = wandb.init(
            project=project, name=run, config=config, dir=str(folder), id=known.get("id") if resumed else None,
            resume="allow",
        )  # fmt: skip
    except wandb.Error as error:  # no login, no network, no access to the project
        message = " ".join(str(error).split())[:200]
        raise UserError(f"wandb refused the run {run} ({message}); log in with wandb login, set WANDB_MODE="
                        f"offline, or {WITHOUT_WANDB}") from None  # fmt: skip
    paths.write_text(kept, strict_json({"id": started.id, "project": project, "name": run}, indent=2) + "\n")
    return started
