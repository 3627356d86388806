"""`python inference_server.py`, as nanoGPT's users type it: scripts/inference_server.py."""

from nanochat.errors import run
from scripts.inference_server import main

if __name__ == "__main__":
    run(main)
