"""Direct preference optimization as a stream: pairs of answers to a question, of which one is preferred.

With the log-probabilities of both answers, log p = - sum of nll over an answer's tokens, a pair has the margin

    h = (log p(chosen) - log p(rejected)) - (the same of the reference)
    loss = - log sigmoid(beta * h)

(DPO, Rafailov et al. 2023, arXiv 2305.18290). The gradient of the loss is that of a sum of nll * weight, with the
weight beta * sigmoid(-beta * h) for the tokens of the chosen answer and minus that for those of the rejected one, so
the loop's sum over the step / count is DPO's, the count being the pairs. The reference is the model that training
starts from: its log-probabilities never change, so they are computed once, and no second model is in memory.

A pair is one document of the stream: the chosen conversation, then the rejected one. So both are in one row, and in
one micro-batch however a step is cut up. They do not see each other (`GPT.document_bos`). The weights of such a
document are + (n + 1) on the tokens of the chosen answer and - (n + 1) on those of the rejected one, n being the pair's
number: which pair, and which of its answers, travels with the rows through packing, shuffling and ranks.

Letters: M positions with a weight, K pairs, N pairs of all the data.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from nanochat import chat
from nanochat.attention import most_documents
from nanochat.data.batch import Batch
from nanochat.data.packing import Document, pack
from nanochat.data.streams import CHUNK, ConversationSource, batch_of
from nanochat.gpt import GPT
from nanochat.loss import Rows
from nanochat.paths import write_array
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer

SIDES = ("chosen", "rejected")
FIGURES = ("margin", "accuracy", "chosen_logp", "rejected_logp", "drift")  # means over pairs, beside the loss
MOST_PAIRS = 1 << 24  # float32 holds every whole number up to this


@dataclass(frozen=True)
class Objective:
    """sigmoid is DPO's loss; ipo is (h - 1 / (2 beta))^2, which ends at a margin (Azar et al. 2023, equation 17).

    label_smoothing is the fraction of pairs that are taken to be labelled the wrong way round (Mitchell 2023).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    loss: Literal["sigmoid", "ipo"] = "sigmoid"

    def of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of pairs with the margins h (K,), and their derivatives by h."""
        if self.loss == "ipo":
            off = h - 1 / (2 * self.beta)
            return off.square(), 2 * off
        x, wrong = self.beta * h, self.label_smoothing
        loss = -(1 - wrong) * F.logsigmoid(x) - wrong * F.logsigmoid(-x)
        return loss, self.beta * (wrong * torch.sigmoid(x) - (1 - wrong) * torch.sigmoid(-x))


class PairSource(ConversationSource):
    """Pairs {"prompt", "chosen", "rejected"}, each a list of messages, in an order shuffled anew for each epoch.

    They are numbered from `first` on. A pair that is longer than a row of row_len ids together, or one of whose
    conversations does not fit the context, is left out.
    """

    def __init__(
        self, pairs: Sequence[dict], tokenizer: Tokenizer, row_len: int, context: int, order: str, first: int = 0
    ):
        assert first + len(pairs) < MOST_PAIRS
        super().__init__(pairs, tokenizer, row_len, masked=True, order=order)
        self.context, self.first = context, first
        self.most: int | None = most_documents(row_len - 1) // 2  # more would not be kept apart

    def document(self, number: int) -> Document | None:
        ids: list[int] = []
        weights: list[int] = []
        for side, sign in zip(SIDES, (1, -1), strict=True):
            more, mask = self._answered(self.conversations[number], side)
            if len(more) > self.context + 1:
                return None
            ids += more
            weights += [sign * (self.first + number + 1) * weight for weight in mask]
        return (ids, weights) if len(ids) <= self.max_tokens else None

    def _answered(self, pair: dict, side: str) -> tuple[list[int], list[int]]:
        """The conversation with one of its answers: its ids, and 1 for each token of that answer that counts."""
        ids, mask = chat.render(self.tokenizer, {"messages": [*pair["prompt"], *pair[side]]})
        asked = len(chat.prompt(self.tokenizer, pair["prompt"]))
        return ids, [0] * asked + mask[asked:]


def counted(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a PairSource, each with its number of pairs as the count that the loss is divided by."""
    for batch in batches:
        answers = int((_numbered(batch).diff() != 0).sum()) + 1
        yield replace(batch, count=answers // 2)


def loss_of_pairs(model: GPT, objective: Objective, reference: Tensor, rows: Rows) -> Callable[[Batch], Tensor]:
    """The loss of a micro-batch, a vector: its sum over the pairs, with a gradient, and those that FIGURES names.

    reference (N, 4) on the model's device is what `log_probabilities` returned for the model that training started
    from.
    """

    def loss(batch: Batch) -> Tensor:
        x = model.hidden(batch.inputs)
        trained = batch.trained
        assert trained is not None  # no pair has tokens of answers only
        with torch.no_grad():
            nll = model.nll(x.detach().flatten(0, 1)[trained], batch.targets.flatten()[trained])
            answer, logp, number = _summed(_numbered(batch), nll)
            sums, slope = _measured(logp, reference[number.clamp_min(0)], objective, number >= 0)
            # nll is - log p, and h rises with the chosen answer's and falls with the rejected one's.
            by_answer = torch.stack([-slope, slope], dim=1).flatten()
            weights = torch.zeros_like(batch.weights).flatten().index_copy(0, trained, by_answer[answer])
        learned = model.loss(x, batch.targets, weights.view_as(batch.weights), trained, rows)
        # Its value is another one than the loss of the pairs, but its gradient is the same.
        return torch.cat([(sums[0] + (learned - learned.detach())).view(1), sums[1:]])

    return loss


def _numbered(batch: Batch) -> Tensor:
    """The weights (M,) of the positions that have one, in order: + (n + 1) or - (n + 1), as PairSource gave them."""
    return batch.weights.flatten()[batch.trained]


def _summed(numbered: Tensor, nll: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the weights and nll of M positions: which answer each belongs to, and of K >= the pairs there are:

    log p of the two answers (K, 2), and the pair's number (K,), -1 where there is no pair. K follows from M, so that
    nothing waits for a GPU to count. The sign of the weights separates the answers, since it changes from one to the
    next: a row holds chosen, rejected, chosen, rejected, and so does the next.
    """
    most = len(nll) + len(nll) % 2
    answer = F.pad((numbered.diff() != 0).cumsum(0), (1, 0))
    logp = torch.zeros(most, device=nll.device).index_add_(0, answer, -nll)
    number = torch.zeros(most, device=nll.device).scatter_(0, answer, numbered.abs())
    return answer, logp.view(-1, 2), number.view(-1, 2)[:, 0].long() - 1


def _measured(logp: Tensor, reference: Tensor, objective: Objective, there: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the loss and of FIGURES (6,) over the pairs that are `there` (K,), and the slopes (K,) of the losses.

    logp (K, 2) and reference (K, 4) are log p of the answers; the latter has their numbers of tokens besides.
    """
    change = logp - reference[:, :2]
    h = change[:, 0] - change[:, 1]
    loss, slope = objective.of(h)
    drift = (change.abs() / reference[:, 2:].clamp_min(1)).mean(dim=1)
    preferred = (h > 0).float() + 0.5 * (h == 0).float()  # where nothing was learned yet, all are even
    figures = torch.stack([loss, h, preferred, logp[:, 0], logp[:, 1], drift])
    return torch.where(there, figures, 0).sum(dim=1), torch.where(there, slope, 0)


# ---------------------------------------------------------------- all pairs, without gradients


@torch.no_grad()
def log_probabilities(
    model: GPT, source: PairSource, rows: int, T: int, rt: Runtime, stopping: Callable[[], bool] = lambda: False
) -> Tensor:
    """(N, 4) float32 on the CPU: log p of the chosen and of the rejected answer, and their numbers of tokens.

    All four are 0 for a pair that is left out. Takes `rows` rows of T tokens at a time, dealt over the ranks. A
    collective call; once `stopping` is true it returns what it has.
    """
    table = torch.zeros(len(source.conversations), 4)
    batch = 0
    for start in range(0, len(table), CHUNK):
        documents = [source.document(n) for n in range(start, min(start + CHUNK, len(table)))]
        packed = pack([each for each in documents if each is not None], T + 1, source.cut, source.most)
        for first in range(0, len(packed), rows):
            if stopping():
                return table
            batch += 1
            if batch % rt.world == rt.rank:
                part = torch.from_numpy(np.array(packed[first : first + rows], np.int32))
                numbers, found = _read(model, batch_of(part).to(rt.device))
                table[numbers - source.first] = found
    if rt.world > 1:
        dist.all_reduce(table)  # of the processors
    return table


def _read(model: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
    """The numbers (K,) of the pairs in a batch, and what the table above holds of them, (K, 4)."""
    x, numbered = model.hidden(batch.inputs).flatten(0, 1), _numbered(batch)
    nll = model.nll(x[batch.trained], batch.targets.flatten()[batch.trained])
    answer, logp, number = _summed(numbered, nll)
    tokens = torch.zeros_like(logp.flatten()).index_add_(0, answer, torch.ones_like(nll)).view(-1, 2)
    there = number >= 0
    return number[there].cpu(), torch.cat([logp, tokens], dim=1)[there].cpu()


def scores(now: Tensor, reference: Tensor, objective: Objective) -> dict[str, float]:
    """The means of the loss and of FIGURES over the pairs of two tables (N, 4), as val_loss, val_margin and so on."""
    there = reference[:, 2] > 0
    sums, _ = _measured(now[:, :2], reference, objective, there)
    means = (sums / there.sum().clamp_min(1)).tolist()
    return dict(zip(("val_loss", *(f"val_{name}" for name in FIGURES)), means, strict=True))


# ---------------------------------------------------------------- the reference, kept beside the checkpoints


def kept(folder: Path, content: object, pairs: int, compute: Callable[[], Tensor], rt: Runtime, writes: bool) -> Tensor:
    """The reference's table (N, 4) from the run's folder, or else computed, and written if it `writes`.

    content: all that the table follows from, JSON; its hash is in the file's name, so that a resumed run has the very
    numbers that it began with. A collective call, because `compute` is.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path = folder / f"reference_{digest[:16]}.npy"
    found = _written(path, pairs) if path.exists() else None
    missing = torch.tensor(int(found is None))
    if rt.world > 1:
        dist.all_reduce(missing)
    if not int(missing):
        assert found is not None
        return found
    table = compute()
    if rt.is_main and writes:
        write_array(path, table.numpy())
    rt.wait()
    return table


def _written(path: Path, pairs: int) -> Tensor | None:
    """A table that was written before; None for a damaged one."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = found.shape == (pairs, 4) and found.dtype == np.float32 and np.isfinite(found).all()
    return torch.from_numpy(found) if fits else None
