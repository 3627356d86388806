"""THE checkpoint format: what is saved, when it exists, what is kept, how it is found and loaded.

    <base>/<stage>_checkpoints/<tag>/model_SSSSSS.pt        state dict
                                     optim_SSSSSS_rank0.pt  optimizer state by parameter name, random state
                                     meta_SSSSSS.json       everything else; written last

A checkpoint exists from the moment its meta file does. The meta file holds the size and sha256 of the others, so a
file that was cut short or belongs to another step is noticed before a tensor of it is used.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch

from nanochat.checkpoint import legacy
from nanochat.config import UserError
from nanochat.gpt import GPT
from nanochat.paths import SOURCES, checkpoints_dir, sha256, tokenizer_dir, write_atomically, write_text
from nanochat.tokenizer import Tokenizer

STAGE_COMMAND = {"base": "scripts.base_train", "mid": "scripts.mid_train", "sft": "scripts.chat_sft"}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. `optimizer` is what `save` was given, or None where it was not asked for."""

    model: GPT
    tokenizer: Tokenizer
    meta: dict
    folder: Path
    tag: str
    step: int
    optimizer: dict | None = None


def save(folder: Path, step: int, model: GPT, optimizer: dict, meta: dict) -> None:
    """Write a checkpoint whole or not at all. meta is completed with the step, the architecture and the checksums.

    Raises UserError when the disk is full; files of an earlier save of the same step are replaced one by one.
    """
    files = {
        _model_file(step): lambda file: torch.save(model.state_dict(), file),
        _optimizer_file(step): lambda file: torch.save(optimizer, file),
    }
    meta_path = folder / _meta_file(step)
    meta_path.unlink(missing_ok=True)  # what it vouches for is about to change
    for leftover in folder.glob(".*.tmp"):  # of a save that was killed
        leftover.unlink(missing_ok=True)
    described = {}
    try:
        for name, write in files.items():
            digest = write_atomically(folder / name, write)
            described[name] = {"size": (folder / name).stat().st_size, "sha256": digest}
        whole = {"format": 1, "step": step, **meta, "model_config": asdict(model.config), "files": described}
        write_text(meta_path, json.dumps(whole, indent=2))
    except UserError:
        for name in files:
            (folder / name).unlink(missing_ok=True)
        raise


def update_meta(folder: Path, step: int, changes: dict) -> None:
    """Add what is known only after the save, such as the result of the validation."""
    meta = read_meta(folder, step)
    write_text(folder / _meta_file(step), json.dumps({**meta, **changes}, indent=2))


def prune(folder: Path, keep_last: int, best: str = "val_bpb") -> list[int]:
    """Delete all but the newest `keep_last` checkpoints and the one with the lowest meta[best]; returns what went.

    keep_last <= 0 keeps all.
    """
    found = steps(folder)
    if keep_last <= 0:
        return []
    scored = [(score, step) for step in found if math.isfinite(score := _number(read_meta(folder, step).get(best)))]
    keep = set(found[-keep_last:]) | ({min(scored)[1]} if scored else set())
    gone = [step for step in found if step not in keep]
    delete(folder, gone)
    return gone


def delete(folder: Path, gone: Sequence[int]) -> None:
    """Delete checkpoints. The meta file goes first, so what is half deleted does not exist."""
    for step in gone:
        for name in (_meta_file(step), _model_file(step), _optimizer_file(step)):
            (folder / name).unlink(missing_ok=True)


def steps(folder: Path) -> list[int]:
    """The steps of all whole checkpoints of a folder, ascending."""
    numbers = (re.fullmatch(r"meta_(\d{6,})\.json", path.name) for path in folder.glob("meta_*.json"))
    found = sorted(int(match[1]) for match in numbers if match)
    return [step for step in found if (folder / _model_file(step)).exists()]


def find(source: str, tag: str | None = None, step: int | None = None) -> tuple[Path, str, int]:
    """The folder, tag and step that are meant. Without a tag the largest d<number>, else the newest folder;
    without a step the last one. Raises UserError naming what there is."""
    root = checkpoints_dir(source)
    tags = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not tags:
        command = STAGE_COMMAND.get(source, f"the {source} stage")
        raise UserError(f"no {source} checkpoint in {root}; train one with python -m {command}")
    if tag is None:
        numbered = [(int(match[1]), name) for name in tags if (match := re.match(r"d(\d+)", name))]
        tag = max(numbered)[1] if numbered else max(tags, key=lambda name: (root / name).stat().st_mtime)
    if tag not in tags:
        raise UserError(f"no {source} checkpoint is tagged {tag!r} in {root}; there are: {', '.join(tags)}")
    folder = root / tag
    there = steps(folder)
    if not there:
        raise UserError(f"{folder} holds no complete checkpoint (a model_*.pt with its meta_*.json); train it again")
    if step is None:
        step = there[-1]
    if step not in there:
        raise UserError(f"{folder} has no checkpoint of step {step}; there are: {', '.join(map(str, there))}")
    return folder, tag, step


def trained_with(tokenizer_hash: str) -> list[str]:
    """The checkpoints of the base folder that would no longer load with another tokenizer, as "<source> <tag>"."""
    return [
        f"{source} {folder.name}"
        for source in SOURCES
        for folder in sorted(checkpoints_dir(source).glob("*"))
        if (there := steps(folder)) and read_meta(folder, there[-1]).get("tokenizer_hash") == tokenizer_hash
    ]


def read_meta(folder: Path, step: int) -> dict:
    path = folder / _meta_file(step)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}){_offer_previous(folder, step)}") from error


def load(
    source: str,
    tag: str | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    with_optimizer: bool = False,
    keep_float32: bool = True,
) -> Loaded:
    """Find, check and load a checkpoint; the model computes in `dtype`.

    keep_float32 keeps weights as stored (bfloat16 becomes float32 on a CPU), for training; without it they are
    converted to dtype, for generating. Raises UserError for a missing or damaged file, an architecture that is not
    known, or another tokenizer than the model was trained with.
    """
    folder, tag, step = find(source, tag, step)
    meta = read_meta(folder, step)
    model_path = folder / _model_file(step)
    _check_files(folder, step, meta, [model_path.name] + ([_optimizer_file(step)] if with_optimizer else []))
    state = _torch_load(model_path, folder, step)
    config, state = legacy.translate(meta["model_config"], state, model_path)
    tokenizer = load_tokenizer(meta, model_path)
    with torch.device("meta"):
        model = GPT(config, dtype)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _check_tensors(expected, {name: tensor.shape for name, tensor in state.items()}, model_path)
    on_cpu = torch.device(device).type != "cuda"
    for name, tensor in state.items():
        target = torch.float32 if on_cpu and tensor.dtype != torch.float32 else tensor.dtype
        state[name] = tensor.to(device, target if keep_float32 else dtype)
    model.load_state_dict(state, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = _torch_load(folder / _optimizer_file(step), folder, step) if with_optimizer else None
    return Loaded(model, tokenizer, meta, folder, tag, step, optimizer)


def load_tokenizer(meta: dict, model_path: Path) -> Tokenizer:
    """The tokenizer of the base folder, which must be the one the checkpoint was trained with."""
    tokenizer = Tokenizer.load(tokenizer_dir())
    trained_with = meta.get("tokenizer_hash")
    if trained_with and trained_with != tokenizer.hash:
        raise UserError(
            f"{model_path} was trained with the tokenizer {trained_with[:12]}, but {tokenizer_dir()} holds "
            f"{tokenizer.hash[:12]}; put the right one there, or set NANOCHAT_BASE_DIR to where it is"
        )
    if tokenizer.vocab_size != meta["model_config"]["vocab_size"]:
        raise UserError(
            f"{model_path} has a vocabulary of {meta['model_config']['vocab_size']} tokens, but the tokenizer in "
            f"{tokenizer_dir()} has {tokenizer.vocab_size}; put the right one there"
        )
    return tokenizer


def _check_files(folder: Path, step: int, meta: dict, names: Sequence[str]) -> None:
    """Compare files with what their meta vouches for; foreign checkpoints vouch for nothing."""
    for name in names:
        path, said = folder / name, meta.get("files", {}).get(name)
        if not path.exists():
            raise UserError(f"{path} is missing{_offer_previous(folder, step)}")
        if said is None:
            continue
        size = path.stat().st_size
        if size != said["size"]:
            raise UserError(
                f"{path} is damaged: {size} bytes, {said['size']} expected{_offer_previous(folder, step)}"
            )
        if sha256(path) != said["sha256"]:
            raise UserError(f"{path} is damaged: its checksum is wrong{_offer_previous(folder, step)}")


def _offer_previous(folder: Path, step: int) -> str:
    earlier = [other for other in steps(folder) if other < step]
    return f"; the previous checkpoint is step {earlier[-1]}" if earlier else "; there is no earlier checkpoint"


def _torch_load(path: Path, folder: Path, step: int) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as a torch file{_offer_previous(folder, step)}") from error


def _check_tensors(expected: dict, found: dict, path: Path) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(found[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if missing or extra or wrong:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unexpected {', '.join(extra)}"] if extra else []
        raise UserError(f"{path} does not fit its architecture: {'; '.join(parts + wrong)}")


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _model_file(step: int) -> str:
    return f"model_{step:06d}.pt"


def _optimizer_file(step: int) -> str:
    return f"optim_{step:06d}_rank0.pt"


def _meta_file(step: int) -> str:
    return f"meta_{step:06d}.json"
