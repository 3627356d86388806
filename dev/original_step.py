"""The original's training step, written straight down from its description, to measure ours beside it.

What it does that ours does not: masks of T x T for windows, all logits at once in float32, an optimizer that steps when
the whole backward is done, and a loss that the host waits for. What both have: the same layers and rules of update,
torch.compile over the model and over the update of each shape, float32 weights for bfloat16 products, embeddings in
the compute dtype (here only; ours are float32).

On a Hopper GPU with a network the original fetches FlashAttention 3, which knows windows; elsewhere it takes torch's
scaled_dot_product_attention, as here. So the comparison is with the original as it runs without that wheel.

Shapes: B rows, T tokens, D channels, H heads of d, K key/value heads, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.gpt import GPT, SMEAR_CHANNELS, GPTConfig
from nanochat.optim import POLAR_EXPRESS


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """Float32 weights, cast to the dtype of the input at each product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


class Attention(nn.Module):
    def __init__(self, c: GPTConfig, layer: int) -> None:
        super().__init__()
        self.c, self.window = c, c.window(layer)
        width = c.n_kv_head * c.head_size
        self.c_q, self.c_proj = Linear(c.n_embd, c.n_embd), Linear(c.n_embd, c.n_embd)
        self.c_k, self.c_v = Linear(c.n_embd, width), Linear(c.n_embd, width)
        self.ve_gate = Linear(c.ve_gate_channels, c.n_kv_head) if c.has_value_embed(layer) else None

    def forward(self, x: Tensor, value: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        c, (B, T, _) = self.c, x.shape
        q = self.c_q(x).view(B, T, c.n_head, c.head_size)
        k = self.c_k(x).view(B, T, c.n_kv_head, c.head_size)
        v = self.c_v(x).view(B, T, c.n_kv_head, c.head_size)
        if self.ve_gate is not None and value is not None:
            gate = c.ve_gate_range * torch.sigmoid(self.ve_gate(x[..., : c.ve_gate_channels]))
            v = v + gate.unsqueeze(-1) * value.view_as(v)
        q, k = (norm(rotated(heads, cos, sin)) * c.qk_scale for heads in (q, k))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        grouped = c.n_head != c.n_kv_head
        if 0 < self.window < T:
            row = torch.arange(T, device=x.device).unsqueeze(1)
            column = torch.arange(T, device=x.device).unsqueeze(0)
            mask = (column <= row) & (row - column <= self.window)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class MLP(nn.Module):
    def __init__(self, c: GPTConfig) -> None:
        super().__init__()
        self.c_fc, self.c_proj = Linear(c.n_embd, 4 * c.n_embd), Linear(4 * c.n_embd, c.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, c: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(c, layer), MLP(c)

    def forward(self, x: Tensor, value: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(norm(x), value, cos, sin)
        return x + self.mlp(norm(x))


def as_original(config: GPTConfig) -> GPTConfig:
    """The shape with what the original has at every depth, and without what only our models have."""
    return replace(config, bigram_rows=0, key_offset=False, backout=True)


class Original(nn.Module):
    """The modern architecture; its tensors have the names of the checkpoints, so it loads those of `nanochat.gpt.GPT`.

    forward(ids, targets), both (B, T), gives the mean negative log likelihood, float32.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, c: GPTConfig, dtype: torch.dtype) -> None:
        super().__init__()
        assert c == as_original(c), "not a shape of the original"
        self.c, self.dtype = c, dtype
        V, D, L = c.padded_vocab, c.n_embd, c.n_layer
        blocks = nn.ModuleList(Block(c, layer) for layer in range(L))
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(V, D, dtype=dtype), "h": blocks})
        self.lm_head = Linear(D, V)
        self.resid_lambdas, self.x0_lambdas = nn.Parameter(torch.ones(L)), nn.Parameter(torch.zeros(L))
        self.value_embeds = nn.ModuleDict({
            str(layer): nn.Embedding(V, c.n_kv_head * c.head_size, dtype=dtype)
            for layer in range(L) if c.has_value_embed(layer)
        })  # fmt: skip
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda, self.backout_lambda = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        frequencies = 1.0 / c.rope_base ** (torch.arange(0, c.head_size, 2).float() / c.head_size)
        angles = torch.outer(torch.arange(c.sequence_len).float(), frequencies)[:, None]
        self.register_buffer("cos", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angles.sin().to(dtype), persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        c, T = self.c, ids.size(1)
        cos, sin = self.cos[:T], self.sin[:T]
        x = norm(self.transformer["wte"](ids))
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(self.smear_gate(x[:, 1:, :SMEAR_CHANNELS]))
        x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], dim=1)
        first, middle = x, x
        for layer, block in enumerate(self.transformer["h"]):  # type: ignore[arg-type]
            x = self.resid_lambdas[layer].to(x.dtype) * x + self.x0_lambdas[layer].to(x.dtype) * first
            value = self.value_embeds[str(layer)](ids) if c.has_value_embed(layer) else None
            x = block(x, value, cos, sin)
            if layer == c.n_layer // 2:
                middle = x
        x = norm(x - self.backout_lambda.to(x.dtype) * middle)
        logits = self.lm_head(x)[..., : c.vocab_size].float()
        logits = c.softcap * torch.tanh(logits / c.softcap)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---------------------------------------------------------------- the optimizer


def adamw(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor,
    step: Tensor, lr: Tensor, beta1: Tensor, beta2: Tensor, eps: Tensor, decay: Tensor,
) -> None:  # fmt: skip
    """One tensor's update, in place; settings are scalars on the CPU, so that a new rate does not compile anew."""
    weight.mul_(1 - lr * decay)
    first.lerp_(gradient, 1 - beta1)
    second.lerp_(gradient.square(), 1 - beta2)
    deviation = (second / (1 - beta2**step)).sqrt() + eps
    weight.sub_(lr / (1 - beta1**step) * first / deviation)


def muon(
    weights: Tensor, gradients: Tensor, momentum: Tensor, second: Tensor,
    beta1: Tensor, beta2: Tensor, lr: Tensor, decay: Tensor,
) -> None:  # fmt: skip
    """The update of a stack (n, rows, columns) of matrices of one shape, in place."""
    momentum.lerp_(gradients, 1 - beta1)
    x = gradients.lerp(momentum, beta1).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    tall = x.size(-2) > x.size(-1)
    for a, b, c in POLAR_EXPRESS:
        gram = x.mT @ x if tall else x @ x.mT
        mixed = b * gram + c * (gram @ gram)
        x = a * x + (x @ mixed if tall else mixed @ x)
    axis = -1 if second.size(-1) == 1 else -2
    mean = x.float().square().mean(dim=axis, keepdim=True)
    size = (mean.sum(dim=(-2, -1), keepdim=True) * x.size(axis)).sqrt()
    second.lerp_(mean.to(second.dtype), 1 - beta2)
    factor = second.clamp_min(1e-10).rsqrt()
    after = ((mean * x.size(axis)) * factor.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    update = x.float() * (factor * (size / after.clamp_min(1e-10)))
    weights.sub_(lr * update + lr * decay * weights * (update * weights >= 0))


class OriginalOptimizer:
    """AdamW for embeddings, output layer and scalars; Muon for the matrices of the blocks, one stack per shape.

    lr_scale multiplies the default rates, except those of smear and backout; decay is Muon's.
    """

    def __init__(self, model: Original, compiled: bool, lr_scale: float = 1.0, decay: float = 0.28) -> None:
        self.adamw = torch.compile(adamw, dynamic=False, fullgraph=True) if compiled else adamw
        self.muon = torch.compile(muon, dynamic=False, fullgraph=True) if compiled else muon
        self.steps, self.decay, scale = 0, decay, lr_scale * (model.c.n_embd / 768) ** -0.5
        rates = {  # rate, betas and decay by the beginning of the name
            "lm_head": (0.008 * scale, 0.8, 0.96, 0.01), "transformer.wte": (0.3 * scale, 0.8, 0.995, 0.001),
            "value_embeds": (0.15 * scale, 0.8, 0.995, 0.01), "resid_lambdas": (0.005 * lr_scale, 0.8, 0.95, 0.05),
            "x0_lambdas": (0.5 * lr_scale, 0.96, 0.95, 0.0), "smear": (0.2, 0.8, 0.95, 0.0),
            "backout": (0.2, 0.8, 0.95, 0.0),
        }  # fmt: skip
        self.tables: list[tuple[nn.Parameter, list[Tensor], tuple[Tensor, Tensor]]] = []
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for name, weight in model.named_parameters():
            if name.startswith("transformer.h."):
                shapes.setdefault(tuple(weight.shape), []).append(weight)
            else:
                lr, beta1, beta2, own = next(kept for start, kept in rates.items() if name.startswith(start))
                settings = [torch.tensor(value) for value in (lr, beta1, beta2, 1e-10, own)]
                self.tables.append((weight, settings, (torch.zeros_like(weight), torch.zeros_like(weight))))
        self.stacks = []
        for (rows, columns), weights in sorted(shapes.items()):
            whole = (len(weights), rows, columns)
            slim = (len(weights), rows, 1) if rows >= columns else (len(weights), 1, columns)
            state = [torch.zeros(shape, device=weights[0].device) for shape in (whole, slim)]
            self.stacks.append((weights, state, 0.02 * lr_scale * max(1.0, rows / columns) ** 0.5))

    @torch.no_grad()
    def step(self, momentum: float = 0.95, lr_factor: float = 1.0, decay_factor: float = 1.0) -> None:
        """Factors are those of the schedule, on all rates and on Muon's decay."""
        self.steps += 1
        step = torch.tensor(float(self.steps))
        for weight, (lr, beta1, beta2, eps, decay), (first, second) in self.tables:
            assert weight.grad is not None
            self.adamw(weight, weight.grad, first, second, step, lr * lr_factor, beta1, beta2, eps, decay)
        for weights, (average, second), lr in self.stacks:
            stacked = torch.stack(list(weights))
            gradients = torch.stack([weight.grad for weight in weights])  # type: ignore[misc]
            settings = [torch.tensor(value) for value in (momentum, 0.9, lr * lr_factor, self.decay * decay_factor)]
            self.muon(stacked, gradients, average, second, *settings)
            torch._foreach_copy_(list(weights), list(stacked.unbind()))


def original_step(
    model: GPT, compiled: bool, lr_scale: float = 1.0, decay: float = 0.28
) -> tuple[Callable[..., float], Original]:
    """A function that takes one step on micro-batches (inputs, targets), each (B, T), and returns their mean loss.

    Its further arguments are those of `OriginalOptimizer.step`. The weights are copies of the given model's, on its
    device. Returns the function and the model that it trains.
    """
    with torch.device(model.device):
        trained = Original(model.config, model.dtype)
    trained.load_state_dict(model.state_dict())
    forward = torch.compile(trained, dynamic=False) if compiled else trained
    optimizer = OriginalOptimizer(trained, compiled, lr_scale, decay)

    def step(micro_batches: list[tuple[Tensor, Tensor]], *schedule: float) -> float:
        total = torch.zeros((), device=model.device)
        for inputs, targets in micro_batches:
            loss = forward(inputs, targets) / len(micro_batches)
            loss.backward()
            total += loss.detach()
        optimizer.step(*schedule)
        trained.zero_grad(set_to_none=True)
        return total.item()

    return step, trained
