"""THE checkpoint format: what is saved, when it exists, what is kept, how it is found and loaded.

    <base>/<stage>_checkpoints/<tag>/model_SSSSSS.pt        state dict
                                     optim_SSSSSS/          optimizer and random state, see `parts`
                                     meta_SSSSSS.json       everything else; written last
                                     tokenizer/             only where it is not the one of the base folder

A checkpoint exists once its meta file does. The meta file holds the size and sha256 of the others and a checksum of
itself, so a file that was cut short, changed or belongs to another step is noticed before any tensor of it is used.
An adapter's (`lora`) model file holds the adapter alone; its meta file names the parent, which `door` loads with it.
Checkpoints of the original nanochat have the same names and load as they are (`legacy`). Its optimizer's state, and
that of our earlier versions, is one file, optim_SSSSSS_rank0.pt.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import reprlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import foreign_tokenizers, lora
from nanochat.checkpoint import legacy, parts, reading
from nanochat.checkpoint.parts import Ranks
from nanochat.errors import UserError
from nanochat.foreign_tokenizers import LENGTHS
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import strict_json
from nanochat.paths import (
    SOURCES,
    check_regular,
    check_tag,
    checkpoints_dir,
    read_json,
    sha256,
    tokenizer_dir,
    write_atomically,
    write_text,
)
from nanochat.peers import PeerFailed
from nanochat.reduce import Rows, as_rows, whole
from nanochat.tokenizer import Tokenizer

STAGE_COMMAND = {"base": "scripts.base_train", "mid": "scripts.mid_train", "sft": "scripts.chat_sft",
                 "dpo": "scripts.chat_dpo", "rl": "scripts.chat_rl"}  # fmt: skip
FORMAT = 2  # the newest that this version reads
WHOLE, ADAPTER = 1, 2  # what it writes: adapters are unknown to versions that know 1 only
CHECKSUM = "checksum"  # key of a meta file: the sha256 of all else in it
META_TYPES = {"files": dict, "tokenizer_hash": str, "source": str, "dataset": str, "user_config": dict,
              "loop_state": dict, "step": int, "lora": dict, "parent": dict}  # fmt: skip


@dataclass(frozen=True)
class LoadAs:
    """Where and how a model is loaded: it computes in `dtype` on `device`.

    keep_float32 keeps weights as stored (bfloat16 becomes float32 on a CPU), for training; without it they are
    converted to dtype, for generating. mapped leaves them in the file, as far as they need no other dtype, until they
    are moved to the device or divided among ranks (`sharded`).
    """

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    keep_float32: bool = True
    mapped: bool = False


AS_STORED = LoadAs()


class Damaged(UserError):
    """A checkpoint is not what was written; an earlier one may take its place."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    optimizer is the folder of the state that `save` was given, or the content of an earlier version's file, or None if
    it was not requested. note names what had to be assumed because the file does not record it; "" if nothing. source
    is the stage (base, mid, sft, dpo or rl); "" if unknown.
    """

    model: GPT
    tokenizer: Tokenizer
    meta: dict
    folder: Path
    tag: str
    step: int
    optimizer: Path | dict | None = None
    note: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"step {self.step} of {self.folder}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Weights:
    """The tensors of a model, or of its adapters, with what describes them."""

    tensors: Mapping[str, Tensor | Rows]
    config: GPTConfig
    adapters: lora.Adapters | None = None


def weights_of(model: GPT) -> Weights:
    """What a checkpoint has of a model, in place: of one with adapters these alone, of one in parts this rank's."""
    adapters = lora.adapters_of(model)
    state = model.state_dict()
    return Weights(as_rows(state if adapters is None else lora.state_of(state)), model.config, adapters)


def save(
    folder: Path, step: int, model: GPT | Weights, state: Mapping[str, Tensor | Rows] | None, meta: dict,
    ranks: Ranks | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint whole or not at all; the step, architecture and checksums are added to meta.

    state: what a run needs besides to be resumed; None for a model that others can only start from. For adapters
    meta["parent"] has to be the `door.record` of their parent. On several ranks it is a collective call, with tensors
    in main memory. Raises UserError when a disk is full; files of an earlier save of the same step are replaced one by
    one.
    """
    weights = model if isinstance(model, Weights) else weights_of(model)
    is_main = ranks is None or ranks.rank == 0
    model_path, meta_path = folder / _model_file(step), folder / _meta_file(step)
    tensors = whole(parts.laid_out(weights.tensors, ranks), is_main)

    def begin() -> dict:
        if not is_main:
            return {}
        delete(folder, [])
        meta_path.unlink(missing_ok=True)  # the files it has checksums of are about to change
        _remove_state(folder, step)
        for leftover in folder.glob(".*.tmp"):  # of a save that was killed
            leftover.unlink(missing_ok=True)
        digest = write_atomically(model_path, lambda file: torch.save(tensors, file))
        return {model_path.name: {"size": model_path.stat().st_size, "sha256": digest}}

    try:
        files = begin() if ranks is None else ranks.together(begin)
        if state:
            written = parts.write(folder / _state_folder(step), state, ranks)
            files |= {f"{_state_folder(step)}/{name}": entry for name, entry in written.items()}
        if is_main:
            adapter = weights.adapters and {"lora": asdict(weights.adapters)}
            made = {"format": ADAPTER if adapter else WHOLE, **(adapter or {})}
            described = {"step": step, **meta, **made, "model_config": asdict(weights.config), "files": files}
            write_meta(meta_path, described)
    except (UserError, PeerFailed):
        if is_main:
            model_path.unlink(missing_ok=True)
            _remove_state(folder, step)
        raise


def write_meta(path: Path, meta: dict) -> None:
    """Write a meta file with its own checksum."""
    meta = json.loads(strict_json(meta))
    write_text(path, json.dumps({**meta, CHECKSUM: _checksum(meta)}, indent=2))


def update_meta(folder: Path, step: int, changes: dict) -> None:
    """Add what is known only after the save, such as the validation loss."""
    write_meta(folder / _meta_file(step), {**read_meta(folder, step), **changes})


def prune(folder: Path, keep_last: int, best: str = "val_bpb") -> list[str]:
    """Delete all but the newest `keep_last` checkpoints and the one with the lowest meta[best].

    keep_last <= 0 keeps all but "passing" checkpoints, which were saved between two regular ones and are always
    deleted once a newer one exists. Damaged checkpoints are not touched; returns what is wrong with each.
    """
    metas, damaged = {}, []
    for step in steps(folder):
        try:
            metas[step] = read_meta(folder, step)
        except UserError as error:
            damaged.append(str(error))
    found = list(metas)
    scores = {step: metas[step].get(best) for step in found}
    scores = {step: score for step, score in scores.items() if isinstance(score, (int, float)) and math.isfinite(score)}
    newest = found[-keep_last:] if keep_last > 0 else found
    kept = {step for step in newest if step == found[-1] or not metas[step].get("passing")}
    if scores:
        kept.add(min(scores, key=lambda step: (scores[step], step)))
    gone = [step for step in found if step not in kept]
    delete(folder, [step for step in gone if step not in _parents_of_adapters(folder)] if gone else [])
    return damaged


def _parents_of_adapters(folder: Path) -> set[int]:
    """The steps of a stage's folder that adapters in the base folder were trained on, and cannot be opened without."""
    needed: set[int] = set()
    base = checkpoints_dir("base").parent
    for path in base.glob("*_checkpoints/*/meta_*.json"):
        with contextlib.suppress(UserError):  # a damaged one is named when it is used
            meta = read_json(path)
            parent = meta.get("parent")
            if "lora" not in meta or not isinstance(parent, dict):
                continue
            if base / SOURCES.get(str(parent.get("source")), "-") / str(parent.get("tag")) == folder:
                needed.add(parent["step"])
    return needed


def delete(folder: Path, gone: Sequence[int]) -> None:
    """Delete checkpoints, and finish deletions that were killed.

    The meta file is renamed first, so a half-deleted checkpoint no longer exists, and deleted last, so that the rest
    of it can be found.
    """
    killed = (int(path.name.split("_")[1].split(".")[0]) for path in folder.glob(_doomed_file("*")))
    for step in {*gone, *(step for step in killed if not (folder / _meta_file(step)).exists())}:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / _meta_file(step), folder / _doomed_file(f"{step:06d}"))
        (folder / _model_file(step)).unlink(missing_ok=True)
        _remove_state(folder, step)
        (folder / _doomed_file(f"{step:06d}")).unlink(missing_ok=True)


def _remove_state(folder: Path, step: int) -> None:
    (folder / _earlier_file(step)).unlink(missing_ok=True)
    if (folder / _state_folder(step)).exists():
        shutil.rmtree(folder / _state_folder(step))


def steps(folder: Path) -> list[int]:
    """The steps of all complete checkpoints of a folder, ascending."""
    return [step for step in recorded(folder) if (folder / _model_file(step)).exists()]


def recorded(folder: Path) -> list[int]:
    """The steps of all meta files of a folder, ascending, also of those whose model is missing."""
    numbers = (re.fullmatch(r"meta_(\d{6,})\.json", path.name) for path in folder.glob("meta_*.json"))
    return sorted(int(match[1]) for match in numbers if match)


def find(source: str, tag: str | None = None, step: int | None = None) -> tuple[Path, str, int]:
    """The folder, tag and step of a model of a stage. Raises UserError, naming what there is.

    Default: the deepest tag d<number>, else the only one; the last step.
    """
    root = checkpoints_dir(source)
    if tag is not None:
        check_tag("model_tag", tag)
    tags = sorted(path.name for path in root.iterdir() if path.is_dir() and steps(path)) if root.is_dir() else []
    how = f"train one with python -m {STAGE_COMMAND.get(source, f'the {source} stage')}"
    if tag is None and not tags:
        raise UserError(f"no {source} checkpoint in {root}; {how}")
    folder = root / (tag or _default_tag(tags, root))
    if not steps(folder):
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(
                f"{folder} holds no complete checkpoint (a model_*.pt with its meta_*.json); train it again"
            )
        others = f"there are: {', '.join(tags)}" if tags else how
        raise UserError(f"no {source} checkpoint is tagged {tag!r} in {root}; {others}")
    return folder, folder.name, choose_step(folder, step)


def _default_tag(tags: list[str], root: Path) -> str:
    """The deepest d<number>. A copy (d4_backup), a date or a name of the user's own is never chosen among several."""
    depths = {int(match[1]): tag for tag in tags if (match := re.fullmatch(r"d(\d{1,9})", tag))}
    if not depths and len(tags) > 1:
        raise UserError(f"{root} holds several models ({', '.join(tags)}); choose one with --model_tag")
    return depths[max(depths)] if depths else tags[0]


def choose_step(folder: Path, step: int | None) -> int:
    """A step of a folder's checkpoints, the last by default. Raises UserError where there is no such step."""
    there = steps(folder)
    if step is not None and step not in there:
        raise UserError(f"{folder} has no checkpoint of step {step}; there are: {', '.join(map(str, there))}")
    return there[-1] if step is None else step


def read_meta(folder: Path, step: int) -> dict:
    """The content of a meta file. Raises Damaged where it is not what was written, UserError for a newer format."""
    path = folder / _meta_file(step)
    try:
        meta = read_json(path, _alternative(folder, step))
    except UserError as error:
        raise Damaged(str(error)) from None
    if meta.pop(CHECKSUM, None) not in (None, _checksum(meta)):  # None: the original's, or an older version's
        raise Damaged(f"{path} is damaged: its checksum is wrong; {_alternative(folder, step)}")
    version = meta.get("format", FORMAT)
    if type(version) is not int or version > FORMAT:
        raise UserError(f"{path} has the format {version!r}; this version knows {FORMAT}: use the newer one to read it")
    if not isinstance(meta.get("model_config"), dict):
        raise UserError(f"{path} has no model_config; expected the meta file of a checkpoint")
    for name, kind in META_TYPES.items():
        if not isinstance(meta.get(name), (kind, type(None))):
            raise UserError(f"{path} is damaged: its {name} is {reprlib.repr(meta[name])}; get it again")
    for name, entry in (meta.get("files") or {}).items():
        if not isinstance(entry, dict) or not {"size", "sha256"} <= entry.keys():
            raise UserError(f"{path} is damaged: it has no size and sha256 of {reprlib.repr(name)}; get it again")
    return meta


def record_of(meta: dict, source: str, tag: str, step: int) -> dict:
    """What a later stage, or an evaluation, records about the checkpoint it used."""
    digest = (meta.get("files") or {}).get(_model_file(step), {}).get("sha256")
    return {"source": source, "tag": tag, "step": step, "sha256": digest}


def _checksum(meta: dict) -> str:
    """The sha256 of a meta file's content without its checksum, in hex."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def load_step(
    folder: Path, tag: str, step: int, load_as: LoadAs = AS_STORED, with_optimizer: bool = False,
    parent: GPT | None = None,
) -> Loaded:  # fmt: skip
    """Check and load a checkpoint of any folder. An adapter's is put onto its parent, which `door.load_step` finds.

    Raises UserError for a missing or damaged file, an unknown architecture, or a tokenizer other than the one the model
    was trained with.
    """
    meta = read_meta(folder, step)
    model_path = folder / _model_file(step)
    if with_optimizer and not legacy.is_ours(meta["model_config"]):
        raise UserError(
            f"{folder} was trained by the original nanochat, whose run cannot be resumed here; "
            "start the next stage from it, or train under another --model_tag"
        )
    names = [model_path.name, *(state_files(step, meta) if with_optimizer else [])]
    if with_optimizer and dist.is_initialized() and dist.get_world_size() > 1:
        _share_checks(folder, step, meta, names)
    else:
        _check_files(folder, step, meta, names)
    alternative = _alternative(folder, step)
    lazily = load_as.mapped or torch.device(load_as.device).type != "cpu"  # then it is copied
    state = reading.weights(reading.torch_file(model_path, alternative, lazily), model_path)
    if "lora" not in meta and "n_layer" in meta["model_config"]:  # before as many are made as a damaged file claims
        reading.check_layers(meta["model_config"]["n_layer"], state, model_path)
    tokenizer = load_tokenizer(meta, model_path)
    is_unknown = False
    if "lora" in meta:
        model = _with_adapters(parent, meta, state, model_path)
    else:
        model, is_unknown = _whole(meta, state, model_path, load_as)
    optimizer: Path | dict | None = None
    if with_optimizer:
        optimizer = folder / _state_folder(step)
        if not optimizer.exists():
            # Memory-mapped: it is copied tensor by tensor, so that resuming takes no more memory than starting.
            optimizer = reading.torch_file(folder / _earlier_file(step), alternative, lazily=True)
    return Loaded(model, tokenizer, meta, folder, tag, step, optimizer, _softcap_note(folder) if is_unknown else "")


def _whole(meta: dict, state: dict[str, Tensor], model_path: Path, load_as: LoadAs) -> tuple[GPT, bool]:
    """The model of a checkpoint that holds all of it, and whether its softcap is not recorded."""
    with reading.sensible(model_path):
        is_unknown = "softcap" not in meta["model_config"] and legacy.doubtful_softcap(meta["model_config"], state)
        config, state = legacy.translate(meta["model_config"], state, model_path)
    return build(config, state, model_path, load_as), is_unknown


def _with_adapters(parent: GPT | None, meta: dict, state: dict[str, Tensor], path: Path) -> GPT:
    """The parent with a checkpoint's adapters. Raises UserError, naming path, where they do not fit."""
    if parent is None:
        raise UserError(f"{path} holds an adapter alone; open it by name, as in sft:d3, so that its parent is found")
    with reading.sensible(path):
        recorded = lora.Adapters(**{**meta["lora"], "matrices": tuple(meta["lora"]["matrices"])})
        return lora.attach(parent, recorded, state)


def _softcap_note(folder: Path) -> str:
    return (
        "its softcap is not recorded, 15 is assumed; if it was trained after 3 March 2026, record 20 with "
        f"python -m scripts.pull --set_softcap {shlex.quote(str(folder))} --softcap 20"
    )


def build(config: GPTConfig, state: dict[str, Tensor], path: Path, load_as: LoadAs = AS_STORED) -> GPT:
    """A model with these tensors; `state` is emptied. Raises UserError, naming path, where they do not fit."""
    reading.check_layers(config.n_layer, state, path)
    with reading.sensible(path), torch.device("meta"):
        reading.check_shape(config)
        model = GPT(config, load_as.dtype)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        misfits = " ".join(str(error).partition(":")[2].split())
        raise UserError(f"{path} does not fit its architecture: {misfits[:400]}") from None
    state.clear()  # so that no tensor is there twice while they are converted one by one
    return placed(model, load_as)


def placed(model: GPT, load_as: LoadAs) -> GPT:
    """The model with its parameters where and as load_as asks for, all of them to be trained."""
    on_cpu = torch.device(load_as.device).type != "cuda"
    place = "cpu" if load_as.mapped else load_as.device
    for parameter in model.parameters():
        stored = torch.float32 if on_cpu else parameter.dtype
        parameter.data = parameter.data.to(place, stored if load_as.keep_float32 else load_as.dtype)
    return model.requires_grad_(True)


def load_tokenizer(meta: dict, model_path: Path) -> Tokenizer:
    """The tokenizer beside a checkpoint, else the base folder's. Raises UserError unless it is the model's own.

    If the original's list of how many bytes each token counts for lies beside it, that list is used.
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
        counted = reading.torch_file(path)
        if not isinstance(counted, Tensor) or counted.shape != (tokenizer.vocab_size,):
            raise UserError(f"{path} is not a list of {tokenizer.vocab_size} lengths; delete it to count raw bytes")
        tokenizer.token_bytes = counted.tolist()


def save_lengths(folder: Path, tokenizer: Tokenizer) -> None:
    """Write how many bytes each token counts for, as the original does."""
    lengths = torch.tensor(tokenizer.token_bytes, dtype=torch.int32)
    write_atomically(folder / LENGTHS, lambda file: torch.save(lengths, file))


def tokenizer_folder(folder: Path) -> Path:
    """Where a checkpoint folder's tokenizer is: in it, in its tokenizer/, else in the base folder."""
    return next((place for place in (folder, folder / "tokenizer") if foreign_tokenizers.holds(place)), tokenizer_dir())


def keep_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Save a tokenizer beside the checkpoints of a folder, unless they would be read with it anyway."""
    place = tokenizer_folder(folder)
    there = Tokenizer.load(place) if foreign_tokenizers.holds(place) else None
    if there is not None and there.hash == tokenizer.hash:
        _read_lengths(place, there)
        if there.token_bytes == tokenizer.token_bytes:
            return
    tokenizer.save(folder / "tokenizer")
    if tokenizer.token_bytes != Tokenizer.load(folder / "tokenizer").token_bytes:
        save_lengths(folder / "tokenizer", tokenizer)


def state_files(step: int, meta: dict) -> list[str]:
    """The files that a checkpoint's state should have, by their names in its folder."""
    recorded = [name for name in meta.get("files") or {} if name.startswith(f"{_state_folder(step)}/")]
    return recorded or [_earlier_file(step)]


def _share_checks(folder: Path, step: int, meta: dict, names: Sequence[str]) -> None:
    """`_check_files`, each rank some of the files, and all raise what one finds. A collective call."""
    rank, world = dist.get_rank(), dist.get_world_size()
    found: tuple[bool, str] | None = None
    try:
        _check_files(folder, step, meta, names[rank::world])
    except UserError as error:
        found = isinstance(error, Damaged), str(error)
    all_found: list[tuple[bool, str] | None] = [None] * world
    dist.all_gather_object(all_found, found)
    for first in filter(None, all_found):
        raise (Damaged if first[0] else UserError)(first[1])


def _check_files(folder: Path, step: int, meta: dict, names: Sequence[str]) -> None:
    """Compare files with the sizes and checksums of their meta file; checkpoints of other programs record none."""
    alternative = _alternative(folder, step)
    for name in names:
        path, recorded = folder / name, (meta.get("files") or {}).get(name)
        if not path.exists():
            raise (Damaged if recorded else UserError)(f"{path} is missing; {alternative}")
        try:
            check_regular(path)
        except UserError as error:
            raise Damaged(str(error)) from None
        if recorded is None:
            continue
        if (size := path.stat().st_size) != recorded["size"]:
            raise Damaged(f"{path} is damaged: {size} bytes, {recorded['size']} expected; {alternative}")
        if sha256(path) != recorded["sha256"]:
            raise Damaged(f"{path} is damaged: its checksum is wrong; {alternative}")


def _alternative(folder: Path, step: int) -> str:
    """What to do when a checkpoint is damaged."""
    earlier = [other for other in steps(folder) if other < step]
    if earlier:
        return f"the previous checkpoint is step {earlier[-1]}"
    was_trained_here = folder.parent.name in SOURCES.values()
    return "there is no earlier checkpoint" if was_trained_here else "get it again, or train it again"


def _model_file(step: int) -> str:
    return f"model_{step:06d}.pt"


def _state_folder(step: int) -> str:
    return f"optim_{step:06d}"


def _earlier_file(step: int) -> str:
    """Where the original, and earlier versions of ours, keep an optimizer's state."""
    return f"optim_{step:06d}_rank0.pt"


def _meta_file(step: int) -> str:
    return f"meta_{step:06d}.json"


def _doomed_file(step: str) -> str:
    return f".meta_{step}.json.deleted"
