"""`python sample.py`, as nanoGPT's users type it: scripts/sample.py."""

from scripts.sample import cli

if __name__ == "__main__":
    cli()
