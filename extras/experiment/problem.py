"""A problem in a text file and the name of a code base: the experiment that an agent then works on."""

import tempfile
from dataclasses import replace
from pathlib import Path

from extras.experiment.file import Experiment, load
from nanochat.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
CODES = ("nanochat", "nanogpt")
CHARACTERS = "shakespeare_char"
LITTLE_WORLD = "littleworld_char"
DOCUMENTS = 3000  # about as much text as Shakespeare


def file_for(code: str | None) -> Path:
    """The experiment's file for a code base. Raises UserError for a name that is none."""
    if code not in CODES:
        raise UserError(f"--code is {code}; expected {' or '.join(CODES)}, or an experiment's file instead")
    return ROOT / "experiments" / f"agent_{code}.yaml"


def experiment_for(problem: Path, code: str | None) -> Experiment:
    """The experiment of a problem: the code base's own recipe, at a size that this machine trains in minutes.

    nanogpt takes the characters of Shakespeare if they were prepared, else those of the little world's stories.
    """
    experiment = replace(load(file_for(code)), name=f"{problem.stem}-{code}")
    if code != "nanogpt":
        return experiment
    train = {**experiment.stages["train"], "dataset": characters()}
    return replace(experiment, stages={**experiment.stages, "train": train})


def characters() -> str:
    """Token files of characters, made of the little world's text if there are none."""
    from nanochat.data import tokens
    from nanochat.data.prepare import prepare
    from nanochat.paths import base_dir
    from tasks.littleworld.documents import documents

    if tokens.is_there(CHARACTERS):
        return CHARACTERS
    folder = base_dir().absolute() / "tokens" / LITTLE_WORLD
    if not tokens.is_there(str(folder)):
        print(f"{CHARACTERS} was not prepared, so the text is {DOCUMENTS} documents of the little world", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            text = Path(scratch, "littleworld.txt")
            text.write_text("\n\n".join(documents("train", 0, DOCUMENTS)), encoding="utf-8")
            prepare(str(text), folder, tokenizer="char")
    return str(folder)
