"""nanoGPT's ckpt.pt, both ways: weights, the state of AdamW, and the step of the run.

What our own training needs besides, to resume exactly, is stored under the key "nanochat", which nanoGPT ignores.

Beside a ckpt.pt of ours lies ckpt.pt.sha256 in sha256sum's format. While the file is being replaced it lists the
checksums of both the old and the new one, so a kill never leaves a good file without its checksum.
"""

import functools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nanochat.checkpoint import gpt2, reading
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import base_dir, fsync_folder, sha256, write_atomically, write_text

CKPT, LAST_CKPT, BEST_CKPT = "ckpt.pt", "ckpt_last.pt", "ckpt_best.pt"
MOMENTS = ("exp_avg", "exp_avg_sq")
OURS = "nanochat"  # the key


@dataclass(frozen=True)
class Checkpoint:
    """A ckpt.pt under our names. optimizer is what `Optimizer.state_dict` gives; settings are nanoGPT's."""

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
        optimizer = None
        if tensors:
            reading.check_layers(config.n_layer, state, path)
            if saved := content.get("optimizer"):
                optimizer = _from_torch(saved, _numbered(gpt2.to_nanogpt(config, state)[1]), path)
        return Checkpoint(
            config=config,
            state=state,
            optimizer=optimizer,
            iter_num=int(content.get("iter_num", 0)),
            best_val_loss=float(content.get("best_val_loss", float("inf"))),
            settings=dict(content.get("config") or {}),
            ours=content.get(OURS),
        )


def write(
    path: Path,
    model: GPT,
    optimizer: Mapping,
    settings: Mapping,
    iter_num: int,
    best_val_loss: float,
    ours: Mapping | None = None,
) -> None:
    """Write a ckpt.pt that nanoGPT's sample.py reads and its train.py resumes, atomically, and its checksum.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    args, state = gpt2.to_nanogpt(model.config, model.state_dict())
    content = {
        "model": state,
        "optimizer": _to_torch(optimizer, state, settings),
        "model_args": args,
        "iter_num": iter_num,
        "best_val_loss": best_val_loss,
        "config": dict(settings),
        OURS: dict(ours or {}),
    }
    before = _sums(path)
    digest = write_atomically(
        path, lambda file: torch.save(content, file), lambda digest: _record(path, [digest, *before])
    )
    _record(path, [digest])


def move(source: Path, target: Path) -> None:
    """Rename a ckpt.pt and its checksum; a kill at any moment leaves both names right."""
    sums = _sums(source)
    _record(target, [*sums, *_sums(target)])
    source.replace(target)
    fsync_folder(target.parent)
    _record(target, sums)
    _checksum(source).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a ckpt.pt, if it is there, and its checksum."""
    path.unlink(missing_ok=True)
    _checksum(path).unlink(missing_ok=True)


# ---------------------------------------------------------------- checksums


@functools.lru_cache
def _check(path: Path, inode: int, size: int, modified: int) -> None:
    """Raise UserError for a damaged ckpt.pt; computed once for as long as the file stays the same."""
    recorded = _recorded(path)
    if recorded:
        digest = sha256(path)
        # Read again: another process may have replaced the file in between.
        if digest in recorded or digest in _recorded(path):
            return
    others = f"; {_others(path)}" if _others(path) else ""
    if not _records_are_whole(path):
        raise UserError(f"{path} is damaged: its checksum is wrong{others}")
    content = reading.torch_file(path, lazily=True) if recorded else None
    if isinstance(content, dict) and OURS in content:  # nanoGPT's own training writes no such key
        raise UserError(
            f"{path} does not match {_checksum(path).name}: it is damaged, or was replaced; if by "
            f"you, delete {_checksum(path)}{others}"
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


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> list[str]:
    """The checksums that the file beside `path` lists; [] if there is no such file."""
    try:
        return re.findall(r"^[0-9a-f]{64}(?= )", _checksum(path).read_text(encoding="utf-8", errors="replace"), re.M)
    except OSError:
        return []


def _sums(path: Path) -> list[str]:
    """The recorded checksums of a file, else the one it has, else []."""
    return _recorded(path) or ([sha256(path)] if path.is_file() else [])


def _record(path: Path, sums: list[str]) -> None:
    write_text(_checksum(path), "".join(f"{digest}  {path.name}\n" for digest in dict.fromkeys(sums)))


# ---------------------------------------------------------------- the optimizer


def _numbered(state: Mapping[str, Tensor]) -> list[str]:
    """nanoGPT's names in the order in which its AdamW numbers them: matrices, then vectors.

    The output layer is left out: it is one parameter with the embedding.
    """
    names = [name for name in state if name != "lm_head.weight"]
    return sorted(names, key=lambda name: state[name].ndim < 2)


def _from_torch(saved: Mapping, names: list[str], path: Path) -> dict:
    """The state dict of torch.optim.AdamW -> that of our Optimizer."""
    state = saved.get("state", {})
    if not state:
        return {"steps": 0, "state": {}}
    if sorted(state) != list(range(len(names))):
        raise UserError(
            f"{path} is damaged: its optimizer has a state for {len(state)} parameters, its model has {len(names)}"
        )
    moments = {moment: gpt2.split({name: state[i][moment] for i, name in enumerate(names)}) for moment in MOMENTS}
    ours = {name: {moment: moments[moment][name] for moment in MOMENTS} for name in moments[MOMENTS[0]]}
    return {"steps": int(state[0]["step"]), "state": ours}


def _to_torch(saved: Mapping, state: Mapping[str, Tensor], settings: Mapping) -> dict:
    """`_from_torch` back, with the settings of the two groups."""
    names = _numbered(state)
    matrices = sum(state[name].ndim >= 2 for name in names)
    moments = {moment: gpt2.join({name: s[moment] for name, s in saved["state"].items()}) for moment in MOMENTS}
    step = torch.tensor(float(saved["steps"]))
    betas = (settings.get("beta1", 0.9), settings.get("beta2", 0.95))
    plain = torch.optim.AdamW([torch.zeros(1)], settings.get("learning_rate", 6e-4), betas, weight_decay=0.0)
    group = plain.state_dict()["param_groups"][0]
    return {
        "state": {
            i: {"step": step.clone(), **{moment: moments[moment][name] for moment in MOMENTS}}
            for i, name in enumerate(names)
            if name in moments[MOMENTS[0]]
        },
        "param_groups": [
            {**group, "weight_decay": settings.get("weight_decay", 0.1), "params": list(range(matrices))},
            {**group, "params": list(range(matrices, len(names)))},
        ],
    }
