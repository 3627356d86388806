"""Text files, folders of them, JSONL and parquet, read as a stream of documents."""

import codecs
import contextlib
import io
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanochat.config import UserError
from nanochat.data import shards

# Longest document made of a text file, in characters: about two contexts of the default model. A longer file becomes
# several documents, so that training can shuffle them and validation gets its share of a single book.
DOCUMENT_CHARS = 4000


def name_from(path: Path) -> str:
    """A dataset's name made of a file's or folder's name."""
    return re.sub(r"[^\w.-]+", "-", path.resolve().stem).strip("-.") or "text"


def documents(
    paths: Sequence[Path], column: str, skipped: list[Path], longest: int = DOCUMENT_CHARS
) -> Iterator[str]:
    """All documents of the files and folders in `paths`, in order, read as a stream.

    A text file of more than `longest` characters becomes several. Binary files inside folders are left out and
    appended to `skipped`; one named in `paths` raises UserError, as do missing files, bytes that are not UTF-8 (with
    their offset), JSONL lines without text (with their number), and a row or line of more than shards.MAX_DOCUMENT.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path")
    for path in paths:
        for file in _files_below(path):
            with _readable(file):
                if file.suffix == ".parquet":
                    yield from shards.iterate_file(file, column)
                elif file.suffix == ".jsonl":
                    yield from _jsonl_documents(file, column)
                elif path.is_dir() and _is_binary(file):
                    skipped.append(file)
                else:
                    yield from _text_documents(file, longest)


def decoded(path: Path) -> Iterator[str]:
    """The text of a file in pieces, without a byte order mark and with every line end as a newline.

    Raises UserError for a binary file and, naming the offset, for bytes that are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    with _readable(path), open(path, "rb") as file:
        if _is_binary(path):
            raise UserError(f"{path} is a binary file; give plain text in UTF-8, .jsonl or .parquet")
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


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _text_documents(path: Path, longest: int) -> Iterator[str]:
    """A short file is one document; a longer one is cut where a paragraph ends, else a line, else a word."""
    text, start = "", 0
    for piece in decoded(path):
        text, start = text[start:] + piece, 0
        while len(text) - start > longest:
            end = _end_of_document(text, start, longest)
            yield text[start:end].strip("\n")
            start = end
    yield text[start:].strip("\n")


def _end_of_document(text: str, start: int, longest: int) -> int:
    limit = start + longest
    for boundary in ("\n\n", "\n", " "):
        place = text.rfind(boundary, start + longest // 2, limit)
        if place >= 0:
            return place + len(boundary)
    return limit


def _jsonl_documents(path: Path, column: str) -> Iterator[str]:
    offset = 0
    longest = shards.MAX_DOCUMENT
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), 1):
            if len(line) > longest:
                raise UserError(f"{path}:{number} is longer than {longest:,} bytes; divide the text, or leave it out")
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
        path = shlex.quote(where.rpartition(":")[0])
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

