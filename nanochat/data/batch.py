"""What every training step sees, whatever the stage."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """inputs, targets (B, T) int64; weights (B, T) float32: 0 = not trained on, 1 for text, the advantage in RL.

    progress: epochs so far, as a float. cursor: where to resume after this batch, the same on every rank and for any
    number of ranks. count: number of tokens that the loss is divided by; None for those with a weight. In RL a
    completion with advantage 0 has no weight but still counts.
    ends_step: the step has no more micro-batches on this rank, for streams whose steps differ in size.
    metrics: values of the whole step, for the log; "tokens" is the number of positions that were computed.
    trained: what `trained_positions` found in the weights where the batch was made; None: all positions are computed.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    progress: float
    cursor: dict
    count: int | None = None
    ends_step: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    trained: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """The number of tokens that the loss is divided by, a scalar int64."""
        return (self.weights != 0).sum() if self.count is None else torch.tensor(self.count, device=self.weights.device)

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda t: t.to(device, non_blocking=True))

    def halves(self) -> tuple["Batch", "Batch"]:
        """Its rows as two micro-batches, B >= 2, which a step counts as this one."""
        middle = len(self.inputs) // 2
        first, second = (
            replace(self, inputs=self.inputs[rows], targets=self.targets[rows], weights=self.weights[rows])
            for rows in (slice(middle), slice(middle, None))
        )
        rest = None if self.count is None else 0
        first, second = replace(first, ends_step=False), replace(second, count=rest)
        if self.trained is None:
            return first, second
        start = middle * self.inputs.size(1)  # of the second half
        is_first = self.trained < start
        return replace(first, trained=self.trained[is_first]), replace(second, trained=self.trained[~is_first] - start)

    def unlearned(self) -> "Batch":
        """One row of it that teaches nothing and counts for nothing."""
        rows = {"inputs": self.inputs[:1], "targets": self.targets[:1], "weights": torch.zeros_like(self.weights[:1])}
        return replace(self, **rows, count=0, trained=None)

    def pinned(self) -> "Batch":
        """In pinned memory, from which a GPU can copy while the program continues."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        trained = None if self.trained is None else move(self.trained)
        return replace(
            self, inputs=move(self.inputs), targets=move(self.targets), weights=move(self.weights), trained=trained
        )


def trained_positions(weights: Tensor) -> Tensor | None:
    """The positions of the flattened weights (B, T) that are not 0, (M,) int64 in their order; None for all of them.

    The output layer computes only these. To be called on the host, where the batch is made: how many there are decides
    the size of tensors, and to learn that from a GPU the program would have to wait for it.
    """
    positions = weights.flatten().nonzero()[:, 0]
    return None if len(positions) == weights.numel() else positions
