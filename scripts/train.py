"""Train with nanoGPT's flags: python -m scripts.train config/train_shakespeare_char.py --key=value; also gpt-train."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from extras.nanogpt.settings import Settings, check
from nanochat.config import alias, given, parse
from nanochat.data import urls
from nanochat.errors import UserError, run
from nanochat.paths import sha256

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from nanochat.runtime import Runtime


@dataclass
class Flags(Settings):
    """Train a GPT-2 with nanoGPT's flags, from scratch or from any model; config files come first, then flags."""

    EXAMPLE: ClassVar = "config/train_shakespeare_char.py --max_iters=500"

    data_path: str | None = None
    """text to train on, a file or a URL; it is made into token files first, which are kept"""
    val_fraction: Annotated[float | None, alias("--train-val-split")] = None
    """hold out this fraction of that text for validation; default: 0.1"""
    allow_private_urls: bool = False
    """let --data_path be a URL on a private network or this machine"""

    NO_EFFECT: ClassVar = {
        "num_workers": "batches are read from token files, which takes no time beside a step",
        "gradient_checkpointing": "a lower --batch_size with more --gradient_accumulation_steps saves memory as well",
        "fsdp": "torchrun trains with replicated weights; a lower --batch_size saves memory",
    }


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    check(flags)
    from extras.nanogpt.out_dir import resumed_settings
    from extras.nanogpt.training import train_as_nanogpt
    from nanochat import runtime
    from nanochat.data import tokens

    names = set(given(flags))
    if flags.data_path is not None and tokens.is_there(flags.data_path):  # token files already
        flags.dataset, flags.data_path = flags.data_path, None
        names.add("dataset")
    text = _text(flags)
    if text is not None:
        flags.dataset = _name(text, flags)
        names.add("dataset")
    changed: list[str] = []
    if flags.init_from == "resume":
        flags, changed = resumed_settings(flags, names)
    with runtime.start(flags.device, flags.dtype, flags.seed, flags.collective_minutes) as rt:
        if text is not None:
            make_tokens(text, flags, rt)
        train_as_nanogpt(flags, rt, changed)


def make_tokens(text: str, flags: Flags, rt: "Runtime") -> None:
    """Make the token files of a text if they are missing."""
    from nanochat.data import tokens
    from nanochat.data.prepare import prepare

    folder = tokens.home(flags.dataset)
    if rt.is_main and not (folder / "train.bin").exists():
        made = prepare(text, folder, flags.val_fraction, allow_private_urls=flags.allow_private_urls)
        counts = f"{made.train_tokens:,} + {made.val_tokens:,} tokens of GPT-2"
        rt.print(f"{text} is {counts} in {folder}: --dataset={flags.dataset}")
    rt.wait()


def _text(flags: Flags) -> str | None:
    """The text to train on, a file or a URL, if one is named. Raises UserError for a missing file."""
    from nanochat.data import tokens

    if flags.data_path is not None:
        if not urls.is_url(flags.data_path) and not os.path.isfile(flags.data_path):
            found = "has no train.bin" if os.path.isdir(flags.data_path) else "does not exist"
            raise UserError(f"--data_path {flags.data_path} {found}; expected a text file, its URL, or token files")
        return flags.data_path
    is_meant = flags.init_from != "resume" or "dataset" in given(flags)
    is_text = urls.is_url(flags.dataset) or os.path.isfile(flags.dataset)
    return flags.dataset if is_meant and is_text and not tokens.is_there(flags.dataset) else None


def _name(text: str, flags: Flags) -> str:
    """A name for the token files of a text; it contains a hash of what they are made of, so they always fit."""
    from nanochat.data.files import name_from

    is_url = urls.is_url(text)
    digest = hashlib.sha256(text.encode()).hexdigest() if is_url else sha256(Path(text))
    own = name_from(Path(urls.name_of(text) if is_url else text))
    # A name beside --data_path is what nanoLLM_gpt's users call their data.
    name = flags.dataset if flags.data_path is not None and "dataset" in given(flags) else own
    held_out = "" if flags.val_fraction is None else f"-{flags.val_fraction:g}"
    return f"{name}-{digest[:8]}{held_out}"


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
