"""From vectors of the residual stream to logits, in parts: what the last norm and the output layer do to each."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.gpt import GPT


def logits_of(model: GPT, x: Tensor) -> Tensor:
    """The output layer alone, x (B, T, D) -> (B, T, V) float32: no norm, no softcap. It is linear in x."""
    head, x = model.lm_head, x.to(model.dtype)
    with torch.no_grad():
        z = F.linear(x, model.transformer.wte.weight.to(x.dtype)) if head is None else head(x)
    return z[..., : model.config.vocab_size].float()


def through_norm(model: GPT, parts: Tensor) -> tuple[Tensor, Tensor]:
    """What each of the parts (N, D) of a vector is after the last norm of the vector, their sum: (N, D), and its bias.

    RMS norm and LayerNorm divide by a length that all parts make together. With that length fixed they are linear.
    """
    norm = model.transformer.ln_f
    whole = parts.sum(0)
    if norm.weight is None:
        return parts * torch.rsqrt(whole.square().mean() + norm.eps), torch.zeros_like(whole)
    centred = parts - parts.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.sum(0).square().mean() + norm.eps)
    weight = norm.weight.detach().to(parts)
    bias = torch.zeros_like(whole) if norm.bias is None else norm.bias.detach().to(parts)
    return centred * scale * weight, bias
