"""What runs have measured: scores, and curves over steps, minutes, tokens and FLOPs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extras.experiment import numbers, proposals, runs
from extras.experiment.file import Axis, Better, Experiment, Fit, Rule, typed
from nanochat import paths

SLOW = 10


@dataclass(frozen=True)
class Point:
    """A value during training, after so many steps, minutes of training steps, tokens and FLOPs."""

    steps: float
    minutes: float
    tokens: float
    flops: float
    value: float


@dataclass(frozen=True)
class Outcome:
    """A run's results; of one that failed its error, of one that is not done neither scores nor error."""

    seed: int
    scores: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[Point]] = field(default_factory=dict)
    seconds: float = 0.0  # of all its starts, with starting, compiling and evaluating
    parameters: int = 0
    error: str = ""


@dataclass(frozen=True)
class Study:
    """All that a report is made of. The first of `arms` is the baseline; flags: those of each arm, as typed.

    varied: the number that each arm has for varied_flag, if that is all in which they differ.
    """

    title: str
    arms: dict[str, list[Outcome]]
    scores: dict[str, Better]
    rule: Rule
    axis: Axis = "minutes"
    flags: dict[str, str] = field(default_factory=dict)
    varied_flag: str = ""
    varied: dict[str, float] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    proposals: list[Sequence[str]] = field(default_factory=list)  # an agent's, as a table; its first row is the header

    @property
    def baseline(self) -> str:
        return next(iter(self.arms))

    def values(self, arm: str, score: str) -> dict[int, float]:
        """The score of each seed that has one."""
        return {each.seed: each.scores[score] for each in self.arms[arm] if score in each.scores}

    def curve(self, arm: str, score: str) -> list[tuple[float, float]]:
        """The mean of the arm's curves of a score over the axis; empty where it is measured at the end only."""
        found = [each.curves[score] for each in self.arms[arm] if score in each.curves]
        if not found:
            return []
        pairs = [[(getattr(point, self.axis), point.value) for point in points] for points in found]
        return numbers.mean_curve(pairs, [[point.steps for point in points] for points in found])

    def multiplier(self, arm: str, score: str) -> float | None:
        """How many times less compute the arm needs for the baseline's final value, on the axis."""
        curves = self.curve(arm, score), self.curve(self.baseline, score)
        return numbers.multiplier(*curves, self.scores[score] == "lower")


def study(experiment: Experiment, folder: Path) -> Study:
    """The results so far."""
    arms: dict[str, list[Outcome]] = {arm.name: [] for arm in experiment.arms}
    commits = set()
    for run in runs.plan(experiment, folder):
        if run.arm != runs.SHARED:
            arms[run.arm].append(outcome(run, experiment.scores))
            commits |= {run.record["commit"]} if run.is_done else set()
    notes = [f"runs are of {len(commits)} commits: {', '.join(sorted(commits))}"] if len(commits) > 1 else []
    flags = {arm.name: " ".join(filter(None, [arm.script, typed(arm.flags)])) for arm in experiment.arms}
    return Study(experiment.title, arms, experiment.scores, experiment.verdict, experiment.axis, flags,
                 *_varied(experiment), experiment.fit, notes, proposals.table(folder))  # fmt: skip


def _varied(experiment: Experiment) -> tuple[str, dict[str, float]]:
    """The one flag in which all arms differ, and its number in each; nothing where there is no such flag."""
    names = {name for arm in experiment.arms for name in arm.flags}
    if len(names) != 1:
        return "", {}
    name = min(names)
    common = [flags[key] for flags in experiment.stages.values() for key in flags if key == name.rpartition(".")[2]]
    found = {arm.name: arm.flags.get(name, common[0] if common else None) for arm in experiment.arms}
    varied = {arm: float(value) for arm, value in found.items()
               if isinstance(value, (int, float)) and not isinstance(value, bool)}  # fmt: skip
    return (name, varied) if len(varied) > 1 else ("", {})


def outcome(run: runs.Run, scores: Mapping[str, Better]) -> Outcome:
    """What a run has measured. A score that a finished run lacks is its error."""
    if run.error or not run.is_done:
        return Outcome(run.seed, seconds=run.record.get("seconds", 0.0), error=run.error)
    found: dict[str, float] = {}
    curves: dict[str, list[Point]] = {}
    for stage in [stage for stage, _ in run.commands]:
        if (path := runs.metrics_of(run.folder, stage)) is not None:
            own = curves_of(path)
            curves |= own | {f"{stage}/{key}": points for key, points in own.items()}
    for section in sorted((run.folder / "report").glob("*.json")):
        found |= _scores_of(paths.read_json(section), section.stem)
    found |= {name: points[-1].value for name, points in curves.items()}
    if missing := [name for name in scores if name not in found]:
        there = ", ".join(sorted(found)) or "none"
        error = f"it has no score {missing[0]}; there are: {there}"[:600]
        return Outcome(run.seed, seconds=run.record["seconds"], error=error)
    base = run.folder / "report" / "base_train.json"
    parameters = paths.read_json(base).get("parameters", 0) if base.exists() else 0
    return Outcome(run.seed, {name: found[name] for name in scores}, {name: curves[name] for name in scores if name in
                   curves}, run.record["seconds"], parameters)  # fmt: skip


def curves_of(metrics: Path) -> dict[str, list[Point]]:
    """Every key of a metrics.jsonl over the training so far.

    A step that took more than SLOW times the median was compiling, and counts as the median.
    """
    rows = [json.loads(line) for line in metrics.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    times = [row["seconds"] for row in rows if "seconds" in row]
    usual = statistics.median(times) if times else 0.0
    minutes = tokens = flops = 0.0
    found: dict[str, list[Point]] = {}
    for row in rows:
        if "seconds" in row:
            minutes += (usual if row["seconds"] > SLOW * usual else row["seconds"]) / 60
            tokens += row["tok_per_second"] * row["seconds"]
            flops += row["tflop_per_second"] * row["seconds"] * 1e12
        for key, value in row.items():
            if key not in ("step", "time", "start"):
                found.setdefault(key, []).append(Point(row["step"], minutes, tokens, flops, float(value)))
    return found


def _scores_of(section: Mapping[str, Any], stage: str) -> dict[str, float]:
    """The scores in a section of the report card. Those of chat_eval_sft are chat_eval/TASK, and their mean."""
    found = {f"{stage}/{name}": float(value) for name, value in section.items()
             if isinstance(value, (int, float)) and not isinstance(value, bool)}  # fmt: skip
    if isinstance(core := section.get("core"), dict):
        found[f"{stage}/core"] = float(core["core"])
        found |= {f"{stage}/core/{label}": float(task["accuracy"]) for label, task in core["tasks"].items()}
    asked = {name: task for name, task in (section.get("tasks") or {}).items() if task["n"]}
    if tasks := {name: float(task["correct"]) / task["n"] for name, task in asked.items()}:
        stage = stage.rpartition("_")[0]
        found |= {f"{stage}/{name}": value for name, value in tasks.items()}
        found[f"{stage}/mean"] = sum(tasks.values()) / len(tasks)
    return found
