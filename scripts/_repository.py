"""Checkpoints in repositories of the hub: which files belong together, and what to tell people about them.

Imports torch only in the functions that read weights, so that scripts.pull and scripts.push answer --help at once.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from nanochat import chat, foreign_tokenizers
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir

if TYPE_CHECKING:
    from nanochat.checkpoint.manager import Loaded
    from nanochat.tokenizer import Tokenizer

# The default data of mid-training and fine-tuning, by the recipe that their parent was trained with.
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
    found = []
    for path in map(PurePosixPath, paths):
        # Only as our files are named: a number with more zeros is another program's.
        match = re.fullmatch(r"model_(\d{6}|[1-9]\d{6,14})\.pt", path.name, re.ASCII)
        if match and str(path.with_name(f"meta_{match[1]}.json")) in paths:
            found.append((path.parent, int(match[1])))
    return found


def tokenizer_of(repo: str, paths: Sequence[str], inside: PurePosixPath) -> tuple[PurePosixPath, list[str]]:
    """The folder and files of the tokenizer for a checkpoint in the folder `inside`: nearer ones come first.

    Raises UserError if the repository has none.
    """
    top = PurePosixPath()
    for place in (inside, inside / "tokenizer", top / "tokenizer", top):
        for names in foreign_tokenizers.FILES[:-1]:  # not nanoGPT's characters
            wanted = [str(place / name) for name in names]
            if all(path in paths for path in wanted):
                return place, wanted + [path for path in [str(place / foreign_tokenizers.LENGTHS)] if path in paths]
    raise UserError(f"{repo} has no tokenizer (tokenizer.json or tokenizer.pkl) beside its model")


def tag_of(repo: str) -> str:
    """The tag for a repository's model: d<depth> of its name, else the name."""
    name = repo.rpartition("/")[2]
    depth = re.search(r"(?<![a-zA-Z0-9])d\d+(?![a-zA-Z0-9])", name)
    return depth[0] if depth else name


def check_neighbours(folder: Path, tokenizer: "Tokenizer") -> None:
    """Raise UserError where a folder has another tokenizer, which all its checkpoints share."""
    from nanochat.checkpoint import manager
    from nanochat.tokenizer import Tokenizer

    there, place = manager.steps(folder), manager.tokenizer_folder(folder)
    if (there or place.is_relative_to(folder)) and Tokenizer.load(place).hash != tokenizer.hash:
        found = "checkpoints with another tokenizer" if there else "another tokenizer"
        raise UserError(f"{folder} holds {found}; choose another --tag")


def describe(loaded: "Loaded") -> str:
    """What a model is, in figures."""
    from nanochat.checkpoint import legacy
    from nanochat.gpt import count_parameters
    from nanochat.log import short

    config = loaded.model.config
    kind = "GPT-2" if config.learned_positions else f"{legacy.generation(loaded.model.state_dict())} nanochat"
    parameters = short(count_parameters(loaded.model))
    return f"{kind}, {parameters} parameters, context {config.sequence_len}, vocabulary {config.vocab_size}"


def record_softcap(folder: Path, steps: Sequence[int], softcap: float) -> list[int]:
    """Write the softcap into the meta files of the checkpoints that do not record theirs; returns their steps.

    A value recorded in this way before is replaced. Raises UserError where all record theirs, and for damaged files.
    """
    from nanochat.checkpoint import legacy, manager, reading

    changes = {}
    for step in steps:
        path = folder / f"model_{step:06d}.pt"
        state = reading.weights(reading.torch_file(path, lazily=True), path)
        config = manager.read_meta(folder, step)["model_config"]
        if legacy.doubtful_softcap(config, state):
            changes[step] = {"model_config": {**config, "softcap": float(softcap)}}
    if not changes:
        raise UserError(f"--softcap is for checkpoints that do not record theirs; {folder} does, so leave it out")
    for step, change in changes.items():
        manager.update_meta(folder, step, change)
    return list(changes)


def commands(place: Place, tokenizer: "Tokenizer", recipe: str) -> list[str]:
    """What can be done next with a checkpoint, to be typed into a shell, with what that trains on as comments.

    recipe, littleworld or real: what training without a flag for the data takes after this checkpoint.
    """
    tag, step = f"--model_tag={shlex.quote(place.tag)}", place.step
    name = f"--init_from={shlex.quote(f'{place.source}:{place.tag}:{step}')}"
    chosen, start = f"--source={place.source} {tag} --step={step}", f"{tag} --model_step={step} --device_batch_size=4"
    mid, sft = RECIPES[recipe]
    if not chat.can_chat(tokenizer):
        lines = [f'sample {name} --start="Once upon a time"', f"inference_server {name}"]
    elif place.source == "base":
        lines = [
            f"base_eval {chosen}",
            f"mid_train {start}  # mid-training on {mid}",
            f"chat_sft --source=base {start}  # works, but a poor chat model without mid-training",
            f'sample {name} --start="Once"',
        ]
    else:
        tuning = [f"chat_sft --source=mid {start}  # fine-tuning on {sft}"] if place.source == "mid" else []
        lines = [f"chat_eval {chosen}", *tuning, f"chat_web {chosen}"]
    return [f"python -m scripts.{line}" for line in lines]
