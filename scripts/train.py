"""Train by nanoGPT's ways: python -m scripts.train config/train_shakespeare_char.py --key=value; also gpt-train."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat import runtime
from nanochat.config import parse, run
from nanochat.data import tokens
from nanochat.data.files import name_from
from nanochat.paths import sha256
from nanochat.prepare import prepare
from nanochat.runtime import Runtime
from nanochat.train.nanogpt import Settings, check, train_as_nanogpt


@dataclass
class Flags(Settings):
    """Train a GPT-2 by nanoGPT's settings, from scratch or from any model; from config files, then flags."""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    check(flags)
    with runtime.start(flags.device, flags.dtype, flags.seed) as rt:
        if os.path.isfile(flags.dataset) and not tokens.is_there(flags.dataset):
            flags.dataset = prepared(Path(flags.dataset), rt)
        train_as_nanogpt(flags, rt)


def prepared(text: Path, rt: Runtime) -> str:
    """The name of a text's token files, made where they are missing. The name tells the text, so they always fit it."""
    name = f"{name_from(text)}-{sha256(text)[:8]}"
    folder = tokens.home(name)
    if rt.is_main and not (folder / "train.bin").exists():
        made = prepare(str(text), folder)
        rt.print(f"{text} is {made.train_tokens:,} + {made.val_tokens:,} tokens of GPT-2 in {folder}: --dataset={name}")
    rt.wait()
    return name


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
