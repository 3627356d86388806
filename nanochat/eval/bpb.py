"""Bits per byte: a loss that does not depend on the tokenizer, so models with different ones can be compared.

    bits per byte = sum of nll in nats / (ln 2 * bytes of the target text)
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist

from nanochat.data.batch import Batch


@torch.no_grad()
def bits_per_byte(
    model: torch.nn.Module, batches: Iterable[Batch], token_bytes: Sequence[int] | torch.Tensor
) -> float:
    """How many bits `model` needs per byte of the target text.

    model(inputs, targets) gives the nll of each target in nats, (B, T) float32. `token_bytes` holds the number of bytes
    of each of the V tokens, 0 for special tokens. A target counts if it is not negative, its weight is not 0 and it has
    bytes; the others add neither nats nor bytes.

    Nats and bytes are summed over all batches and all ranks before they are divided, so ranks may hold different
    numbers of batches, but every rank must make this call. Returns inf if nothing counts. The model is in evaluation
    mode meanwhile.
    """
    device = next(model.parameters()).device
    lengths = torch.as_tensor(token_bytes, dtype=torch.int64, device=device)
    nats, count = 0.0, 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            # Targets that do not count may be -1, which is not an index into the vocabulary.
            targets = batch.targets.clamp(min=0).long()
            nll = model(batch.inputs, targets)
            size = lengths[targets]
            counted = (batch.targets >= 0) & (batch.weights != 0) & (size > 0)
            # Summed on the CPU: in float64, which MPS lacks.
            nats += nll[counted].cpu().double().sum().item()
            count += int(size[counted].sum())
    finally:
        model.train(was_training)
    if dist.is_initialized():
        sums = torch.tensor([nats, count], dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        nats, count = sums.tolist()
    return nats / (math.log(2) * count) if count else math.inf
