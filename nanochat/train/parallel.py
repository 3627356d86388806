"""--parallel: whether every rank holds the whole model, or a part of it."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from nanochat.checkpoint.parts import Ranks, ranks_for
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.optim import AdamWGroup, MuonGroup, Optimizer
from nanochat.plan.cost import USABLE
from nanochat.plan.scale import REPLICATED, Layout, automatic, layouts
from nanochat.reduce import in_parts
from nanochat.runtime import Runtime, memory_of


def layout_for(
    wanted: str, rt: Runtime, needed: Callable[[int], float], sent: Callable[[Layout], float] | None = None
) -> Layout:
    """The layout that --parallel asks for; auto: the one with the least traffic that fits, and prints the reason.

    needed(parts) predicts the bytes on a device, sent(layout) those that it sends in a step, if that is to matter.
    Raises UserError for hybrid where there is one node only.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", rt.world))
    possible = layouts(rt.world, here)
    if rt.world == 1:
        return REPLICATED
    if wanted == "hybrid" and "hybrid" not in possible:
        raise UserError(
            f"--parallel hybrid needs several nodes of two or more ranks each; this run has {rt.world} ranks, {here} "
            "of them on this node: pass --parallel shard"
        )
    if wanted != "auto":
        return possible[wanted]
    there = memory_of(rt.device)

    def fits(parts: int) -> bool:
        return not there or needed(parts) <= USABLE * there

    chosen = automatic(possible, fits, sent)
    if chosen.parts > 1 and sent is not None and fits(1):
        rt.print(
            f"parallel={chosen.mode}: the whole model fits, but {rt.world} ranks are many for its matrices: each would "
            f"send {sent(REPLICATED) / 1e9:,.1f} GB in a step, most of it padding; in {chosen.parts} parts "
            f"{sent(chosen) / 1e9:,.1f} GB"
        )
    elif chosen.parts > 1:
        rt.print(
            f"parallel={chosen.mode}: the whole model takes {needed(1) / 1e9:,.0f} of {there / 1e9:,.0f} GB on each "
            f"rank, in {chosen.parts} parts {needed(chosen.parts) / 1e9:,.0f} GB"
        )
    return chosen


def ranks_that_save(layout: Layout, rt: Runtime) -> Ranks | None:
    """The ranks that save and load together. A collective call."""
    return ranks_for(rt.world // layout.parts if layout.parts > 1 else 1)


def divide(model: GPT, layout: Layout, rt: Runtime) -> None:
    """Leave each rank its part of the model. To be called before the optimizer is made."""
    if layout.parts > 1:
        from nanochat.sharded import mesh_for, shard  # imports FSDP, which takes a second

        shard(model, mesh_for(rt, layout.mode == "hybrid"))


def optimizer_for(
    model: GPT, adamw: Sequence[AdamWGroup], muon: Sequence[MuonGroup], compiled: bool = False
) -> Optimizer:
    """The optimizer of a model's parameters, however they lie on the ranks."""
    if not in_parts(model):
        optimizer = Optimizer(list(adamw), list(muon), compiled)
        optimizer.gather_late(model.transformer.blocks)
        return optimizer
    from nanochat.sharded import Sharded

    others = {name: parameter for group in adamw for name, parameter in group.parameters.items()}
    parts = Sharded([group.parameters for group in muon], others, model.dtype.itemsize)
    return Optimizer(list(adamw), list(muon), compiled, parts)


def gathered(model: nn.Module) -> AbstractContextManager:
    """A context in which ranks may use the model at their own pace. A collective call."""
    if not in_parts(model):
        return nullcontext()
    from nanochat import sharded

    return sharded.gathered(model)
