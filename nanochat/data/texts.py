"""Datasets by their names, one or several mixed by weight: `mine`, or `climbmix:0.7` and `mine:0.3`.

A weight is a share of the tokens, for a document may be a line in one dataset and a book in another.
"""

from collections.abc import Sequence

from nanochat.data.shards import Split, TextReader
from nanochat.data.streams import MixedSource, Source, TextSource
from nanochat.errors import UserError
from nanochat.paths import dataset_dir
from nanochat.tokenizer import Tokenizer

SAMPLED_GROUPS, SAMPLED_DOCUMENTS = 16, 64  # row groups of a dataset that are looked at, and documents of each


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
    """One split of a dataset, or of several: the training split shuffled where there is a `seed`, all else in order.

    The weights of several are shares of the tokens. Raises as `weights` and TextReader do.
    """
    seed = seed if split == "train" else None
    readers = [(TextReader(dataset_dir(name), split), weight) for name, weight in weights(datasets).items()]
    if len(readers) == 1:
        return TextSource(readers[0][0], tokenizer, seed)
    return MixedSource([
        (TextSource(reader, tokenizer, seed), weight / tokens_per_document(reader, tokenizer))
        for reader, weight in readers
    ])


def tokens_per_document(reader: TextReader, tokenizer: Tokenizer) -> float:
    """How many tokens a document has on average, bos included, estimated from some that lie evenly over the split."""
    tokens = documents = 0.0
    count = min(SAMPLED_GROUPS, len(reader.groups))
    for group in (reader.groups[n * len(reader.groups) // count] for n in range(count)):
        texts, rows = reader.load(group), min(SAMPLED_DOCUMENTS, group.rows)
        chosen = [texts[n * group.rows // rows].as_py() or "" for n in range(rows)]
        lengths = [len(ids) for ids in tokenizer.encode_arrays(chosen, prepend=tokenizer.bos)]
        tokens += sum(lengths) / rows * group.rows
        documents += group.rows
    return tokens / documents


def mixture(datasets: Sequence[str]) -> str:
    """The shares of several datasets, as in 0.7:0.3, whatever their names are."""
    values = weights(datasets).values()
    return ":".join(f"{weight / sum(values):g}" for weight in values)
