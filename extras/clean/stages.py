"""The stages of cleaning. The tasks of a stage run in any order, in any process, on any machine that sees the files.

    scan    for each piece of the dataset: apply the rules, write the documents that stay, sketch them
    match   for each part of the LSH buckets ("places"): compare the documents that share one, write the similar pairs
    write   once: keep the first of similar documents; write the dataset and its report

Validation comes first, so no training document stays that is similar to one in the validation split. A document is
dropped only if it is similar to one that stays: if A is similar to B and B to C, only B is dropped. The result depends
on the documents and their order alone, not on which process did what. A task leaves its files in a folder beside the
dataset, the last one when the others are complete; if that exists, the task is not repeated.

Memory: scan holds a group of texts and the sketches of PIECE documents, match PART entries of buckets and the sketches
of their documents, write one byte per document and the pairs of one piece.
"""

import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extras.clean import sketches
from extras.clean.rules import Rules, Tally, excerpt, judge
from extras.clean.sketches import EXACT, MEETINGS, Sketcher
from nanochat.data import shards
from nanochat.data.stores import Remote
from nanochat.errors import UserError
from nanochat.log import Progress, strict_json
from nanochat.paths import refusal, write_array, write_atomically, write_text

PIECE = 16_384  # documents per scan task
PART = 1 << 19  # entries per match task, about
FIRST = 8  # all documents at a place are compared with the first so many; places with many are boilerplate

_GROUP = 256, 8 << 20  # documents and characters of a row group
_BLOCK = 1 << 16  # sketches compared at once
_VERSION = 1  # of the files in the folder
_ROW = pa.schema([("text", pa.string())])
_SPLITS: tuple[shards.Split, ...] = ("val", "train")  # in the order of the pieces
Stage = Literal["scan", "match", "write"]
STAGES: tuple[Stage, ...] = ("scan", "match", "write")  # in this order


class Piece(NamedTuple):
    split: shards.Split
    start: int  # number of its first document in the split
    documents: int


@dataclass(frozen=True)
class Plan:
    """Everything that the tasks need to know; pieces are numbered from the first of the validation split."""

    source: Path | Remote
    target: Path
    rules: Rules
    overwrite: bool
    pieces: tuple[Piece, ...]
    parts: int  # that the places are divided into; 0 without deduplication

    @property
    def folder(self) -> Path:
        """The folder of the tasks' files."""
        return self.target.with_name(f".{self.target.name}.clean")

    @property
    def report(self) -> Path:
        return self.target.with_name(f"{self.target.name}.report.json")

    def tasks(self, stage: Stage) -> int:
        return {"scan": len(self.pieces), "match": self.parts, "write": 1}[stage]

    def file(self, number: int, name: str) -> Path:
        """A task's file; the last it writes is tally.json in scan and pairs.npy in match."""
        return self.folder / f"{number:06d}.{name}"

    def done(self, stage: Stage, task: int) -> bool:
        return stage != "write" and self.file(task, "tally.json" if stage == "scan" else "pairs.npy").exists()


@dataclass(frozen=True)
class Step:
    """A stage as a pipeline step of datatrove: called with a rank, it does that task unless it is done."""

    plan: Plan
    stage: Stage

    def __call__(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        if not self.plan.done(self.stage, rank):
            {"scan": _scan, "match": _match, "write": _write}[self.stage](self.plan, rank)


def plan(source: Path | Remote, target: Path, rules: Rules, overwrite: bool = False) -> Plan:
    """Divide a dataset's documents into pieces. Raises UserError as `shards.TextReader` does."""
    pieces: list[Piece] = []
    for split in _SPLITS:
        documents = shards.TextReader(source, split).num_documents
        pieces += [Piece(split, start, min(PIECE, documents - start)) for start in range(0, documents, PIECE)]
    meetings = MEETINGS * sum(piece.documents for piece in pieces) if rules.dedup else 0
    return Plan(source, target, rules, overwrite, tuple(pieces), -(-meetings // PART))


@contextmanager
def claimed(plan: Plan) -> Iterator[None]:
    """Keeps other processes from cleaning into the same dataset. Raises UserError if one is doing so."""
    with ExitStack() as cleanup:
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
            folder = os.open(plan.folder, os.O_RDONLY)
            cleanup.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is cleaning into {plan.target}; wait until it has finished") from None
        except OSError as error:
            if message := refusal(error, plan.folder):
                raise message from error
            raise
        yield


def prepare(plan: Plan) -> None:
    """Make the folder ready, and delete files of a run with other data or other rules."""
    data = [shards.TextReader(plan.source, split).contents() for split in _SPLITS]
    settings = strict_json({"version": _VERSION, "data": data, **asdict(plan), "overwrite": None})
    path = plan.folder / "settings.json"
    if not path.exists() or path.read_text(encoding="utf-8") != settings:
        for left in plan.folder.iterdir():
            left.unlink()
        write_text(path, settings)


# ---------------------------------------------------------------- scan


def _scan(plan: Plan, number: int) -> None:
    piece = plan.pieces[number]
    tally = Tally()
    kept: list[tuple[int, int]] = []
    sketcher = Sketcher() if plan.rules.dedup else None

    def texts() -> Iterator[str]:
        reader = shards.TextReader(plan.source, piece.split)
        for document in range(piece.start, piece.start + piece.documents):
            text = _judged(plan.rules, tally, f"{piece.split} {document}", reader.read(document, 1)[0])
            if text is not None:
                _check_length(text, reader.shard_of(document))
                kept.append((document, len(text)))
                if sketcher:
                    sketcher.add(text)
                yield text

    write_atomically(plan.file(number, "parquet"), lambda file: _write_rows(file, texts()))
    write_array(plan.file(number, "kept.npy"), np.array(kept, dtype=np.int64).reshape(-1, 2))
    if sketcher:
        table, places = sketcher.arrays()
        write_array(plan.file(number, "sketches.npy"), table)
        write_array(plan.file(number, "places.npy"), places)
    write_text(plan.file(number, "tally.json"), strict_json(tally.counts))


def _check_length(text: str, shard: Path | Remote) -> None:
    """Refuse here what the write stage could not read again."""
    if (length := len(text.encode())) > shards.MAX_DOCUMENT:
        raise UserError(
            f"{shard} has a document of {length:,} bytes, and one may have {shards.MAX_DOCUMENT:,}; "
            "divide it, or leave it out"
        )


def _judged(rules: Rules, tally: Tally, document: str, text: str) -> str | None:
    tally.count("before", len(text))
    for verdict in judge(rules).verdicts(text):
        tally.note(document, text, verdict)
        if verdict.text is None:
            return None
        text = verdict.text
    tally.count("after", len(text))
    return text


def _write_rows(file: BinaryIO, texts: Iterator[str]) -> None:
    documents, characters = _GROUP
    group: list[str] = []
    size = 0
    with pq.ParquetWriter(file, _ROW, compression="zstd", use_dictionary=False, write_statistics=False) as parquet:
        for text in texts:
            group.append(text)
            size += len(text)
            if len(group) >= documents or size >= characters:
                parquet.write_table(pa.table([group], schema=_ROW))
                group, size = [], 0
        parquet.write_table(pa.table([group], schema=_ROW))


# ---------------------------------------------------------------- match


def _match(plan: Plan, part: int) -> None:
    """Pairs of documents that are alike, (3, n) uint64 sorted: the later one, the earlier one, their agreement.

    A document is its piece << 32 | its row among those of the piece that the rules keep, so that order is order.
    """
    met: list[np.ndarray] = []
    for number in range(len(plan.pieces)):
        places = np.load(plan.file(number, "places.npy"), mmap_mode="r")
        edges = [2**64 * edge // plan.parts for edge in (part, part + 1)]
        low, high = (np.searchsorted(places[0], np.uint64(edge)) if edge < 2**64 else None for edge in edges)
        met.append(places[:, low:high] | np.array([[0], [number << 32]], dtype=np.uint64))
    places, documents = np.concatenate(met, axis=1)
    order = np.lexsort((documents, places))
    write_array(plan.file(part, "pairs.npy"), _sorted_once(_alike(plan, places[order], documents[order])))


def _alike(plan: Plan, places: np.ndarray, documents: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(np.diff(places, prepend=~places[:1]))  # where those of another place begin
    company = np.diff(starts, append=len(places))  # how many share each place
    documents, company = documents[np.repeat(company > 1, company)], company[company > 1]
    table, row = _sketches(plan, documents)
    first = np.repeat(np.cumsum(company) - company, company)  # where the first at the same place stands
    position = np.arange(len(documents)) - first
    has_twin = np.zeros(len(documents), dtype=bool)  # an earlier one with the same text, so it meets the same documents
    pairs = [np.empty((3, 0), dtype=np.uint64)]
    for other in range(FIRST):
        later = np.flatnonzero((position > other) & ~has_twin)
        for start in range(0, len(later), _BLOCK):
            block = later[start : start + _BLOCK]
            earlier = first[block] + other
            agreement = sketches.agreement(table[row[block]], table[row[earlier]])
            has_twin[block] = agreement == EXACT
            alike = agreement >= sketches.needed(plan.rules.similarity)
            found = documents[block][alike], documents[earlier][alike], agreement[alike].astype(np.uint64)
            pairs.append(np.stack(found))
    return np.concatenate(pairs, axis=1)


def _sketches(plan: Plan, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sketches of documents, each once, and for each document the row of its own."""
    once, row = np.unique(documents, return_inverse=True)
    table = np.empty((len(once), sketches.WIDTH), dtype=np.uint8)
    pieces, rows = once >> np.uint64(32), (once & np.uint64(2**32 - 1)).astype(np.int64)
    for number in np.unique(pieces).tolist():
        stored = np.load(plan.file(number, "sketches.npy"), mmap_mode="r")
        table[pieces == number] = stored[rows[pieces == number]]
    return table, row.reshape(-1)


def _sorted_once(pairs: np.ndarray) -> np.ndarray:
    pairs = pairs[:, np.lexsort(pairs[::-1])]
    return pairs[:, np.diff(pairs, axis=1, prepend=~pairs[:, :1]).any(axis=0)]


# ---------------------------------------------------------------- write


def _write(plan: Plan, _: int) -> None:
    tallies = {"train": Tally(), "val": Tally()}
    for number, piece in enumerate(plan.pieces):
        tallies[piece.split].merge(Tally(json.loads(plan.file(number, "tally.json").read_text(encoding="utf-8"))))
    gone = _gone(plan, tallies)
    for split, tally in tallies.items():
        if not tally.counts["after"]["documents"]:
            rules = ", ".join(f"{rule['documents']} by {name}" for name, rule in tally.counts["rules"].items()
                              if rule["action"] == "dropped")  # fmt: skip
            n = tally.counts["before"]["documents"]
            raise UserError(
                f"these rules leave none of the {n} documents in the {split} split of {plan.source} ({rules} were "
                "dropped); relax them"
            )
    splits = {split: tally.counts for split, tally in tallies.items()}
    rules = {**asdict(plan.rules), "profanity": f"{len(plan.rules.profanity)} words"}
    report = {"source": str(plan.source), "target": str(plan.target), "rules": rules, "splits": splits}
    draft = plan.folder / "report.json"  # takes its place when the dataset has
    write_text(draft, strict_json(report, indent=2) + "\n")

    total = sum(tally.counts["after"]["documents"] for tally in tallies.values())
    with Progress(total, "write", "documents") as progress:
        written = itertools.count(1)

        def staying(split: shards.Split) -> Iterator[str]:
            for text in _staying(plan, split, gone):
                yield text
                done = next(written)
                if done % 1024 == 0 or done == total:
                    progress.update(done)

        shards.write_shards(staying("train"), plan.target, val_texts=staying("val"), overwrite=plan.overwrite)
    os.replace(draft, plan.report)
    shutil.rmtree(plan.folder)


def _staying(plan: Plan, split: shards.Split, gone: list[np.ndarray]) -> Iterator[str]:
    for number, piece in enumerate(plan.pieces):
        if piece.split == split:
            texts = shards.iterate_file(plan.file(number, "parquet"))
            yield from (text for text, goes in zip(texts, gone[number], strict=True) if not goes)


def _gone(plan: Plan, tallies: dict[str, Tally]) -> list[np.ndarray]:
    """Which documents are dropped as duplicates of an earlier one: for each piece, one bool per document it keeps."""
    gone: list[np.ndarray] = []

    def shown(number: int, row: int) -> tuple[str, str]:
        document = np.load(plan.file(number, "kept.npy"))[row, 0]
        text = next(itertools.islice(shards.iterate_file(plan.file(number, "parquet")), row, None))
        return f"{plan.pieces[number].split} {document}", excerpt(text, 0)

    for number, piece in enumerate(plan.pieces):
        kept, tally = np.load(plan.file(number, "kept.npy")), tallies[piece.split]
        gone.append(np.zeros(len(kept), dtype=bool))
        for later, earlier, agreement in _pairs(plan, number):
            row, (other, other_row) = later & 0xFFFFFFFF, divmod(earlier, 1 << 32)
            if gone[number][row] or gone[other][other_row]:
                continue
            gone[number][row] = True
            name = "duplicate: exact" if agreement == EXACT else "duplicate: near"
            tally.count("after", -int(kept[row, 1]), -1)
            examples = []
            if tally.wants_example(name):
                (document, text), (twin, twin_text) = shown(number, row), shown(other, other_row)
                like = {"stays": twin, "text": twin_text, "similarity": round(sketches.similarity(agreement), 2)}
                examples = [{"document": document, "before": text, "after": None, "like": like}]
            tally.add(name, "dropped", 1, 1, examples)
    return gone


def _pairs(plan: Plan, number: int) -> list[list[int]]:
    """The pairs, as _match writes them, whose later document is in a piece."""
    edges = np.array([number << 32, (number + 1) << 32], dtype=np.uint64)
    found = [np.empty((3, 0), dtype=np.uint64)]
    for part in range(plan.parts):  # one after the other: there may be more than a process can hold open
        pairs = np.load(plan.file(part, "pairs.npy"), mmap_mode="r")
        found.append(np.array(pairs[:, slice(*np.searchsorted(pairs[0], edges))]))
    return _sorted_once(np.concatenate(found, axis=1)).T.tolist()
