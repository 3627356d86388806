"""Cleaning: a dataset in, a cleaner dataset out.

`rules` looks at one document at a time (`language`, `quality`, `words`, `pii`), `sketches` finds documents that are
alike, `stages` does both for a dataset of any size in pieces, and `workers` and `cluster` run the pieces.
"""

INSTALL = "install it with `uv sync --extra clean` in a clone, or else `pip install 'nanochat[clean]'`"
