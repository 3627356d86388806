"""From logits to tokens, for all rows of a batch at once.

A row's token depends on its own logits, settings, history and random number only, never on other rows. That is why
each row brings one uniform number, which draws from the inverse CDF in vocabulary order, instead of a shared generator.

Letters: R rows, V vocabulary.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Kind(NamedTuple):
    """What is asked for by any row of a batch. It decides which kernels run, and never what a row gets."""

    greedy: bool
    """all rows take the argmax"""
    top_k: int
    """at least the largest top_k below V, a power of two or V; 0: none"""
    top_p: bool
    min_p: bool


class Settings(NamedTuple):
    """The settings of R rows."""

    kind: Kind
    columns: list[list[float]]
    """FIELDS lists of R numbers; the first are the temperatures, 0 for rows that take the argmax. Empty if all do"""


FIELDS = 5


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Choose the next token of each row.

    logits (R, V) float32. Returns R ids. Bias, penalties and mask apply first, then temperature, top_k, top_p and
    min_p. Rows with temperature 0 take the argmax.
    """
    return sample_checked(logits, rows)[0]


def sample_checked(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[bool]]:
    """`sample`, and whether all logits of each row were finite, in one copy from the device."""
    finite = logits.isfinite().all(dim=-1)
    kind, columns = settings_of(rows, logits.size(1))
    settings = torch.tensor(columns, device=logits.device)
    tokens = draw(_adjusted(logits, rows), settings, kind)
    drawn, is_finite = torch.stack([tokens, finite]).tolist()
    return drawn, [each > 0 for each in is_finite]


def settings_of(rows: Sequence[Row], vocabulary: int) -> Settings:
    """What `draw` needs of R rows; their bias, penalties and masks are not in it."""
    requests = [row.request for row in rows]
    temperature = [0.0 if request.temperature < GREEDY_BELOW else request.temperature for request in requests]
    if not any(temperature):
        return Settings(Kind(True, 0, False, False), [])
    top_k = [min(request.top_k or vocabulary, vocabulary) for request in requests]
    top_p, min_p = [request.top_p for request in requests], [request.min_p for request in requests]
    largest = max((k for k in top_k if k < vocabulary), default=0)
    rounded = min(vocabulary, 1 << (largest - 1).bit_length()) if largest else 0
    kind = Kind(False, rounded, min(top_p) < 1, max(min_p) > 0)
    return Settings(kind, [temperature, [float(k) for k in top_k], top_p, min_p, [row.uniform for row in rows]])


def changes_logits(request: Request) -> bool:
    """Whether a bias or a penalty changes a request's logits, which `draw` knows nothing of."""
    penalised = request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1
    return bool(request.logit_bias or penalised)


def draw(logits: Tensor, settings: Tensor, kind: Kind) -> Tensor:
    """The tokens (R,) int64 of logits (R, V) float32, by settings (FIELDS, R) float32, all on one device.

    Shapes depend on nothing but the arguments' and `kind`, and nothing is copied between host and device, not even the
    scalar of a torch.where. With kind.greedy the settings are not read.
    """
    if kind.greedy:
        return logits.argmax(dim=-1)
    vocabulary = logits.size(1)
    temperature, top_k, top_p, min_p, uniform = settings[:, :, None]
    greedy = temperature == 0
    # The maximum is subtracted before the division so that a small temperature sends the others to -inf, not to nan.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature.masked_fill(greedy, 1.0)
    if kind.top_k:
        scaled = _keep_top_k(scaled, top_k.long(), kind.top_k)
    if kind.top_p:
        scaled = _keep_top_p(scaled, top_p)
    if kind.min_p:
        # The most likely token's logit is 0 here, so exp(logit) is a token's probability as a fraction of that one's.
        scaled = scaled.masked_fill(scaled < min_p.log(), -torch.inf)
    cdf = scaled.softmax(dim=-1).cumsum(dim=-1)
    total = cdf[:, -1:].contiguous()
    drawn = torch.searchsorted(cdf, uniform * total, right=True)
    # A number that rounds to 1 must draw the last token that has a probability, not the last of the vocabulary.
    drawn = torch.minimum(drawn, torch.searchsorted(cdf, total)).clamp(max=vocabulary - 1)
    return torch.where(greedy, logits.argmax(dim=-1, keepdim=True), drawn).squeeze(1)


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
        if row.mask is None and not changes_logits(request):
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
        if (request.presence_penalty or request.frequency_penalty) and row.counts:
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
    threshold = values.gather(1, k.clamp(1, largest) - 1)
    threshold = threshold.masked_fill(k >= logits.size(1), -torch.inf)
    return logits.masked_fill(logits < threshold, -torch.inf)


def _keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Send all but each row's most likely tokens, as few as have p (R, 1) of the probability, to -inf."""
    values = logits.sort(dim=-1, descending=True).values
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = (before < p).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = values.gather(1, kept - 1).masked_fill(p >= 1, -torch.inf)
    return logits.masked_fill(logits < threshold, -torch.inf)
