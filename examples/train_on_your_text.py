"""Train a small model on a text of your own, then let it write.

    uv run python examples/train_on_your_text.py notes.txt --steps 300

The model knows single characters and has two layers: enough to learn spelling and line breaks from 100 kB of text in
a minute or two on a laptop. For more, see docs/guides/own-text.md.
"""

import argparse
from pathlib import Path

import nanochat
from scripts import train


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a small model on a text of your own, then let it write.")
    parser.add_argument("text", type=Path, help="a text file")
    parser.add_argument("--out_dir", default="out-example", help="where tokens and checkpoint go")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)

    made = nanochat.prepare_data(args.text, Path(args.out_dir) / "tokens", tokenizer="char", overwrite=True)
    print(f"{made.train_tokens:,} tokens to train on, {made.val_tokens:,} to validate on")

    train.main([
        f"--dataset={args.out_dir}/tokens", f"--out_dir={args.out_dir}", f"--max_iters={args.steps}", "--overwrite",
        "--n_layer=2", "--n_head=4", "--n_embd=128", "--block_size=64", "--batch_size=16",
        "--gradient_accumulation_steps=1", "--learning_rate=1e-3", "--warmup_iters=10", "--min_lr=1e-4",
        f"--lr_decay_iters={args.steps}", "--eval_interval=100", "--eval_iters=10", "--log_interval=50", "--no-compile",
    ])  # fmt: skip

    model = nanochat.open(f"{args.out_dir}/ckpt.pt")
    print(model.generate("\n", max_tokens=200, seed=1))


if __name__ == "__main__":
    main()
