"""Turn your own text into a dataset: shards that the tokenizer and the base model train on with --dataset NAME."""

import codecs
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nanochat.config import UserError, parse, positional, run
from nanochat.data import shards
from nanochat.paths import dataset_dir

# Longest document made of a text file, in characters: about two contexts of the default model. A longer file becomes
# several documents, so that training can shuffle them and validation gets its share of a single book.
DOCUMENT_CHARS = 4000


@dataclass
class Flags:
    """Turn text files, folders, JSONL and parquet into a dataset to train on."""

    paths: Annotated[list[Path], positional] = field(default_factory=list)
    """text files, folders (all files in them but hidden ones), .jsonl and .parquet"""
    name: str | None = None
    """the dataset's name, later given as --dataset NAME (default: from the first path)"""
    val_fraction: float = 0.1
    """part of the documents held out for validation"""
    column: str = "text"
    """where .jsonl and .parquet files hold the text"""
    overwrite: bool = False
    """replace an existing dataset of this name"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if not flags.paths:
        raise UserError("no data given; name text files, folders, .jsonl or .parquet files: add_data PATH…")
    name = name_from(flags.paths[0]) if flags.name is None else flags.name
    skipped: list[Path] = []
    add(documents(flags.paths, flags.column, skipped), name, flags.val_fraction, flags.overwrite)
    if skipped:
        print(f"left out {len(skipped)} binary files, the first is {skipped[0]}")


def add(texts: Iterable[str], name: str, val_fraction: float = 0.1, overwrite: bool = False) -> None:
    """Write documents as the dataset `name` and print what it holds. Raises UserError as `shards.write_shards`."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name!r} cannot be a dataset's name; use letters, digits, dots, dashes, underscores")
    if name == shards.DEFAULT_DATASET:
        raise UserError(f"--name {name} is the name of the embedded dataset; choose another with --name")
    folder = dataset_dir(name)
    written = shards.write_shards(texts, folder, val_fraction=val_fraction, overwrite=overwrite)
    chars = written.train_chars + written.val_chars
    print(f"{written.train_documents + written.val_documents:,} documents, {chars:,} characters")
    print(f"  train       {written.train_documents:,} documents, {written.train_chars:,} characters")
    print(f"  validation  {written.val_documents:,} documents, {written.val_chars:,} characters")
    print(f"written to {folder} ({written.files} shards); train on it with")
    print(f"  python -m scripts.tok_train --dataset {name}")
    print(f"  python -m scripts.base_train --dataset {name}")


def name_from(path: Path) -> str:
    """A dataset's name made of a file's or folder's name."""
    return re.sub(r"[^\w.-]+", "-", path.resolve().stem).strip("-.") or "text"


def documents(paths: Sequence[Path], column: str, skipped: list[Path]) -> Iterator[str]:
    """All documents of the files and folders in `paths`, in order, read as a stream.

    Binary files inside folders are left out and appended to `skipped`; one named in `paths` raises UserError, as do
    missing files, bytes that are not UTF-8 (with their offset) and JSONL lines without text (with their number).
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path")
    for path in paths:
        for file in _files_below(path):
            try:
                if file.suffix == ".parquet":
                    yield from shards.iterate_file(file, column)
                elif file.suffix == ".jsonl":
                    yield from _jsonl_documents(file, column)
                elif not _is_binary(file):
                    yield from _text_documents(file)
                elif path.is_dir():
                    skipped.append(file)
                else:
                    raise UserError(f"{file} is a binary file; give plain text in UTF-8, .jsonl or .parquet")
            except OSError as error:
                raise UserError(f"cannot read {file}: {error.strerror}") from error


def _files_below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.is_file():  # neither pipes nor dangling links
                yield file


def _is_binary(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"\0" in file.read(1 << 13)


def _text_documents(path: Path) -> Iterator[str]:
    """A short file is one document; a longer one is cut where a paragraph ends, else a line, else a word."""
    text, start = "", 0
    for piece in _decoded(path):
        text, start = text[start:] + piece, 0
        while len(text) - start > DOCUMENT_CHARS:
            end = _end_of_document(text, start)
            yield text[start:end].strip("\n")
            start = end
    yield text[start:].strip("\n")


def _end_of_document(text: str, start: int) -> int:
    limit = start + DOCUMENT_CHARS
    for boundary in ("\n\n", "\n", " "):
        place = text.rfind(boundary, start + DOCUMENT_CHARS // 2, limit)
        if place >= 0:
            return place + len(boundary)
    return limit


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file in pieces, without a byte order mark and with every line end as a newline."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    with open(path, "rb") as file:
        while True:
            data = file.read(1 << 20)
            waiting = len(decoder.getstate()[0])  # the first bytes of a character that the last read cut in two
            try:
                piece = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset - waiting + error.start) from None
            piece = piece.removeprefix("\ufeff") if offset == 0 else piece
            yield newlines.decode(piece, final=not data)
            if not data:
                return
            offset += len(data)


def _jsonl_documents(path: Path, column: str) -> Iterator[str]:
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset + error.start) from None
            offset += len(line)
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield _json_text(text, column, f"{path}:{number}")


def _json_text(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); each line must be an object with a {column!r}") from None
    if isinstance(row, list) or (isinstance(row, dict) and "messages" in row and column not in row):
        path = where.rpartition(":")[0]
        raise UserError(f"{where} is a conversation; give such a file to mid_train or chat_sft with --data_path={path}")
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = ", ".join(row) or "nothing" if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where} has no text in {column!r} (found: {found}); name the right field with --column")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half a character (\\u{ord(text[error.start]):04x}); repair the line") from None
    return text


def _not_utf8(path: Path, offset: int) -> UserError:
    return UserError(f"{path} is not UTF-8 at byte {offset}; convert it first, as in iconv -f latin1 -t utf-8")


if __name__ == "__main__":
    run(main)
