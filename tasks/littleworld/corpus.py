"""The text of the little world, written as a dataset."""

from pathlib import Path

from nanochat.data import shards
from tasks.littleworld.documents import documents

__all__ = ["documents", "write"]


def write(folder: Path, seed: int = 0, num_documents: int = 60_000) -> shards.Written:
    """Write the text as parquet shards; a sixteenth more documents go into the last shard, for validation."""
    return shards.write_shards(documents("train", seed, num_documents), folder,
                               val_texts=documents("val", seed, max(1, num_documents // 16)), overwrite=True)
