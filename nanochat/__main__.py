"""`python -m nanochat` is the command `nanochat`: scripts/__main__.py, which the library never imports otherwise."""

import importlib

if __name__ == "__main__":
    importlib.import_module("scripts.__main__").cli()
