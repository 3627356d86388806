"""Activation patching between two texts (Meng et al. 2022, Wang et al. 2022): where is what makes the difference?

The texts have the same number of tokens and differ in a word or so, and with it in their answer. The model reads the
one with the wrong answer, but in one place is given what it computed for the other text. How much of the difference of
the two answers' logits comes back shows what that place carries: 0 nothing, 1 all of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from extras.look.chapter import Chapter, heat, rounded, shown, visible
from nanochat import chat
from nanochat.api import Model
from nanochat.errors import UserError
from nanochat.log import Progress
from nanochat.report.card import table

LISTED = 8


@dataclass(frozen=True)
class Patching:
    """Restored fractions; `clean` and `other` are the differences of the logits for the two texts as they are."""

    ids: list[int]
    other_ids: list[int]
    clean: float
    other: float
    residual: Tensor  # (L + 1, T): the residual stream before each layer and after the last
    heads: Tensor  # (L, H): a head's result, at all positions


def restored(model: Model, text: str | list[int], other: str | list[int], answer: int, wrong: int) -> Patching:
    """Patch `other` with what the model computes for `text`, whose next token is `answer`; `wrong` is the other's."""
    ids, other_ids = _same_length(model, text, other)
    c = model.config
    seen = model.inspect(ids, ["residual", "heads"])

    def difference(given: list[int]) -> float:
        last = model.logits(given)[-1]
        return float(last[answer] - last[wrong])

    clean, baseline = difference(ids), difference(other_ids)
    if abs(clean - baseline) < 1e-6:
        raise UserError("both texts give the same difference of the answers' logits, so nothing can be restored; "
                        "choose texts or answers between which the model decides differently")  # fmt: skip

    def with_patch(name: str, positions: list[int] | None) -> float:
        with model.patch({name: seen}, positions):
            return (difference(other_ids) - baseline) / (clean - baseline)

    residual, heads = torch.zeros(c.n_layer + 1, len(ids)), torch.zeros(c.n_layer, c.n_head)
    with Progress(residual.numel() + heads.numel(), "patching", "places") as progress:
        for layer in range(c.n_layer + 1):
            for position in range(len(ids)):
                residual[layer, position] = with_patch(f"residual.{layer}", [position])
                progress.update(layer * len(ids) + position + 1)
        for layer in range(c.n_layer):
            for head in range(c.n_head):
                heads[layer, head] = with_patch(f"heads.{layer}.{head}", None)
                progress.update(residual.numel() + layer * c.n_head + head + 1)
    return Patching(ids, other_ids, clean, baseline, residual, heads)


def _same_length(model: Model, text: str | list[int], other: str | list[int]) -> tuple[list[int], list[int]]:
    both = [chat.text_prompt(model.tokenizer, each) if isinstance(each, str) else each for each in (text, other)]
    if len(both[0]) != len(both[1]):
        spelled = ["|".join(model.tokenizer.decode([id]) for id in ids) for ids in both]
        raise UserError(
            f"the texts have {len(both[0])} and {len(both[1])} tokens, {spelled[0]} and {spelled[1]}; patching needs "
            "as many in both, so choose words that are split alike"
        )
    return both[0], both[1]


def chapter(model: Model, text: str, other: str, answer: int, wrong: int) -> Chapter:
    found = restored(model, text, other, answer, wrong)
    L, H = found.heads.shape
    layers, heads = (list(map(str, range(n))) for n in (L + 1, H))
    names = [visible(model.tokenizer, one) if one == two else
             f"{visible(model.tokenizer, one, 8)}/{visible(model.tokenizer, two, 8)}"
             for one, two in zip(found.ids, found.other_ids, strict=True)]  # fmt: skip
    pictures = [
        heat("patching_residual", "restored by the residual stream", found.residual, layers, names, "token", "layer"),
        heat("patching_heads", "restored by a head", found.heads, layers[:-1], heads, "head", "layer"),
    ]  # fmt: skip
    best = found.heads.flatten().argsort(descending=True)[:LISTED].tolist()
    rows = [[f"{place // H}.{place % H}", f"{found.heads.flatten()[place]:+.3f}"] for place in best]
    words = (
        f"The logit of {visible(model.tokenizer, answer)} minus that of {visible(model.tokenizer, wrong)} is "
        f"{found.clean:+.3f} after the text and {found.other:+.3f} after the other one. Each value is the fraction of "
        "that difference which comes back if the model, reading the other text, has in one place what it has for the "
        "text. Layer 0 is the input of the first layer."
    )
    note = (
        "Modern models also see the tokens themselves in later layers (value embeddings, the first layer's input), "
        "so that layer 0 does not restore all of it." if model.config.value_embeds or model.config.lambdas else ""
    )  # fmt: skip
    data = {"clean": found.clean, "other": found.other, "tokens": [model.tokenizer.decode([id]) for id in found.ids],
            "residual": rounded(found.residual), "heads": rounded(found.heads)}  # fmt: skip
    body = "\n\n".join(filter(None, [words, note, shown(pictures), table(["head", "restored"], rows)]))
    return Chapter("Activation patching", body, pictures, data)
