"""What a run by nanoGPT's ways keeps in its out_dir, and how it goes on from there.

    ckpt.pt        with --always_save_checkpoint the latest checkpoint, else the best by validation (as nanoGPT has it)
    ckpt_best.pt   with it the best
    ckpt_last.pt   without it the latest

A model that nanoGPT's format cannot hold is kept in our own: model_*.pt, optim_*.pt and meta_*.json.
"""

import contextlib
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nanochat.checkpoint import gpt2, manager, nanogpt, torch_file
from nanochat.checkpoint.gpt2 import VOCABULARIES
from nanochat.checkpoint.nanogpt import CKPT, LAST_CKPT
from nanochat.config import UserError
from nanochat.gpt import GPT
from nanochat.paths import fsync_folder
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import TrainState

BEST_CKPT = "ckpt_best.pt"
CKPTS = (CKPT, LAST_CKPT, BEST_CKPT)


@dataclass
class Run:
    """All that a run goes on from. best is the lowest val_loss so far, best_step its step where that is known."""

    model: GPT
    tokenizer: Tokenizer | None
    state: TrainState
    optimizer: dict | None = None
    best: float = math.inf
    best_step: int | None = None


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
        for leftover in self.folder.glob(".ckpt*.tmp"):  # of a save that was killed
            leftover.unlink(missing_ok=True)
        if self.is_new:
            return
        self._rename()
        if run.best_step == run.state.step == _step(self.latest) != _step(self.best):  # killed inside of `scored`
            _link(self.latest, self.best)

    def save(self, run: Run) -> None:
        self._write(run)
        if self.is_new:
            _clear(self.folder, self.latest)
            self.is_new = False

    def scored(self, run: Run, is_best: bool) -> None:
        self._write(run)
        if is_best:
            _link(self.latest, self.best)

    def _write(self, run: Run) -> None:
        assert run.optimizer is not None
        ours = {
            "loop_state": run.state.state_dict(),
            "best_step": run.best_step,
            "tokenizer_hash": run.tokenizer.hash if run.tokenizer else None,
        }
        nanogpt.write(self.latest, run.model, run.optimizer, self.settings, run.state.step, run.best, ours)

    def _rename(self) -> None:
        """The files of a run that goes on with the other --always_save_checkpoint get the names they have now."""
        if self.latest.name == CKPT and (self.folder / LAST_CKPT).exists():
            moves = [(CKPT, BEST_CKPT), (LAST_CKPT, CKPT)]
        elif self.latest.name == LAST_CKPT and (self.folder / BEST_CKPT).exists():
            moves = [(CKPT, LAST_CKPT), (BEST_CKPT, CKPT)]
        else:
            return
        for old, new in moves:
            with contextlib.suppress(FileNotFoundError):  # there is not always a best one
                os.replace(self.folder / old, self.folder / new)


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
        }


def resume(folder: Path, tokenizer: Tokenizer | None, rt: Runtime) -> Run:
    """The run in `folder` at its latest checkpoint, also one that nanoGPT itself has begun.

    tokenizer: the one beside it, else that of the data, where there is one; ckpt.pt has only the number of rows.
    Raises UserError when there is no checkpoint, for one that is damaged, and for another tokenizer than the run's.
    """
    path = latest_ckpt(folder)
    steps = manager.steps(folder)
    if path is not None:
        read = nanogpt.read(path)
        rows, ours = read.config.vocab_size, read.ours or {}
        trained_with = ours.get("tokenizer_hash")
        if tokenizer and trained_with and tokenizer.hash != trained_with:
            raise UserError(
                f"{path} was trained with the tokenizer {trained_with[:12]}, not with {tokenizer.hash[:12]}, which "
                f"lies beside it or with the data; put the right one into {folder}, or name its data by --dataset"
            )
        rounded = VOCABULARIES[0] if rows in VOCABULARIES else rows
        known = tokenizer.vocab_size if tokenizer else rounded
        if known > rows:
            raise UserError(f"{path} has {rows} tokens, but its tokenizer has {known}; put the right one beside it")
        config = gpt2.with_tokenizer(read.config, known)
        model = manager.build(config, read.state, path, manager.LoadAs(rt.device, rt.dtype))
        with torch_file.sensible(path):
            state = TrainState(**ours.get("loop_state", {"step": read.iter_num}))
        return Run(model, tokenizer, state, read.optimizer, read.best_val_loss, ours.get("best_step"))
    if not steps:
        raise UserError(f"{folder} has no {CKPT} to go on from; check --out_dir, or start with another --init_from")
    load_as = manager.LoadAs(rt.device, rt.dtype)
    loaded = manager.load_step(folder, folder.name, steps[-1], load_as, with_optimizer=True)
    assert loaded.optimizer is not None
    state, best = TrainState(**loaded.meta["loop_state"]), loaded.meta.get("best_val_loss")
    optimizer = loaded.optimizer["optimizer"]
    return Run(loaded.model, loaded.tokenizer, state, optimizer, math.inf if best is None else best)


def latest_ckpt(folder: Path) -> Path | None:
    """The one of ckpt.pt and ckpt_last.pt that is further; copied files have the time of the copy."""
    there = [path for name in (CKPT, LAST_CKPT) if (path := folder / name).exists()]
    if len(there) < 2:
        return there[0] if there else None
    return max(there, key=lambda path: (nanogpt.iter_num(path), path.name == LAST_CKPT))


def earlier(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder that a new run will replace."""
    return [name for name in CKPTS if (folder / name).exists()] + [f"step {step}" for step in manager.steps(folder)]


def _step(path: Path) -> int | None:
    return nanogpt.iter_num(path) if path.exists() else None


def _clear(folder: Path, latest: Path | int) -> None:
    """Remove the checkpoints of an older run: all but the latest, a file or a step."""
    for name in CKPTS:
        if folder / name != latest:
            (folder / name).unlink(missing_ok=True)
    manager.delete(folder, [step for step in manager.steps(folder) if step != latest])


def _link(source: Path, target: Path) -> None:
    """Let target be the same file as source, without writing it again where the file system can do that."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    fsync_folder(target.parent)
