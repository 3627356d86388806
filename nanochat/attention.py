"""Rotary positions, and causal attention: over whole rows in training, over cached positions in decoding.

What computes it is chosen once per device and dtype (`backend_for`), and every choice gives the same numbers:

    varlen  FlashAttention over sequences of any lengths in one call: CUDA in float16 or bfloat16
    flex    a kernel that torch.compile writes for a block mask: the same where torch's varlen_attn knows no windows
    sdpa    PyTorch's scaled_dot_product_attention, windows in blocks: CPU, MPS, and float32 on CUDA. For training on a
            CPU in bfloat16 its backward pass is slow, and `_Products` takes its place

Shapes: B rows, T new positions, S positions seen so far, H query heads, K key/value heads, d head size, N queries.
A window W lets a query see itself and the W positions before it; W = 0 means no limit.
"""

import functools
import importlib.util
import inspect
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.runtime import asked_once

Rotary = tuple[Tensor, Tensor]  # cos and sin

PAGE = 256  # positions per page of a cache for `attend_paged`; FlashAttention 2 takes multiples of 256 only
MOST_SCORES = 1 << 25  # that training on a CPU keeps of a call, 2 bytes each; the kernel for more keeps none
SMALLEST_BLOCK = 64  # queries per block of windowed attention; smaller ones cost more calls than they save products


# ---------------------------------------------------------------- rotary positions


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


def rotary_for(config, positions: Tensor, dtype: torch.dtype) -> Rotary | None:
    """`rotary` as a GPTConfig has it, for positions (...); None where positions are learned."""
    if config.learned_positions:
        return None
    return rotary(positions, config.head_size, config.rope_base, config.rope_in_bfloat16, dtype)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the halves (a, b) of each head by minus the position's angle: (a cos + b sin, b cos - a sin)."""
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def slow(heads: Tensor) -> Tensor:
    """The channels (..., 2, d/4 rounded up) of heads (..., d) that RoPE turns most slowly, a view."""
    pairs = heads.size(-1) // 2
    return heads.unflatten(-1, (2, pairs))[..., pairs // 2 :]


def fast(heads: Tensor) -> Tensor:
    """The other channels (..., 2, d/4 rounded down) of heads (..., d), a view."""
    pairs = heads.size(-1) // 2
    return heads.unflatten(-1, (2, pairs))[..., : pairs // 2]


def offset(k: Tensor, documents: "Documents | None" = None) -> Tensor:
    """Keys (B, T, K, d) with their slow channels from the position before, 0 where a row or a document begins.

    So a key says what its token is and what came before it, and one layer can find what followed an earlier occurrence
    of the present token, which otherwise takes two (induction heads, Olsson et al. 2022). From modded-nanogpt, where
    the channels concerned are not rotated at all.
    """
    own = slow(k)
    before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], dim=1)
    if documents is not None:
        before = before * documents.continues[..., None, None, None]
    return torch.cat([fast(k), before], dim=-1).flatten(-2)


# ---------------------------------------------------------------- which kernel


@functools.cache
def backend_for(device: torch.device, dtype: torch.dtype, head_size: int) -> str:
    """The backend for tensors of this kind: varlen, flex or sdpa, which the top of this file explains."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or head_size % 8 or head_size > 256:
        return "sdpa"
    if _capability(device) < (8, 0):
        return "sdpa"
    return "varlen" if _varlen_takes("window_size", "enable_gqa") else "flex" if head_size >= 16 else "sdpa"


def backend_in_words(device: torch.device, dtype: torch.dtype, head_size: int) -> str:
    """The backend in words, for the line that is printed when a run or a server starts."""
    backend = backend_for(device, dtype, head_size)
    if backend == "varlen":
        return f"FlashAttention {(flash_in_use(device) or 'FA2')[-1]} (varlen_attn)"
    if backend == "flex":
        return "FlexAttention (this torch's varlen_attn has no windows)"
    return "scaled_dot_product_attention, windows in blocks"


@asked_once
def flash_in_use(device: torch.device) -> str | None:
    """The newer FlashAttention that is switched on, "FA3" or "FA4", at the first call; None for torch's own (2).

    That is the one whose wheel is installed. FlashAttention 3 is written for Hopper. 4 is for Blackwell too, and reads
    no paged cache on Hopper.
    """
    return _switched_on(device)


@functools.cache
def _switched_on(device: torch.device) -> str | None:
    try:
        from torch.nn.attention import activate_flash_attention_impl
    except ImportError:
        return None
    generations = {9: ("FA3", "flash_attn_interface"), 10: ("FA4", "flash_attn.cute.interface")}
    name, module = generations.get(_capability(device)[0], (None, ""))
    if name is None or not torch.cuda.is_available() or not _is_installed(module):
        return None
    activate_flash_attention_impl(name)
    return name


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _capability(device: torch.device) -> tuple[int, int]:
    """Compute capability. Where no GPU is, only fake tensors can be "on" one: they get the kernels of a new one."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (9, 0)


@functools.cache
def _varlen_takes(*arguments: str) -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return set(arguments) <= inspect.signature(varlen_attn).parameters.keys()


@asked_once
def _backend(
    device: torch.device, dtype: torch.dtype, head_size: int, dropout: bool = False, paged: bool = False
) -> str:
    """The backend of one call: varlen, flex, sdpa or efficient.

    Only sdpa has dropout, and FlashAttention 3 and 4, once switched on, take the place of its own flash kernel without
    having any; "efficient" is sdpa with its other kernels.
    """
    backend = backend_for(device, dtype, head_size)
    newer = flash_in_use(device) if backend == "varlen" else None
    if dropout:
        return "efficient" if newer else "sdpa"
    if backend == "sdpa":  # to ask what varlen_attn takes is to import torch's compiler, which takes seconds
        return backend
    return "sdpa" if paged and not _varlen_takes("block_table", "seqused_k", "num_splits") else backend


# ---------------------------------------------------------------- documents


class Documents(NamedTuple):
    """Which positions of rows belong together, for rows into which several documents are packed.

    number (B, T) int32 counts the documents of each row from 0. starts (B * most + 1,) int32 are the places in all
    B * T positions where one begins, ascending, `most` for each row: where a row has fewer, the rest are empty
    documents at its end.
    """

    number: Tensor
    starts: Tensor

    @property
    def continues(self) -> Tensor:
        """Whether a position has one before it in its document, bool (B, T); the first of a row counts as if it had."""
        return self.number.diff(dim=1, prepend=self.number[:, :1]) == 0


def documents_in(ids: Tensor, separator: int) -> Documents:
    """The documents of ids (B, T): each begins with `separator`, and each row begins one in any case.

    Shapes depend on nothing but B and T, and nothing waits for a GPU. That needs a limit: T / 32 documents in a
    row, or 16 if that is more; what follows the last of them in a row counts as part of it.
    """
    B, T = ids.shape
    most = most_documents(T)
    begins = ids == separator
    number = (begins.cumsum(1) - begins[:, :1].long()).clamp_max(most - 1).int()
    wanted = torch.arange(most, device=ids.device, dtype=torch.int32).expand(B, most).contiguous()
    within = torch.searchsorted(number, wanted, out_int32=True)  # the first position of each; T if it has none
    starts = within + T * torch.arange(B, device=ids.device, dtype=torch.int32)[:, None]
    return Documents(number, F.pad(starts.flatten(), (0, 1), value=B * T))


def most_documents(T: int) -> int:
    """How many documents of a row of T tokens are kept apart."""
    return max(T // 32, 16)


# ---------------------------------------------------------------- training


def attend(
    q: Tensor, k: Tensor, v: Tensor, window: int, dropout: float = 0.0, documents: Documents | None = None
) -> Tensor:
    """Causal attention within whole rows. q (B, T, H, d), k and v (B, T, K, d) -> (B, T, H, d).

    dropout is the fraction of the attention weights that is dropped. With documents a position sees its own only.
    """
    window = window if window < q.size(1) - 1 else 0
    backend = _backend(q.device, q.dtype, q.size(3), dropout=dropout > 0)
    if backend == "varlen":
        return _by_varlen(q, k, v, window, documents)
    if backend == "flex":
        return _by_flex(q, k, v, window, documents)
    rows = _Rows(q, k, v, dropout, None if documents is None else documents.number)
    if backend == "sdpa":
        return _in_blocks(rows, window)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return _in_blocks(rows, window)


def weights(q: Tensor, k: Tensor, window: int) -> Tensor:
    """The weights by which `attend` mixes the values, float32 (B, H, N, T); each row sums to 1. Kernels keep none.

    q (B, N, H, d) are the last N of what `attend` is given, k (B, T, K, d) all of it, of rows that are one document.
    """
    H, d, T = q.size(2), q.size(3), k.size(1)
    keys = k.repeat_interleave(H // k.size(2), dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float() * d**-0.5, keys.float())
    places = torch.arange(T, device=q.device)
    return scores.masked_fill(~visible(places[-q.size(1) :], places, window), -torch.inf).softmax(-1)


def mixed(weights: Tensor, v: Tensor) -> Tensor:
    """Attention with given weights. weights float32 (B, H, T, T), v (B, T, K, d) -> (B, T, H, d), of v's dtype."""
    values = v.repeat_interleave(weights.size(1) // v.size(2), dim=2)
    return torch.einsum("bhqk,bkhd->bqhd", weights, values.float()).to(v.dtype)


def whole_rows(B: int, T: int, device: torch.device) -> Tensor:
    """Where each of B sequences of T positions starts, and where the last ends: (B + 1,) int32."""
    return torch.arange(0, B * T + 1, T, device=device, dtype=torch.int32)


def _by_varlen(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Documents | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    B, T, H, d = q.shape
    starts = whole_rows(B, T, q.device) if documents is None else documents.starts
    y = cast(Tensor, varlen_attn(
        q.reshape(B * T, H, d), k.reshape(B * T, -1, d), v.reshape(B * T, -1, d), starts, starts, T, T,
        window_size=(window or -1, 0), enable_gqa=k.size(2) != H,
    ))  # fmt: skip
    return y.view(B, T, H, d)


def _by_flex(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Documents | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    if documents is None:
        mask = _block_mask(q.size(1), window, q.device)
    else:
        mask = _block_mask_of_documents(documents.number, window)
    kernel = flex_attention if torch.compiler.is_compiling() or q.device.type == "cpu" else _compiled_flex()
    y = kernel(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=mask, enable_gqa=q.size(2) != k.size(2)
    )
    return y.transpose(1, 2)


@functools.cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def _block_mask(T: int, window: int, device: torch.device):
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _near(query - key, window)

    return create_block_mask(sees, None, None, T, T, device=str(device))


def _block_mask_of_documents(number: Tensor, window: int):
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _near(query - key, window) & (number[b, query] == number[b, key])

    return create_block_mask(sees, number.size(0), None, number.size(1), number.size(1), device=str(number.device))


class _Rows(NamedTuple):
    """What `attend` is given, for the functions that take parts of it; number is that of `Documents`."""

    q: Tensor
    k: Tensor
    v: Tensor
    dropout: float
    number: Tensor | None

    def piece(self, first: int, end: int, start: int, window: int) -> Tensor:
        """Queries `first` to `end`, which see keys from `start` on -> (B, end - first, H, d)."""
        mask = None
        if first or self.number is not None or 0 < window < end - 1:
            mask = _visible_in(first, end, start, window, self.q.device)
        if mask is not None and self.number is not None:
            mask = mask & (self.number[:, None, first:end, None] == self.number[:, None, None, start:end])
        return _attention(self.q[:, first:end], self.k[:, start:end], self.v[:, start:end], mask, self.dropout)

    def pieces(self, first: int, size: int, before: int, whole: int, window: int) -> Tensor:
        """`whole` blocks of `size` queries from `first` on, in one call -> (B, whole * size, H, d).

        Each sees its own keys and those of the `before` blocks in front of it.
        """
        end = first + whole * size

        def seen(x: Tensor) -> Tensor:  # (B, T, ...) -> (B * whole, (before + 1) * size, ...)
            blocks = x[:, first - before * size : end].unflatten(1, (before + whole, size))
            return torch.cat([blocks[:, i : i + whole] for i in range(before + 1)], dim=2).flatten(0, 1)

        mask = _visible_in(before * size, (before + 1) * size, 0, window, self.q.device)
        if self.number is not None:
            numbers = seen(self.number)
            mask = mask & (numbers[:, None, -size:, None] == numbers[:, None, None, :])
        q = self.q[:, first:end]
        y = _attention(q.reshape(-1, size, *q.shape[2:]), seen(self.k), seen(self.v), mask, self.dropout)
        return y.reshape(q.shape)


def _in_blocks(rows: _Rows, window: int) -> Tensor:
    """`attend` with a cost and memory that grow with T * W, not with T * T.

    The first W queries see all positions before them. The others go in blocks of W/2, which see their own keys and
    those of the two blocks before: all whole blocks in one call, then what is left. On one core of a Zen CPU a window
    of T/4, forward and backward, takes 0.48 to 0.66 of the time of full attention at T = 1024 and 2048, eager and
    compiled; a mask of all T * T pairs took 1.4 to 1.8 times as long as full attention.
    """
    T = rows.q.size(1)
    if not window:
        by_products = _learns_by_products(rows.q, rows.k, rows.dropout)
        if rows.number is None and not by_products:
            return rows.piece(0, T, 0, 0)
        # Queries in blocks, which see all keys before them: of documents of any length, too.
        size = (2 if by_products else 4) * SMALLEST_BLOCK
        return torch.cat([rows.piece(first, min(T, first + size), 0, 0) for first in range(0, T, size)], dim=1)
    if T <= 2 * SMALLEST_BLOCK:
        return rows.piece(0, T, 0, window)
    size = max(SMALLEST_BLOCK, -(-window // 2))
    before = -(-window // size)  # 1 or 2
    first = min(T, before * size)
    whole = (T - first) // size
    end = first + whole * size
    parts = [rows.piece(0, first, 0, window)]
    if whole:
        parts.append(rows.pieces(first, size, before, whole, window))
    if end < T:
        parts.append(rows.piece(end, T, end - window, window))
    return torch.cat(parts, dim=1)


def _learns_by_products(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether `_Products` takes the place of the kernel, for q (B, N, H, d) and k (B, S, K, d)."""
    is_small = q.size(0) * q.size(2) * q.size(1) * k.size(1) <= MOST_SCORES
    learns = torch.is_grad_enabled() and q.requires_grad and not dropout
    return learns and is_small and q.is_cpu and q.dtype == torch.bfloat16 and q.size(2) == k.size(2)


class _Products(torch.autograd.Function):
    """Attention with all its scores in memory, q (B, H, N, d), k and v (B, H, S, d), mask (N, S) or (B, 1, N, S).

    In bfloat16 PyTorch's kernel for CPUs takes 75 ms forward and backward where this one, compiled, takes 36, on a core
    of a Zen 4 at B = 16, H = 4, T = 256, d = 64; 120 and 56 at B = 8, T = 512. Scores are float32, as the kernel has
    them, and the errors of both are of one size (tests/test_attention.py).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        ctx.scale = q.size(-1) ** -0.5
        scores = (q.float() * ctx.scale) @ k.float().mT
        shares = torch.where(mask, scores, -torch.inf).softmax(-1).to(v.dtype)
        y = shares @ v
        ctx.save_for_backward(q, k, v, shares, y)
        return y

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares, y = ctx.saved_tensors
        (above_y,) = above
        mean = (above_y.float() * y.float()).sum(-1, keepdim=True)
        of_scores = (shares.float() * ((above_y @ v.mT).float() - mean) * ctx.scale).to(q.dtype)
        return of_scores @ k, of_scores.mT @ q, shares.mT @ above_y, None


def _visible_in(first: int, end: int, start: int, window: int, device: torch.device) -> Tensor:
    """Which keys from `start` on the queries `first` to `end` see: bool (end - first, end - start)."""
    return visible(torch.arange(first, end, device=device), torch.arange(start, end, device=device), window)


# ---------------------------------------------------------------- decoding


def attend_cached(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention to cached positions. q (B, T, H, d), k and v (B, S, K, d) -> (B, T, H, d).

    mask (B, T, S) is added to the scores: 0 where a query sees a key, else -inf.
    """
    return _attention(q, k, v, mask[:, None])


def attend_paged(
    q: Tensor, first: Tensor, longest: int, keys: Tensor, values: Tensor, table: Tensor, seen: Tensor, window: int,
    sums: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention of R sequences to what a cache of pages holds of them, in place. No gradient.

    q (N, H, d) are the newest positions of all sequences, one sequence after another; first (R + 1,) int32 says where
    each begins and the last ends, and `longest` is at least the most that one has. keys and values (pages, PAGE, K, d)
    are the cache; table (R, P) int32 has the pages of each sequence in order; seen (R,) int32 is its length, the new
    positions included. `sums` is `lengths_for_flash(seen)`, which all layers may share.
    -> (N, H, d); what belongs to no sequence is undefined.

    Shapes and Python numbers alone decide which kernels run, so a CUDA graph can hold them. The kernels do not split a
    sequence's keys among thread blocks by what else is in the batch, so its result does not depend on that.
    """
    if _backend(q.device, q.dtype, q.size(2), paged=True) != "varlen":
        return _attend_gathered(q, first, longest, keys, values, table, seen, window)
    from torch.nn.attention.varlen import varlen_attn

    sums = lengths_for_flash(seen, q.device) if sums is None else sums
    return cast(Tensor, varlen_attn(
        q, keys, values, first, sums, longest, table.size(1) * PAGE,
        window_size=(window or -1, 0), enable_gqa=q.size(1) != keys.size(2),
        seqused_k=seen, block_table=table, num_splits=1,
    ))  # fmt: skip


def pages_in_place(device: torch.device, dtype: torch.dtype, head_size: int = 128) -> bool:
    """Whether `attend_paged` reads pages where they lie, instead of gathering them first."""
    return _backend(device, dtype, head_size, paged=True) == "varlen"


def lengths_for_flash(seen: Tensor, device: torch.device) -> Tensor | None:
    """What varlen_attn wants as cu_seq_k beside seqused_k: FlashAttention 2 the sums (R + 1,), newer ones nothing."""
    return None if flash_in_use(device) else F.pad(seen.cumsum(0, dtype=torch.int32), (1, 0))


def _attend_gathered(
    q: Tensor, first: Tensor, longest: int, keys: Tensor, values: Tensor, table: Tensor, seen: Tensor, window: int
) -> Tensor:
    """`attend_paged` where no kernel reads pages: gather them, and mask."""
    N, R, S = q.size(0), table.size(0), table.size(1) * keys.size(1)
    counts = first.diff()
    offsets = torch.arange(longest, device=q.device)
    queries = q[(first[:-1, None] + offsets).clamp_max(N - 1)]  # (R, longest, H, d)
    k, v = (pages[table].reshape(R, S, *pages.shape[2:]) for pages in (keys, values))
    positions = (seen - counts)[:, None] + offsets
    mask = torch.zeros(R, longest, S, device=q.device, dtype=q.dtype)
    mask.masked_fill_(~visible(positions, torch.arange(S, device=q.device), window), -torch.inf)
    y = attend_cached(queries, k, v, mask)
    places = torch.arange(N, device=q.device, dtype=first.dtype)
    row = (torch.searchsorted(first, places, right=True) - 1).clamp_max(R - 1)
    return y[row, (places - first[row]).clamp_max(longest - 1)]


def visible(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Which keys a query may see. queries (..., T) and keys (S,) are positions -> bool (..., T, S)."""
    return _near(queries[..., :, None] - keys, window)


def _near(distance: Tensor, window: int) -> Tensor:
    """Whether a query sees a key that is so many positions before it."""
    return (distance >= 0) & (distance <= window) if window else distance >= 0


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    by_products = _learns_by_products(q, k, dropout)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if by_products:
        mask = _visible_in(0, q.size(2), 0, 0, q.device) if mask is None else mask
        return _Products.apply(q, k, v, mask).transpose(1, 2)
    grouped = q.size(1) != k.size(1)
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, enable_gqa=grouped
    )
    return y.transpose(1, 2)
