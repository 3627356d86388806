"""How well a model predicts text: bits per byte and perplexity.

    bits per byte = sum of nll in nats / (ln 2 * bytes of the target text)
    perplexity    = e to the sum of nll in nats / number of target tokens

Bits per byte do not depend on the tokenizer, so models with different ones can be compared; perplexities are comparable
between models with the same tokenizer only.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from nanochat import chat
from nanochat.data.batch import Batch
from nanochat.data.documents import documents
from nanochat.data.shards import MAX_DOCUMENT
from nanochat.engine.engine import Engine
from nanochat.errors import UserError
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


def total(losses: Iterable[TextLoss]) -> TextLoss:
    """The loss on all of several texts."""
    nats, tokens, size = 0.0, 0, 0
    for loss in losses:
        nats, tokens, size = nats + loss.nats, tokens + loss.tokens, size + loss.bytes
    return TextLoss(nats, tokens, size)


def file_losses(
    engine: Engine, tokenizer: Tokenizer, path: Path, column: str = "text", most: int = sys.maxsize, stride: int = 0
) -> list[TextLoss]:
    """The losses on a file or folder up to its first `most` tokens, one per document or window of a long document.

    Raises what `documents` raises, and UserError for a file without a token to score.
    """
    losses: list[TextLoss] = []
    left = most
    for document in documents([path], column, [], longest=MAX_DOCUMENT):
        found = token_losses(engine, tokenizer, _ids(tokenizer, document, left), stride)
        losses += found
        left -= sum(loss.tokens for loss in found)
        if left <= 0:
            break
    if not losses:
        raise UserError(f"--text {path} holds no text that is longer than a token; name another file")
    return losses


def document_loss(engine: Engine, tokenizer: Tokenizer, text: str, most: int = sys.maxsize) -> TextLoss:
    """The loss on the first `most` tokens of a document. Its first one counts only where a token opens a document."""
    return token_loss(engine, tokenizer, _ids(tokenizer, text, most))


def _ids(tokenizer: Tokenizer, text: str, most: int) -> list[int]:
    return [*chat.opening(tokenizer), *tokenizer.encode(text)][: most + 1]


def token_loss(engine: Engine, tokenizer: Tokenizer, ids: list[int]) -> TextLoss:
    """The loss on all ids but the first; see `token_losses`."""
    return total(token_losses(engine, tokenizer, ids))


def token_losses(engine: Engine, tokenizer: Tokenizer, ids: list[int], stride: int = 0) -> list[TextLoss]:
    """The losses on all ids but the first, each id's once, one per window that they are read in.

    More of them than the context holds are read in overlapping windows, each `stride` tokens after the one before it:
    an id sees at least context - stride others, by default half a context. A stride of 1 shows each as much as there
    is, and takes as many passes as there are ids. Raises UserError for a stride that leaves gaps.
    """
    if len(ids) < 2:
        return []
    context = engine.max_len
    stride = stride or max(1, context // 2)
    if not 1 <= stride < max(context, 2):
        raise UserError(f"--stride is {stride}; expected 1 to {context - 1}, less than the context of {context}")
    starts = [0, *range(stride, len(ids) - context + stride, stride)]
    scores = engine.score([ids[start : start + context] for start in starts])
    # A later window begins with tokens that the one before it has scored.
    losses, at = [], 1
    for nll in [scores[0], *(score[context - stride - 1 :] for score in scores[1:])]:
        size = sum(tokenizer.token_bytes[id] for id in ids[at : at + len(nll)])
        losses.append(TextLoss(nll.double().sum().item(), len(nll), size))
        at += len(nll)
    return losses


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
