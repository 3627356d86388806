"""Endless batches from documents, exactly resumable, the same whatever the number of ranks.

A source numbers its documents from 0 without end (the epochs follow each other). They are read in chunks; a chunk is
packed and shuffled by itself, so two numbers say where a stream is: the chunk's first document and the rows used. What
the source had to read by then stands beside them, for data may grow.
That makes a chunk the work of a background thread, or of one rank among many, who then hand each other their rows.
"""

import itertools
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
from nanochat.data.batch import Batch
from nanochat.data.order import Shuffled
from nanochat.data.packing import Document, pack
from nanochat.data.shards import TextReader
from nanochat.errors import UserError
from nanochat.runtime import PeerFailed, Runtime
from nanochat.tokenizer import Tokenizer

CHUNK = 1024  # documents packed together
AHEAD = 2  # chunks that a run has made in the background; of web text one is some million tokens, in 8 MB

Item = TypeVar("Item")


class Place(NamedTuple):
    """Where a document is: its epoch, its place in that epoch, and the number of documents of that epoch."""

    epoch: int
    offset: int
    size: int


class Source(Protocol):
    """Documents 0, 1, 2, ... without end; an epoch is some of them. `cut` says whether they may be cut to fill rows."""

    cut: bool

    def locate(self, position: int) -> Place: ...

    def read(self, position: int, count: int) -> list[Document]:
        """`count` documents from `position` on, fewer where some fit into no row."""
        ...

    def contents(self) -> list[dict]:
        """What it is made of, as nanochat/data/contents.py compares it."""
        ...

    def state(self) -> Any:
        """What beside the position determines the next documents; JSON, part of the cursor."""
        ...

    def resumed(self, state: Any, position: int) -> "Source":
        """The source as it was when it had that `state`, from `position` on. Raises UserError where it cannot be."""
        ...


class TextSource:
    """The texts of a dataset's shards, each with bos in front, every token of weight 1.

    With a `seed` they are in an order shuffled over all shards, anew each epoch; without, in the order of the files.
    What is appended to the dataset while an epoch lasts, over any number of runs, belongs to the next one: `sizes` has
    the first document of some epochs, and how many documents these and the following ones have.
    """

    cut = True

    def __init__(
        self, reader: TextReader, tokenizer: Tokenizer, seed: int | None = None,
        sizes: Sequence[Sequence[int]] | None = None,
    ):  # fmt: skip
        self.reader = reader
        self.tokenizer = tokenizer
        self.seed = seed
        self.sizes = [(0, reader.num_documents)] if sizes is None else [(start, size) for start, size in sizes]
        self._shuffled: tuple[int, Shuffled] | None = None  # the latest epoch and its order
        known = {0, *reader.ends}
        if odd := [size for _, size in self.sizes if size not in known]:
            raise UserError(
                f"{reader.folder} had {odd[0]} documents in its {reader.split} split when this run read them, and has "
                f"{reader.num_documents} in other shards now; put back the old shards, or start over with --resume "
                "never --overwrite"
            )

    def locate(self, position: int) -> Place:
        epoch = 0
        for (start, size), (end, _) in zip(self.sizes, [*self.sizes[1:], (position + 1, 0)], strict=True):
            if position < end:
                return Place(epoch + (position - start) // size, (position - start) % size, size)
            epoch += (end - start) // size
        raise AssertionError(position)

    def read(self, position: int, count: int) -> list[Document]:
        encoded = self.tokenizer.encode_arrays(self.texts(position, count), prepend=self.tokenizer.bos)
        return [(ids, np.ones_like(ids)) for ids in encoded]

    def texts(self, position: int, count: int) -> list[str]:
        """Documents as they are, over the ends of epochs."""
        texts: list[str] = []
        while len(texts) < count:
            epoch, offset, size = self.locate(position + len(texts))
            more = min(count - len(texts), size - offset)
            found = self._texts_of(epoch, offset, more, size)
            assert len(found) == more > 0  # so this ends
            texts += found
        return texts

    def _texts_of(self, epoch: int, offset: int, count: int, size: int) -> list[str]:
        if self.seed is None:
            return self.reader.read(offset, count)
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, Shuffled(self.reader, size, f"{self.seed}/{epoch}")
        return self._shuffled[1].read(offset, count)

    def contents(self) -> list[dict]:
        return [self.reader.contents()]

    def state(self) -> dict:
        return {"seed": self.seed, "sizes": [list(pair) for pair in self.sizes]}

    def resumed(self, state: Any, position: int, grows: bool = True) -> "TextSource":
        """Older checkpoints have the number of documents or nothing as the state; their text was in order."""
        if not isinstance(state, dict):
            state = {"seed": None, "sizes": [(0, self.reader.num_documents if state is None else state)]}
        then = TextSource(self.reader, self.tokenizer, state["seed"], state["sizes"])
        if not grows or then.sizes[-1][1] == self.reader.num_documents:
            return then
        _, offset, size = then.locate(position)
        appended = (position - offset + size, self.reader.num_documents)
        return TextSource(self.reader, self.tokenizer, then.seed, [*then.sizes, appended])


class ConversationSource:
    """Rendered conversations in an order shuffled anew for each epoch.

    masked: only what the assistant says has weight (SFT); otherwise every token has (mid-training).
    `order` names the shuffle, so that two stages do not meet the same conversations first.
    A conversation longer than max_tokens loses its last turns; one whose first exchange is longer is left out.
    """

    cut = False

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
            conversation = self.conversations[self._row(n)]
            rendered = chat.render(self.tokenizer, conversation, self.max_tokens)
            if rendered is not None:
                ids, mask = rendered
                documents.append((ids, mask if self.masked else [1] * len(ids)))
        return documents

    def locate(self, position: int) -> Place:
        return Place(*divmod(position, self.size), self.size)

    def contents(self) -> list[dict]:
        return contents.of(self.conversations, "conversations")

    def state(self) -> int:
        return self.size

    def resumed(self, state: Any, position: int) -> "ConversationSource":
        if state not in (None, self.size):
            raise UserError(_other_size(state, self.size))
        return self

    def _row(self, n: int) -> int:
        epoch, place, _ = self.locate(n)
        if self._shuffled[0] != epoch:
            order = list(range(self.size))
            random.Random(f"{self.order}/{epoch}").shuffle(order)
            self._shuffled = (epoch, order)
        return self._shuffled[1][place]


class MixedSource:
    """Several sources dealt by weight: of any number of documents each gives its share, to within one.

    Its parts stay as they were when a run began; what is appended to one of them later is for other runs.
    """

    def __init__(self, parts: Sequence[tuple[Source, float]]):
        self.weights = [weight for _, weight in parts if weight > 0]
        self.parts = [(source, weight / sum(self.weights)) for source, weight in parts if weight > 0]
        self.cut = all(source.cut for source, _ in self.parts)
        # An epoch is over when the source that lasts longest has been read once.
        self.size = 0
        for source, share in self.parts:
            size = source.locate(0).size
            self.size = max(self.size, next(n for n in itertools.count(int(size / share)) if int(n * share) >= size))

    def locate(self, position: int) -> Place:
        return Place(*divmod(position, self.size), self.size)

    def read(self, position: int, count: int) -> list[Document]:
        documents = []
        for source, share in self.parts:
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
                "this run mixed its data differently, or an older version of this program started it, whose place "
                "in a mixture was not saved; start over with --resume never --overwrite"
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
    rank: int = 0,
    world: int = 1,
    cursor: dict | None = None,
    seed: int = 0,
    ahead: int = 0,
    group: dist.ProcessGroup | None = None,
    pin: bool = False,
) -> Generator[Batch]:
    """Batches of `rows` rows of T tokens for this rank, without end, from `cursor` on.

    The ranks deal the rows of one global sequence between them, so W ranks see in one round what one rank sees in W.
    Where a `group` connects them, each makes one chunk in W, and they must ask for their batches in step; otherwise
    each makes all chunks and keeps its rows. `ahead` chunks are made in the background. `pin` puts the tensors where a
    GPU copies from while it computes. Raises UserError where no document fits into a row, where the source has
    another size than the cursor is of, what the source raises, and PeerFailed on the other ranks.
    """
    dealt = _dealt(source, rows, T, rank, world, cursor, seed, ahead, group)
    with closing(dealt):
        mine = torch.empty(0, 2, T + 1, dtype=torch.int32)
        for more, rounds in dealt:
            mine = torch.cat([mine, more])
            for progress, after in rounds:
                ids, weights = mine[:rows, 0].long(), mine[:rows, 1, 1:].float()
                mine = mine[rows:]
                inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
                batch = Batch(inputs, targets, weights.contiguous(), progress, after)
                yield batch.pinned() if pin else batch


def batches_for(
    rt: Runtime, source: Source, rows: int, T: int, cursor: dict | None = None, seed: int = 0
) -> Generator[Batch]:
    """`batches` for a rank of a run: made ahead, shared with the other ranks, and pinned for a GPU."""
    group = dist.group.WORLD if rt.world > 1 else None
    return batches(source, rows, T, rt.rank, rt.world, cursor, seed, AHEAD, group, rt.device.type == "cuda")


def ahead_of(items: Iterator[Item], count: int) -> Generator[Item]:
    """Endless items, of which a thread makes `count` before they are asked for; what it raises is raised here.

    A thread, not a process: it is gone with the run, however that ends, and shares what the sources hold. Reading
    parquet, tokenizing and packing arrays leave the interpreter free for most of the time (dev/bench_loader.py).
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
    source: Source, rows: int, T: int, rank: int, world: int, cursor: dict | None, seed: int, ahead: int,
    group: dist.ProcessGroup | None,
) -> Generator[tuple[Tensor, list[tuple[float, dict]]]]:  # fmt: skip
    """This rank's rows (n, 2, T+1) of the next chunks, and progress and cursor after each round that ends with them."""
    position = used = 0
    if cursor is not None:
        position, used = cursor["document"], cursor["row"]
        source = source.resumed(cursor.get("of"), position)
    state = source.state()
    turn, turns = (rank, world) if group is not None else (0, 1)
    chunks = _chunks(source, T, position, seed, turn, turns)
    start = fruitless = 0  # number of the next row since the cursor; documents without a row between them
    with closing(ahead_of(chunks, ahead) if ahead else chunks) as chunks:
        while True:
            chunk, totals = _next_chunk(chunks, group)
            rounds, receives, sends = [], [], []
            for each, total in enumerate(totals):
                epoch, offset, size = source.locate(position)
                count, used = _chunk_len(source, position), min(used, total)
                owners = np.arange(start, start + total - used) // rows % world
                if each == turn:
                    chunk, sends = chunk[used:][owners.argsort(kind="stable")], _counted(owners, world)
                receives.append(_counted(owners, world)[rank])
                for n in range(used + -(start + 1) % (rows * world), total, rows * world):
                    progress = (epoch * size + offset + count * (n + 1) / total) / size
                    rounds.append((progress, {"document": position, "row": n + 1, "of": state}))
                start, position, used = start + total - used, position + count, 0
                fruitless = 0 if total else fruitless + count
            if fruitless > size:
                raise UserError(
                    f"none of the {size} documents fits into {T} tokens; shorten them, or train a model whose context "
                    "is longer (--max_seq_len may rise as far as that)"
                )
            yield _swapped(torch.from_numpy(chunk), sends, receives, rank, group), rounds


def _chunks(source: Source, T: int, position: int, seed: int, turn: int, turns: int) -> Generator[np.ndarray]:
    """Every turns-th chunk from `position` on: (n, 2, T+1) int32, the ids and weights of n rows, shuffled."""
    for n in itertools.count():
        count = _chunk_len(source, position)
        if n % turns == turn:
            packed = pack(source.read(position, count), T + 1, source.cut)
            random.Random(f"{seed}/{position}").shuffle(packed)
            yield np.array([(row.ids, row.weights) for row in packed], np.int32).reshape(-1, 2, T + 1)
        position += count


def _chunk_len(source: Source, position: int) -> int:
    """The documents of the chunk at `position`. It ends with its epoch, which is whole so whatever came before."""
    place = source.locate(position)
    return min(CHUNK, place.size - place.offset)


def _counted(owners: np.ndarray, world: int) -> list[int]:
    return np.bincount(owners, minlength=world).tolist()


def _other_size(then: int, now: int) -> str:
    return (
        f"the data had {then} documents when this run read them and has {now} now, so its place in them "
        "is lost; put the old data back, or start over with --resume never --overwrite"
    )


def _next_chunk(chunks: Iterator[np.ndarray], group: dist.ProcessGroup | None) -> tuple[np.ndarray, list[int]]:
    """This rank's next chunk, and how many rows the chunks have that the ranks made meanwhile, its own among them."""
    try:
        chunk = next(chunks)
    except BaseException:
        if group is not None:
            _gathered(-1, group)
        raise
    if group is None:
        return chunk, [len(chunk)]
    totals = _gathered(len(chunk), group)
    if -1 in totals:
        raise PeerFailed(f"rank {totals.index(-1)} could not read its share of the data")
    return chunk, totals


def _gathered(number: int, group: dist.ProcessGroup) -> list[int]:
    """The numbers of all ranks."""
    numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size())]
    dist.all_gather(numbers, torch.tensor([number]), group)
    return [int(each) for each in numbers]


def _swapped(sent: Tensor, sends: list[int], receives: list[int], rank: int, group: dist.ProcessGroup | None) -> Tensor:
    """The rows that the ranks have for this one, for those that it has for them, `sends` to each, one after another."""
    if group is None:
        return sent.split(sends)[rank]
    received = sent.new_empty(sum(receives), *sent.shape[1:])
    dist.all_to_all_single(received, sent, receives, sends, group)
    return received


def one_pass(stream: Iterator[Batch], tokens: int, world: int = 1) -> Iterator[Batch]:
    """The batches of about `tokens` tokens over all ranks, or of one epoch where that is shorter; at least one."""
    seen = 0
    for batch in stream:
        yield batch
        seen += batch.inputs.numel() * world
        if seen >= tokens or batch.progress >= 1:
            return
