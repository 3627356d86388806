"""From logits to tokens, for all rows of a batch at once.

A row's token follows from its own logits, settings and random number; no other row can change it. That is why
each row brings one uniform number for an inverse-CDF draw in vocabulary order, instead of a shared generator.

Letters: R rows, V vocabulary.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.engine.request import Request

GREEDY_BELOW = 1e-5  # a temperature smaller than this would overflow the float32 division


def random_numbers(request: Request) -> random.Random:
    """The source of a request's random numbers.

    Seeded with text: Random(1) and Random(-1) are the same, Random("1") and Random("-1") are not.
    """
    return random.Random() if request.seed is None else random.Random(f"{request.seed}/{request.sample}")


def sample(logits: Tensor, requests: Sequence[Request], uniforms: Sequence[float]) -> list[int]:
    """Choose the next token of each row.

    logits (R, V) float32; uniforms: R numbers in [0, 1). Returns R ids. Rows with temperature 0 take the argmax.
    """
    greedy = [request.temperature < GREEDY_BELOW for request in requests]
    if all(greedy):
        return logits.argmax(dim=-1).tolist()

    def column(values: list) -> Tensor:
        return torch.tensor(values, device=logits.device).unsqueeze(1)

    temperature = column([1.0 if g else request.temperature for g, request in zip(greedy, requests, strict=True)])
    # The maximum is subtracted before the division so that a small temperature sends the others to -inf, not to nan.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    vocabulary = logits.size(1)
    top_k = [min(request.top_k or vocabulary, vocabulary) for request in requests]
    if min(top_k) < vocabulary:
        scaled = _keep_top_k(scaled, column(top_k), max(k for k in top_k if k < vocabulary))
    if any(request.top_p < 1 for request in requests):
        scaled = _keep_top_p(scaled, column([request.top_p for request in requests]))
    cdf = scaled.softmax(dim=-1).cumsum(dim=-1)
    total = cdf[:, -1:].contiguous()
    drawn = torch.searchsorted(cdf, column(list(uniforms)) * total, right=True)
    # A number that rounds to 1 must draw the last token that has a probability, not the last of the vocabulary.
    drawn = torch.minimum(drawn, torch.searchsorted(cdf, total)).clamp(max=vocabulary - 1)
    return torch.where(column(greedy), logits.argmax(dim=-1, keepdim=True), drawn).squeeze(1).tolist()


def _keep_top_k(logits: Tensor, k: Tensor, largest: int) -> Tensor:
    """Send all but the k (R, 1) largest logits of each row to -inf; `largest` is the largest k below V.

    Everything that ties with the k-th largest stays: which of them topk returns may depend on the other rows' k.
    """
    values = logits.topk(largest, dim=-1).values
    threshold = values.gather(1, k.clamp(max=largest) - 1)
    threshold = torch.where(k < logits.size(1), threshold, -torch.inf)
    return logits.masked_fill(logits < threshold, -torch.inf)


def _keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Send all but each row's likeliest tokens, as few as have p (R, 1) of the probability, to -inf."""
    values = logits.sort(dim=-1, descending=True).values
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = (before < p).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = torch.where(p < 1, values.gather(1, kept - 1), -torch.inf)
    return logits.masked_fill(logits < threshold, -torch.inf)
