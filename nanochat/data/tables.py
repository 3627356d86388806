"""Rows of datasets on the Hugging Face hub, by number and in any order.

The hub keeps them as parquet, of which a single row costs a whole row group. Mixtures read rows in random order, so the
columns that a task needs are copied once to an Arrow file below <base>/datasets, which is mapped into memory: a row
costs the row, the file may be larger than memory, and all processes of a machine share it.
"""

import bisect
import contextlib
import fcntl
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat import hub
from nanochat.data.shards import read_footer
from nanochat.errors import UserError
from nanochat.log import Progress
from nanochat.paths import base_dir, refusal, write_atomically


class Table(Sequence[dict]):
    """The rows of an Arrow file as {column: value}, in the order of their numbers or in that of `order`.

    Raises UserError for a file that is damaged.
    """

    def __init__(
        self, path: Path, order: Sequence[int] | np.ndarray | None = None, files: Sequence[str] = ()
    ):  # fmt: skip
        self.path = path
        self.files = list(files)  # hashes of the footers of the parquet files that it was copied from
        with _naming(path):
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [file.get_batch(n) for n in range(file.num_record_batches)]
        self._starts = [0, *itertools.accumulate(batch.num_rows for batch in self._batches)]
        self.order = range(self._starts[-1]) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        row = int(self.order[index])
        n = bisect.bisect_right(self._starts, row) - 1
        return self._batches[n].slice(row - self._starts[n], 1).to_pylist()[0]

    def __reduce__(self) -> tuple:  # for another process the file's name will do
        return Table, (self.path, self.order, self.files)

    def contents(self, what: str, *parameters: object) -> list[dict]:
        """What rows of it are made of, for nanochat/data/contents.py; `parameters` say which rows and how."""
        return [{"what": what, "files": self.files, "made": list(parameters)}]

    def shuffled(self, seed: int = 42) -> "Table":
        """The same rows in the order that `.shuffle(seed)` of the library `datasets` gives them."""
        return Table(self.path, np.random.default_rng(seed).permutation(len(self)), self.files)


def dataset(repo: str, patterns: Sequence[str], columns: Sequence[str]) -> Table:
    """The rows of a dataset on the hub, of the files that match the first of `patterns` that any of its files match.

    What was fetched before is used without asking the hub. A table whose only column is a struct is taken for what is
    in the struct. Raises UserError where a column is missing, and what `hub.fetch` raises.
    """
    files = _files(repo, patterns)
    described = [*(f"{file.resolve().name} {file.stat().st_size}" for file in files), *columns]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    target = base_dir() / "datasets" / repo / f"{files[0].parent.name}-{files[0].stem}-{digest[:12]}.arrow"
    if not target.exists():
        with _alone_in(target.parent):
            if not target.exists():
                write_atomically(target, partial(_copy, repo, files, columns))
    return Table(target, files=[read_footer(file)[0] for file in files])


def _files(repo: str, patterns: Sequence[str]) -> list[Path]:
    """The parquet files of the first pattern that there are any of, from the cache if it holds all, else fetched."""
    for pattern in patterns:
        if found := _matching(hub.cached(repo, [pattern], kind="dataset"), pattern):
            return found
    there = [file.path for file in hub.look(repo, ["*.parquet"], kind="dataset").files]
    for pattern in patterns:
        if named := [path for path in there if fnmatch(path, pattern)]:
            if found := _matching(hub.fetch(repo, [pattern], kind="dataset"), pattern):
                return found
            raise UserError(f"the dataset {repo} is not whole: of {pattern} it has only {', '.join(named)}")
    folders = sorted({path.rpartition("-")[0] or path for path in (re.sub(r"-of-\d+", "", path) for path in there)})
    raise UserError(f"the dataset {repo} has no {' or '.join(patterns)}; it has {', '.join(folders[:8])}")


def _matching(folder: Path | None, pattern: str) -> list[Path]:
    """A folder's files of a pattern; none where their names tell that there should be more (train-00000-of-00004)."""
    files = sorted(folder.glob(pattern)) if folder else []
    counts = [re.search(r"-of-(\d+)\.", file.name) for file in files]
    return files if all(int(count[1]) == len(files) for count in counts if count) else []


def _copy(repo: str, files: Sequence[Path], columns: Sequence[str], out: BinaryIO) -> None:
    """Write the columns of parquet files as one Arrow file, a batch of rows in memory at a time."""
    rows = sum(_opened(file).metadata.num_rows for file in files)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(rows, f"unpacking {repo}", "rows"))
        writer, done = None, 0
        for file in files:
            for batch in _batches(repo, file, columns):
                writer = writer or stack.enter_context(pa.ipc.new_file(out, batch.schema))
                writer.write_batch(batch)
                done += batch.num_rows
                progress.update(done)
        if writer is None:
            raise UserError(f"the dataset {repo} has no rows in {files[0].name}")


def _batches(repo: str, path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with _naming(path), _opened(path) as file:
        for batch in file.iter_batches(1024):
            if batch.num_columns == 1 and pa.types.is_struct(batch.column(0).type):
                batch = pa.RecordBatch.from_struct_array(batch.column(0))
            missing = [column for column in columns if column not in batch.schema.names]
            if missing:
                there = ", ".join(batch.schema.names)
                raise UserError(f"the dataset {repo} has no column {missing[0]!r} in {path.name}; it has {there}")
            yield batch.select(list(columns))


def _opened(path: Path) -> pq.ParquetFile:
    with _naming(path):
        return pq.ParquetFile(path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]  # the hub's cache has links; what is damaged is what they point to
        raise UserError(f"{path.name} is damaged ({reason}); delete {path.resolve()} and start again") from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make a folder and hold it against other processes, such as the other ranks, which wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if said := refusal(error, folder):
            raise said from error
        raise
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
