"""Endless batches from documents: exactly resumable, and the same for any number of ranks.

Three ideas make that work.

1. A source numbers its documents 0, 1, 2, ... without end; epoch follows epoch. Which document has a number depends on
   the data and a seed alone, so a number is all that has to be saved to know what has been read.
2. Documents are read in chunks of CHUNK. A chunk is packed into rows (nanochat/data/packing.py) and its rows are
   shuffled, independently of all other chunks. So a place in the stream is two numbers, the chunk's first document and
   the rows used of it; a chunk can be made by a background thread, or by one rank among many, and resuming means making
   one chunk again and skipping the used rows. This pair, with the source's `state`, is the `cursor` of a batch.
3. The rows of all chunks form one global sequence. Ranks deal it out in turn, `rows` rows each, so that W ranks see in
   one round what a single rank sees in W batches: training continues with the same data on another number of GPUs.

Shuffled text is read in windows (nanochat/data/order.py) of about 14 chunks. One rank makes all chunks of a window, and
the windows go round, so that each part of the data is read by one rank only. No chunk spans two windows.
"""

import functools
import itertools
import math
import random
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import chat
from nanochat.data import contents
from nanochat.data.batch import Batch, trained_positions
from nanochat.data.order import Shuffled, Windows
from nanochat.data.packing import Document, pack
from nanochat.data.shards import TextReader
from nanochat.errors import UserError
from nanochat.peers import PeerFailed
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer

CHUNK = 1024  # documents packed together
AHEAD = 2  # chunks made in the background; a chunk of web text has about a million tokens, in 8 MB

Item = TypeVar("Item")


class Place(NamedTuple):
    """A document's epoch, its number within that epoch, and how many documents that epoch has."""

    epoch: int
    offset: int
    size: int


class Source(Protocol):
    """Documents 0, 1, 2, ... without end. `cut`: whether they may be cut to fill rows; `most`: as many in a row.

    `aligned`: whether a chunk ends where a `span` does.
    """

    cut: bool
    most: int | None
    aligned: bool

    def locate(self, position: int) -> Place: ...

    def span(self, position: int) -> tuple[int, int]:
        """The first of the documents that are read together with document `position`, and the first after them."""
        ...

    def read(self, position: int, count: int) -> list[Document]:
        """`count` documents from `position` on; those that fit into no row are left out."""
        ...

    def contents(self) -> list[dict]:
        """What the data is, as nanochat/data/contents.py compares it."""
        ...

    def state(self) -> Any:
        """What besides the position determines the next documents; JSON, part of the cursor."""
        ...

    def resumed(self, state: Any, position: int) -> "Source":
        """The source as it was in an earlier `state`, from `position` on. Raises UserError if the data changed."""
        ...


class TextSource:
    """The texts of a dataset's shards, each with bos in front; every token has weight 1.

    With a `seed` each epoch has its own order, shuffled over all shards; without, documents come in the order of the
    files. Shards that are appended to the dataset count from the next epoch on, so that the current one stays as it
    was. `sizes` records that as pairs: the first document of an epoch, and the documents per epoch from there on.
    Runs that older versions began are not `aligned`.
    """

    cut = True
    most: int | None = None

    def __init__(
        self, reader: TextReader, tokenizer: Tokenizer, seed: int | None = None,
        sizes: Sequence[Sequence[int]] | None = None, aligned: bool = True,
    ):  # fmt: skip
        self.reader = reader
        self.tokenizer = tokenizer
        self.seed = seed
        self.aligned = aligned and seed is not None
        self._windows = functools.lru_cache(4)(lambda epoch, size: Windows(reader, size, f"{seed}/{epoch}"))
        self.sizes = [(0, reader.num_documents)] if sizes is None else [(start, size) for start, size in sizes]
        self._shuffled: tuple[int, Shuffled] | None = None  # the latest epoch and its order
        known = {0, *reader.ends}  # an epoch ends where a shard did
        if odd := [size for _, size in self.sizes if size not in known]:
            raise UserError(
                f"{reader.folder} had {odd[0]} documents in its {reader.split} split when this run read them, and has "
                f"{reader.num_documents} in other shards now; put back the old shards, or start over with --resume "
                "never --overwrite"
            )

    def locate(self, position: int) -> Place:
        # Walk over the spans of epochs of equal size to the one that `position` is in.
        epoch = 0
        for (start, size), (end, _) in zip(self.sizes, [*self.sizes[1:], (position + 1, 0)], strict=True):
            if position < end:
                return Place(epoch + (position - start) // size, (position - start) % size, size)
            epoch += (end - start) // size
        raise AssertionError(position)

    def span(self, position: int) -> tuple[int, int]:
        if self.seed is None:
            return position, position + 1
        epoch, offset, size = self.locate(position)
        first, end = self._windows(epoch, size).around(offset)
        return position - offset + first, position - offset + end

    def read(self, position: int, count: int) -> list[Document]:
        encoded = self.tokenizer.encode_arrays(self.texts(position, count), prepend=self.tokenizer.bos)
        return [(ids, np.ones_like(ids)) for ids in encoded]

    def texts(self, position: int, count: int) -> list[str]:
        """The untokenized documents, across the ends of epochs."""
        texts: list[str] = []
        while len(texts) < count:
            epoch, offset, size = self.locate(position + len(texts))
            texts += self._order(epoch, size).read(offset, min(count - len(texts), size - offset))
        return texts

    def _order(self, epoch: int, size: int) -> TextReader | Shuffled:
        if self.seed is None:
            return self.reader
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, Shuffled(self.reader, self._windows(epoch, size))
        return self._shuffled[1]

    def contents(self) -> list[dict]:
        return [self.reader.contents()]

    def state(self) -> dict:
        state = {"seed": self.seed, "sizes": [list(pair) for pair in self.sizes]}
        return {**state, "aligned": True} if self.aligned else state

    def resumed(self, state: Any, position: int, grows: bool = True) -> "TextSource":
        """`grows`: shards appended since then are read from the next epoch on.

        Older checkpoints have the number of documents or nothing as their state; their text was not shuffled.
        """
        if not isinstance(state, dict):
            state = {"seed": None, "sizes": [(0, self.reader.num_documents if state is None else state)]}
        aligned = state.get("aligned", False)
        then = TextSource(self.reader, self.tokenizer, state["seed"], state["sizes"], aligned)
        if not grows or then.sizes[-1][1] == self.reader.num_documents:
            return then
        _, offset, size = then.locate(position)
        appended = (position - offset + size, self.reader.num_documents)
        return TextSource(self.reader, self.tokenizer, then.seed, [*then.sizes, appended], aligned)


class ConversationSource:
    """Rendered conversations, in an order shuffled anew for each epoch.

    masked: only the assistant's tokens have weight 1 (SFT); otherwise all tokens do (mid-training).
    `order` seeds the shuffle, so that two stages do not begin with the same conversations.
    A conversation longer than max_tokens loses its last turns; one whose first exchange is longer is left out.
    """

    cut = False
    most: int | None = None
    aligned = False

    def __init__(
        self, conversations: Sequence[dict], tokenizer: Tokenizer, max_tokens: int, masked: bool, order: str = ""
    ):
        if not len(conversations):
            raise UserError("there are no conversations to train on; name a file of them with --data_path")
        self.conversations = conversations
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.masked = masked
        self.size = len(conversations)
        self.order = order
        self._shuffled: tuple[int, list[int]] = (-1, [])  # the latest epoch and its order

    def read(self, position: int, count: int) -> list[Document]:
        documents = []
        for n in range(position, position + count):
            epoch, place, _ = self.locate(n)
            if self._shuffled[0] != epoch:
                order = list(range(self.size))
                random.Random(f"{self.order}/{epoch}").shuffle(order)
                self._shuffled = (epoch, order)
            document = self.document(self._shuffled[1][place])
            if document is not None:
                documents.append(document)
        return documents

    def document(self, number: int) -> Document | None:
        """Conversation `number` as ids and weights; None if it is too long."""
        rendered = chat.render(self.tokenizer, self.conversations[number], self.max_tokens)
        if rendered is None:
            return None
        ids, mask = rendered
        return ids, mask if self.masked else [1] * len(ids)

    def locate(self, position: int) -> Place:
        return Place(*divmod(position, self.size), self.size)

    def span(self, position: int) -> tuple[int, int]:
        return position, position + 1

    def contents(self) -> list[dict]:
        return contents.of(self.conversations, "conversations")

    def state(self) -> int:
        return self.size

    def resumed(self, state: Any, position: int) -> "ConversationSource":
        if state not in (None, self.size):
            raise UserError(
                f"the data had {state} documents when this run read them and has {self.size} now, so its place in them "
                "is lost; put the old data back, or start over with --resume never --overwrite"
            )
        return self


class MixedSource:
    """Several sources mixed by weight: in the first n documents each has its share of n, to within one.

    Its parts stay as they were when the run started; shards appended later are not read by this run.
    """

    def __init__(self, parts: Sequence[tuple[Source, float]]):
        self.weights = [weight for _, weight in parts if weight > 0]
        self.parts = [(source, weight / sum(self.weights)) for source, weight in parts if weight > 0]
        self.cut = all(source.cut for source, _ in self.parts)
        self.most: int | None = None
        self.aligned = False
        # An epoch ends when every source has been read at least once.
        self.size = 0
        for source, share in self.parts:
            size = source.locate(0).size
            self.size = max(self.size, next(n for n in itertools.count(int(size / share)) if int(n * share) >= size))

    def locate(self, position: int) -> Place:
        return Place(*divmod(position, self.size), self.size)

    def span(self, position: int) -> tuple[int, int]:
        """That of the source whose spans are the shortest here but longer than a document: most bytes are its."""
        spans = [(position, position + 1)]
        for source, share in self.parts:
            first, end = source.span(int(position * share))
            if end - first > 1:
                spans.append((math.ceil(first / share), math.ceil(end / share)))
        return min(spans[1:] or spans, key=lambda span: span[1] - span[0])

    def read(self, position: int, count: int) -> list[Document]:
        documents = []
        for source, share in self.parts:
            # Document n of the mixture advances a source where int(n * share) steps up.
            start, end = int(position * share), int((position + count) * share)
            documents += source.read(start, end - start)
        return documents

    def contents(self) -> list[dict]:
        return [entry for source, _ in self.parts for entry in source.contents()]

    def state(self) -> list:
        return [[source.state(), weight] for (source, _), weight in zip(self.parts, self.weights, strict=True)]

    def resumed(self, state: Any, position: int) -> "MixedSource":
        if not isinstance(state, list) or len(state) != len(self.parts):
            raise UserError(
                "this run mixed its data differently, or was started by an older version, which did not save its place "
                "in a mixture; start over with --resume never --overwrite"
            )
        then = []
        for (source, _), (was, weight) in zip(self.parts, state, strict=True):
            part = source.resumed(was, 0, grows=False) if isinstance(source, TextSource) else source.resumed(was, 0)
            then.append((part, weight))
        return MixedSource(then)


def batches(
    source: Source,
    rows: int,
    T: int,
    cursor: dict | None = None,
    seed: int = 0,
    ahead: int = 0,
    group: dist.ProcessGroup | None = None,
    pin: bool = False,
) -> Generator[Batch]:
    """Batches of `rows` rows of T tokens for this rank, without end, from `cursor` on.

    The W ranks of a `group` take turns in making chunks and exchange rows, so all must ask for their batches in step.
    `ahead` chunks are made in the background, or on several ranks those of a whole window if these are more, 128 MB of
    web text. `pin` puts the tensors into pinned memory. Raises UserError if no document fits into a row or the source
    does not match the cursor, what the source raises, and PeerFailed on the other ranks.
    """
    dealt = _dealt(source, rows, T, cursor, seed, ahead, group)
    with closing(dealt):
        mine = torch.empty(0, 2, T + 1, dtype=torch.int32)  # rows not used yet, (ids, weights)
        for more, rounds in dealt:
            mine = torch.cat([mine, more])
            for progress, after in rounds:
                batch = batch_of(mine[:rows], progress, after)
                mine = mine[rows:]
                yield batch.pinned() if pin else batch


def batch_of(rows: Tensor, progress: float = 0.0, cursor: dict | None = None) -> Batch:
    """A batch of packed rows (B, 2, T+1), their ids and weights."""
    # The target of a token is the next one, and its weight is that of the target.
    ids, weights = rows[:, 0].long(), rows[:, 1, 1:].float().contiguous()
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return Batch(inputs, targets, weights, progress, cursor or {}, trained=trained_positions(weights))


def batches_for(
    rt: Runtime, source: Source, rows: int, T: int, cursor: dict | None = None, seed: int = 0
) -> Generator[Batch]:
    """`batches` for a rank of a run: made ahead, exchanged with the other ranks, and pinned for a GPU."""
    group = dist.group.WORLD if rt.world > 1 else None
    return batches(source, rows, T, cursor, seed, AHEAD, group, rt.device.type == "cuda")


def ahead_of(items: Iterator[Item], count: int) -> Generator[Item]:
    """An endless iterator's items, `count` of them made in advance by a thread; its errors are raised here.

    A thread, not a process: it ends with the run, however that ends, and shares the sources' memory. Reading parquet,
    tokenizing and packing release the interpreter lock most of the time (dev/bench_loader.py).
    """
    worker = ThreadPoolExecutor(1, "ahead")
    try:
        made = deque(worker.submit(next, items) for _ in range(count))
        while True:
            oldest = made.popleft()
            made.append(worker.submit(next, items))
            yield oldest.result()
    finally:
        worker.shutdown(cancel_futures=True)


def _dealt(
    source: Source, rows: int, T: int, cursor: dict | None, seed: int, ahead: int, group: dist.ProcessGroup | None
) -> Generator[tuple[Tensor, list[tuple[float, dict]]]]:
    """This rank's rows (n, 2, T+1) of the next chunks, and progress and cursor after each round that they complete.

    A round is one batch on every rank: rows * world rows of the global sequence.
    """
    position = used = 0
    if cursor is not None:
        position, used = cursor["document"], cursor["row"]
        source = source.resumed(cursor.get("of"), position)
    state = source.state()
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    if ahead and world > 1:  # while the others' windows are used, this rank makes all of its next one
        first, end = source.span(position)
        ahead = max(ahead, -(-(end - first) // CHUNK) + 1)
    chunks, plan = _chunks(source, T, position, seed, rank, world), _plan(source, position, world)
    start = 0  # number of the next row, counted from the cursor
    fruitless = 0  # documents in a row that fitted into no row
    with closing(ahead_of(chunks, ahead) if ahead else chunks) as chunks:
        while True:
            turn = list(itertools.islice(plan, world))
            made, totals = _next_chunks(chunks, turn, group)
            rounds, owners, unused = [], [], []
            for chunk, total in zip(turn, totals, strict=True):
                epoch, offset, size = source.locate(chunk.position)
                used = min(used, total)
                # Rows used before the cursor are gone; the others are dealt to the ranks, `rows` at a time.
                owners.append(np.arange(start, start + total - used) // rows % world)
                if chunk.maker == rank:
                    unused.append(made.popleft()[used:])
                # The rows n of this chunk with which a round is complete, and with it a batch on every rank.
                for n in range(used + -(start + 1) % (rows * world), total, rows * world):
                    progress = (epoch * size + offset + chunk.count * (n + 1) / total) / size
                    rounds.append((progress, {"document": chunk.position, "row": n + 1, "of": state}))
                start, used = start + total - used, 0
                fruitless = 0 if total else fruitless + chunk.count
            if fruitless > size:
                raise UserError(
                    f"none of the {size} documents fits into {T} tokens; shorten them, or train a model whose context "
                    "is longer (--max_seq_len may rise as far as that)"
                )
            yield _swapped(unused, [chunk.maker for chunk in turn], owners, T, group), rounds


class Chunk(NamedTuple):
    """`count` documents from `position` on, which the rank `maker` packs into rows."""

    position: int
    count: int
    maker: int


def _plan(source: Source, position: int, world: int) -> Generator[Chunk]:
    """The chunks from `position` on. Those that begin in one span of the source have one maker; ranks take turns."""
    turn, latest = -1, (-1, -1)
    while True:
        span, place = source.span(position), source.locate(position)
        if span != latest:
            turn, latest = turn + 1, span
        # No chunk spans two epochs, so epochs do not affect each other.
        count = min(CHUNK, place.size - place.offset, span[1] - position if source.aligned else CHUNK)
        yield Chunk(position, count, turn % world)
        position += count


def _chunks(source: Source, T: int, position: int, seed: int, rank: int, world: int) -> Generator[np.ndarray]:
    """A rank's chunks from `position` on: the ids and weights of n shuffled rows, (n, 2, T+1) int32."""
    for chunk in _plan(source, position, world):
        if chunk.maker == rank:
            packed = pack(source.read(chunk.position, chunk.count), T + 1, source.cut, source.most)
            random.Random(f"{seed}/{chunk.position}").shuffle(packed)
            yield np.array(packed, np.int32).reshape(-1, 2, T + 1)


def _next_chunks(
    chunks: Iterator[np.ndarray], turn: Sequence[Chunk], group: dist.ProcessGroup | None
) -> tuple[deque[np.ndarray], list[int]]:
    """Those chunks of a turn that this rank makes, and the number of rows of every chunk of the turn."""
    if group is None:
        made = deque(itertools.islice(chunks, len(turn)))
        return made, [len(chunk) for chunk in made]
    rank, world = group.rank(), group.size()
    totals, failed = [0] * world, [0] * world
    made: deque[np.ndarray] = deque()
    try:
        for n, chunk in enumerate(turn):
            if chunk.maker == rank:
                made.append(next(chunks))
                totals[n] = len(made[-1])
    except BaseException:
        failed[rank] = 1
        _summed([*totals, *failed], group)  # the others wait for this rank's numbers
        raise
    numbers = _summed([*totals, *failed], group)
    if 1 in numbers[world:]:
        raise PeerFailed(f"rank {numbers[world:].index(1)} could not read its share of the data")
    return made, numbers[:world]


def _summed(numbers: list[int], group: dist.ProcessGroup) -> list[int]:
    """The sums over all ranks."""
    sums = torch.tensor(numbers)
    dist.all_reduce(sums, group=group)
    return sums.tolist()


def _swapped(
    made: Sequence[np.ndarray], makers: list[int], owners: list[np.ndarray], T: int, group: dist.ProcessGroup | None
) -> Tensor:
    """This rank's rows (n, 2, T+1) of a turn's chunks, in order, exchanged for those it `made` of them for others.

    `makers` has the rank that made each chunk, `owners` the ranks that its rows are for.
    """
    if group is None:
        return torch.from_numpy(np.concatenate(made))
    rank, world = group.rank(), group.size()
    counts = np.array([np.bincount(each, minlength=world) for each in owners])  # of rows, by chunk and owner
    made_by = [[n for n, maker in enumerate(makers) if maker == each] for each in range(world)]
    mine = made_by[rank]
    sends = counts[mine].sum(0).tolist()
    receives = [int(counts[chunks, rank].sum()) for chunks in made_by]
    sent = np.concatenate([np.empty((0, 2, T + 1), np.int32), *made])
    to = np.concatenate([np.empty(0, int), *(owners[n] for n in mine)])
    sent = torch.from_numpy(sent[to.argsort(kind="stable")])
    received = sent.new_empty(sum(receives), *sent.shape[1:])
    dist.all_to_all_single(received, sent, receives, sends, group)
    came = list(itertools.chain.from_iterable(made_by))  # their order now; that of the turn is wanted
    parts = dict(zip(came, received.split([int(counts[n, rank]) for n in came]), strict=True))
    return torch.cat([parts[n] for n in range(len(makers))])


def one_pass(stream: Iterator[Batch], tokens: int, world: int = 1) -> Iterator[Batch]:
    """The first batches of a stream: about `tokens` tokens over all ranks, at most one epoch, at least one batch."""
    seen = 0
    for batch in stream:
        yield batch
        seen += batch.inputs.numel() * world
        if seen >= tokens or batch.progress >= 1:
            return
