"""Letters: how a word is spelled, and how often a letter occurs in it.

A token hides its letters, so a small model learns them only where it sees them. The questions are made here from a list
of words: <base>/words.txt, one word per line, if it exists (github.com/dwyl/english-words has 370,000, public domain),
else the 4,186 words of the little world.
"""

import functools
import hashlib
import random
import re
from pathlib import Path

from nanochat.data.shards import ExamSplit
from nanochat.errors import UserError
from nanochat.paths import base_dir
from tasks.gsm8k import is_final_number
from tasks.littleworld.exercises import COUNT, SPELL
from tasks.littleworld.world import spellable, word_split

SIZES = {"train": 80_000, "val": 256, "test": 256}
VERSION = 2  # of the conversations made here; raise it when any of them changes
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class SpellingBee:
    """Counting a letter, by going through the word and once more with the calculator; ends with #### and the number.

    Source: generated here. Licence: that of this project. No word is in two splits.
    Raises UserError for a words.txt that cannot be used.
    """

    name = "SpellingBee"
    baseline = 0.0

    def __init__(self, split: ExamSplit, size: int | None = None):
        self.split = split
        self.size = SIZES[split] if size is None else size
        self.words = words(split)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"spelling bee {self.split} {index}")
        word = rng.choice(self.words)
        letter = rng.choice(word) if rng.random() < 0.9 else rng.choice(LETTERS)
        question = _typed(rng, rng.choice(COUNT).format(l=letter, w=word))
        return {"messages": [{"role": "user", "content": question},
                             {"role": "assistant", "content": counted(word, letter)}]}  # fmt: skip

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        return _contents(self)

    def grade(self, conversation: dict, answer: str) -> bool:
        return is_final_number(conversation, answer)


class SimpleSpelling:
    """Words letter by letter, which is what makes SpellingBee difficult; for training only, never graded."""

    name = "SimpleSpelling"

    def __init__(self, split: ExamSplit, size: int):
        self.split = split
        self.size = size
        self.words = words(split)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"simple spelling {self.split} {index}")
        word = rng.choice(self.words)
        return {"messages": [{"role": "user", "content": _typed(rng, rng.choice(SPELL).format(w=word))},
                             {"role": "assistant", "content": spelled(word)}]}  # fmt: skip

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        return _contents(self)


def _contents(task: SpellingBee | SimpleSpelling) -> list[dict]:
    digest = hashlib.sha256("\n".join(task.words).encode()).hexdigest()
    return [{"what": f"{task.name}, {task.split}", "made": [task.name, VERSION, task.split, task.size, digest[:16]]}]


def spelled(word: str) -> str:
    """The dashes make each letter the token that it is when letters are counted."""
    return f"{word}: {'-'.join(word)}"


def counted(word: str, letter: str) -> list[dict[str, str]]:
    """The parts of an answer: every letter with its place, how many were found so far, and what the calculator says."""
    found, lines = 0, []
    for place, each in enumerate(word, 1):
        found += each == letter
        lines.append(f"{place}-{each}" + (f" found {found}" if each == letter else ""))
    listed = "\n".join(lines)
    search = f"{spelled(word)}\n\nLooking for {letter}:\n{listed}\n\nThat makes {found}. With the calculator:"
    times = "1 time" if found == 1 else f"{found} times"
    return [
        {"type": "text", "text": search},
        {"type": "python", "text": f'"{word}".count("{letter}")'},
        {"type": "python_output", "text": str(found)},
        {"type": "text", "text": f"\n\nThe letter {letter} occurs {times} in {word}.\n\n#### {found}"},
    ]


def words(split: ExamSplit) -> tuple[str, ...]:
    """The words of a split. Raises UserError for a words.txt that cannot be read or is too short for three splits."""
    path = base_dir() / "words.txt"
    chosen = _split_words(path, split) if path.exists() else _split_words(None, split)
    if not chosen:
        raise UserError(f"{path} has no word of 3 to 20 letters for the {split} split; give it a few hundred words")
    return chosen


@functools.cache
def _split_words(path: Path | None, split: ExamSplit) -> tuple[str, ...]:
    listed = spellable() if path is None else _listed(path)
    return tuple(word for word in listed if word_split(word) == split)


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); expected one word per line, in UTF-8") from error
    return [word for line in dict.fromkeys(lines) if re.fullmatch("[a-z]{3,20}", word := line.strip().lower())]


def _typed(rng: random.Random, question: str) -> str:
    """A question as people type it: the word in other quotes or in none, small letters, no mark at the end."""
    quote = rng.choice("'\"\0").strip("\0")
    question = re.sub(r"(?<= )'(\w+)'", rf"{quote}\1{quote}", question)
    if rng.random() < 0.3:
        question = question[0].lower() + question[1:]
    return question.rstrip("?.") if rng.random() < 0.3 else question
