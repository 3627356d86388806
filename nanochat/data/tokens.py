"""Token files in nanoGPT's format, and batches of random windows of them.

A folder holds train.bin and val.bin: all ids of a split in order, two bytes each (little endian). meta.json, which
nanoGPT's own folders lack, has {"dtype": "uint32"} if ids need four bytes, and {"vocab_size": V}. The tokenizer is in
the same folder.
"""

import contextlib
import difflib
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from nanochat.data.batch import Batch
from nanochat.data.shards import Split
from nanochat.errors import UserError
from nanochat.paths import base_dir, draft_of, fsync_folder, read_json, sha256, write_text

NAMED = ("shakespeare_char", "shakespeare", "openwebtext")  # what scripts.prepare knows by name
META = "meta.json"
WHOLE, BLOCK, BLOCKS = 1 << 30, 1 << 20, 1024  # bytes, bytes, number; see `fingerprint`
# What --overwrite replaces. train.bin goes first and comes last: without it there are no token files.
REPLACED = ("train.bin", "val.bin", META, "meta.pkl", "tokenizer.json", "token_bytes.json")
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
AGAIN = "put it back as it was and resume with --init_from=resume"


class Tokens:
    """One split on disk: `count` ids of a vocabulary of vocab_size tokens.

    Read with pread, not mapped into memory: if a mapped file is truncated, reading it kills the process (SIGBUS).
    """

    def __init__(self, path: Path, dtype: str, vocab_size: int):
        self.path = path
        self.dtype = DTYPES[dtype]
        self.vocab_size = vocab_size
        self._file = path.open("rb", buffering=0)
        self._seen = _state(path)
        self._content: dict | None = None
        self.count = os.fstat(self._file.fileno()).st_size // self.dtype.itemsize

    def take(self, start: int, length: int) -> np.ndarray:
        """The ids from `start` on, (length,). Raises UserError if the file has become too short or unreadable."""
        size = self.dtype.itemsize
        try:
            read = os.pread(self._file.fileno(), length * size, start * size)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; {AGAIN}") from None
        if len(read) < length * size:
            raise UserError(f"{self.path} was cut short while it was being read; {AGAIN}")
        return np.frombuffer(read, self.dtype)

    def content(self) -> dict:
        """The identity of these tokens, whatever their path: {"sha256": their `fingerprint`, "bytes", "dtype"}."""
        if self._content is None:
            self._content = self._look()
        return self._content

    def check_unchanged(self) -> None:
        """Raise UserError if the content of the file has changed. It is hashed again only if the file looks changed."""
        now = _state(self.path)
        if now == self._seen:
            return
        if now is None:
            raise UserError(f"{self.path} vanished while it was being read; {AGAIN}")
        if self._content is None or self._look() != self._content:
            raise UserError(f"{self.path} was changed while it was being read; {AGAIN}")
        self._seen = now

    def _look(self) -> dict:
        try:
            return {"sha256": fingerprint(self.path), "bytes": self.path.stat().st_size, "dtype": self.dtype.name}
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; {AGAIN}") from None


def find(name: str) -> Path:
    """The folder of a dataset's token files: data/<name> as in nanoGPT, else <base>/tokens/<name>, else a path.

    Raises UserError if there are none.
    """
    places = _places(name)
    for place in places:
        if _has_tokens(place):
            return place
    known = [folder.name for place in places[:2] for folder in sorted(place.parent.glob("*")) if _has_tokens(folder)]
    near = difflib.get_close_matches(name, known, 1)
    is_source = name in NAMED or os.path.exists(name)
    made_from = shlex.quote(name) if is_source else f"TEXT --out_dir={shlex.quote(str(places[0]))}"
    hint = f"did you mean {near[0]}?" if near else f"make them with python -m scripts.prepare {made_from}"
    raise UserError(
        f"no token files of a dataset {name!r}: there is neither {places[0] / 'train.bin'} nor "
        f"{places[1] / 'train.bin'}; {hint}"
    )


def is_there(name: str) -> bool:
    """Whether `find` would succeed."""
    return any(_has_tokens(place) for place in _places(name))


def home(name: str) -> Path:
    """The folder for the token files of a new dataset: the first that `find` looks in whose parent exists."""
    return Path("data", name) if Path("data").is_dir() else base_dir() / "tokens" / name


def vocabulary_size(folder: Path) -> int | None:
    """The vocabulary size in meta.json; None if it is not known."""
    return _meta(folder).get("vocab_size")


def read(folder: Path, split: Split, vocab_size: int, T: int) -> Tokens:
    """A split. Raises UserError if the file is missing, damaged, or shorter than T + 1 tokens."""
    path = folder / f"{split}.bin"
    if not path.is_file():
        found = "is not a file" if path.exists() else "is missing"
        raise UserError(f"{path} {found}; make it with python -m scripts.prepare")
    dtype = DTYPES.get(name := _meta(folder).get("dtype", "uint16"))
    if dtype is None:
        raise UserError(f"{folder / META}: its dtype is {name!r}; expected {' or '.join(DTYPES)}")
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise UserError(f"{path} is damaged: {size} bytes are not a multiple of {dtype.itemsize}; prepare it again")
    if size // dtype.itemsize <= T:
        raise UserError(
            f"{path} holds {size // dtype.itemsize} tokens, but a window of --block_size {T} needs {T + 1}; "
            "give more text or a smaller --block_size"
        )
    try:
        return Tokens(path, name, vocab_size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def fingerprint(path: Path) -> str:
    """The sha256 of a file, in hex. For more than WHOLE bytes, which would take too long to read, it is that
    of its size and of BLOCKS evenly spaced blocks of BLOCK bytes.
    """
    size = path.stat().st_size
    if size <= WHOLE:
        return sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for n in range(BLOCKS):
            file.seek((size - BLOCK) * n // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def windows(
    tokens: Tokens, rows: int, T: int, rank: int = 0, world: int = 1, cursor: dict | None = None, seed: int | str = 0
) -> Iterator[Batch]:
    """Batches of `rows` random windows of T tokens for this rank, without end, from `cursor` on.

    The start of window n depends on the seed and n alone, so a run resumes with the same windows on any number of
    ranks. Raises UserError for an id outside the vocabulary, and if the file has changed.
    """
    n = cursor["window"] if cursor else 0
    while True:
        starts = [number(seed, n + rank * rows + row, tokens.count - T) for row in range(rows)]
        table = np.stack([tokens.take(start, T + 1) for start in starts]).astype(np.int64)
        tokens.check_unchanged()  # after reading, so that a change in the meantime is noticed
        if (largest := int(table.max())) >= tokens.vocab_size:
            raise UserError(
                f"{tokens.path} holds the token {largest}, but the model knows 0 to {tokens.vocab_size - 1}; prepare "
                "the text with the model's own tokenizer"
            )
        n += rows * world
        ids = torch.from_numpy(table)
        weights = torch.ones(rows, T)
        yield Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights, n * T / tokens.count, {"window": n})


def write(
    folder: Path,
    pieces: Iterable[tuple[Split, Sequence[int]]],
    vocab_size: int,
    overwrite: bool = False,
    beside: Callable[[Path], object] = lambda draft: None,
) -> dict[Split, int]:
    """Write a stream of ids as the token files of `folder`; `beside` puts more files into the folder it is given.

    The files appear together, when all of them are flushed to disk; what else `folder` held stays. Returns the number
    of tokens of each split. Raises UserError where there are token files and not `overwrite`, where a split remains
    without tokens, when another process is writing there, and when the disk is full.
    """
    folder = folder.resolve()  # a link to another disk stays one
    counts: dict[Split, int] = {"train": 0, "val": 0}
    dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
    check_free(folder, overwrite)
    # Made inside of the folder and moved up file by file: what else lies there, such as a prepare.py, is never touched.
    made, is_new = folder / "tokens.new", not folder.exists()
    try:
        with draft_of(made, lambda: check_free(folder, overwrite)) as draft:
            with contextlib.ExitStack() as stack:
                files = {split: stack.enter_context(open(draft / f"{split}.bin", "wb")) for split in counts}
                for split, ids in pieces:
                    files[split].write(np.array(ids, DTYPES[dtype]).tobytes())
                    counts[split] += len(ids)
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
            for split, count in counts.items():
                if count < 2:
                    raise UserError(f"too little text: the {split} split would have {count} tokens; give more")
            write_text(draft / META, json.dumps({"dtype": dtype, "vocab_size": vocab_size}) + "\n")
            beside(draft)
    except BaseException:
        with contextlib.suppress(OSError):  # there is nothing to remove, or somebody put something there
            if is_new:
                folder.rmdir()
        raise
    for name in REPLACED:
        (folder / name).unlink(missing_ok=True)
    for path in sorted(made.iterdir(), key=lambda path: path.name == "train.bin"):
        os.replace(path, folder / path.name)
    made.rmdir()
    fsync_folder(folder)
    return counts


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise UserError if token files must not be written here."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write token files into {folder}: it is a file")
    if (folder / "train.bin").exists() and not overwrite:
        raise UserError(f"{folder} already holds token files; replace them with --overwrite, or give --out_dir")


def number(seed: int | str, n: int, below: int) -> int:
    """The n-th random number of a seed, uniform in [0, below); computed without those before it."""
    digest = hashlib.blake2b(f"{seed}/{n}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % below


def _places(name: str) -> list[Path]:
    return [Path("data", name), base_dir() / "tokens" / name, Path(name)]


def _has_tokens(folder: Path) -> bool:
    return os.path.exists(folder / "train.bin")  # unlike Path.exists, False for a name that is too long


def _state(path: Path) -> tuple[int, ...] | None:
    """Values that change when a file is replaced, written to or truncated; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _meta(folder: Path) -> dict:
    path = folder / META
    return read_json(path, "prepare the data again") if path.exists() else {}
