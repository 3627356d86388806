"""Conversations of the little world by kind, and what counts as a right answer to them."""

import functools
import random
import re
from collections.abc import Callable

from nanochat.data.shards import ExamSplit
from tasks.littleworld import VERSION, everyday, talk
from tasks.littleworld.exercises import as_typed, count_turns, spell_turns
from tasks.littleworld.letters import letter_turns, repeat_turns
from tasks.littleworld.messages import asked_by_newcomers, plain, texted
from tasks.littleworld.stories import Subject, faults
from tasks.littleworld.sums import number_turns
from tasks.littleworld.world import world


def _asked(draw: Callable[..., tuple[str, str | list[dict], dict]], **how: bool) -> Callable[..., talk.Drawn]:
    """A kind of one question and one answer."""
    def conversation(rng: random.Random, split: ExamSplit) -> talk.Drawn:
        question, reply, expected = draw(rng, split, **how)
        question = as_typed(rng, question)
        return talk.turns(talk.typed(rng, question), reply), expected
    return conversation


_DRAW = {"facts": talk.fact, "brief": talk.brief, "arithmetic": talk.arithmetic, "numbers": _asked(number_turns),
         "spelling": _asked(spell_turns, quoted=True), "spelling_plain": _asked(spell_turns, quoted=False),
         "counting": _asked(count_turns, quoted=True), "letters": _asked(letter_turns), "repeating": _asked(repeat_turns),
         "refusal": talk.refusal, "stories": talk.stories, "followup": talk.followup,
         "identity": talk.identity, "smalltalk": talk.small_talk, "everyday": everyday.everyday}
_SHORT = (talk.fact, talk.fact, talk.refusal, talk.small_talk, _asked(spell_turns), talk.arithmetic, talk.identity,
          everyday.everyday)
KINDS = tuple(_DRAW)
TEXTED = 0.16  # of the conversations for training are typed as on a phone
# how many conversations of a kind make a good training mixture: in proportion to what there is to learn
TRAIN_SIZES = {"facts": 34_000, "brief": 34_000, "arithmetic": 13_000, "numbers": 26_000,
               "spelling": 11_000, "spelling_plain": 26_000, "counting": 5_500, "letters": 16_000, "repeating": 11_000,
               "refusal": 22_000, "stories": 10_000, "followup": 30_000, "identity": 21_000, "smalltalk": 35_000,
               "everyday": 12_000}
_EVAL_SIZES = {"facts": 1000, "brief": 200, "arithmetic": 200, "numbers": 200,
               "spelling": 200, "spelling_plain": 200, "counting": 200, "letters": 200, "repeating": 50, "refusal": 200,
               "stories": 100, "followup": 1000, "identity": 100, "smalltalk": 100,
               "everyday": 200}


class LittleWorld:
    """Conversations of one kind and split; item i is drawn afresh from its number, so any size can be asked for."""

    def __init__(self, kind: str, split: ExamSplit, size: int | None = None):
        if kind not in _DRAW:
            raise ValueError(f"no kind {kind!r} of little world conversation; there are {', '.join(KINDS)}")
        self.name = kind
        self.split: ExamSplit = split
        self.size = (TRAIN_SIZES if split == "train" else _EVAL_SIZES)[kind] if size is None else size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict:
        """Conversation i, with what its last answer must hold under "expect"."""
        if not 0 <= i < self.size:
            raise IndexError(i)
        # a string seed: random.Random(-1) is random.Random(1), a string is hashed whole
        rng = random.Random(f"little world {self.name} {self.split} {i}")
        messages, expect = self._draw(rng)
        while self.split == "train" and asked_by_newcomers(plain(messages)):
            messages, expect = self._draw(rng)
        return {"messages": messages, "expect": expect}

    def _draw(self, rng: random.Random) -> talk.Drawn:
        messages, expect = _DRAW[self.name](rng, self.split)
        if self.name not in ("stories", "followup") and messages[0]["role"] == "user" and rng.random() < 0.12:
            before, _ = rng.choice(_SHORT)(rng, "train")  # a turn that has nothing to do with the question
            if before[0]["role"] == "user":  # what a system message asks for would hold for the question too
                messages = before + messages
        if self.split == "train" and rng.random() < TEXTED:
            messages = texted(rng, messages, expect)
        return messages, expect

    def contents(self) -> list[dict]:
        """What they are made of, for nanochat/data/contents.py."""
        made = ["little world", VERSION, self.name, self.split, self.size]
        return [{"what": f"{self.name} of the little world, {self.split}", "made": made}]

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether `answer`, the visible text of a reply to all but the last message, is right."""
        expect = conversation["expect"]
        if "refuse" in expect:
            return outside_answer(answer)
        if "story" in expect:
            return not faults(answer, [Subject(role, name) for role, name in expect["story"]])
        if outside_answer(answer) and "any" not in expect:
            return False
        if "values" in expect:
            return names_only(answer, expect["values"], expect["about"])
        if "name" in expect:
            asked = _text(conversation["messages"][-2])
            return {name for name in _people(answer) if name.lower() not in asked.lower()} == {expect["name"]}
        if "people" in expect:
            return _people(answer) == set(expect["people"])
        if "members" in expect:
            kind, count = expect["members"]
            named = [re.sub(r"^(an?|the) ", "", name) for name in re.split(r", | and ", answer.lower().rstrip(".!"))]
            return (len(set(named)) == len(named) == count and set(named) <= everyday.members(kind)
                    and expect.get("not", "\0") not in answer)
        if "word" in expect:
            return _spelled(answer) == ["-".join(expect["word"])]
        if "spelled" in expect and _spelled(answer) != ["-".join(expect["spelled"])]:
            return False
        if "number" in expect:
            said = _numbers(answer.replace(",", ""))
            return bool(said) and said[-1] == expect["number"] and expect.get("in", "") in answer
        if "letter" in expect:  # single letters that are not part of a spelled word
            return re.findall(r"(?<![\w-])[a-z](?![\w-])", answer)[-1:] == [expect["letter"]]
        if "backwards" in expect:
            word = expect["backwards"]
            return _spelled(answer) == ["-".join(word), "-".join(reversed(word))]
        if "repeats" in expect:
            return re.findall(r"\w+", answer.lower()) == re.findall(r"\w+", expect["repeats"].lower())
        if "list" in expect:
            return _numbers(answer) == expect["list"]
        if "results" in expect:
            return re.findall(r"= (-?\d+(?:\.\d+)?)", answer) == expect["results"]
        if "begins" in expect and not re.match(rf"{expect['begins']}\b", answer):
            return False
        if "says" in expect:
            said = all(_occurs(value, answer) for value in expect["says"]) and expect.get("not", "\0") not in answer
            return said and not ("of" in expect and _names_others(answer, expect["of"], [*expect["says"], expect["about"]]))
        return any(key in answer for key in expect["any"])


def outside_answer(answer: str) -> bool:
    """Whether an answer honestly says that the question is outside of the little world."""
    return "i only know the little world" in answer.lower()


def names_only(answer: str, values: list, about: str | list[str]) -> bool:
    """Whether all `values` ([kind, attribute, value]) are named and none else that their attributes could have.

    Where it is about two people, each must be named before his or her value, and both of the one before the other's.
    """
    rest = answer
    if not isinstance(about, str):
        said = [answer.lower().find(text.lower()) for name, (_, _, value) in zip(about, values, strict=True) for text in (name, value)]
        if min(said) < 0 or not (said[0] < said[1] < said[2] < said[3] or said[2] < said[3] < said[0] < said[1]):
            return False
    for name in [about] if isinstance(about, str) else about:
        rest = re.sub(rf"\b{re.escape(name)}\b", " ", rest, flags=re.IGNORECASE)
    for _, _, value in values:
        if not _occurs(value, answer):
            return False
        rest = re.sub(rf"\b{re.escape(value)}\b", " ", rest, flags=re.IGNORECASE)
    return not any(_any_value(kind, attribute).search(rest) for kind, attribute, _ in values)


@functools.cache
def _any_value(kind: str, attribute: str) -> re.Pattern:
    # capitals count: a pet called Pancake is not a plate of pancakes
    return re.compile("|".join(rf"\b{re.escape(value)}\b" for value in world().values[kind, attribute]))


def _names_others(answer: str, group: str, allowed: list[str]) -> bool:
    """Whether an answer names another one of a group of everyday knowledge than those that are allowed."""
    rest = answer
    for text in sorted(allowed, key=len, reverse=True):
        rest = re.sub(rf"\b{re.escape(text)}\b", " ", rest, flags=re.IGNORECASE)
    return any(_occurs(other, rest) for other in everyday.groups()[group])


def _occurs(value: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(value)}\b", text, re.IGNORECASE) is not None


def _spelled(text: str) -> list[str]:
    return re.findall(r"\b[a-z](?:-[a-z])+\b", text)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def _people(text: str) -> set[str]:
    return {name for name in re.findall(r"[A-Z][a-z]+", text)
            if name in world().by_name and world().by_name[name].kind == "person"}


def _text(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def reference(conversation: dict) -> str:
    """The visible text of the reference answer."""
    content = conversation["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


