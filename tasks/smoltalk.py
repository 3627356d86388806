"""SmolTalk: everyday conversations, written by larger models for models of less than a billion parameters."""

from typing import Literal

from tasks import tables


class SmolTalk:
    """Conversations about anything, the only task that is not graded: 460,341 for training, 24,229 for validation.

    Source: HuggingFaceTB/smol-smoltalk on the hub (Allal et al. 2025, arXiv 2502.02737). Licence: Apache 2.0.
    Raises what `tables.shuffled` raises.
    """

    name = "SmolTalk"

    def __init__(self, split: Literal["train", "val"], stop: int | None = None):
        """stop: so many at most, those that come first in the shuffled order."""
        self.split = split
        split_there = {"train": "train", "val": "test"}[split]  # nobody scores its test split
        self.rows = tables.shuffled("HuggingFaceTB/smol-smoltalk", f"data/{split_there}-*.parquet", ["messages"])
        self.size = len(self.rows) if stop is None else min(stop, len(self.rows))

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        return self.rows.contents(f"{self.name}, {self.split}", self.split, self.size)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return {"messages": self.rows[index]["messages"]}
