"""Messages of a conversation, and how people type them."""

import functools
import random
import re
from collections.abc import Iterable

from tasks.littleworld.topics import contracted

Drawn = tuple[list[dict], dict]


def turns(*texts: str | list) -> list[dict]:
    """Messages from texts, user first."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]


GREETINGS = ("Hello! ", "Hi! ", "Please help me. ", "I have a question. ", "Excuse me. ", "Dear nanochat! ", "Hi, ", "Hey, ", "Hello nanochat, ",
             "OK, ", "So, ", "nanochat, ", "Now tell me: ")
ASKING = set("""What Where Who Which Whose When Why How Can Could Do Does Is Are Tell Please Name Spell Count List Give""".split())
AMERICAN = {"favourite": "favorite", "colour": "color", "Colour": "Color"}


def typed(rng: random.Random, question: str, greet: bool = True) -> str:
    """A question as people type it: now and then without capital, without question mark, with a greeting or contracted."""
    if "'" not in question and rng.random() < 0.1:
        question = contracted(rng, question)
    if ("colour" in question or "favourite" in question) and rng.random() < 0.1:
        for british, american in AMERICAN.items():
            question = question.replace(british, american)
    chance = rng.random()
    if chance < 0.04:
        return question.lower()
    if chance < 0.08:
        return question[0].lower() + question[1:].rstrip("?.!")
    if chance < 0.11:
        return question.rstrip("?.!") or question
    if chance < 0.15:
        return question.lower().rstrip("?.!") or question
    if chance < 0.19 and greet:
        greeting, first = rng.choice(GREETINGS), question.split()[0]
        return greeting + (question[0].lower() + question[1:] if greeting[-2] in ",:" and first in ASKING else question)
    return question


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def asked_by_newcomers(said: Iterable[str]) -> bool:
    """Whether the user's words (see `plain`) hold a question of the list that nobody trains on, or are one of its conversations."""
    said = tuple(said)
    return said in _newcomers() or any((turn,) in _newcomers() for turn in said)


@functools.cache
def _newcomers() -> frozenset[tuple[str, ...]]:
    from tasks.littleworld.newcomer import Newcomer  # which imports files that import this one

    task = Newcomer()
    return frozenset(plain(task[i]["messages"]) for i in range(len(task)))


def plain(messages: list[dict]) -> tuple[str, ...]:
    """What the user says, turn by turn, in small letters without marks."""
    return tuple(plain_text(message["content"]) for message in messages if message["role"] == "user")


def plain_text(text: str) -> str:
    return " ".join(re.findall("[a-z0-9]+", text.lower().replace("'", "")))
