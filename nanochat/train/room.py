"""Memory that runs out while a step is computed: the same step with fewer rows at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanochat.data.batch import Batch
from nanochat.errors import UserError
from nanochat.runtime import Runtime


@dataclass
class Room:
    """How many rows of a micro-batch fit into a device's memory, as far as that is known; None: all so far.

    A step's gradient is the sum of its micro-batches', each with the weight of the whole step, so smaller ones change
    nothing but the rounding (and what dropout draws). Ranks may differ in it.
    """

    name: str  # of the stage
    flag: str  # what sets the rows of a micro-batch
    rt: Runtime
    rows: int | None = None

    def fitted(self, batches: Sequence[Batch]) -> list[Batch]:
        """The micro-batches, those that are too large halved, and halved again."""
        fitting: list[Batch] = []
        for batch in batches:
            if self.rows is None or len(batch.inputs) <= self.rows:
                fitting.append(batch)
            else:
                fitting += self.fitted(batch.halves())
        return fitting

    def shrink(self, batches: Sequence[Batch]) -> None:
        """Halve the rows, because memory did not suffice for these batches. Raises UserError for a single row."""
        largest = max(len(batch.inputs) for batch in batches)
        if largest == 1:
            longest = max(batch.inputs.size(1) for batch in batches)
            raise UserError(
                f"{self.name} ran out of memory with a single row of {longest} tokens; the last checkpoint is "
                "untouched. Train a smaller model or shorter rows, or on a device with more memory"
            )
        self.rows = largest // 2
        print(
            f"{self.name}: memory ran out with {largest} rows at a time on rank {self.rt.rank}; this step is computed "
            f"again and the run continues with {self.rows}, which gives the same gradients; {self.flag}={self.rows} "
            "avoids the second attempt",
            flush=True,
        )

    def refusal(self, when: str) -> UserError:
        """The error of a step that cannot be computed again."""
        return UserError(
            f"{self.name} ran out of memory {when}; the last checkpoint is untouched, start again with a smaller "
            f"{self.flag} to resume from there"
        )


@contextmanager
def no_way_back(room: Room, when: str) -> Iterator[None]:
    """Raise UserError where memory runs out in a part of a step that cannot be computed again."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise room.refusal(when) from error
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation has failed; a CPU and MPS raise plain RuntimeErrors."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(phrase in str(error) for phrase in ("can't allocate memory", "not enough memory", "out of memory"))


def lowest(rows: int, rt: Runtime) -> int:
    """The lowest number of any rank. A collective call."""
    if rt.world == 1:
        return rows
    number = torch.tensor(rows)
    dist.all_reduce(number, op=dist.ReduceOp.MIN)
    return int(number)
