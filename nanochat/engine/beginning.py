"""A reply whose first tokens are given: what the model would have gone on to say had it said this."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Beginning:
    """A Constraint: the reply begins with these ids, after which the model is free.

    They pass through the Engine like sampled ones: a tool call among them is run, and one that ends a reply ends it.
    """

    def __init__(self, ids: Sequence[int], vocabulary: int, done: int = 0) -> None:
        self._ids = ids
        self._vocabulary = vocabulary
        self._done = done

    def mask(self) -> Tensor:
        """bool (V,) on the CPU."""
        if self._done >= len(self._ids):
            return torch.ones(self._vocabulary, dtype=torch.bool)
        mask = torch.zeros(self._vocabulary, dtype=torch.bool)
        mask[self._ids[self._done]] = True
        return mask

    def accept(self, token: int) -> None:
        self._done += 1

    def copy(self) -> "Beginning":
        return Beginning(self._ids, self._vocabulary, self._done)
