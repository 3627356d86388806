"""Train the tokenizer on the text of a dataset."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nanochat import foreign_tokenizers, paths
from nanochat.config import changes, parse
from nanochat.errors import UserError, run

if TYPE_CHECKING:  # imported after the flags were parsed, since it takes a while
    from nanochat.tokenizer import Tokenizer


@dataclass
class Flags:
    """Train the tokenizer on the training text of a dataset."""

    EXAMPLE: ClassVar = "--dataset mine --vocab_size 4096"

    dataset: str = paths.DEFAULT_DATASET
    """dataset whose training split to read"""
    vocab_size: int = 32768
    """number of tokens, including the 256 bytes and the special tokens"""
    max_chars: int = 10_000_000_000
    """stop reading after this many characters"""
    doc_cap: int = 10_000
    """read at most this many characters per document"""
    overwrite: bool = False
    """replace the tokenizer even if checkpoints need it; they become unusable"""
    check: bool = False
    """only check whether a new tokenizer may be saved; train nothing"""


@dataclass
class Seen:
    """How much text the tokenizer learned from."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for name in ("max_chars", "doc_cap"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 1 or more")
    folder = paths.tokenizer_dir()
    if not flags.overwrite:
        refuse_early(folder, flags.vocab_size)
    if not flags.check:
        train(flags, folder)


def train(flags: Flags, folder: Path) -> None:
    from nanochat import chat
    from nanochat.report.sections import write_section
    from nanochat.tokenizer import Tokenizer

    seen = Seen()
    started = time.monotonic()
    tokenizer = Tokenizer.train(texts(flags, seen), flags.vocab_size, chat.SPECIALS)
    seconds = time.monotonic() - started
    print(f"learned {tokenizer.vocab_size - 256 - len(chat.SPECIALS):,} merges in {seconds - seen.seconds:.1f}s")

    print(keep(tokenizer, folder, flags.overwrite))
    longest = sorted(tokenizer.tokens, key=len, reverse=True)[:8]
    mean = sum(tokenizer.token_bytes) / len(tokenizer.tokens)
    print(f"  vocabulary  {tokenizer.vocab_size:,} tokens, {len(chat.SPECIALS)} of them special")
    print(f"  token size  {mean:.2f} bytes on average, {len(longest[0])} at most")
    print("  longest     " + " ".join(repr(token.decode("utf-8", errors="replace")) for token in longest))
    write_section("tok_train", {
        "flags": changes(flags),
        "seconds": round(seconds, 1),
        "vocab_size": tokenizer.vocab_size,
        "documents": seen.documents,
        "characters": seen.characters,
        "bytes": seen.bytes,
        "hash": tokenizer.hash,
    })  # fmt: skip


def texts(flags: Flags, seen: Seen) -> Iterator[str]:
    """The text to learn from, with progress shown; counts it in `seen`."""
    from nanochat.data import shards, stores
    from nanochat.log import Progress, short

    folder = stores.dataset(flags.dataset)
    total = shards.TextReader(folder, "train").num_documents
    started = time.monotonic()
    with Progress(total, "tok_train", unit="documents") as progress:
        for document in shards.iterate(folder, "train"):
            text = document[: min(flags.doc_cap, flags.max_chars - seen.characters)]
            seen.documents += 1
            seen.characters += len(text)
            seen.bytes += len(text.encode("utf-8"))
            yield text
            seen.seconds = time.monotonic() - started
            enough = seen.characters >= flags.max_chars
            if seen.documents % 256 == 0 or seen.documents == total or enough:
                progress.update(seen.documents, char_per_second=seen.characters / max(seen.seconds, 1e-9))
            if enough:
                break
    print(f"read {seen.documents:,} documents, {short(seen.characters)} characters of {folder}; learning merges")


def refuse_early(folder: Path, vocab_size: int) -> None:
    """Raise UserError if `keep` would certainly refuse to save the result.

    Whether a tokenizer of the same size, pattern and special tokens is the same is only known after training.
    """
    from nanochat import chat
    from nanochat.tokenizer import SPLIT_PATTERN

    current = existing(folder)
    new = (vocab_size, SPLIT_PATTERN, chat.SPECIALS)
    if current and (current.vocab_size, current.pattern, list(current.specials)) == new:
        return
    if users := users_of(lambda recorded: current is not None and recorded == current.hash):
        raise refusal(folder, current, users)


def keep(tokenizer: "Tokenizer", folder: Path, overwrite: bool) -> str:
    """Save the tokenizer unless it is already there; returns a sentence about what was done.

    Raises UserError if checkpoints need the current one, unless `overwrite` is set.
    """
    name, current = f"tokenizer {tokenizer.hash[:12]}", existing(folder)
    if current and current.hash == tokenizer.hash:
        return f"{name} is the one in {folder} already"

    def needs_current(recorded: str) -> bool:
        if current:
            return recorded == current.hash
        return foreign_tokenizers.holds(folder) and recorded != tokenizer.hash

    users = users_of(needs_current)
    if users and not overwrite:
        raise refusal(folder, current, users)
    tokenizer.save(folder)
    replaced = f", in place of {current.hash[:12]}" if current else ""
    return f"{name} saved in {folder}{replaced}" + (f"; now unusable: {', '.join(users)}" if users else "")


def existing(folder: Path) -> "Tokenizer | None":
    """The tokenizer of a folder; None if it is missing or unreadable."""
    from nanochat.tokenizer import Tokenizer

    try:
        return Tokenizer.load(folder)
    except UserError:
        return None


def users_of(needs: Callable[[str], bool]) -> list[str]:
    """The models that need the tokenizer of the base folder, as "<source> <tag>".

    A checkpoint needs it if none lies beside it and `needs` is true of the hash that it records. Checkpoints of the
    original record no hash, and a meta file that cannot be read may hold any, so these always need it.
    """
    from nanochat.checkpoint import manager

    users = []
    for source in paths.SOURCES:
        for folder in sorted(paths.checkpoints_dir(source).glob("*")):
            metas = [path.name for path in folder.glob("meta_*.json")]
            steps = sorted(int(found[1]) for name in metas if (found := re.fullmatch(r"meta_(\d{6,})\.json", name)))
            if steps and manager.tokenizer_folder(folder) == paths.tokenizer_dir():
                remarks = [_need(folder, step, needs) for step in steps]
                if needed := [remark for remark in remarks if remark is not None]:
                    users.append(f"{source} {folder.name}{next(filter(None, needed), '')}")
    return users


def _need(folder: Path, step: int, needs: Callable[[str], bool]) -> str | None:
    """Why a checkpoint needs the tokenizer, '' in the usual case; None if it does not."""
    from nanochat.checkpoint import manager

    try:
        recorded = manager.read_meta(folder, step).get("tokenizer_hash")
    except UserError:
        return f" (the meta file of step {step} cannot be read)"
    if not isinstance(recorded, str) or not recorded:
        return " (records no tokenizer hash)"
    return "" if needs(recorded) else None


def refusal(folder: Path, current: "Tokenizer | None", users: list[str]) -> UserError:
    """Why the tokenizer of `folder` is not replaced."""
    found = f"holds tokenizer {current.hash[:12]}" if current else "holds no readable tokenizer"
    return UserError(
        f"{folder} {found}, but models need theirs there: {', '.join(users)}; set NANOCHAT_BASE_DIR to another "
        "folder for a new tokenizer, or make these models unusable with scripts.tok_train --overwrite"
    )


if __name__ == "__main__":
    run(main)
