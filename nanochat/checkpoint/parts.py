"""A run's state on disk, beside its weights: a folder of safetensors files, one for each rank that had a part of it.

torch.distributed.checkpoint (DCP) writes and reads them. A file records which rows of which tensors it has, so any
number of ranks can read it: each maps the files and copies the rows that it needs. Unlike the index of DCP's own
format, which is a pickle, nothing in them can run code.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import paths
from nanochat.errors import UserError
from nanochat.peers import PeerFailed
from nanochat.reduce import Rows

Result = TypeVar("Result")
FILE = "shard-{:05d}-model-00001-of-00001.safetensors"  # DCP's name for what rank n - 1 writes


@dataclass(frozen=True)
class Ranks:
    """The ranks that save and load together, over connections of their own, so that training may use its meanwhile.

    everyone: all ranks. holders: those that have the parts of one copy of the model; all, unless nodes have copies.
    """

    everyone: dist.ProcessGroup
    holders: dist.ProcessGroup

    @property
    def rank(self) -> int:
        return self.everyone.rank()

    def together(self, work: Callable[[], Result]) -> Result:
        """The result of this rank's work. Raises PeerFailed where another rank's raised. A collective call."""
        failed = torch.ones(1)
        try:
            result = work()
            failed.zero_()
        finally:
            dist.all_reduce(failed, group=self.everyone)
        if failed.item():
            raise PeerFailed("another rank could not save")
        return result


def ranks_for(copies: int = 1) -> Ranks | None:
    """The ranks of this process, of which each world / copies have one copy of the model. A collective call."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    world = dist.get_world_size()
    each = world // copies
    of_each = [list(range(n * each, (n + 1) * each)) for n in range(copies)]
    everyone, *groups = (
        cast(dist.ProcessGroup, dist.new_group(members, backend="gloo")) for members in (None, *of_each)
    )
    return Ranks(everyone, groups[dist.get_rank() // each])


def laid_out(state: Mapping[str, Tensor | Rows], ranks: Ranks | None) -> dict[str, Tensor]:
    """The same, in main memory, with torch's own type for tensors of which a rank has some rows: DTensor."""
    if ranks is None:
        return {name: part for name, part in state.items() if isinstance(part, Tensor)}
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = DeviceMesh.from_group(ranks.holders, "cpu")
    laid: dict[str, Tensor] = {}
    for name, part in state.items():
        if isinstance(part, Rows):
            stride = torch.empty(part.shape, device="meta").stride()
            laid[name] = DTensor.from_local(
                part.here, mesh, [Shard(0)], run_check=False, shape=part.shape, stride=stride
            )
        else:
            laid[name] = part
    return laid


def write(folder: Path, state: Mapping[str, Tensor | Rows], ranks: Ranks | None) -> dict[str, dict]:
    """Write this rank's part of a state into a folder, as one file. A collective call; all its tensors are on the CPU.

    Returns the size and sha256 of all files by name, on rank 0; {} elsewhere. Raises UserError when a disk is full.
    """
    if ranks is None:
        from safetensors.torch import save  # the same format; importing DCP would take longer than this

        path = folder / FILE.format(1)
        digest = paths.write_atomically(path, lambda file: file.write(save(laid_out(state, None))))
        return {path.name: {"size": path.stat().st_size, "sha256": digest}}
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    mine = {name: part for name, part in state.items() if not isinstance(part, Rows) or len(part.here)}
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(laid_out(mine, ranks), storage_writer=writer, process_group=ranks.everyone)
    except CheckpointException as failed:  # on all ranks
        error, _ = failed.failures.get(ranks.rank, (None, None))
        if refused := error and paths.refusal(error, folder / "optimizer"):
            raise refused from error
        raise error or PeerFailed("another rank could not save its part") from None
    path = folder / FILE.format(ranks.rank + 1)
    own = {path.name: {"size": path.stat().st_size, "sha256": paths.sha256(path)}} if path.exists() else {}
    written: list | None = [None] * ranks.everyone.size() if ranks.rank == 0 else None
    dist.gather_object(own, written, group=ranks.everyone)
    return {name: entry for files in written or [] for name, entry in files.items()}


def read(folder: Path, into: Mapping[str, Tensor | Rows], ranks: Ranks | None) -> set[str]:
    """Fill tensors, wherever they are, with this rank's part of a state. Returns the names that it does not have.

    Raises UserError for a state of another shape, or files that cannot be read.
    """
    import torch.distributed.checkpoint as dcp
    from safetensors import SafetensorError
    from torch.distributed.checkpoint.api import CheckpointException

    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        there = reader.read_metadata().state_dict_metadata.keys()
        wanted = {name: part for name, part in into.items() if name in there}
        read_into = {name: _on_cpu(part) for name, part in wanted.items()}
        filled = {name: part for name, part in read_into.items() if not isinstance(part, Rows) or len(part.here)}
        with warnings.catch_warnings():  # each rank reads by itself, which DCP takes for a program of one process
            warnings.simplefilter("ignore", UserWarning)
            dcp.load(laid_out(filled, ranks), storage_reader=reader, no_dist=True)
    except (CheckpointException, SafetensorError, OSError, KeyError, ValueError) as error:
        why = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        reason = " ".join(str(why).split())
        raise UserError(f"{folder} cannot be read as the state of this model's optimizer ({reason:.200})") from error
    for name, part in wanted.items():
        here, from_file = (each.here if isinstance(each, Rows) else each for each in (part, read_into[name]))
        if here is not from_file:
            here.copy_(from_file)
    return into.keys() - there


def _on_cpu(part: Tensor | Rows) -> Tensor | Rows:
    return part._replace(here=part.here.cpu()) if isinstance(part, Rows) else part.cpu()
