"""What every training step sees, whatever the stage."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """inputs, targets (B, T) int64; weights (B, T) float32: 0 = not learned, 1 for text, the advantage in RL.

    progress counts the passes over the data so far, as a float. cursor is where the stream goes on after this batch,
    the same on every rank and for any number of ranks.
    count is how many tokens the loss is divided by; None: those with a weight. In RL an answer that was as good as the
    others to its question weighs nothing and counts all the same.
    ends_step says that the step has no more micro-batches on this rank, for streams whose steps differ in size.
    metrics are of the whole step, for the log; "tokens" among them stands for the positions that were computed.
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
        """How many tokens the loss is divided by, a scalar int64."""
        return (self.weights != 0).sum() if self.count is None else torch.tensor(self.count, device=self.weights.device)

    def to(self, device: torch.device) -> "Batch":
        inputs, targets, weights = (t.to(device, non_blocking=True) for t in (self.inputs, self.targets, self.weights))
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    def pinned(self) -> "Batch":
        """In memory that a GPU copies from by itself, while the program goes on."""
        inputs, targets, weights = (t.pin_memory() for t in (self.inputs, self.targets, self.weights))
        return replace(self, inputs=inputs, targets=targets, weights=weights)
