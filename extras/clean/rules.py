"""The rules that look at one document at a time, and the tally of what they did."""

import bisect
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from extras.clean import pii, quality
from extras.clean.language import Language
from extras.clean.words import Words

EXAMPLES = 3  # kept per rule
_BEFORE, _AFTER = 60, 140  # characters of context in an example


@dataclass(frozen=True)
class Rules:
    """The rules that are turned on. Blank documents are always dropped."""

    min_chars: int = 0
    lang: tuple[str, ...] = ()
    quality: tuple[Literal["gopher", "c4"], ...] = ()
    profanity: tuple[str, ...] = ()  # the words themselves, so that another list makes other rules
    pii: Literal["mask", "drop"] | None = None
    dedup: bool = False
    similarity: float = 0.7


class Verdict(NamedTuple):
    """A rule's result: the text that stays (None: drop the document), what was found how often, and where."""

    text: str | None
    found: dict[str, int]
    place: int = 0


@functools.cache  # the model of languages takes a third of a second to load
def judge(rules: Rules) -> "Judge":
    """The judge for some rules, one per process."""
    return Judge(rules)


class Judge:
    """Applies rules to texts. Raises UserError for an unknown language."""

    def __init__(self, rules: Rules):
        self._rules = rules
        self._steps: list[Callable[[str], Verdict | None]] = [self._length]
        if rules.lang:
            self._language = Language(rules.lang)
            self._steps.append(self._lang)
        if "gopher" in rules.quality:
            self._english = not rules.lang or "en" in rules.lang
            self._steps.append(self._gopher)
        if "c4" in rules.quality:
            self._steps += [self._c4, self._length]
        if rules.profanity:
            self._words = Words(rules.profanity)
            self._steps.append(self._profanity)
        if rules.pii:
            self._steps.append(self._pii)

    def verdicts(self, text: str) -> Iterator[Verdict]:
        """The verdicts of the rules that found something; each rule sees the text that the one before has left."""
        for step in self._steps:
            verdict = step(text)
            if verdict is not None:
                yield verdict
                if verdict.text is None:
                    return
                text = verdict.text

    def _length(self, text: str) -> Verdict | None:
        if not text.strip():
            return Verdict(None, {"blank": 1})
        return Verdict(None, {"min_chars": 1}) if len(text) < self._rules.min_chars else None

    def _lang(self, text: str) -> Verdict | None:
        other = self._language.other(text)
        return Verdict(None, {f"lang: {other}": 1}) if other else None

    def _gopher(self, text: str) -> Verdict | None:
        why = quality.gopher(text, self._english)
        return Verdict(None, {f"gopher: {why}": 1}) if why else None

    def _c4(self, text: str) -> Verdict | None:
        kept, lines, why = quality.c4(text)
        if why:
            return Verdict(None, {f"c4: {why}": 1})
        return Verdict(kept, {"c4: lines": lines}, _difference(text, kept)) if lines else None

    def _profanity(self, text: str) -> Verdict | None:
        word = self._words.first(text)
        return Verdict(None, {"profanity": 1}, max(0, text.casefold().find(word))) if word else None

    def _pii(self, text: str) -> Verdict | None:
        masked, found = pii.mask(text)
        if not found:
            return None
        place = _difference(text, masked)
        if self._rules.pii == "mask":
            return Verdict(masked, {f"pii: {kind}": times for kind, times in found.items()}, place)
        return Verdict(None, {f"pii: {' and '.join(sorted(found))}": found.total()}, place)


def _difference(text: str, other: str) -> int:
    """The first place where two texts differ."""
    shorter = min(len(text), len(other))
    return bisect.bisect_left(range(shorter), True, key=lambda end: text[: end + 1] != other[: end + 1])


class Tally:
    """Counts documents and characters before and after, and for each rule documents, finds and a few examples.

    `counts` is plain data for JSON: {"before": {"documents", "characters"}, "after": the same, "rules": {name:
    {"action", "documents", "times", "examples"}}}.
    """

    def __init__(self, counts: dict | None = None):
        self.counts = counts or {"before": _nothing(), "after": _nothing(), "rules": {}}

    def count(self, which: Literal["before", "after"], characters: int, documents: int = 1) -> None:
        """Count documents; negative numbers subtract."""
        self.counts[which]["documents"] += documents
        self.counts[which]["characters"] += characters

    def note(self, document: str, text: str, verdict: Verdict) -> None:
        """Count a verdict about a text; `document` names it in the examples."""
        for name, times in verdict.found.items():
            shown = {"document": document, "before": excerpt(text, verdict.place),
                     "after": None if verdict.text is None else excerpt(verdict.text, verdict.place)}  # fmt: skip
            self.add(name, "dropped" if verdict.text is None else "edited", 1, times, [shown])

    def wants_example(self, name: str) -> bool:
        """Whether a rule has fewer than EXAMPLES."""
        return name not in self.counts["rules"] or len(self.counts["rules"][name]["examples"]) < EXAMPLES

    def add(self, name: str, action: str, documents: int, times: int, examples: list[dict]) -> None:
        """Count what a rule did to some documents."""
        rule = self.counts["rules"].setdefault(name, {"action": action, "documents": 0, "times": 0, "examples": []})
        rule["documents"] += documents
        rule["times"] += times
        rule["examples"] += examples[: EXAMPLES - len(rule["examples"])]

    def merge(self, other: "Tally") -> None:
        """Add what another tally counted, after all that this one has."""
        for which in ("before", "after"):
            self.count(which, other.counts[which]["characters"], other.counts[which]["documents"])
        for name, rule in other.counts["rules"].items():
            self.add(name, **rule)


def excerpt(text: str, place: int) -> str:
    """The part of a text around a place."""
    start = max(0, place - _BEFORE)
    end = place + _AFTER
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _nothing() -> dict[str, int]:
    return {"documents": 0, "characters": 0}
