"""The optimizer: Muon for the matrices of the blocks, AdamW for everything else, on one rank or on many.

AdamW (Loshchilov & Hutter 2019) scales each number's step by the size of its own past gradients. Muon (Jordan et al.
2024) treats a matrix as a whole: it takes the momentum of the gradient and makes all its singular values 1, so that no
direction dominates the step. Two additions to it: NorMuon (Li et al. 2025, arXiv 2510.05491) evens out the rows of the
update, and cautious weight decay (Chen et al. 2025, arXiv 2510.12402) only shrinks what the update shrinks anyway.

Each rank keeps the state of a part of the parameters and computes their update; `reduce` says who owns what and carries
gradients and weights. State is saved by parameter and row, so a run may resume on another number of ranks.

Shapes: a Muon group has matrices (rows, cols); this rank's n of them are stacked to (n, rows, cols).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat import lora
from nanochat.gpt import GPT
from nanochat.reduce import Bucket, Exchange, Rows
from nanochat.runtime import multiplies_bfloat16

if TYPE_CHECKING:  # which imports FSDP, a second in every command
    from nanochat.sharded import Sharded

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
    A parameter without a gradient has one of 0.
    """

    adamw: list[AdamWGroup]
    muon: list[MuonGroup]
    compiled: bool = False
    """whether Muon's step is compiled, one graph for each shape of its matrices"""
    parts: "Sharded | None" = None
    """who exchanges gradients and weights where these lie in parts; None where every rank has all weights"""
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """this rank's buffers by parameter name; a Muon group's, stacked, by the name of its first matrix"""

    def __post_init__(self) -> None:
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        others = {name: p for group in self.adamw for name, p in group.parameters.items()}
        matrices = [group.parameters for group in self.muon]
        self.exchange = self.parts or Exchange(matrices, others, self.rank, self.world)
        self.parameters = [p for group in (*self.adamw, *self.muon) for p in group.parameters.values()]
        self.device = self.parameters[0].device
        self.steps = torch.zeros((), device=self.device)  # float32, as the fused kernels want it
        # Where a kernel may still be running, reading `skip` would stop the host until it ends.
        self.skips_on_device = self.device.type == "cuda"
        self._muon_step, self._muon_direction = muon_step, muon_direction
        if self.compiled:
            self._muon_step = torch.compile(muon_step, dynamic=False)
            self._muon_direction = torch.compile(muon_direction, dynamic=False)
        self._late: set[Bucket] = set()

    def zero_grad(self) -> None:
        self.exchange.reset()
        for parameter in self.parameters:
            parameter.grad = None

    # ---- what ranks exchange

    def reducing(self) -> AbstractContextManager[None]:
        """Around the last micro-batch's backward: gradients that are complete are sent to their owners at once."""
        return self.exchange.reducing()

    @property
    def has_sent(self) -> bool:
        """Whether gradients of this step have gone to other ranks, so that it cannot be computed anew."""
        return self.exchange.sent > 0

    @torch.no_grad()
    def reduce(self) -> Tensor:
        """Sum the gradients over the ranks. Returns the norm of the whole gradient, 0-d, the same on all ranks."""
        if self.world == 1:
            return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        square = nn.utils.get_total_norm(self.exchange.finish()).square()
        dist.all_reduce(square, group=self.exchange.group)
        return square.sqrt()

    def gather_late(self, blocks: Iterable[nn.Module]) -> None:
        """Let a step's new weights of these modules arrive while the modules before them already run.

        Each must be called as a module, outside any compiled graph, before its parameters are used: a hook waits for
        its weights. All other weights have arrived when `step` returns.
        """
        blocks = list(blocks)
        anywhere = {id(parameter) for block in blocks for parameter in block.parameters()}
        for block in blocks:
            inside = set(map(id, block.parameters()))
            for bucket in self.exchange.buckets:
                there = set(map(id, bucket.parameters.values()))
                # A bucket with other parameters besides, such as the embedding, is needed before the first block.
                if inside & there and there <= anywhere:
                    self._late.add(bucket)
                    block.register_forward_pre_hook(partial(self._before, [bucket]))

    def _before(self, buckets: list[Bucket], module: nn.Module, args: tuple) -> None:
        self.exchange.receive(buckets)

    def wait(self) -> None:
        """Wait until all parameters are this step's; to be called before anything but training reads them."""
        self.exchange.receive(self.exchange.buckets)

    def traffic(self) -> dict[str, int]:
        """The bytes that a rank sends in a step: gradients, weights, norm."""
        return self.exchange.traffic()

    # ---- the step

    @torch.no_grad()
    def step(self, rates: Rates, factor: Tensor | None = None, skip: Tensor | None = None) -> None:
        """Apply the gradients times `factor`, a 0-d float tensor, and use them up.

        Nothing changes, neither weights nor momenta nor `steps`, where `skip`, a 0-d bool tensor, is true.
        """
        if skip is not None and not self.skips_on_device:
            if skip:
                self.zero_grad()
                return
            skip = None
        self.steps += 1 if skip is None else ~skip
        for group in self.adamw:
            self._adamw(group, rates, factor, skip)
        self.exchange.send_slices()
        for n, group in enumerate(self.muon):
            self._muon(n, group, rates, factor, skip)
        self.exchange.begin()
        self.exchange.receive(bucket for bucket in self.exchange.buckets if bucket not in self._late)

    def _adamw(self, group: AdamWGroup, rates: Rates, factor: Tensor | None, skip: Tensor | None) -> None:
        """All of a group in one kernel. Decay is decoupled: it shrinks the weights and never enters the averages."""
        weights, gradients = self._slices(group)
        if factor is not None and self.device.type not in ("cpu", "cuda"):  # others may not read grad_scale
            torch._foreach_mul_(gradients, factor)
            factor = None
        states = [self._adamw_state(name, weight) for name, weight in zip(group.parameters, weights, strict=True)]
        torch._fused_adamw_(
            weights, gradients, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], [],
            [self.steps] * len(weights), lr=rates.lr * group.lr, beta1=group.betas[0], beta2=group.betas[1],
            weight_decay=group.weight_decay, eps=group.eps, amsgrad=False, maximize=False,
            grad_scale=None if factor is None else factor.reciprocal().float(),
            found_inf=None if skip is None else skip.float(),
        )  # fmt: skip

    def _adamw_state(self, name: str, like: Tensor) -> dict[str, Tensor]:
        """The running means of this rank's part of a parameter, of its gradient and of the gradient's square."""
        if name not in self.state:
            self.state[name] = {key: torch.zeros_like(like) for key in ("exp_avg", "exp_avg_sq")}
        return self.state[name]

    def _slices(self, group: AdamWGroup) -> tuple[list[Tensor], list[Tensor]]:
        """This rank's part of a group's parameters and of their gradients; all of them on one rank."""
        if self.world == 1:
            parameters: list[Tensor] = list(group.parameters.values())
            return parameters, [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        weights = [self.exchange.mine(parameter) for parameter in group.parameters.values()]
        return weights, [self.exchange.gradient_of(name) for name in group.parameters]

    def _muon(self, n: int, group: MuonGroup, rates: Rates, factor: Tensor | None, skip: Tensor | None) -> None:
        """The n-th group's step. This rank computes it for its own matrices, stacked to (n, rows, cols)."""
        names, (rows, cols) = self._owned(n), next(iter(group.parameters.values())).shape
        gradient = self._gradient(n, names)
        # A tall matrix gets a larger step, so that its outputs change by the same RMS as a square one's.
        lr = rates.lr * group.lr * max(1.0, rows / cols) ** 0.5
        decay = lr * group.weight_decay * rates.weight_decay
        # As tensors, because a graph is compiled anew for each new number.
        lr, decay, beta1, new = (
            torch.full((), number, device=self.device) for number in (lr, decay, rates.momentum, 1 - rates.momentum)
        )
        state = self._muon_state(group, gradient)
        averages = state["momentum"], state["second"], factor, skip
        if not isinstance(self.exchange, Exchange):  # each rank moves its rows of every matrix
            update = self._muon_direction(gradient, *averages, beta1, new, group.beta2) if names else gradient
            for weights, rows_of_update in self.exchange.rows_of(n, update):
                weights.copy_(moved(weights, rows_of_update, skip, lr, decay))
            return
        mine: list[Tensor] = [group.parameters[name].detach() for name in names]
        weights = gradient
        if names:
            settings = lr, decay, beta1, new, group.beta2
            weights = self._muon_step(torch.stack(mine), gradient, *averages, *settings)
        if self.world > 1:
            self.exchange.send_matrices(n, weights)
        else:
            torch._foreach_copy_(mine, list(weights))

    def _owned(self, n: int) -> list[str]:
        """The names of this rank's matrices of the n-th Muon group."""
        return self.exchange.owned(n) if self.world > 1 else list(self.muon[n].parameters)

    def _gradient(self, n: int, names: list[str]) -> Tensor:
        """The gradients of this rank's matrices of the n-th Muon group, stacked, and freed one by one."""
        if self.world > 1:
            return self.exchange.gradients_of(n)
        mine = [self.muon[n].parameters[name] for name in names]
        gradient = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in mine])
        for parameter in mine:
            parameter.grad = None
        return gradient

    def _muon_state(self, group: MuonGroup, like: Tensor) -> dict[str, Tensor]:
        """momentum (n, rows, cols) and second (n, rows, 1) or (n, 1, cols) of this rank's n matrices."""
        key = next(iter(group.parameters))
        if key not in self.state:
            n, rows, cols = like.shape
            second = like.new_zeros(n, rows, 1) if rows >= cols else like.new_zeros(n, 1, cols)
            self.state[key] = {"momentum": torch.zeros_like(like), "second": second}
        return self.state[key]

    # ---- its state

    def buffers(self) -> dict[str, Tensor | Rows]:
        """All that it remembers, to be saved or filled in place: by parameter and buffer, "lm_head.weight.exp_avg".

        Of AdamW's a rank has the rows of its slice, of Muon's those of its matrices, whole. "steps" has one number.
        """
        named: dict[str, Tensor | Rows] = {"steps": self.steps.view(1)}
        for group in self.adamw:
            for name, parameter in group.parameters.items():
                mine = self.exchange.mine(parameter) if self.world > 1 else parameter.detach()
                for key, buffer in self._adamw_state(name, mine).items():
                    named[f"{name}.{key}"] = (
                        self.exchange.rows_of_slice(parameter, buffer) if self.world > 1 else buffer
                    )
        for n, group in enumerate(self.muon):
            names, shape = self._owned(n), next(iter(group.parameters.values())).shape
            stacked = self._muon_state(group, torch.empty(len(names), *shape, device=self.device))
            for key, buffers in stacked.items():
                named |= {f"{name}.{key}": buffer for name, buffer in zip(names, buffers, strict=True)}
        return named

    def state_dict(self) -> dict:
        """{"steps": int, "state": {parameter name: {buffer name: tensor}}}, whole, as nanoGPT's format wants it.

        On ranks above 0 the state is empty. A collective call.
        """
        steps, whole = int(self.steps), {}
        if not steps:
            return {"steps": 0, "state": {}}
        for group in self.adamw:
            for name, parameter in group.parameters.items():
                state = self.state[name]
                if self.world > 1:
                    state = {key: self._kept(self.exchange.whole_slices(parameter, x)) for key, x in state.items()}
                whole[name] = state
        for n, group in enumerate(self.muon):
            names, shape = self._owned(n), next(iter(group.parameters.values())).shape
            stacked = self._muon_state(group, torch.empty(len(names), *shape, device=self.device))
            for key, mine in stacked.items():
                parts = self.exchange.whole_matrices(n, mine) if self.world > 1 else dict(zip(names, mine, strict=True))
                for name, part in parts.items():
                    whole.setdefault(name, {})[key] = self._kept(part) if self.world > 1 else part
        return {"steps": steps, "state": whole if self.rank == 0 else {}}

    def _kept(self, part: Tensor) -> Tensor | None:
        """A part of the whole state, in main memory: a GPU has room for its own share only, and one rank saves it."""
        return part.cpu() if self.rank == 0 else None

    def load_state_dict(self, saved: dict) -> None:
        """Load what `state_dict` returned, on any number of ranks; its tensors are freed as they are copied.

        Raises KeyError for a missing matrix of Muon's; AdamW begins anew with a parameter that is missing.
        """
        state = saved["state"]
        self.steps.fill_(saved["steps"])
        self.state = {}
        if not saved["steps"]:
            return
        matrices = {name for group in self.muon for name in group.parameters}
        for full_name, part in self.buffers().items():
            name, _, key = full_name.rpartition(".")
            if name not in state:
                if name in matrices:
                    raise KeyError(name)
                continue  # "steps", or what begins anew
            whole = state[name].pop(key)
            if isinstance(part, Rows):
                part.here.copy_(whole[part.first : part.first + len(part.here)])
            else:
                part.copy_(whole)
            if not state[name]:
                del state[name]


def muon_step(
    weights: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    second: Tensor,
    factor: Tensor | None,
    skip: Tensor | None,
    lr: Tensor,
    decay: Tensor,
    beta1: Tensor,
    new: Tensor,
    beta2: float,
) -> Tensor:
    """New weights (n, rows, cols) of a stack of matrices; advances `momentum` and `second`.

    lr, decay (which has lr in it), beta1 and new = 1 - beta1 are 0-d, like factor and skip: see `Optimizer.step`.
    """
    update = muon_direction(gradient, momentum, second, factor, skip, beta1, new, beta2)
    return moved(weights, update, skip, lr, decay)


def muon_direction(
    gradient: Tensor,
    momentum: Tensor,
    second: Tensor,
    factor: Tensor | None,
    skip: Tensor | None,
    beta1: Tensor,
    new: Tensor,
    beta2: float,
) -> Tensor:
    """What `moved` moves the weights (n, rows, cols) against; advances `momentum` and `second`."""
    if factor is not None:
        gradient = gradient * factor
    fresh: float | Tensor = 1 - beta2
    if skip is not None:
        # A gradient of 0 that has no weight changes nothing; one that is not finite would, whatever its weight.
        gradient = torch.where(skip, 0.0, gradient)
        applied = torch.where(skip, 0.0, 1.0)
        new, fresh = new * applied, fresh * applied
    return muon_update(gradient, momentum, second, beta1, new, fresh)


def moved(weights: Tensor, update: Tensor, skip: Tensor | None, lr: Tensor, decay: Tensor) -> Tensor:
    """The weights after an update, whole matrices or some of their rows; unchanged where `skip` is true."""
    if skip is not None:
        applied = torch.where(skip, 0.0, 1.0)
        lr, decay = lr * applied, decay * applied
    # Cautious weight decay: only where the update, too, moves the weight towards zero.
    return weights - lr * update - decay * weights * (update * weights >= 0)


def muon_update(
    gradient: Tensor,
    momentum: Tensor,
    second: Tensor,
    beta1: float | Tensor,
    new: float | Tensor,
    fresh: float | Tensor,
) -> Tensor:
    """Muon's update (n, rows, cols) of a stack of matrices, with NorMuon; advances `momentum` and `second`.

    second (n, rows, 1), or (n, 1, cols) for wide matrices, is the running mean square of the update's rows or columns.
    `new` and `fresh` are the shares of this step in the two running means.
    """
    momentum.lerp_(gradient, new)
    update = orthogonalize(gradient.lerp(momentum, beta1))  # Nesterov: one step ahead of the momentum
    axis = -1 if second.size(-1) == 1 else -2
    variance = update.square().mean(dim=axis, keepdim=True)
    second.lerp_(variance, fresh)
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
    if x.dtype == torch.float32 and x.size(-1) >= 2 * x.size(-2):
        x = _polynomials(x) @ x
    else:
        for a, b, c in POLAR_EXPRESS:
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


def _polynomials(x: Tensor) -> Tensor:
    """The product (n, rows, rows) of all steps' polynomials of G = x x^T, for wide matrices x (n, rows, cols).

    A step multiplies x by P = a + b G + c G^2, after which the Gram matrix is P G P. So the steps need square matrices
    alone, and x is multiplied twice instead of ten times (Gram Newton-Schulz; Zhang, Amsel, Chen and Dao 2026): 85 ->
    38 ms for four of 256 x 1024 on one core. Rounding to bfloat16 would make some eigenvalues of G negative, and these
    grow from step to step; float32's rounding is too small for that.
    """
    gram, product = x @ x.mT, None
    for a, b, c in POLAR_EXPRESS:
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        gram = polynomial @ gram @ polynomial
    assert product is not None
    return product


def parameter_groups(
    model: GPT,
    embedding_lr: float,
    unembedding_lr: float,
    matrix_lr: float,
    scalar_lr: float,
    weight_decay: float,
    lora_lr: float = 0.0,
) -> tuple[list[AdamWGroup], list[MuonGroup]]:
    """Divide a GPT's parameters between the two optimizers, with modern nanochat's settings.

    Matrices of the blocks go to Muon. Embeddings and the output layer go to AdamW: each of their rows belongs to one
    token, and most tokens have no gradient in a step. Their rates are tuned at width 768 and scaled by (D / 768)^-0.5.
    Vectors of GPT-2's blocks, and its last norm, learn like the residual scalars. What needs no gradient is left out.
    Adapters go to AdamW; their rate, too, is that of width 768, and falls faster with it: Schulman et al. 2025 ("LoRA
    without regret") find powers of up to -0.78; at width 64 the largest of 0.001 to 0.03 learned fastest (dev/LOG.md).
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    width_scale = (model.config.n_embd / 768) ** -0.5

    def pick(prefix: str) -> dict[str, nn.Parameter]:
        return {name: named.pop(name) for name in list(named) if name.startswith(prefix)}

    adapters = {name: named.pop(name) for name in list(named) if name.endswith(lora.PARTS)}
    blocks = pick("transformer.h.")
    vectors = {name: blocks.pop(name) for name in list(blocks) if blocks[name].ndim == 1}
    adamw = [
        AdamWGroup(adapters, lora_lr * (model.config.n_embd / 768) ** -0.75, (0.9, 0.95)),
        AdamWGroup(pick("lm_head."), unembedding_lr * width_scale, (0.8, 0.96), 0.01),
        AdamWGroup(pick("transformer.wte."), embedding_lr * width_scale, (0.8, 0.995), 0.001),
        AdamWGroup(pick("value_embeds."), embedding_lr * 0.5 * width_scale, (0.8, 0.995), 0.01),
        AdamWGroup(pick("bigram."), embedding_lr * 0.25 * width_scale, (0.8, 0.995), 0.01),
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
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {name: parameter for name, parameter in named.items() if parameter.ndim >= 2}
    vectors = {name: parameter for name, parameter in named.items() if parameter.ndim < 2}
    groups = [AdamWGroup(matrices, lr, betas, weight_decay, eps), AdamWGroup(vectors, lr, betas, 0.0, eps)]
    return [group for group in groups if group.parameters]
