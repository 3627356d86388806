"""How long the stages of a speedrun still take: as `scripts.plan` predicts, corrected by what training took here."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from nanochat.log import duration
from scripts._marks import Marks, last_step

TRAINING = ("base_train", "mid_train", "chat_sft")


class Clock:
    """Predicted seconds of each stage; a prediction is multiplied by what training took, divided by its prediction."""

    def __init__(self, marks: Marks, predicted: dict[str, dict[str, float]]) -> None:
        """predicted: of each stage its "seconds", and its "steps" if it trains; a stage may be missing."""
        self.marks, self.predicted = marks, predicted

    @classmethod
    def read(cls, marks: Marks, file: Path) -> "Clock":
        """A clock with what `scripts.plan --seconds_file` wrote; one that knows nothing where that is missing."""
        return cls(marks, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {})

    def seconds(self, stage: str, state: str, leaves: str = "") -> float | None:
        """What a stage still takes, None if that is not known; leaves: the pattern of its checkpoints, if it trains."""
        if state == "done":
            return 0.0
        if stage not in self.predicted:
            return None
        seconds, steps = self.predicted[stage]["seconds"] * self.pace(), self.predicted[stage].get("steps")
        if state == "resumes" and steps and (saved := self.marks.files(leaves)):
            seconds *= max(0.0, 1 - last_step(saved) / steps)
        return seconds

    def pace(self) -> float:
        """How many times as long as predicted the finished training stages took."""
        done = [stage for stage in TRAINING if stage in self.predicted and self.marks.exists(stage, "done")]
        took = {stage: seconds for stage in done if (seconds := taken(section(self.marks, stage)))}
        return sum(took.values()) / sum(self.predicted[stage]["seconds"] for stage in took) if took else 1.0


def section(marks: Marks, stage: str) -> dict:
    """A stage's section of the report; empty if it is missing or unreadable."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((marks.base / "report" / f"{stage}.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def taken(section: dict) -> float:
    """The seconds that a stage took by its section, over all its starts."""
    return sum((section.get("times") or {}).values()) or section.get("seconds") or 0.0


def left(now: float | None, all_left: Iterable[float | None]) -> str:
    """The time of a stage and of all that are left, for its header; empty where the first is not known.

    Stages whose time is not known are left out of the sum, which then is a lower bound.
    """
    if now is None:
        return ""
    rest = [*all_left]
    least = "at least " if None in rest else ""
    return f" · about {rounded(now)} of {least}{rounded(sum(filter(None, rest)))} left"


def rounded(seconds: float) -> str:
    """Seconds for people who plan: 20s, 5m, 1h20m."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)}s"
    return f"{round(seconds / 60)}m" if seconds < 7200 else duration(seconds)
