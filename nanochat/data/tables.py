"""Rows of datasets on the Hugging Face hub, by number, in the order that `.shuffle(seed=42)` gives them.

nanochat/hub.py fetches the hub's parquet files, with resume and checksums. The library `datasets` then copies the
columns that a task needs into an Arrow file below <base>/datasets and maps it into memory: reading a row costs that row
only, the file may be larger than memory, and all processes of a machine share it. Of its ways to read parquet,
`load_dataset` is not used: it reports each use to a server. The import takes two seconds, so it waits for the first
table.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat import hub
from nanochat.data.shards import read_footer
from nanochat.errors import UserError
from nanochat.paths import base_dir, refusal

if TYPE_CHECKING:
    from datasets import Dataset

SEED = 42


class Table(Sequence[dict]):
    """Shuffled rows as {column: value}; `files` are hashes of the footers of the parquet files they come from."""

    def __init__(self, rows: "Dataset", files: Sequence[str]):
        self.rows = rows
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]

    def contents(self, what: str, *parameters: object) -> list[dict]:
        """What these rows are made of, for nanochat/data/contents.py; `parameters` say which rows and how."""
        return [{"what": what, "files": self.files, "made": list(parameters)}]


def shuffled(repo: str, patterns: Sequence[str], columns: Sequence[str]) -> Table:
    """The rows of a dataset on the hub, from the files that match the first of `patterns` that any file matches.

    Files that were fetched before are used without asking the hub. Where the only column is a struct, its fields are
    the columns. Raises UserError for a missing column or a damaged file, and what `hub.fetch` raises.
    """
    files = _files(repo, patterns)
    footers = [_footer(file) for file in files]
    count = sum(footer.num_rows for _, footer in footers)
    if not count:
        raise UserError(f"the dataset {repo} has no rows in {files[0].name}")
    struct = _struct(footers[0][1])
    for file, (_, footer) in zip(files, footers, strict=True):
        schema = footer.schema.to_arrow_schema()
        names = [field.name for field in (schema.field(struct).type if struct else schema)]
        if missing := [column for column in columns if column not in names]:
            found = ", ".join(names)
            raise UserError(f"the dataset {repo} has no column {missing[0]!r} in {file.name}; it has {found}")
    rows = _load(repo, files, columns if struct is None else [struct], count)
    if struct is not None:
        rows = rows.flatten().rename_columns({f"{struct}.{column}": column for column in columns})
    return Table(rows.shuffle(seed=SEED, keep_in_memory=True), [digest for digest, _ in footers])


def _struct(footer: pq.FileMetaData) -> str | None:
    """The name of a table's only column if that is a struct, as in an older version of MMLU."""
    schema = footer.schema.to_arrow_schema()
    return schema[0].name if len(schema) == 1 and pa.types.is_struct(schema[0].type) else None


def _load(repo: str, files: Sequence[Path], columns: Sequence[str], count: int) -> "Dataset":
    """Columns of parquet files, in the order of their rows; `count` is how many there must be."""
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # it also logs what it raises
    blobs = [file.resolve() for file in files]  # the files in the hub's cache, named by their digests
    digest = hashlib.sha256("\n".join([*(blob.name for blob in blobs), *columns]).encode()).hexdigest()
    folder = base_dir() / "datasets" / repo / f"{files[0].parent.name}-{files[0].stem}-{digest[:12]}"
    try:
        rows = datasets.Dataset.from_parquet(
            [str(blob) for blob in blobs], cache_dir=str(folder), columns=list(columns), batch_size=1024
        )
        assert isinstance(rows, datasets.Dataset)
        if len(rows) != count:
            raise pa.ArrowInvalid(f"{len(rows)} of {count} rows")
        return rows
    except (DatasetsError, pa.ArrowException, OSError) as error:
        if message := refusal(error, folder):
            raise message from error
        for file in files:
            with _naming(file.name, file.resolve()):
                for _ in pq.ParquetFile(file).iter_batches(1024, columns=list(columns)):
                    pass
        with _naming(f"the copy of {repo}", folder):
            raise pa.ArrowInvalid(str(error)) from error


def _files(repo: str, patterns: Sequence[str]) -> list[Path]:
    """The parquet files of the first pattern that matches any, from the cache if it holds all of them, else fetched."""
    for pattern in patterns:
        if found := _matching(hub.cached(repo, [pattern], kind="dataset"), pattern):
            return found
    published = [file.path for file in hub.look(repo, ["*.parquet"], kind="dataset").files]
    for pattern in patterns:
        if named := [path for path in published if fnmatch(path, pattern)]:
            if found := _matching(hub.fetch(repo, [pattern], kind="dataset"), pattern):
                return found
            raise UserError(f"the dataset {repo} is incomplete: of {pattern} it has only {', '.join(named)}")
    folders = sorted({re.sub(r"(-\d+)?-of-\d+\.parquet$", "", path) for path in published})
    raise UserError(f"the dataset {repo} has no {' or '.join(patterns)}; it has {', '.join(folders[:8])}")


def _matching(folder: Path | None, pattern: str) -> list[Path]:
    """A folder's files of a pattern; none where their names say that some are missing (train-00000-of-00004)."""
    files = sorted(folder.glob(pattern)) if folder else []
    counts = [re.search(r"-of-(\d+)\.", file.name) for file in files]
    return files if all(int(count[1]) == len(files) for count in counts if count) else []


def _footer(file: Path) -> tuple[str, pq.FileMetaData]:
    try:
        return read_footer(file)
    except UserError as error:
        reason = str(error.__cause__).splitlines()[0]
        raise UserError(f"{file.name} is damaged ({reason}); delete {file.resolve()} and start again") from error


@contextlib.contextmanager
def _naming(what: str, place: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} is damaged ({reason}); delete {place} and start again") from error
