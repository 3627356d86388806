"""How well a model predicts text: bits per byte and perplexity.

    bits per byte = sum of nll in nats / (ln 2 * bytes of the target text)
    perplexity    = e to the sum of nll in nats / number of target tokens

Bits per byte do not depend on the tokenizer, so models with different ones can be compared; perplexities are comparable
between models with the same tokenizer only.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from nanochat import chat
from nanochat.data.batch import Batch
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer

MOST_NATS = 700.0  # e to this is about the largest number that a float holds


class TextLoss(NamedTuple):
    """The summed loss on some text in nats, and the number of tokens and bytes that it is the loss of."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def bits_per_byte(self) -> float:
        """inf if nothing was measured."""
        return self.nats / (math.log(2) * self.bytes) if self.bytes else math.inf

    @property
    def perplexity(self) -> float:
        """inf if nothing was measured, and where it is too large for a float."""
        mean = self.nats / self.tokens if self.tokens else math.inf
        return math.inf if mean > MOST_NATS else math.exp(mean)


def document_loss(engine: Engine, tokenizer: Tokenizer, text: str, most: int = sys.maxsize) -> TextLoss:
    """The loss on the first `most` tokens of a document. Its first one counts only where a token opens a document."""
    return token_loss(engine, tokenizer, [*chat.opening(tokenizer), *tokenizer.encode(text)][: most + 1])


def token_loss(engine: Engine, tokenizer: Tokenizer, ids: list[int]) -> TextLoss:
    """The loss on all ids but the first.

    More of them than the context holds are read in overlapping windows, so that each sees at least half a context.
    """
    if len(ids) < 2:
        return TextLoss()
    context = engine.max_len
    stride = max(1, context // 2)
    starts = [0, *range(stride, len(ids) - context + stride, stride)]
    scores = engine.score([ids[start : start + context] for start in starts])
    # A later window begins with tokens that the one before it has scored.
    nll = torch.cat([scores[0], *(score[context - stride - 1 :] for score in scores[1:])])
    size = sum(tokenizer.token_bytes[id] for id in ids[1:])
    return TextLoss(nll.double().sum().item(), len(nll), size)


@torch.no_grad()
def text_loss(
    model: torch.nn.Module, batches: Iterable[Batch], token_bytes: Sequence[int] | torch.Tensor
) -> TextLoss:
    """The loss of `model` on the targets of all batches.

    model(inputs, targets) gives the nll of each target in nats, (B, T) float32. `token_bytes` holds the number of bytes
    of each of the V tokens, 0 for special tokens. A target counts if it is not negative, its weight is not 0 and it has
    bytes; the others add neither nats nor bytes.

    Everything is summed over all batches and all ranks, so ranks may hold different numbers of batches, but every rank
    must make this call. The model is in evaluation mode meanwhile.
    """
    device = next(model.parameters()).device
    lengths = torch.as_tensor(token_bytes, dtype=torch.int64, device=device)
    nats, tokens, count = 0.0, 0, 0
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
            tokens += int(counted.sum())
            count += int(size[counted].sum())
    finally:
        model.train(was_training)
    if dist.is_initialized():
        sums = torch.tensor([nats, tokens, count], dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        nats, tokens, count = sums.tolist()
    return TextLoss(nats, int(tokens), int(count))
