"""Forward passes of fixed shapes over a paged cache, recorded once and replayed: how the Engine works on a GPU.

Started one by one, the kernels of a decoding step take the host longer than the GPU, so each shape is recorded as a
CUDA graph when it first occurs. A pass gets one upload, its ids, slots, positions and settings in one buffer, and
decoding gives one download back, the sampled tokens. There are few shapes: decoding fills up to the next of `buckets`
rows, and reading fills up to the next of `pieces` positions, of all prompts together. What fills up is in the cache's
scratch slot.

A reply is the same to the bit whoever shares the batch as long as its passes have the same shapes: every row is
computed by itself, attention is not split by length (num_splits=1), and products of one shape add up in one order.
Another bucket may round differently; an Engine with `buckets=[slots]` has one, at the price of full passes for a lone
request. On other devices than CUDA nothing is recorded, the same functions run.

Shapes: B rows that decode, N positions that are read, R rows they belong to, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from nanochat.attention import PAGE
from nanochat.engine.sampling import FIELDS, Kind, Settings, draw
from nanochat.gpt import GPT
from nanochat.paged_cache import PagedCache, PagedRows

SMALLEST_PIECE = 64  # positions; reading fewer takes a GPU as long
MOST_COMPILED = 256
NEWEST = -1  # instead of an id: the one that was sampled last in this slot, which the host need not know yet
Entry = tuple[int, Sequence[int]]  # a slot and the ids that continue it


class Drawn:
    """Tokens on their way from the device."""

    def __init__(self, tokens: Tensor, rows: int, later: bool):
        """tokens (2, B) int32 on the device: ids, and whether the logits were finite. The first `rows` count.

        later: the copy need not be complete before `read`.
        """
        self._rows = rows
        self._arrived: torch.cuda.Event | None = None
        if later:
            self._copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._copy.copy_(tokens, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tokens.device))
        else:
            self._copy = tokens.to("cpu", copy=True)

    def read(self) -> tuple[list[int], list[bool]]:
        """Wait for them: the id of each row, and whether all its logits were finite."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens, finite = self._copy[:, : self._rows].tolist()
        return tokens, [each > 0 for each in finite]


class _Buffer:
    """Numbers that the host fills and the device reads, with one copy: named parts of int32 ones, then float32 ones.

    There are two on the host, because a copy of the last may be under way while the next is filled.
    """

    def __init__(self, device: torch.device, pinned: bool, floats: int, **sizes: int):
        self._ints = sum(sizes.values())
        self._hosts = [torch.zeros(self._ints + floats, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)] if pinned else []
        self._here = torch.zeros(self._ints + floats, dtype=torch.int32, device=device)
        self.floats = self._here[self._ints :].view(torch.float32)
        self._parts = dict(zip(sizes, self._here[: self._ints].split(list(sizes.values())), strict=True))

    def __getattr__(self, name: str) -> Tensor:
        return self._parts[name]

    def fill(self, ints: list[int], floats: list[float]) -> None:
        """Copy what all parts hold, in their order, to the device."""
        self._hosts.reverse()
        self._copied.reverse()
        host = self._hosts[0]
        for event in self._copied[:1]:
            event.synchronize()  # which returns at once if it was never recorded
        host[: self._ints] = torch.tensor(ints, dtype=torch.int32)
        if floats:
            host[self._ints :] = torch.tensor(floats, dtype=torch.float32).view(torch.int32)
        self._here.copy_(host, non_blocking=True)
        for event in self._copied[:1]:
            event.record(torch.cuda.current_stream(self._here.device))


class Passes:
    """The passes of one model over one cache, each made when its shape first occurs."""

    def __init__(
        self, model: GPT, cache: PagedCache, chunk: int, buckets: Sequence[int] = (), compile: str = "",
        record: bool = True,
    ) -> None:  # fmt: skip
        """chunk: at most this many positions are read at once. buckets: numbers of rows that decode together, the last
        the number of slots; by default powers of two, or of eight where they are compiled. compile: a backend of
        torch.compile for decoding, "inductor" on a GPU, which makes few large kernels of many small ones and takes
        its time for each bucket; "": none. record: as graphs, on CUDA.
        """
        self.model = model
        self.cache = cache
        self.buckets = list(buckets) or _ladder(1, 8 if compile else 2, cache.slots)
        self._compiles = bool(compile)
        self._forward = self._plain_forward
        if compile:
            self._forward = torch.compile(self._plain_forward, backend=compile, dynamic=False, fullgraph=True)
        self.pieces = _ladder(min(SMALLEST_PIECE, chunk), 4, chunk)
        self._device = cache.last.device
        self._graphs = torch.cuda.graph_pool_handle() if record and self._device.type == "cuda" else None
        # Results are kept outside of the memory that graphs share.
        self._logits = torch.empty(cache.slots, model.config.vocab_size, device=self._device)
        self._drawn = torch.zeros(2, cache.slots, dtype=torch.int32, device=self._device)
        self._newest = torch.zeros(cache.slots + 1, dtype=torch.int32, device=self._device)  # by slot
        self._made: dict[object, tuple[_Buffer, Callable[[], None]]] = {}

    def __str__(self) -> str:
        recorded = "recorded" if self._graphs is not None else "unrecorded"
        return f"{recorded} {'compiled ' if self._compiles else ''}passes over pages of {PAGE} positions"

    def read(self, entries: Sequence[Entry]) -> Tensor:
        """Read on in R slots, N ids in all, in one pass; the logits (R, V) float32 after the last of each slot.

        The caller counts up the cache's lengths. Raises ValueError if a slot has no room.
        """
        scratch = R = self.cache.slots
        size = _next(self.pieces, sum(len(ids) for _, ids in entries))
        ids: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        begins: list[int] = []
        rows, seen, ends, first = [scratch] * R, [1] * R, [0] * R, [0]
        for row, (slot, new) in enumerate(entries):
            start, n = self.cache.room(slot, len(new)), len(new)
            ids += new
            slots += [slot] * n
            positions += range(start, start + n)
            begins += [1] + [0] * (n - 1)
            rows[row], seen[row], ends[row] = slot, start + n, len(ids) - 1
            first.append(len(ids))
        first += [len(ids)] * (R + 1 - len(first))
        padding = [0] * (size - len(ids))
        slots += [scratch] * len(padding)
        buffer, run = self._made.get(size) or self._make_reading(size)
        buffer.fill([*ids, *padding, *slots, *positions, *padding, *begins, *padding, *rows, *seen, *ends, *first], [])
        run()
        return self._logits[: len(entries)].clone()

    def decode(self, entries: Sequence[tuple[int, int]]) -> Tensor:
        """Read one id in each of B slots; the logits (B, V) float32 after it. Otherwise as `read`."""
        self._decode(entries, None)
        return self._logits[: len(entries)].clone()

    def decode_and_draw(self, entries: Sequence[tuple[int, int]], settings: Settings) -> Drawn:
        """Read one id in each of B slots and sample what follows. An id may be NEWEST. Otherwise as `read`."""
        self._decode(entries, settings)
        return Drawn(self._drawn, len(entries), self._graphs is not None)

    def _decode(self, entries: Sequence[tuple[int, int]], settings: Settings | None) -> None:
        B = _next(self.buckets, len(entries))
        fill = [0] * (B - len(entries))
        ints = [id for _, id in entries] + fill
        ints += [slot for slot, _ in entries] + [self.cache.slots] * len(fill)
        ints += [self.cache.room(slot, 1) for slot, _ in entries] + fill
        kind = settings.kind if settings else None
        buffer, run = self._made.get((B, kind)) or self._make_decoding(B, kind)
        drawing = kind is not None and not kind.greedy
        buffer.fill(ints, [x for column in settings.columns for x in [*column, *fill]] if settings and drawing else [])
        run()

    def _plain_forward(self, ids: Tensor, rows: PagedRows) -> Tensor:
        """ids (N,) int64 -> the logits (R, V) float32 after each row's last."""
        return self.model(ids[:, None], cache=rows, last_only=True)[:, 0]

    def _make_reading(self, N: int) -> tuple[_Buffer, Callable[[], None]]:
        R = self.cache.slots
        sizes = {"ids": N, "slots": N, "positions": N, "begins": N, "rows": R, "seen": R, "ends": R, "first": R + 1}
        b = _Buffer(self._device, self._graphs is not None, 0, **sizes)
        rows = PagedRows(self.cache, b.slots, b.positions, b.rows, b.seen, b.first, N, b.begins, b.ends)

        def read() -> None:
            self._logits.copy_(self._plain_forward(b.ids.long(), rows))

        padding = [0] * N + [R] * N + [0] * 2 * N + [R] * R + [1] * R + [0] * R + [0] * (R + 1)
        return self._record(N, b, read, padding)

    def _make_decoding(self, B: int, kind: Kind | None) -> tuple[_Buffer, Callable[[], None]]:
        drawing = kind is not None and not kind.greedy
        b = _Buffer(self._device, self._graphs is not None, FIELDS * B if drawing else 0, ids=B, slots=B, positions=B)
        first = torch.arange(B + 1, dtype=torch.int32, device=self._device)
        seen = torch.zeros(B, dtype=torch.int32, device=self._device)
        rows = PagedRows(self.cache, b.slots, b.positions, b.slots, seen, first, 1)

        def decode() -> None:
            slots = b.slots.long()
            torch.add(b.positions, 1, out=seen)
            ids = torch.where(b.ids == NEWEST, self._newest[slots], b.ids).long()
            logits = self._forward(ids, rows)
            if kind is None:
                self._logits[:B] = logits
                return
            self._drawn[1, :B] = logits.isfinite().all(dim=-1)
            tokens = draw(logits, b.floats.view(-1, B), kind).int()
            self._drawn[0, :B] = tokens
            self._newest[slots] = tokens

        return self._record((B, kind), b, decode, [0] * B + [self.cache.slots] * B + [0] * B)

    def _record(
        self, name: object, buffer: _Buffer, function: Callable[[], None], padding: list[int]
    ) -> tuple[_Buffer, Callable[[], None]]:
        """Keep a pass by its name, on CUDA as a graph. `padding` fills the buffer while it is recorded."""
        run = function
        if self._graphs is not None:
            buffer.fill(padding, [])
            # Every Engine of this process compiles its buckets of the same function.
            with torch._dynamo.config.patch(recompile_limit=MOST_COMPILED) if self._compiles else nullcontext():
                run = _graph(function, self._device, self._graphs)
        self._made[name] = buffer, run
        return buffer, run


def _graph(function: Callable[[], None], device: torch.device, pool: Any) -> Callable[[], None]:
    """Run the function, which sets up the libraries it uses, then record it.

    Graphs share the memory of `pool`, because one runs at a time and none keeps anything there.
    """
    with torch.cuda.device(device):
        beside = torch.cuda.Stream(device)  # torch's own for recording is on whichever GPU recorded first
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Engines on other GPUs of this process go on with their work meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=beside, capture_error_mode="thread_local"):
            function()
    return graph.replay


def _ladder(first: int, factor: int, last: int) -> list[int]:
    """first, first * factor, ... up to last, which is always the end."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= factor
    return [*sizes, last]


def _next(sizes: list[int], n: int) -> int:
    """The smallest size that n fits into."""
    return next(size for size in sizes if size >= n)
