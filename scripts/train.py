"""Train with nanoGPT's flags: python -m scripts.train config/train_shakespeare_char.py --key=value; also gpt-train."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from extras.nanogpt.settings import Settings, check
from nanochat.config import given, parse
from nanochat.errors import run
from nanochat.paths import sha256

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from nanochat.runtime import Runtime


@dataclass
class Flags(Settings):
    """Train a GPT-2 with nanoGPT's flags, from scratch or from any model; config files come first, then flags."""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    check(flags)
    from extras.nanogpt.out_dir import resumed_settings
    from extras.nanogpt.training import train_as_nanogpt
    from nanochat import runtime
    from nanochat.data.files import name_from

    text = Path(flags.dataset) if _is_text(flags) else None
    if text is not None:
        # The name contains a hash of the text, so its token files always fit it.
        flags.dataset = f"{name_from(text)}-{sha256(text)[:8]}"
    changed: list[str] = []
    if flags.init_from == "resume":
        flags, changed = resumed_settings(flags, given(flags))
    with runtime.start(flags.device, flags.dtype, flags.seed) as rt:
        if text is not None:
            make_tokens(text, flags.dataset, rt)
        train_as_nanogpt(flags, rt, changed)


def make_tokens(text: Path, name: str, rt: "Runtime") -> None:
    """Make the token files of a text if they are missing."""
    from nanochat.data import tokens
    from nanochat.data.prepare import prepare

    folder = tokens.home(name)
    if rt.is_main and not (folder / "train.bin").exists():
        made = prepare(str(text), folder)
        rt.print(f"{text} is {made.train_tokens:,} + {made.val_tokens:,} tokens of GPT-2 in {folder}: --dataset={name}")
    rt.wait()


def _is_text(flags: Flags) -> bool:
    from nanochat.data import tokens

    is_meant = flags.init_from != "resume" or "dataset" in given(flags)
    return is_meant and os.path.isfile(flags.dataset) and not tokens.is_there(flags.dataset)


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
