"""How well models predict texts, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat.eval.bpb import TextLoss, total

RESAMPLES = 2000
MOST_UNITS = 1000  # texts that are resampled; of more, neighbours count as one

Interval = tuple[float, float]
UNKNOWN = math.nan, math.nan


@dataclass(frozen=True)
class Measured:
    """A model's loss on a text, with 95 % intervals, which are NaN for a text of one piece."""

    model: str
    text: str
    pieces: int
    loss: TextLoss
    bits: Interval
    perplexity: Interval

    def as_json(self) -> dict:
        bits = {"value": self.loss.bits_per_byte, "low": self.bits[0], "high": self.bits[1]}
        perplexity = {"value": self.loss.perplexity, "low": self.perplexity[0], "high": self.perplexity[1]}
        return {
            "model": self.model, "text": self.text, "pieces": self.pieces, **self.loss._asdict(),
            "bits_per_byte": bits, "perplexity": perplexity,
        }  # fmt: skip


def measured(model: str, text: str, losses: Sequence[TextLoss]) -> Measured:
    """Put the losses on the pieces of a text together."""
    return Measured(model, text, len(losses), total(losses), *intervals(losses))


def intervals(losses: Sequence[TextLoss]) -> tuple[Interval, Interval]:
    """95 % intervals of bits per byte and of perplexity: the percentile bootstrap over pieces (Efron 1979).

    Pieces are documents, or windows of a long one. Windows of one document resemble each other, so that a text of few
    documents varies more than its interval shows.
    """
    sums = np.array(losses, dtype=np.float64)  # (n, 3): nats, tokens, bytes
    if len(sums) > MOST_UNITS:
        sums = np.array([part.sum(axis=0) for part in np.array_split(sums, MOST_UNITS)])
    n = len(sums)
    if n < 2:
        return UNKNOWN, UNKNOWN
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    nats, tokens, size = sums[drawn].sum(axis=1).T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        found = nats / (math.log(2) * size), np.exp(nats / tokens)
    bits, perplexity = (np.quantile(values, (0.025, 0.975)).tolist() for values in found)
    return (bits[0], bits[1]), (perplexity[0], perplexity[1])
