"""Muon for the matrices of the blocks, AdamW for everything else; the same code for one rank and for many.

Gradients arrive summed over all ranks. AdamW runs everywhere alike. Muon's matrices of one shape are stacked and
split evenly among the ranks; each rank orthogonalises its own and the results are gathered.
The state is saved by parameter name, whole, so a run may resume on another number of ranks.

Muon: Jordan 2024; Polar Express: Amsel et al. 2025 (arXiv 2505.16932); the second moment of NorMuon: Li et al. 2025
(arXiv 2510.05491); cautious weight decay: Chen et al. 2025 (arXiv 2510.12402).
"""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.gpt import GPT
from nanochat.runtime import multiplies_bfloat16

# Five steps of Polar Express for singular values in [1e-3, 1], with the safety factor 1.02.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@dataclass
class AdamWGroup:
    """Parameters that share the settings of AdamW (Loshchilov & Hutter 2019)."""

    parameters: dict[str, nn.Parameter]
    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    eps: float = 1e-10


@dataclass
class MuonGroup:
    """Matrices of one shape. weight_decay is multiplied by the schedule's."""

    parameters: dict[str, nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    beta2: float = 0.9


@dataclass
class Rates:
    """What the schedule sets for one step: factors on every group's lr and Muon's decay, and Muon's momentum."""

    lr: float = 1.0
    weight_decay: float = 1.0
    momentum: float = 0.95


@dataclass
class Optimizer:
    """`step` applies the gradients that stand in `.grad`; `state_dict` and `load_state_dict` are collective calls."""

    adamw: list[AdamWGroup]
    muon: list[MuonGroup]
    steps: int = 0
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def zero_grad(self) -> None:
        for group in (*self.adamw, *self.muon):
            for parameter in group.parameters.values():
                parameter.grad = None

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        self.steps += 1
        for group in self.adamw:
            for name, parameter in group.parameters.items():
                self._adamw(group, name, parameter, rates)
        for group in self.muon:
            self._muon(group, rates)

    def _adamw(self, group: AdamWGroup, name: str, parameter: nn.Parameter, rates: Rates) -> None:
        gradient, (beta1, beta2) = parameter.grad, group.betas
        if gradient is None:
            return
        state = self.state.setdefault(name, {})
        if not state:
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        parameter.mul_(1 - rates.lr * group.lr * group.weight_decay)
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        deviation = (state["exp_avg_sq"] / (1 - beta2**self.steps)).sqrt_().add_(group.eps)
        parameter.addcdiv_(state["exp_avg"], deviation, value=-rates.lr * group.lr / (1 - beta1**self.steps))

    def _muon(self, group: MuonGroup, rates: Rates) -> None:
        parameters = list(group.parameters.values())
        mine = self._mine(len(parameters))
        stacked = torch.stack([p.detach() for p in parameters[mine.start : mine.stop]]) if len(mine) else None
        if stacked is not None:
            gradient = torch.stack([p.grad for p in parameters[mine.start : mine.stop]])  # type: ignore[misc]
            state = self._muon_state(group, gradient)
            update = muon_update(gradient, state["momentum"], state["second"], rates.momentum, group.beta2)
            rows, cols = gradient.shape[-2:]
            lr = rates.lr * group.lr * max(1.0, rows / cols) ** 0.5
            decay = group.weight_decay * rates.weight_decay
            # Cautious decay: only where it pulls the way the update goes anyway.
            stacked = stacked - lr * update - lr * decay * stacked * (update * stacked >= 0)
        for parameter, value in zip(parameters, self._gather(stacked, parameters), strict=True):
            parameter.copy_(value)

    def _muon_state(self, group: MuonGroup, like: Tensor) -> dict[str, Tensor]:
        """momentum (n, rows, cols) and second (n, rows, 1) or (n, 1, cols) of this rank's n matrices."""
        key = next(iter(group.parameters))
        if key not in self.state:
            n, rows, cols = like.shape
            second = like.new_zeros(n, rows, 1) if rows >= cols else like.new_zeros(n, 1, cols)
            self.state[key] = {"momentum": torch.zeros_like(like), "second": second}
        return self.state[key]

    def _mine(self, n: int) -> range:
        """Which of a group's n matrices are this rank's."""
        each = -(-n // self.world)
        return range(min(n, self.rank * each), min(n, (self.rank + 1) * each))

    def _gather(self, part: Tensor | None, like: list[Tensor] | list[nn.Parameter]) -> list[Tensor]:
        """Put the parts of all ranks together; the last ones may be short or empty. `like` has the whole's tensors."""
        if self.world == 1:
            assert part is not None
            return list(part)
        each = -(-len(like) // self.world)
        padded = torch.zeros(each, *like[0].shape, dtype=like[0].dtype, device=like[0].device)
        if part is not None:
            padded[: len(part)] = part
        whole = torch.empty(self.world * each, *like[0].shape, dtype=padded.dtype, device=padded.device)
        dist.all_gather_single(whole, padded)
        return list(whole[: len(like)])

    def state_dict(self) -> dict:
        """{"steps": int, "state": {parameter name: {buffer name: tensor}}}, the same on every rank."""
        whole = {name: self.state[name] for group in self.adamw for name in group.parameters if name in self.state}
        for group in self.muon:
            matrices = list(group.parameters.values())
            tall = matrices[0].shape[0] >= matrices[0].shape[1]
            vectors = [m[:, :1] if tall else m[:1, :] for m in matrices]
            mine = self.state.get(next(iter(group.parameters)))
            momentum = self._gather(mine["momentum"] if mine else None, matrices) if self.steps else []
            second = self._gather(mine["second"] if mine else None, vectors) if self.steps else []
            for name, m, s in zip(group.parameters, momentum, second, strict=False):
                whole[name] = {"momentum": m, "second": s}
        return {"steps": self.steps, "state": whole}

    def load_state_dict(self, saved: dict) -> None:
        """Take up a state from `state_dict`, on any number of ranks; its tensors are freed as they are copied.

        Raises KeyError for a missing parameter.
        """
        self.steps, state = saved["steps"], saved["state"]
        self.state = {}
        if not self.steps:
            return
        for group in self.adamw:
            for name, parameter in group.parameters.items():
                if name in state:
                    self.state[name] = {k: v.to(parameter.device).clone() for k, v in state.pop(name).items()}
        for group in self.muon:
            names = list(group.parameters)
            mine = [names[i] for i in self._mine(len(names))]
            if mine:
                device = group.parameters[names[0]].device
                self.state[names[0]] = {
                    key: torch.stack([state[name][key] for name in mine]).to(device) for key in ("momentum", "second")
                }
            for name in names:
                state.pop(name, None)


def muon_update(gradient: Tensor, momentum: Tensor, second: Tensor, beta1: float, beta2: float) -> Tensor:
    """Update of a stack of matrices (n, rows, cols); advances momentum and second (the row or column variances)."""
    momentum.lerp_(gradient, 1 - beta1)
    update = orthogonalize(gradient.lerp(momentum, beta1))
    axis = -1 if second.size(-1) == 1 else -2
    variance = update.square().mean(dim=axis, keepdim=True)
    second.lerp_(variance, 1 - beta2)
    scaled = update * second.clamp_min(1e-10).rsqrt()
    # NorMuon evens out the rows' sizes but keeps the size of the whole.
    size = update.norm(dim=(-2, -1), keepdim=True)
    return scaled * (size / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Polar factors U V^T of matrices (n, rows, cols) by Polar Express, to about 2 digits; float32 out.

    bfloat16 suffices for the products (Jordan 2024), where the device multiplies it in hardware.
    """
    in_bfloat16 = matrices.device.type == "cuda" or multiplies_bfloat16()
    x = matrices.bfloat16() if in_bfloat16 else matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


def parameter_groups(
    model: GPT,
    embedding_lr: float,
    unembedding_lr: float,
    matrix_lr: float,
    scalar_lr: float,
    weight_decay: float,
) -> tuple[list[AdamWGroup], list[MuonGroup]]:
    """Deal a GPT's parameters to the two optimizers, with modern nanochat's settings.

    AdamW's rates for matrices of width D are those of width 768 times (D / 768)^-0.5. Vectors of GPT-2's blocks, and
    its last norm, learn like the residual scalars.
    """
    named = dict(model.named_parameters())
    width_scale = (model.config.n_embd / 768) ** -0.5

    def pick(prefix: str) -> dict[str, nn.Parameter]:
        return {name: named.pop(name) for name in list(named) if name.startswith(prefix)}

    blocks = pick("transformer.h.")
    vectors = {name: blocks.pop(name) for name in list(blocks) if blocks[name].ndim == 1}
    adamw = [
        AdamWGroup(pick("lm_head."), unembedding_lr * width_scale, (0.8, 0.96), 0.01),
        AdamWGroup(pick("transformer.wte."), embedding_lr * width_scale, (0.8, 0.995), 0.001),
        AdamWGroup(pick("value_embeds."), embedding_lr * 0.5 * width_scale, (0.8, 0.995), 0.01),
        AdamWGroup(pick("resid_lambdas"), scalar_lr * 0.01, (0.8, 0.95), 0.05),
        AdamWGroup(pick("x0_lambdas"), scalar_lr, (0.96, 0.95)),
        AdamWGroup({**pick("smear_"), **pick("backout_lambda")}, 0.2, (0.8, 0.95)),
        AdamWGroup(pick("transformer.wpe."), embedding_lr * width_scale, (0.8, 0.995), 0.001),
        AdamWGroup({**vectors, **pick("transformer.ln_f.")}, scalar_lr * 0.01, (0.8, 0.95)),
    ]
    assert not named, f"no optimizer for {sorted(named)}"
    shapes = sorted({tuple(matrix.shape) for matrix in blocks.values()})
    muon = [
        MuonGroup({n: m for n, m in blocks.items() if tuple(m.shape) == shape}, matrix_lr, weight_decay)
        for shape in shapes
    ]
    return [group for group in adamw if group.parameters], muon


def adamw_groups(
    model: GPT, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8
) -> list[AdamWGroup]:
    """All parameters for AdamW alone, as nanoGPT trains: what has two dimensions decays, what has one does not."""
    named = dict(model.named_parameters())
    matrices = {name: parameter for name, parameter in named.items() if parameter.ndim >= 2}
    vectors = {name: parameter for name, parameter in named.items() if parameter.ndim < 2}
    groups = [AdamWGroup(matrices, lr, betas, weight_decay, eps), AdamWGroup(vectors, lr, betas, 0.0, eps)]
    return [group for group in groups if group.parameters]
