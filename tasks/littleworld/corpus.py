"""The little world: a corpus that this project makes itself, so that every stage runs where no data hub is in reach.

`documents` is the text for base training, `tasks/littleworld/conversations.py` the conversations. Both come from seeded generators:
nothing is fetched, and the same seed gives the same bytes everywhere.
"""

from pathlib import Path

from nanochat.data import shards
from tasks.littleworld.documents import documents

__all__ = ["VERSION", "documents", "write"]

VERSION = 7  # of the text and conversations made here; raise it when any of them changes


def write(folder: Path, seed: int = 0, num_documents: int = 60_000) -> shards.Written:
    """Write the text as parquet shards; a sixteenth more documents go into the last shard, for validation."""
    return shards.write_shards(documents("train", seed, num_documents), folder,
                               val_texts=documents("val", seed, max(1, num_documents // 16)), overwrite=True)
