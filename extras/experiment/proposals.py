"""What an agent may propose, and what became of each proposal.

The `agent:` section of an experiment's file lists the flags that an agent may set, each with bounds. Every reply, taken
or refused, is a line of proposals.jsonl in the experiment's folder, and so is the result of every arm that came of one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from extras.experiment.file import Arm, Experiment, with_arm
from nanochat.config import as_field
from nanochat.config_files import spelled
from nanochat.errors import UserError, shown
from nanochat.paths import write_text

FILE = "proposals.jsonl"
LONGEST_HYPOTHESIS = 300  # characters
LONGEST_REPLY = 20_000  # characters of a reply that are kept
BOUNDS = ("min", "max", "choices")


@dataclass(frozen=True)
class Bound:
    """The values that a flag may have: one of `choices`, or numbers from `low` to `high`."""

    low: float = 0
    high: float = 0
    choices: tuple = ()

    @property
    def schema(self) -> dict:
        if self.choices:
            return {"enum": [*self.choices]}
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def __str__(self) -> str:
        if self.choices:
            return "one of " + ", ".join(json.dumps(choice) for choice in self.choices)
        return f"a number from {self.low:g} to {self.high:g}"

    def holds(self, value: Any) -> bool:
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high


@dataclass(frozen=True)
class Rules:
    """The `agent:` section of an experiment's file."""

    flags: dict[str, Bound] = field(default_factory=dict)
    """flags that the agent may set"""
    max_runs: int = 8
    """arms that it may have, over all starts"""
    max_minutes: float = 60.0
    """minutes that all of it may take, over all starts"""
    tries: int = 4
    """replies in a row that may be refused before the loop ends"""
    model: str | None = None
    """name of the model on the server; default: the first that it lists"""
    temperature: float = 0.7
    """temperature of its replies"""
    recipe: str | None = None
    """the file that the agent edits instead of naming flags"""


def rules(section: object, place: Path) -> Rules:
    """Read the section. Raises UserError, naming the file, for a key, value or bound that makes no sense."""
    if not isinstance(section, dict):
        raise UserError(f"{place} has no section agent; it lists the flags that an agent may set, as in the guide")
    known = {each.name: each for each in fields(Rules)}
    if unknown := sorted(set(map(str, section)) - set(known)):
        raise UserError(f"{place}: agent has no key {unknown[0]}; it has {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in section.items():
        try:
            values[name] = _bounds(value, place) if name == "flags" else as_field(Rules, name, value)
        except TypeError:
            kind = spelled(type(known[name].default)) if known[name].default is not None else "a text"
            raise UserError(f"{place}: agent.{name} is {shown(value)}; expected {kind}") from None
    made = Rules(**values)
    if not made.flags:
        raise UserError(f"{place}: agent.flags lists no flag that the agent may set; add some, each with min and max")
    for name, least in (("max_runs", 1), ("max_minutes", 0.0), ("tries", 1), ("temperature", 0.0)):
        if not least <= getattr(made, name) < math.inf:
            raise UserError(f"{place}: agent.{name} is {getattr(made, name)}; expected {least:g} or more")
    return made


def _bounds(given: object, place: Path) -> dict[str, Bound]:
    if not isinstance(given, dict):
        raise TypeError
    return {str(name): _bound(f"{place}: agent.flags.{name}", bound) for name, bound in given.items()}


def _bound(place: str, given: object) -> Bound:
    match given:
        case {"min": int() | float() as low, "max": int() | float() as high, **rest} if not rest:
            if not -math.inf < low <= high < math.inf:
                raise UserError(f"{place}: min is {low} and max is {high}; expected two numbers, the lower one first")
            return Bound(low, high)
        case {"choices": [_, *_] as choices, **rest} if not rest:
            return Bound(choices=tuple(choices))
    raise UserError(f"{place} is {shown(given)}; expected {{min: …, max: …}} or {{choices: […]}}")


class Refused(Exception):
    """Why a reply is not taken, in a sentence for the agent and the table."""


@dataclass(frozen=True)
class Proposal:
    """A reply as JSON, checked in form. recipe: the text of the file, where the agent edits one."""

    hypothesis: str
    flags: dict[str, Any]
    recipe: str = ""


def schema(rules: Rules) -> dict:
    """JSON schema of a reply."""
    what: dict[str, Any] = {
        "type": "object", "additionalProperties": False,
        "properties": {name: bound.schema for name, bound in rules.flags.items()},
    }  # fmt: skip
    if rules.recipe:
        what = {"type": "string"}
    name = "recipe" if rules.recipe else "flags"
    hypothesis = {"type": "string", "maxLength": LONGEST_HYPOTHESIS}
    return {
        "type": "object", "properties": {"hypothesis": hypothesis, name: what}, "required": ["hypothesis", name],
        "additionalProperties": False,
    }  # fmt: skip


def read(reply: str, rules: Rules) -> Proposal:
    """A reply as a proposal: the JSON object in it, whatever stands around. Raises Refused."""
    start, end = reply.find("{"), reply.rfind("}")
    try:
        content = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is not JSON ({' '.join(str(error).split())[:100]})") from None
    wanted = {"hypothesis": str, **({"recipe": str} if rules.recipe else {"flags": dict})}
    if not isinstance(content, dict) or set(content) != set(wanted):
        raise Refused(f"expected a JSON object with the keys {' and '.join(wanted)}, and no others")
    for name, kind in wanted.items():
        if not isinstance(content[name], kind):
            wanted_kind = "an object" if kind is dict else "a text"
            raise Refused(f"{name} is {shown(content[name])[:100]}; expected {wanted_kind}")
    hypothesis = " ".join("".join(c if c.isprintable() else " " for c in content["hypothesis"]).split())
    if not hypothesis:
        raise Refused("hypothesis is empty; say in one sentence what you expect and why")
    check(content.get("flags", {}), rules)
    flags = {name: _plain(value) for name, value in content.get("flags", {}).items()}
    return Proposal(hypothesis[:LONGEST_HYPOTHESIS], flags, content.get("recipe", ""))


def _plain(value: Any) -> Any:
    """A whole number as an int, because a stage refuses 2.0 layers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check(flags: Mapping[str, Any], rules: Rules) -> None:
    """Raise Refused for a flag that is not on the list, or a value that is out of bounds."""
    for name, value in flags.items():
        if name not in rules.flags:
            raise Refused(f"{shown(name)[:60]} is not a flag that you may set; these are {', '.join(rules.flags)}")
        if not rules.flags[name].holds(value):
            raise Refused(f"{name} is {shown(value)[:60]}; expected {rules.flags[name]}")


# ---------------------------------------------------------------- what became of them


class Ledger:
    """proposals.jsonl: lines are appended as things happen, so that a loop that was killed is resumed from them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.lines: list[dict] = []
        if self.path.exists():
            whole, _, rest = self.path.read_text(encoding="utf-8").rpartition("\n")
            if rest:  # cut short by a kill
                write_text(self.path, whole + "\n" if whole else "")
            self.lines = [json.loads(line) for line in whole.splitlines()]

    def add(self, **line: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The flags of the arms that were taken, by name, in order."""
        return {line["arm"]: line["flags"] for line in self.lines if "flags" in line}

    @property
    def baseline(self) -> dict[str, Any] | None:
        """The flags that a recipe gave the baseline; None where the agent names flags."""
        return next((line["baseline"] for line in self.lines if "baseline" in line), None)

    @property
    def results(self) -> dict[str, dict]:
        return {line["arm"]: line for line in self.lines if "verdict" in line}

    @property
    def seconds(self) -> float:
        """Time that asking and running took, over all starts."""
        return sum(line.get("seconds", 0.0) for line in self.lines)


def extended(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with the arms that an agent has added in `folder`, and the baseline as its recipe has it."""
    ledger = Ledger(folder)
    if ledger.baseline is not None:
        first = experiment.arms[0]
        arms = [replace(first, flags={**first.flags, **ledger.baseline}), *experiment.arms[1:]]
        experiment = replace(experiment, arms=arms)
    for name, flags in ledger.arms.items():
        experiment = with_arm(experiment, Arm(name, flags))
    return experiment


def table(folder: Path) -> list[Sequence[str]]:
    """Every proposal in a row, below a header: hypothesis, what it changes, as which arm it was taken or why it was
    refused, result and verdict. Empty if there were none."""
    ledger = Ledger(folder)
    if not ledger.lines:
        return []
    rows: list[Sequence[str]] = [("", "hypothesis", "proposed", "taken", "result", "verdict")]
    for line in ledger.lines:
        if "reply" in line:
            shown = " ".join(line["reply"].split())[:100]
            rows.append((str(len(rows)), "", shown, f"refused: {line['refused']}", "", ""))
        elif "flags" in line:
            done = ledger.results.get(line["arm"], {})
            changed = line.get("diff") or " ".join(f"{name}={value}" for name, value in line["flags"].items())
            became = line["arm"], done.get("result", ""), done.get("verdict", "")
            rows.append((str(len(rows)), line["hypothesis"], changed, *became))
    return rows
