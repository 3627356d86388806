"""The out_dir of a run in nanoGPT's way: its checkpoints, and how it is resumed.

    ckpt.pt        with --always_save_checkpoint the latest checkpoint, else the best by validation (as in nanoGPT)
    ckpt_best.pt   with it the best
    ckpt_last.pt   without it the latest
    *.pt.sha256    their checksums

A model that nanoGPT's format cannot hold is kept in our own: model_*.pt, optim_*/ and meta_*.json.
"""

import contextlib
import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from extras.nanogpt import ckpt
from extras.nanogpt.settings import ADAPTERS, OF_ONE_START, SHAPE, Settings, check
from nanochat import foreign_tokenizers, gpt2_tokenizer
from nanochat.checkpoint import door, gpt2, manager, nanogpt, reading
from nanochat.checkpoint.nanogpt import BEST_CKPT, CKPT, LAST_CKPT
from nanochat.errors import UserError, shown
from nanochat.gpt import GPT
from nanochat.paths import read_json
from nanochat.reduce import whole
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import TrainState
from nanochat.train.parallel import REPLICATED, Layout
from nanochat.train.start import adopt
from nanochat.train.writer import Begun, CheckpointWriter

METRICS = "metrics.jsonl"
CKPTS = (CKPT, LAST_CKPT, BEST_CKPT)
OURS = {"settings", "model_config"}  # keys of the config.json of a run

S = TypeVar("S", bound=Settings)
PLAIN = (bool, int, float, str, type(None))  # a setting is one of these, or a list of them


@dataclass
class Run:
    """Everything a run is resumed from. best is the lowest val_loss so far, best_step its step if that is known.

    data: the `content` of its token files by split, empty if no checkpoint records it; settings: those it was trained
    with, empty for a new run; parent: the model that its adapters are of, if it has some.
    """

    model: GPT
    tokenizer: Tokenizer | None
    state: TrainState
    optimizer: Path | dict | None = None
    best: float = math.inf
    best_step: int | None = None
    data: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    parent: dict | None = None
    layout: Layout = REPLICATED

    def note(self, step: int, scores: dict[str, float]) -> bool:
        """Whether the val_loss of a step is the lowest so far."""
        is_best = scores["val_loss"] < self.best
        if is_best:
            self.best, self.best_step = scores["val_loss"], step
        return is_best


@dataclass(kw_only=True)
class CkptWriter(CheckpointWriter):
    """Writes nanoGPT's format; settings are what it calls config."""

    run: Run
    always: bool  # --always_save_checkpoint
    settings: dict
    held: tuple[int, dict, dict] = (-1, {}, {})  # the step whose optimizer and weights were copied last, and these

    def __post_init__(self) -> None:
        names = (CKPT, BEST_CKPT) if self.always else (LAST_CKPT, CKPT)
        self.latest_path, self.best_path = (self.folder / name for name in names)

    def recover(self) -> None:
        """Finish what a kill kept an earlier process from, and give the files the names that --always asks for.

        A collective call, at the checkpoint that is resumed.
        """
        write = self._snapshot(self.run.state)
        if not self.is_main:
            return
        for leftover in self.folder.glob(".ckpt*.tmp"):  # of a killed save; the lock keeps other processes out
            leftover.unlink(missing_ok=True)
        if self.saved_at < 0:
            return
        if self.always and (self.folder / LAST_CKPT).exists():
            moves = [(CKPT, BEST_CKPT), (LAST_CKPT, CKPT)]
        elif not self.always and (self.folder / BEST_CKPT).exists():
            moves = [(CKPT, LAST_CKPT), (BEST_CKPT, CKPT)]
        else:
            moves = []
        for old, new in moves:
            if (self.folder / old).exists():  # there may be no best one yet
                ckpt.move(self.folder / old, self.folder / new)
        if self.run.best_step == self.run.state.step == _step(self.latest_path) != _step(self.best_path):
            # Killed inside `scored`.
            write(self.best_path)

    def copied(self, state: TrainState, passing: bool) -> Callable[[], list[str]]:
        write, is_first = self._snapshot(state), self.saved_at < 0

        def land() -> list[str]:
            if self.is_main:
                write(self.latest_path)
                self.clear(state.step, is_first)
            return []

        return land

    def scored(self, state: TrainState, scores: dict[str, float]) -> None:
        self.landed()
        is_best = self.run.note(state.step, scores)
        write = self._snapshot(state)

        def land() -> list[str]:
            if self.is_main:
                write(self.latest_path)
                if is_best:
                    write(self.best_path)  # a copy of its own, so damage to the other cannot reach it
            return []

        self.begun = Begun(state.step, self.written(land), again=True)

    def clear(self, step: int, is_first: bool) -> list[str]:
        if is_first:  # of a run that replaces another
            for name in CKPTS:
                if self.folder / name != self.latest_path:
                    ckpt.remove(self.folder / name)
            manager.delete(self.folder, manager.steps(self.folder))
        return []

    def _snapshot(self, state: TrainState) -> Callable[[Path], None]:
        """Copy what a ckpt.pt holds, if this step's is not. Returns what writes it, which rank 0 can use.

        A collective call.
        """
        run = self.run
        if self.held[0] != state.step:
            self.held = (state.step, *self._copied_tensors())
        _, optimizer, weights = self.held
        ours = {
            "loop_state": state.state_dict(),
            "best_step": run.best_step,
            "tokenizer_hash": run.tokenizer.hash if run.tokenizer else None,
            "data": run.data,
        }
        content = optimizer, self.settings, state.step, run.best, ours, weights
        return lambda path: ckpt.write(path, run.model, *content)

    def _copied_tensors(self) -> tuple[dict, dict]:
        """The optimizer's state and the weights; on ranks above 0 without tensors. A collective call."""
        optimizer = self.optimizer.state_dict()
        weights = self.copies.of(whole(self.run.model.state_dict(), self.is_main))
        moments = {
            name: {key: self.copies.of({f"{name}.{key}": x})[f"{name}.{key}"] for key, x in buffers.items()}
            for name, buffers in optimizer["state"].items()
        }
        return {**optimizer, "state": moments}, weights


@dataclass(kw_only=True)
class OutDirStepWriter(CheckpointWriter):
    """Writes our own format: the latest checkpoint and the best."""

    run: Run

    def copied(self, state: TrainState, passing: bool) -> Callable[[], list[str]]:
        self.meta |= self._best()
        return super().copied(state, passing)

    def scored(self, state: TrainState, scores: dict[str, float]) -> None:
        self.run.note(state.step, scores)
        super().scored(state, {**scores, **self._best()})

    def clear(self, step: int, is_first: bool) -> list[str]:
        if is_first:
            for name in CKPTS:
                ckpt.remove(self.folder / name)
        return super().clear(step, is_first)

    def _best(self) -> dict:
        return {"best_val_loss": self.run.best if math.isfinite(self.run.best) else None}


def resume(folder: Path, tokenizer: Tokenizer | None, rt: Runtime) -> Run:
    """The run in `folder` at its latest checkpoint, also one that nanoGPT itself began.

    tokenizer: the one beside it, else that of the data, if there is one; ckpt.pt has only the number of rows.
    Reports a damaged checkpoint and falls back to the previous or the best one. Raises UserError if there is none or
    all are damaged, and for another tokenizer than the run's.
    """
    path, damage = latest_ckpt(folder)
    if path is None:
        return _resume_steps(folder, rt)
    read = nanogpt.read(path)
    rows, ours = read.config.vocab_size, _ours(read, path)
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
    state = TrainState.restored(ours.get("loop_state", {"step": read.iter_num}), path)
    if state.cursor and not isinstance(state.cursor.get("window"), int):
        raise UserError(f"{path} is damaged: it does not record where its data resumes")
    optimizer = ckpt.optimizer_of(read, path)
    saved = None if optimizer is None else {"optimizer": optimizer}
    config, load_as = gpt2.with_tokenizer(read.config, known), manager.LoadAs(rt.device, rt.dtype)
    model = manager.build(config, read.state, path, load_as)
    if damage:
        rt.print(f"train: {damage.partition(';')[0]}; resuming from {path} instead, at step {state.step}")
    best_step, data = ours.get("best_step"), ours.get("data") or {}
    return Run(model, tokenizer, state, saved, read.best_val_loss, best_step, data, read.settings)


def _ours(read: nanogpt.Checkpoint, path: Path) -> dict:
    """What our own training keeps in a ckpt.pt, {} in one of nanoGPT. Raises UserError if it is something else."""
    kinds = {"loop_state": dict, "best_step": int, "tokenizer_hash": str, "data": dict}
    ours = {} if read.ours is None else read.ours
    try:
        json.dumps(ours)  # no tensors, which cannot be compared
        fits = all(ours.get(name) is None or isinstance(ours[name], kind) for name, kind in kinds.items())
    except (TypeError, ValueError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise UserError(f"{path} is damaged: what it records of its run cannot be read")
    return {name: value for name, value in ours.items() if value is not None}


def _resume_steps(folder: Path, rt: Runtime) -> Run:
    """`resume` from checkpoints in our own format."""
    damage = ""
    for step in reversed(manager.steps(folder)):
        try:
            load_as = manager.LoadAs(rt.device, rt.dtype)
            loaded = door.load_step(folder, folder.name, step, load_as, with_optimizer=True, merged=False)
        except manager.Damaged as error:
            damage = damage or str(error)
            continue
        if damage:
            rt.print(f"train: {damage.partition(';')[0]}; resuming from step {step} instead")
        meta, where = loaded.meta, f"the meta file of step {step} of {folder}"
        state = TrainState.restored(meta.get("loop_state"), where)
        is_of_a_stage = state.cursor and "window" not in state.cursor  # it reads documents
        if is_of_a_stage:
            raise UserError(f"{where} does not hold a run of scripts.train; start from it with --init_from={folder}")
        best, data, settings = meta.get("best_val_loss"), meta.get("data") or {}, meta.get("user_config") or {}
        best = math.inf if best is None else best
        parent = meta.get("parent")
        return Run(loaded.model, loaded.tokenizer, state, loaded.optimizer, best, None, data, settings, parent)
    raise UserError(damage or _nothing_in(folder))


def resumed_settings(passed: S, names: Collection[str]) -> tuple[S, list[str]]:
    """The settings of the run in out_dir, except those passed, whose `names` are given; and a list of the changes.

    Raises UserError for a shape that differs from the model's, and for invalid values.
    """
    where = Path(passed.out_dir)
    settings, _, changed = adopt(passed, settings_of(where), names, OF_ONE_START)
    for name, (then, now) in changed.items():
        if name in ADAPTERS:
            raise UserError(
                f"--{name} {now} does not fit the run in {where}, which has {then}; leave it out, or start another run "
                f"with --init_from={where} and another --out_dir"
            )
        if name in SHAPE:
            raise UserError(
                f"--{name} {now} does not fit the model in {where}, which has {then}; leave it out, or train another "
                "model in another --out_dir"
            )
    check(settings)
    return settings, [f"{name} {then} -> {now}" for name, (then, now) in changed.items()]


def settings_of(folder: Path) -> dict:
    """The settings of the run in `folder`, by nanoGPT's names. Raises UserError if there is no run."""
    path, _ = latest_ckpt(folder)
    if path is not None:
        read = nanogpt.read(path, tensors=False)
        with reading.sensible(path):
            reading.check_shape(read.config)
        for name, value in read.settings.items():
            is_plain = all(isinstance(each, PLAIN) for each in (value if isinstance(value, list) else [value]))
            if not is_plain:
                raise UserError(f"{path} is damaged: its {name} is {shown(value)}")
        shape = {name: getattr(read.config, name) for name in SHAPE}
        return {**read.settings, **shape, "block_size": read.config.sequence_len}
    for step in reversed(manager.steps(folder)):
        with contextlib.suppress(UserError):  # named by `resume`
            return manager.read_meta(folder, step).get("user_config") or {}
    raise UserError(_nothing_in(folder))


def latest_ckpt(folder: Path) -> tuple[Path | None, str]:
    """The most advanced intact one of ckpt.pt and ckpt_last.pt, else ckpt_best.pt, or None; and what is wrong with the
    one that it replaces. Raises UserError if all are damaged.

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


def refuse_taken(folder: Path, tokenizer: Tokenizer | None, overwrite: bool) -> None:
    """Raise UserError if a new run would replace files of others; `overwrite` lets it replace another run.

    That is a run's checkpoints, or the files of something else that has a config.json or a tokenizer.
    """
    config = folder / "config.json"
    is_run = config.exists() and read_json(config, "give another --out_dir").keys() >= OURS
    for path in (config, folder / METRICS):
        if path.exists() and not is_run:
            raise UserError(f"{path} does not belong to a run of scripts.train; give another --out_dir")
    is_own = not foreign_tokenizers.holds(folder) or tokenizer and Tokenizer.load(folder).hash == tokenizer.hash
    if not is_run and not is_own:
        raise UserError(f"{folder} holds a tokenizer that is not the data's; give another --out_dir")
    there = checkpoints(folder)
    if there and not overwrite:
        raise UserError(
            f"{folder} holds {', '.join(there)} of another run; resume it with --init_from=resume, "
            "give another --out_dir, or replace it with --overwrite"
        )


def checkpoints(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder."""
    return [name for name in CKPTS if (folder / name).exists()] + [f"step {step}" for step in manager.steps(folder)]


def _nothing_in(folder: Path) -> str:
    return f"{folder} has no {CKPT} to resume from; check --out_dir, or start with another --init_from"


def _step(path: Path) -> int | None:
    try:
        return nanogpt.iter_num(path) if path.exists() else None
    except UserError:  # it is damaged
        return None
