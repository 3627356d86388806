"""Datasets by their names, one or several mixed by weight: `mine`, or `climbmix:0.7` and `mine:0.3`."""

import hashlib
from collections.abc import Sequence

from nanochat.config import UserError
from nanochat.data import shards
from nanochat.data.shards import Split, TextReader
from nanochat.data.streams import MixedSource, Source, TextSource
from nanochat.paths import dataset_dir
from nanochat.tokenizer import Tokenizer


def weights(datasets: Sequence[str]) -> dict[str, float]:
    """Each dataset's name with its weight, 1 where none is given. Raises UserError for what cannot be meant."""
    found: dict[str, float] = {}
    for dataset in datasets:
        name, colon, number = dataset.partition(":")
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < float("inf"):
            raise UserError(f"--dataset {dataset!r} is no NAME or NAME:WEIGHT with a weight above 0, as in mine:0.3")
        if name in found:
            raise UserError(f"--dataset names {name} twice; give each dataset once, with one weight")
        found[name] = weight
    if not found:
        raise UserError("--dataset names no dataset; give the name that add_data was given")
    return found


def text_source(datasets: Sequence[str], split: Split, tokenizer: Tokenizer, seed: int | None = None) -> Source:
    """One split of a dataset, or of several: shuffled for training where there is a `seed`, else in order.

    Raises as `weights` and TextReader do.
    """
    parts = [
        (TextSource(TextReader(dataset_dir(name), split), tokenizer, seed), weight)
        for name, weight in weights(datasets).items()
    ]
    return parts[0][0] if len(parts) == 1 else MixedSource(parts)


def fingerprint(datasets: Sequence[str]) -> str:
    """A hex hash of the validation texts, by which a run knows its data again; of one dataset that of its shard."""
    found = [shards.fingerprint(dataset_dir(name), "val") for name in weights(datasets)]
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()
