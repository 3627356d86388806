"""What a run writes while it trains: its checkpoints, and its metrics, which always end at the same step.

A checkpoint is copied to main memory, and a thread writes it while training continues; nothing waits for a disk but the
end of a run, and the next save.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nanochat.checkpoint import manager
from nanochat.checkpoint.manager import Weights
from nanochat.checkpoint.parts import Ranks
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer
from nanochat.peers import PeerFailed
from nanochat.reduce import Rows
from nanochat.train.loop import TrainState

Part = TypeVar("Part", Tensor, Rows, Tensor | Rows)
RNG = "rng"  # beside the optimizer's buffers: the state of torch's random generator, on rank 0's CPU


@dataclass
class Copies:
    """Main memory for what is saved, by name; it is used again, since new memory takes longer than the copy."""

    memory: dict[str, Tensor] = field(default_factory=dict)

    def of(self, state: Mapping[str, Part]) -> dict[str, Part]:
        """The same, copied. A GPU's copies are queued together, and waited for."""
        copied = {name: self._copy(name, part) for name, part in state.items()}
        if any((part.here if isinstance(part, Rows) else part).is_cuda for part in state.values()):
            torch.cuda.synchronize()
        return copied

    def _copy(self, name: str, part: Part) -> Part:
        if isinstance(part, Rows):
            return part._replace(here=self._copy(name, part.here))
        if name not in self.memory:
            self.memory[name] = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
        return self.memory[name].copy_(part.detach(), non_blocking=part.is_cuda)


@dataclass
class Begun:
    """A checkpoint that is being written, or written again with its scores, which is not told.

    waited: seconds that training stood still for it.
    """

    step: int
    written: Future
    again: bool = False
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0


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
    is_main: bool
    keep_tokenizer: Callable[[], object]
    saves: bool = True  # False: nothing is written (--dry_run)
    ranks: Ranks | None = None  # that save together, if there are several
    meta: dict = field(default_factory=dict)  # what every meta file of the run holds
    keep_last: int = 1
    best: str = "val_loss"
    stale: list[int] = field(default_factory=list)  # steps of another run, or after the one that was resumed
    tell: Callable[[str], object] = print
    warned: set[str] = field(default_factory=set)
    copies: Copies = field(default_factory=Copies)
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"))
    begun: Begun | None = None

    def begin(self, state: TrainState, replaces: bool) -> None:
        """Cut the metrics to the steps of the latest checkpoint, or hold them back if this run `replaces` another."""
        if replaces:
            self.log.hold()
        else:
            self.log.resume(self.saved_at, state.probed)

    # ---- saving

    def save(self, state: TrainState, passing: bool) -> None:
        """Copy the run's state and begin to write it, once the checkpoint before is written. A collective call."""
        began = time.perf_counter()
        self.landed()
        if not self.saves:
            return
        if self.is_main:
            with self._taking_back():
                self.keep_tokenizer()
        write = self.copied(state, passing)
        self.begun = Begun(state.step, self.written(write), began=began)
        self.begun.waited = time.perf_counter() - began
        if self.log.is_held:  # a kill must not leave this run's checkpoint beside the metrics of the one it replaces
            self.landed()

    def written(self, write: Callable[[], list[str]]) -> Future:
        """What `write` returns on the thread, and when it ended."""
        return self.thread.submit(lambda: (write(), time.perf_counter()))

    def copied(self, state: TrainState, passing: bool) -> Callable[[], list[str]]:
        """Copy what is to be saved. Returns what writes it, on the thread; that returns what `prune` does."""
        now = {"passing": passing, "dataloader_state_dict": state.cursor, "loop_state": state.state_dict()}
        meta, step, is_first = {**self.meta, self.best: None, **now}, state.step, self.saved_at < 0
        weights = manager.weights_of(self.model)
        has_weights = self.is_main or self.optimizer.parts is not None
        weights = Weights(self.copies.of(weights.tensors if has_weights else {}), weights.config, weights.adapters)
        random = {RNG: torch.get_rng_state()} if self.is_main else {}
        remembered = self.copies.of({**self.optimizer.buffers(), **random})

        def write() -> list[str]:
            manager.save(self.folder, step, weights, remembered, meta, self.ranks)
            return self.clear(step, is_first) if self.is_main else []

        return write

    def landed(self, wait: bool = True) -> None:
        """Wait until the checkpoint that was begun is written, or only look whether it is; and note that it is there.

        Raises UserError when it could not be written: the steps since the one before are lost, and so are their
        metrics.
        """
        begun = self.begun
        if begun is None or not (wait or begun.written.done()):
            return
        self.begun, since = None, time.perf_counter()
        with self._taking_back():
            damaged, ended = begun.written.result()
        begun.waited += max(0.0, ended - since)
        self.saved_at = begun.step
        self.log.release()
        self._warn(damaged)
        if not begun.again:
            took = f"saved in {ended - begun.began:.2f}s; training waited {begun.waited:.2f}s for it"
            self.tell(f"step {begun.step} {took}")

    @contextmanager
    def _taking_back(self) -> Iterator[None]:
        """When the disk is full, drop the metrics of steps that no checkpoint holds."""
        try:
            yield
        except (UserError, PeerFailed):
            if self.is_main:
                self.log.take_back(self.saved_at)
            raise

    # ---- afterwards

    def scored(self, state: TrainState, scores: dict[str, float]) -> None:
        """Add the scores of an evaluation to the checkpoint of this step."""
        self.landed()
        if self.is_main and self.saves:
            manager.update_meta(self.folder, state.step, {"loop_state": state.state_dict(), **scores})
            self._warn(manager.prune(self.folder, self.keep_last, self.best))

    def clear(self, step: int, is_first: bool) -> list[str]:
        """Delete the checkpoints that the one of this step, perhaps the run's first, replaces, as `prune` does."""
        manager.delete(self.folder, [other for other in self.stale if other != step])
        self.stale = []
        return manager.prune(self.folder, self.keep_last, self.best)

    def _warn(self, damaged: Iterable[str]) -> None:
        for damage in damaged:
            if damage not in self.warned:
                self.tell(f"{damage}; it is left as it is")
                self.warned.add(damage)
