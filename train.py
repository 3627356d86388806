"""`python train.py`, as nanoGPT's users type it: scripts/train.py."""

from nanochat.errors import run
from scripts.train import main

if __name__ == "__main__":
    run(main)
