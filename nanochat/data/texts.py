"""Datasets by their names or URLs, one or several mixed by weight: `mine`, or `s3://lab/climbmix:0.7` and `mine:0.3`.

A weight is a fraction of the tokens, not of the documents: those may be lines in one dataset and books in another.
"""

from collections.abc import Sequence

from nanochat.data import stores
from nanochat.data.shards import Split, TextReader
from nanochat.data.streams import MixedSource, Source, TextSource
from nanochat.data.urls import is_url
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

SAMPLED_GROUPS, SAMPLED_DOCUMENTS = 16, 64  # row groups sampled per dataset, and documents from each


def weights(datasets: Sequence[str]) -> dict[str, float]:
    """Each dataset's name with its weight, by default 1. Raises UserError for invalid or repeated names and weights."""
    found: dict[str, float] = {}
    for dataset in datasets:
        name, colon, number = dataset.rpartition(":") if is_url(dataset) else dataset.partition(":")
        if number.startswith("//"):  # of a URL without a weight
            name, colon, number = dataset, "", ""
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < float("inf"):
            raise UserError(f"--dataset {dataset!r} is not NAME or NAME:WEIGHT with a weight above 0, as in mine:0.3")
        if name in found:
            raise UserError(f"--dataset names {name} twice; give each dataset once, with one weight")
        found[name] = weight
    if not found:
        raise UserError("--dataset is empty; give the name that add_data printed")
    return found


def text_source(datasets: Sequence[str], split: Split, tokenizer: Tokenizer, seed: int | None = None) -> Source:
    """One split of one or several datasets; with a `seed` the training split is shuffled, validation never is.

    Raises as `weights` and TextReader do.
    """
    seed = seed if split == "train" else None
    readers = [(TextReader(stores.dataset(name), split), weight) for name, weight in weights(datasets).items()]
    if len(readers) == 1:
        return TextSource(readers[0][0], tokenizer, seed)
    parts = [(TextSource(reader, tokenizer, seed), weight / tokens_per_document(reader, tokenizer))
             for reader, weight in readers]  # fmt: skip
    return MixedSource(parts)


def tokens_per_document(reader: TextReader, tokenizer: Tokenizer) -> float:
    """The mean tokens per document, bos included, estimated from a sample spread evenly over the split."""
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
    """The fractions of several datasets, as in 0.7:0.3, without their names."""
    values = weights(datasets).values()
    return ":".join(f"{weight / sum(values):g}" for weight in values)
