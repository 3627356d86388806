"""The little world itself: who lives where, what an animal eats, and which of it is held out for validation and test.

The world is the same for every seed; a seed only changes what is told about it and in which order.
"""

import functools
import random
import re
import zlib
from dataclasses import dataclass, field

from nanochat.data.shards import ExamSplit
from tasks.littleworld import facts, words
from tasks.littleworld.phrases import TABLES


def held_out(key: str, test: int = 10, val: int = 5) -> ExamSplit:
    """The split of an item, from a hash of its name alone: `test` and `val` percent, else train.

    crc32, since hash() changes from process to process and a cryptographic hash would cost most of the generation.
    """
    bucket = zlib.crc32(key.encode()) % 1000
    return "test" if bucket < 10 * test else "val" if bucket < 10 * (test + val) else "train"


def pair_split(a: int, b: int) -> ExamSplit:
    """The split of a sum: of its two numbers, whatever their order and whatever is done with them."""
    return held_out(f"pair {min(a, b)} {max(a, b)}")


def article(word: str) -> str:
    """`word` with a or an in front, by its sound."""
    first = word.lower()
    silent_h = first.startswith(("hour", "honest", "heir"))
    like_you = first.startswith(("uni", "use", "usu", "uk", "eu", "one", "once"))
    return ("an " if (first[0] in "aeiou" and not like_you) or silent_h else "a ") + word


_MARK = re.compile(r"@ (?=(\w+))")
_START = re.compile(r"(?:^|(?<=[.!?] )|(?<=\.\" )|(?<=\n)) *[a-z]")


def grammar(text: str) -> str:
    """Put a or an for every `@`, and a capital at the start of every sentence."""
    text = _MARK.sub(lambda mark: article(mark[1])[: -len(mark[1])], text)
    return _START.sub(lambda start: start[0].upper(), text)


def listing(items: list[str]) -> str:
    """a, b and c"""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def plural(noun: str) -> str:
    """The plural of a noun of the little world."""
    irregular = {"mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "child": "children", "man": "men",
                 "woman": "women", "sheep": "sheep", "deer": "deer", "leaf": "leaves", "wolf": "wolves", "calf": "calves",
                 "knife": "knives", "shelf": "shelves", "scarf": "scarves", "loaf": "loaves", "wife": "wives",
                 "half": "halves", "hoof": "hooves", "aircraft": "aircraft", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
                 "halibut": "halibut", "cod": "cod", "plaice": "plaice", "oats": "oats", "dress": "dresses", "tongs": "tongs"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


@dataclass
class Entity:
    """Somebody or something that facts are known about."""

    kind: str  # person, town, animal, job, thing
    name: str
    values: dict[str, str] = field(default_factory=dict)
    female: bool = False
    slots: dict[str, str] = field(default_factory=dict)  # what fills {n}, {s}, {an}, ... in a phrase

    def __post_init__(self) -> None:
        an = self.name if self.kind in ("person", "town") else article(self.name)
        s, o, p = ("she", "her", "her") if self.female else ("he", "him", "his")
        if self.kind != "person":
            s, o, p = "it", "it", "its"
        self.slots = {"n": self.name, "an": an, "An": an[0].upper() + an[1:], "s": s, "S": s.capitalize(), "o": o,
                      "p": p, "P": p.capitalize(), "ns": plural(self.name)}

    def fill(self, phrase: str, attribute: str) -> str:
        """A phrase of `phrases.py` about one of this entity's facts."""
        value = self.values[attribute]
        a_value = article(value)
        text = phrase.format_map({**self.slots, "v": value, "V": value[0].upper() + value[1:], "a_v": a_value})
        return text[0].upper() + text[1:]


@dataclass
class World:
    entities: dict[str, list[Entity]]  # kind -> entities
    by_name: dict[str, Entity]  # of people and towns
    values: dict[tuple[str, str], tuple[str, ...]]  # (kind, attribute) -> every value it takes


@functools.cache
def world() -> World:
    """The little world (built once, about 2 ms)."""
    entities = {kind: _table(kind, *table) for kind, table in
                {"town": facts.TOWNS, "animal": facts.ANIMALS, "job": facts.JOBS, "thing": facts.THINGS}.items()}
    entities["person"] = _people([town.name for town in entities["town"]], [job.name for job in entities["job"]])
    values = {(kind, attribute): tuple(sorted({e.values[attribute] for e in group}))
              for kind, group in entities.items() for attribute in TABLES[kind]}
    by_name = {e.name: e for kind in ("person", "town") for e in entities[kind]}
    return World(entities, by_name, values)


def _table(kind: str, header: str, rows: str) -> list[Entity]:
    found = []
    for row in rows.strip().split("\n"):
        name, *values = row.split("|")
        found.append(Entity(kind, name, dict(zip(header.split(), values, strict=True))))
    return found


def _people(towns: list[str], jobs: list[str]) -> list[Entity]:
    rng = random.Random("the people of the little world")
    names = [(name, True) for name in words.WOMEN] + [(name, False) for name in words.MEN]
    rng.shuffle(names)
    names = names[: len(names) // 2 * 2]  # everybody has one best friend, so an even number
    pet_names = rng.sample(words.PET_NAMES, len(names))
    rng.shuffle(towns)
    rng.shuffle(jobs)
    people = []
    for i, ((name, female), pet_name) in enumerate(zip(names, pet_names, strict=True)):
        town, job = towns[i % len(towns)], jobs[i % len(jobs)]  # no town has two people of one trade
        people.append(Entity("person", name, {
            "town": town, "job": job, "pet": rng.choice(facts.PETS), "petname": pet_name, "food": rng.choice(facts.FOODS),
            "colour": rng.choice(facts.COLOURS), "hobby": rng.choice(facts.HOBBIES), "month": rng.choice(facts.MONTHS)},
            female))
    for one, other in zip(people[::2], people[1::2], strict=True):
        one.values["friend"], other.values["friend"] = other.name, one.name
    return people


def question_split(entity: Entity, attribute: str, phrasing: int) -> ExamSplit:
    """The split of one way to ask for one fact; the first phrasing of every fact is always trained."""
    if phrasing == 0:
        return "train"
    return held_out(f"ask {entity.name} {attribute} {phrasing}", test=12)


def questions(entity: Entity, attribute: str, split: ExamSplit) -> list[str]:
    """The phrasings of this split for a fact, filled in. May be empty for val and test."""
    asked = TABLES[entity.kind][attribute][0]
    return [entity.fill(phrase, attribute) for i, phrase in enumerate(asked)
            if question_split(entity, attribute, i) == split]


@functools.cache
def spellable() -> dict[str, str]:
    """Every real word that can be asked to be spelled, 3 to 10 letters -> the word whose hash decides its split.

    A word and its forms (garden, gardens) share a split: else one would give the other away.
    """
    bases = set(words.VERBS + words.ADJECTIVES + words.ADVERBS + words.OTHER)
    nouns = {noun for theme in words.THEMES.values() for noun in theme}
    nouns |= {e.name for kind in ("animal", "thing", "job") for e in world().entities[kind]}
    table = {}
    for noun in sorted(nouns):
        table[plural(noun)] = noun
    for verb in words.VERBS:
        table[past(verb)] = table[ing(verb)] = verb
    table |= {word: word for word in sorted(bases | nouns)}
    return {word: base for word, base in sorted(table.items()) if re.fullmatch("[a-z]{3,10}", word)}


def word_split(word: str) -> ExamSplit:
    """The split of a word to spell or to count letters in; any string has one."""
    return held_out("word " + spellable().get(word, word))


IRREGULAR = {pair.split(":")[0]: pair.split(":")[1] for pair in """blow:blew buy:bought catch:caught choose:chose come:came draw:drew
drink:drank drive:drove eat:ate fall:fell feel:felt find:found fly:flew forgive:forgave get:got give:gave go:went hang:hung
hear:heard hide:hid hold:held keep:kept kneel:knelt lean:leaned leave:left make:made meet:met ride:rode rise:rose run:ran
see:saw sell:sold sing:sang sit:sat sleep:slept slide:slid speak:spoke stand:stood swim:swam swing:swung take:took tell:told
think:thought wake:woke wear:wore write:wrote spill:spilled smell:smelled spoil:spoiled burn:burned dream:dreamed
learn:learned overcome:overcame seem:seemed signal:signalled""".split()}


def _doubles(verb: str) -> bool:
    # one short syllable ending consonant-vowel-consonant: stop, stopped; not: show, fix, open
    short = re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", verb) is not None
    return short or verb in ("admit", "begin", "forget", "prefer", "regret", "quarrel", "travel", "label", "occur", "signal")


def past(verb: str) -> str:
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if _doubles(verb) else "") + "ed"


def ing(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if _doubles(verb) else "") + "ing"
