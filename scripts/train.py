"""Train by nanoGPT's ways: python -m scripts.train config/train_shakespeare_char.py --key=value; also gpt-train."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat import runtime
from nanochat.config import parse, run
from nanochat.train.nanogpt import Settings, train_as_nanogpt


@dataclass
class Flags(Settings):
    """Train a GPT-2 by nanoGPT's settings, from scratch or from any model; from config files, then flags."""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device, flags.dtype, flags.seed) as rt:
        train_as_nanogpt(flags, rt)


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
