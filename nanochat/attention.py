"""Causal attention over whole rows, and over rows of different lengths that live in a cache.

Shapes: B rows, T new positions, S positions seen so far, H query heads, K key/value heads, d head size.
A window W lets a query see itself and the W positions before it; W = 0 means no limit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of whole rows to themselves. q (B, T, H, d), k and v (B, T, K, d) -> (B, T, H, d)."""
    T = q.size(1)
    if not 0 < window < T - 1:
        return _attention(q, k, v, mask=None)
    positions = torch.arange(T, device=q.device)
    return _attention(q, k, v, visible(positions, positions, window))


def attend_cached(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention to cached positions. q (B, T, H, d), k and v (B, S, K, d), mask (B, T, S) bool -> (B, T, H, d)."""
    return _attention(q, k, v, mask[:, None])


def visible(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Which keys a query may see. queries (..., T) and keys (S,) are positions -> bool (..., T, S)."""
    distance = queries[..., :, None] - keys
    return (distance >= 0) & (distance <= window) if window else distance >= 0


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.size(1) != k.size(1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return y.transpose(1, 2)
