"""A run's metrics.jsonl as curves, read as it grows.

What is kept of a file has a bounded size, however long the run: a table of at most BUCKETS buckets, each of `width`
consecutive lines, with the sum, the lowest and the highest value of every key. When the table is full, neighbours are
merged and the width doubles, so that a line costs the same after a year as after an hour.

A resumed run cuts its file (`nanochat.log`). Each bucket therefore knows where its first line begins and the bytes
before that, which tell how much of the table still holds; only what follows is read again.
"""

import json
import math
import os
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nanochat.log import figure

BUCKETS = 2048
BLOCK = 1 << 17  # bytes that are read at once; no line of ours is longer
PROOF = 128  # bytes before a place in a file that prove that the file is still the same up to there: a line's digits
RECENT = 1000  # lines that are kept as they are, for those who follow a run
MOST_EVENTS = 400
LATEST = 1e11  # seconds since 1970; later times are no times
SAMPLES, SAMPLE = 256, 2048  # blocks of a file, and their bytes, that are read for a first look at it
NOT_VALUES = {"step", "time", "start"}
# Rows of the table: points and finite ones among them; then sums over them, the lowest and the highest.
SEEN, FINITE, VALUE, STEP, TOKENS, SECONDS, LOW, HIGH = range(8)
SUMS = slice(SEEN, SECONDS + 1)
ROW_OF = {"step": STEP, "tokens": TOKENS, "time": SECONDS}
NAME_OF = {"step": "step", "tokens": "tokens", "time": "seconds"}  # of the axes, in a Place
# A loss this many mean deviations above its running mean is a spike: 6 standard deviations of a normal distribution.
SPIKE = 8.0
FORGET = 0.02  # weight of a new loss in the running mean, of the last 50 or so
STEADY = 50  # losses after which the running mean means something

Axis = Literal["step", "tokens", "time"]
Found = dict[tuple[str, ...], tuple[list[int], list[tuple[Any, ...]]]]  # keys of lines -> their places, their values
EventKind = Literal["started", "resumed", "restarted", "evaluated", "spike"]


@dataclass(frozen=True)
class Curve:
    """Points of a key in the order of the run, (N,) float64 each: x, the mean of what each stands for, and its range.

    y, low and high are NaN where no value was finite.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Event:
    """Something that happened to a run. line: that of the file; time: since 1970; tokens, seconds: trained so far."""

    line: int
    step: int
    time: float
    tokens: float
    seconds: float
    kind: EventKind
    text: str


@dataclass
class Place:
    """A place in a file, and what is known of the run up to there.

    step, time, tokens and seconds of training: after the last line before it. mean, deviation: of the loss, running;
    is_high: whether it is in a spike. proof: the bytes before `offset`.
    """

    offset: int = 0
    line: int = 0
    step: int = 0
    time: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    losses: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    is_high: bool = False
    proof: bytes = b""

    def take(self, row: Mapping) -> str:
        """Add a step of training. Returns what is unusual about its loss, or ""."""
        step, seconds, speed, loss = row["step"], row.get("seconds", 0), row.get("tok_per_second", 0), row["loss"]
        if not type(seconds) is type(speed) is type(loss) is float:
            seconds, speed, loss = number(seconds), number(speed), number(loss)
        tokens = speed * seconds
        if not math.isfinite(tokens + seconds):
            tokens = seconds = 0.0
        if (missing := step - self.step - 1) > 0:  # in a sample: they were like the mean of those before
            usual = (self.tokens / self.step, self.seconds / self.step) if self.step else (tokens, seconds)
            tokens, seconds = tokens + missing * usual[0], seconds + missing * usual[1]
        self.tokens += tokens
        self.seconds += seconds
        self.step = step
        return self._judge(loss)

    def _judge(self, loss: float) -> str:
        was_high, usual = self.is_high, self.mean
        if not math.isfinite(loss):
            self.is_high = True
            return "" if was_high else f"loss {loss}; the step was not applied"
        away, most = loss - self.mean, SPIKE * max(self.deviation, 1e-4 * abs(self.mean))
        self.is_high = self.losses >= STEADY and away > most
        if self.losses == 0:
            self.mean, away = loss, 0.0
        elif self.is_high:  # which must not become the measure of the next one, but is where the loss stays
            away = most
        self.losses += 1
        weight = max(FORGET, 1 / self.losses)
        self.mean += weight * away
        self.deviation += weight * (abs(away) - self.deviation)
        return f"loss {loss:.4g}, after {usual:.4g}" if self.is_high and not was_high else ""


class Line(NamedTuple):
    """A line that was read: its number, its values, and the place in the run after it."""

    line: int
    row: Mapping
    step: int
    tokens: float
    seconds: float

    def x(self, axis: Axis) -> float:
        return getattr(self, NAME_OF[axis])


@dataclass(eq=False)
class Metrics:
    """The curves of a metrics.jsonl, as far as it has been read. `advance` reads on; all methods may share threads.

    version: changes when lines that were read are no longer in the file.
    """

    path: Path
    version: int = 0
    at: Place = field(default_factory=Place)
    width: int = 1
    starts: list[Place] = field(default_factory=list)  # where each bucket begins
    columns: dict[str, int] = field(default_factory=dict)  # of each key in the table
    table: np.ndarray = field(default_factory=lambda: _empty(64, 16))
    events: list[Event] = field(default_factory=list)
    recent: deque[Line] = field(default_factory=lambda: deque(maxlen=RECENT))
    lock: threading.RLock = field(default_factory=threading.RLock)

    # ------------------------------------------------------------ reading

    def behind(self) -> int:
        """How many bytes of the file have not been read; negative if it has been cut."""
        try:
            return self.path.stat().st_size - self.at.offset
        except FileNotFoundError:
            return -self.at.offset

    def advance(self, most: float = math.inf) -> bool:
        """Read the lines that are new, or about `most` bytes of them. Returns whether there are no more."""
        with self.lock:
            try:
                with open(self.path, "rb", buffering=0) as file:
                    return self._read(file.fileno(), self.at.offset + most)
            except FileNotFoundError:
                if self.at.offset:
                    self._back_to(0)
                return True

    def _read(self, file: int, end: float) -> bool:
        if not _holds(file, self.at):
            self._back_to(self._intact(file))
        while self.at.offset < end:
            block = os.pread(file, BLOCK, self.at.offset)
            whole = block.rfind(b"\n") + 1
            if not whole and len(block) < BLOCK:  # nothing new, or a line that is being written
                return True
            self._feed(block[:whole] if whole else block)
        return False

    def _intact(self, file: int) -> int:
        """How many buckets lie before the place up to which the file is as it was."""
        low, high = 0, len(self.starts)
        while low < high:  # if a bucket's beginning holds, so do those before
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _holds(file, self.starts[middle]) else (low, middle)
        # The last one that holds is where the file was cut. Few long buckets would be a coarse curve: start afresh.
        return low - 1 if low > BUCKETS // 4 or self.width == 1 else 0

    def _back_to(self, bucket: int) -> None:
        """Forget everything from a bucket's beginning on."""
        self.version += 1
        if bucket <= 0:
            fresh = Metrics(self.path)
            self.at, self.width, self.starts, self.columns = fresh.at, fresh.width, fresh.starts, fresh.columns
            self.table, self.events, self.recent = fresh.table, fresh.events, fresh.recent
            return
        self.at = self.starts[bucket]
        del self.starts[bucket:]
        self.table[SUMS, bucket:] = 0
        self.table[LOW, bucket:], self.table[HIGH, bucket:] = math.inf, -math.inf
        self.events = [event for event in self.events if event.line < self.at.line]
        self.recent = deque((each for each in self.recent if each.line < self.at.line), RECENT)

    def _feed(self, block: bytes) -> None:
        """Add whole lines to the table."""
        lines = block.splitlines(keepends=True)
        while self.at.line + len(lines) > BUCKETS * self.width:
            self._merge()
        first, at = self.at.line, self.at
        seen, begin = at.proof + block, at.offset - len(at.proof)
        axes: list[tuple[float, float, float]] = []
        found: Found = {}
        for i, line in enumerate(lines):
            if at.line % self.width == 0:
                here = at.offset - begin
                self.starts.append(replace(at, proof=seen[max(0, here - PROOF) : here]))
            row = row_of(line)
            step = at.step if row is None else row["step"]
            if row is not None:
                self._note(row, step)
                places, values = found.setdefault(tuple(row), ([], []))
                places.append(i)
                values.append(tuple(row.values()))
                self.recent.append(Line(at.line, row, step, at.tokens, at.seconds))
            axes.append((step, at.tokens, at.seconds))
            at.line += 1
            at.offset += len(line)
        at.proof = seen[-PROOF:]
        if found:
            self._add(first, np.array(axes).T, found)

    def _note(self, row: Mapping, step: int) -> None:
        """Follow the run through a line, and keep what is an event."""
        at, start, when = self.at, row.get("start"), row.get("time")
        if type(when) is float and at.time < when < LATEST:
            at.time = when
        if isinstance(start, dict):
            reached = start.get("reached")
            again = isinstance(reached, int) and reached > step
            kind: EventKind = "restarted" if again else "resumed" if step else "started"
            self._event(row, kind, _how(kind, step, start))
        elif at.line == 0:
            self._event(row, "started", "started" if step <= 1 else f"the metrics begin at step {step}")
        if "loss" in row:
            if step > at.step and (text := at.take(row)):
                self._event(row, "spike", text)
        elif not start and (scores := [(k, v) for k, v in row.items() if k not in NOT_VALUES]):
            shown = (figure(name, value) for name, value in scores[:4] if isinstance(value, (int, float, str)))
            self._event(row, "evaluated", "  ".join(shown))

    def _event(self, row: Mapping, kind: EventKind, text: str) -> None:
        at = self.at
        self.events.append(Event(at.line, row["step"], at.time, at.tokens, at.seconds, kind, text))
        if len(self.events) > MOST_EVENTS:  # evaluations are many, and are in the curves as well
            dull = next((event for event in self.events if event.kind == "evaluated"), self.events[0])
            self.events.remove(dull)

    # ------------------------------------------------------------ the table

    def _add(self, first: int, axes: np.ndarray, found: Found) -> None:
        """Add lines to their buckets. first: number of the first; axes: (3, N), step, tokens and seconds of each."""
        names = dict.fromkeys(name for names in found for name in names if name not in NOT_VALUES)
        for name in names:
            self.columns.setdefault(name, len(self.columns))
        self._make_room()
        begin = np.flatnonzero((first + np.arange(axes.shape[1])) % self.width == 0)
        begin = begin if len(begin) and begin[0] == 0 else np.concatenate([[0], begin])
        bucket = first // self.width
        value = np.full((axes.shape[1], len(names)), math.nan)
        has = np.zeros(value.shape, dtype=bool)
        order = {name: n for n, name in enumerate(names)}
        for keys, (places, rows) in found.items():
            taken = [n for n, key in enumerate(keys) if key in order]
            grid = np.ix_(places, [order[keys[n]] for n in taken])
            value[grid], has[grid] = _numbers(rows, taken)
        finite = np.isfinite(value)
        parts = np.stack([has, finite, np.where(finite, value, 0), *(axes[:, :, None] * has)])
        grid = np.ix_(range(bucket, bucket + len(begin)), [self.columns[name] for name in names])
        self.table[SUMS][(slice(None), *grid)] += np.add.reduceat(parts, begin, axis=1)
        low, high = np.where(finite, value, math.inf), np.where(finite, value, -math.inf)
        self.table[LOW][grid] = np.minimum(self.table[LOW][grid], np.minimum.reduceat(low, begin))
        self.table[HIGH][grid] = np.maximum(self.table[HIGH][grid], np.maximum.reduceat(high, begin))

    def _make_room(self) -> None:
        buckets = len(self.starts)
        _, rows, columns = self.table.shape
        if buckets > rows or len(self.columns) > columns:
            larger = _empty(max(rows, min(2 * buckets, BUCKETS)), max(columns, 2 * len(self.columns)))
            larger[:, :rows, :columns] = self.table
            self.table = larger

    def _merge(self) -> None:
        """Make one bucket of every two."""
        rows = self.table.shape[1]
        merged = merged_rows(self.table, np.arange(0, rows, 2))
        self.table[SUMS] = 0
        self.table[LOW], self.table[HIGH] = math.inf, -math.inf
        self.table[:, : rows // 2] = merged
        self.starts = self.starts[::2]
        self.width *= 2

    # ------------------------------------------------------------ what was read

    def curve(self, key: str, x: Axis = "step", points: int = 600, after: float = -math.inf,
              begin: float = -math.inf, end: float = math.inf) -> Curve:  # fmt: skip
        """The curve of a key after the step `after` and where `begin` <= x <= `end`, as at most so many points."""
        with self.lock:
            if key not in self.columns:
                return Curve(*np.empty((4, 0)))
            part = self.table[:, : len(self.starts), self.columns[key]]
            part = part[:, part[SEEN] > 0]  # a copy
        steps, places = part[STEP] / part[SEEN], part[ROW_OF[x]] / part[SEEN]
        part = part[:, (after < steps) & (begin <= places) & (places <= end)]
        if part.shape[1] > points:
            part = merged_rows(part, np.arange(0, part.shape[1], -(-part.shape[1] // points)))
        is_finite = part[FINITE] > 0
        y = np.divide(part[VALUE], part[FINITE], out=np.full(part.shape[1], math.nan), where=is_finite)
        low, high = (np.where(is_finite, part[row], math.nan) for row in (LOW, HIGH))
        return Curve(part[ROW_OF[x]] / part[SEEN], y, low, high)

    def part(self, x: Axis, begin: float, end: float, most: int) -> "Metrics":
        """What lies between two places of an axis, read again line by line; if that is more than `most` bytes, self."""
        name = attrgetter(NAME_OF[x])
        with self.lock:
            first = self.starts[max(0, bisect_left(self.starts, begin, key=name) - 1)] if self.starts else self.at
            last = bisect_right(self.starts, end, key=name)
            size = (self.starts[last] if last < len(self.starts) else self.at).offset - first.offset
        if self.width == 1 or size > most:
            return self
        part = Metrics(self.path, at=replace(first, line=0))
        with open(self.path, "rb", buffering=0) as file:
            block = os.pread(file.fileno(), size, first.offset)
        part._feed(block[: block.rfind(b"\n") + 1])
        return part

    def place(self, name: Literal["step", "time"], value: float) -> Place:
        """The place after which the step, or the time, exceeds a value, as exactly as the buckets tell."""
        with self.lock:
            if value >= getattr(self.at, name) or not self.starts:
                return replace(self.at)
            return self.starts[max(0, bisect_right(self.starts, value, key=attrgetter(name)) - 1)]

    def since(self, line: int) -> list[Line] | None:
        """The lines that were read from number `line` on; None if not all of them are still known."""
        with self.lock:
            new = [each for each in self.recent if each.line >= line]
            is_whole = line >= self.at.line or not self.recent or self.recent[0].line <= line
            return new if is_whole or len(self.recent) < RECENT else None


def glimpse(path: Path) -> Metrics:
    """A first look at a large file: the lines at SAMPLES places over its whole length, in milliseconds."""
    metrics, lines = Metrics(path), []
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for place in range(SAMPLES):
            begin = place * max(0, size - SAMPLE) // (SAMPLES - 1)
            block = os.pread(file.fileno(), SAMPLE, begin)
            lines.append(block[block.find(b"\n") + 1 if begin else 0 : block.rfind(b"\n") + 1])
    metrics._feed(b"".join(lines))
    return metrics


def row_of(line: bytes) -> dict | None:
    """The object of a line; None for anything that is no line of a run, such as one that was cut short."""
    try:
        row = json.loads(line.decode())  # json would guess the encoding of bytes
        return row if type(row["step"]) is int and abs(row["step"]) < 1 << 53 else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def number(value: object) -> float:
    """A number, also one that strict JSON spells as text; NaN for anything else."""
    found = _value(value)
    return math.nan if found is None else found


def merged_rows(table: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """A table (8, buckets, …) whose buckets are merged, from each of `begin` up to the next."""
    sums = np.add.reduceat(table[SUMS], begin, axis=1)
    low, high = np.minimum.reduceat(table[LOW], begin), np.maximum.reduceat(table[HIGH], begin)
    return np.concatenate([sums, low[None], high[None]])


def _empty(rows: int, columns: int) -> np.ndarray:
    table = np.zeros((8, rows, columns))
    table[LOW], table[HIGH] = math.inf, -math.inf
    return table


def _numbers(rows: list[tuple[Any, ...]], taken: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The values of lines at the places `taken`, and which of them are numbers, (lines, taken) each."""
    try:
        values = np.array([[row[n] for n in taken] for row in rows])
    except ValueError:  # a list or a dictionary is among them
        values = np.array(None)
    if values.dtype.kind in "iuf" and values.ndim == 2:
        return values, np.ones(values.shape, dtype=bool)
    each = [[_value(row[n]) for n in taken] for row in rows]
    return np.array(each, dtype=float), np.array([[value is not None for value in row] for row in each])


def _value(value: object) -> float | None:
    if isinstance(value, int | float | str):  # "NaN" and "Infinity" are written as text
        try:
            return float(value)
        except ValueError:
            return None
        except OverflowError:
            return math.inf
    return None


def _holds(file: int, place: Place) -> bool:
    """Whether a file is still as it was up to a place."""
    return os.pread(file, len(place.proof), place.offset - len(place.proof)) == place.proof


def _how(kind: str, step: int, start: Mapping) -> str:
    """How a run was started, in words, from what `MetricsLog.note` wrote."""
    text = "started" if kind == "started" else f"resumed from step {step}"
    if kind == "restarted":
        text += f", after step {start['reached']} had been reached"
    changed = start.get("resumed_with")
    return f"{text} with {', '.join(map(str, changed))}" if isinstance(changed, list) and changed else text
