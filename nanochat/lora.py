"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): fine-tuning that trains, keeps and saves little.

A matrix W (outputs, inputs) stays as it is, and what it has to learn is a product of two thin matrices:

    W + alpha / rank * B A        A (rank, inputs), B (outputs, rank)

B starts at zero, so training starts at the parent itself. Only A and B have gradients and optimizer state, and they
alone are saved. All else is frozen, and held in the compute dtype: `gpt.Linear` would round it for each product anyway.

An `Adapted` layer has the parameters of the layer that it replaces under the same names, and `lora_A` and `lora_B`
besides. `merge` makes an ordinary model of it, which the engine, exports and later stages take.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, Linear, count_parameters

BLOCKS = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
MATRICES = (*BLOCKS, "lm_head")
PARTS = ("lora_A", "lora_B")


@dataclass(frozen=True)
class Adapters:
    """Which matrices have an adapter, those of every block alike, and of which rank and scale."""

    rank: int
    alpha: float
    matrices: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def __str__(self) -> str:
        return f"LoRA of rank {self.rank}, alpha {self.alpha:g}, on {', '.join(self.matrices)}"


class Adapted(Linear):
    """A frozen linear layer (..., inputs) -> (..., outputs) and its adapter, whose numbers are float32."""

    def __init__(self, linear: nn.Linear, adapters: Adapters) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.adapters, self.scale = adapters, adapters.scale
        # Kaiming's uniform distribution, as in the paper's code and in peft. Drawn on the CPU: the same on any device.
        bound = linear.in_features**-0.5
        down = torch.empty(adapters.rank, linear.in_features).uniform_(-bound, bound)
        self.lora_A = nn.Parameter(down.to(linear.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, adapters.rank, device=linear.weight.device))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(self._down(input), self.lora_B.to(input.dtype))

    def factors(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both products as one: [x, scale * A x] times [W, B]."""
        joined = torch.cat([self.weight.to(input.dtype), self.lora_B.to(input.dtype)], dim=1)
        return torch.cat([input, self._down(input)], dim=-1), joined

    def delta(self) -> Tensor:
        """What the adapter adds to the matrix, (outputs, inputs) float32."""
        return self.scale * (self.lora_B @ self.lora_A)

    def _down(self, input: Tensor) -> Tensor:
        return F.linear(input, self.lora_A.to(input.dtype)) * self.scale


def attach(model: GPT, adapters: Adapters, state: Mapping[str, Tensor] | None = None) -> GPT:
    """Freeze a model and give it adapters: new ones, or those of `state`, which `state_of` returned.

    Raises UserError for an output layer that is tied to the embedding, RuntimeError for a state that does not fit.
    """
    if "lm_head" in adapters.matrices and model.lm_head is None:
        raise UserError("this model's output layer is its embedding, which has no adapter; leave out lm_head")
    model.requires_grad_(False)
    for place in _places(model.config, adapters):
        linear = model.get_submodule(place)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(place, Adapted(linear, adapters))
    if state is not None:
        found = model.load_state_dict(state, strict=False)
        missing = [name for name in found.missing_keys if name.endswith(PARTS)]
        if found.unexpected_keys or missing:
            raise RuntimeError(f"adapters: {', '.join([*found.unexpected_keys, *missing][:3])} do not fit")
    return model


def adapted(model: GPT) -> dict[str, Adapted]:
    """The layers of a model that have an adapter, by their place."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


def adapters_of(model: GPT) -> Adapters | None:
    """What `attach` was given; None for an ordinary model."""
    return next((layer.adapters for layer in adapted(model).values()), None)


def summary(model: GPT) -> str:
    """What of a model with adapters is trained, for people."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{adapters_of(model)}: {trained:,} numbers are trained, {count_parameters(model) - trained:,} are frozen"


def state_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model's state dict the tensors of its adapters alone."""
    return {name: tensor for name, tensor in state.items() if name.endswith(PARTS)}


@torch.no_grad()
def merge(model: GPT) -> GPT:
    """Add each adapter to its matrix, in place and in float32, and remove it: an ordinary model again."""
    for place, layer in adapted(model).items():
        with torch.device("meta"):
            plain = Linear(layer.in_features, layer.out_features)
        weight = layer.weight
        plain.weight = nn.Parameter((weight.float() + layer.delta()).to(weight.dtype))
        plain.bias = layer.bias
        model.set_submodule(place, plain)
    return model.requires_grad_(True)


# ---------------------------------------------------------------- flags


def wanted(flags: Any) -> Adapters | None:
    """What --lora_rank, --lora_alpha and --lora_matrices ask for; None for training all weights. Raises UserError."""
    rank = getattr(flags, "lora_rank", 0)
    if rank == 0:
        return None
    if rank < 0:
        raise UserError(f"--lora_rank is {rank}; expected 1 or more, or 0 to train all weights")
    if not 0 < flags.lora_alpha < math.inf:
        raise UserError(f"--lora_alpha is {flags.lora_alpha:g}; expected a number above 0")
    return Adapters(rank, flags.lora_alpha, _named(flags.lora_matrices) or BLOCKS)


def _named(words: list[str]) -> tuple[str, ...]:
    """The matrices that words such as attn, c_proj or mlp.c_fc mean: a part of a name means all that have it."""
    for word in words:
        if not any(_means(word, name) for name in MATRICES):
            raise UserError(
                f"--lora_matrices {word!r} is not a matrix of these models; expected attn, mlp, or any of "
                f"{', '.join(MATRICES)}"
            )
    return tuple(name for name in MATRICES if any(_means(word, name) for word in words))


def _means(word: str, name: str) -> bool:
    return word == name or word in name.split(".")


# ---------------------------------------------------------------- figures


def shapes(config: GPTConfig, adapters: Adapters) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each kind of matrix that has an adapter."""
    D, d = config.n_embd, config.head_size
    known = {
        "attn.c_q": (D, config.n_head * d), "attn.c_k": (D, config.n_kv_head * d),
        "attn.c_v": (D, config.n_kv_head * d), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D),
        "mlp.c_proj": (4 * D, D), "lm_head": (D, config.padded_vocab),
    }  # fmt: skip
    return {name: known[name] for name in adapters.matrices}


def count(config: GPTConfig, adapters: Adapters) -> int:
    """How many numbers are trained."""
    each = {name: adapters.rank * sum(sides) for name, sides in shapes(config, adapters).items()}
    return each.pop("lm_head", 0) + config.n_layer * sum(each.values())


def _places(config: GPTConfig, adapters: Adapters) -> list[str]:
    """The names of the layers that have an adapter."""
    blocks = [name for name in adapters.matrices if name in BLOCKS]
    inside = [f"transformer.h.{layer}.{name}" for layer in range(config.n_layer) for name in blocks]
    return inside + ["lm_head"] * ("lm_head" in adapters.matrices)
