"""What the sections say in numbers and words: name, date, one sentence, a row of figures, scores, conversations.

The Markdown card, the page and the picture for sharing all take it from here. Sections may hold anything: what cannot
be read raises one of UNREADABLE, and the caller leaves that part out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from nanochat.log import duration, short

Sections = Mapping[str, dict]

TRAINING = {"base_train": "base", "mid_train": "mid", "chat_sft": "SFT", "chat_dpo": "DPO", "chat_rl": "RL"}
CHAT_EVALS = {
    "chat_eval_base": "base", "chat_eval_mid": "mid", "chat_eval_sft": "SFT", "chat_eval_dpo": "DPO",
    "chat_eval_rl": "RL",
}  # fmt: skip
UNREADABLE = (AttributeError, IndexError, KeyError, OSError, OverflowError, TypeError, ValueError)  # of another shape
SHOWN = 3  # conversations on top of the card


@dataclass(frozen=True)
class Figure:
    """A number of the row on top; `value` is "" where it was not measured, and `note` says why or what it is of."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Score:
    """The fraction of n questions answered correctly by a stage's model, with its 95 % interval if that is known."""

    stage: str
    fraction: float
    n: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sample:
    """A conversation that ends with the model's own reply; right is None where it was not graded or not recorded."""

    task: str
    messages: Sequence[dict]
    right: bool | None
    expected: str | list | None

    @property
    def computes(self) -> bool:
        """Whether the reply uses the calculator."""
        reply = self.messages[-1]["content"]
        return isinstance(reply, list) and any(part["type"] == "python" for part in reply)

    @property
    def questions(self) -> int:
        return sum(message["role"] == "user" for message in self.messages)


# ---------------------------------------------------------------- on top


def name(found: Sections) -> str:
    """The model that came last, such as "d3 · SFT"."""
    return next((f"{found[stage]['tag']} · {label}" for stage, label in reversed(TRAINING.items())
                 if found.get(stage, {}).get("tag")), "nanochat")  # fmt: skip


def date(found: Sections) -> datetime | None:
    """When the last section was written, in UTC."""
    written = [float(section["written"]) for section in found.values() if section.get("written")]
    return datetime.fromtimestamp(max(written), timezone.utc) if written else None


def day(date: datetime | None) -> str:
    """A date for people: 1 December 2026."""
    return f"{date.day} {date:%B %Y}" if date else ""


def sentence(found: Sections) -> str:
    """The whole card in one sentence."""
    trained = [stage for stage in TRAINING if stage in found]
    if not trained and not scores(found) and "base_eval" not in found:
        return f"There is no model yet: the only stages with a section are {' and '.join(found)}."
    parameters = next((found[stage]["parameters"] for stage in trained if found[stage].get("parameters")), None)
    size = f" of {short(float(parameters))} parameters" if parameters else ""
    total = sum(map(seconds, found.values())) if trained else 0
    time = f", trained and measured in {duration(total)}" if total else ""
    machine = device(found[trained[-1]]) if trained else ""
    where = f"{'' if time else ', trained'} on {machine}" if machine else ""
    return f"A language model{size}{time}{where}; {_reached(found)}."


def _reached(found: Sections) -> str:
    stage, average = mean(found)
    if average is not None:
        by_task = {task: own[-1].fraction for task, own in scores(found).items() if own[-1].stage == stage}
        best, worst = max(by_task, key=by_task.__getitem__), min(by_task, key=by_task.__getitem__)
        told = f"it answers {whole(average)} of held-out questions correctly"
        if len(by_task) == 1:
            return told
        told += f", averaged over {len(by_task)} tasks"
        return f"{told}: from {whole(by_task[worst])} in {worst} to {whole(by_task[best])} in {best}"
    if bpb := found.get("base_eval", {}).get("val_bpb"):
        return f"it predicts held-out text at {fixed(bpb, 2)} bits per byte, and no questions were graded"
    return "nothing it has learned was measured yet"


def figures(found: Sections, price: float | None) -> list[Figure]:
    """Parameters, tokens, time, cost and mean score. price: dollars for an hour of one GPU, if it is known."""
    parameters = next((section["parameters"] for section in found.values() if section.get("parameters")), None)
    tokens = sum(float(found.get(stage, {}).get("tokens") or 0) for stage in TRAINING)
    total = sum(map(seconds, found.values()))
    bill = "" if price is None else f"${sum(cost(section, price) for section in found.values()):.2f}"
    stage, average = mean(found)
    tasks = sum(own[-1].stage == stage for own in scores(found).values())
    return [
        Figure("parameters", short(float(parameters)) if parameters else ""),
        Figure("tokens trained on", short(tokens) if tokens else ""),
        Figure("time", duration(total) if total else "", "all stages, with their evaluations"),
        Figure("cost", bill, f"at ${price:.2f} an hour" if price is not None else "no price was given"),
        Figure("mean score", "" if average is None else whole(average),
               "no questions were graded" if average is None else f"{stage}, {tasks} task{'s'[: tasks != 1]}"),
    ]  # fmt: skip


def other_scores(found: Sections) -> list[str]:
    """The scores that others publish."""
    base = found.get("base_eval", {})
    told = [f"{fixed(base['val_bpb'], 4)} bits per byte"] if base.get("val_bpb") else []
    if core := base.get("core"):
        told.append(f"CORE {fixed(core['core'], 4)}")
    for stage, label in CHAT_EVALS.items():
        if score := percent(found.get(stage, {}).get("chatcore")):
            told.append(f"ChatCORE {score} ({label})")
    return told


def commits(found: Sections) -> str:
    """The commits that the stages ran on, shortened, but with "-dirty"."""
    all_of_them = dict.fromkeys(str(section.get("commit", "unknown")) for section in found.values())
    return "commit " + ", ".join(commit[:12] + commit[40:] for commit in all_of_them)


# ---------------------------------------------------------------- scores and conversations


def scores(found: Sections) -> dict[str, list[Score]]:
    """By task, the scores of the stages that were graded on it, in the order of the stages."""
    by_task: dict[str, list[Score]] = {}
    for section, label in CHAT_EVALS.items():
        for task, result in (found.get(section, {}).get("tasks") or {}).items():
            n = float(result["n"])
            if n >= 1 and 0 <= (fraction := float(result["correct"]) / n) <= 1:
                by_task.setdefault(task, []).append(Score(label, fraction, int(n), _interval(result)))
    return by_task


def _interval(result: dict) -> tuple[float, float] | None:
    if not result.get("interval"):
        return None
    low, high = map(float, result["interval"])
    return (low, high) if 0 <= low <= high <= 1 else None


def mean(found: Sections) -> tuple[str, float | None]:
    """The last stage that was graded, and the mean of its tasks' scores; None where none was."""
    by_stage: dict[str, list[float]] = {}
    for own in scores(found).values():
        for score in own:
            by_stage.setdefault(score.stage, []).append(score.fraction)
    stage = next((label for label in reversed(CHAT_EVALS.values()) if label in by_stage), "")
    return stage, sum(by_stage[stage]) / len(by_stage[stage]) if stage else None


def not_graded(found: Sections) -> list[str]:
    """The stages that were trained, but whose model was asked no questions."""
    graded = {score.stage for own in scores(found).values() for score in own}
    return [label for stage, label in TRAINING.items() if stage in found and label not in graded]


def talker(found: Sections) -> str:
    """The section with the conversations of the last stage that has any; "" without one."""
    return next((stage for stage in reversed(CHAT_EVALS) if found.get(stage, {}).get("samples")), "")


def samples(found: Sections) -> list[Sample]:
    """The conversations of the last graded stage: the first question of every task, answered by the model.

    Older sections name no tasks; where there is a conversation of each, they are in the order of the tasks.
    """
    section = found.get(talker(found), {})
    known = [each for each in section.get("samples") or [] if each.get("messages")]
    tasks = list(section.get("tasks") or ())
    names = tasks if len(tasks) == len(known) else [""] * len(known)
    return [
        Sample(str(each.get("task") or task), each["messages"], each.get("right"), each.get("expected"))
        for each, task in zip(known, names, strict=True)
    ]


def shown_samples(found: Sections) -> list[Sample]:
    """Three of them, whether right or wrong: one with the calculator, one with a follow-up, then the first others."""
    known = samples(found)
    calculated = [each for each in known if each.computes][:1]
    followed = [each for each in known if each.questions > 1 and not each.computes][:1]
    others = [each for each in known if each not in calculated + followed]
    chosen = [*others[: SHOWN - len(calculated + followed)], *followed, *calculated]
    return sorted(chosen, key=known.index)


def asks(found: Sections) -> dict[str, str]:
    """What each task asks, in the words that chat_eval wrote; "" where an older one wrote none."""
    told: dict[str, str] = {}
    for section in CHAT_EVALS:
        for task, result in (found.get(section, {}).get("tasks") or {}).items():
            told[task] = str(result.get("asks") or told.get(task, ""))
    return told


# ---------------------------------------------------------------- numbers


def device(section: dict) -> str:
    """What a stage ran on: its GPUs, else its processor cores."""
    machine = section.get("machine") or {}
    if machine.get("GPU", "none") != "none":
        return str(machine["GPU"])
    return f"{machine['cores']} CPU core{'s'[: machine['cores'] != 1]}" if machine.get("cores") else ""


def seconds(section: dict) -> float:
    return float(section.get("seconds") or 0)


def gpus(section: dict) -> int:
    """The GPUs of the machine that a stage ran on, all of which are paid for; 1 for a machine without any."""
    return max(1, sum(map(int, re.findall(r"(\d+) x ", str(section.get("machine", {}).get("GPU"))))))


def cost(section: dict, price: float) -> float:
    """Dollars."""
    return seconds(section) / 3600 * gpus(section) * price


def fixed(value: str | float | None, digits: int = 0) -> str:
    """A number, also one that is written as "NaN" in strict JSON; "" without one."""
    return "" if value is None else f"{float(value):.{digits}f}"


def whole(fraction: float) -> str:
    """A fraction in whole per cent."""
    return f"{100 * fraction:.0f} %"


def percent(fraction: str | float | None) -> str:
    return "" if fraction is None else f"{100 * float(fraction):.1f} %"


def content(message: str | list) -> str:
    """The text of a message; a tool call is shown as [expression][= result]."""
    if not isinstance(message, list):
        return str(message)
    shapes = {"python": "[{}]", "python_output": "[= {}]"}
    return "".join(shapes.get(part["type"], "{}").format(part["text"]) for part in message)
