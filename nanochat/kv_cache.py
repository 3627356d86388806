"""Keys and values of the positions seen so far, in slots that requests come into and leave.

One slot holds one sequence. A forward pass works on a few slots at a time, each at its own length:
`cache.rows([2, 5])` is what the model is given, and the lengths of those slots grow when it is done.
"""

import torch
from torch import Tensor

from nanochat.attention import visible


class KVCache:
    """k and v are (layers, slots, max_len, K, d): keys after rotation, norm and scale, values after value embeddings.

    `last` (slots, D) is the un-smeared embedding of each slot's newest position; the next one is smeared with it.
    """

    def __init__(self, config, slots: int, max_len: int, device: torch.device | str, dtype: torch.dtype):
        head_size = config.n_embd // config.n_head
        shape = (config.n_layer, slots, max_len, config.n_kv_head, head_size)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.last = torch.zeros(slots, config.n_embd, device=device, dtype=dtype)
        self.lengths = [0] * slots
        self.max_len = max_len

    def rows(self, slots: list[int]) -> "CacheRows":
        """The view of these slots for one forward pass."""
        return CacheRows(self, slots)

    def reset(self, slot: int) -> None:
        """Empty a slot. What it held is hidden by its length; only `last` would leak into a new sequence."""
        self.lengths[slot] = 0
        self.last[slot] = 0

    def fork(self, source: int, target: int) -> None:
        """Copy a sequence into another slot, so that both can go on separately."""
        n = self.lengths[source]
        self.k[:, target, :n] = self.k[:, source, :n]
        self.v[:, target, :n] = self.v[:, source, :n]
        self.last[target] = self.last[source]
        self.lengths[target] = n


class CacheRows:
    """R slots during one forward pass over T new positions each."""

    def __init__(self, cache: KVCache, slots: list[int]):
        self.cache = cache
        self.slots = slots
        device = cache.k.device
        self.starts = torch.tensor([cache.lengths[slot] for slot in slots], device=device)
        # Neighbouring slots are read as a view; anything else has to be gathered into a copy.
        self._index = (
            slice(slots[0], slots[-1] + 1)
            if slots == list(range(slots[0], slots[-1] + 1))
            else torch.tensor(slots, device=device)
        )
        self._scatter = torch.tensor(slots, device=device)[:, None]

    def begin(self, T: int) -> Tensor:
        """Positions (R, T) of the new tokens. Raises ValueError where a slot has no room for them."""
        lengths = [self.cache.lengths[slot] for slot in self.slots]
        if max(lengths) + T > self.cache.max_len:
            raise ValueError(f"{T} more positions after {max(lengths)} exceed the cache's {self.cache.max_len}")
        self.end = max(lengths) + T
        self.positions = self.starts[:, None] + torch.arange(T, device=self.starts.device)
        self._masks: dict[int, Tensor] = {}
        return self.positions

    def previous(self) -> Tensor:
        """The embeddings (R, 1, D) that the first new position is smeared with; zeros for an empty slot."""
        return self.cache.last[self._index][:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (R, T, K, d) of a layer; returns all of them so far, (R, S, K, d)."""
        keys, values = self.cache.k[layer], self.cache.v[layer]
        keys[self._scatter, self.positions] = k
        values[self._scatter, self.positions] = v
        return keys[self._index, : self.end], values[self._index, : self.end]

    def mask(self, window: int) -> Tensor:
        """Which cached positions each new one sees, bool (R, T, S)."""
        if window not in self._masks:
            keys = torch.arange(self.end, device=self.positions.device)
            self._masks[window] = visible(self.positions, keys, window)
        return self._masks[window]

    def finish(self, embeddings: Tensor) -> None:
        """Count the new positions; embeddings (R, T, D) are the un-smeared ones."""
        self.cache.last[self._index] = embeddings[:, -1]
        for slot in self.slots:
            self.cache.lengths[slot] += embeddings.size(1)
