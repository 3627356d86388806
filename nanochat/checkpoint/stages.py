"""The stage (base, mid, sft, dpo or rl) of a checkpoint that lies anywhere, by its meta file, its place or its name."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from nanochat.paths import SOURCES


def layout(folder: PurePosixPath) -> tuple[str | None, str | None]:
    """The stage and tag in a folder's path, as in base_checkpoints/d34."""
    stages = {name: source for source, name in SOURCES.items()}
    stage = stages.get(folder.parent.name)
    return (stage, folder.name) if stage else (None, None)


def stage_of(meta: Mapping, repo: str) -> str | None:
    """The stage of the checkpoint that a meta file describes, or that its repository's name tells."""
    if (source := str(meta.get("source"))) in SOURCES:  # written by push
        return source
    if "parent" in meta:  # ours, of a later stage
        return "mid" if "text_share" in meta else "dpo" if "pairs" in meta else "sft"
    if "mmlu_acc" in meta or "val_loss" in meta:
        return "sft"
    if "loop_state" in meta or "dataloader_state_dict" in meta:
        return "base"
    if set(meta) == {"model_config"}:
        return "rl"
    if stage := stage_spelled(repo):
        return stage
    # The original's mid and sft record the same; when its models got windows, there was no mid stage any more.
    config = meta.get("model_config")
    has_windows = isinstance(config, Mapping) and "window_pattern" in config
    return ("sft" if has_windows else "mid") if "user_config" in meta else None


def stage_spelled(repo: str) -> str | None:
    """The stage that is a word of a repository's name, as in nanochat-d20-sft."""
    words = re.split(r"[\W_]+", repo.rpartition("/")[2].lower())
    return next((source for source in ("rl", "dpo", "sft", "mid", "base") if source in words), None)
