"""Write the little world as a dataset: `python -m nanochat.data.tinyworld`."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config import parse, run
from nanochat.data import tinyworld
from nanochat.data.shards import DEFAULT_DATASET
from nanochat.paths import dataset_dir


@dataclass
class Flags:
    """Write the text of the little world as shards, replacing what was there."""

    seed: int = 0
    """decides every sentence"""
    num_documents: int = 60_000
    """for training; a sixteenth more are for validation"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    folder = dataset_dir(DEFAULT_DATASET)
    written = tinyworld.write(folder, flags.seed, flags.num_documents)
    print(f"{written.train_documents:,} documents for training and {written.val_documents:,} for validation in {folder}")


if __name__ == "__main__":
    run(main)
