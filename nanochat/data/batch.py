"""What every training step sees, whatever the stage."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """inputs, targets (B, T) int64; weights (B, T) float32: 0 = not counted, 1 for text, the advantage in RL.

    progress counts the passes over the data so far, as a float. cursor is where the stream goes on after this batch,
    the same on every rank and for any number of ranks.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    progress: float
    cursor: dict

    def to(self, device: torch.device) -> "Batch":
        inputs, targets, weights = (t.to(device, non_blocking=True) for t in (self.inputs, self.targets, self.weights))
        return Batch(inputs, targets, weights, self.progress, self.cursor)
