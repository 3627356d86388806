"""Endless batches from documents, exactly resumable, the same whatever the number of ranks.

A source numbers its documents from 0 without end (the epochs follow each other). They are read in chunks; a chunk is
packed and shuffled by itself, so two numbers say where a stream is: the chunk's first document and the rows used.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from nanochat import chat
from nanochat.config import UserError
from nanochat.data.batch import Batch
from nanochat.data.packing import Document, Row, pack
from nanochat.data.shards import TextReader
from nanochat.tokenizer import Tokenizer

CHUNK = 1024  # documents packed together


class Source(Protocol):
    """Documents 0, 1, 2, ...; `size` of them make an epoch. `cut` says whether they may be cut to fill rows."""

    size: int
    cut: bool

    def read(self, position: int, count: int) -> list[Document]: ...


class TextSource:
    """The texts of a dataset's shards, each with bos in front, every token of weight 1."""

    cut = True

    def __init__(self, reader: TextReader, tokenizer: Tokenizer):
        self.reader = reader
        self.tokenizer = tokenizer
        self.size = reader.num_documents

    def read(self, position: int, count: int) -> list[Document]:
        texts: list[str] = []
        while len(texts) < count:
            start = (position + len(texts)) % self.size
            texts += self.reader.read(start, min(count - len(texts), self.size - start))
        return [(ids, [1] * len(ids)) for ids in self.tokenizer.encode_batch(texts, prepend=self.tokenizer.bos)]


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

    def _row(self, n: int) -> int:
        epoch, place = divmod(n, self.size)
        if self._shuffled[0] != epoch:
            order = list(range(self.size))
            random.Random(f"{self.order}/{epoch}").shuffle(order)
            self._shuffled = (epoch, order)
        return self._shuffled[1][place]


class MixedSource:
    """Several sources dealt by weight: of any number of documents each gives its share, to within one."""

    def __init__(self, parts: Sequence[tuple[Source, float]]):
        total = sum(weight for _, weight in parts)
        self.parts = [(source, weight / total) for source, weight in parts if weight > 0]
        self.cut = False
        # An epoch is over when the source that lasts longest has been read once.
        self.size = max(round(source.size / share) for source, share in self.parts)

    def read(self, position: int, count: int) -> list[Document]:
        documents = []
        for source, share in self.parts:
            start, end = int(position * share), int((position + count) * share)
            documents += source.read(start, end - start)
        return documents


def batches(
    source: Source,
    rows: int,
    T: int,
    rank: int = 0,
    world: int = 1,
    cursor: dict | None = None,
    seed: int = 0,
) -> Iterator[Batch]:
    """Batches of `rows` rows of T tokens for this rank, without end, from `cursor` on.

    The ranks deal the rows of one global sequence between them, so W ranks see in one round what one rank sees in W.
    """
    cursor = cursor or {"document": 0, "row": 0}
    position, used = cursor["document"], cursor["row"]
    waiting: list[tuple[Row, float, dict]] = []
    fruitless = 0
    while True:
        while len(waiting) < rows * world:
            # A chunk ends with its epoch, so that an epoch is whole whatever came before.
            count = min(CHUNK, source.size - position % source.size)
            packed = pack(source.read(position, count), T + 1, source.cut)
            random.Random(f"{seed}/{position}").shuffle(packed)
            fruitless = 0 if packed else fruitless + count
            if fruitless > source.size:
                raise UserError(f"none of the {source.size} documents fits into {T} tokens; raise --max_seq_len")
            for n in range(used, len(packed)):
                after = {"document": position, "row": n + 1}
                waiting.append((packed[n], (position + count * (n + 1) / len(packed)) / source.size, after))
            position, used = position + count, 0
        mine = [row for row, _, _ in waiting[rank * rows : (rank + 1) * rows]]
        _, progress, after = waiting[rows * world - 1]
        del waiting[: rows * world]
        ids = torch.tensor([row.ids for row in mine])
        weights = torch.tensor([row.weights for row in mine], dtype=torch.float32)
        yield Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous(), progress, after)


def one_pass(stream: Iterator[Batch], tokens: int, world: int = 1) -> Iterator[Batch]:
    """The batches of about `tokens` tokens over all ranks, or of one epoch where that is shorter; at least one."""
    seen = 0
    for batch in stream:
        yield batch
        seen += batch.inputs.numel() * world
        if seen >= tokens or batch.progress >= 1:
            return
