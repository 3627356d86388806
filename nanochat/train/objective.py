"""What training makes small: the loss of a micro-batch, eager or compiled."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nanochat.data.batch import Batch
from nanochat.gpt import GPT, Block
from nanochat.loss import Rows, distilled_rows, loss_of_rows
from nanochat.runtime import Runtime, can_compile

if TYPE_CHECKING:  # which imports all that opens models
    from nanochat.train.teacher import Teacher

GRAPHS = 64  # the most of one part: kinds of blocks times shapes of batches; torch's own limit is 8
DISTILLED = ("hard_loss", "teacher_kl")  # what the loss with a teacher sums besides itself


def loss_of(
    model: GPT, wanted: bool | Literal["max-autotune"], rt: Runtime, teacher: "Teacher | None" = None
) -> Callable[[Batch], Tensor]:
    """A model's loss, compiled if wanted: the sum of nll * weight of a micro-batch, a float32 scalar with a gradient.

    With a teacher a vector: the sum that is learned from, and those that DISTILLED names.
    """
    return loss_by(compiled_rows(model, wanted, rt, teacher), model, teacher)


def loss_by(rows: Rows, model: GPT, teacher: "Teacher | None" = None) -> Callable[[Batch], Tensor]:
    """The same, with what `compiled_rows` returned."""

    def loss(batch: Batch) -> Tensor:
        soft = None if teacher is None else teacher.predict(batch.inputs, model)
        return model.loss(model.hidden(batch.inputs), batch.targets, batch.weights, batch.trained, rows, soft)

    return loss


def compiled_rows(
    model: GPT, wanted: bool | Literal["max-autotune"], rt: Runtime, teacher: "Teacher | None" = None
) -> Rows:
    """What computes a chunk of the loss, compiled if wanted, and with it the parts of the model and of its teacher.

    Prints that the first step takes long, or that there is no compiler.
    """
    rows = loss_of_rows if teacher is None else distilled_rows
    if wanted and not can_compile(rt.device):
        rt.print("no C++ compiler was found, so torch.compile is not used; training is slower")
        wanted = False
    if not wanted:
        return rows
    rt.print("torch.compile makes the model fast on this machine first; step 1 may take a minute or two")
    # Without CUDA graphs, whose static memory does not suit gradients that add up over micro-batches.
    mode = "max-autotune-no-cudagraphs" if wanted == "max-autotune" else None
    compile_parts(model, dynamic=False, mode=mode)
    if teacher is not None:
        compile_parts(teacher.model, learns=False, dynamic=False, mode=mode)
    return torch.compile(rows, dynamic=False, mode=mode)


def freeze_gates(model: GPT) -> None:
    """Do not train smear and backout, whose learning rates no flag lowers.

    The rates suit a new model: late in its life a step of them costs more than many steps of the rest gain.
    """
    for name, parameter in model.named_parameters():
        if name.startswith(("smear_", "backout_")):
            parameter.requires_grad_(False)


def compile_parts(model: GPT, learns: bool = True, **options: Any) -> None:
    """Compile what training computes, with these options of torch.compile: each block, and what is around them.

    Not the whole as one graph: that would hand out all gradients at its end, when those of the last blocks could have
    been sent to other ranks long ago. Blocks of one kind share a graph, so a deep model compiles as fast as a shallow
    one. Measuring and generating stay as they are: their shapes are many, and each would be compiled. A model that
    does not learn is compiled for its forward pass, which then is a teacher's.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    # Inside `forward`'s checkpoint: with one inside the graph, Inductor computed wrong losses (d4, torch 2.13).
    block = torch.compile(Block._computed, **options)
    for each in model.transformer.blocks:
        computed = partial(_where_it_learns, block, Block._computed, each) if learns else partial(block, each)
        setattr(each, "_computed", computed)  # noqa: B010
    for name in ("_enter", "_leave"):
        method = getattr(GPT, name)
        compiled = torch.compile(method, **options)
        setattr(model, name, partial(_where_it_learns, compiled, method, model) if learns else partial(compiled, model))


def _where_it_learns(compiled: Callable, plain: Callable, *args: Any) -> Any:
    return (compiled if torch.is_grad_enabled() else plain)(*args)
