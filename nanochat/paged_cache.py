"""The cache in pages, for GPUs: every tensor has a fixed shape, so that a forward pass can be recorded and replayed.

Keys and values lie in pages of PAGE positions, as attention kernels read them in place (paged attention, Kwon et al.
2023). A slot owns the pages that hold max_len positions; its row of `tables` names them. What a forward pass works on,
slots, positions and lengths, are tensors on the device, so the same kernels serve any requests. Rows that only fill a
pass up to its shape belong to one more slot, whose single page nobody else reads.

Shapes: N new positions in all, of R rows; P pages of a slot, K key/value heads, d head size, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.attention import PAGE, Rotary, attend_paged, fast, lengths_for_flash, rotary_for, slow


class PagedCache:
    """keys and values are lists, by layer, of (slots * P + 1, PAGE, K, d); `last` is as in KVCache, (slots + 1,).

    With key_offset slow channels lie one position later, as in KVCache.

    tables (slots + 1, P) int32 are the pages of each slot. `lengths` are on the host: the Engine knows them.
    """

    def __init__(self, config, slots: int, max_len: int, device: torch.device | str, dtype: torch.dtype):
        pages = -(-max_len // PAGE)
        shape = (slots * pages + 1, PAGE, config.n_kv_head, config.head_size)
        self.config = config
        self.slots = slots
        # A tensor per layer: a compiled pass writes to each in place, where it might copy a view of a larger one.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.last = torch.full((slots + 1,), -1, device=device)
        self.tables = torch.full((slots + 1, pages), slots * pages, device=device, dtype=torch.int32)
        self.tables[:-1] = torch.arange(slots * pages, device=device, dtype=torch.int32).view(slots, pages)
        self.lengths = [0] * slots
        self.max_len = max_len
        self.rotary = rotary_for(config, torch.arange(max_len, device=device), dtype)  # of all positions

    def room(self, slot: int, n: int) -> int:
        """Where the next n positions of a slot begin. Raises ValueError if it has no room for them."""
        start = self.lengths[slot]
        if start + n > self.max_len:
            raise ValueError(f"{n} more positions after {start} exceed the cache's {self.max_len}")
        return start

    def cut(self, slot: int, length: int, last: int = -1) -> None:
        """Keep the first `length` positions of a slot. `last` is the id at the last of them."""
        self.lengths[slot] = length
        self.last[slot] = last

    def wipe(self, slot: int) -> None:
        """Empty a slot that has numbers that are not finite. A mask does not hide them: 0 times NaN is NaN."""
        for layer in (*self.keys, *self.values):
            layer[self._pages(slot)] = 0
        self.cut(slot, 0)

    def fork(self, source: int, target: int) -> None:
        """Copy a sequence into another slot, so that both can continue separately."""
        n = self.lengths[source]
        there, here = self._pages(source, n + 1), self._pages(target, n + 1)  # with key_offset the next key has begun
        for layer in (*self.keys, *self.values):
            layer[here] = layer[there]
        self.last[target] = self.last[source]
        self.lengths[target] = n

    def _pages(self, slot: int, length: int | None = None) -> slice:
        """The pages of a slot, or those of its first positions."""
        pages = self.tables.size(1)
        return slice(slot * pages, slot * pages + (pages if length is None else min(pages, -(-length // PAGE))))


@dataclass
class PagedRows:
    """R rows during one forward pass over N new positions, which the model sees as N rows of one position.

    All tensors are on the device and may be filled anew before the pass is replayed. A row's positions follow one
    another; what comes after those of the last row is padding, in the scratch slot.
    """

    cache: PagedCache
    slots: Tensor  # (N,) int32: the slot of each position
    positions: Tensor  # (N,) int32
    rows: Tensor  # (R,) int32: the slot of each row
    seen: Tensor  # (R,) int32: how many positions a row has after this pass
    first: Tensor  # (R + 1,) int32: where the new positions of each row begin
    longest: int  # at least the most new positions of any row
    begins: Tensor | None = None  # (N,) int32, 1 where a row begins; None: each row has one position
    ends: Tensor | None = None  # (R,) int32: each row's last position among the N; None: each row has one position

    def begin(self, T: int) -> Tensor:
        """The new positions, (N, 1). That there is room for them was checked on the host."""
        c = self.cache
        positions = self.positions.long()
        self._places = self._places_of(positions)
        self._next = self._places_of(positions + 1) if c.config.key_offset else None
        self._table = c.tables[self.rows.long()]
        self._sums = lengths_for_flash(self.seen, self.seen.device)
        return positions[:, None]

    def _places_of(self, positions: Tensor) -> Tensor:
        """Where positions (N,) of the slots lie among all positions of all pages; past the last, in scratch."""
        tables = self.cache.tables
        page = positions // PAGE
        own = tables[self.slots.long(), page.clamp_max(tables.size(1) - 1)]
        return torch.where(page < tables.size(1), own, tables[-1, 0]).long() * PAGE + positions % PAGE

    def cos_sin(self) -> Rotary | None:
        """cos and sin (N, 1, 1, d/2) of the new positions; None where positions are learned."""
        if self.cache.rotary is None:
            return None
        cos, sin = self.cache.rotary
        at = self.positions.long()[:, None]
        return cos[at], sin[at]

    def previous(self, ids: Tensor) -> Tensor:
        """The id before each new one, (N, 1); -1 before the first of an empty slot."""
        before = self.cache.last[self.slots.long()][:, None]
        if self.begins is None:
            return before
        return torch.where(self.begins[:, None] > 0, before, ids.roll(1, 0))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Store the new k and v (N, 1, K, d) of a layer and attend to all so far. q (N, 1, H, d) -> the same shape."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        all_keys = keys.flatten(0, 1)
        if self._next is None:
            all_keys[self._places] = k[:, 0]
        else:
            fast(all_keys)[self._places] = fast(k[:, 0])
            slow(all_keys)[self._next] = slow(k[:, 0])
        values.flatten(0, 1)[self._places] = v[:, 0]
        y = attend_paged(q[:, 0], self.first, self.longest, keys, values, self._table, self.seen, window, self._sums)
        return y[:, None]

    def newest(self, x: Tensor) -> Tensor:
        """Of x (N, 1, D) each row's last position, (R, 1, D)."""
        return x if self.ends is None else x[self.ends.long()]

    def finish(self, ids: Tensor) -> None:
        """Keep each row's last id of (N, 1); the host counts the lengths."""
        self.cache.last[self.rows.long()] = self.newest(ids)[:, 0]
