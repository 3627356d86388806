"""What a model expects after each token of a text, and how much each layer changes its mind.

    uv run python examples/look_inside.py base "Once upon a time there was"

For each token: its probability, the most likely token in its place, and the norm of every layer's output, read by
forward hooks on the torch module.
"""

import sys

import torch

import nanochat
from nanochat import chat


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if len(given) < 2:
        sys.exit(__doc__)
    name, text = given[:2]
    model = nanochat.open(name, dtype="float32")
    norms: list[torch.Tensor] = []
    blocks = model.engine.model.transformer.h
    hooks = [block.register_forward_hook(lambda _, inputs, out: norms.append(out.norm(dim=-1)[0])) for block in blocks]
    ids = chat.text_prompt(model.tokenizer, text)
    probabilities = model.logits(ids).softmax(dim=-1)  # (T, V): after each id
    for hook in hooks:
        hook.remove()

    print(f"{'token':>14} {'probability':>11} {'most likely':>14}   norm after each layer")
    for place in range(1, len(ids)):
        before = probabilities[place - 1]
        best = int(before.argmax())
        layers = " ".join(f"{float(norm[place]):7.1f}" for norm in norms)
        token, most_likely = model.tokenizer.decode([ids[place]]), model.tokenizer.decode([best])
        print(f"{token!r:>14} {100 * float(before[ids[place]]):9.1f} % {most_likely!r:>14}   {layers}")


if __name__ == "__main__":
    main()
