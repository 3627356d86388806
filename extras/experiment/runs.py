"""Runs of an experiment: each in processes of its own and in a base folder of its own, below the experiment's folder.

    FOLDER/shared-HASH/            base folder of the shared stages
    FOLDER/runs/ARM-sSEED-HASH/    base folder of a run; run.json has its commands, which stages are done, and its error
    FOLDER/report.md, report.html

HASH is of all commands and what they read, so a changed flag is another run, and a run that is done is never repeated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from extras.experiment.file import Experiment


@dataclass(frozen=True)
class Run:
    """An arm with a seed: its stages with the words after `python`, and its base folder."""

    arm: str
    seed: int
    folder: Path
    commands: list[tuple[str, list[str]]]

    @property
    def is_done(self) -> bool:
        raise NotImplementedError

    @property
    def error(self) -> str:
        """The last line of what failed; "" for a run that did not fail."""
        raise NotImplementedError


def plan(experiment: Experiment, folder: Path) -> list[Run]:
    """The runs, seed by seed, so that every arm has a result early; the shared stages first, as arm "shared"."""
    raise NotImplementedError


def run_missing(experiment: Experiment, folder: Path, jobs: int = 1) -> list[Run]:
    """Run what is not done, `jobs` at a time. Returns the runs that failed.

    A signal ends the stages that are running, which save, and raises SystemExit with its code.
    """
    raise NotImplementedError
