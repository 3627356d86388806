"""Which conversations the training stages use, by name."""

from collections.abc import Sequence
from pathlib import Path

from nanochat.config import UserError
from nanochat.data.shards import Split
from tasks.customjson import CustomJSON
from tasks.littleworld import KINDS, LittleWorld
from tasks.mixture import Mixture

RECIPES = ("littleworld", "none")


def graded_tasks(recipe: str, split: Split) -> list[LittleWorld]:
    """The tasks of a recipe whose answers can be graded; none where the user's own conversations are all there is."""
    return [LittleWorld(kind, split) for kind in KINDS] if recipe == "littleworld" else []


def training_conversations(recipe: str, data_path: Sequence[Path], split: Split) -> Mixture:
    """The conversations of a recipe and of the user's own files, shuffled together.

    split is train or val; a user's file is used for training only, unless it is all there is.
    """
    if recipe not in RECIPES:
        raise UserError(f"--conversations is {recipe!r}; expected one of {', '.join(RECIPES)}")
    known = graded_tasks(recipe, split)
    own = [CustomJSON(path) for path in data_path] if split == "train" or not known else []
    if not known and not own:
        raise UserError("there are no conversations to train on; name a file with --data_path or use --conversations")
    return Mixture([*known, *own])
