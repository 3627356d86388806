"""Turn a text into token files, for python -m scripts.train and for nanoGPT."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from nanochat.config import parse, positional
from nanochat.data import urls
from nanochat.errors import run

if TYPE_CHECKING:
    from nanochat.data.prepare import Prepared

RECIPES = {"shakespeare_char": "train_shakespeare_char", "shakespeare": "finetune_shakespeare",
           "openwebtext": "train_gpt2"}  # fmt: skip


@dataclass
class Flags:
    """Write train.bin and val.bin for shakespeare_char, shakespeare, openwebtext, or a text at a path or URL."""

    EXAMPLE: ClassVar = "shakespeare.txt --tokenizer char"

    source: Annotated[str, positional]
    """a name, a folder, a URL, or a text, .jsonl, .json or .parquet file (text and JSON also as .gz or .zst)"""
    out_dir: Path | None = None
    """output folder; default: data/<name> if there is a folder data, else tokens/<name> in the base folder"""
    val_fraction: float | None = None
    """fraction held out for validation; default: 0.1, for openwebtext 0.0005"""
    tokenizer: str | None = None
    """tokenizer: gpt2, char (one token per character), base (made by tok_train) or a folder; default: gpt2"""
    column: str = "text"
    """field or column that holds the text in .jsonl, .json and .parquet files"""
    max_bytes: int = urls.MAX_BYTES
    """largest download from a URL, in bytes"""
    allow_private_urls: bool = False
    """allow URLs on private networks and this machine"""
    overwrite: bool = False
    """replace existing token files"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)

    from nanochat.data.files import shown  # slow to import, so not before the flags are known
    from nanochat.data.prepare import prepare

    made = prepare(
        flags.source, flags.out_dir, flags.val_fraction, flags.tokenizer, flags.column, flags.max_bytes,
        flags.allow_private_urls, flags.overwrite,
    )  # fmt: skip
    for line in shown(made.left_out):
        print(line)
    kind = "characters" if made.tokenizer.pattern is None else "tokens"
    print(f"{made.name}: a vocabulary of {made.tokenizer.vocab_size:,} {kind}")
    print(f"  train  {made.train_tokens:,} tokens")
    print(f"  val    {made.val_tokens:,} tokens")
    print(f"written to {made.folder}; train on it with")
    print(f"  python -m scripts.train {_arguments(made, flags)}")


def here(folder: Path) -> None:
    """What data/NAME/prepare.py of this checkout does, wherever it is started: the files go into its own folder."""
    os.chdir(folder.parent.parent)
    run(lambda: main([folder.name, *sys.argv[1:]]))


def _arguments(made: "Prepared", flags: Flags) -> str:
    """The recipe for the dataset, or the nearest one; it starts from the model whose tokenizer was taken."""
    from nanochat.checkpoint import door

    dataset = made.name if flags.out_dir is None else str(flags.out_dir)
    near = "shakespeare_char" if made.tokenizer.pattern is None else "shakespeare"
    fits = made.tokenizer.pattern is not None or made.name == near  # GPT-2 cannot be fine-tuned on single characters
    recipe = f"config/{RECIPES[made.name if fits and made.name in RECIPES else near]}.py"
    rest = [f"--dataset={dataset}", f"--out_dir=out-{made.name}"]
    if flags.tokenizer and door.recognise(Path(flags.tokenizer)):
        rest.append(f"--init_from={flags.tokenizer}")
    return recipe if dataset in RECIPES else f"{recipe} {shlex.join(rest)}"


if __name__ == "__main__":
    run(main)
