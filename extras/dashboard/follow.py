"""What is new in runs that somebody watches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from extras.dashboard.metrics import Axis, Curve, Line, number
from extras.dashboard.runs import RunFolder, Runs, finite
from nanochat.errors import UserError


@dataclass
class Follower:
    """Follows a run for one reader, from its first look on."""

    runs: Runs
    run: RunFolder
    keys: Sequence[str]
    x: Axis
    _line: int | None = None  # of the next one to send; None before the first look
    _version: int = -1  # of the metrics that the reader has
    _sampled: bool = False  # whether the reader may have got a sample, before the file was read
    _summary: dict = field(default_factory=dict)

    def poll(self) -> list[tuple[str, dict]]:
        """What has happened since the last time, as events ("points", "run" or "reset") with their data."""
        found = self._points()
        try:
            summary = self.runs.summary(self.run)
        except UserError:  # the run was deleted; one of this name may begin anew
            return found
        if summary != self._summary:
            self._summary = summary
            found.append(("run", summary))
        return found

    def _points(self) -> list[tuple[str, dict]]:
        metrics = self.runs.metrics(self.run)
        if not self.runs.is_near(metrics):
            self._sampled = True
            return []
        with metrics.lock:
            metrics.advance()
            version, before, self._line = metrics.version, self._line, metrics.at.line
            new = metrics.since(before) if before is not None else []
        was, self._version = self._version, version
        if self._sampled or before is not None and (was != version or new is None):
            self._sampled = False
            return [("reset", {"run": self.run.id})]
        curves = {key: _curve([line for line in new or () if key in line.row], key, self.x) for key in self.keys}
        return [("points", points(self.run.id, key, self.x, curve)) for key, curve in curves.items() if curve.x.size]


def _curve(lines: Sequence[Line], key: str, axis: Axis) -> Curve:
    """Lines as they are."""
    x, y = np.array([line.x(axis) for line in lines]), np.array([number(line.row[key]) for line in lines])
    return Curve(x, y, y, y)


def points(run: str, key: str, x: Axis, curve: Curve) -> dict:
    """A curve as JSON."""
    digits = {"step": 1, "tokens": 0, "time": 3}[x]
    return {"run": run, "key": key, "x": [round(value, digits) for value in curve.x.tolist()],
            "y": _short(curve.y)}  # fmt: skip


def series(run: str, key: str, x: Axis, curve: Curve, exact: bool) -> dict:
    """A curve with its range as JSON."""
    return {**points(run, key, x, curve), "low": _short(curve.low), "high": _short(curve.high), "exact": exact}


def _short(values: np.ndarray) -> list[float | None]:
    """Numbers with as many digits as a chart can show; null for NaN."""
    return [None if math.isnan(value) else finite(float(f"{value:.7g}")) for value in values.tolist()]
