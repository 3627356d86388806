"""Linear probes (Alain & Bengio 2016): from which layer on can a label be read off the residual stream?

A ridge classifier learns from one vector per text, before each layer and after the last; what counts is its accuracy on
texts it has not seen. A large vector can fit anything, so the same is done with shuffled labels (compare the control
tasks of Hewitt & Liang 2019): a probe that is no better than that has found nothing.
"""

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from extras.look.chapter import Chapter, shown
from extras.look.texts import Labelled
from nanochat import chat
from nanochat.api import Model
from nanochat.errors import UserError
from nanochat.eval.accuracy import interval
from nanochat.log import Progress
from nanochat.report import curves
from nanochat.report.card import table

SHUFFLES = 5
HELD_OUT = 0.25
STRENGTH = 1.0  # of the ridge, per learned text; channels have variance 1


@dataclass(frozen=True)
class Probe:
    """Accuracies of one layer's probe on held-out texts, and the mean with shuffled labels."""

    right: int
    held_out: int
    shuffled: float

    @property
    def accuracy(self) -> float:
        return self.right / self.held_out


def vectors(model: Model, texts: list[str], pool: str) -> Tensor:
    """The residual stream (L + 1, N, D) at each text's last token, or its mean over the tokens."""
    rows = []
    with Progress(len(texts), "reading", "texts") as progress:
        for done, text in enumerate(texts, 1):
            ids = chat.text_prompt(model.tokenizer, text)[-model.config.sequence_len :]
            seen = torch.stack(model.inspect(ids, "residual").residual)  # (L + 1, T, D)
            rows.append(seen[:, -1] if pool == "last" else seen.mean(1))
            progress.update(done)
    return torch.stack(rows, dim=1)


def probe(inputs: Tensor, labels: list[str], seed: int) -> list[Probe]:
    """A probe for each layer; inputs (L + 1, N, D). Raises UserError for too few texts."""
    kinds = sorted(set(labels))
    targets = torch.tensor([kinds.index(label) for label in labels])
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    count = round(HELD_OUT * len(labels))
    test, train = order[:count], order[count:]
    if count < 2 or len(set(targets[train].tolist())) < len(kinds):
        raise UserError(
            f"{len(labels)} texts with {len(kinds)} labels are too few: a quarter is held out, and the others must "
            "have every label; give more texts"
        )
    shuffles = [targets[torch.randperm(len(labels), generator=generator)] for _ in range(SHUFFLES)]
    made = []
    for x in inputs:
        solve = _solver(x, train)
        right = int((solve(targets)[test] == targets[test]).sum())
        by_chance = [float((solve(each)[test] == each[test]).float().mean()) for each in shuffles]
        made.append(Probe(right, count, statistics.fmean(by_chance)))
    return made


def _solver(x: Tensor, train: Tensor):
    """A function from targets (N,), of which it sees those in `train` only, to predictions (N,)."""
    x = x.double()
    mean, spread = x[train].mean(0), x[train].std(0).clamp_min(1e-6)
    x = torch.cat([(x - mean) / spread, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    known = x[train]
    gram = known.T @ known + STRENGTH * torch.eye(x.size(1), dtype=x.dtype)

    def solve(targets: Tensor) -> Tensor:
        wanted = torch.nn.functional.one_hot(targets[train], int(targets.max()) + 1).to(x.dtype)
        return (x @ torch.linalg.solve(gram, known.T @ wanted)).argmax(1)

    return solve


def chapter(model: Model, data: Labelled, pool: str, seed: int) -> Chapter:
    found = probe(vectors(model, data.texts, pool), data.labels, seed)
    counts = {label: data.labels.count(label) for label in sorted(set(data.labels))}
    most = max(counts.values()) / len(data.labels)
    rows, intervals = [], []
    for layer, each in enumerate(found):
        low, high = interval(each.right, each.held_out)
        intervals.append([low, high])
        name = f"before layer {layer}" if layer < len(found) - 1 else "after the last"
        rows.append([name, f"{each.accuracy:.3f}", f"{low:.3f} … {high:.3f}", f"{each.shuffled:.3f}"])
    lines = {"probe": [(layer, each.accuracy) for layer, each in enumerate(found)],
             "shuffled labels": [(layer, each.shuffled) for layer, each in enumerate(found)]}  # fmt: skip
    title = "accuracy on held-out texts"
    picture = curves.Picture(
        "probes", curves.in_words(title, lines, "layer"), curves.draw(title, lines, from_zero=True, x_name="layer")
    )
    where = "last token" if pool == "last" else "mean over the tokens"
    words = (
        f"A ridge classifier on the residual stream ({where}) of {len(data.labels)} texts, of which "
        f"{found[0].held_out} are held out. Labels: {', '.join(f'{label} {n}' for label, n in counts.items())}; always "
        f"naming the most frequent would be right {most:.1%} of the time. Shuffled: the mean of {SHUFFLES} probes for "
        "the same labels in random order."
    )
    head = ["residual stream", "accuracy", "95 % interval", "shuffled labels"]
    result = {"labels": counts, "held_out": found[0].held_out, "accuracy": [each.accuracy for each in found],
              "interval": intervals, "shuffled": [each.shuffled for each in found]}  # fmt: skip
    return Chapter("Linear probes", "\n\n".join([words, table(head, rows), shown([picture])]), [picture], result)
