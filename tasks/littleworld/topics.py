"""Things one can say to the model, with all the ways to say them, and what it answers."""

import random
import re
from dataclasses import dataclass

from nanochat.data.shards import ExamSplit
from tasks.littleworld.world import held_out


@dataclass(frozen=True)
class Topic:
    """One thing to say in many ways. A phrase belongs to a split by its hash; patterns are for training alone.

    In a pattern `(a|b|)` stands for one of its options. The first phrase is always trained.
    """

    phrases: list[str]
    patterns: list[str]
    answers: list[str]
    keys: list[str]
    """words of which a right answer must hold one"""


def topic(phrases: str, patterns: str, answers: str, keys: str) -> Topic:
    """A topic from lists with | or, for patterns, a line each."""
    lines = [line.strip() for line in patterns.strip().split("\n") if line.strip()]
    return Topic(_items(phrases), lines, _items(answers), _items(keys))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.replace("\n", " ").split("|")]


_CHOICE = re.compile(r"\(([^()]*)\)")
# what may stand around a phrase without making it another one
_AROUND = re.compile(r"^(?:(?:hello|hi|hey|so|well|and|ok|okay|please|nanochat|now|but|there|then) )+|(?: (?:please|nanochat|now|then))+$")


def fill(rng: random.Random, pattern: str) -> str:
    """A pattern with one option of each choice."""
    while found := _CHOICE.search(pattern):
        pattern = pattern[: found.start()] + rng.choice(found[1].split("|")) + pattern[found.end() :]
    text = re.sub(r" +([?!.,])", r"\1", re.sub(" {2,}", " ", pattern)).strip()
    return text[0].upper() + text[1:]


def core(phrase: str) -> str:
    """What a phrase comes down to: its words in lower case, without greetings around it and without contractions."""
    words = re.sub("[^a-z ]", "", spelled_out(phrase.lower())).split()
    return _AROUND.sub("", " ".join(words))


CONTRACTIONS = {"what is": "what's", "who is": "who's", "where is": "where's", "how is": "how's", "i am": "i'm", "you are": "you're",
                "it is": "it's", "that is": "that's", "do not": "don't", "does not": "doesn't", "cannot": "can't", "i will": "i'll",
                "i have": "i've", "let us": "let's", "i would": "i'd", "did not": "didn't"}


def spelled_out(text: str) -> str:
    """Text in lower case without contractions."""
    for long, short in CONTRACTIONS.items():
        text = re.sub(rf"\b{re.escape(short)}\b", long, text)
    return text


def contracted(rng: random.Random, text: str) -> str:
    """Text with one or more contractions, as people type; the same text if none fits."""
    for long, short in CONTRACTIONS.items():
        if rng.random() < 0.8:
            text = re.sub(rf"\b{long}(?= \w)", short, text)
            text = re.sub(rf"\b{long[0].upper() + long[1:]}(?= \w)", short[0].upper() + short[1:], text)
    return text


def phrase_split(phrase: str, group: Topic) -> ExamSplit:
    """The split of a phrase. The first of a topic is trained, and so are all where there is no pattern."""
    return "train" if phrase == group.phrases[0] or not group.patterns else held_out(f"phrase {phrase}", 15)


def say(rng: random.Random, group: Topic, split: ExamSplit, held: frozenset[str]) -> str | None:
    """One way to say it: for training mostly filled from a pattern; None where this draw is of another split, or its core is held out."""
    if split == "train" and group.patterns and rng.random() < 0.6:
        phrase = fill(rng, rng.choice(group.patterns))
        return None if core(phrase) in held else phrase
    phrase = rng.choice(group.phrases)
    return phrase if phrase_split(phrase, group) == split else None
