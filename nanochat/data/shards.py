"""Text on disk: a dataset is a folder of parquet shards, in the layout of the published nanochat data.

Files `shard_00000.parquet`, `shard_00001.parquet`, … have one string column `text`, with one document per row. In
sorted order of their names the last file is the validation split, and all others are the training split. A dataset that
is only read may also be in an object store (nanochat/data/stores.py): then its row groups are fetched when needed.

`python -m nanochat.data.shards` downloads such datasets: it is another name of scripts/download_data.py.
"""

import bisect
import contextlib
import functools
import hashlib
import itertools
import os
import re
import runpy
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.data.stores import Ranges, Remote
from nanochat.errors import UserError
from nanochat.paths import DEFAULT_DATASET, draft_of

Split = Literal["train", "val"]
ExamSplit = Literal["train", "val", "test"]  # of graded tasks: "test" is never trained on

_SCHEMA = pa.schema([("text", pa.string())])
_SHORTEST_SPLIT = 200  # characters; less validation text than a tenth of that is meaningless
_HOW_TO_GET_DATA = "run python -m scripts.add_data YOUR_TEXT, python -m nanochat.data.shards, or bash speedrun.sh"
# Characters that in four passes give a model of a depth 12 tokens per scaling parameter; fewer: config/chat_base.yaml
DEPTHS = ((6e9, 20), (3.2e9, 16), (1.5e9, 12), (6e8, 8), (1e8, 6))

# A malicious file of a few kilobytes can hold a million rows that repeat one huge string, so the output is limited. The
# longest books are a tenth of MAX_DOCUMENT, and zstd makes web text four times smaller, not a thousand times.
MAX_DOCUMENT = 64 << 20  # bytes of text
MAX_GROUP = 1 << 30  # bytes of text
MAX_RATIO = 1000  # bytes of text per byte of the file, if that allows more than MAX_GROUP

AT_ONCE = 16  # requests to an object store
TAIL = 64 << 10  # bytes read from the end of a remote shard, which most footers fit into
FOOTERS = 256  # of remote shards, kept in memory


def check_name(name: str) -> None:
    """Raise UserError if a new dataset cannot have this name."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name!r} cannot be a dataset's name; use letters, digits, dots, dashes, underscores")
    if name == DEFAULT_DATASET:
        raise UserError(f"--name {name} is the name of the little world's dataset; choose another with --name")


def how_to_train(name: str, chars: int | None = None) -> str:
    """The commands that train on a dataset of so many characters, in three lines; None: as many as are wanted."""
    depth = 20 if chars is None else next((depth for least, depth in DEPTHS if chars >= least), None)
    tokenizer = f"tok_train --dataset {name}" + (" --vocab_size 4096" if depth is None else "")
    model = f"config/chat_base.yaml --dataset {name}" if depth is None else f"--dataset {name} --depth {depth}"
    return f"train on it with\n  python -m scripts.{tokenizer}\n  python -m scripts.base_train {model}"


class Written(NamedTuple):
    """What `write_shards` wrote; `files` counts the shards of both splits."""

    train_documents: int
    train_chars: int
    val_documents: int
    val_chars: int
    files: int

    def summary(self) -> str:
        """The counts, in three lines."""
        documents, chars = self.train_documents + self.val_documents, self.train_chars + self.val_chars
        return (
            f"{documents:,} documents, {chars:,} characters\n"
            f"  train       {self.train_documents:,} documents, {self.train_chars:,} characters\n"
            f"  validation  {self.val_documents:,} documents, {self.val_chars:,} characters"
        )


def list_shards(folder: Path | Remote, split: Split) -> Sequence[Path | Remote]:
    """The parquet files of one split in order. Raises UserError unless the folder holds at least two shards."""
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"no data in {folder}: the folder does not exist; {_HOW_TO_GET_DATA}")
    shards = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not shards and isinstance(folder, Remote):
        raise UserError(
            f"no data in {folder}: expected parquet files; check the URL, and which account the store is read with"
        )
    if not shards:
        raise UserError(
            f"no data in {folder}: expected shard_00000.parquet, shard_00001.parquet and so on; {_HOW_TO_GET_DATA}"
        )
    if len(shards) == 1:
        split_it = f"run python -m scripts.add_data {shlex.quote(str(shards[0]))} --name NEW_NAME to split it in two"
        raise UserError(
            f"{folder} holds {shards[0].name} only, but the last shard is for validation, so nothing is left to train "
            f"on; {split_it if isinstance(folder, Path) else 'put a second shard there'}"
        )
    return shards[:-1] if split == "train" else shards[-1:]


class Group(NamedTuple):
    """A row group: its shard's number, its number in the shard, its documents, and their bytes by the footer."""

    shard: int
    number: int
    rows: int
    size: int


class TextReader:
    """The documents of one split by number, in the order of shards, row groups and rows.

    Only the footers are read at construction. The last row group stays in memory, so reading forward is cheap.
    Raises UserError for a shard that is damaged, has no string column `text` or has changed since its footer was read,
    for a store that cannot be reached, and for a split without documents.
    """

    def __init__(self, folder: Path | Remote, split: Split):
        self.folder, self.split = folder, split
        self.paths = list_shards(folder, split)
        self._footer = functools.lru_cache(FOOTERS)(read_footer)
        self.digests: list[str] = []  # of the shards' footers
        self.ends: list[int] = []  # the documents up to the end of each shard
        self.groups: list[Group] = []  # those that have documents
        self.num_documents = 0
        for shard, (path, (digest, metadata)) in enumerate(zip(self.paths, self._footers(), strict=True)):
            _check_column(path, metadata.schema.to_arrow_schema(), "text")
            self.digests.append(digest)
            self.num_documents += metadata.num_rows
            self.ends.append(self.num_documents)
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                if group.num_rows:
                    self.groups.append(Group(shard, number, group.num_rows, _size_of(group, "text")))
        if self.num_documents == 0:
            raise UserError(f"the {split} split of {folder} has no documents; {_HOW_TO_GET_DATA}")
        self.starts = [0, *itertools.accumulate(group.rows for group in self.groups)]  # of the groups
        self._latest = -1  # the group in memory
        self._texts: list[str] = []

    def _footers(self) -> list[tuple[str, pq.FileMetaData]]:
        """Those of all shards; a store is asked for many at the same time."""
        if isinstance(self.folder, Path):
            return [read_footer(path) for path in self.paths]
        with ThreadPool(AT_ONCE) as pool:
            return pool.map(self._footer, self.paths)

    def contents(self) -> dict:
        """The identity of the split's data, for nanochat/data/contents.py."""
        shards = {path.name: digest for path, digest in zip(self.paths, self.digests, strict=True)}
        return {"what": f"the {self.split} split of {self.folder.name}", "shards": shards,
                "grows": self.split == "train"}  # fmt: skip

    def read(self, position: int, count: int) -> list[str]:
        """Documents `position` to `position + count - 1`; fewer only where the split ends."""
        assert position >= 0
        texts: list[str] = []
        first = bisect.bisect_right(self.starts, position) - 1
        for n in range(first, len(self.groups)):
            if len(texts) == count:
                break
            if n != self._latest:
                self._texts = [text.as_py() or "" for text in self.load(self.groups[n])]  # foreign files hold nulls
                self._latest = n
            offset = position + len(texts) - self.starts[n]
            texts += self._texts[offset : offset + count - len(texts)]
        return texts

    def shard_of(self, position: int) -> Path | Remote:
        """The file that document `position` is in."""
        return self.paths[bisect.bisect_right(self.ends, position)]

    def load(self, group: Group) -> pa.ChunkedArray:
        """The documents of a row group, as many as its shard's footer announced."""
        path, digest = self.paths[group.shard], self.digests[group.shard]
        with _naming(path):
            if isinstance(path, Path):
                check_same(path, digest)
                with _open(path) as file:
                    return _texts_of(path, file, group)
            try:
                return _texts_of(path, _fetched(path, self._footer(path)[1], group.number), group)
            except (pa.ArrowException, OSError):
                check_same(path, digest)
                raise

    def load_all(self, groups: Sequence[Group]) -> list[pa.ChunkedArray]:
        """`load` for several row groups; those in an object store are fetched at the same time."""
        if isinstance(self.folder, Path) or len(groups) == 1:
            return [self.load(group) for group in groups]
        with ThreadPool(min(AT_ONCE, len(groups))) as pool:
            return pool.map(self.load, groups)


def check_same(path: Path | Remote, digest: str) -> None:
    """Raise UserError if a shard is gone or no longer has the footer with this digest."""
    if not path.exists():
        raise UserError(f"{path} was removed while this run was reading it; put it back and start again")
    if read_footer(path)[0] != digest:
        raise UserError(f"{path} changed while this run was reading it; put the old file back and start again")


def _texts_of(path: Path | Remote, file: pq.ParquetFile, group: Group) -> pa.ChunkedArray:
    """The documents of a row group of an open shard. Raises UserError for more than MAX_GROUP bytes of them."""
    parts, rows, size = [], 0, 0
    for batch in _batches_of(file, "text", group.number):
        size += batch.nbytes
        rows += len(batch)
        if size > MAX_GROUP:
            raise UserError(
                f"{path} has a row group of more than {MAX_GROUP:,} bytes of text, which is read at once; "
                f"run python -m scripts.add_data {shlex.quote(str(path))} --name NEW_NAME to divide it"
            )
        parts.append(batch)
    if rows != group.rows:
        raise pa.ArrowInvalid(f"row group {group.number} has {rows} documents, not {group.rows}")
    return pa.chunked_array(parts)


def _fetched(remote: Remote, metadata: pq.FileMetaData, number: int) -> pq.ParquetFile:
    """A remote shard of which one row group's texts are in memory, fetched in one request."""
    group = metadata.row_group(number)
    chunk = next(each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == "text")
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    file = Ranges(remote)
    file.fetch(start, start + chunk.total_compressed_size)
    return pq.ParquetFile(file, metadata=metadata, buffer_size=1 << 20, page_checksum_verification=True)


def read_footer(path: Path | Remote) -> tuple[str, pq.FileMetaData]:
    """A hash of a parquet file's footer, 16 hex digits, and its content. Raises UserError for a damaged file."""
    with _naming(path):
        end = _end_of(path, TAIL)
        length = int.from_bytes(end[-8:-4], "little") + 8  # with its own length and the magic bytes
        if end[-4:] == b"PAR1" and length > len(end) == TAIL:
            end = _end_of(path, length)
        if end[-4:] != b"PAR1" or length > len(end):
            raise pa.ArrowInvalid("it does not end with a parquet footer")
        footer = end[len(end) - length :]
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
    return hashlib.sha256(footer).hexdigest()[:16], metadata


def _end_of(path: Path | Remote, length: int) -> bytes:
    """The last `length` bytes of a file, or all of a shorter one."""
    if isinstance(path, Remote):
        return path.read(-length)
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - length))
        return file.read()


def iterate(folder: Path | Remote, split: Split) -> Iterator[str]:
    """All documents of one split, in order, a row group in memory at a time. Raises as TextReader does."""
    reader = TextReader(folder, split)
    for position in range(0, reader.num_documents, 1024):
        yield from reader.read(position, 1024)


def iterate_file(path: Path, column: str = "text") -> Iterator[str]:
    """All documents of any parquet file, with a small batch of them in memory at a time.

    Raises UserError as TextReader does, for a document of more than MAX_DOCUMENT bytes, and for a file that holds more
    than MAX_RATIO times its own size: a zip bomb.
    """
    with _naming(path), _open(path) as file:
        _check_column(path, file.schema_arrow, column)
        on_disk = path.stat().st_size
        size, most = 0, max(MAX_GROUP, MAX_RATIO * on_disk)
        for group in range(file.num_row_groups):
            for text in itertools.chain.from_iterable(_batches_of(file, column, group)):
                length = text.as_buffer().size if text.is_valid else 0
                size += length
                if length > MAX_DOCUMENT:
                    raise UserError(
                        f"{path} has a document of {length:,} bytes in its row group {group}, and one may have "
                        f"{MAX_DOCUMENT:,}; divide it, or leave it out"
                    )
                if size > most:
                    raise UserError(
                        f"{path} has {on_disk:,} bytes and unpacks to more than {most:,} bytes of text, which no real "
                        "text does; leave it out"
                    )
                yield text.as_py() or ""


def write_shards(
    texts: Iterable[str],
    folder: Path,
    *,
    val_texts: Iterable[str] | None = None,
    val_fraction: float = 0.1,
    overwrite: bool = False,
    beside: Callable[[Path], object] = lambda draft: None,
    docs_per_group: int = 1024,
    group_bytes: int = 8 << 20,
    shard_bytes: int = 256 << 20,
) -> Written:
    """Write a stream of documents as a dataset, with one row group per split in memory.

    A document's own hash decides its split, so the same text always falls on the same side; `val_texts`, if given, are
    the validation split instead. Neither split is ever empty: if need be the last document goes to the empty one, and a
    single document is cut in two. Blank documents are dropped. The folder gets its name when it is complete and flushed
    to disk; `beside` may add files to the draft it is given. Sizes count UTF-8 bytes of text.

    Raises UserError if there is too little text for two splits, the folder holds something and `overwrite` is false,
    another process is writing it, or the disk is full.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, not {val_fraction}; 0.1 holds out a tenth")
    if val_texts is None:
        documents = deal(texts, val_fraction)
    else:
        documents = itertools.chain(_all_for("train", texts), _all_for("val", val_texts))
    first = next(documents)  # fails here for unusable input, before anything is written
    with draft_of(folder, lambda: check_replaceable(folder, overwrite)) as draft:
        train = _ShardWriter(draft, docs_per_group, group_bytes, shard_bytes)
        val = _ShardWriter(draft / "val", docs_per_group, group_bytes, shard_bytes=None)
        with train, val:
            for split, text in itertools.chain([first], documents):
                (train if split == "train" else val).add(text)
        files = len(train.paths) + 1
        os.replace(val.paths[0], draft / _shard_name(len(train.paths)))
        val.folder.rmdir()
        beside(draft)
    return Written(train.documents, train.chars, val.documents, val.chars, files)


def deal(texts: Iterable[str], val_fraction: float) -> Iterator[tuple[Split, str]]:
    """Assign documents to the two splits by their own hash, so that neither is empty; blank ones are dropped.

    Raises UserError if there is too little text for two splits.
    """
    documents = (text for text in texts if text.strip())
    last = next(documents, None)
    if last is None:
        raise UserError("there is no text to write: every document is empty; give files that contain text")
    empty: set[Split] = {"train", "val"}
    for text in documents:
        side = _side(last, val_fraction)
        empty.discard(side)
        yield side, last
        last = text
    # The last document has waited until here, to fill whichever split is still empty.
    if len(empty) == 2:
        head, tail = _cut(last, val_fraction)
        yield "train", head
        yield "val", tail
    else:
        yield (empty.pop() if empty else _side(last, val_fraction)), last


def _all_for(split: Split, texts: Iterable[str]) -> Iterator[tuple[Split, str]]:
    empty = True
    for text in texts:
        if text.strip():
            yield split, text
            empty = False
    if empty:
        raise UserError(f"there are no documents for the {split} split; both splits need some")


def _side(text: str, val_fraction: float) -> Split:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") < val_fraction * 2**64 else "train"


def _cut(text: str, val_fraction: float) -> tuple[str, str]:
    """Cut one document in two near where `val_fraction` is left: at a paragraph, else a line, else anywhere."""
    text = text.strip()
    if len(text) < _SHORTEST_SPLIT:
        raise UserError(
            f"there is one document of {len(text)} characters, too short to divide into training and validation text; "
            f"give at least two documents or {_SHORTEST_SPLIT} characters"
        )
    target = min(max(round(len(text) * (1 - val_fraction)), 1), len(text) - 1)
    reach = min(target, len(text) - target) // 2  # a boundary farther away would change the sizes too much
    for boundary in ("\n\n", "\n"):
        before = text.rfind(boundary, target - reach, target)
        after = text.find(boundary, target, target + reach)
        if places := [place + len(boundary) for place in (before, after) if place >= 0]:
            target = min(places, key=lambda place: abs(place - target))
            break
    return text[:target], text[target:]


class _ShardWriter:
    """Collects documents into row groups and row groups into shards; `shard_bytes=None` writes a single shard."""

    def __init__(self, folder: Path, docs_per_group: int, group_bytes: int, shard_bytes: int | None):
        self.folder = folder
        self.paths: list[Path] = []
        self.documents = 0
        self.chars = 0
        self._limits = docs_per_group, group_bytes, shard_bytes
        self._group: list[str] = []
        self._group_bytes = 0
        self._shard_bytes = 0
        self._digest = hashlib.sha256()  # of the open shard's text
        self._open = contextlib.ExitStack()
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._open:
            if kind is None:
                self._end_shard()

    def add(self, text: str) -> None:
        docs_per_group, group_bytes, shard_bytes = self._limits
        encoded = text.encode("utf-8")
        size = len(encoded)
        if shard_bytes is not None and self._shard_bytes and self._shard_bytes + size > shard_bytes:
            self._end_shard()
        elif self._group_bytes + size > group_bytes or len(self._group) == docs_per_group:
            self._end_group()
        self._group.append(text)
        self._digest.update(b"%d " % size + encoded)
        self._group_bytes += size
        self._shard_bytes += size
        self.documents += 1
        self.chars += len(text)

    def _end_group(self) -> None:
        if not self._group:
            return
        if self._parquet is None:
            self.folder.mkdir(exist_ok=True)
            self.paths.append(self.folder / _shard_name(len(self.paths)))
            self._file = self._open.enter_context(open(self.paths[-1], "wb"))  # noqa: SIM115
            # Dictionaries and statistics pay for short repeated values, not for documents.
            self._parquet = self._open.enter_context(pq.ParquetWriter(
                self._file, _SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False,
                write_page_checksum=True,
            ))  # fmt: skip
        self._parquet.write_table(pa.table({"text": pa.array(self._group, pa.string())}, schema=_SCHEMA))
        self._group = []
        self._group_bytes = 0

    def _end_shard(self) -> None:
        self._end_group()
        if self._parquet is not None:  # so that footers tell shards apart whose texts are of equal length
            self._parquet.add_key_value_metadata({"text_sha256": self._digest.hexdigest()})
            self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        self._open.close()
        self._parquet = None
        self._digest = hashlib.sha256()
        self._shard_bytes = 0


def _shard_name(number: int) -> str:
    return f"shard_{number:05d}.parquet"


def check_replaceable(
    folder: Path, overwrite: bool = False, remedy: str = "choose another name, or replace it with --overwrite"
) -> None:
    """Raise UserError if a dataset must not be written here; `remedy` is the advice if it holds data already."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"cannot write the dataset {folder}: a file has this name")
    entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    if entries and not overwrite:
        raise UserError(f"{folder} already holds data; {remedy}")
    foreign = [name for name in entries if not name.endswith(".parquet")]
    if foreign:
        raise UserError(f"will not replace {folder}: it holds {foreign[0]}, which is not a shard; move it away first")


def _batches_of(file: pq.ParquetFile, column: str, group: int) -> Iterator[pa.Array]:
    """The documents of a row group, read one at a time or up to MAX_DOCUMENT bytes of them at once.

    The footer gives the size of the whole column, and may lie; so never more than 16 at once.
    """
    rows = min(16, max(1, MAX_DOCUMENT // max(1, _size_of(file.metadata.row_group(group), column))))
    for batch in file.iter_batches(rows, row_groups=[group], columns=[column]):
        yield batch.column(0)


def _size_of(group: pq.RowGroupMetaData, column: str) -> int:
    """The bytes of a column in a row group, before compression."""
    chunks = (group.column(n) for n in range(group.num_columns))
    return next(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)


def _open(path: Path) -> pq.ParquetFile:
    # Without a buffer it reads all of a row group's bytes at once.
    return pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)


def _check_column(path: Path | Remote, schema: pa.Schema, column: str) -> None:
    columns = {field.name: field.type for field in schema}
    kind = columns.get(column)
    if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        found = ", ".join(f"{name} ({kind})" for name, kind in columns.items()) or "no columns"
        raise UserError(f"{path} needs a string column named {column}, but has {found}")


@contextlib.contextmanager
def _naming(path: Path | Remote) -> Iterator[None]:
    """Turn pyarrow's errors for a damaged file into a sentence that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or not a parquet file ({reason}); delete it and make it again") from error


if __name__ == "__main__":
    runpy.run_module("scripts.download_data", run_name="__main__")
