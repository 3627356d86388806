"""What attention heads look for: scores on random tokens that come twice, as in r1 r2 ... rn r1 r2 ... rn.

    induction        from a token in the second half to the one that followed it in the first half: such heads predict
                     that what followed once follows again (Elhage et al. 2021, Olsson et al. 2022)
    duplicate token  to the same token in the first half (Wang et al. 2022)
    previous token   to the token just before

A score is the mean attention weight that goes there. Tokens are random so that nothing but their order can tell.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from extras.look.chapter import Chapter, heat, rounded, shown, visible
from nanochat import chat
from nanochat.api import Model
from nanochat.errors import UserError
from nanochat.report.card import table

LONGEST = 50  # tokens of a half, as Olsson et al. have them
KINDS = ("induction", "previous token", "duplicate token")
LISTED = 8  # heads in the table of each kind
DRAWN = 40  # tokens of a pattern that is drawn


@dataclass(frozen=True)
class HeadScores:
    """scores: for each kind (layers, heads), from 0 to 1. `even` is each kind's if attention were spread evenly.

    first and again: the loss on the two halves in nats per token. A model that has learned induction is much better at
    the second.
    """

    scores: dict[str, Tensor]
    even: dict[str, float]
    first: float
    again: float
    length: int
    rows: int


def head_scores(model: Model, rows: int = 8, length: int = 0, seed: int = 0) -> HeadScores:
    """The scores of all heads, means over `rows` random sequences; length: tokens of a half, by default up to 50."""
    begin = chat.opening(model.tokenizer)
    length = length or min(LONGEST, (model.config.sequence_len - len(begin)) // 2)
    if length < 2 or len(begin) + 2 * length > model.config.sequence_len:
        raise UserError(
            f"sequences of 2 × {length} tokens do not fit in the model's context of {model.config.sequence_len}; "
            "expected halves of 2 tokens or more that do"
        )
    sequences = [begin + half + half for half in _halves(model, rows, length, seed)]
    sums: dict[str, Tensor] = {kind: torch.zeros(model.config.n_layer, model.config.n_head) for kind in KINDS}
    even: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    second = torch.arange(len(begin) + length, len(begin) + 2 * length)
    later = torch.arange(1, len(begin) + 2 * length)
    places = {"induction": (second, length - 1), "duplicate token": (second, length), "previous token": (later, 1)}
    for ids in sequences:
        attention = torch.stack(model.inspect(ids, "attention").attention)  # (L, H, T, T)
        for kind, (tokens, back) in places.items():
            sums[kind] += attention[:, :, tokens, tokens - back].mean(-1) / rows
            even[kind] = float((1 / (tokens + 1.0)).mean())
    losses = torch.stack(model.engine.score(sequences)).float()[:, -2 * length + 1 :]  # all but the first of a text
    return HeadScores(
        sums, even, float(losses[:, : length - 1].mean()), float(losses[:, length - 1 :].mean()), length, rows
    )


def _halves(model: Model, rows: int, length: int, seed: int) -> list[list[int]]:
    """Random ordinary tokens; all differ where the vocabulary has that many."""
    special = set(model.tokenizer.specials.values())
    usable = torch.tensor([id for id in range(model.tokenizer.vocab_size) if id not in special])
    generator = torch.Generator().manual_seed(seed)
    if len(usable) >= length:
        return [usable[torch.randperm(len(usable), generator=generator)[:length]].tolist() for _ in range(rows)]
    return [usable[torch.randint(len(usable), (length,), generator=generator)].tolist() for _ in range(rows)]


def chapter(model: Model, text: str | None, rows: int, seed: int) -> Chapter:
    """The scores of all heads, and the patterns of the best of each kind on a text, or on random tokens."""
    found = head_scores(model, rows, seed=seed)
    layers, heads = (list(map(str, range(n))) for n in (model.config.n_layer, model.config.n_head))
    pictures = [heat(f"heads_{kind.split()[0]}", f"{kind} score", scores, layers, heads, "head", "layer", most=1.0)
                for kind, scores in found.scores.items()]  # fmt: skip
    best = {kind: _ranked(scores)[:LISTED] for kind, scores in found.scores.items()}
    rows_of_table = [[place + 1, *(f"{layer}.{head}  {found.scores[kind][layer, head]:.3f}"
                                   for kind in KINDS for layer, head in [best[kind][place]])]
                     for place in range(min(LISTED, len(layers) * len(heads)))]  # fmt: skip
    patterns = _patterns(model, text, {kind: best[kind][0] for kind in KINDS}, found.length, seed)
    even = ", ".join(f"{kind} {value:.3f}" for kind, value in found.even.items())
    words = (
        f"Mean attention weights on {found.rows} sequences of {found.length} random tokens that come twice. Attention "
        f"that is spread evenly would score: {even}. The loss is {found.first:.2f} nats per token on the first half "
        f"and {found.again:.2f} on the second, which the model could copy."
    )
    body = "\n\n".join([words, table(["", *(f"{kind} (layer.head)" for kind in KINDS)], rows_of_table),
                        shown(pictures), shown(patterns)])  # fmt: skip
    data = {"length": found.length, "rows": found.rows, "loss_first": found.first, "loss_again": found.again,
            "even": found.even, "scores": {kind: rounded(each) for kind, each in found.scores.items()}}  # fmt: skip
    return Chapter("Attention heads", body, pictures + patterns, data)


def _ranked(scores: Tensor) -> list[tuple[int, int]]:
    """(layer, head) from the highest score to the lowest."""
    return [divmod(int(place), scores.size(1)) for place in scores.flatten().argsort(descending=True)]


def _patterns(model: Model, text: str | None, best: dict[str, tuple[int, int]], length: int, seed: int) -> list:
    if text is None:
        (half,) = _halves(model, 1, min(length, DRAWN // 2), seed)
        given: str | list[int] = chat.opening(model.tokenizer) + half + half
    else:
        given = chat.text_prompt(model.tokenizer, text)[:DRAWN]
    seen = model.inspect(given, "attention")
    names = [visible(model.tokenizer, id, 10) for id in seen.ids]
    return [
        heat(
            f"pattern_{kind.split()[0]}", f"attention of head {layer}.{head}, the best at {kind}",
            seen.attention[layer][head], names, names, "looks at", "token",
        )
        for kind, (layer, head) in best.items()
    ]  # fmt: skip
