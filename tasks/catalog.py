"""Which conversations the training stages use, and which questions are scored, by name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from nanochat.data import shards
from nanochat.data.shards import ExamSplit
from nanochat.data.task import Task
from nanochat.errors import UserError
from tasks.arc import ARC
from tasks.customjson import CustomJSON, divided, overlap
from tasks.gsm8k import GSM8K
from tasks.humaneval import HumanEval
from tasks.identity import identity, identity_path
from tasks.littleworld.conversations import KINDS, LittleWorld
from tasks.littleworld.newcomer import NAME as NEWCOMER
from tasks.littleworld.newcomer import Newcomer
from tasks.mixture import Mixture, Rows
from tasks.mmlu import MMLU
from tasks.smoltalk import SmolTalk
from tasks.spellingbee import SimpleSpelling, SpellingBee

RECIPES = ("littleworld", "real", "none")
Stage = Literal["mid", "sft"]

# The graded tasks; creating one downloads it.
_REAL: dict[str, Callable[[ExamSplit], Task]] = {
    "ARC-Easy": lambda split: ARC("ARC-Easy", split),
    "ARC-Challenge": lambda split: ARC("ARC-Challenge", split),
    "MMLU": MMLU,
    "GSM8K": GSM8K,
    "HumanEval": lambda split: HumanEval(),
    "SpellingBee": SpellingBee,
}
ASKS = {  # what each graded task asks, for people
    "facts": "What people, towns, animals, jobs and things of the little world are like.",
    "brief": "The same facts; a system message wants them in a word or two.",
    "arithmetic": "Two numbers to add, subtract, multiply or divide; the calculator helps.",
    "numbers": "Sums in several steps, percentages, halves, even or odd, which is larger.",
    "spelling": "The letters of a word in quotes, one by one.",
    "spelling_plain": "The letters of a word without quotes, one by one.",
    "counting": "How often a letter occurs in a word in quotes.",
    "letters": "How long a word is, its first and last letter, the word backwards.",
    "repeating": "Words to say again, exactly.",
    "refusal": "Questions from outside the little world, to be declined honestly.",
    "stories": "A short story about those whom the question names.",
    "followup": "A second question that makes sense only after the first.",
    "identity": "Who the model is; sometimes a system message gives it another name.",
    "smalltalk": "Greetings, thanks, jokes and moods.",
    "everyday": "What everybody knows: examples of a kind, days, months, colours, opposites.",
    NEWCOMER: "Sixty questions as a newcomer types them; an honest refusal counts as correct.",
    "ARC-Easy": "Science questions from school tests, the easier ones; four choices.",
    "ARC-Challenge": "Science questions from school tests, the harder ones; four choices.",
    "MMLU": "Exam questions of 57 subjects; four choices.",
    "GSM8K": "Word problems of grade school, in several steps.",
    "HumanEval": "Python functions to write, which tests then run.",
    "SpellingBee": "How often a letter occurs in a word.",
}
GRADED = {"littleworld": (*KINDS, NEWCOMER), "real": tuple(_REAL), "none": ()}
# Of these the chat page offers a question first: of each kind of skill one, and something that it should refuse.
FIRST_TO_TRY = ("followup", "arithmetic", "spelling_plain", "stories", "refusal", "facts")
TEST_ONLY = ("HumanEval", NEWCOMER)  # never for training, which has no other split of them


def task(name: str, split: ExamSplit) -> Task:
    """A graded task by its name in GRADED. Raises what downloading it raises."""
    if name == NEWCOMER:
        return Newcomer(split)
    return LittleWorld(name, split) if name in KINDS else _REAL[name](split)


def graded_tasks(recipe: str, split: ExamSplit) -> list[Task]:
    """The graded tasks of a recipe; none if training uses the user's own conversations only."""
    names = [name for name in GRADED[recipe] if split == "test" or name not in TEST_ONLY]
    return [task(name, split) for name in names]


def recipe_of(meta: dict) -> str:
    """The recipe whose questions suit a checkpoint: that of the text and conversations it was trained on."""
    trained_on = meta.get("conversations")
    if trained_on in ("littleworld", "real"):
        return trained_on
    datasets = [name.partition(":")[0] for name in (meta.get("dataset") or "").split()]
    return "littleworld" if shards.DEFAULT_DATASET in datasets else "real"


def training_conversations(
    recipe: str, data_path: Sequence[Path], split: shards.Split, stage: Stage = "sft",
    val_data_path: Sequence[Path] = (),
) -> Mixture:  # fmt: skip
    """The conversations of a recipe and of the user's own files, shuffled together; split is train or val.

    Validation uses the files in `val_data_path` if given, else the recipe's, else (with own conversations only) a
    held-out fraction of those, which the mixture's `note` reports.
    """
    if recipe not in RECIPES:
        raise UserError(f"--conversations is {recipe!r}; expected one of {', '.join(RECIPES)}")
    own = [CustomJSON(path) for path in data_path] if split == "train" or val_data_path or recipe == "none" else []
    if recipe == "none" and not own:
        raise UserError("there are no conversations to train on; name a file with --data_path or use --conversations")
    if split == "val" and val_data_path:
        given = [CustomJSON(path) for path in val_data_path]
        return Mixture(given, overlap(own, given))
    if recipe == "none" and not val_data_path:
        return divided(own, split)
    if recipe == "littleworld":
        known: list[Rows] = [LittleWorld(kind, split) for kind in KINDS]
    else:
        known = _real(stage, split) if recipe == "real" else []
    return Mixture([*known, *own])


def _real(stage: Stage, split: shards.Split) -> list[Rows]:
    """The mixtures of the classic recipe; validation has the same tasks in about the same proportions.

    Conversations about the model itself are optional (scripts.make_identity).
    """
    who = [identity()] if split == "train" and identity_path().exists() else []
    if split == "train" and stage == "mid":
        return [SmolTalk("train"), MMLU("train"), GSM8K("train"), *who, *who,
                SimpleSpelling("train", 200_000), SpellingBee("train")]  # fmt: skip
    if split == "train":
        return [ARC("ARC-Easy", "train"), ARC("ARC-Challenge", "train"), GSM8K("train"), SmolTalk("train", 10_000),
                *who, SimpleSpelling("train", 300), SpellingBee("train", 300)]  # fmt: skip
    if stage == "mid":
        return [SmolTalk("val", 7000), MMLU("val"), GSM8K("val"), SimpleSpelling("val", 3000), SpellingBee("val", 1200)]
    return [ARC("ARC-Easy", "val"), ARC("ARC-Challenge", "val"), GSM8K("val"), SmolTalk("val", 1000)]
