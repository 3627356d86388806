"""ARC, the AI2 Reasoning Challenge: questions of American science tests for pupils."""

from typing import Literal

from nanochat.data.shards import ExamSplit
from tasks import tables
from tasks.choices import BASELINE, choice, is_chosen


class ARC:
    """Multiple choice, with three to five answers, four as a rule; the letters are in a few questions figures.

    ARC-Easy has 2,251 questions for training, 570 for validation and 2,376 that are scored; ARC-Challenge, those that
    looking up words does not solve, 1,119, 299 and 1,172.
    Source: allenai/ai2_arc on the hub (Clark et al. 2018, arXiv 1803.05457). Licence: CC BY-SA 4.0.
    Raises what `tables.shuffled` raises.
    """

    baseline = BASELINE

    def __init__(self, subset: Literal["ARC-Easy", "ARC-Challenge"], split: ExamSplit):
        self.split = split
        self.name = subset
        split_there = {"train": "train", "val": "validation", "test": "test"}[split]
        pattern, columns = f"{subset}/{split_there}-*.parquet", ["question", "choices", "answerKey"]
        self.rows = tables.shuffled("allenai/ai2_arc", pattern, columns)

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        return self.rows.contents(f"{self.name}, {self.split}", self.split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return choice(row["question"], row["choices"]["text"], row["choices"]["label"], row["answerKey"])

    def grade(self, conversation: dict, answer: str) -> bool:
        return is_chosen(conversation, answer)
