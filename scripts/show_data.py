"""Show conversations as the model sees them, with the tokens it is trained on marked."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nanochat import paths
from nanochat.config import parse
from nanochat.errors import UserError, run

if TYPE_CHECKING:
    from rich.text import Text

    from nanochat.tokenizer import Tokenizer
    from tasks.customjson import CustomJSON

LEARNT, SPECIAL = "bold green", "dim"
OPEN, CLOSE = "⟦", "⟧"  # around what is trained on, where there is no colour


@dataclass
class Flags:
    """Print conversations of a JSONL file and mark the tokens that are trained on in colour."""

    EXAMPLE: ClassVar = "--data_path my.jsonl --num 3"

    data_path: Path | None = None
    """JSONL file to show, with {"messages": [...]} or a bare list of messages on each line"""
    num: int = 5
    """number of conversations to print"""
    start: int = 0
    """first conversation to print"""
    max_seq_len: int = 2048
    """context length in training; a warning names conversations with more tokens"""
    tokenizer: Path | None = None
    """folder of the tokenizer; default: the one made by tok_train"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.data_path is None:
        raise UserError("no file given; name one with --data_path my.jsonl")

    from rich.console import Console  # slow to import, so not before the flags are known
    from rich.text import Text

    from nanochat import chat
    from nanochat.tokenizer import Tokenizer
    from tasks.customjson import CustomJSON

    task = CustomJSON(flags.data_path)
    if not 0 <= flags.start < len(task):
        raise UserError(f"--start is {flags.start}, but {flags.data_path} has the conversations 0 to {len(task) - 1}")
    tokenizer = Tokenizer.load(flags.tokenizer or paths.tokenizer_dir())
    console = Console(markup=False, highlight=False, soft_wrap=True)
    plain = console.color_system is None or console.no_color
    mark = Text(f"{OPEN}this{CLOSE}") if plain else Text("this colour", LEARNT)
    console.print(Text(f"{flags.data_path}: {len(task):,} conversations; trained on is ") + mark)
    for number in range(flags.start, min(flags.start + flags.num, len(task))):
        ids, mask = chat.render(tokenizer, task[number])
        counts = f"{len(ids):,} tokens, {sum(mask):,} trained on{too_long(len(ids), flags.max_seq_len)}"
        console.print(f"\n— conversation {number}, line {task.lines[number]}: {counts}")
        console.print(marked(tokenizer, ids, mask, plain))
    console.print()
    for line in summary(tokenizer, task, flags.max_seq_len):
        console.print(line)


def marked(tokenizer: "Tokenizer", ids: Sequence[int], mask: Sequence[int], plain: bool) -> "Text":
    """The text of some tokens, what is trained on in colour or, if `plain`, in brackets; special tokens dimmed."""
    from rich.text import Text

    text = Text()
    for learnt, group in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
        text.append(OPEN if plain and learnt else "")
        words = itertools.groupby((id for id, _ in group), key=lambda id: id >= tokenizer.first_special)
        for special, run_of_ids in words:
            style = " ".join(filter(None, (LEARNT if learnt else "", SPECIAL if special else "")))
            text.append(visible(tokenizer.decode(run_of_ids)), style)
        text.append(CLOSE if plain and learnt else "")
    return text


def summary(tokenizer: "Tokenizer", task: "CustomJSON", max_tokens: int) -> list[str]:
    """Lines about the whole file: how much there is to learn from, and what does not fit into the context."""
    from nanochat import chat

    tokens = learnt = cut = dropped = 0
    first_long = None
    for number in range(len(task)):
        ids, mask = chat.render(tokenizer, task[number])
        tokens += len(ids)
        learnt += sum(mask)
        if len(ids) > max_tokens:
            first_long = number if first_long is None else first_long
            if chat.render(tokenizer, task[number], max_tokens) is None:
                dropped += 1
            else:
                cut += 1
    lines = [f"{len(task):,} conversations, {tokens:,} tokens, {learnt:,} trained on ({learnt / tokens:.0%})"]
    if first_long is not None:
        lines.append(
            f"warning: {cut + dropped:,} longer than --max_seq_len {max_tokens}, the first on line "
            f"{task.lines[first_long]}; {cut:,} to lose turns at their end, {dropped:,} to be left out because "
            "not even the first exchange fits"
        )
    return lines


def too_long(tokens: int, max_tokens: int) -> str:
    return f"; longer than --max_seq_len {max_tokens}" if tokens > max_tokens else ""


def visible(text: str) -> str:
    """The text with control characters, which a terminal would obey, spelled out."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


if __name__ == "__main__":
    run(main)
