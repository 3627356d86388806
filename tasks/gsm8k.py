"""GSM8K: word problems of primary-school mathematics, solved in steps with a calculator."""

import re
from typing import Literal

from nanochat.data.shards import ExamSplit
from tasks import tables
from tasks.littleworld.conversations import reference

_CALL = re.compile(r"<<([^<>]*)>>")
_FINAL = re.compile(r"#### (-?[0-9.,]+)")
HELD_OUT = 16  # one in so many training problems is kept for validation; the test problems are scored


class GSM8K:
    """Solutions end with #### and the number: 7,473 problems for training and validation, 1,319 that are scored.

    Source: openai/gsm8k on the hub (Cobbe et al. 2021, arXiv 2110.14168). Licence: MIT.
    Raises what `tables.shuffled` raises.
    """

    name = "GSM8K"
    baseline = 0.0

    def __init__(self, split: ExamSplit, subset: Literal["main", "socratic"] = "main"):
        self.split = split
        split_there = "test" if split == "test" else "train"
        self.rows = tables.shuffled("openai/gsm8k", f"{subset}/{split_there}-*.parquet", ["question", "answer"])
        places = range(len(self.rows))
        self.places = {"train": [place for place in places if place % HELD_OUT], "val": places[::HELD_OUT],
                       "test": places}[split]  # fmt: skip

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        return self.rows.contents(f"{self.name}, {self.split}", self.split)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[self.places[index]]
        return {"messages": [{"role": "user", "content": row["question"]},
                             {"role": "assistant", "content": solution_parts(row["answer"])}]}  # fmt: skip

    def grade(self, conversation: dict, answer: str) -> bool:
        return is_final_number(conversation, answer)


def solution_parts(solution: str) -> list[dict[str, str]]:
    """A solution as parts of a message: <<48/2=24>> is a calculation and its result, left out without one."""
    parts = []
    for n, piece in enumerate(_CALL.split(solution)):
        if n % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
            continue
        expression, _, result = piece.rpartition("=")
        if expression and result:
            parts += [{"type": "python", "text": expression}, {"type": "python_output", "text": result}]
    return parts


def final_number(text: str) -> str | None:
    """The number after the first "#### ", without commas and the full stop of a sentence; None where there is none."""
    found = _FINAL.search(text)
    return found[1].replace(",", "").removesuffix(".") if found else None


def is_final_number(conversation: dict, answer: str) -> bool:
    """Whether `answer` ends in the reference's number, digit for digit, as the authors' own program compares them."""
    expected = final_number(reference(conversation))
    return expected is not None and final_number(answer) == expected
