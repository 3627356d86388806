"""Training with the blocks' matrix products in 8 bits (--fp8), which an H100 multiplies twice as fast as bfloat16.

The recipe is the usual one (Micikevicius et al. 2022, arXiv 2209.05433): weights and activations become float8 e4m3,
which has more digits, gradients e5m2, which has more range, and each tensor is first scaled so that its largest number
is the largest that the format has. The scale is measured anew in every step ("dynamic"), one for a whole tensor
("tensorwise"). Sums are float32, and so are weights, gradients and the optimizer's state, as without it: a checkpoint
does not show how its run multiplied. The conversion is torchao's.

Embeddings, the output layer, gates and scalars stay as they are. So does everything without gradients: validation and
samples during a run see the model that will be served.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nanochat.errors import UserError
from nanochat.gpt import GPT, Linear

RECIPE = "tensorwise"
MULTIPLE = 16  # cuBLAS multiplies float8 matrices whose sides are multiples of this
FIRST = (8, 9)  # compute capability of the first GPUs that multiply float8: L4 and RTX 40; the H100 has (9, 0)
MATRICES = ("c_q", "c_k", "c_v", "c_proj", "c_fc")


class Float8(Linear):
    """A linear layer (..., inputs) -> (..., outputs) that multiplies in float8 where gradients are recorded.

    It has the very parameters of the layer that it replaces, under the same names.
    """

    def __init__(self, linear: nn.Linear, product: nn.Module) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self._product = (product,)  # in a tuple, for its parameters are these; a module would list them twice

    def forward(self, input: Tensor) -> Tensor:
        return self._product[0](input) if torch.is_grad_enabled() else super().forward(input)


def convert(model: GPT, device: torch.device, emulate: bool = False) -> dict[str, object]:
    """Make the blocks' matrices of a model multiply in float8 while it trains; returns what a run records of it.

    To be called when the model is on its device, before it is compiled; parameters keep their names and identities.
    Matrices with a side that is not a multiple of 16 are left out. `emulate` computes the same numbers in float32, on
    any device. Raises UserError for a device that does not multiply float8, without the package torchao, and for a
    model that has no matrix to convert.
    """
    if not emulate:
        check(device)
    as_float8 = _conversion(emulate)
    count = 0
    for block in model.transformer.blocks:
        for part in (block.attn, block.mlp):
            for name in MATRICES:
                linear = getattr(part, name, None)
                if isinstance(linear, nn.Linear) and allows(linear):
                    setattr(part, name, Float8(linear, as_float8(linear)))
                    count += 1
    if not count:
        raise UserError(
            f"--fp8 multiplies matrices whose sides are multiples of {MULTIPLE}, and this model, {model.config.n_embd} "
            "wide, has none; train it without --fp8"
        )
    return {"recipe": RECIPE, "forward": "e4m3", "gradients": "e5m2", "matrices": count}


def allows(linear: nn.Linear) -> bool:
    """Whether float8 can multiply by this matrix: both sides are multiples of 16."""
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0


def check(device: torch.device) -> None:
    """Raise UserError for a device that does not multiply float8."""
    needed = "--fp8 needs a CUDA GPU of compute capability 8.9 or later (L4, RTX 40, H100 and newer)"
    if device.type != "cuda":
        raise UserError(f"{needed}, but the device is {device.type}; train without --fp8")
    capability = torch.cuda.get_device_capability(device)
    if capability < FIRST:
        name, number = torch.cuda.get_device_name(device), ".".join(map(str, capability))
        raise UserError(f"{needed}, but {name} has {number}; train without --fp8")


def _conversion(emulate: bool) -> Callable[[nn.Linear], nn.Module]:
    """torchao's conversion of a linear layer, which keeps its parameters. Raises UserError without torchao."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao registers types in a way torch deplores
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UserError(
            "--fp8 needs the package torchao, which is not installed; install it with: uv sync --extra fp8, or train "
            "without --fp8"
        ) from None
    # Rows are padded to a multiple of 16 where they are not one, as the last rollouts of RL.
    config = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    return lambda linear: convert_to_float8_training(linear, config=config)
