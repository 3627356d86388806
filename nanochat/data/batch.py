"""What every training step sees, whatever the stage."""

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
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    progress: float
    cursor: dict
    count: int | None = None
    ends_step: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def counted(self) -> Tensor:
        """The number of tokens that the loss is divided by, a scalar int64."""
        return (self.weights != 0).sum() if self.count is None else torch.tensor(self.count, device=self.weights.device)

    def to(self, device: torch.device) -> "Batch":
        inputs, targets, weights = (t.to(device, non_blocking=True) for t in (self.inputs, self.targets, self.weights))
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    def halves(self) -> tuple["Batch", "Batch"]:
        """Its rows as two micro-batches, B >= 2, which a step counts as this one."""
        middle = len(self.inputs) // 2
        first, second = (
            replace(self, inputs=self.inputs[rows], targets=self.targets[rows], weights=self.weights[rows])
            for rows in (slice(middle), slice(middle, None))
        )
        rest = None if self.count is None else 0
        return replace(first, ends_step=False), replace(second, count=rest)

    def pinned(self) -> "Batch":
        """In pinned memory, from which a GPU can copy while the program continues."""
        inputs, targets, weights = (t.pin_memory() for t in (self.inputs, self.targets, self.weights))
        return replace(self, inputs=inputs, targets=targets, weights=weights)
