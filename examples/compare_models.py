"""Perplexity and bits per byte of several models on a text, whatever format they are in.

    uv run python examples/compare_models.py notes.txt base gpt2 out/ckpt.pt

Perplexity depends on the tokenizer, bits per byte do not: compare models by these.
"""

import math
import sys
from pathlib import Path

import nanochat


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if len(given) < 2:
        sys.exit(__doc__)
    file, *names = given
    text = Path(file).read_text(encoding="utf-8")
    size = len(text.encode("utf-8"))
    print(f"{'model':24} {'parameters':>12} {'perplexity':>11} {'bits per byte':>14}")
    for name in names:
        model = nanochat.open(name)
        perplexity = model.perplexity(text)
        tokens = len(model.tokenizer.encode(text))
        bits = math.log2(perplexity) * tokens / size
        print(f"{name:24} {model.serving.parameters:12,} {perplexity:11.2f} {bits:14.3f}")


if __name__ == "__main__":
    main()
