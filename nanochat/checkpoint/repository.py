"""Checkpoints in repositories of the hub: what files and names say about them, and what to say about them to people."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat import chat, vocabularies
from nanochat.checkpoint import legacy, manager
from nanochat.config import UserError
from nanochat.cost import count_parameters
from nanochat.log import short
from nanochat.paths import SOURCES, checkpoints_dir
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is in the base folder."""

    source: str
    tag: str
    step: int

    @property
    def folder(self) -> Path:
        return checkpoints_dir(self.source) / self.tag

    def __str__(self) -> str:
        return f"{self.source} {self.tag}, step {self.step}"


def checkpoints(paths: Sequence[str]) -> list[tuple[PurePosixPath, int]]:
    """The folders and steps of all nanochat checkpoints, model file and meta file, among a repository's paths."""
    found = [(PurePosixPath(path), re.fullmatch(r"(?:.*/)?model_(\d{6,})\.pt", path)) for path in paths]
    whole = [(path, match[1]) for path, match in found if match]
    return [(path.parent, int(step)) for path, step in whole if str(path.with_name(f"meta_{step}.json")) in paths]


def tokenizer_of(paths: Sequence[str], inside: PurePosixPath) -> tuple[PurePosixPath, list[str]] | None:
    """The folder and files of the tokenizer for a checkpoint in the folder `inside`: nearer ones come first."""
    top = PurePosixPath()
    for place in (inside, inside / "tokenizer", top / "tokenizer", top):
        for names in vocabularies.FILES[:-1]:  # nanoGPT's characters are no tokenizer of these
            wanted = [str(place / name) for name in names]
            if all(path in paths for path in wanted):
                return place, wanted + [path for path in [str(place / manager.LENGTHS)] if path in paths]
    return None


def layout(folder: PurePosixPath) -> tuple[str | None, str | None]:
    """The stage and tag that a folder's path says, as in base_checkpoints/d34."""
    stages = {name: source for source, name in SOURCES.items()}
    stage = stages.get(folder.parent.name)
    return (stage, folder.name) if stage else (None, None)


def stage_of(meta: Mapping, repo: str) -> str | None:
    """The stage whose checkpoint a meta file describes; where it leaves that open, what the repository's name says."""
    if meta.get("source") in SOURCES:  # written by push
        return str(meta["source"])
    if "parent" in meta:  # ours, of a later stage
        return "mid" if "text_share" in meta else "sft"
    if "mmlu_acc" in meta or "val_loss" in meta:
        return "sft"
    if "loop_state" in meta or "dataloader_state_dict" in meta:
        return "base"
    if set(meta) == {"model_config"}:
        return "rl"
    if stage := stage_spelled(repo):
        return stage
    # The original's mid and sft say the same; when its models got windows, there was no mid stage any more.
    has_windows = "window_pattern" in (meta.get("model_config") or {})
    return ("sft" if has_windows else "mid") if "user_config" in meta else None


def stage_spelled(repo: str) -> str | None:
    """The stage that a repository's name has as a word of its own, as in nanochat-d20-sft."""
    words = re.split(r"[\W_]+", repo.rpartition("/")[2].lower())
    return next((source for source in ("rl", "sft", "mid", "base") if source in words), None)


def tag_of(repo: str) -> str:
    """The tag that a repository's model gets: d<depth> of its name, else the name."""
    name = repo.rpartition("/")[2]
    depth = re.search(r"(?<![a-zA-Z0-9])d\d+(?![a-zA-Z0-9])", name)
    return depth[0] if depth else name


def check_neighbours(folder: Path, tokenizer: Tokenizer) -> None:
    """Checkpoints of one folder share a tokenizer. Raises UserError where those there would get another."""
    if manager.steps(folder) and Tokenizer.load(manager.tokenizer_folder(folder)).hash != tokenizer.hash:
        raise UserError(f"{folder} holds checkpoints with another tokenizer; choose another --tag")


def describe(loaded: manager.Loaded) -> str:
    """What a model is, in figures."""
    config = loaded.model.config
    kind = "GPT-2" if config.learned_positions else f"{legacy.generation(loaded.model.state_dict())} nanochat"
    parameters = short(count_parameters(loaded.model))
    return f"{kind}, {parameters} parameters, context {config.sequence_len}, vocabulary {config.vocab_size}"


def record_softcap(loaded: manager.Loaded, softcap: float) -> None:
    """Write the softcap of a checkpoint that does not tell it into its meta file, so that nobody need say it again.

    Raises UserError for a checkpoint that tells it.
    """
    path = loaded.folder / f"meta_{loaded.step:06d}.json"
    config = legacy.with_softcap(loaded.meta["model_config"], loaded.model.state_dict(), softcap, path)
    manager.update_meta(loaded.folder, loaded.step, {"model_config": config})


def commands(place: Place, tokenizer: Tokenizer) -> list[str]:
    """What can be done next with a checkpoint, as it is typed."""
    name, chosen = f"{place.source}:{place.tag}:{place.step}", f"--model_tag={place.tag} --step={place.step}"
    start = f"--model_tag={place.tag} --model_step={place.step} --device_batch_size=4"
    train = {"base": [f"mid_train {start}", f"chat_sft --source=base {start}"], "mid": [f"chat_sft {start}"]}
    if not chat.can_chat(tokenizer):
        lines = [f'sample --init_from={name} --start="Once upon a time"', f"inference_server --init_from={name}"]
    elif place.source == "base":
        lines = [f"base_eval --source=base {chosen}", *train["base"], f'sample --init_from={name} --start="Once"']
    else:
        evaluate, serve = (f"{script} --source={place.source} {chosen}" for script in ("chat_eval", "chat_web"))
        lines = [evaluate, *train.get(place.source, []), serve]
    return [f"python -m scripts.{line}" for line in lines]
