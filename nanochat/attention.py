"""Rotary positions, and causal attention over whole rows and over rows that live in a cache.

Shapes: B rows, T new positions, S positions seen so far, H query heads, K key/value heads, d head size.
A window W lets a query see itself and the W positions before it; W = 0 means no limit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Rotary = tuple[Tensor, Tensor]  # cos and sin


def rotary(positions: Tensor, head_size: int, base: float, in_bfloat16: bool, dtype: torch.dtype) -> Rotary:
    """cos and sin (..., 1, d/2) of RoPE (Su et al. 2021) for positions (...), in dtype.

    in_bfloat16 rounds them to bfloat16 first, as classic nanochat did.
    """
    frequencies = 1.0 / base ** (torch.arange(0, head_size, 2, device=positions.device).float() / head_size)
    angles = positions[..., None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    if in_bfloat16:
        cos, sin = cos.bfloat16(), sin.bfloat16()
    return cos.to(dtype), sin.to(dtype)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the halves (a, b) of each head by minus the position's angle: (a cos + b sin, b cos - a sin)."""
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, dropout: float = 0.0) -> Tensor:
    """Causal attention within whole rows. q (B, T, H, d), k and v (B, T, K, d) -> (B, T, H, d).

    dropout is the fraction of the attention weights that is dropped.
    """
    T = q.size(1)
    if not 0 < window < T - 1:
        return _attention(q, k, v, None, dropout)
    positions = torch.arange(T, device=q.device)
    return _attention(q, k, v, visible(positions, positions, window), dropout)


def attend_cached(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention to cached positions. q (B, T, H, d), k and v (B, S, K, d) -> (B, T, H, d).

    mask (B, T, S) is added to the scores: 0 where a query sees a key, else -inf.
    """
    return _attention(q, k, v, mask[:, None])


def visible(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Which keys a query may see. queries (..., T) and keys (S,) are positions -> bool (..., T, S)."""
    distance = queries[..., :, None] - keys
    return (distance >= 0) & (distance <= window) if window else distance >= 0


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.size(1) != k.size(1)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, enable_gqa=grouped
    )
    return y.transpose(1, 2)


PAGE = 256


def attend_paged(
    q: Tensor, first: Tensor, longest: int, keys: Tensor, values: Tensor, table: Tensor, seen: Tensor, window: int
) -> Tensor:
    """Stand-in. q (N, H, d), first (R+1,), keys, values (pages, PAGE, K, d), table (R, P), seen (R,) -> (N, H, d)."""
    rows = torch.arange(q.size(0), device=q.device, dtype=first.dtype)
    row = (torch.searchsorted(first, rows, right=True) - 1).clamp(0, table.size(0) - 1)
    k, v = keys[table].flatten(1, 2)[row], values[table].flatten(1, 2)[row]  # (N, S, K, d)
    positions = seen[row] - (first[row + 1] - rows)
    mask = visible(positions[:, None], torch.arange(k.size(1), device=q.device), window)
    mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    return attend_cached(q[:, None], k, v, mask)[:, 0]


def pages_in_place(device: torch.device, dtype: torch.dtype) -> bool:
    """Stand-in: whether `attend_paged` reads pages where they lie on this device."""
    halves = torch.bfloat16, torch.float16
    return device.type == "cuda" and dtype in halves and torch.cuda.get_device_capability(device) >= (8, 0)
