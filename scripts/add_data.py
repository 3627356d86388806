"""Turn your own text into a dataset: shards that the tokenizer and the base model train on with --dataset NAME."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nanochat.config import alias, parse, positional
from nanochat.data import remote, shards
from nanochat.data.documents import documents
from nanochat.data.files import LeftOut, name_from, shown
from nanochat.errors import UserError, run
from nanochat.paths import dataset_dir


@dataclass
class Flags:
    """Turn text files, folders, JSONL, parquet and datasets of the hub into a dataset to train on."""

    paths: Annotated[list[Path], positional] = field(default_factory=list)
    """text, .jsonl, .json or .parquet files, text and JSON also as .gz or .zst, folders; or ORG/NAME of the hub"""
    name: str | None = None
    """the dataset's name, later given as --dataset NAME (default: from the first path)"""
    val_fraction: float = 0.1
    """fraction of the documents held out for validation"""
    column: str = "text"
    """field or column of .jsonl, .json and .parquet files that holds the text"""
    config: str | None = None
    """configuration of a hub dataset"""
    split: str = "train"
    """split of a hub dataset"""
    workers: Annotated[int, alias("-w")] = 4
    """files fetched at a time"""
    overwrite: bool = False
    """replace an existing dataset of the same name"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if not flags.paths:
        raise UserError("no data given; name text files, folders, .jsonl or .parquet files: add_data PATH…")
    remote.check_workers(flags.workers)
    first = str(flags.paths[0])
    default = remote.dataset_name(first) if remote.is_repository(first) else name_from(flags.paths[0])
    name = default if flags.name is None else flags.name
    check(name, flags.overwrite)
    paths = [file for path in flags.paths for file in here(path, flags)]
    left_out: list[LeftOut] = []
    add(documents(paths, flags.column, left_out), name, flags.val_fraction, flags.overwrite)
    for line in shown(left_out):
        print(line)


def here(path: Path, flags: Flags) -> list[Path]:
    """A path as it is, and for a dataset of the hub its files, fetched."""
    if not remote.is_repository(str(path)):
        return [path]
    listing = remote.select(remote.look(str(path)), flags.config, flags.split)
    return remote.bring(listing, flags.column, flags.workers)


def check(name: str, overwrite: bool) -> None:
    """Raise UserError where a dataset of this name must not be written."""
    shards.check_name(name)
    shards.check_replaceable(dataset_dir(name), overwrite)


def add(texts: Iterable[str], name: str, val_fraction: float = 0.1, overwrite: bool = False) -> None:
    """Write documents as the dataset `name` and print what it holds. Raises UserError as `shards.write_shards`."""
    check(name, overwrite)
    folder = dataset_dir(name)
    written = shards.write_shards(texts, folder, val_fraction=val_fraction, overwrite=overwrite)
    print(written.summary())
    print(f"written to {folder} ({written.files} shards); {shards.how_to_train(name)}")


if __name__ == "__main__":
    run(main)
