"""`python sample.py`, as nanoGPT's users type it: scripts/sample.py."""

from nanochat.errors import run
from scripts.sample import main

if __name__ == "__main__":
    run(main)
