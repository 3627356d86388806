"""What runs have measured: scores, and curves over steps, minutes, tokens and FLOPs."""

from dataclasses import dataclass, field
from pathlib import Path

from extras.experiment.file import Axis, Better, Experiment, Fit, Rule


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
    seconds: float = 0.0  # of the whole run, with starting, compiling and evaluating
    parameters: int = 0
    error: str = ""


@dataclass(frozen=True)
class Study:
    """All that a report is made of. The first of `arms` is the baseline; flags: those of each arm, as typed."""

    title: str
    arms: dict[str, list[Outcome]]
    scores: dict[str, Better]
    rule: Rule
    axis: Axis = "minutes"
    flags: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def study(experiment: Experiment, folder: Path) -> Study:
    """The results so far."""
    raise NotImplementedError
