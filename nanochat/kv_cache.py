"""Keys and values of the positions seen so far, in slots that requests come into and leave.

Without a cache, generating a token would compute all tokens before it again. One slot holds one sequence. A forward
pass works on some of the slots, each at its own length: `cache.rows([2, 5])` is what the model is given, and the
lengths of those slots have grown when it is done.

On a CPU the attention of a position gives the same bits whatever its neighbours are and in whatever pieces a prompt is
read; with packed weights (`engine.cpu_weights`) so does everything else. Kernels add up in another order when the
number of keys or queries changes, so both depend on nothing but the position: queries are taken in blocks of BLOCK
positions, padded to a multiple of 8, and see the keys up to the end of their own block.

Shapes: R rows (slots), T new positions, S keys, H query heads, K key/value heads, d head size, D channels.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention import Rotary, attend_cached, fast, rotary_for, slow, visible

BLOCK = 64


class KVCache:
    """k and v are (layers, slots, capacity, K, d): keys after rotation, norm and scale, values after value embeddings.

    With key_offset position t's slow channels lie at t + 1, as part of that position's key, so there is nothing else to
    keep of a sequence; those of position 0 are never written and stay 0.
    `last` (slots,) int64 is the id at each slot's newest position, -1 in an empty one: smear and pairs look back at it.
    The capacity is max_len, and one more for key_offset, rounded up to whole blocks.
    """

    def __init__(self, config, slots: int, max_len: int, device: torch.device | str, dtype: torch.dtype):
        capacity = -(-(max_len + config.key_offset) // BLOCK) * BLOCK
        shape = (config.n_layer, slots, capacity, config.n_kv_head, config.head_size)
        self.config = config
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.last = torch.full((slots,), -1, device=device)
        self.lengths = [0] * slots
        self.max_len = max_len
        self.rotary = rotary_for(config, torch.arange(max_len, device=device), dtype)  # of all positions

    def rows(self, slots: list[int]) -> "CacheRows":
        """The view of these slots for one forward pass."""
        return CacheRows(self, slots)

    def cut(self, slot: int, length: int, last: int = -1) -> None:
        """Keep the first `length` positions of a slot. `last` is the id at the last of them.

        Keys and values after them are hidden by the length; only `last` would leak into the next position.
        """
        self.lengths[slot] = length
        self.last[slot] = last

    def wipe(self, slot: int) -> None:
        """Empty a slot that has numbers that are not finite. A mask does not hide them: 0 times NaN is NaN."""
        self.k[:, slot] = 0
        self.v[:, slot] = 0
        self.cut(slot, 0)

    def fork(self, source: int, target: int) -> None:
        """Copy a sequence into another slot, so that both can continue separately."""
        n = self.lengths[source]
        self.k[:, target, : n + 1] = self.k[:, source, : n + 1]  # with key_offset the next key has begun
        self.v[:, target, :n] = self.v[:, source, :n]
        self.last[target] = self.last[source]
        self.lengths[target] = n


@dataclass
class _Piece:
    """New positions `first` to `last` of some of the rows, which attend to the keys before `end` in one call."""

    rows: Tensor | slice
    slots: Tensor | slice
    first: int
    last: int
    end: int
    queries: Tensor  # their positions (rows, padded T)
    masks: dict[int, Tensor] = field(default_factory=dict)  # by window


class CacheRows:
    """R slots during one forward pass over T new positions each."""

    def __init__(self, cache: KVCache, slots: list[int]):
        self.cache = cache
        self.slots = slots

    def begin(self, T: int) -> Tensor:
        """The T new positions of each row, (R, T). Raises ValueError if a slot has no room for them."""
        cache = self.cache
        device = cache.k.device
        starts = [cache.lengths[slot] for slot in self.slots]
        if max(starts) + T > cache.max_len:
            raise ValueError(f"{T} more positions after {max(starts)} exceed the cache's {cache.max_len}")
        self._positions = torch.tensor(starts, device=device)[:, None] + torch.arange(T, device=device)
        self._index = _selection(self.slots, device)
        self._scatter = torch.tensor(self.slots, device=device)[:, None]
        groups: dict[tuple[int, int, int], list[int]] = {}
        if device.type == "cpu":
            for row, start in enumerate(starts):
                first = 0
                while first < T:
                    end = (start + first) // BLOCK * BLOCK + BLOCK
                    last = min(T, end - start)
                    groups.setdefault((first, last, end), []).append(row)
                    first = last
        else:  # on a GPU in one call: fewer kernels to start
            groups[0, T, max(starts) + T] = list(range(len(starts)))
        self._pieces = []
        for (first, last, end), rows in groups.items():
            chosen = _selection(rows, device)
            queries = self._positions[chosen, first:last]
            if padding := -(last - first) % 8:
                queries = torch.cat([queries, queries[:, -1:].expand(-1, padding)], dim=1)
            slots = _selection([self.slots[row] for row in rows], device)
            self._pieces.append(_Piece(chosen, slots, first, last, end, queries))
        return self._positions

    def cos_sin(self) -> Rotary | None:
        """cos and sin (R, T, 1, d/2) of the new positions; None where positions are learned."""
        if self.cache.rotary is None:
            return None
        cos, sin = self.cache.rotary
        return cos[self._positions], sin[self._positions]

    def previous(self, ids: Tensor) -> Tensor:
        """The id before each new one, (R, T); -1 before the first of an empty slot."""
        return torch.cat([self.cache.last[self._index][:, None], ids[:, :-1]], dim=1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Store the new k and v (R, T, K, d) of a layer and attend to all so far. q (R, T, H, d) -> the same shape."""
        keys, values = self.cache.k[layer], self.cache.v[layer]
        if self.cache.config.key_offset:
            self._store(fast(keys), fast(k))
            self._store(slow(keys), slow(k), 1)
        else:
            self._store(keys, k)
        self._store(values, v)
        y = torch.empty_like(q) if len(self._pieces) > 1 else None
        for piece in self._pieces:
            start = max(0, piece.end - BLOCK - window) // BLOCK * BLOCK if window and q.device.type == "cpu" else 0
            if window not in piece.masks:
                hidden = ~visible(piece.queries, torch.arange(start, piece.end, device=q.device), window)
                piece.masks[window] = torch.zeros(hidden.shape, device=q.device, dtype=q.dtype).masked_fill_(
                    hidden, -torch.inf
                )
            queries = q[piece.rows, piece.first : piece.last]
            count = queries.size(1)
            if padding := piece.queries.size(1) - count:
                queries = F.pad(queries, (0, 0, 0, 0, 0, padding))
            k_seen, v_seen = keys[:, start : piece.end][piece.slots], values[:, start : piece.end][piece.slots]
            attended = attend_cached(queries, k_seen, v_seen, piece.masks[window])[:, :count]
            if y is None:
                return attended
            y[piece.rows, piece.first : piece.last] = attended
        assert y is not None
        return y

    def _store(self, layer: Tensor, new: Tensor, shift: int = 0) -> None:
        """Put new (R, T, ...) into a layer's (slots, capacity, ...), `shift` positions later than it belongs."""
        if len(self.slots) == 1:  # a copy is cheaper than an indexed one
            start = self.cache.lengths[self.slots[0]] + shift
            layer[self.slots[0], start : start + new.size(1)] = new[0]
        else:
            layer[self._scatter, self._positions + shift] = new

    def newest(self, x: Tensor) -> Tensor:
        """Of x (R, T, D) the last position, (R, 1, D)."""
        return x[:, -1:]

    def finish(self, ids: Tensor) -> None:
        """Advance the lengths by the new ids (R, T)."""
        self.cache.last[self._index] = ids[:, -1]
        for slot in self.slots:
            self.cache.lengths[slot] += ids.size(1)


def _selection(indices: list[int], device: torch.device) -> Tensor | slice:
    """An index for these ascending numbers: a slice, which makes a view, if they are consecutive, else a tensor."""
    if indices == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return torch.tensor(indices, device=device)
