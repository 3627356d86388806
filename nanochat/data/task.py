"""What a graded task is, for evaluations and for reinforcement learning."""

from typing import Protocol


class Task(Protocol):
    """Conversations whose last message is the assistant's reference answer, and a way to grade another answer.

    A multiple-choice conversation has "letters", and its answer is one of them. `grade` returns True or False, or a
    number; in evaluations everything above 0 counts as correct, in reinforcement learning it is the reward. It is
    called from several threads at once. A task may have a `baseline`, the fraction that guessing gets right; otherwise
    that is 0.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict: ...

    def grade(self, conversation: dict, answer: str, /) -> float: ...
