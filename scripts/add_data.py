"""Turn your own text into a dataset: shards that the tokenizer and the base model train on with --dataset NAME."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from nanochat.config import alias, parse, positional
from nanochat.errors import UserError, run
from nanochat.paths import dataset_dir


@dataclass
class Flags:
    """Turn text files, folders, JSONL, parquet or a dataset of the hub into a dataset to train on."""

    EXAMPLE: ClassVar = "books/ notes.txt --name mine"

    paths: Annotated[list[Path], positional] = field(default_factory=list)
    """text, .jsonl, .json or .parquet files (text and JSON also as .gz or .zst), folders, or ORG/NAME on the hub"""
    name: str | None = None
    """dataset name, later given as --dataset NAME; default: taken from the first path"""
    val_fraction: float = 0.1
    """fraction of the documents held out for validation"""
    column: str = "text"
    """field or column that holds the text in .jsonl, .json and .parquet files"""
    config: str | None = None
    """configuration to take from a hub dataset"""
    split: str = "train"
    """split to take from a hub dataset"""
    workers: Annotated[int, alias("-w")] = 4
    """number of files to fetch at a time"""
    overwrite: bool = False
    """replace an existing dataset of the same name"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if not flags.paths:
        raise UserError("no data given; name text files, folders, .jsonl or .parquet files: add_data PATH…")

    from nanochat.data.documents import documents
    from nanochat.data.files import LeftOut, name_from, shown
    from scripts import _hub_text as hub_text  # slow to import, so not before the flags are known

    hub_text.check_workers(flags.workers)
    first = str(flags.paths[0])
    default = hub_text.dataset_name(first) if hub_text.is_repository(first) else name_from(flags.paths[0])
    name = default if flags.name is None else flags.name
    check(name, flags.overwrite)
    files: list[Path] = []
    for path in flags.paths:
        if hub_text.is_repository(str(path)):
            listing = hub_text.select(hub_text.look(str(path)), flags.config, flags.split)
            files += hub_text.bring(listing, flags.column, flags.workers)
        else:
            files.append(path)
    left_out: list[LeftOut] = []
    add(documents(files, flags.column, left_out), name, flags.val_fraction, flags.overwrite)
    for line in shown(left_out):
        print(line)


def check(name: str, overwrite: bool) -> None:
    """Raise UserError where a dataset of this name must not be written."""
    from nanochat.data import shards

    shards.check_name(name)
    shards.check_replaceable(dataset_dir(name), overwrite)


def add(texts: Iterable[str], name: str, val_fraction: float = 0.1, overwrite: bool = False) -> None:
    """Write documents as the dataset `name` and print what it holds. Raises UserError as `shards.write_shards`."""
    from nanochat.data import shards

    check(name, overwrite)
    folder = dataset_dir(name)
    written = shards.write_shards(texts, folder, val_fraction=val_fraction, overwrite=overwrite)
    print(written.summary())
    print(f"written to {folder} ({written.files} shards); {shards.how_to_train(name, written.train_chars)}")


if __name__ == "__main__":
    run(main)
