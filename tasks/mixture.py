"""Several tasks as one, with their rows shuffled together."""

import random
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from nanochat.data import contents


class Rows(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> dict: ...


class Mixture(Sequence[dict]):
    """Every row of every task once, in an order that is the same each time; a task given twice counts double.

    `note` is a sentence for the user, on how the tasks were chosen, or empty.
    """

    name = "mixture"

    def __init__(self, tasks: Sequence[Rows], note: str = ""):
        self.tasks = list(tasks)
        self.note = note
        self.starts = [0, *accumulate(len(task) for task in tasks)]
        self.order = array("Q", range(self.starts[-1]))
        random.Random(42).shuffle(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        row = self.order[index]
        # The last of equal starts: those before it belong to empty tasks.
        task = bisect_right(self.starts, row) - 1
        return self.tasks[task][row - self.starts[task]]

    def contents(self) -> list[dict]:
        """What the tasks are made of, for nanochat/data/contents.py."""
        return [entry for task in self.tasks for entry in contents.of(task, "conversations")]
