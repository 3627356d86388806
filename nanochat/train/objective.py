"""What training makes small: the loss of a micro-batch, eager or compiled."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from nanochat.data.batch import Batch
from nanochat.gpt import GPT, Block
from nanochat.loss import loss_of_rows
from nanochat.runtime import Runtime, can_compile

GRAPHS = 64  # the most of one part: kinds of blocks times shapes of batches; torch's own limit is 8


def loss_of(model: GPT, wanted: bool | Literal["max-autotune"], rt: Runtime) -> Callable[[Batch], Tensor]:
    """A model's loss, compiled if wanted: the sum of nll * weight of a micro-batch, a float32 scalar with a gradient.

    Prints a line if there is no compiler.
    """
    if wanted and not can_compile(rt.device):
        rt.print("no C++ compiler was found, so torch.compile is not used; training is slower")
        wanted = False
    rows = loss_of_rows
    if wanted:
        # Without CUDA graphs, whose static memory does not suit gradients that add up over micro-batches.
        mode = "max-autotune-no-cudagraphs" if wanted == "max-autotune" else None
        compile_parts(model, dynamic=False, mode=mode)
        rows = torch.compile(loss_of_rows, dynamic=False, mode=mode)
    return lambda batch: model.loss(model.hidden(batch.inputs), batch.targets, batch.weights, batch.trained, rows)


def compile_parts(model: GPT, **options: Any) -> None:
    """Compile what training computes, with these options of torch.compile: each block, and what is around them.

    Not the whole as one graph: that would hand out all gradients at its end, when those of the last blocks could have
    been sent to other ranks long ago. Blocks of one kind share a graph, so a deep model compiles as fast as a shallow
    one. Measuring and generating stay as they are: their shapes are many, and each would be compiled.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    block = torch.compile(Block.forward, **options)
    for each in model.transformer.blocks:
        setattr(each, "forward", partial(_where_it_learns, block, Block.forward, each))  # noqa: B010
    for name in ("_enter", "_leave"):
        method = getattr(GPT, name)
        setattr(model, name, partial(_where_it_learns, torch.compile(method, **options), method, model))


def _where_it_learns(compiled: Callable, plain: Callable, *args: Any) -> Any:
    return (compiled if torch.is_grad_enabled() else plain)(*args)
