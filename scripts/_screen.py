"""What a speedrun shows to the one who watches it: what each stage is for, and a last screen."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from nanochat.log import duration, short
from scripts._clock import TRAINING, section, taken
from scripts._marks import Marks

ABOUT = {
    "data": "gets the text that the model will read",
    "more_data": "gets the rest of it",
    "tok_train": "learns which pieces of words become tokens",
    "tok_eval": "counts how many bytes of text a token holds",
    "base_train": "learns to continue text, one token after the other",
    "base_eval": "measures how well it does on text that it has not seen",
    "identity": "writes conversations about who the model is",
    "mid_train": "learns what a conversation looks like, and to use the calculator",
    "chat_sft": "learns to answer; only the assistant's words are trained on",
    "chat_rl": "tries maths questions and learns from the answers that were right",
}
EVALUATIONS = {"mid": "after mid_train", "sft": "after chat_sft", "rl": "after chat_rl"}
BAR, NAME = 5, 14  # the characters of a bar and of a name
COLUMNS, WIDE = (4, 3), 100  # of the bars: the first that fits into the terminal, or into so many characters of a file
NEXT = {
    "tiny": "PRESET=long NANOCHAT_BASE_DIR=~/long bash speedrun.sh, or your own text: docs/guides/own-text.md",
    "real": "RL=1 bash speedrun.sh, or your own conversations: docs/guides/own-conversations.md",
}


def about(stage: str) -> str:
    """What a stage is for, in a few words."""
    if stage.startswith("chat_eval_"):
        return f"asks questions that it was not trained on, {EVALUATIONS[stage.removeprefix('chat_eval_')]}"
    return ABOUT[stage]


def header(number: int, total: int, stage: str, time_left: str, command: str) -> str:
    """The lines above what a stage prints. `time_left` is empty or begins with a space."""
    count = f"[{number}/{total}]"
    return f"\n{count} {stage}: {about(stage)}{time_left}\n{' ' * len(count)} python {command}"


def closing(marks: Marks, recipe: str, tag: str, stages: Sequence[str], commands: Mapping[str, str]) -> str:
    """The last screen. stages: names of the recipe's; commands: how to talk to the model, by the words before them."""
    sections = {stage: section(marks, stage) for stage in stages}
    facts = [f"{tag} is ready"]
    if parameters := sections.get("base_train", {}).get("parameters"):
        facts.append(f"{short(parameters)} parameters")
    if tokens := sum(sections.get(stage, {}).get("tokens") or 0 for stage in TRAINING):
        facts.append(f"{short(tokens)} tokens")
    if seconds := sum(map(taken, sections.values())):
        facts.append(duration(seconds))
    scored = next((found for stage in reversed(stages) if (found := sections[stage].get("tasks"))), {})
    head = ", ".join(facts) + ("; questions that it answers correctly:" if scored else "")
    width = max(map(len, [*commands, "report", "next"]))
    lines = {"report": f"{marks.base / 'report' / 'report.html'} (the same as text: report.md)", **commands}
    lines["next"] = NEXT[recipe]
    return "\n".join([head, *bars(scored), *(f"{name:{width}}  {line}" for name, line in lines.items())])


def bars(tasks: Mapping[str, dict]) -> list[str]:
    """The fraction of right answers to each task, and their mean, as bars, side by side where there is room."""
    found = {name: task["correct"] / task["n"] for name, task in tasks.items() if task.get("n")}
    if not found:
        return []
    found["mean"] = sum(found.values()) / len(found)
    room = shutil.get_terminal_size((WIDE, 24)).columns
    tables = (_table(found, columns) for columns in COLUMNS)
    return next((lines for lines in tables if max(map(len, lines)) <= room), _table(found, COLUMNS[-1]))


def _table(found: Mapping[str, float], columns: int) -> list[str]:
    """The lines of the table, which is read from top to bottom."""
    rows, names = -(-len(found) // columns), list(found)
    cells = []
    for first in range(0, len(names), rows):
        column = names[first : first + rows]
        width = min(NAME, max(map(len, column)))
        cells.append([f"{name[:NAME]:{width}} {_bar(found[name])} {100 * found[name]:3.0f}%" for name in column])
    return ["  ".join(line).rstrip() for line in zip_longest(*cells, fillvalue="")]


def _bar(fraction: float) -> str:
    eighths = round(8 * BAR * fraction)
    try:
        "█▏░".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ("#" * round(BAR * fraction)).ljust(BAR, ".")
    whole = "█" * (eighths // 8) + ("" if eighths % 8 == 0 else " ▏▎▍▌▋▊▉"[eighths % 8])
    return whole.ljust(BAR)
