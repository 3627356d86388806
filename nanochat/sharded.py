"""Weights in parts, for a model that one device cannot hold: each rank keeps some rows of every parameter.

torch's FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277, after ZeRO-3, Rajbhandari et al. 2020) gathers a
block's weights right before it runs, in the dtype it computes in, and frees them after it. So it does with a table of
embeddings, which the backward pass does not need: value embeddings are half of a small model. Each micro-batch's
gradients are summed in float32 at the rank that keeps those rows. What is left to do here: Muon needs a matrix whole.
So each matrix has an owner, which gathers its gradient, computes the update, and sends every rank its rows of it.

Over several nodes, `hybrid` keeps all parts on each node, so that weights travel within a node and only sums of
gradients between nodes. Ranks with the same rows then compute the same update.

Shapes: of R rows, rank r of `world` keeps rows [r c, (r + 1) c), c = ceil(R / world); the last ranks may have fewer.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from nanochat.gpt import GPT
from nanochat.reduce import Matrices, Owners, traffic_in_parts
from nanochat.runtime import Runtime


def mesh_for(rt: Runtime, hybrid: bool) -> DeviceMesh:
    """All ranks in a row; hybrid: the ranks of a node in a row, one row for each node."""
    if not hybrid:
        return init_device_mesh(rt.device.type, (rt.world,))
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return init_device_mesh(rt.device.type, (rt.world // here, here), mesh_dim_names=("node", "part"))


def shard(model: GPT, mesh: DeviceMesh) -> None:
    """Leave each rank its rows of the model's parameters, in place.

    A group for each block and for each table that is only looked up; one for all else, which is gathered until the
    backward pass ends. The model must be the same on all ranks. It keeps the dtype of its weights; they travel in the
    model's own.
    """
    policy = MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    blocks, tables = model.transformer.blocks, _tables(model)
    for module in (*blocks, *tables.values()):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    root = cast(FSDPModule, fully_shard(model, mesh=mesh, mp_policy=policy))
    register_fsdp_forward_method(model, "hidden")  # which training calls in place of `forward`
    for layer, table in tables.items():
        register_fsdp_forward_method(table, "while_whole")
        # A lookup has its gradient without the table, unless the block is computed anew.
        cast(FSDPModule, table).set_unshard_in_backward(model.recompute and layer >= 0)
    # By itself FSDP would prefetch what ran before: a table, in place of a block.
    for layer, after in enumerate([*blocks[1:], model]):
        again = [tables[layer]] if model.recompute and layer in tables else []
        cast(FSDPModule, after).set_modules_to_backward_prefetch(cast(list[FSDPModule], [blocks[layer], *again]))
    for module in _groups(root):
        # The loss is divided by the tokens of all ranks before the backward pass, so gradients are summed.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _tables(model: GPT) -> dict[int, nn.Module]:
    """The value embeddings by layer, and at -1 the embedding, where the output layer does not read it."""
    tables = {int(layer): table for layer, table in model.value_embeds.items()} if model.config.value_embeds else {}
    return tables if model.lm_head is None else {-1: model.transformer.wte, **tables}


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def _groups(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within this context every rank holds the whole model, for what ranks do at their own pace. A collective call.

    Evaluating and sampling differ in how often they call the model, so its blocks cannot gather their weights then.
    """
    groups = _groups(model)
    for module in groups:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in groups:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


class Sharded(Owners):
    """What the optimizer asks of `reduce.Exchange`, for parameters that lie in parts."""

    sent = 1  # every backward pass sends gradients, so a step cannot be computed anew

    def __init__(
        self, matrices: Sequence[Mapping[str, nn.Parameter]], others: Mapping[str, nn.Parameter], itemsize: int
    ):
        """itemsize: bytes of a gathered weight."""
        self.itemsize = itemsize
        self.parameters = {name: p for shape in (others, *matrices) for name, p in shape.items()}
        mesh = cast(DTensor, next(iter(self.parameters.values()))).device_mesh
        group = mesh.get_group(mesh.ndim - 1)
        super().__init__(matrices, group.rank(), group.size(), group)

    # ---- gradients

    def reducing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def finish(self) -> list[Tensor]:
        """This rank's part of the summed gradient."""
        return [self._gradient(name) for name in self.parameters]

    def reset(self) -> None:
        pass

    def begin(self) -> None:
        pass

    def _gradient(self, name: str) -> Tensor:
        """This rank's rows of a gradient; zeros for a parameter without one."""
        parameter = self.parameters[name]
        if parameter.grad is None:
            return torch.zeros_like(_rows(parameter))
        return _rows(parameter.grad)

    def gradient_of(self, name: str) -> Tensor:
        return self._gradient(name).view(-1)

    def gradients_of(self, shape: int) -> Tensor:
        """The summed gradients (n, rows, cols) of the matrices of a shape that this rank owns. A collective call."""
        parts = []
        for bucket in self.matrices[shape]:
            sent = self._array(bucket, [self._gradient(name) for name in bucket.parameters])
            for parameter in bucket.parameters.values():
                parameter.grad = None
            received = torch.empty_like(sent)  # (world, k, c, cols), from each rank
            dist.all_to_all_single(received, sent, group=self.group)
            rows, cols = bucket.like.shape
            whole = received.transpose(0, 1).reshape(bucket.k, -1, cols)[:, :rows]
            parts.append(whole[: len(bucket.owned(self.rank))])
        return torch.cat(parts)

    def rows_of(self, shape: int, updates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The owners' updates (n, rows, cols) of a shape -> this rank's rows of each matrix and of its update.

        A collective call.
        """
        counts = [len(bucket.owned(self.rank)) for bucket in self.matrices[shape]]
        for bucket, mine in zip(self.matrices[shape], updates.split(counts), strict=True):
            rows, cols = bucket.like.shape
            c = -(-rows // self.world)
            sent = mine.new_zeros(bucket.k, self.world * c, cols)
            sent[: len(mine), :rows] = mine
            sent = sent.view(bucket.k, self.world, c, cols).transpose(0, 1).contiguous()
            received = torch.empty_like(sent)  # (world, k, c, cols), from each owner
            dist.all_to_all_single(received, sent, group=self.group)
            for parameter, place in zip(bucket.parameters.values(), bucket.places(), strict=True):
                weights = _rows(parameter.detach())
                yield weights, received[place][: len(weights)]

    def _array(self, bucket: Matrices, rows: Sequence[Tensor]) -> Tensor:
        """This rank's rows of a bucket's matrices -> (world, k, c, cols), for each owner those of its k matrices."""
        total, cols = bucket.like.shape
        array = rows[0].new_zeros(self.world, bucket.k, -(-total // self.world), cols)
        for part, place in zip(rows, bucket.places(), strict=True):
            array[place][: len(part)] = part
        return array

    # ---- weights

    def mine(self, parameter: nn.Parameter) -> Tensor:
        return _rows(parameter.detach()).view(-1)

    def send_slices(self) -> None:
        pass

    def receive(self, buckets: object) -> None:
        pass

    @property
    def buckets(self) -> list:
        return []

    # ---- figures

    def traffic(self) -> dict[str, int]:
        """The bytes that a rank sends within its node in a step of one micro-batch, by kind: see `traffic_in_parts`.

        Of frozen weights, which are gathered too, and of what --recompute gathers again, nothing is counted.
        """
        total = sum(parameter.numel() for parameter in self.parameters.values())
        blocks = sum(p.numel() for name, p in self.parameters.items() if name.startswith("transformer.h."))
        matrices = sum(bucket.like.numel() * len(bucket.parameters) for shape in self.matrices for bucket in shape)
        return traffic_in_parts(total, blocks, matrices, self.world, self.itemsize)


def _rows(tensor: Tensor) -> Tensor:
    """This rank's rows, in place."""
    return cast(DTensor, tensor).to_local()
