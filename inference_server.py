"""`python inference_server.py`, as a bot's guide types it: scripts/inference_server.py."""

from scripts.inference_server import cli

if __name__ == "__main__":
    cli()
