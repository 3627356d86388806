"""A dataset's documents by number, in an order shuffled over the whole dataset with bounded memory.

Each epoch permutes the row groups of all shards, groups them into windows of WINDOW_BYTES, and permutes the documents
within each window. So documents that are neighbours in a file (of one book, one site) end up far apart, and only one
window has to be in memory.
"""

import bisect
import itertools
import random
from array import array
from collections.abc import Iterator

import pyarrow as pa

from nanochat.data.shards import Group, TextReader

WINDOW_BYTES = 64 << 20  # of text; a dozen row groups of web text
WINDOW_DOCUMENTS = 1 << 16


class Windows:
    """The windows of the first `size` documents of a split, shuffled by `seed`; a shard must end there."""

    def __init__(self, reader: TextReader, size: int, seed: str):
        groups = [group for group, end in zip(reader.groups, reader.starts[1:], strict=True) if end <= size]
        random.Random(seed).shuffle(groups)
        self.seed = seed
        self.windows = list(_windows(groups))
        self.starts = [0, *itertools.accumulate(sum(group.rows for group in window) for window in self.windows)]
        assert self.starts[-1] == size

    def around(self, place: int) -> tuple[int, int]:
        """The first document of the window that document `place` of this order is in, and the first after it."""
        n = bisect.bisect_right(self.starts, place)
        return self.starts[n - 1], self.starts[n]


class Shuffled:
    """The documents of a split in the order of `windows`."""

    def __init__(self, reader: TextReader, windows: Windows):
        self.reader = reader
        self.seed, self.windows, self.starts = windows.seed, windows.windows, windows.starts
        self._latest = -1  # the window in memory
        self._texts: pa.ChunkedArray
        self._order: array

    def read(self, place: int, count: int) -> list[str]:
        """Documents number `place` to `place + count - 1` of this order; all must exist."""
        texts: list[str] = []
        for n in range(bisect.bisect_right(self.starts, place) - 1, len(self.windows)):
            start = place + len(texts) - self.starts[n]
            self._load(n)
            wanted = self._order[start : start + count - len(texts)]
            texts += [self._texts[row].as_py() or "" for row in wanted]  # foreign files hold nulls
            if len(texts) == count:
                break
        assert len(texts) == count
        return texts

    def _load(self, n: int) -> None:
        if n == self._latest:
            return
        self._latest, self._texts = -1, pa.chunked_array([], pa.string())  # free the old window first
        chunks = [chunk for texts in self.reader.load_all(self.windows[n]) for chunk in texts.chunks]
        if len({chunk.type for chunk in chunks}) > 1:  # shards of several programs
            chunks = [chunk.cast(pa.large_string()) for chunk in chunks]
        self._texts = pa.chunked_array(chunks)
        order = array("Q", range(len(self._texts)))
        random.Random(f"{self.seed}/{n}").shuffle(order)
        self._latest, self._order = n, order


def _windows(groups: list[Group]) -> Iterator[list[Group]]:
    """Consecutive groups, as many per window as fit, at least one."""
    window: list[Group] = []
    size = rows = 0
    for group in groups:
        size, rows = size + group.size, rows + group.rows
        if window and (size > WINDOW_BYTES or rows > WINDOW_DOCUMENTS):
            yield window
            window, size, rows = [], group.size, group.rows
        window.append(group)
    yield window
