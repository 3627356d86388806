"""Uploads: text and conversations of the page's visitors, in <base>/uploads.

A file is there when all of it has arrived and a reader of the stages has read it; what is not right is not kept.
"""

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

from nanochat.errors import UserError
from nanochat.paths import fsync_folder, refusal

LONGEST = 100  # characters of a name
PART = ".part"  # suffix of what has not arrived completely, or was not read yet
CONVERSATIONS = (".jsonl", ".ndjson", ".json")  # what may hold conversations, or documents
SUFFIXES = (*CONVERSATIONS, ".txt", ".md", ".parquet", ".gz", ".zst")

Kind = Literal["text", "conversations"]
Count = Callable[[Path], int]  # raises UserError, with line and column where it can


def safe_name(given: str) -> str:
    """The name to keep a file under: its last part, of letters, digits, dots and dashes. Raises UserError for none."""
    stem = re.sub(r"[^\w.-]+", "-", re.split(r"[/\\]", given)[-1]).strip("-.")
    suffix = "".join(Path(stem).suffixes[-2:])
    name = stem if len(stem) <= LONGEST else stem[: LONGEST - len(suffix)] + suffix[-LONGEST:]
    if not name or not name.isprintable() or len(os.fsencode(name)) > 2 * LONGEST:
        raise UserError("the file has no name that can be kept; give it one of letters and digits, such as talk.jsonl")
    if Path(name).suffix.lower() not in SUFFIXES:
        raise UserError(f"{name} is not read here; expected a name that ends in {', '.join(SUFFIXES)}")
    return name


async def receive(body: AsyncIterator[bytes], folder: Path) -> Path:
    """Write what arrives to a file in `folder` that has no name of its own yet. Raises UserError on a full disk."""
    part = folder / f".{secrets.token_hex(8)}{PART}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            async for data in body:
                file.write(data)
            await asyncio.to_thread(_flush, file)
    except BaseException as error:  # the client left, or the body is too large
        with contextlib.suppress(OSError):
            part.unlink()
        if refused := refusal(error, part):
            raise refused from error
        raise
    return part


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def keep(part: Path, name: str, conversations: Count, documents: Count) -> dict[str, Any]:
    """Read a file that has arrived and give it its name, or another if that is taken: a job may be reading the old one.

    conversations, documents: count what a file holds. Raises UserError for a file that no stage could read; it is
    deleted.
    """
    path = part.with_name(f".{secrets.token_hex(8)}-{name}")  # what its readers go by is the end of its name
    os.rename(part, path)
    try:
        kind, count = _read(path, conversations, documents)
        kept = _named(path, name)
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from None
    finally:
        path.unlink(missing_ok=True)
    return {"path": kept.name, "bytes": kept.stat().st_size, "kind": kind, "count": count, "problem": None}


def _named(path: Path, name: str) -> Path:
    """A link to a file under a name that is free; a link never replaces anything."""
    stem, dot, suffix = name.partition(".")
    for number in range(1, 10_000):
        kept = path.with_name(f"{stem}{f'-{number}' * (number > 1)}{dot}{suffix}")
        with contextlib.suppress(FileExistsError):
            os.link(path, kept)
            fsync_folder(path.parent)
            return kept
    raise UserError(f"there are 10,000 files called {name}; give another name")


def _read(path: Path, conversations: Count, documents: Count) -> tuple[Kind, int]:
    """What a file holds. A JSON file may hold either; the complaint is about what its first character looks like."""
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    packed = path.suffix.lower() in (".gz", ".zst")
    if (Path(path.stem) if packed else path).suffix.lower() not in CONVERSATIONS:
        count = documents(path)
        if not count:
            raise UserError(f"{path} holds no text")
        return "text", count
    try:
        return "conversations", conversations(path)
    except UserError as error:
        try:
            count = documents(path)
        except UserError:
            count = 0
        if count:
            return "text", count
        raise error from None


def listing(folder: Path) -> list[dict[str, Any]]:
    """What was uploaded, by name. The kind is that of the name; a JSON file counts as conversations."""
    names = sorted(path for path in folder.iterdir()) if folder.is_dir() else []
    return [
        {"path": path.name, "bytes": path.stat().st_size, "kind": _kind_by_name(path)}
        for path in names if path.name[0] != "." and path.is_file() and not path.is_symlink()
    ]  # fmt: skip


def _kind_by_name(path: Path) -> Kind:
    return "conversations" if set(path.suffixes) & {*CONVERSATIONS} else "text"
