"""What a run writes while it trains: its checkpoints, and its metrics, which always end at the same step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer
from nanochat.reduce import whole
from nanochat.train.loop import TrainState


@dataclass(kw_only=True)
class CheckpointWriter:
    """Writes a run's checkpoints: the newest `keep_last`, and that of the lowest `best`, a score.

    A run that replaces another one leaves its files and metrics alone until its own first save. A subclass may write
    another format than our own (`checkpoint.manager`).
    """

    folder: Path
    model: GPT
    optimizer: Optimizer
    log: MetricsLog
    saved_at: int  # step of this run's latest checkpoint; -1 if it has none
    is_writing: bool  # on rank 0, unless nothing is to be written
    keep_tokenizer: Callable[[], object]
    weights: dict[str, Tensor] | None = None  # of a model that lies in parts, put together for a save
    meta: dict = field(default_factory=dict)  # what every meta file of the run holds
    keep_last: int = 1
    best: str = "val_loss"
    stale: list[int] = field(default_factory=list)  # steps of another run, or after the one that was resumed
    warn: Callable[[str], object] = print
    warned: set[str] = field(default_factory=set)

    def begin(self, state: TrainState, replaces: bool) -> None:
        """Cut the metrics to the steps of the latest checkpoint, or hold them back if this run `replaces` another."""
        if replaces:
            self.log.hold()
        else:
            self.log.resume(self.saved_at, state.probed)

    def save(self, state: TrainState, passing: bool) -> None:
        """Write a checkpoint; a passing one makes way for the next. A collective call."""
        optimizer = self.gather()
        if not self.is_writing:
            return
        try:
            self.keep_tokenizer()
            self.write(state, optimizer, passing)
        except UserError:  # the disk is full: the steps since the last checkpoint are lost, so their metrics go too
            self.log.take_back(self.saved_at)
            raise
        is_first, self.saved_at = self.saved_at < 0, state.step
        self.clear(is_first)
        self.log.release()

    def gather(self) -> dict:
        """The optimizer's state, and in `weights` those of a model that lies in parts. A collective call."""
        if self.optimizer.parts is not None:
            self.weights = whole(self.model.state_dict(), self.is_writing)
        return self.optimizer.state_dict()

    def scored(self, state: TrainState, scores: dict[str, float]) -> None:
        """Add the scores of an evaluation to the checkpoint of this step."""
        if self.is_writing:
            manager.update_meta(self.folder, state.step, {"loop_state": state.state_dict(), **scores})
            self.prune()

    def write(self, state: TrainState, optimizer: dict, passing: bool) -> None:
        """Write the checkpoint of this step, whole or not at all."""
        now = {"passing": passing, "dataloader_state_dict": state.cursor, "loop_state": state.state_dict()}
        saved = {"optimizer": optimizer, "rng": torch.get_rng_state()}
        meta = {**self.meta, self.best: None, **now}
        manager.save(self.folder, state.step, self.model, saved, meta, self.weights)
        self.weights = None

    def clear(self, is_first: bool) -> None:
        """Delete the checkpoints that the one just written, perhaps the run's first, replaces."""
        manager.delete(self.folder, [step for step in self.stale if step != self.saved_at])
        self.stale = []
        self.prune()

    def prune(self) -> None:
        for damage in manager.prune(self.folder, self.keep_last, self.best):
            if damage not in self.warned:
                self.warn(f"{damage}; it is left as it is")
                self.warned.add(damage)
