"""Weights laid out for generating on a CPU: in the blocks that oneDNN multiplies fastest, or as 8-bit integers.

A step of decoding reads every matrix once and computes little, so what counts is how fast weights come from memory.
2 cores of an AMD EPYC (Zen 4), the output layer of GPT-2 (50304 x 768) for one row, in ms: torch.mv 7.4, F.linear 4.4,
blocked 2.8, int8 2.7, all from bfloat16. For 16 rows: 6.9, 4.1 and 15.0.

Both give a row the same bits whatever other rows are in the product, which plain F.linear does not. On other devices
the weights stay as they are; only attention's three matrices become one, which is fewer products to start.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nanochat.errors import UserError
from nanochat.gpt import GPT, Linear


class BlockedLinear(nn.Module):
    """A linear whose weight is in oneDNN's own layout, for input of the weight's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        """weight (outputs, inputs), bias (outputs,)."""
        super().__init__()
        self.outputs, self.inputs = weight.shape
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        # The kernel for one row adds up in another order; the one for four gives the usual bits and is faster, too.
        single = input.numel() == self.inputs
        rows = torch.cat([input] * 4) if single else input
        output = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return output[:1] if single else output


class Int8Linear(nn.Module):
    """A linear with one byte per weight: rounded to 255 steps between plus and minus each output's largest."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        """weight (outputs, inputs), bias (outputs,), computing in dtype."""
        super().__init__()
        weight = weight.detach().float()
        self.outputs, self.inputs = weight.shape
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(dtype))
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        output = torch._weight_int8pack_mm(input.reshape(-1, self.inputs), self.weight, self.scale)
        output = output.view(*input.shape[:-1], self.outputs)
        return output if self.bias is None else output + self.bias


def pack(model: GPT, int8: bool = False) -> None:
    """Replace the model's matrices by packed ones, for generating only: it can no longer be trained or saved.

    On a CPU without int8, where oneDNN is missing or does not know the model's dtype, the model stays as it is.
    Raises UserError for int8 on another device than a CPU.
    """
    if model.device.type != "cpu":
        if int8:
            raise UserError(f"int8 weights are for CPUs, and the model is on {model.device}; use --dtype bfloat16")
        join(model, _plain)
        return
    if not int8 and not _can_block(model.dtype):
        return
    kind = Int8Linear if int8 else BlockedLinear
    join(model, kind)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is Linear:  # not a gate, whose few rows stay as they are
                setattr(module, name, kind(child.weight, child.bias, model.dtype))
    if model.lm_head is None:  # rows of the embedding are looked up, so it stays besides
        model.lm_head = kind(model.transformer.wte.weight, None, model.dtype)


def join(model: GPT, kind: Callable[[Tensor, Tensor | None, torch.dtype], nn.Module]) -> None:
    """Make one linear of each attention's c_q, c_k and c_v."""
    for block in model.transformer.blocks:
        attention = block.attn
        linears = attention.c_q, attention.c_k, attention.c_v
        biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
        weights = torch.cat([linear.weight for linear in linears])
        attention.qkv = kind(weights, torch.cat(biases) if biases else None, model.dtype)
        del attention.c_q, attention.c_k, attention.c_v


def _plain(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    with torch.device("meta"):
        linear = Linear(weight.size(1), weight.size(0), bias is not None)
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    linear.load_state_dict({name: tensor.detach().to(dtype) for name, tensor in state.items()}, assign=True)
    return linear


def _can_block(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_fp16_supported()
