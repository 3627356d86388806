"""The report of a study: tables, verdicts and pictures, as Markdown and as HTML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extras.experiment.results import Study


@dataclass(frozen=True)
class Verdict:
    """keep, discard or undecided, and why; failed where no run of the arm has a score."""

    arm: str
    decision: Literal["keep", "discard", "undecided", "failed"]
    reason: str  # a sentence
    n: int
    mean: float
    difference: float  # to the baseline; below 0 is better where lower is better
    p: float | None  # None where it cannot be computed, as from one seed
    multiplier: float | None  # how much less compute; None where it would be extrapolated


def verdicts(study: Study) -> list[Verdict]:
    """A verdict for each arm but the baseline, by the study's rule, for the rule's score."""
    raise NotImplementedError


def markdown(study: Study) -> str:
    """The report, without its pictures' files."""
    raise NotImplementedError


def write(study: Study, folder: Path) -> str:
    """Write report.md with its pictures, and report.html, to the folder. Returns the Markdown."""
    raise NotImplementedError
