"""What training makes small: the loss of a micro-batch, eager or compiled."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from nanochat.data.batch import Batch
from nanochat.gpt import GPT
from nanochat.loss import loss_of_rows
from nanochat.runtime import Runtime, can_compile


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
        model.compile_parts(dynamic=False, mode=mode)
        rows = torch.compile(loss_of_rows, dynamic=False, mode=mode)
    return lambda batch: model.loss(model.hidden(batch.inputs), batch.targets, batch.weights, batch.trained, rows)
