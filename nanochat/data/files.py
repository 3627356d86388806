"""Finding and opening text files, also in folders, behind links and compressed; and telling which are not text."""

import contextlib
import gzip
import io
import os
import re
import stat
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from nanochat.data import shards
from nanochat.errors import UserError

SHOWN = 5  # files to name for each reason

Kind = Literal["text", "lines", "json", "parquet"]
KINDS: dict[str, Kind] = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".geojson": "json", ".ipynb": "json",
                          ".parquet": "parquet"}  # fmt: skip
PACKED = (".gz", ".zst")
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".tbz2", ".xz", ".txz", ".lzma", ".lz4", ".br")
READABLE = "give plain text in UTF-8, .json, .jsonl or .parquet, or the former as .gz or .zst"
BEGINNINGS = {  # first bytes of files that are not text, though they may hold no zero bytes
    b"\x1f\x8b": ("compressed by gzip under another name", "let its name end in .gz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd under another name", "let its name end in .zst"),
    b"\xff\xfe": ("text in UTF-16", "convert it first, as in iconv -f utf-16 -t utf-8"),
    b"\xfe\xff": ("text in UTF-16", "convert it first, as in iconv -f utf-16 -t utf-8"),
    b"%PDF": ("a PDF file", "extract its text first, as pdftotext does"),
}
SPECIAL = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
           (stat.S_ISBLK, "a device"))  # fmt: skip


class LeftOut(NamedTuple):
    """A file or folder below a given folder that was not read, and why."""

    path: Path
    reason: str


class Unfit(Exception):
    """A file that cannot be used because it is `reason`: left out below a folder, an error if it is named itself."""

    def __init__(self, reason: str, remedy: str = READABLE):
        self.reason, self.remedy = reason, remedy


def name_from(path: Path) -> str:
    """A dataset name made from a file's or folder's name."""
    path = path.resolve()
    stem = Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "text"


def kind_of(path: Path) -> Kind:
    """The format of a file by its name, in any case, compressed or not."""
    return KINDS.get(_suffix(path), "text")


def _suffix(path: Path) -> str:
    """A file name's suffix, or the one before it if that is for compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED else suffix


def shown(left_out: Sequence[LeftOut]) -> list[str]:
    """Lines to print about files that were left out: the count for each reason, and a few of the paths."""
    paths: dict[str, list[Path]] = defaultdict(list)
    for path, reason in left_out:
        paths[reason].append(path)
    lines = []
    for reason, found in paths.items():
        lines += [f"left out {len(found)}: {reason}", *(f"  {path}" for path in found[:SHOWN])]
        lines += [f"  and {len(found) - SHOWN:,} more"] * (len(found) > SHOWN)
    return lines


def files_below(path: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """The path itself, or all files below a folder: first its files by name, then its folders; links are followed."""
    if not path.is_dir():
        yield path
        return
    read: set[tuple[int, int]] = set()

    def leave_out(error: OSError) -> None:
        left_out.append(LeftOut(Path(error.filename), f"not readable ({error.strerror})"))

    for name, below, names in os.walk(path, onerror=leave_out, followlinks=True):
        folder = Path(name)
        if not _is_new(folder, read):
            left_out.append(LeftOut(folder, "a folder that is read under another name"))
            below.clear()
            continue
        hidden = {name for name in [*names, *below] if name.startswith(".")}
        left_out += [LeftOut(folder / name, "hidden (its name begins with a dot)") for name in sorted(hidden)]
        below[:] = sorted(set(below) - hidden)
        for file in (folder / name for name in sorted(set(names) - hidden)):
            try:
                if _is_new(file, read):
                    yield file
                else:
                    left_out.append(LeftOut(file, "a file that is read under another name"))
            except OSError as error:  # also a link that leads nowhere, or to itself
                what = "a link that leads nowhere" if file.is_symlink() else f"not readable ({error.strerror})"
                left_out.append(LeftOut(file, what))


def _is_new(path: Path, read: set[tuple[int, int]]) -> bool:
    """Whether a file or folder has not been read under another name."""
    found = path.stat()
    identity = found.st_dev, found.st_ino
    is_new = not found.st_ino or identity not in read  # some file systems have no inode numbers
    read.add(identity)
    return is_new


def check_text(beginning: bytes) -> None:
    """Raise Unfit if these are the first bytes of a file that is not text."""
    for magic, (reason, remedy) in BEGINNINGS.items():
        if beginning.startswith(magic):
            raise Unfit(reason, remedy)
    if b"\0" in beginning:
        raise Unfit("a binary file")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed if its suffix calls for it. Raises Unfit if the file may not be read."""
    _check_readable(path)
    try:
        plain = open(path, "rb")  # noqa: SIM115 -- closed below
    except PermissionError as error:
        raise Unfit(f"not readable ({error.strerror})", "change its permissions") from None
    with plain:
        suffix = path.suffix.lower()
        if suffix not in PACKED:
            yield plain
            return
        unpacked = gzip.GzipFile(fileobj=plain) if suffix == ".gz" else pa.CompressedInputStream(plain, "zstd")
        yield io.BufferedReader(_Unpacked(path, unpacked), 1 << 20)


def _check_readable(path: Path) -> None:
    """Raise Unfit for a pipe or device, reading which may never end, and for an archive."""
    mode = path.stat().st_mode
    if special := [what for is_that, what in SPECIAL if is_that(mode)]:
        raise Unfit(special[0], "write its content into a file first")
    inner, outer = _suffix(path), path.suffix.lower()
    if inner in ARCHIVES or (inner == ".parquet" and outer in PACKED):
        name = inner if outer == inner else inner + outer
        raise Unfit(f"packed as {name}, which is not read", "unpack it first")


class _Unpacked(io.RawIOBase):
    """The content of a compressed file. Raises UserError if it is a zip bomb: far too large for the file's size."""

    def __init__(self, path: Path, stream: Any):
        self.path, self.stream = path, stream
        self.on_disk = path.stat().st_size
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            if getattr(error, "errno", None):  # the disk's, not the decoder's
                raise
            raise UserError(
                f"{self.path} is damaged, or not compressed as its name says ({error}); get it again"
            ) from None
        self.size += len(data)
        if self.size > max(shards.MAX_GROUP, shards.MAX_RATIO * self.on_disk):
            raise UserError(
                f"{self.path} has {self.on_disk:,} bytes and unpacks to more than {self.size:,}, which no real "
                "text does; leave it out"
            )
        buffer[: len(data)] = data
        return len(data)
