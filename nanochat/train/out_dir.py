"""The out_dir of a run in nanoGPT's way: its checkpoints, and how it is resumed.

    ckpt.pt        with --always_save_checkpoint the latest checkpoint, else the best by validation (as nanoGPT has it)
    ckpt_best.pt   with it the best
    ckpt_last.pt   without it the latest
    *.pt.sha256    their checksums

A model that nanoGPT's format cannot hold is kept in our own: model_*.pt, optim_*.pt and meta_*.json.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nanochat import foreign_tokenizers, gpt2_tokenizer
from nanochat.checkpoint import gpt2, manager, nanogpt
from nanochat.checkpoint.nanogpt import BEST_CKPT, CKPT, LAST_CKPT
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import read_json
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import TrainState

METRICS = "metrics.jsonl"
CKPTS = (CKPT, LAST_CKPT, BEST_CKPT)
OURS = {"settings", "model_config"}  # what the config.json of a run has


@dataclass
class Run:
    """Everything a run is resumed from. best is the lowest val_loss so far, best_step its step where that is known.

    data: the `content` of its token files by split, empty where no checkpoint tells it; settings: those it was trained
    with, empty for a new run.
    """

    model: GPT
    tokenizer: Tokenizer | None
    state: TrainState
    optimizer: dict | None = None
    best: float = math.inf
    best_step: int | None = None
    data: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


class Keeper(Protocol):
    """Writes a run's checkpoints. A new run clears an older one's away once it has something to save itself."""

    def begin(self, run: Run) -> None:
        """Finish what a kill kept an earlier process from; before anything else."""
        ...

    def save(self, run: Run) -> None:
        """Write the latest checkpoint."""
        ...

    def scored(self, run: Run, is_best: bool) -> None:
        """Note in the latest checkpoint what its validation has changed."""
        ...


class CkptKeeper:
    """In nanoGPT's format; settings are what it calls config."""

    def __init__(self, folder: Path, always: bool, settings: dict, is_new: bool):
        self.folder = folder
        self.settings = settings
        self.is_new = is_new
        self.latest, self.best = (folder / name for name in ((CKPT, BEST_CKPT) if always else (LAST_CKPT, CKPT)))

    def begin(self, run: Run) -> None:
        for leftover in self.folder.glob(".ckpt*.tmp"):  # left by a killed save; the lock keeps others out
            leftover.unlink(missing_ok=True)
        if self.is_new:
            return
        self._rename()
        if run.best_step == run.state.step == _step(self.latest) != _step(self.best):  # killed inside of `scored`
            self._write(run, self.best)

    def save(self, run: Run) -> None:
        self._write(run, self.latest)
        if self.is_new:
            _clear(self.folder, self.latest)
            self.is_new = False

    def scored(self, run: Run, is_best: bool) -> None:
        self._write(run, self.latest)
        if is_best:
            self._write(run, self.best)  # a copy of its own, so damage to the other cannot reach it

    def _write(self, run: Run, path: Path) -> None:
        assert run.optimizer is not None
        ours = {
            "loop_state": run.state.state_dict(),
            "best_step": run.best_step,
            "tokenizer_hash": run.tokenizer.hash if run.tokenizer else None,
            "data": run.data,
        }
        nanogpt.write(path, run.model, run.optimizer, self.settings, run.state.step, run.best, ours)

    def _rename(self) -> None:
        """The files of a run that is resumed with the other --always_save_checkpoint get the names they have now."""
        if self.latest.name == CKPT and (self.folder / LAST_CKPT).exists():
            moves = [(CKPT, BEST_CKPT), (LAST_CKPT, CKPT)]
        elif self.latest.name == LAST_CKPT and (self.folder / BEST_CKPT).exists():
            moves = [(CKPT, LAST_CKPT), (BEST_CKPT, CKPT)]
        else:
            return
        for old, new in moves:
            if (self.folder / old).exists():  # there is not always a best one
                nanogpt.move(self.folder / old, self.folder / new)


class StepKeeper:
    """In our own format: the latest and the best."""

    def __init__(self, folder: Path, settings: dict, is_new: bool):
        self.folder = folder
        self.settings = settings
        self.is_new = is_new

    def begin(self, run: Run) -> None:
        """Nothing: `manager.save` sees to it."""

    def save(self, run: Run) -> None:
        step = run.state.step
        optimizer = {"optimizer": run.optimizer}
        manager.save(self.folder, step, run.model, optimizer, {"user_config": self.settings, **self._meta(run)})
        if self.is_new:
            _clear(self.folder, step)
            self.is_new = False
        manager.prune(self.folder, 1, "val_loss")

    def scored(self, run: Run, is_best: bool) -> None:
        manager.update_meta(self.folder, run.state.step, self._meta(run, is_best))
        manager.prune(self.folder, 1, "val_loss")

    def _meta(self, run: Run, is_best: bool = False) -> dict:
        return {
            "val_loss": run.best if is_best else None,  # by which `prune` knows the best
            "best_val_loss": run.best if math.isfinite(run.best) else None,
            "loop_state": run.state.state_dict(),
            "tokenizer_hash": run.tokenizer.hash if run.tokenizer else None,
            "data": run.data,
        }


def resume(folder: Path, tokenizer: Tokenizer | None, rt: Runtime, check: Callable[[GPTConfig], object]) -> Run:
    """The run in `folder` at its latest checkpoint, also one that nanoGPT itself has begun.

    tokenizer: the one beside it, else that of the data, where there is one; ckpt.pt has only the number of rows.
    check: called with the architecture before the model is built.
    A damaged checkpoint is printed, and the previous or the best one used instead. Raises UserError where there is
    none or all are damaged, and for another tokenizer than the run's.
    """
    path, damage = latest_ckpt(folder)
    if path is None:
        return _resume_steps(folder, rt, check)
    light = nanogpt.read(path, tensors=False)
    check(light.config)
    rows, ours = light.config.vocab_size, _ours(light, path)
    trained_with = ours.get("tokenizer_hash")
    if tokenizer and trained_with and tokenizer.hash != trained_with:
        raise UserError(
            f"{path} was trained with the tokenizer {trained_with[:12]}, not with {tokenizer.hash[:12]}, which "
            f"lies beside it or with the data; put the right one into {folder}, or name its data by --dataset"
        )
    rounded = gpt2_tokenizer.VOCABULARIES[0] if rows in gpt2_tokenizer.VOCABULARIES else rows
    known = tokenizer.vocab_size if tokenizer else rounded
    if known > rows:
        raise UserError(f"{path} has {rows} tokens, but its tokenizer has {known}; put the right one beside it")
    state = TrainState.restored(ours.get("loop_state", {"step": light.iter_num}), path)
    read = nanogpt.read(path)
    config, load_as = gpt2.with_tokenizer(read.config, known), manager.LoadAs(rt.device, rt.dtype)
    model = manager.build(config, read.state, path, load_as)
    if damage:
        rt.print(f"train: {damage.partition(';')[0]}; resuming from {path} instead, at step {state.step}")
    best_step, data = ours.get("best_step"), ours.get("data") or {}
    return Run(model, tokenizer, state, read.optimizer, read.best_val_loss, best_step, data, read.settings)


def _resume_steps(folder: Path, rt: Runtime, check: Callable[[GPTConfig], object]) -> Run:
    """`resume` from checkpoints in our own format."""
    damage = ""
    for step in reversed(manager.steps(folder)):
        try:
            loaded = manager.load_step(folder, folder.name, step, manager.LoadAs(rt.device, rt.dtype), True)
        except manager.Damaged as error:
            damage = damage or str(error)
            continue
        check(loaded.model.config)
        if damage:
            rt.print(f"train: {damage.partition(';')[0]}; resuming from step {step} instead")
        meta, where = loaded.meta, f"the meta file of step {step} of {folder}"
        state, best = TrainState.restored(meta.get("loop_state"), where), meta.get("best_val_loss")
        optimizer = (loaded.optimizer or {}).get("optimizer")
        cursor = _mapping(_mapping(meta.get("loop_state")).get("cursor"))
        is_other = bool(cursor) and "window" not in cursor  # a run of a stage, which reads documents
        if is_other or optimizer is None or not isinstance(best, (float, int, type(None))):
            raise UserError(f"{where} does not hold a run of scripts.train; start from it with --init_from={folder}")
        best, data, settings = math.inf if best is None else best, meta.get("data"), meta.get("user_config")
        return Run(loaded.model, loaded.tokenizer, state, optimizer, best, None, _mapping(data), _mapping(settings))
    raise UserError(damage or _nothing_in(folder))


def latest_ckpt(folder: Path) -> tuple[Path | None, str]:
    """The most advanced intact one of ckpt.pt and ckpt_last.pt, else ckpt_best.pt, or None; and what is wrong with the
    one that it replaces. Raises UserError where all are damaged.

    File times are ignored, since copied files have new ones.
    """
    there = [path for name in (CKPT, LAST_CKPT) if (path := folder / name).exists()]
    there.sort(key=lambda path: (_step(path) or 0, path.name == LAST_CKPT), reverse=True)
    damage = "" if there else f"{folder} has no {CKPT}"
    if (folder / BEST_CKPT).exists():
        there.append(folder / BEST_CKPT)
    for path in there:
        try:
            nanogpt.read(path, tensors=False)
        except UserError as error:
            damage = damage or str(error)
        else:
            return path, damage
    if there:
        raise UserError(f"{damage}; no checkpoint in {folder} can be resumed, start anew in another --out_dir")
    return None, ""


def settings_of(folder: Path) -> dict:
    """The settings of the run in `folder`, by nanoGPT's names. Raises UserError where there is no run."""
    path, _ = latest_ckpt(folder)
    if path is not None:
        read = nanogpt.read(path, tensors=False)
        c = read.config
        shape = {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "bias": c.bias}
        return {**read.settings, **shape, "block_size": c.sequence_len}
    for step in reversed(manager.steps(folder)):
        with contextlib.suppress(UserError):  # named by `resume`
            meta = manager.read_meta(folder, step)
            return _mapping(meta.get("user_config"))
    raise UserError(_nothing_in(folder))


def refuse_taken(folder: Path, tokenizer: Tokenizer | None, overwrite: bool) -> None:
    """Raise UserError where a new run would replace files of others; `overwrite` lets it replace another run.

    That is a run's checkpoints, or the files of something else that has a config.json or a tokenizer.
    """
    config = folder / "config.json"
    is_run = config.exists() and read_json(config, "give another --out_dir").keys() >= OURS
    if config.exists() and not is_run:
        raise UserError(f"{config} does not belong to a run of scripts.train; give another --out_dir")
    if (folder / METRICS).exists() and not is_run:
        raise UserError(f"{folder / METRICS} does not belong to a run of scripts.train; give another --out_dir")
    is_own = not foreign_tokenizers.holds(folder) or tokenizer and Tokenizer.load(folder).hash == tokenizer.hash
    if not is_run and not is_own:
        raise UserError(f"{folder} holds a tokenizer that is not the data's; give another --out_dir")
    there = checkpoints(folder)
    if there and not overwrite:
        raise UserError(
            f"{folder} holds {', '.join(there)} of another run{_reached(folder)}; resume it with --init_from=resume, "
            "give another --out_dir, or replace it with --overwrite"
        )


def checkpoints(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder."""
    return [name for name in CKPTS if (folder / name).exists()] + [f"step {step}" for step in manager.steps(folder)]


def _reached(folder: Path) -> str:
    """The step a run has reached, in brackets; empty if that cannot be read."""
    try:
        path, _ = latest_ckpt(folder)
        if path is None:
            return ""
        read = nanogpt.read(path, tensors=False)
        end = read.settings["max_iters"]
        finished = "finished at" if read.iter_num >= end else "at"
    except (UserError, LookupError, TypeError):
        return ""
    return f" ({finished} step {read.iter_num} of {end}, best val_loss {read.best_val_loss:.4f})"


def _nothing_in(folder: Path) -> str:
    return f"{folder} has no {CKPT} to resume from; check --out_dir, or start with another --init_from"


def _ours(read: nanogpt.Checkpoint, path: Path) -> dict:
    """What our own training has put into a ckpt.pt; empty for one of nanoGPT's. Raises UserError if malformed."""
    ours = {} if read.ours is None else read.ours
    kinds = {"loop_state": dict, "best_step": int, "tokenizer_hash": str, "data": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(_mapping(ours).get(name), (kind, type(None)))]
    state = _mapping(_mapping(ours).get("loop_state"))
    cursor = state.get("cursor")
    if cursor is not None and type(_mapping(cursor).get("window")) is not int:
        wrong.append("cursor")
    if state and state.get("step") != read.iter_num:
        wrong.append("step")
    if wrong or not isinstance(ours, dict):
        raise UserError(
            f"{path} is damaged: what it holds for a resume is malformed ({', '.join(wrong) or 'no dict'}); "
            f"start from its weights with --init_from={path} and another --out_dir"
        )
    return ours


def _mapping(value: object) -> dict:
    return dict(value) if isinstance(value, Mapping) else {}


def _step(path: Path) -> int | None:
    try:
        return nanogpt.iter_num(path) if path.exists() else None
    except UserError:  # it is damaged
        return None


def _clear(folder: Path, latest: Path | int) -> None:
    """Remove the checkpoints of an older run: all but the latest, a file or a step."""
    for name in CKPTS:
        if folder / name != latest:
            nanogpt.remove(folder / name)
    manager.delete(folder, [step for step in manager.steps(folder) if step != latest])
