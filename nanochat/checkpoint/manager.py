"""THE checkpoint format: what is saved, when it exists, what is kept, how it is found and loaded.

    <base>/<stage>_checkpoints/<tag>/model_SSSSSS.pt        state dict
                                     optim_SSSSSS_rank0.pt  optimizer state by parameter name, random state
                                     meta_SSSSSS.json       everything else; written last
                                     tokenizer/             only where it is not the one of the base folder

A checkpoint exists from the moment its meta file does. The meta file holds the size and sha256 of the others, and a
checksum of itself, so what was cut short, changed or belongs to another step is noticed before a tensor of it is used.
Checkpoints of the original nanochat have the same names and load as they are (`legacy`).
"""

import contextlib
import hashlib
import json
import math
import os
import re
import reprlib
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from nanochat import foreign_tokenizers
from nanochat.checkpoint import legacy, torch_file
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import strict_json
from nanochat.paths import (
    SOURCES,
    check_tag,
    checkpoints_dir,
    sha256,
    tokenizer_dir,
    write_atomically,
    write_text,
)  # fmt: skip
from nanochat.tokenizer import Tokenizer

STAGE_COMMAND = {"base": "scripts.base_train", "mid": "scripts.mid_train", "sft": "scripts.chat_sft",
                 "rl": "scripts.chat_rl"}  # fmt: skip
FORMAT = 1  # of the meta files that this version writes
CHECKSUM = "checksum"  # key of a meta file: the sha256 of all else in it
META_TYPES = {"files": dict, "tokenizer_hash": str, "source": str, "dataset": str, "user_config": dict,
              "loop_state": dict, "step": int}  # fmt: skip
ACTIVATIONS = ("relu2", "gelu", "gelu_tanh")
LENGTHS = "token_bytes.pt"  # what the original counts a token for, beside its tokenizer


@dataclass(frozen=True)
class LoadAs:
    """Where and how a model is loaded: it computes in `dtype` on `device`.

    keep_float32 keeps weights as stored (bfloat16 becomes float32 on a CPU), for training; without it they are
    converted to dtype, for generating.
    """

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    keep_float32: bool = True


AS_STORED = LoadAs()


class Damaged(UserError):
    """A checkpoint is not what was written, so that an earlier one may take its place."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. `optimizer` is what `save` was given, or None where it was not asked for.

    note says what had to be assumed of a file that does not tell all; empty where nothing had. source is the stage,
    base, mid, sft or rl; empty where nothing tells it.
    """

    model: GPT
    tokenizer: Tokenizer
    meta: dict
    folder: Path
    tag: str
    step: int
    optimizer: dict | None = None
    note: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"step {self.step} of {self.folder}" + (f" ({self.note})" if self.note else "")


def save(folder: Path, step: int, model: GPT, optimizer: dict | None, meta: dict) -> None:
    """Write a checkpoint whole or not at all. meta is completed with the step, the architecture and the checksums.

    Without an optimizer it can be started from, not resumed.
    Raises UserError when the disk is full; files of an earlier save of the same step are replaced one by one.
    """
    files = {_model_file(step): lambda file: torch.save(model.state_dict(), file)}
    if optimizer is not None:
        files[_optimizer_file(step)] = lambda file: torch.save(optimizer, file)
    delete(folder, [])
    meta_path = folder / _meta_file(step)
    meta_path.unlink(missing_ok=True)  # what it vouches for is about to change
    for leftover in folder.glob(".*.tmp"):  # of a save that was killed
        leftover.unlink(missing_ok=True)
    described = {}
    try:
        for name, write in files.items():
            digest = write_atomically(folder / name, write)
            described[name] = {"size": (folder / name).stat().st_size, "sha256": digest}
        whole = {"format": FORMAT, "step": step, **meta, "model_config": asdict(model.config), "files": described}
        write_meta(meta_path, whole)
    except UserError:
        for name in files:
            (folder / name).unlink(missing_ok=True)
        raise


def write_meta(path: Path, meta: dict) -> None:
    """Write a meta file with its own checksum."""
    meta = json.loads(strict_json(meta))
    write_text(path, json.dumps({**meta, CHECKSUM: _checksum(meta)}, indent=2))


def update_meta(folder: Path, step: int, changes: dict) -> None:
    """Add what is known only after the save, such as the result of the validation."""
    write_meta(folder / _meta_file(step), {**read_meta(folder, step), **changes})


def prune(folder: Path, keep_last: int, best: str = "val_bpb") -> list[str]:
    """Delete all but the newest `keep_last` checkpoints and the one with the lowest meta[best].

    keep_last <= 0 keeps all but those that were passing, written between two that were due: these make way for the
    next in any case. Damaged checkpoints are not touched; returns what is wrong with each.
    """
    metas, damaged = {}, []
    for step in steps(folder):
        try:
            metas[step] = read_meta(folder, step)
        except UserError as error:
            damaged.append(str(error))
    found = list(metas)
    scored = [(score, step) for step in found if math.isfinite(score := _number(metas[step].get(best)))]
    best_step = min(scored)[1] if scored else None
    newest = set(found[-keep_last:] if keep_last > 0 else found)
    gone = [
        step for step in found
        if step != best_step and (step not in newest or (metas[step].get("passing") and step != found[-1]))
    ]  # fmt: skip
    delete(folder, gone)
    return damaged


def delete(folder: Path, gone: Sequence[int]) -> None:
    """Delete checkpoints, and those whose deletion was killed.

    The meta file loses its name first, so what is half deleted does not exist, and vanishes last, so that it is found.
    """
    killed = (int(path.name.split("_")[1].split(".")[0]) for path in folder.glob(_doomed_file("*")))
    for step in {*gone, *(step for step in killed if not (folder / _meta_file(step)).exists())}:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / _meta_file(step), folder / _doomed_file(f"{step:06d}"))
        for name in (_model_file(step), _optimizer_file(step), _doomed_file(f"{step:06d}")):
            (folder / name).unlink(missing_ok=True)


def steps(folder: Path) -> list[int]:
    """The steps of all whole checkpoints of a folder, ascending."""
    return [step for step in recorded(folder) if (folder / _model_file(step)).exists()]


def recorded(folder: Path) -> list[int]:
    """The steps of all meta files of a folder, ascending, also of those whose model is missing."""
    numbers = (re.fullmatch(r"meta_(\d{6,})\.json", path.name) for path in folder.glob("meta_*.json"))
    return sorted(int(match[1]) for match in numbers if match)


def find(source: str, tag: str | None = None, step: int | None = None) -> tuple[Path, str, int]:
    """The folder, tag and step of a model. Without a tag the deepest d<number>, else the only model there is;
    without a step the last one. Raises UserError naming what there is."""
    root = checkpoints_dir(source)
    if tag is not None:
        check_tag("model_tag", tag)
    tags = sorted(path.name for path in root.iterdir() if path.is_dir() and steps(path)) if root.is_dir() else []
    if tag is None:
        tag = _default_tag(source, tags, root)
    folder = root / tag
    there = steps(folder)
    if not there and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds no complete checkpoint (a model_*.pt with its meta_*.json); train it again")
    if not there:
        others = f"there are: {', '.join(tags)}" if tags else _how_to_train(source)
        raise UserError(f"no {source} checkpoint is tagged {tag!r} in {root}; {others}")
    if step is None:
        step = there[-1]
    if step not in there:
        raise UserError(f"{folder} has no checkpoint of step {step}; there are: {', '.join(map(str, there))}")
    return folder, tag, step


def _default_tag(source: str, tags: list[str], root: Path) -> str:
    """The deepest d<number>. A copy (d4_backup), a date or a name of the user's own is never taken among several."""
    if not tags:
        raise UserError(f"no {source} checkpoint in {root}; {_how_to_train(source)}")
    depths = {int(match[1]): tag for tag in tags if (match := re.fullmatch(r"d(\d{1,9})", tag))}
    if not depths and len(tags) > 1:
        raise UserError(f"{root} holds several models ({', '.join(tags)}); choose one with --model_tag")
    return depths[max(depths)] if depths else tags[0]


def _how_to_train(source: str) -> str:
    return f"train one with python -m {STAGE_COMMAND.get(source, f'the {source} stage')}"


def read_meta(folder: Path, step: int) -> dict:
    path = folder / _meta_file(step)
    if path.exists() and not path.is_file():  # reading a pipe may never end
        raise Damaged(f"{path} is not a regular file{_offer_previous(folder, step)}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read ({error}){_offer_previous(folder, step)}") from error
    if not isinstance(meta, dict):
        raise Damaged(f"{path} is damaged: it holds no JSON object{_offer_previous(folder, step)}")
    if meta.pop(CHECKSUM, None) not in (None, _checksum(meta)):  # None: of the original, or of an older version
        raise Damaged(f"{path} is damaged: its checksum is wrong{_offer_previous(folder, step)}")
    return meta


def record_of(meta: dict, source: str, tag: str, step: int) -> dict:
    """What a later stage, or an evaluation, records of a checkpoint."""
    digest = meta.get("files", {}).get(_model_file(step), {}).get("sha256")
    return {"source": source, "tag": tag, "step": step, "sha256": digest}


def _checksum(meta: dict) -> str:
    """The sha256 of a meta file's content without its checksum, in hex."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def load_step(
    folder: Path, tag: str, step: int, load_as: LoadAs = AS_STORED, with_optimizer: bool = False
) -> Loaded:  # fmt: skip
    """Check and load a checkpoint of a folder, wherever it lies.

    Raises UserError for a missing or damaged file, an architecture that is not known, or another tokenizer than the
    model was trained with.
    """
    meta = checked_meta(folder, step)
    model_path = folder / _model_file(step)
    if with_optimizer and not legacy.is_ours(meta["model_config"]):
        raise UserError(
            f"{folder} was trained by the original nanochat, whose run cannot be resumed here; "
            "start the next stage from it, or train under another --model_tag"
        )
    _check_files(folder, step, meta, [model_path.name] + ([_optimizer_file(step)] if with_optimizer else []))
    state = torch_file.weights(torch_file.read(model_path, _offer_previous(folder, step)), model_path)
    torch_file.check_layers(meta["model_config"].get("n_layer"), state, model_path)
    note = ""
    with torch_file.sensible(model_path):
        if legacy.doubtful_softcap(meta["model_config"], state):
            note = (
                "its softcap is not recorded, 15 is assumed; if it was trained after 3 March 2026, record 20 with "
                f"python -m scripts.pull --set_softcap {shlex.quote(str(folder))} --softcap 20"
            )
        config, state = legacy.translate(meta["model_config"], state, model_path)
    tokenizer = load_tokenizer(meta, model_path)
    model = build(config, state, model_path, load_as)
    optimizer = None
    if with_optimizer:
        # Mapped, not read: it is copied tensor by tensor, so that resuming takes no more memory than starting.
        path = folder / _optimizer_file(step)
        optimizer = torch_file.read(path, _offer_previous(folder, step), lazily=True)
    return Loaded(model, tokenizer, meta, folder, tag, step, optimizer, note)


def build(config: GPTConfig, state: dict[str, Tensor], path: Path, load_as: LoadAs = AS_STORED) -> GPT:
    """A model of these tensors; `state` is used up. Raises UserError, naming path, for a misfit."""
    torch_file.check_layers(config.n_layer, state, path)
    with torch_file.sensible(path), torch.device("meta"):
        check_shape(config)
        model = GPT(config, load_as.dtype)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _check_tensors(expected, {name: tensor.shape for name, tensor in state.items()}, path)
    on_cpu = torch.device(load_as.device).type != "cuda"
    for name, tensor in state.items():
        target = torch.float32 if on_cpu and tensor.dtype != torch.float32 else tensor.dtype
        state[name] = tensor.to(load_as.device, target if load_as.keep_float32 else load_as.dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(True)


def check_shape(config: GPTConfig) -> None:
    """Raise ValueError for values that no model has."""
    c = config
    for field in fields(c):
        value, kind = getattr(c, field.name), type(field.default)
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise ValueError(f"{field.name} is {value!r}, expected a value such as {field.default!r}")
    if c.activation not in ACTIVATIONS:
        raise ValueError(f"activation is {c.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    for name in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "pad_vocab_to"):
        value = getattr(c, name)
        if value < 1:
            raise ValueError(f"{name} is {value!r}, expected a whole number from 1 on")
    if c.n_embd % c.n_head or c.n_head % c.n_kv_head:
        raise ValueError(f"a width of {c.n_embd} has no {c.n_head} heads that share {c.n_kv_head} keys")
    if not c.window_pattern or set(c.window_pattern.upper()) - set("SL"):
        raise ValueError(f"window_pattern is {c.window_pattern!r}, expected letters S and L")
    for name, least in (("norm_eps", 0.0), ("softcap", 0.0), ("rope_base", 0.0), ("dropout", 0.0)):
        value = getattr(c, name)
        if not least <= value < math.inf:
            raise ValueError(f"{name} is {value!r}, expected a number from {least:g} on")


def load_tokenizer(meta: dict, model_path: Path) -> Tokenizer:
    """The tokenizer that lies with a checkpoint, else that of the base folder; it must be the one it was trained with.

    With it may lie the original's list of how many bytes a token counts for; then that is what it counts here too.
    """
    folder = tokenizer_folder(model_path.parent)
    tokenizer = Tokenizer.load(folder)
    trained_with = meta.get("tokenizer_hash")
    if trained_with and trained_with != tokenizer.hash:
        raise UserError(
            f"{model_path} was trained with the tokenizer {trained_with[:12]}, but {folder} holds "
            f"{tokenizer.hash[:12]}; put the right one there, or set NANOCHAT_BASE_DIR to where it is"
        )
    if tokenizer.vocab_size != meta["model_config"].get("vocab_size"):
        raise UserError(
            f"{model_path} has a vocabulary of {meta['model_config'].get('vocab_size')} tokens, but the tokenizer in "
            f"{folder} has {tokenizer.vocab_size}; put the right one there"
        )
    _read_lengths(folder, tokenizer)
    return tokenizer


def _read_lengths(folder: Path, tokenizer: Tokenizer) -> None:
    path = folder / LENGTHS
    if path.exists():
        counted = torch_file.read(path)
        if not isinstance(counted, Tensor) or counted.shape != (tokenizer.vocab_size,):
            raise UserError(f"{path} is not a list of {tokenizer.vocab_size} lengths; delete it to count raw bytes")
        tokenizer.token_bytes = counted.tolist()


def save_lengths(folder: Path, tokenizer: Tokenizer) -> None:
    """Write what a tokenizer's tokens count for, as the original does and `load_tokenizer` reads it."""
    lengths = torch.tensor(tokenizer.token_bytes, dtype=torch.int32)
    write_atomically(folder / LENGTHS, lambda file: torch.save(lengths, file))


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a checkpoint folder is: in it, in tokenizer/ below it, else in the base folder."""
    return next((place for place in (folder, folder / "tokenizer") if foreign_tokenizers.holds(place)), tokenizer_dir())


def keep_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Put a tokenizer beside the checkpoints of a folder, unless it is the one they would be read with anyway."""
    place = tokenizer_folder(folder)
    there = Tokenizer.load(place) if foreign_tokenizers.holds(place) else None
    if there is not None and there.hash == tokenizer.hash:
        _read_lengths(place, there)
        if there.token_bytes == tokenizer.token_bytes:
            return
    tokenizer.save(folder / "tokenizer")
    if tokenizer.token_bytes != Tokenizer.load(folder / "tokenizer").token_bytes:
        save_lengths(folder / "tokenizer", tokenizer)


def checked_meta(folder: Path, step: int) -> dict:
    """`read_meta`. Raises UserError also for what a newer version wrote, and for values of the wrong type."""
    path = folder / _meta_file(step)
    meta = read_meta(folder, step)
    version = meta.get("format", FORMAT)
    if type(version) is not int or version > FORMAT:
        raise UserError(f"{path} has the format {version!r}; this version knows {FORMAT}: use the newer one to read it")
    if not isinstance(meta.get("model_config"), dict):
        raise UserError(f"{path} has no model_config; expected the meta file of a checkpoint")
    for name, kind in META_TYPES.items():
        if not isinstance(meta.get(name), (kind, type(None))):
            raise UserError(f"{path} is damaged: its {name} is {reprlib.repr(meta[name])}; get it again")
    for name, vouched in (meta.get("files") or {}).items():
        if not isinstance(vouched, dict) or not {"size", "sha256"} <= vouched.keys():
            raise UserError(f"{path} is damaged: it has no size and sha256 of {reprlib.repr(name)}; get it again")
    return meta


def _check_files(folder: Path, step: int, meta: dict, names: Sequence[str]) -> None:
    """Compare files with what their meta vouches for; foreign checkpoints vouch for nothing."""
    for name in names:
        path, said = folder / name, (meta.get("files") or {}).get(name)
        if not path.exists():
            kind = UserError if said is None else Damaged
            raise kind(f"{path} is missing{_offer_previous(folder, step)}")
        if not path.is_file():  # reading a pipe may never end
            raise Damaged(f"{path} is not a regular file{_offer_previous(folder, step)}")
        if said is None:
            continue
        size = path.stat().st_size
        if size != said["size"]:
            raise Damaged(
                f"{path} is damaged: {size} bytes, {said['size']} expected{_offer_previous(folder, step)}"
            )
        if sha256(path) != said["sha256"]:
            raise Damaged(f"{path} is damaged: its checksum is wrong{_offer_previous(folder, step)}")


def _offer_previous(folder: Path, step: int) -> str:
    earlier = [other for other in steps(folder) if other < step]
    if earlier:
        return f"; the previous checkpoint is step {earlier[-1]}"
    was_trained_here = folder.parent.name in SOURCES.values()
    return "; there is no earlier checkpoint" if was_trained_here else "; get it again, or train it again"


def _check_tensors(expected: dict, found: dict, path: Path) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(found[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if missing or extra or wrong:
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"unexpected {_some(extra)}"] if extra else []
        raise UserError(f"{path} does not fit its architecture: {'; '.join(parts + wrong[:3])}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:80] for name in names[:3]) + more


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _model_file(step: int) -> str:
    return f"model_{step:06d}.pt"


def _optimizer_file(step: int) -> str:
    return f"optim_{step:06d}_rank0.pt"


def _meta_file(step: int) -> str:
    return f"meta_{step:06d}.json"


def _doomed_file(step: str) -> str:
    return f".meta_{step}.json.deleted"
