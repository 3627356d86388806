"""Exports: models in the formats of other programs, compared with the original before they are announced."""

import importlib.util

from nanochat.errors import UserError

INSTALL = "install it with `uv sync --extra export` in a clone, or else `pip install 'nanochat[export]'`"


def check_installed() -> None:
    """Raise UserError if the extra `export` is not installed."""
    for package in ("tokenizers", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"exporting needs {package}, which is not installed; {INSTALL}")
