"""How similar layers are: linear centred kernel alignment (Kornblith et al. 2019).

    CKA(X, Y) = ||Yc^T Xc||² / (||Xc^T Xc|| ||Yc^T Yc||)     X, Y: vectors of the same tokens, Xc, Yc without their mean

It is 1 where two layers hold the same up to a rotation and a scale, and does not depend on which channel is which.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from extras.look.chapter import Chapter, heat, rounded, shown
from nanochat.api import Model
from nanochat.report.card import table


def linear_cka(x: Tensor, y: Tensor) -> float:
    """x (N, C) and y (N, D), vectors of the same N tokens -> 0 to 1."""
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    both = (y.T @ x).square().sum()
    return float(both / ((x.T @ x).norm() * (y.T @ y).norm()))


def chapter(model: Model, texts: Iterable[list[int]]) -> Chapter:
    """CKA between the residual stream at all layers, over the tokens of texts but the first of each.

    The first token's vector is often many times longer than all others, so it would be all that is compared.
    """
    parts = [torch.stack(model.inspect(ids, "residual").residual)[:, 1:] for ids in texts]
    x = torch.cat(parts, dim=1)  # (L + 1, N, D)
    count, N, D = x.shape
    grid = torch.tensor([[linear_cka(a, b) for b in x] for a in x])
    names = list(map(str, range(count)))
    picture = heat("similarity", "linear CKA of the residual stream", grid, names, names, "layer", "layer", most=1.0)
    neighbours = [float(grid[layer, layer + 1]) for layer in range(count - 1)]
    words = (
        f"Layer 0 is the input of the first layer, {count - 1} what the last gives; {N} tokens, {D} channels."
        + (" There are fewer tokens than channels, which makes all layers look alike: give more text." if N < D else "")
    )
    head = ["", *(f"layer {layer}" for layer in range(count - 1))]
    row = ["CKA of its input and output", *(f"{value:.3f}" for value in neighbours)]
    text = "\n\n".join([words, table(head, [row]), shown([picture])])
    return Chapter("Similarity of layers", text, [picture], {"tokens": N, "cka": rounded(grid)})
