"""Train the tokenizer on the text of a dataset."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat import chat, paths, report
from nanochat.checkpoint import manager
from nanochat.config import UserError, changes, parse, run
from nanochat.data import shards
from nanochat.log import Progress, short
from nanochat.tokenizer import Tokenizer


@dataclass
class Flags:
    """Train the tokenizer on the training text of a dataset."""

    dataset: str = shards.DEFAULT_DATASET
    """whose training split to read"""
    vocab_size: int = 32768
    """number of tokens, the 256 bytes and the special tokens included"""
    max_chars: int = 10_000_000_000
    """stop reading after this many characters"""
    doc_cap: int = 10_000
    """read this many characters of a document at most"""
    overwrite: bool = False
    """replace a tokenizer that checkpoints were trained with; they no longer load then"""


@dataclass
class Seen:
    """How much text the tokenizer learnt from."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for name in ("max_chars", "doc_cap"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; it must be at least 1")
    folder = paths.tokenizer_dir()
    seen = Seen()
    started = time.monotonic()
    tokenizer = Tokenizer.train(texts(flags, seen), flags.vocab_size, chat.SPECIALS)
    seconds = time.monotonic() - started
    print(f"learnt {tokenizer.vocab_size - 256 - len(chat.SPECIALS):,} merges in {seconds - seen.seconds:.1f}s")

    print(keep(tokenizer, folder, flags.overwrite))
    longest = sorted(tokenizer.tokens, key=len, reverse=True)[:8]
    mean = sum(tokenizer.token_bytes) / len(tokenizer.tokens)
    print(f"  vocabulary  {tokenizer.vocab_size:,} tokens, {len(chat.SPECIALS)} of them special")
    print(f"  token size  {mean:.2f} bytes on average, {len(longest[0])} at most")
    print("  longest     " + " ".join(repr(token.decode("utf-8", errors="replace")) for token in longest))
    report.write_section("tok_train", {
        "flags": changes(flags),
        "seconds": round(seconds, 1),
        "vocab_size": tokenizer.vocab_size,
        "documents": seen.documents,
        "characters": seen.characters,
        "bytes": seen.bytes,
        "hash": tokenizer.hash,
    })  # fmt: skip


def texts(flags: Flags, seen: Seen) -> Iterator[str]:
    """The text to learn from, with progress shown; `seen` is filled on the way."""
    folder = paths.dataset_dir(flags.dataset)
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


def keep(tokenizer: Tokenizer, folder: Path, overwrite: bool) -> str:
    """Save the tokenizer unless the same one is there already; what was done, in a sentence.

    Raises UserError rather than take the tokenizer of existing checkpoints away, unless that is asked for.
    """
    name = f"tokenizer {tokenizer.hash[:12]}"
    try:
        before = Tokenizer.load(folder).hash
    except UserError:  # none yet, or one that is of no use
        before = None
    if before == tokenizer.hash:
        return f"{name} is the one in {folder} already"
    users = manager.trained_with(before) if before is not None else []
    if users and not overwrite:
        raise UserError(
            f"{folder} holds tokenizer {before[:12] if before else ''}, which {', '.join(users)} was trained with; "
            "set NANOCHAT_BASE_DIR to another folder for another tokenizer, or give these checkpoints up by --overwrite"
        )
    tokenizer.save(folder)
    return f"{name} saved in {folder}" + (f", in place of {before[:12]}" if before else "")


if __name__ == "__main__":
    run(main)
