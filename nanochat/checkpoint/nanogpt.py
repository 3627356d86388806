"""nanoGPT's ckpt.pt, its own or one of ours, which has a checksum beside it; `extras.nanogpt.ckpt` writes them."""

import functools
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nanochat.checkpoint import gpt2, reading
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.paths import base_dir, sha256

CKPT, LAST_CKPT, BEST_CKPT = "ckpt.pt", "ckpt_last.pt", "ckpt_best.pt"
OURS = "nanochat"  # the key under which our own training stores what it needs besides; nanoGPT ignores it


@dataclass(frozen=True)
class Checkpoint:
    """A ckpt.pt under our names. optimizer is the state of torch's AdamW, as in the file; settings are nanoGPT's."""

    config: GPTConfig
    state: dict[str, Tensor]
    optimizer: dict | None
    iter_num: int
    best_val_loss: float
    settings: dict = field(default_factory=dict)
    ours: dict | None = None


def data_dirs(dataset: str) -> list[Path]:
    """Where the token files of a dataset are looked for: as nanoGPT has it, then in our base folder."""
    return [Path("data") / dataset, base_dir() / "tokens" / dataset]


def read(path: Path, tensors: bool = True) -> Checkpoint:
    """Read a ckpt.pt, nanoGPT's own or one of ours; tensors=False leaves the tensors out, which costs no memory.

    Raises UserError for anything else, and for a file that does not match its checksum.
    """
    if path.is_file():
        found = path.stat()
        _check(path, found.st_ino, found.st_size, found.st_mtime_ns)
    return _read(path, tensors)


def iter_num(path: Path) -> int:
    """The number of steps recorded in a ckpt.pt, without comparing checksums. Raises UserError for other files."""
    return _read(path, tensors=False).iter_num


def _read(path: Path, tensors: bool) -> Checkpoint:
    content = reading.torch_file(path, _others(path) or "get it again", lazily=not tensors)
    if not isinstance(content, dict) or not {"model", "model_args"} <= content.keys():
        raise UserError(f"{path} is not a checkpoint of nanoGPT: it lacks model and model_args")
    with reading.sensible(path):
        config, state = gpt2.from_nanogpt(content["model_args"], content["model"] if tensors else {}, path)
        if tensors:
            reading.check_layers(config.n_layer, state, path)
        return Checkpoint(
            config=config,
            state=state,
            optimizer=content.get("optimizer"),
            iter_num=int(content.get("iter_num", 0)),
            best_val_loss=float(content.get("best_val_loss", float("inf"))),
            settings=dict(content.get("config") or {}),
            ours=content.get(OURS),
        )


# ---------------------------------------------------------------- checksums


@functools.lru_cache
def _check(path: Path, inode: int, size: int, modified: int) -> None:
    """Raise UserError for a damaged ckpt.pt; computed once for as long as the file stays the same."""
    known = recorded(path)
    if known:
        digest = sha256(path)
        # Read again: another process may have replaced the file in between.
        if digest in known or digest in recorded(path):
            return
    others = f"; {_others(path)}" if _others(path) else ""
    if not _records_are_whole(path):
        raise UserError(f"{path} is damaged: its checksum is wrong{others}")
    content = reading.torch_file(path, lazily=True) if known else None
    if isinstance(content, dict) and OURS in content:  # nanoGPT's own training writes no such key
        raise UserError(
            f"{path} does not match {checksum_file(path).name}: it is damaged, or was replaced; if by "
            f"you, delete {checksum_file(path)}{others}"
        )


def _records_are_whole(path: Path) -> bool:
    """Whether torch's own checksums (CRC-32), one for each record of the file, are right."""
    if not zipfile.is_zipfile(path):  # an old torch's format, or cut short, which is noticed when it is read
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            is_torchs = all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())
            return not is_torchs or archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError):
        return False


def _others(path: Path) -> str:
    """The other checkpoints beside one that cannot be read, for an error's end."""
    names = [name for name in (CKPT, LAST_CKPT, BEST_CKPT) if name != path.name] if path.name.startswith("ckpt") else []
    found = [str(path.with_name(name)) for name in names if path.with_name(name).exists()]
    return f"beside it lies {' and '.join(found)}" if found else ""


def checksum_file(path: Path) -> Path:
    """The file of checksums beside a ckpt.pt, in sha256sum's format."""
    return path.with_name(f"{path.name}.sha256")


def recorded(path: Path) -> list[str]:
    """The checksums that the file beside `path` lists; [] if there is no such file."""
    try:
        listed = checksum_file(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return re.findall(r"^[0-9a-f]{64}(?= )", listed, re.M)
