"""What a value from the page may name: files, folders and models below the folders named at the start, nothing else.

A field that holds text is either listed here by what it names, or it may hold a plain name only (`PLAIN`), which is no
path. So a flag that is added to a stage later is safe before anybody has thought of it.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from extras.dashboard.flags import Places
from nanochat.errors import UserError, shown
from nanochat.paths import LONGEST_TAG, SOURCES, check_tag

# Letters of any language, digits, and what stands in a:0.7, d3-mine, spelling|counting and mlp.c_proj. No slash, and no
# minus at the beginning, where a command line would take it for a flag.
PLAIN = re.compile(r"(?![-.])[\w.:|+ -]*")
PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # which every client may have the server fetch

Kind = Literal["name", "model", "file", "text", "out_dir"]
# What a field names, by its name: for these a path is expected, or allowed.
KINDS: dict[str, Kind] = {
    "source": "model", "init_from": "model", "teacher": "model", "out_dir": "out_dir",
    "data_path": "file", "val_data_path": "file", "paths": "file",
}  # fmt: skip
OF_STAGE: dict[tuple[str, str], Kind] = {("train", "dataset"): "text"}
# Where the stage's own default is a path, which has to be below the folders as well.
DEFAULTS = {"train": {"out_dir": "out"}}
# Flags that only the owner of the machine may set.
REFUSED = {
    ("train", "allow_private_urls"): "would let a page read from the server's network",
    ("tok_train", "overwrite"): "would make every model of this tokenizer unusable",
}


def kind_of(stage: str, name: str, is_path: bool) -> Kind:
    """What a field names. A path that is not listed is a file."""
    return OF_STAGE.get((stage, name), KINDS.get(name, "file" if is_path else "name"))


def checked(stage: str, name: str, value: str, kind: Kind, places: Places) -> str:
    """A value as it may stand in a command: paths absolute, with their links resolved. Raises UserError if it may not.

    name: the field's, for the message.
    """
    if not value.isprintable() or len(value) > 4096 or not _can_be_encoded(value):
        raise UserError(f"--{name} is {shown(value)}; expected printable characters, at most 4096")
    match kind:
        case "model":
            return _model(stage, name, value, places)
        case "out_dir":
            return str(out_dir(name, value, places))
        case "file":
            return str(below(name, value, [places.uploads, *places.folders]))
        case "text":
            return _text(name, value, places)
        case _:
            if not PLAIN.fullmatch(value) or len(value) > LONGEST_TAG:
                raise UserError(f"--{name} is {shown(value)}; from the page it can only be a name, without slashes")
            return value


def below(name: str, value: str, roots: Iterable[Path]) -> Path:
    """The file or folder of that path below one of the roots, links resolved.

    Raises UserError, the same for what is not there and for what may not be read, so that nobody can probe for files.
    """
    roots = [Path(os.path.realpath(root)) for root in roots]
    for root in roots:
        path = Path(os.path.realpath(root / value))  # of an absolute value it is that path
        if path != root and path.is_relative_to(root) and path.exists():
            return path
    raise UserError(
        f"--{name} {shown(value)} is not in a folder that the page may read; upload it, or start the server with "
        "--folder and the folder that it is in"
    )


def out_dir(name: str, value: str, places: Places) -> Path:
    """The out_dir of a run of scripts.train, new or not. Raises UserError if it is not below the folders for these."""
    roots = [Path(os.path.realpath(root)) for root in places.out_dirs]
    for root in roots:
        path = Path(os.path.realpath(root / value))
        if path.is_relative_to(root) and (path != root or (path / "config.json").exists()):
            return path
    raise UserError(
        f"--{name} {shown(value)} is not below {roots[0]}; give a name such as my-run, or start the server with "
        "--out_dir"
    )


def _model(stage: str, name: str, value: str, places: Places) -> str:
    """A model by its name or its path: sft:d3, out:my-run, gpt2, a folder."""
    kind, _, rest = value.partition(":")
    if value in PUBLISHED or stage == "train" and value in ("scratch", "resume"):
        return value
    if kind in SOURCES:
        tag, colon, step = rest.partition(":")
        if rest:
            check_tag(name, tag)
        if colon and not (step.isascii() and step.isdecimal()):
            raise UserError(f"--{name} {shown(value)} names no checkpoint; expected stage:tag:step, as in sft:d3:700")
        return value
    if kind == "out" and rest:  # by the name of its folder, as the views of runs and models have it
        shown_there = [path for path in places.watched if path.name == rest and (path / "ckpt.pt").exists()]
        return os.path.realpath(shown_there[0]) if shown_there else str(below(name, rest, places.out_dirs))
    return str(below(name, value, [*places.out_dirs, places.uploads, *places.folders]))


def _text(name: str, value: str, places: Places) -> str:
    """A dataset of token files by its name, or a text or token files by their path."""
    if PLAIN.fullmatch(value) and value and not os.path.exists(value):
        return value
    for folder in (Path("data"), places.base / "tokens"):
        if PLAIN.fullmatch(value) and (folder / value / "train.bin").is_file():
            return value
    return str(below(name, value, [places.uploads, *places.folders]))


def _can_be_encoded(value: str) -> bool:
    """Whether a command line can hold a text; half of a surrogate pair it cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
