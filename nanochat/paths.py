"""Where files are, and how they are written: completely or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nanochat.errors import REFUSALS, UserError

if TYPE_CHECKING:
    import numpy as np

SOURCES = {  # the stages that checkpoints come from, and their folders
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "dpo": "chatdpo_checkpoints",
    "rl": "chatrl_checkpoints",
}

DEFAULT_DATASET = "tinyworld"  # the text of the little world, which every machine can make

LONGEST_NAME = 255  # bytes, on every common file system
LONGEST_TAG = 200  # bytes; names made from a tag are a little longer
LOCK = ".lock"


def base_dir() -> Path:
    """The root of everything nanochat writes: $NANOCHAT_BASE_DIR, else ~/.cache/nanochat.

    Creates nothing; `write_atomically` creates folders when there is something to write.
    """
    return Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat").expanduser()


def tokenizer_dir() -> Path:
    return base_dir() / "tokenizer"


def checkpoints_dir(source: str) -> Path:
    """The folder of a stage's checkpoints; source is one of SOURCES."""
    return base_dir() / SOURCES[source]


def dataset_dir(name: str) -> Path:
    """The folder of a dataset's parquet shards: base_data for FineWeb-Edu, base_data_<name> for all others."""
    return base_dir() / ("base_data" if name == "fineweb-edu" else f"base_data_{name}")


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], vouch: Callable[[str], object] = lambda digest: None
) -> str:
    """Write a file so that a reader, or a crash, sees either the old content or the new, never a mix.

    `write` fills a temporary neighbour of `path`, which is flushed to disk and renamed over `path`.
    Returns the sha256 of the bytes written, in hex; `vouch` is called with it before the rename.
    Raises UserError when the disk is full or the folder cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        digest = sha256(temporary)
        vouch(digest)
        os.replace(temporary, path)
        fsync_folder(path.parent)  # the rename itself must survive a power cut
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if refused := refusal(error, path):
            raise refused from error
        if isinstance(error.__context__, KeyboardInterrupt):  # torch.save raises its own error over it
            raise error.__context__ from None
        raise
    return digest


def write_text(path: Path, text: str) -> str:
    """`write_atomically` for a string, as UTF-8."""
    return write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_array(path: Path, array: "np.ndarray") -> str:
    """`write_atomically` for an array, as .npy.

    np.save would write to a file through C's stdio, and its error for a full disk has no errno to know that by.
    """
    from numpy.lib import format as npy

    array = array.copy(order="C") if not array.flags.c_contiguous else array

    def write(file: BinaryIO) -> None:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
        file.write(array.data)

    return write_atomically(path, write)


@contextlib.contextmanager
def draft_of(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """An empty folder beside `folder` that replaces it if the body succeeds and is deleted if it fails.

    `check`, called while no other process can be writing, raises UserError if `folder` must not be replaced.
    Raises UserError if another process is writing it, and when the disk is full.
    """
    draft, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    with contextlib.ExitStack() as cleanup:
        try:
            if old.exists() and not folder.exists():  # killed between the two renames
                os.rename(old, folder)
            draft.mkdir(parents=True, exist_ok=True)  # a killed process may have left one
            lock = os.open(draft, os.O_RDONLY)
            cleanup.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is writing {folder}; wait until it has finished") from None
            cleanup.push(lambda failure, *_: failure and shutil.rmtree(draft, ignore_errors=True))
            check()
            for entry in draft.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            yield draft
            fsync_folder(draft)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.rename(folder, old)
            os.rename(draft, folder)
            fsync_folder(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            if refused := refusal(error, folder):
                raise refused from error
            raise


def check_name(flag: str, name: str) -> None:
    """Raise UserError, naming the flag, for a name that no file system accepts."""
    if "\0" in name or any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(name).parts):
        raise UserError(f"--{flag} {name[:20]}... is not a path: a name in it is longer than {LONGEST_NAME} bytes")


def check_tag(flag: str, tag: str) -> None:
    """Raise UserError, naming the flag, if a tag cannot be a folder name."""
    if not re.fullmatch(r"[^./\\:\x00-\x1f\x7f][^/\\:\x00-\x1f\x7f]*", tag) or len(os.fsencode(tag)) > LONGEST_TAG:
        shown = tag if len(tag) <= 40 else f"{tag[:40]}..."
        raise UserError(
            f"--{flag} {shown!r} cannot be the name of one folder; expected letters, digits, dots and dashes, at most "
            f"{LONGEST_TAG} bytes, such as d20-mine"
        )


@contextlib.contextmanager
def alone_in(folder: Path, advice: str = "wait until it has finished, or stop it") -> Iterator[None]:
    """Hold an exclusive lock on a run's folder.

    The lock is flock's, so it ends with the process. A folder created here is removed again if it stays empty. Raises
    UserError, naming the process that holds the lock and when it started, and ending in `advice`.
    """
    path = folder / LOCK
    made = [place for place in (folder, folder.parent) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if refused := refusal(error, path):
            raise refused from error
        raise
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = path.exists() and os.path.samestat(os.stat(path), os.fstat(lock))
        except BlockingIOError:
            is_there = False
        except OSError as error:
            raise UserError(
                f"the file system of {folder} cannot lock files ({error.strerror}), so a second run would not be "
                "noticed; write to another one, such as a local disk"
            ) from error
        if not is_there:  # or its last holder deleted it just now
            holder = os.read(lock, 1000).decode("utf-8", "replace").strip() or "another process"
            raise UserError(f"{folder} is in use by {holder}; {advice}")
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            os.truncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}, which started at {since}\n".encode(), 0)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or gone
                for place in made:
                    place.rmdir()
    finally:
        os.close(lock)


def check_regular(path: Path) -> None:
    """Raise UserError for a pipe, device or folder; reading a pipe may never end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; replace it with the file that belongs there")


def read_json(path: Path, remedy: str = "get it again") -> dict:
    """The object in a JSON file. Raises UserError, ending in `remedy`, if it is unreadable or not an object."""
    check_regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it does not hold a JSON object; {remedy}")
    return content


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refusal(error: BaseException, path: Path) -> UserError | None:
    """The UserError for an error that means the file system refused to write `path`; None for other errors."""
    is_ours = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(base_dir()))
    advice = "set NANOCHAT_BASE_DIR elsewhere" if is_ours else "give another place to write to"
    cause: BaseException | None = error
    while cause is not None:  # torch.save raises a RuntimeError while handling the OSError
        match cause:
            case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG as number):
                return UserError(f"cannot write {path}: {REFUSALS[number]}")
            case OSError(errno=errno.EROFS):
                return UserError(f"cannot write {path}: the file system is mounted read-only; {advice}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, PermissionError):
        return UserError(f"cannot write {path}: permission denied; {advice}")
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return UserError(f"cannot write {path}: {error.filename} is not a folder; {advice}")
    if isinstance(error, OSError) and error.filename is not None:
        refused = Path(os.fsdecode(error.filename))
        if refused.parent == path.parent or refused in path.parents:  # not a file that was being read
            return UserError(f"cannot write {path}: {os.strerror(error.errno or errno.EIO).lower()}; {advice}")
    return None
