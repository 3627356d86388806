"""Models that the original programs made, for those who load them; the folder may lie beside the checkout."""

import shutil
from pathlib import Path

import pytest

from nanochat.checkpoint import door
from nanochat.tokenizer import Tokenizer

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
NAMES = ["classic", "modern", "gpt2", "nanogpt", "hf_nanochat"]
fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the originals' models are not at {FIXTURES}")


def numbered(vocab_size: int) -> Tokenizer:
    """For fixtures that have no tokenizer: as many tokens, of whatever text."""
    return Tokenizer.characters("".join(map(chr, range(0x4E00, 0x4E00 + vocab_size))))


def copied(name: str, tmp_path: Path) -> str:
    """The name by which a user opens a copy of a fixture."""
    folder = tmp_path / name
    shutil.copytree(FIXTURES / name, folder)
    if name in ("classic", "modern"):
        (checkpoint,) = (folder / "base_checkpoints").iterdir()
        shutil.copytree(folder / "tokenizer", checkpoint / "tokenizer")
        return str(checkpoint)
    if name in ("nanogpt", "hf_nanochat"):
        numbered(512).save(folder / "tokenizer" if name == "hf_nanochat" else folder)
    return str(folder)


def opened(name: str, tmp_path: Path):
    """A fixture, loaded as a user would who copied it."""
    return door.open(copied(name, tmp_path))
