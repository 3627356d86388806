"""Direct logit attribution: which parts of the model wrote a prediction into the residual stream (Elhage et al. 2021).

The vector that the output layer reads is a sum: the embedding, what each head wrote, and what each MLP wrote, scaled by
the residual scalars of modern models, and with backout a fraction of the middle less. The last norm divides all of it
by one length; with that length fixed, each part's share of a logit is its product with the output layer's rows. The
shares, and the norm's bias, add up to the logit before the softcap. It is the direct path only: what a part changes in
later parts counts as theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from extras.look.chapter import Chapter, heat, rounded, shown, visible
from extras.look.unembedding import logits_of, through_norm
from nanochat.api import Model
from nanochat.inspection import Inspection
from nanochat.report.card import table

LISTED = 12


@dataclass(frozen=True)
class Attribution:
    """Shares of a logit, or of the difference of two, at one position, before the softcap."""

    embedding: float
    heads: Tensor  # (layers, heads)
    biases: Tensor  # (layers,): what attention adds whatever its heads read
    mlps: Tensor  # (layers,)
    bias: float  # the last norm's
    logit: float  # the model's own, which the others add up to

    @property
    def total(self) -> float:
        return self.embedding + float(self.heads.sum() + self.biases.sum() + self.mlps.sum()) + self.bias


def attribute(
    model: Model, text: str | list[int], answer: int, wrong: int | None = None, position: int = -1
) -> Attribution:
    """What the parts add to the logit of `answer`, or to its difference to that of `wrong`, after a position."""
    seen = model.inspect(text, ["residual", "heads", "mlp_out"])
    L, H = model.config.n_layer, model.config.n_head
    parts = _written(model, seen, position)  # (1 + L * (H + 2), D)
    shares, bias = through_norm(model.module, parts)
    logits = logits_of(model.module, torch.cat([shares, bias[None], (shares.sum(0) + bias)[None]])[None])[0]
    values = logits[:, answer] - (0 if wrong is None else logits[:, wrong])
    by_layer = values[1:-2].view(L, H + 2)
    return Attribution(
        float(values[0]), by_layer[:, :H], by_layer[:, H], by_layer[:, H + 1], float(values[-2]),
        _own(model, seen, position, answer, wrong),
    )  # fmt: skip


def _written(model: Model, seen: Inspection, position: int) -> Tensor:
    """The parts (1 + L * (H + 2), D) of what the last norm reads: the embedding, and of each layer heads, bias, MLP."""
    gpt, c = model.module, model.config
    parts = torch.zeros(1 + c.n_layer * (c.n_head + 2), c.n_embd)
    first = seen.residual[0][position]
    parts[0] = first
    middle = parts
    for layer, block in enumerate(gpt.transformer.blocks):
        if c.lambdas:
            parts = float(gpt.resid_lambdas[layer].detach()) * parts
            parts[0] += float(gpt.x0_lambdas[layer].detach()) * first
        start = 1 + layer * (c.n_head + 2)
        read = seen.heads[layer][position]  # (H, d)
        alone = torch.zeros(1, c.n_head + 1, c.n_head, c.head_size)  # each head alone, and none
        alone[0, torch.arange(c.n_head), torch.arange(c.n_head)] = read
        with torch.no_grad():
            written = block.attn.c_proj(alone.flatten(2).to(gpt.device, gpt.dtype))[0].float().cpu()
        parts = parts.clone()
        parts[start : start + c.n_head] = written[:-1] - written[-1]
        parts[start + c.n_head] = written[-1]
        parts[start + c.n_head + 1] = seen.mlp_out[layer][position]
        if layer == c.n_layer // 2:
            middle = parts
    return parts - float(gpt.backout_lambda.detach()) * middle if c.backout else parts


def _own(model: Model, seen: Inspection, position: int, answer: int, wrong: int | None) -> float:
    """The logit, or the difference, of the model's own pass, before the softcap."""
    with torch.no_grad():
        logits = logits_of(model.module, model.module.hidden(torch.tensor([seen.ids], device=model.module.device)))
    return float(logits[0, position, answer] - (0 if wrong is None else logits[0, position, wrong]))


def chapter(model: Model, text: str, answer: int, wrong: int | None) -> Chapter:
    found = attribute(model, text, answer, wrong)
    L, H = found.heads.shape
    name = visible(model.tokenizer, answer)
    of = f"the logit of {name}" + ("" if wrong is None else f" minus that of {visible(model.tokenizer, wrong)}")
    parts = {"embedding": found.embedding, "last norm's bias": found.bias}
    for layer in range(L):
        parts |= {f"head {layer}.{head}": float(found.heads[layer, head]) for head in range(H)}
        parts[f"MLP {layer}"] = float(found.mlps[layer])
        parts[f"attention bias {layer}"] = float(found.biases[layer])
    ranked = sorted(((part, value) for part, value in parts.items() if value), key=lambda item: -abs(item[1]))
    by_layer = torch.stack([found.heads.sum(1) + found.biases, found.mlps])
    layers, heads = (list(map(str, range(n))) for n in (L, H))
    pictures = [
        heat("attribution_heads", f"share of {of}, by head", found.heads, layers, heads, "head", "layer"),
        heat("attribution_layers", f"share of {of}, by layer", by_layer, ["attention", "MLP"], layers, "layer", ""),
    ]  # fmt: skip
    words = (
        f"What each part of the model adds to {of} after the text, before the softcap. The parts add up to "
        f"{found.total:.3f}; the model's own is {found.logit:.3f}. The last norm divides all parts by the same length, "
        "which is that of their sum and is taken as given."
    )
    data = {"answer": model.tokenizer.decode([answer]), "embedding": found.embedding, "heads": rounded(found.heads),
            "attention_bias": rounded(found.biases), "mlps": rounded(found.mlps), "bias": found.bias,
            "total": found.total, "logit": found.logit}  # fmt: skip
    rows = [[part, f"{value:+.3f}"] for part, value in ranked[:LISTED]]
    body = "\n\n".join([words, table(["part", "share"], rows), shown(pictures)])
    return Chapter("Direct logit attribution", body, pictures, data)
