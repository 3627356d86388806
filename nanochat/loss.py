"""The training loss: output layer, softcap and cross-entropy together, a few rows at a time.

The logits are the largest thing that a model makes: 65536 positions of a vocabulary of 65536 take 17 GB in float32, and
their gradient as much again. But a position's loss needs its own logits only, and once they are there, their gradient
is known: softmax minus one-hot. So the forward pass goes through the positions in chunks and computes the gradients of
the chunk's input and of the matrix at once, before the next chunk takes its place; the backward pass only multiplies
them by what comes from above (Wijmans et al. 2024 and Hsu et al. 2024 describe the same idea). Positions that are not
trained on are left out: nearly half of them in conversations.

A teacher's logits (`Soft`) are made chunk by chunk in the same way, so two models' are never in memory either.

Shapes: N positions, M of them trained, C in a chunk, D channels, V rows of the output matrix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits in a chunk. On a CPU a chunk should stay in the cache: for V = 8192, D = 256 and 16384 positions in bfloat16,
# loss and gradients took 1.75, 1.62, 1.67, 2.01 and 2.06 s on a core of a Zen 4 for C = 256, 512, 1024, 2048 and 16384.
# On other devices it has to be large enough for products at full speed: 4096 rows of a vocabulary of 65536, half a
# gigabyte in bfloat16.
CPU_CHUNK, CHUNK = 1 << 22, 1 << 28

Rows = Callable[..., tuple[Tensor, Tensor]]  # `loss_of_rows` or `distilled_rows`, compiled or not


class Soft(NamedTuple):
    """What a teacher predicts for N positions, and how the student learns from it (Hinton et al. 2015).

    x (N, Dt) is what its output layer reads; matrix (V, Dt), in x's dtype, has a row for each of the student's.
    """

    x: Tensor
    matrix: Tensor
    softcap: float
    temperature: float  # divides the logits of both; above 1, unlikely tokens count for more
    weight: float  # of the teacher's part of the loss, in [0, 1]; the rest is the nll's


def chunk_rows(positions: int, vocab_size: int, device: torch.device) -> int:
    """C, for that many positions. A power of two, so that a chunk starts at an aligned address."""
    most = max(1, (CPU_CHUNK if device.type == "cpu" else CHUNK) // vocab_size)
    return max(1, min(positions, 1 << (most.bit_length() - 1)))


def summed_nll(
    x: Tensor,
    matrix: Tensor,
    targets: Tensor,
    weights: Tensor,
    trained: Tensor | None,
    softcap: float,
    vocab_size: int,
    rows: Rows | None = None,
    soft: Soft | None = None,
) -> Tensor:
    """The sum of nll * weight over all positions, a float32 scalar to be differentiated once.

    With a teacher's `soft` predictions it is a vector of three sums, of which only the first has a gradient: see
    `distilled_rows`.

    x (B, T, D) in the compute dtype; matrix (V, D) of the output layer, in any; targets (B, T) int64; weights (B, T)
    float32. `trained` (M,) int64 are the positions of the flattened batch that have a weight; None: all of them.
    Rows of the matrix from vocab_size on are padding. `rows` is `loss_of_rows`, or `distilled_rows` with a teacher.
    """
    return _SummedNLL.apply(
        x.flatten(0, 1), matrix, targets.flatten(), weights.flatten(), trained, softcap, vocab_size,
        rows or (loss_of_rows if soft is None else distilled_rows), soft,
    )  # fmt: skip


def loss_of_rows(z: Tensor, targets: Tensor, weights: Tensor, softcap: float, vocab_size: int) -> tuple[Tensor, Tensor]:
    """z (C, V), the product with the matrix -> the sum of nll * weight, float32, and its gradient by z, in z's dtype.

    Numbers between are float32. Everything here is elementwise or a sum over V, so compiled it is one or two kernels.
    """
    logits, slope = _capped(z, softcap, vocab_size)
    total = logits.logsumexp(dim=-1, keepdim=True)
    nll = total - logits.gather(1, targets[:, None])
    column = torch.arange(z.size(1), device=z.device)
    gradient = (torch.exp(logits - total) - (column == targets[:, None]).float()) * weights[:, None]
    if slope is not None:
        gradient = gradient * slope
    return (nll[:, 0] * weights).sum(), gradient.to(z.dtype)


def distilled_rows(
    z: Tensor, targets: Tensor, weights: Tensor, softcap: float, vocab_size: int,
    taught: Tensor, taught_softcap: float, temperature: float, part: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same with a teacher, whose product with its matrix is `taught` (C, V).

    The loss of a position is (1 - part) * nll + part * T^2 * KL(teacher || student), both softmaxes at temperature T;
    T^2 keeps the size of the second gradient whatever T is (Hinton et al. 2015, 2.1). Returns three sums over the
    positions by weight (that loss, nll alone, KL alone), and the gradient of the first.
    """
    logits, slope = _capped(z, softcap, vocab_size)
    nll = -logits.log_softmax(dim=-1)
    column = torch.arange(z.size(1), device=z.device)
    hard = torch.exp(-nll) - (column == targets[:, None]).float()
    teacher = (_capped(taught, taught_softcap, vocab_size)[0] / temperature).log_softmax(dim=-1)
    student = (logits / temperature).log_softmax(dim=-1)
    probability = teacher.exp()
    # Where the teacher gives nothing, the difference may be inf - inf.
    kl = torch.where(probability > 0, probability * (teacher - student), 0).sum(dim=-1)
    gradient = (1 - part) * hard + part * temperature * (student.exp() - probability)
    gradient = gradient * weights[:, None]
    if slope is not None:
        gradient = gradient * slope
    of_targets = nll.gather(1, targets[:, None])[:, 0]
    loss = (1 - part) * of_targets + part * temperature**2 * kl
    return torch.stack([(each * weights).sum() for each in (loss, of_targets, kl)]), gradient.to(z.dtype)


def _capped(z: Tensor, softcap: float, vocab_size: int) -> tuple[Tensor, Tensor | None]:
    """Logits (C, V) in float32, -inf in the padding, and their derivative by z; None where it is 1."""
    logits = z.float()
    slope = None
    if softcap:  # cap * tanh(z / cap), by a sigmoid as in GPT._logits; its derivative is 1 - tanh^2
        tanh = 2 * torch.sigmoid(logits * (2 / softcap)) - 1
        logits, slope = softcap * tanh, 1 - tanh * tanh
    if vocab_size < z.size(1):
        column = torch.arange(z.size(1), device=z.device)
        logits = torch.where(column < vocab_size, logits, -torch.inf)
    return logits, slope


class _SummedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor, trained: Tensor | None, softcap: float,
        vocab_size: int, rows: Rows, soft: Soft | None,
    ) -> Tensor:  # fmt: skip
        w = matrix.to(x.dtype)
        of_x = torch.empty_like(x) if trained is None else torch.zeros_like(x)
        # A frozen matrix, as LoRA has it, needs none.
        of_matrix = torch.zeros_like(matrix, dtype=torch.float32) if matrix.requires_grad else None
        loss = torch.zeros(() if soft is None else 3, device=x.device)
        count = x.size(0) if trained is None else trained.size(0)
        C = chunk_rows(x.size(0), matrix.size(0), x.device)
        for start in range(0, count, C):
            here = slice(start, min(start + C, count))
            at = here if trained is None else trained[here]
            inputs, target, weight = _filled(x[at], C), _filled(targets[at], C), _filled(weights[at], C)
            more: tuple = ()
            if soft is not None:
                more = _filled(soft.x[at], C) @ soft.matrix.T, soft.softcap, soft.temperature, soft.weight
            part, of_z = rows(inputs @ w.T, target, weight, softcap, vocab_size, *more)
            loss += part
            of_x[at] = (of_z @ w)[: here.stop - start]
            if of_matrix is not None:
                _add_product(of_matrix, of_z, inputs)
        ctx.gradients = of_x, of_matrix
        ctx.dtype = matrix.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_matrix = ctx.gradients
        ctx.gradients = None  # they are changed in place, so there is no second time
        # The loss scale of float16 and the division by the number of tokens arrive here. In between, the gradients are
        # those of a sum, whose numbers float16 can hold. Of a teacher's three sums only the first is to be learned.
        by = above[0].view(-1)[0]
        of_matrix = None if of_matrix is None else of_matrix.mul_(by).to(ctx.dtype)
        return of_x.mul_(by), of_matrix, *([None] * 7)


def _filled(part: Tensor, size: int) -> Tensor:
    """`part` with zeros behind it up to `size` rows: one shape for all chunks, so nothing is compiled twice."""
    missing = size - part.size(0)
    return F.pad(part, (0, 0) * (part.ndim - 1) + (0, missing)) if missing else part


def _add_product(total: Tensor, of_z: Tensor, x: Tensor) -> None:
    """total (V, D) float32 += of_z^T x, for of_z (C, V) and x (C, D) in the compute dtype."""
    if x.dtype == torch.float32:
        total.addmm_(of_z.T, x)
    elif x.device.type == "cuda":  # products of 16 bits, added up and stored in float32
        torch.addmm(total, of_z.T, x, out_dtype=torch.float32, out=total)
    elif x.dtype == torch.float16:  # a column's sum may exceed what float16 can hold
        total.addmm_(of_z.T.float(), x.float())
    else:
        total += of_z.T @ x
