"""What a graded task is, for evaluations and for reinforcement learning, and what a task of CORE is."""

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["multiple_choice", "schema", "language_modeling"]  # of CORE's tasks, see `nanochat.eval.core`


class Task(Protocol):
    """Conversations whose last message is the assistant's reference answer, and a way to grade another answer.

    A multiple-choice conversation has "letters", and its answer is one of them. `grade` returns True or False, or a
    number; in evaluations everything above 0 counts as correct, in reinforcement learning it is the reward. It is
    called from several threads at once. A task may have a `baseline`, the fraction that guessing gets right; otherwise
    that is 0. It may also have a method `note`, which says more about graded examples than the accuracy does.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict: ...

    def grade(self, conversation: dict, answer: str, /) -> float: ...


@dataclass(frozen=True)
class Item:
    """A question of CORE. Option i is contexts[i], the task's delimiter, continuations[i]; gold is the right one."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class CoreTask:
    """Questions of one kind, each asked after `shots` others with their answers; baseline is what guessing scores."""

    label: str
    kind: Kind
    shots: int
    delimiter: str
    baseline: float
    items: tuple[Item, ...]
