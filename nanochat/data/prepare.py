"""Turns a text from a path or URL into token files, for scripts.prepare and `nanochat.prepare_data`.

A single text file is one long text: its beginning is for training and its end for validation, as in nanoGPT. Folders,
JSON, JSONL and parquet hold documents: a hash assigns each to a split, and a special token separates them.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat import chat, gpt2_tokenizer, hub
from nanochat.data import tokens, urls
from nanochat.data.documents import decoded, documents
from nanochat.data.files import LeftOut, kind_of, name_from
from nanochat.data.shards import Split, deal
from nanochat.data.tokens import NAMED
from nanochat.errors import UserError
from nanochat.log import short
from nanochat.paths import tokenizer_dir, write_atomically
from nanochat.tokenizer import Tokenizer

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
OPENWEBTEXT = "Skylion007/openwebtext"
SHAKESPEARES = ("shakespeare_char", "shakespeare")
INPUT = "input.txt"  # nanoGPT's name for Shakespeare; downloaded once

LONGEST = 1 << 20  # characters; a longer file becomes several documents
AT_ONCE = 1 << 22  # characters to encode together, on several threads
SPACELESS = 1 << 24  # characters without a space after which a text is cut anywhere


@dataclass(frozen=True)
class Prepared:
    """Token files, with the number of tokens in each; `left_out` are files of a folder that are not text."""

    name: str
    folder: Path
    tokenizer: Tokenizer
    train_tokens: int
    val_tokens: int
    left_out: list[LeftOut]


def prepare(
    source: str,
    out_dir: Path | None = None,
    val_fraction: float | None = None,
    tokenizer: str | None = None,
    column: str = "text",
    max_bytes: int = urls.MAX_BYTES,
    allow_private_urls: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Write token files for shakespeare_char, shakespeare, openwebtext, or a text at a path or URL.

    out_dir: default data/<name> if a folder data exists here, else <base>/tokens/<name>. val_fraction: fraction held
    out, default 0.1, for openwebtext 0.0005. tokenizer: gpt2 (the default), char (as for shakespeare_char), base (the
    base folder's) or a folder. column: the field of JSON and parquet that holds the text. The same source gives the
    same files. Raises UserError for a source that is missing or not text, and as `tokens.write` and `urls.fetch` do.
    """
    fraction = (0.0005 if source == "openwebtext" else 0.1) if val_fraction is None else val_fraction
    if not 0 < fraction < 1:
        raise UserError(f"--val_fraction must lie between 0 and 1, not {fraction:g}; 0.1 holds out a tenth")
    if source not in NAMED and not urls.is_url(source) and not os.path.exists(source):
        raise UserError(f"{source} does not exist; expected a path, a URL or one of {', '.join(NAMED)}")
    name = source if source in NAMED else name_from(Path(urls.name_of(source) if urls.is_url(source) else source))
    folder = tokens.home(name) if out_dir is None else out_dir
    tokens.check_free(folder, overwrite)  # before anything is downloaded
    if urls.is_url(source):
        urls.check(source, allow_private_urls)
    chosen = tokenizer or ("char" if source == "shakespeare_char" else "gpt2")
    encoder = None if chosen == "char" else _tokenizer(chosen)
    left_out: list[LeftOut] = []
    with tempfile.TemporaryDirectory(prefix="nanochat-") as scratch:
        path = _obtain(source, folder, Path(scratch), max_bytes, allow_private_urls)
        is_one_text = path.is_file() and kind_of(path) == "text"

        def texts() -> Iterator[tuple[Split, str]]:
            if is_one_text:
                return _contiguous(path, fraction)
            left_out.clear()
            read = documents([path], column, left_out, LONGEST)
            return deal((f"{text}\n" for text in read) if encoder is None else read, fraction)

        known = encoder or _characters(texts())
        ends = ([], []) if is_one_text else _ends(known)

        def beside(draft: Path) -> None:
            known.save(draft)
            if known.pattern is None:
                write_atomically(draft / "meta.pkl", lambda file: file.write(known.pickled()))
            if source in SHAKESPEARES:
                write_atomically(draft / INPUT, lambda file: file.write(path.read_bytes()))

        counts = tokens.write(folder, _encoded(texts(), known, *ends), known.vocab_size, overwrite, beside)
    return Prepared(name, folder, known, counts["train"], counts["val"], left_out)


def _obtain(source: str, folder: Path, scratch: Path, max_bytes: int, allow_private: bool) -> Path:
    """The source's file or folder, downloaded if need be."""
    if source in SHAKESPEARES:
        there = folder / INPUT
        try:
            return there if there.exists() else urls.fetch(SHAKESPEARE, scratch, max_bytes)
        except UserError as error:
            raise UserError(f"{error}; or save that text as {there} and start again") from None
    if source == "openwebtext":
        return hub.fetch(OPENWEBTEXT, ["*.parquet"], kind="dataset")
    if urls.is_url(source):
        return urls.fetch(source, scratch, max_bytes, allow_private)
    return Path(source)


def _tokenizer(name: str) -> Tokenizer:
    if name == "gpt2":
        return gpt2_tokenizer.load()
    if name == "base":
        return Tokenizer.load(tokenizer_dir())
    if not Path(name).is_dir():
        raise UserError(f"--tokenizer {name} is neither gpt2, char or base nor an existing folder")
    return Tokenizer.load(Path(name))


def _characters(texts: Iterable[tuple[Split, str]]) -> Tokenizer:
    """A tokenizer of all characters that occur."""
    seen: set[str] = set()
    for _, text in texts:
        seen.update(text)
    if not seen:
        raise UserError("there is no text to prepare: it is empty; give a file that contains text")
    return Tokenizer.characters("".join(seen))


def _ends(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens before and after a document: nanochat's begin with bos, GPT-2's end with its only special token."""
    opening = chat.opening(tokenizer)
    return opening, [] if opening or not tokenizer.specials else [tokenizer.bos]


def _encoded(
    texts: Iterator[tuple[Split, str]], tokenizer: Tokenizer, before: list[int], behind: list[int]
) -> Iterator[tuple[Split, list[int]]]:
    """The ids of each text; prints the progress every ten seconds."""
    printed, count = time.monotonic(), 0
    for batch in _batches(texts):
        encoded = tokenizer.encode_batch([text for _, text in batch])
        for (split, _), ids in zip(batch, encoded, strict=True):
            yield split, before + ids + behind
            count += len(before) + len(ids) + len(behind)
        if time.monotonic() - printed > 10:
            print(f"prepare: {short(count)} tokens", flush=True)
            printed = time.monotonic()


def _batches(texts: Iterator[tuple[Split, str]]) -> Iterator[list[tuple[Split, str]]]:
    """The texts in lists of about AT_ONCE characters."""
    batch: list[tuple[Split, str]] = []
    size = 0
    for split, text in texts:
        batch.append((split, text))
        size += len(text)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    yield batch


def _contiguous(path: Path, val_fraction: float) -> Iterator[tuple[Split, str]]:
    """One text in pieces: its first part for training, then the rest for validation.

    Encoding the pieces gives the same ids as encoding the whole: they are cut before a space that follows no other
    white space, where every tokenizer's pattern has a boundary.
    """
    border = int(sum(len(piece) for piece in decoded(path)) * (1 - val_fraction))
    waiting: dict[Split, str] = {"train": "", "val": ""}
    seen = 0
    for piece in decoded(path):
        head = max(0, border - seen)
        seen += len(piece)
        sides: list[tuple[Split, str]] = [("train", piece[:head]), ("val", piece[head:])]
        for split, part in sides:
            if part:
                text = waiting[split] + part
                cut = _boundary(text)
                yield split, text[:cut]
                waiting[split] = text[cut:]
    yield from waiting.items()


def _boundary(text: str) -> int:
    """The last position at which a text may be cut, or 0."""
    place = text.rfind(" ")
    while place > 0 and text[place - 1].isspace():
        place = text.rfind(" ", 0, place)
    return len(text) if place <= 0 and len(text) > SPACELESS else max(place, 0)
