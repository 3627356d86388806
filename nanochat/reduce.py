"""What ranks send each other in a training step: gradients to their owners, new weights to everyone.

Each rank owns a part of the optimizer (ZeRO-1, Rajbhandari et al. 2020): whole matrices for Muon, which needs them
whole, and an equal slice of every other parameter, so that no embedding burdens one rank. A gradient is summed at its
owner only (reduce-scatter), and the owner's new weights go to all (all-gather); together that is as much traffic as
summing all gradients everywhere. Parameters travel in buckets, in the order in which the backward pass finishes their
gradients, and a bucket leaves as soon as it is complete, so that the network works while the backward still runs.

Shapes: a bucket is an array (world, k, ...) of which rank r owns row r.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A bucket of this many bytes is large enough for a network's full speed; smaller ones leave earlier. DDP takes 25 MiB.
BUCKET_BYTES = 32 * 2**20

# Their names before and since torch 2.13.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Rows(NamedTuple):
    """What a rank has of a tensor of this shape that lies on several ranks: some rows, perhaps none.

    Of R rows, rank r of `world` has those from r c on, c = ceil(R / world); the last ranks may have fewer.
    """

    here: Tensor  # (rows, *shape[1:])
    shape: torch.Size
    first: int  # which of the whole tensor's rows is here[0]


@dataclass(eq=False)
class Bucket:
    """Parameters that travel together. `pack` puts a tensor for each of them into an array whose row r is rank r's.

    The array is what reduce-scatter takes and all-gather returns.
    """

    parameters: dict[str, nn.Parameter]
    world: int
    missing: set[str] = field(default_factory=set)  # whose gradients this step's backward has not finished
    array: Tensor | None = None  # under way, together with `work`
    row: Tensor | None = None  # this rank's, of the array
    work: dist.Work | None = None

    @property
    def width(self) -> int:
        """Numbers in a row."""
        raise NotImplementedError

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """A tensor for each parameter, of its shape -> (world, width)."""
        raise NotImplementedError

    def unpack(self, array: Tensor) -> list[Tensor]:
        """(world, width) -> a tensor for each parameter, of its shape."""
        raise NotImplementedError

    @property
    def is_exact(self) -> bool:
        """Whether the parameter's own memory is the array: one parameter that divides evenly."""
        return False

    @property
    def like(self) -> nn.Parameter:
        return next(iter(self.parameters.values()))

    @property
    def when(self) -> float:
        """When the backward pass has finished the bucket."""
        return max(map(finished, self.parameters))

    @property
    def bytes(self) -> int:
        return self.world * self.width * self.like.element_size()


@dataclass(eq=False)
class Matrices(Bucket):
    """Matrices of one shape, k for each rank: the n-th is matrix n % k of rank (first + n // k) % world.

    The last bucket of a shape may be short; `first` lets another rank begin each time, so that none has most of them.
    """

    k: int = 1
    first: int = 0

    @property
    def width(self) -> int:
        return self.k * self.like.numel()

    def places(self) -> list[tuple[int, int]]:
        """(rank, place in its row) for each matrix."""
        return [((self.first + n // self.k) % self.world, n % self.k) for n in range(len(self.parameters))]

    def owned(self, rank: int) -> list[str]:
        return [name for name, (owner, _) in zip(self.parameters, self.places(), strict=True) if owner == rank]

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        is_full = len(tensors) == self.world * self.k
        make = tensors[0].new_empty if is_full else tensors[0].new_zeros
        array = make(self.world, self.k, *tensors[0].shape)
        torch._foreach_copy_([array[place] for place in self.places()], list(tensors))
        return array.view(self.world, -1)

    def unpack(self, array: Tensor) -> list[Tensor]:
        whole = array.view(self.world, self.k, *self.like.shape)
        return [whole[place] for place in self.places()]


@dataclass(eq=False)
class Slices(Bucket):
    """Parameters of any shapes, cut into `world` slices each, of ceil(R / world) of R rows; the last may be short."""

    @property
    def widths(self) -> list[int]:
        return [width_of(parameter, self.world) for parameter in self.parameters.values()]

    @property
    def width(self) -> int:
        return sum(self.widths)

    @property
    def is_exact(self) -> bool:
        return len(self.parameters) == 1 and self.like.size(0) % self.world == 0

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        if self.is_exact:
            return tensors[0].contiguous().view(self.world, -1)
        array = tensors[0].new_zeros(self.world, self.width)
        for part, tensor, width in zip(array.split(self.widths, dim=1), tensors, self.widths, strict=True):
            flat = nn.functional.pad(tensor.flatten(), (0, self.world * width - tensor.numel()))
            part.copy_(flat.view(self.world, width))
        return array

    def unpack(self, array: Tensor) -> list[Tensor]:
        parts = zip(array.split(self.widths, dim=1), self.parameters.values(), strict=True)
        return [part.flatten()[: p.numel()].view_as(p) for part, p in parts]

    def slices(self, row: Tensor, rank: int) -> list[Tensor]:
        """This rank's row (width,) -> its slice of each parameter, 1-D, without what fills up the last."""
        parts = zip(row.split(self.widths), self.parameters.values(), strict=True)
        return [part[: len(sliced(p, rank, self.world))] for part, p in parts]


def in_parts(module: nn.Module) -> bool:
    """Whether each rank has some rows of each parameter only (`sharded`), but for while they are gathered."""
    return hasattr(module, "unshard")  # a method of FSDPModule, whose class takes long to import


def whole(state: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """A state dict, or one that lies in parts (`sharded`) put together; empty where it is not to be kept.

    A collective call for tensors in parts, which come to main memory.
    """
    full = {}
    for name, tensor in state.items():
        if hasattr(tensor, "full_tensor"):
            tensor = getattr(tensor, "full_tensor")().cpu()  # noqa: B009
        if keep:
            full[name] = tensor
    return full


def as_rows(state: Mapping[str, Tensor]) -> dict[str, Tensor | Rows]:
    """A state dict, where what lies in parts (`sharded`) is this rank's rows; all in place."""
    named: dict[str, Tensor | Rows] = {}
    for name, tensor in state.items():
        if hasattr(tensor, "to_local"):  # a DTensor
            here, world = getattr(tensor, "to_local")(), getattr(tensor, "device_mesh").size(-1)  # noqa: B009
            rank = getattr(tensor, "device_mesh").get_local_rank(-1)  # noqa: B009
            named[name] = Rows(here, tensor.shape, rank * -(-tensor.size(0) // world))
        else:
            named[name] = tensor
    return named


def width_of(tensor: Tensor, world: int) -> int:
    """How many numbers a rank's rows of a tensor have; the last ranks may have fewer."""
    return -(-tensor.size(0) // world) * (tensor.numel() // tensor.size(0))


def sliced(tensor: Tensor, rank: int, world: int) -> Tensor:
    """A rank's rows of a contiguous tensor, as a 1-D view; the last slices may be short or empty."""
    width = width_of(tensor, world)
    return tensor.view(-1)[rank * width : (rank + 1) * width]


def finished(name: str) -> float:
    """When the backward pass has finished a parameter's gradient: it goes from the last layer to the first.

    The output layer comes before all layers; embeddings of the input, and what all layers share, come after them. An
    order that is not the true one costs time only.
    """
    layer = re.search(r"\.(\d+)\.", name)
    if layer:
        return -float(layer[1])
    return -float("inf") if name.startswith(("lm_head.", "transformer.ln_f.")) else 1.0


class Owners:
    """Who owns what of the optimizer: whole matrices for Muon, a slice of everything else.

    matrices: for each of Muon's shapes, its matrices by name. group: the ranks that share; None for all.
    """

    def __init__(
        self, matrices: Sequence[Mapping[str, nn.Parameter]], rank: int, world: int,
        group: dist.ProcessGroup | None = None,
    ):  # fmt: skip
        self.rank, self.world, self.group = rank, world, group
        self.matrices: list[list[Matrices]] = []
        first = 0
        for shape in matrices:
            buckets, first = _buckets_of_matrices(shape, world, first)
            self.matrices.append(buckets)

    def owned(self, shape: int) -> list[str]:
        """The names of this rank's matrices of a shape, in the order of their gradients."""
        return [name for bucket in self.matrices[shape] for name in bucket.owned(self.rank)]

    def rows_of_slice(self, like: Tensor, mine: Tensor) -> Rows:
        """This rank's slice, 1-D, of something of a parameter's shape, as the rows that it is; a view."""
        first = self.rank * -(-like.size(0) // self.world)
        count = min(max(like.size(0) - first, 0), -(-like.size(0) // self.world))
        return Rows(mine.view(count, *like.shape[1:]), like.shape, first)

    # ---- state, to save it

    def whole_matrices(self, shape: int, mine: Tensor) -> dict[str, Tensor]:
        """This rank's stack (n, ...) of something per matrix -> that of all ranks, by name. A collective call."""
        whole, counts = {}, [len(bucket.owned(self.rank)) for bucket in self.matrices[shape]]
        for bucket, part in zip(self.matrices[shape], mine.split(counts), strict=True):
            array = part.new_empty(self.world, bucket.k, *part.shape[1:])
            _all_gather(array.view(-1), _filled(part, bucket.k).view(-1), group=self.group)
            whole |= {name: array[place] for name, place in zip(bucket.parameters, bucket.places(), strict=True)}
        return whole

    def whole_slices(self, like: Tensor, mine: Tensor) -> Tensor:
        """This rank's slice of something of a parameter's shape -> all of it. A collective call."""
        width = width_of(like, self.world)
        array = mine.new_empty(self.world * width)
        _all_gather(array, _filled(mine, width), group=self.group)
        return array[: like.numel()].view(like.shape)


class Exchange(Owners):
    """All weights on every rank: the buckets of all parameters, and where their transfer stands.

    others: what AdamW has. Nothing is sent with one rank.
    """

    def __init__(
        self, matrices: Sequence[Mapping[str, nn.Parameter]], others: Mapping[str, nn.Parameter], rank: int, world: int
    ):
        super().__init__(matrices, rank, world)
        self.slices = _buckets_of_slices(others, world)
        # All ranks send in this order, whatever order their gradients come in.
        self.buckets = sorted([*(b for shape in self.matrices for b in shape), *self.slices], key=lambda b: b.when)
        self.sent = 0  # buckets whose gradients have left in this step
        self.is_reducing = False
        self.begin()
        for bucket in self.buckets:
            for name, parameter in bucket.parameters.items():
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket, name))

    # ---- gradients

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """Within this context gradients are sent as the backward pass finishes them."""
        self.receive(self.buckets)
        self.is_reducing = True
        try:
            yield
        finally:
            self.is_reducing = False

    def _arrived(self, bucket: Bucket, name: str, parameter: Tensor) -> None:
        if not self.is_reducing:
            return
        bucket.missing.discard(name)
        while self.sent < len(self.buckets) and not self.buckets[self.sent].missing:
            self._send_gradients(self.buckets[self.sent])

    @torch.no_grad()
    def _send_gradients(self, bucket: Bucket) -> None:
        # A parameter that had no part in this rank's loss has one in another's, perhaps.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket.parameters.values()]
        bucket.array = bucket.pack(gradients)
        for parameter in bucket.parameters.values():
            parameter.grad = None
        if bucket.array.is_cuda:
            bucket.row = bucket.array.new_empty(bucket.width)
            bucket.work = _reduce_scatter(bucket.row, bucket.array.view(-1), async_op=True)
        else:  # Gloo's reduce-scatter takes twice as long as its all-reduce (dev/LOG.md)
            bucket.row = bucket.array[self.rank]
            bucket.work = dist.all_reduce(bucket.array, async_op=True)
        self.sent += 1

    def finish(self) -> list[Tensor]:
        """Send what is left and wait for all. Returns this rank's part of the summed gradient, each bucket's `row`.

        On CUDA "wait" means that kernels started from now on come after the transfer; the host does not block.
        """
        for bucket in self.buckets[self.sent :]:
            self._send_gradients(bucket)
        for bucket in self.buckets:
            self._await(bucket)
        return [bucket.row for bucket in self.buckets if bucket.row is not None]

    def reset(self) -> None:
        """Drop the gradients of this step that were sent."""
        for bucket in self.buckets[: self.sent]:
            self._await(bucket)
            bucket.row = None
        self.begin()

    def begin(self) -> None:
        """Forget that gradients were sent: the step that they belonged to is over."""
        self.sent = 0
        for bucket in self.buckets:
            bucket.missing = set(bucket.parameters)

    def _await(self, bucket: Bucket) -> None:
        if bucket.work is not None:
            bucket.work.wait()
        bucket.work = bucket.array = None

    # ---- weights

    def mine(self, parameter: nn.Parameter) -> Tensor:
        """This rank's slice of a parameter, 1-D, in place."""
        return sliced(parameter.detach(), self.rank, self.world)

    def gradients_of(self, shape: int) -> Tensor:
        """This rank's summed gradients of a shape: (n, rows, cols)."""
        parts = []
        for bucket in self.matrices[shape]:
            assert bucket.row is not None
            parts.append(bucket.row.view(bucket.k, *bucket.like.shape)[: len(bucket.owned(self.rank))])
            bucket.row = None
        return torch.cat(parts)

    def gradient_of(self, name: str) -> Tensor:
        """This rank's slice of the summed gradient of one of the other parameters."""
        bucket = next(bucket for bucket in self.slices if name in bucket.parameters)
        assert bucket.row is not None
        return bucket.slices(bucket.row, self.rank)[list(bucket.parameters).index(name)]

    def send_matrices(self, shape: int, weights: Tensor) -> None:
        """Begin to send this rank's new weights (n, rows, cols) of a shape, the first layers' first."""
        counts = [len(bucket.owned(self.rank)) for bucket in self.matrices[shape]]
        for bucket, part in reversed(list(zip(self.matrices[shape], weights.split(counts), strict=True))):
            self._send_weights(bucket, _filled(part, bucket.k).view(-1), None)

    def send_slices(self) -> None:
        """Begin to send this rank's slices of the other parameters, which are up to date in the parameters."""
        for bucket in reversed(self.slices):
            # A parameter that is the array is filled in place, around a copy of the slice that is sent.
            parts = [sliced(p, self.rank, self.world) for p in bucket.parameters.values()]
            row = torch.cat([_filled(part, width) for part, width in zip(parts, bucket.widths, strict=True)])
            self._send_weights(bucket, row, bucket.like.view(self.world, -1) if bucket.is_exact else None)

    def _send_weights(self, bucket: Bucket, row: Tensor, into: Tensor | None) -> None:
        bucket.row = row
        bucket.array = row.new_empty(self.world, bucket.width) if into is None else into
        bucket.work = _all_gather(bucket.array.view(-1), row, async_op=True)

    @torch.no_grad()
    def receive(self, buckets: Iterable[Bucket]) -> None:
        """Wait for the new weights of some buckets and put them into the parameters."""
        for bucket in buckets:
            if bucket.work is None:
                continue
            bucket.work.wait()
            assert bucket.array is not None
            if not bucket.is_exact:
                torch._foreach_copy_(list(bucket.parameters.values()), bucket.unpack(bucket.array))
            bucket.work = bucket.array = bucket.row = None

    # ---- figures

    def traffic(self) -> dict[str, int]:
        """The bytes that a rank sends in a step on CUDA, by kind, when rings carry them, as NCCL's do at this size.

        gradients: reduce-scatter, weights: all-gather, norm: one number to all. Needs no other rank, and no memory.
        """
        once = sum(bucket.bytes for bucket in self.buckets) * (self.world - 1) // self.world
        return {"gradients": once, "weights": once, "norm": 8 * (self.world - 1) // self.world}


def traffic_in_parts(
    parameters: int, blocks: int, matrices: int, parts: int, itemsize: int = 2, trained: int | None = None
) -> dict[str, int]:
    """The bytes that a rank sends in a step of one micro-batch, by kind, when weights lie in so many parts (`sharded`).

    weights, of itemsize bytes each: all are gathered for the forward pass, and the blocks' once more for the backward
    pass. gradients: each, or those that are `trained`, is summed at the rank that keeps it, in float32. muon: of each
    matrix a rank sends its part of the gradient to the owner, and owners send the parts of the update back. Further
    micro-batches send weights and gradients again. Sums over nodes (hybrid) come on top.
    """
    share = (parts - 1) / parts
    numbers = {
        "weights": itemsize * (parameters + blocks),
        "gradients": 4 * (parameters if trained is None else trained),
        "muon": 8 * matrices / parts,
        "norm": 8,
    }
    return {kind: round(share * size) for kind, size in numbers.items()}


def _filled(part: Tensor, n: int) -> Tensor:
    """`part` with zeros behind it, so that its first axis has n entries; contiguous."""
    if len(part) == n:
        return part.contiguous()
    return torch.cat([part, part.new_zeros(n - len(part), *part.shape[1:])])


def _buckets_of_matrices(shape: Mapping[str, nn.Parameter], world: int, first: int) -> tuple[list[Matrices], int]:
    """Matrices of one shape in buckets of k for each rank, the last layers' first; and who is next to own some."""
    if world == 1:
        return [], first
    names = sorted(shape, key=finished)
    like = shape[names[0]]
    most = max(1, BUCKET_BYTES // (world * like.numel() * like.element_size()))
    buckets: list[Matrices] = []
    while names:
        k = min(most, -(-len(names) // world))
        here, names = names[: k * world], names[k * world :]
        buckets.append(Matrices({name: shape[name] for name in here}, world, k=k, first=first))
        first = (first + -(-len(here) // k)) % world
    return buckets, first


def _buckets_of_slices(others: Mapping[str, nn.Parameter], world: int) -> list[Slices]:
    """Small neighbours share a bucket, a large parameter has one of its own."""
    if world == 1:
        return []
    buckets: list[Slices] = []
    for name in sorted(others, key=finished):
        parameter = others[name]
        size = parameter.numel() * parameter.element_size()
        if not buckets or buckets[-1].bytes + size > BUCKET_BYTES or buckets[-1].like.dtype != parameter.dtype:
            buckets.append(Slices({}, world))
        buckets[-1].parameters[name] = parameter
    return buckets
