"""Write the little world as a dataset: `python -m tasks.littleworld`."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config import parse
from nanochat.data.shards import DEFAULT_DATASET
from nanochat.errors import run
from nanochat.paths import dataset_dir
from tasks.littleworld import corpus


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
    written = corpus.write(folder, flags.seed, flags.num_documents)
    print(f"{written.train_documents:,} documents for training and {written.val_documents:,} for validation in {folder}")


if __name__ == "__main__":
    run(main)
