"""Linear probes: from which layer on can the kind of a text be read off the model's vectors?

    uv run python examples/probe.py gpt2 labelled.tsv

Each line of labelled.tsv is a label, a tab and a text. For each layer, a ridge classifier learns from the vector of the
last token; its accuracy on every fourth text, which it has not seen, is printed.
"""

import sys
from pathlib import Path

import torch

import nanochat


def vectors(model: nanochat.Model, text: str) -> torch.Tensor:
    """What each layer gives for the last token of a text, (layers, D + 1): the last number is 1, for a bias."""
    seen: list[torch.Tensor] = []

    def see(block: torch.nn.Module, inputs: tuple, out: torch.Tensor) -> None:
        seen.append(out[0, -1].float().cpu())

    hooks = [block.register_forward_hook(see) for block in model.engine.model.transformer.h]
    model.logits(text)
    for hook in hooks:
        hook.remove()
    return torch.cat([torch.stack(seen), torch.ones(len(seen), 1)], dim=1)


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 2:
        sys.exit(__doc__)
    model = nanochat.open(given[0], dtype="float32")
    rows = [line.split("\t", 1) for line in Path(given[1]).read_text(encoding="utf-8").splitlines() if "\t" in line]
    labels = sorted({label for label, _ in rows})
    kinds = torch.tensor([labels.index(label) for label, _ in rows])  # (N,)
    inputs = torch.stack([vectors(model, text) for _, text in rows], dim=1)  # (layers, N, D + 1)
    held_out = torch.arange(len(rows)) % 4 == 3
    targets = torch.nn.functional.one_hot(kinds[~held_out], len(labels)).float()
    print(f"{len(rows)} texts, {int(held_out.sum())} held out, labels: {', '.join(labels)}")
    for layer, x in enumerate(inputs, 1):
        known = x[~held_out]
        weights = torch.linalg.solve(known.T @ known + torch.eye(x.size(1)), known.T @ targets)  # ridge regression
        accuracy = ((x[held_out] @ weights).argmax(dim=1) == kinds[held_out]).float().mean()
        print(f"layer {layer:2}: {100 * float(accuracy):5.1f} % right")


if __name__ == "__main__":
    main()
