"""`python train.py`, as nanoGPT's users type it: scripts/train.py."""

from scripts.train import cli

if __name__ == "__main__":
    cli()
