"""The file of an experiment: YAML, checked as a whole before anything runs, as dataclasses and as commands.

`Experiment` lists every key. The flags of each command are parsed by the command's own dataclass, so a misspelled or
impossible flag of the last arm is found before the first one starts.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nanochat.config import parse
from nanochat.config_files import as_typed, built, mapping, read
from nanochat.errors import UserError, shown

BASELINE = "baseline"
ROOMS = ("scripts", "tasks", "nanochat")  # whose modules are commands
# The stages that train, and the flag that gives their number of steps.
STEPS = dict.fromkeys(("base_train", "mid_train", "chat_sft", "chat_dpo", "chat_rl"), "num_iterations")
STEPS |= {"train": "max_iters"}
BUILT = ("arms", "stages", "shared", "scores", "budget", "verdict", "fit")  # keys that `load` makes itself
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
    """What differs from the common flags. matrix_lr reaches every stage that has such a flag, mid_train.matrix_lr one.

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
    keys = {name: value for name, (value, _) in read(path).items() if name != "agent"}  # which the agent's loop reads
    where = str(path)
    arms = mapping(keys.pop("arms", None) or {}, f"{where}: arms")
    if BASELINE in arms:
        raise UserError(f"{where}: arms: {BASELINE} is a key of its own, beside arms")
    arms = {BASELINE: keys.pop(BASELINE, None), **arms}
    keys["arms"] = [Arm(_name(name, where), _flags(flags, f"{where}: arm {name}")) for name, flags in arms.items()]
    for name in ("stages", "shared"):
        if name in keys:
            stages = mapping(keys[name] or {}, f"{where}: {name}")
            keys[name] = {stage: _flags(flags, f"{where}: {stage}") for stage, flags in stages.items()}
    scores = mapping(keys.get("scores"), f"{where}: scores")
    keys["scores"] = {name: as_typed(Better, better, f"{where}: scores: {name}") for name, better in scores.items()}
    for name, kind in (("budget", Budget), ("verdict", Rule)):
        if name in keys:
            keys[name] = built(kind, mapping(keys[name], f"{where}: {name}"), f"{where}: {name}")
    fits = keys.get("fit") or []
    keys["fit"] = [built(Fit, mapping(fit, f"{where}: fit"), f"{where}: fit")
                   for fit in (fits if isinstance(fits, list) else [fits])]  # fmt: skip
    experiment = built(Experiment, {"name": path.stem, "title": path.stem, **keys}, where, BUILT)
    if not experiment.verdict.score and experiment.scores:
        experiment = replace(experiment, verdict=replace(experiment.verdict, score=next(iter(scores))))
    try:
        _check(experiment, where)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return experiment


def with_arm(experiment: Experiment, arm: Arm) -> Experiment:
    """The experiment with one more arm. Raises UserError for a name that is taken, or flags that no stage takes."""
    _name(arm.name, experiment.name)
    if arm.name in [each.name for each in experiment.arms]:
        raise UserError(f"the experiment {experiment.name} has an arm {arm.name} already; give another name")
    _check_commands(experiment, arm, experiment.name)
    return replace(experiment, arms=[*experiment.arms, arm])


def commands(experiment: Experiment, arm: Arm, seed: int) -> list[tuple[str, list[str]]]:
    """The stages of a run, each with the words after `python`."""
    made, script = [], arm.script
    for stage, flags in flags_of(experiment, arm, seed).items():
        words = ["-m", module(stage)]
        if stage in STEPS:
            if script:
                words, script = [script], ""
            if experiment.gpus > 1:
                torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={experiment.gpus}"]
                words = [*torchrun, *words, "--"]
        made.append((stage, words + _words(flags)))
    return made


def flags_of(experiment: Experiment, arm: Arm, seed: int) -> dict[str, Flags]:
    """The flags of each stage of a run: the common ones, the arm's, the seed and the length."""
    made = {}
    for stage, common in experiment.stages.items():
        known = _known(stage)
        flags = dict(common)
        for name, value in arm.flags.items():
            of, _, flag = name.rpartition(".")
            if flag in known and of in ("", stage):
                flags[flag] = value
        if "seed" in known:
            flags["seed"] = seed
        if stage in STEPS and not _length_of(flags):
            flags |= _length(experiment, stage, flags, arm)
        made[stage] = flags
    return made


def parsed(experiment: Experiment, arm: Arm, seed: int) -> list[Any]:
    """The flags of a run's stages as their commands parse them: equal for runs that are the same, however written."""
    return [_parse(stage, flags, arm.name) for stage, flags in flags_of(experiment, arm, seed).items()]


def shared_commands(experiment: Experiment) -> list[tuple[str, list[str]]]:
    """The stages that run once, each with the words after `python`."""
    return [(stage, ["-m", module(stage), *_words(flags)]) for stage, flags in experiment.shared.items()]


def module(stage: str) -> str:
    """The module of a stage: base_train is scripts.base_train, and tasks.littleworld is itself."""
    return stage if "." in stage else f"scripts.{stage}"


def minutes(budget: Budget, gpus: int) -> float | None:
    """The minutes that a budget of minutes or dollars buys."""
    if budget.dollars is None:
        return budget.minutes
    from nanochat.plan.gpus import accelerator  # torch takes seconds

    price = accelerator(budget.gpu).price * gpus
    if price <= 0:
        raise UserError(f"a minute on {budget.gpu} costs nothing, so a budget of dollars has no end; give minutes")
    return 60 * budget.dollars / price


def typed(flags: Flags) -> str:
    """Flags as they are typed; of a long list the ends only."""
    short = {name: [value[0], "…", value[-1]] if isinstance(value, list) and len(value) > 6 else value
             for name, value in flags.items()}  # fmt: skip
    return " ".join(_words(short))


# ---------------------------------------------------------------- flags


def _length_of(flags: Flags) -> bool:
    return any(name in flags for name in LENGTHS)


def _length(experiment: Experiment, stage: str, flags: Flags, arm: Arm) -> Flags:
    """The flag that makes a training stage as long as the budget says."""
    budget = experiment.budget
    steps = budget.steps
    if budget.tokens is not None:
        batch = flags.get("total_batch_size")
        if not isinstance(batch, int) or batch < 1:
            raise UserError(f"arm {arm.name}: {stage} needs a total_batch_size, for a budget of tokens to be steps")
        steps = max(1, budget.tokens // batch)
    if steps is not None:
        return {STEPS[stage]: steps}
    amount = minutes(budget, experiment.gpus)
    if amount is None:
        return {}
    if "minutes" not in _known(stage):
        raise UserError(f"{stage} cannot be given minutes; give it {STEPS[stage]}, or the experiment a budget of steps")
    return {"minutes": amount}


def _known(stage: str) -> set[str]:
    return {entry.name for entry in dataclasses.fields(_dataclass(stage))}


def _dataclass(stage: str) -> Any:
    """The flags of a stage's command. Raises UserError for a name that is no command."""
    name = module(stage)
    if name.split(".")[0] in ROOMS and re.fullmatch(r"[A-Za-z][\w.]*", name):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is not None:
            is_package = found.submodule_search_locations is not None
            flags = getattr(importlib.import_module(f"{name}.__main__" if is_package else name), "Flags", None)
            if flags is not None:
                return flags
    raise UserError(f"there is no stage {shown(stage)}; expected one as base_train, or a module as tasks.littleworld")


def _words(flags: Flags) -> list[str]:
    """Flags as words of a command line; None leaves one out."""
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


# ---------------------------------------------------------------- checks


def _check(experiment: Experiment, where: str) -> None:
    """Raise UserError for what the types do not say."""
    rule, budget = experiment.verdict, experiment.budget
    amounts = {name: getattr(budget, name) for name in ("minutes", "steps", "tokens", "dollars")}
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    complaint = ""
    if not experiment.scores:
        complaint = "scores is empty; expected at least one, such as val_bpb: lower"
    elif not experiment.seeds or len(set(experiment.seeds)) < len(experiment.seeds):
        complaint = f"seeds is {experiment.seeds}; expected different numbers, such as [1, 2, 3]"
    elif not experiment.stages:
        complaint = "stages is empty; expected at least one, such as base_train"
    elif double := experiment.stages.keys() & experiment.shared.keys():
        complaint = f"{min(double)} is among the stages and the shared ones; it can run for each arm or once"
    elif len(given) > 1 or any(amount <= 0 for amount in given.values()):
        complaint = f"budget has {given or 'nothing'}; expected one of minutes, steps, tokens, dollars, above 0"
    elif (budget.dollars is not None) != bool(budget.gpu):
        complaint = "budget: dollars and gpu belong together, as in {dollars: 0.5, gpu: h100}"
    elif not 0 < rule.p < 1:
        complaint = f"verdict: p is {rule.p:g}; expected a number between 0 and 1, such as 0.05"
    elif unknown := {rule.score, *rule.not_worse, *(fit.score for fit in experiment.fit)} - experiment.scores.keys():
        complaint = f"{min(unknown)} is not among the scores ({', '.join(experiment.scores)})"
    elif experiment.gpus < 1 or (experiment.threads is not None and experiment.threads < 1):
        complaint = "gpus and threads are at least 1"
    if complaint:
        raise UserError(f"{where}: {complaint}")
    for stage, flags in experiment.shared.items():
        _parse(stage, flags, f"{where}: {stage}")
    for arm in experiment.arms:
        _check_commands(experiment, arm, where)


def _check_commands(experiment: Experiment, arm: Arm, where: str) -> None:
    """Raise UserError for flags of an arm that no stage has, or that a stage refuses."""
    for name in arm.flags:
        of, _, flag = name.rpartition(".")
        if of and of not in experiment.stages:
            raise UserError(f"{where}: arm {arm.name}: {name} names no stage ({', '.join(experiment.stages)})")
        known = sorted(set().union(*map(_known, [of] if of else experiment.stages)))
        if flag not in known:
            near = difflib.get_close_matches(flag, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; {of or 'its stages'} --help lists them"
            raise UserError(f"{where}: arm {arm.name}: no stage has a flag {flag}{hint}")
    if arm.script and not Path(arm.script).is_file():
        raise UserError(f"{where}: arm {arm.name}: {arm.script} does not exist")
    for stage, flags in flags_of(experiment, arm, experiment.seeds[0]).items():
        _parse(stage, flags, f"{where}: arm {arm.name}: {stage}")


def _parse(stage: str, flags: Flags, where: str) -> Any:
    try:
        return parse(_dataclass(stage), _words(flags))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _flags(value: Any, where: str) -> dict[str, Any]:
    flags = {name.replace("-", "_"): item for name, item in mapping(value or {}, where).items()}
    for name, item in flags.items():
        if isinstance(item, dict):
            raise UserError(f"{where}: {name} is {shown(item)}; expected the value of a flag")
    return flags


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+=-]{0,59}", name) or name == "shared":
        raise UserError(f"{where}: {shown(name)} cannot be the name of an arm; expected letters, digits and dashes")
    return name
