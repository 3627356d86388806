"""From logits to tokens, for all rows of a batch at once.

A row's token depends on its own logits, settings, history and random number only, never on other rows. That is why
each row brings one uniform number, which draws from the inverse CDF in vocabulary order, instead of a shared generator.

Letters: R rows, V vocabulary.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanochat.engine.request import Request, Scored

GREEDY_BELOW = 1e-5  # a temperature smaller than this would overflow the float32 division


@dataclass
class Row:
    """What decides a row's token besides its logits."""

    request: Request
    uniform: float  # in [0, 1)
    counts: Counter[int] = field(default_factory=Counter)  # how often each id is in the reply so far
    mask: Tensor | None = None  # bool (V,): the ids that a constraint allows


def random_numbers(request: Request) -> random.Random:
    """The source of a request's random numbers, seeded with text because Random(1) and Random(-1) are the same."""
    return random.Random() if request.seed is None else random.Random(f"{request.seed}/{request.sample}")


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Choose the next token of each row.

    logits (R, V) float32. Returns R ids. Bias, penalties and mask apply first, then temperature, top_k, top_p and
    min_p. Rows with temperature 0 take the argmax.
    """
    logits = _adjusted(logits, rows)
    requests = [row.request for row in rows]
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
    if any(request.min_p > 0 for request in requests):
        # The most likely token's logit is 0 here, so exp(logit) is a token's probability as a fraction of that one's.
        scaled = scaled.masked_fill(scaled < column([request.min_p for request in requests]).log(), -torch.inf)
    cdf = scaled.softmax(dim=-1).cumsum(dim=-1)
    total = cdf[:, -1:].contiguous()
    drawn = torch.searchsorted(cdf, column([row.uniform for row in rows]) * total, right=True)
    # A number that rounds to 1 must draw the last token that has a probability, not the last of the vocabulary.
    drawn = torch.minimum(drawn, torch.searchsorted(cdf, total)).clamp(max=vocabulary - 1)
    return torch.where(column(greedy), logits.argmax(dim=-1, keepdim=True), drawn).squeeze(1).tolist()


def score(logits: Tensor, tokens: Sequence[int], top: Sequence[int]) -> list[Scored]:
    """How likely each row's token was. logits (R, V) float32, R tokens, and how many top ones to report per row."""
    logprobs = logits.log_softmax(dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None]).squeeze(1).tolist()
    best = logprobs.topk(min(max(top), logits.size(1)), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        Scored(own, tuple(zip(ids[:k], values[:k], strict=True)))
        for own, (ids, values), k in zip(chosen, pairs, top, strict=True)
    ]


def _adjusted(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The logits (R, V) with every row's bias, penalties and mask; a copy where anything changes."""
    changed = logits
    for i, row in enumerate(rows):
        request = row.request
        penalised = request.presence_penalty or request.frequency_penalty
        if not (request.logit_bias or penalised or request.repetition_penalty != 1 or row.mask is not None):
            continue
        changed = logits.clone() if changed is logits else changed
        if request.logit_bias:
            ids = torch.tensor(list(request.logit_bias), device=logits.device)
            changed[i, ids] += torch.tensor(list(request.logit_bias.values()), device=logits.device)
        if request.repetition_penalty != 1:
            ids = torch.tensor(sorted(row.counts.keys() | set(request.prompt)), device=logits.device)
            before = changed[i, ids]
            p = request.repetition_penalty
            changed[i, ids] = torch.where(before > 0, before / p, before * p)
        if penalised and row.counts:
            ids = torch.tensor(list(row.counts), device=logits.device)
            times = torch.tensor(list(row.counts.values()), device=logits.device)
            changed[i, ids] -= request.presence_penalty + request.frequency_penalty * times
        if row.mask is not None:
            changed[i].masked_fill_(~row.mask.to(logits.device), -torch.inf)
    return changed


def _keep_top_k(logits: Tensor, k: Tensor, largest: int) -> Tensor:
    """Send all but the k (R, 1) largest logits of each row to -inf; `largest` is the largest k below V.

    Everything that ties with the k-th largest stays: which of them topk returns may depend on the other rows' k.
    """
    values = logits.topk(largest, dim=-1).values
    threshold = values.gather(1, k.clamp(max=largest) - 1)
    threshold = torch.where(k < logits.size(1), threshold, -torch.inf)
    return logits.masked_fill(logits < threshold, -torch.inf)


def _keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Send all but each row's most likely tokens, as few as have p (R, 1) of the probability, to -inf."""
    values = logits.sort(dim=-1, descending=True).values
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = (before < p).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = torch.where(p < 1, values.gather(1, kept - 1), -torch.inf)
    return logits.masked_fill(logits < threshold, -torch.inf)
