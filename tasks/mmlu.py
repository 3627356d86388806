"""MMLU: exam questions of 57 subjects, from school to profession, with four answers each."""

from nanochat.data.shards import ExamSplit
from nanochat.errors import UserError
from tasks import tables
from tasks.choices import BASELINE, choice, is_chosen

REPO = "cais/mmlu"
LETTERS = ("A", "B", "C", "D")
# Training questions come from other exams than those that are scored.
FILES = {"train": "all/auxiliary_train-*.parquet", "val": "all/validation-*.parquet", "test": "all/test-*.parquet"}


class MMLU:
    """Multiple choice: 99,842 questions for training, 1,531 for validation, 14,042 that are scored.

    Source: cais/mmlu on the hub (Hendrycks et al. 2021, arXiv 2009.03300). Licence: MIT.
    Raises what `tables.shuffled` raises.
    """

    name = "MMLU"
    baseline = BASELINE

    def __init__(self, split: ExamSplit, subset: str | None = None):
        """subset follows from the split, and is there for who names it as nanochat's scripts do."""
        expected = "auxiliary_train" if split == "train" else "all"
        if subset not in (None, expected):
            raise UserError(f"MMLU has no subset {subset!r} for {split}; expected {expected!r}")
        self.split = split
        self.rows = tables.shuffled(REPO, FILES[split], ["question", "choices", "answer"])

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        return self.rows.contents(f"{self.name}, {self.split}", self.split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return choice(row["question"], row["choices"], LETTERS, LETTERS[row["answer"]])

    def grade(self, conversation: dict, answer: str) -> bool:
        return is_chosen(conversation, answer)
