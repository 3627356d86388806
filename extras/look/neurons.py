"""What neurons of the MLPs answer to: the places in a text where each is most active, and what it then writes.

Shown are those of each layer that stand out most, by their highest activation over the root mean square of all their
activations: a neuron that is silent but for a few places has something to say about these.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from extras.look.chapter import Chapter, visible
from extras.look.unembedding import logits_of
from nanochat.api import Model
from nanochat.report.card import escaped, table

BEFORE, AFTER = 10, 4  # tokens around an example
PROMOTED = 6


@dataclass(frozen=True)
class Example:
    activation: float
    text: int
    position: int


@dataclass(frozen=True)
class Neuron:
    layer: int
    number: int
    peak: float  # its highest activation over the root mean square of all
    examples: list[Example]


def top_neurons(model: Model, texts: Iterable[list[int]], count: int, examples: int) -> tuple[list[Neuron], list]:
    """The `count` neurons of each layer that stand out most, with their top examples, and the ids of the texts."""
    L, width = model.config.n_layer, 4 * model.config.n_embd
    top = torch.full((L, examples, width), -torch.inf)
    where = torch.zeros(L, examples, width, 2, dtype=torch.long)
    squares, total, read = torch.zeros(L, width, dtype=torch.double), 0, []
    for number, ids in enumerate(texts):
        mlp = torch.stack(model.inspect(ids, "mlp").mlp)[:, 1:]  # (L, T - 1, 4 D); the first token is unlike all others
        squares += mlp.double().square().sum(1)
        total += mlp.size(1)
        values, positions = mlp.topk(min(examples, mlp.size(1)), dim=1)
        places = torch.stack([torch.full_like(positions, number), positions + 1], dim=-1)
        top, order = torch.cat([top, values], dim=1).topk(examples, dim=1)
        where = torch.cat([where, places], dim=1).gather(1, order[..., None].expand(-1, -1, -1, 2))
        read.append(ids)
    peaks = top[:, 0] / (squares / max(total, 1)).sqrt().clamp_min(1e-9)
    peaks = torch.where(top[:, 0] > 0, peaks, 0)
    found = []
    for layer in range(L):
        for neuron in peaks[layer].topk(min(count, width)).indices.tolist():
            own = [Example(float(value), *place.tolist())
                   for value, place in zip(top[layer, :, neuron], where[layer, :, neuron], strict=True)
                   if value > 0]  # fmt: skip
            found.append(Neuron(layer, neuron, float(peaks[layer, neuron]), own))
    return found, read


def promoted(model: Model, layer: int, neuron: int) -> list[int]:
    """The tokens whose logits a neuron raises most, directly, without the last norm's scale."""
    mlp = model.module.transformer.blocks[layer].mlp
    both = torch.zeros(2, 1, 4 * model.config.n_embd, device=model.module.device, dtype=model.module.dtype)
    both[1, 0, neuron] = 1
    with torch.no_grad():
        written = mlp.c_proj(both)
        return logits_of(model.module, (written[1] - written[0])[None])[0, 0].topk(PROMOTED).indices.tolist()


def chapter(model: Model, texts: Iterable[list[int]], count: int, examples: int) -> Chapter:
    found, read = top_neurons(model, texts, count, examples)
    parts = [f"The {count} neurons of each layer that stand out most, over {sum(map(len, read)):,} tokens; the token "
             "at which each is most active is in bold."]  # fmt: skip
    data = []
    for each in found:
        tokens = promoted(model, each.layer, each.number)
        names = ", ".join(visible(model.tokenizer, id) for id in tokens)
        title = f"Layer {each.layer}, neuron {each.number}"
        rows = [[f"{example.activation:.2f}", _around(model, read[example.text], example.position)]
                for example in each.examples]  # fmt: skip
        body = table(["activation", "text"], [[row[0], "TEXT"] for row in rows])
        for _, text in rows:  # which has marks of its own, so it is not escaped again
            body = body.replace("TEXT", text, 1)
        parts += [f"### {title}", escaped(f"Peak {each.peak:.0f} × its root mean square; raises {names}."), body]
        data.append({"layer": each.layer, "neuron": each.number, "peak": each.peak,
                     "promotes": [model.tokenizer.decode([id]) for id in tokens],
                     "examples": [{"activation": example.activation, "position": example.position,
                                   "token": model.tokenizer.decode([read[example.text][example.position]]),
                                   "text": model.tokenizer.decode(read[example.text])}
                                  for example in each.examples]})  # fmt: skip
    return Chapter("Neurons", "\n\n".join(parts), [], {"neurons": data})


def _around(model: Model, ids: list[int], position: int) -> str:
    """A token in bold with what surrounds it, as Markdown in one line."""
    before, after = ids[max(0, position - BEFORE) : position], ids[position + 1 : position + 1 + AFTER]
    texts = [escaped(model.tokenizer.decode(part).replace("\n", "⏎")) for part in (before, after)]
    token = escaped(visible(model.tokenizer, ids[position]))
    return f"{texts[0]} **{token}** {texts[1]}"
