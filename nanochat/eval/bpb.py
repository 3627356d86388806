"""Bits per byte: a loss that does not depend on the tokenizer, so models with different ones can be compared."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist


class Scored(Protocol):
    """What is read of a batch; every tensor is (B, T)."""

    @property
    def inputs(self) -> torch.Tensor: ...

    @property
    def targets(self) -> torch.Tensor: ...

    @property
    def weights(self) -> torch.Tensor: ...


@torch.no_grad()
def bits_per_byte(
    model: torch.nn.Module, batches: Iterable[Scored], token_bytes: Sequence[int] | torch.Tensor
) -> float:
    """How many bits `model` needs for a byte of the target text.

    model(inputs, targets) gives the nll of each target in nats, (B, T) float32. `token_bytes` holds the number of raw
    bytes of each of the V tokens, 0 for special tokens. A target is counted when it is not negative, its weight is not
    0 and it has bytes; the others add neither nats nor bytes.

    Nats and bytes are summed over all batches and all ranks before they are divided, so ranks may hold different
    numbers of batches, but every rank must make this call. Returns inf when no byte was counted. The model is in
    evaluation mode meanwhile and gets its old mode back.
    """
    device = next(model.parameters()).device
    lengths = torch.as_tensor(token_bytes, dtype=torch.int64, device=device)
    nats, count = 0.0, 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            # Targets that are not counted may be -1, which no model can look up.
            targets = batch.targets.clamp(min=0).long()
            nll = model(batch.inputs, targets)
            size = lengths[targets]
            counted = (batch.targets >= 0) & (batch.weights != 0) & (size > 0)
            # Summed on the CPU: in float64, which MPS lacks.
            nats += nll[counted].cpu().double().sum().item()
            count += int(size[counted].sum())
    finally:
        model.train(was_training)
    if dist.is_available() and dist.is_initialized():
        sums = torch.tensor([nats, count], dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        nats, count = sums.tolist()
    return nats / (math.log(2) * count) if count else math.inf
