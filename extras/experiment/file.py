"""The file of an experiment: YAML, checked as a whole before anything runs, as dataclasses and as commands.

`Experiment` lists every key. The flags of each command are parsed by the command's own dataclass, so a misspelled or
impossible flag of the last arm is found before the first one starts.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nanochat.config import parse
from nanochat.config_files import fitted, read, spelled
from nanochat.errors import UserError, shown

BASELINE = "baseline"
ROOMS = ("scripts", "tasks", "nanochat")  # whose modules are commands
# The stages that train, and the flag that gives their number of steps.
STEPS = dict.fromkeys(("base_train", "mid_train", "chat_sft", "chat_rl"), "num_iterations") | {"train": "max_iters"}
LENGTHS = ("num_iterations", "num_epochs", "target_flops", "target_param_data_ratio", "minutes", "max_iters")

Flags = Mapping[str, Any]
Better = Literal["lower", "higher"]
Axis = Literal["minutes", "steps", "tokens", "flops"]


@dataclass(frozen=True)
class Budget:
    """How long every training stage lasts that is not given another length by a flag; one of the first four."""

    minutes: float | None = None  # of training steps; compiling, evaluating and saving do not count
    steps: int | None = None
    tokens: int | None = None
    dollars: float | None = None  # of minutes on `gpu`, at the price in nanochat.plan.gpus
    gpu: str = ""


@dataclass(frozen=True)
class Rule:
    """When an arm is kept. p is two-sided; an arm is discarded when it cannot be better by `better_by`, at that p."""

    score: str = ""  # the first of the scores
    p: float = 0.05
    better_by: float = 0.0  # in the unit of the score
    test: Literal["welch", "paired"] = "welch"
    not_worse: list[str] = field(default_factory=list)  # scores in which an arm that is kept may not be worse


@dataclass(frozen=True)
class Fit:
    """Fit score = E + A x^-alpha over the arms, with x their parameters, FLOPs or tokens."""

    score: str
    against: Literal["parameters", "flops", "tokens"]


@dataclass(frozen=True)
class Arm:
    """What differs from the common flags. "matrix_lr" reaches every stage that has such a flag, "mid_train.matrix_lr" one.

    script: a file that runs in place of the first training stage, with the same flags.
    """

    name: str
    flags: Flags
    script: str = ""


@dataclass(frozen=True)
class Experiment:
    """An experiment. `shared` stages run once, `stages` for each arm and seed, in this order: {name: flags}.

    The first of `arms` is the baseline. scores: name -> which is better; a name is a key of metrics.jsonl, of the last
    training stage that has it, or STAGE/KEY: base_train/val_bpb, chat_eval/facts, chat_eval/mean, base_eval/core.
    """

    name: str
    title: str
    stages: dict[str, Flags]
    arms: list[Arm]
    seeds: list[int]
    scores: dict[str, Better]
    shared: dict[str, Flags] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    verdict: Rule = field(default_factory=Rule)
    axis: Axis = "minutes"
    fit: list[Fit] = field(default_factory=list)
    threads: int | None = None  # of each run; default: those of the machine, shared by the jobs
    gpus: int = 1  # processes per training stage, started by torchrun if there are several
    keep_models: bool = False  # whether weights stay on the disk when a run is done

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def load(path: Path) -> Experiment:
    """Read and check a file. Raises UserError, naming the file and the key, for anything that could not run."""
    raise NotImplementedError


def with_arm(experiment: Experiment, arm: Arm) -> Experiment:
    """The experiment with one more arm, checked. Raises UserError for a name that is taken, or flags that do not fit."""
    raise NotImplementedError


def commands(experiment: Experiment, arm: Arm, seed: int) -> list[tuple[str, list[str]]]:
    """The stages of a run, each with the words after `python`."""
    raise NotImplementedError


def shared_commands(experiment: Experiment) -> list[tuple[str, list[str]]]:
    """The stages that run once, each with the words after `python`."""
    raise NotImplementedError
