"""Text, JSONL, JSON and parquet files, compressed or not, and folders of them, as a stream of documents."""

import codecs
import contextlib
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from nanochat.data import files, shards
from nanochat.data.files import LeftOut, Unfit
from nanochat.errors import UserError

# A longer text file becomes several documents of at most so many characters (about two contexts of the default model),
# so that training can shuffle them and validation gets its fraction even of a single book.
DOCUMENT_CHARS = 4000
MOST_JSON = 256 << 20  # bytes of a JSON file, which is read at once


def documents(
    paths: Sequence[Path], column: str, left_out: list[LeftOut], longest: int = DOCUMENT_CHARS
) -> Iterator[str]:
    """All documents of the files and folders in `paths`, in order, as a stream.

    A text file of more than `longest` characters becomes several documents. Links are followed, but nothing below a
    folder is read twice. Files below a folder that are not text are appended to `left_out`. Raises UserError for such a
    file if it is named in `paths`, and for missing files, bytes that are not UTF-8, JSONL lines without text,
    conversations, damaged files, zip bombs, and documents of more than shards.MAX_DOCUMENT bytes.
    """
    for path in paths:
        with _readable(path):
            if not path.exists():
                raise UserError(f"{path} does not exist; check the path")
    for path in paths:
        for file in files.files_below(path, left_out):
            try:
                with _readable(file):
                    yield from _documents_of(file, column, longest)
            except Unfit as unfit:
                if file is path:
                    raise UserError(f"{file} is {unfit.reason}; {unfit.remedy}") from None
                left_out.append(LeftOut(file, unfit.reason))


def decoded(path: Path) -> Iterator[str]:
    """The text of a file in pieces: unpacked, without a byte order mark, all line ends as newlines.

    Raises UserError for a file that is not text and, with the offset, for bytes that are not UTF-8.
    """
    try:
        with _readable(path):
            yield from _decoded(path)
    except Unfit as unfit:
        raise UserError(f"{path} is {unfit.reason}; {unfit.remedy}") from None


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    with files.opened(path) as file:
        files.check_text(file.peek(1 << 13)[: 1 << 13])
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


def _documents_of(path: Path, column: str, longest: int) -> Iterator[str]:
    kind = files.kind_of(path)
    if kind == "text":
        yield from _text_documents(path, longest)
    elif kind == "json":
        yield from _json_documents(path, column)
    else:
        with files.opened(path) as file:  # parquet too, because this raises Unfit if the file may not be read
            yield from shards.iterate_file(path, column) if kind == "parquet" else _lines(path, file, column)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _text_documents(path: Path, longest: int) -> Iterator[str]:
    """A short file is one document; a longer one is cut where a paragraph ends, else a line, else a word."""
    text, start = "", 0
    for piece in _decoded(path):
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


def _lines(path: Path, file: IO[bytes], column: str) -> Iterator[str]:
    offset = 0
    longest = shards.MAX_DOCUMENT
    for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), 1):
        if len(line) > longest:
            raise UserError(f"{path}:{number} is longer than {longest:,} bytes; divide the text, or leave it out")
        text = _unicode(line, path, offset)
        offset += len(line)
        if number == 1:
            text = text.removeprefix("\ufeff")
        if text.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                needed = f"each line must be an object with a {column!r}"
                raise UserError(f"{where} is not JSON ({error}); {needed}") from None
            yield _text_of(row, column, where, path)


def _json_documents(path: Path, column: str) -> Iterator[str]:
    """A JSON file holds a list of texts or of objects with a text, or one such object, or JSON lines after all."""
    first = None
    with files.opened(path) as file, contextlib.suppress(ValueError, RecursionError):
        first = json.loads(file.readline(shards.MAX_DOCUMENT + 1))
    with files.opened(path) as file:
        if isinstance(first, dict):
            _check_first(first, column, path)
            yield from _lines(path, file, column)
            return
        content = file.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise Unfit(f"JSON of more than {MOST_JSON:,} bytes", "write it as JSON lines, as jq -c '.[]' does")
    files.check_text(content[: 1 << 13])
    try:
        found = json.loads(_unicode(content, path, 0).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise Unfit("not JSON", f"repair it ({error}), or name it .txt if it is text") from None
    rows = found if isinstance(found, list) else [found]
    _check_first(rows[0] if rows else None, column, path)
    for number, row in enumerate(rows, 1):
        where = f"{path} (item {number})"
        text = _text_of({column: row} if isinstance(row, str) else row, column, where, path)
        if len(text) > shards.MAX_DOCUMENT:
            raise UserError(f"{where} is longer than {shards.MAX_DOCUMENT:,} characters; divide it, or leave it out")
        yield text


def _check_first(row: object, column: str, path: Path) -> None:
    """Raise Unfit if a JSON file does not begin with a text: many hold settings or numbers instead."""
    if isinstance(row, dict) and {"role", "content"} <= row.keys() and column not in row:
        raise _conversation(str(path), path)
    text = row.get(column) if isinstance(row, dict) else row
    if not isinstance(text, str) and not _is_conversation(row, column):
        found = _kind_of(row)[:200]
        raise Unfit(f"JSON without text in {column!r}", f"name the right field with --column (found: {found})")


def _is_conversation(row: object, column: str) -> bool:
    return isinstance(row, list) or (isinstance(row, dict) and "messages" in row and column not in row)


def _conversation(where: str, path: Path) -> UserError:
    quoted = shlex.quote(str(path))
    return UserError(f"{where} is a conversation; give such a file to mid_train or chat_sft with --data_path={quoted}")


def _text_of(row: object, column: str, where: str, path: Path) -> str:
    if _is_conversation(row, column):
        raise _conversation(where, path)
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = _kind_of(row)
        raise UserError(f"{where} has no text in {column!r} (found: {found}); name the right field with --column")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half a character (\\u{ord(text[error.start]):04x}); repair the line") from None
    return text


def _kind_of(row: object) -> str:
    """An object's fields, or the type of anything else."""
    return ", ".join(row) or "nothing" if isinstance(row, dict) else type(row).__name__


def _unicode(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, offset + error.start) from None


def _not_utf8(path: Path, offset: int) -> UserError:
    return UserError(f"{path} is not UTF-8 at byte {offset}; convert it first, as in iconv -f latin1 -t utf-8")
