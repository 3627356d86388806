"""Messages of a conversation, and how people type them."""

import random
import re
import zlib
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


# how one types on a phone, and the words that are typed like that
SHORT_FORMS = {"what is": "whats", "what's": "whats", "who is": "whos", "where is": "wheres", "how is": "hows", "i am": "im", "i'm": "im",
               "do not": "dont", "cannot": "cant", "i will": "ill", "thank you": "thx", "thanks": "thx", "please": "pls", "are you": "r u",
               "you": "u", "your": "ur", "because": "cos", "favourite": "fav", "hello": "hii", "going to": "gonna"}


_TWO_WORDS = re.compile(r"\b((?:twen|thir|for|fif|six|seven|eigh|nine)ty)-(?=[a-z]{3})")


def texted(rng: random.Random, messages: list[dict], expect: dict) -> list[dict]:
    """A conversation whose user types as on a phone: small letters, few marks, short forms (whats, pls, u, r).

    What is expected is not shortened: an answer may spell it, or say it again.
    """
    expected = str(expect).lower()
    forms = {long: short for long, short in SHORT_FORMS.items() if rng.random() < 0.5 and long not in expected}

    def shortened(text: str) -> str:
        text = text.lower()
        for long, short in forms.items():
            text = re.sub(rf"\b{long}\b(?!')", short, text)
        text = re.sub(r"(?<=\w)'(?=s\b)", "", text) if drops else text
        text = _TWO_WORDS.sub(r"\1 ", text) if drops else text  # twenty three
        return text.rstrip("?.!") or text

    drops = rng.random() < 0.6
    return [message | {"content": shortened(message["content"])} if message["role"] == "user" else message for message in messages]


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


# hashes of what newcomers ask (newcomer.py), for nobody trains on it; a test compares them with the list
NEWCOMERS = frozenset("""0141c8c7 032a9b34 0455a4b6 04da27ff 09caee61 0d9c8c2c 0e474bdc 17b3ebe0 19d70fd2 1b453122 1e0a65e2 1f6d0452 21b33e25
234814bf 23eaa7e1 2607d8fb 28128c10 285f2051 291ea9f3 33c0207c 3bde661c 3c2df59e 42ebf5fc 4a3a5077 4e015f28 5b50beb3
5cba144b 5d5a27fb 6600ece7 6780ff72 6f14addc 71c71eff 78f7e686 7b36a877 857b2678 85e85312 8889aee4 8a5a5fff 958432dc
a540973b a66168c9 aa8ae3cf ab0abafe aecec9d4 b3fb19ec b627cfa2 b88e1e21 bdec7535 bfffbd43 c571bd03 c9831b75 ccbf89d9
cf5c70d2 dcba1e66 e0702935 e075b251 e722b622 e74df498 ed946675 faf2ffe9""".split())


def asked_by_newcomers(said: Iterable[str]) -> bool:
    """Whether the user's words (see `plain`) hold a question of the list that nobody trains on, or are one of its conversations."""
    said = tuple(said)
    return hashed(said) in NEWCOMERS or len(said) > 1 and any(hashed((turn,)) in NEWCOMERS for turn in said)


def hashed(said: tuple[str, ...]) -> str:
    return f"{zlib.crc32('|'.join(said).encode()):08x}"


def plain(messages: list[dict]) -> tuple[str, ...]:
    """What the user says, turn by turn, in small letters without marks."""
    return tuple(plain_text(message["content"]) for message in messages if message["role"] == "user")


def plain_text(text: str) -> str:
    return " ".join(re.findall("[a-z0-9]+", text.lower().replace("'", "")))
