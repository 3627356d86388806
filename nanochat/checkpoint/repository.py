"""Checkpoints in repositories of the hub: what files and names say about them, and what to say about them to people."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat import chat, foreign_tokenizers
from nanochat.checkpoint import legacy, manager, reading
from nanochat.errors import UserError
from nanochat.gpt import count_parameters
from nanochat.log import short
from nanochat.paths import SOURCES, checkpoints_dir
from nanochat.tokenizer import Tokenizer

# What mid-training and fine-tuning take by themselves, by the recipe that their parent was trained by.
RECIPES = {
    "littleworld": ("the little world, as before", "the little world, as before"),
    "real": (
        "the real recipe: SmolTalk, MMLU, GSM8K, spelling (downloads about 1 GB)",
        "the real recipe: SmolTalk, ARC, GSM8K, spelling (downloads about 1 GB)",
    ),
}


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
    there = set(paths)
    # As our files are named and no other way: a number with more zeros is another file's.
    found = [(PurePosixPath(path), re.fullmatch(r"(?:.*/)?model_(\d{6}|[1-9]\d{6,14})\.pt", path, re.ASCII))
             for path in paths]  # fmt: skip
    whole = [(path, match[1]) for path, match in found if match]
    return [(path.parent, int(step)) for path, step in whole if str(path.with_name(f"meta_{step}.json")) in there]


def tokenizer_of(paths: Sequence[str], inside: PurePosixPath) -> tuple[PurePosixPath, list[str]] | None:
    """The folder and files of the tokenizer for a checkpoint in the folder `inside`: nearer ones come first."""
    top = PurePosixPath()
    for place in (inside, inside / "tokenizer", top / "tokenizer", top):
        for names in foreign_tokenizers.FILES[:-1]:  # nanoGPT's characters are no tokenizer of these
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
    if (said := str(meta.get("source"))) in SOURCES:  # written by push
        return said
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
    config = meta.get("model_config")
    has_windows = isinstance(config, Mapping) and "window_pattern" in config
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
    """Checkpoints of one folder share a tokenizer. Raises UserError where there is another one in it, or for those."""
    there, place = manager.steps(folder), manager.tokenizer_folder(folder)
    if (there or place.is_relative_to(folder)) and Tokenizer.load(place).hash != tokenizer.hash:
        found = "checkpoints with another tokenizer" if there else "another tokenizer"
        raise UserError(f"{folder} holds {found}; choose another --tag")


def describe(loaded: manager.Loaded) -> str:
    """What a model is, in figures."""
    config = loaded.model.config
    kind = "GPT-2" if config.learned_positions else f"{legacy.generation(loaded.model.state_dict())} nanochat"
    parameters = short(count_parameters(loaded.model))
    return f"{kind}, {parameters} parameters, context {config.sequence_len}, vocabulary {config.vocab_size}"


def record_softcap(folder: Path, steps: Sequence[int], softcap: float) -> list[int]:
    """Write the softcap into the meta files of those checkpoints that do not record theirs; returns their steps.

    What was recorded before is replaced. Raises UserError where all record theirs, and for files that cannot be read.
    """
    recorded = {}
    for step in steps:
        config, path = manager.read_meta(folder, step).get("model_config"), folder / f"model_{step:06d}.pt"
        if not isinstance(config, Mapping):
            raise UserError(f"the meta file of {path} has no model_config; get the checkpoint again")
        state = reading.weights(reading.torch_file(path, lazily=True), path)
        recorded[step] = legacy.with_softcap(config, state, softcap)
    changes = {step: {"model_config": config} for step, config in recorded.items() if config is not None}
    if not changes:
        raise UserError(f"--softcap is for checkpoints that do not record theirs; {folder} does, so leave it out")
    for step, change in changes.items():
        manager.update_meta(folder, step, change)
    return list(changes)


def commands(place: Place, tokenizer: Tokenizer, recipe: str) -> list[str]:
    """What can be done next with a checkpoint, to be typed into a shell, and in comments what that trains on.

    recipe, littleworld or real: what training without a flag for the data takes after this checkpoint.
    """
    tag, step = f"--model_tag={shlex.quote(place.tag)}", place.step
    name = f"--init_from={shlex.quote(f'{place.source}:{place.tag}:{step}')}"
    chosen, start = f"--source={place.source} {tag} --step={step}", f"{tag} --model_step={step} --device_batch_size=4"
    mid, sft = RECIPES[recipe]
    if not chat.can_chat(tokenizer):
        lines = [f'sample {name} --start="Once upon a time"', f"inference_server {name}"]
    elif place.source == "base":
        lines = [f"base_eval {chosen}", f"mid_train {start}  # mid-training on {mid}",
                 f"chat_sft --source=base {start}  # works, but a poor chat model without mid-training",
                 f'sample {name} --start="Once"']  # fmt: skip
    elif place.source == "mid":
        lines = [f"chat_eval {chosen}", f"chat_sft --source=mid {start}  # fine-tuning on {sft}", f"chat_web {chosen}"]
    else:
        lines = [f"chat_eval {chosen}", f"chat_web {chosen}"]
    return [f"python -m scripts.{line}" for line in lines]
