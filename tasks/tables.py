"""Rows of datasets on the Hugging Face hub, by number, in the order that `.shuffle(seed=42)` gives them.

nanochat/hub.py fetches the hub's parquet files, with resume and checksums. The library `datasets` then copies the
columns that a task needs into an Arrow file below <base>/datasets and maps it into memory: reading a row costs that row
only, the file may be larger than memory, and all processes of a machine share it. Of its ways to read parquet,
`load_dataset` is not used: it reports each use to a server. The import takes two seconds, so it waits for the first
table.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

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


def shuffled(repo: str, pattern: str, columns: Sequence[str]) -> Table:
    """Columns of the parquet files of a hub dataset that match a pattern.

    Files that were fetched before are used without asking the hub. Raises UserError for a missing column or a damaged
    file, and what `hub.fetch` raises.
    """
    files = _files(repo, pattern)
    try:
        footers = [read_footer(file) for file in files]
    except UserError as error:
        raise _damaged(repo, error.__cause__ or error, files[0].resolve().parent) from error
    for file, (_, footer) in zip(files, footers, strict=True):
        names = footer.schema.to_arrow_schema().names
        if missing := [column for column in columns if column not in names]:
            found = ", ".join(names)
            raise UserError(f"the dataset {repo} has no column {missing[0]!r} in {file.name}; it has {found}")
    count = sum(footer.num_rows for _, footer in footers)
    if not count:
        raise UserError(f"the dataset {repo} has no rows in {files[0].name}")
    rows = _load(repo, files, columns, count).shuffle(seed=SEED, keep_in_memory=True)
    return Table(rows, [digest for digest, _ in footers])


def _load(repo: str, files: Sequence[Path], columns: Sequence[str], count: int) -> "Dataset":
    """Columns of parquet files in the order of their rows; `count` is how many there must be."""
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
            raise ValueError(f"{len(rows)} of {count} rows")
        return rows
    except (DatasetsError, ValueError, OSError) as error:  # Arrow's errors are among them
        if message := refusal(error, folder):
            raise message from error
        # It fails in reading the parquet files or, later, in opening its own copy of them.
        place = blobs[0].parent if isinstance(error, DatasetsError) else folder
        raise _damaged(repo, error.__cause__ or error, place) from error


def _files(repo: str, pattern: str) -> list[Path]:
    """The parquet files that match, from the cache if it holds all of them, else fetched."""
    if found := _complete(hub.cached(repo, [pattern], kind="dataset"), pattern):
        return found
    published = [file.path for file in hub.look(repo, ["*.parquet"], kind="dataset").files]
    if named := [path for path in published if fnmatch(path, pattern)]:
        if found := _complete(hub.fetch(repo, [pattern], kind="dataset"), pattern):
            return found
        raise UserError(f"the dataset {repo} is incomplete: of {pattern} it has only {', '.join(named)}")
    folders = sorted({re.sub(r"(-\d+)?-of-\d+\.parquet$", "", path) for path in published})
    raise UserError(f"the dataset {repo} has no {pattern}; it has {', '.join(folders[:8])}")


def _complete(folder: Path | None, pattern: str) -> list[Path]:
    """A folder's files of a pattern; none where their names say that some are missing (train-00000-of-00004)."""
    files = sorted(folder.glob(pattern)) if folder else []
    counts = [re.search(r"-of-(\d+)\.", file.name) for file in files]
    return files if all(int(count[1]) == len(files) for count in counts if count) else []


def _damaged(repo: str, error: BaseException, place: Path) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(f"the files of {repo} are damaged ({reason}); delete {place} and start again")
