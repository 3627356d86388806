"""The optimizer: Muon for the matrices of the blocks, AdamW for everything else, on one rank or on many.

AdamW (Loshchilov & Hutter 2019) scales each number's step by the size of its own past gradients. Muon (Jordan et al.
2024) treats a matrix as a whole: it takes the momentum of the gradient and makes all its singular values 1, so that no
direction dominates the step. Two additions to it: NorMuon (Li et al. 2025, arXiv 2510.05491) evens out the rows of the
update, and cautious weight decay (Chen et al. 2025, arXiv 2510.12402) only shrinks what the update shrinks anyway.

Gradients arrive summed over all ranks. AdamW is cheap and runs on every rank alike. Muon is not, so its matrices of one
shape are stacked and split evenly among the ranks: each rank keeps the state of its own (as in ZeRO-1, Rajbhandari et
al. 2020), computes their update, and all ranks gather the new weights. State is saved whole, by parameter name, so a
run may resume on another number of ranks.

Shapes: a Muon group has matrices (rows, cols); this rank's n of them are stacked to (n, rows, cols).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.gpt import GPT
from nanochat.runtime import multiplies_bfloat16

# Coefficients of `orthogonalize`: five steps of Polar Express (Amsel et al. 2025, arXiv 2505.16932) for singular values
# in [1e-3, 1], with the safety factor 1.02.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@dataclass
class AdamWGroup:
    """Parameters with the same settings of AdamW."""

    parameters: dict[str, nn.Parameter]
    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    eps: float = 1e-10


@dataclass
class MuonGroup:
    """Matrices of one shape with the same settings of Muon; beta2 is NorMuon's."""

    parameters: dict[str, nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    beta2: float = 0.9


@dataclass
class Rates:
    """What the schedule sets for one step: factors on all learning rates and on Muon's decay, and Muon's momentum."""

    lr: float = 1.0
    weight_decay: float = 1.0
    momentum: float = 0.95


@dataclass
class Optimizer:
    """A step is `with reducing(): backward()` on its last micro-batch, then `norm = reduce()`, then `step(...)`.

    On several ranks all must call these, and `state_dict`, together. `wait` before the parameters are read elsewhere.
    """

    adamw: list[AdamWGroup]
    muon: list[MuonGroup]
    steps: int = 0
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """buffers by parameter name; a Muon group's, stacked, by the name of its first matrix"""

    def __post_init__(self) -> None:
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def zero_grad(self) -> None:
        for group in (*self.adamw, *self.muon):
            for parameter in group.parameters.values():
                parameter.grad = None

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """Around the last micro-batch's backward: gradients that are complete may be sent to the other ranks."""
        yield

    @property
    def has_sent(self) -> bool:
        """Whether gradients of this step have gone to other ranks, so that it cannot be computed anew."""
        return False

    def reduce(self) -> Tensor:
        """Sum the gradients over the ranks. Returns the norm of the whole gradient, 0-d, the same on all ranks."""
        parameters = [p for group in (*self.adamw, *self.muon) for p in group.parameters.values()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world > 1:
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                work.wait()  # type: ignore[union-attr]
        return nn.utils.get_total_norm(gradients)

    def wait(self) -> None:
        """Wait until all parameters are this step's; to be called before anything but training reads them."""

    @torch.no_grad()
    def step(self, rates: Rates, factor: Tensor | None = None, skip: Tensor | None = None) -> None:
        """Apply the gradients in `.grad`, times `factor`; nothing changes where `skip` is true. Both are 0-d."""
        if skip is not None and bool(skip):
            return
        if factor is not None:
            parameters = [p for group in (*self.adamw, *self.muon) for p in group.parameters.values()]
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)
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
        # Decay is decoupled: it shrinks the weights themselves and never enters the gradient's averages.
        parameter.mul_(1 - rates.lr * group.lr * group.weight_decay)
        # Running averages of the gradient and of its square start at 0; dividing by 1 - beta^steps corrects for that.
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        deviation = (state["exp_avg_sq"] / (1 - beta2**self.steps)).sqrt_().add_(group.eps)
        parameter.addcdiv_(state["exp_avg"], deviation, value=-rates.lr * group.lr / (1 - beta1**self.steps))

    def _muon(self, group: MuonGroup, rates: Rates) -> None:
        parameters = list(group.parameters.values())  # of one shape (rows, cols)
        mine = self._mine(len(parameters))
        stacked = torch.stack([p.detach() for p in parameters[mine.start : mine.stop]]) if len(mine) else None
        if stacked is not None:
            gradient = torch.stack([p.grad for p in parameters[mine.start : mine.stop]])  # type: ignore[misc]
            state = self._muon_state(group, gradient)
            update = muon_update(gradient, state["momentum"], state["second"], rates.momentum, group.beta2)
            rows, cols = gradient.shape[-2:]
            # A tall matrix gets a larger step, so that its outputs change by the same RMS as a square one's.
            lr = rates.lr * group.lr * max(1.0, rows / cols) ** 0.5
            decay = group.weight_decay * rates.weight_decay
            # Cautious weight decay: only where the update, too, moves the weight towards zero.
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
        """Which of a group's n matrices are this rank's: ceil(n / world) each, so the last ranks may have fewer."""
        each = -(-n // self.world)
        return range(min(n, self.rank * each), min(n, (self.rank + 1) * each))

    def _gather(self, part: Tensor | None, like: list[Tensor] | list[nn.Parameter]) -> list[Tensor]:
        """All ranks' parts (n, ...) put together, as one tensor for each of `like`, whose shapes they have."""
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
        """Load what `state_dict` returned, on any number of ranks; its tensors are freed as they are copied.

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
    """Muon's update (n, rows, cols) of a stack of matrices, with NorMuon; advances `momentum` and `second`.

    second (n, rows, 1), or (n, 1, cols) for wide matrices, is the running mean square of the update's rows or columns.
    """
    momentum.lerp_(gradient, 1 - beta1)
    update = orthogonalize(gradient.lerp(momentum, beta1))  # Nesterov: one step ahead of the momentum
    axis = -1 if second.size(-1) == 1 else -2
    variance = update.square().mean(dim=axis, keepdim=True)
    second.lerp_(variance, 1 - beta2)
    scaled = update * second.clamp_min(1e-10).rsqrt()
    # NorMuon: rows of equal size, but a whole matrix of the size it had.
    size = update.norm(dim=(-2, -1), keepdim=True)
    return scaled * (size / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))


def orthogonalize(matrices: Tensor) -> Tensor:
    """The matrices (n, rows, cols) with all singular values set to 1: U V^T of U S V^T, to about 2 digits, in float32.

    Instead of an SVD each step applies the odd polynomial a x + b x^3 + c x^5 to all singular values at once, by matrix
    products. Polar Express chooses the coefficients of each step so that the worst one gets as close to 1 as it can.
    bfloat16 suffices (Jordan et al. 2024), where the device multiplies it in hardware.
    """
    in_bfloat16 = matrices.device.type == "cuda" or multiplies_bfloat16()
    x = matrices.bfloat16() if in_bfloat16 else matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)  # now no singular value is above 1
    tall = x.size(-2) > x.size(-1)
    if tall:  # the smaller of the two Gram matrices
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
    """Divide a GPT's parameters between the two optimizers, with modern nanochat's settings.

    Matrices of the blocks go to Muon. Embeddings and the output layer go to AdamW: each of their rows belongs to one
    token, and most tokens have no gradient in a step. Their rates are tuned at width 768 and scaled by (D / 768)^-0.5.
    Vectors of GPT-2's blocks, and its last norm, learn like the residual scalars.
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
    """All parameters for AdamW alone, as nanoGPT trains: matrices and embeddings decay, vectors do not."""
    named = dict(model.named_parameters())
    matrices = {name: parameter for name, parameter in named.items() if parameter.ndim >= 2}
    vectors = {name: parameter for name, parameter in named.items() if parameter.ndim < 2}
    groups = [AdamWGroup(matrices, lr, betas, weight_decay, eps), AdamWGroup(vectors, lr, betas, 0.0, eps)]
    return [group for group in groups if group.parameters]
