"""Conversations about the little world: questions of fact, honest refusals, follow-ups, who one is, small talk.

Every function draws one conversation of a split and returns (messages, expect); `expect` is what a grader looks for.
"""

import functools
import random
import re
import zlib

from nanochat.data.shards import ExamSplit
from tasks.littleworld import everyday, facts, outside, smalltalk, words
from tasks.littleworld.chatter import CHAT
from tasks.littleworld.exercises import SUMS, call, draw_sum, fit_for_training, make_up, spell_turns, sum_turns
from tasks.littleworld.identity import IDENTITY
from tasks.littleworld.messages import Drawn, capital, turns, typed
from tasks.littleworld.phrases import PERSON, TABLES
from tasks.littleworld.stories import draw_subjects, story
from tasks.littleworld.topics import Topic, core, fill, phrase_split, say
from tasks.littleworld.world import Entity, article, held_out, listing, pair_split, plural, questions, spellable, world

# ---- facts ----

KIND_SHARES = {"person": 60, "town": 11, "animal": 12, "job": 6, "thing": 11}


def draw_fact(rng: random.Random, kind: str | None = None) -> tuple[Entity, str]:
    kind = kind or rng.choices(tuple(KIND_SHARES), tuple(KIND_SHARES.values()))[0]
    group = world().entities[kind]
    return group[int(rng.random() * len(group))], rng.choice(tuple(TABLES[kind]))


def ask(rng: random.Random, split: ExamSplit) -> tuple[Entity, str, str]:
    """A fact and a phrasing of its question that belongs to this split."""
    while True:
        entity, attribute = draw_fact(rng)
        phrased = questions(entity, attribute, split)
        if phrased:
            return entity, attribute, rng.choice(phrased)


def answer(rng: random.Random, entity: Entity, attribute: str) -> str:
    return entity.fill(rng.choice(TABLES[entity.kind][attribute][1]), attribute)


def expects(entity: Entity, *attributes: str) -> dict:
    return {"values": [[entity.kind, attribute, entity.values[attribute]] for attribute in attributes], "about": entity.name}


def fact(rng: random.Random, split: ExamSplit) -> Drawn:
    if split == "train" and rng.random() < 0.08:
        return keyword(rng, split) if rng.random() < 0.5 else has_one(rng)
    chance = rng.random()
    if chance < 0.1:
        return two_facts(rng, split)
    if chance < 0.14:
        return two_people(rng, split)
    if chance < 0.2:
        return yes_or_no(rng, split)
    if chance < 0.28:
        return reverse(rng, split)
    if chance < 0.33:
        return who_is(rng, split)
    if chance < 0.36:
        return everyday.name_some(rng, split)
    if chance < 0.4:
        return keyword(rng, split)
    entity, attribute, question = ask(rng, split)
    return turns(typed(rng, question), answer(rng, entity, attribute)), expects(entity, attribute)


def brief(rng: random.Random, split: ExamSplit) -> Drawn:
    """A system message, or the question itself, asks for a short answer, and gets the bare fact.

    For training several questions follow one another, since a bare fact is two or three tokens to learn from.
    """
    said = []
    asked_in_question = split == "train" and rng.random() < 0.3
    for _ in range(rng.randrange(1, 5) if split == "train" and not asked_in_question else 1):
        entity, attribute, question = ask(rng, split)
        if asked_in_question:
            question = rng.choice(smalltalk.IN_A_WORD).format(question, question[0].lower() + question[1:])
        said += [typed(rng, question), bare(entity, attribute)]
    messages = turns(*said)
    if not asked_in_question:
        messages = [{"role": "system", "content": rng.choice(smalltalk.SHORT)}, *messages]
    return messages, expects(entity, attribute)


def bare(entity: Entity, attribute: str) -> str:
    return capital(entity.values[attribute]) + "."


def two_facts(rng: random.Random, split: ExamSplit) -> Drawn:
    """A question with two parts, both of which are answered."""
    while True:
        entity, one = draw_fact(rng)
        if entity.kind not in ("person", "town", "animal"):
            continue
        other = rng.choice([a for a in TABLES[entity.kind] if a != one])
        if held_out(f"both {entity.name} {min(one, other)} {max(one, other)}") != split:
            continue
        first = [q for q in questions(entity, one, "train") if q.endswith("?") and ". " not in q]
        second = smalltalk.PARTS[entity.kind][other].format_map(entity.slots)
        question = rng.choice(first).rstrip("?") + " and " + second + "?"
        told = smalltalk.TOLD[entity.kind][other].format_map({**entity.slots, "v": entity.values[other],
                                                              "a_v": article(entity.values[other])})
        return (turns(typed(rng, question), answer(rng, entity, one).rstrip(".") + f", and {told}."),
                expects(entity, one, other))


def two_people(rng: random.Random, split: ExamSplit) -> Drawn:
    """One question about two people, or a question about each of them."""
    while True:
        one, other = rng.sample(world().entities["person"], 2)
        first = rng.choice(tuple(smalltalk.BOTH))
        second = first if rng.random() < 0.5 else rng.choice(tuple(smalltalk.BOTH))
        if one.values[first] == other.values[second] or held_out(f"two {one.name} {other.name} {first} {second}") != split:
            continue
        if first == second and rng.random() < 0.7:
            question = rng.choice(smalltalk.BOTH[first]).format(one.name, other.name)
        else:
            asked = rng.choice([q for q in questions(one, first, "train") if q.endswith("?") and ". " not in q])
            question = asked.rstrip("?") + " and " + smalltalk.OF_ANOTHER[second].format(other.name) + "?"
        told = [entity.fill(TABLES["person"][attribute][1][0], attribute).rstrip(".")
                for entity, attribute in ((one, first), (other, second))]
        expected = expects(one, first)
        expected["values"] += expects(other, second)["values"]
        return turns(typed(rng, question), f"{told[0]}, and {told[1]}."), expected | {"about": [one.name, other.name]}


def keyword(rng: random.Random, split: ExamSplit) -> Drawn:
    """Not a question but its key words: Mira's job?"""
    while True:
        entity, attribute = draw_fact(rng, rng.choice(("person", "person", "person", "town", "animal")))
        i = rng.randrange(len(smalltalk.KEYWORDS[entity.kind]))
        if held_out(f"key {entity.name} {attribute} {i}") == split:
            break
    word = smalltalk.KEYWORD[entity.kind, attribute]
    question = smalltalk.KEYWORDS[entity.kind][i].format_map({**entity.slots, "w": word, "W": capital(word)})
    return turns(typed(rng, question, greet=False), answer(rng, entity, attribute)), expects(entity, attribute)


def has_one(rng: random.Random) -> Drawn:
    """For training: somebody has a pet, a job or a hobby, and which is it?"""
    person, attribute = rng.choice(world().entities["person"]), rng.choice(tuple(smalltalk.HAS))
    question = rng.choice(smalltalk.WHICH_IT_IS).format(n=person.name, what=smalltalk.HAS[attribute])
    return turns(typed(rng, question), answer(rng, person, attribute)), expects(person, attribute)


def yes_or_no(rng: random.Random, split: ExamSplit) -> Drawn:
    """Whether something is so. The answer is how it is: a model this small states the fact, but cannot compare it."""
    while True:
        entity, attribute = draw_fact(rng)
        if attribute not in smalltalk.IS_IT.get(entity.kind, {}):
            continue
        true = rng.random() < 0.5
        value = entity.values[attribute]
        claimed = value if true else rng.choice([v for v in world().values[entity.kind, attribute] if v != value])
        if claimed != entity.name and held_out(f"is it {entity.name} {attribute} {claimed}") == split:
            break
    question = smalltalk.IS_IT[entity.kind][attribute].format_map({**entity.slots, "v": claimed, "a_v": article(claimed)})
    return turns(typed(rng, question), answer(rng, entity, attribute)), expects(entity, attribute)


def reverse(rng: random.Random, split: ExamSplit) -> Drawn:
    """From the fact to who it is about, where only one can be meant."""
    while True:
        person = rng.choice(world().entities["person"])
        i = rng.randrange(len(smalltalk.WHO))
        if held_out(f"who {person.name} {i}") == split:
            break
    question, told = smalltalk.WHO[i]
    slots = {**person.slots, **person.values, "a_pet": article(person.values["pet"])}
    return turns(typed(rng, question.format_map(slots)), told.format_map(slots)), {"name": person.name}


def introduce(entity: Entity) -> str:
    """Who or what somebody or something is, in a sentence or two."""
    v = entity.values
    if entity.kind == "person":
        return f"{entity.name} is {article(v['job'])} who lives in {v['town']}. {entity.slots['P']} hobby is {v['hobby']}."
    if entity.kind == "town":
        return f"{entity.name} is a town on the river {v['river'].removeprefix('the ')}. It is known for {v['known']}."
    return f"{entity.slots['An']} is an animal that lives {v['home']}. It eats {v['food']}."


def who_is(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        kind = rng.choice(("person", "person", "town", "animal"))
        entity = rng.choice(world().entities[kind])
        question = rng.choice(smalltalk.INTRODUCE[kind]).format_map(entity.slots)
        if held_out("introduce " + question, 12) == split:
            break
    told = {"person": ("job", "town", "hobby"), "town": ("river", "known"), "animal": ("home", "food")}[kind]
    expected = expects(entity, *told)
    if kind == "town":
        expected["values"][0][2] = entity.values["river"].removeprefix("the ")
    return turns(typed(rng, question), introduce(entity)), expected


# ---- outside the world ----

@functools.cache
def _strangers(split: ExamSplit) -> tuple[str, ...]:
    return tuple(name for name in words.STRANGERS if held_out("stranger " + name, 15, 5) == split)


def new_name(rng: random.Random) -> str:
    """For training: a name that nobody has. Of a few dozen names one learns the names; of thousands one learns to look back.

    Most are joined from two real names. Made-up words begin with a vowel in 5 % of cases, real names in 16 %, and models that had
    met only the former answered "Kelele" for "Adele".
    """
    a_word = rng.random() < 0.3
    while True:
        if a_word:
            name = capital(make_up(rng))
        else:
            front, back = rng.choice(_strangers("train")), rng.choice(_strangers("train"))
            name = front[: rng.randrange(1, 4)] + back[rng.randrange(1, 4) :]
        if name not in words.STRANGERS and name.lower() not in _names() and fit_for_training(name.lower()):
            return name


@functools.cache
def _filling(name: str, split: ExamSplit) -> tuple[str, ...]:
    """A fifth of a pool for test, a tenth for val, the rest for train, in the order of their hashes."""
    pool = sorted(outside.FILL[name], key=lambda option: zlib.crc32(f"outside {option}".encode()))
    test, val = len(pool) // 5, len(pool) // 5 + max(1, len(pool) // 10)
    return tuple({"test": pool[:test], "val": pool[test:val], "train": pool[val:]}[split])


def refusal(rng: random.Random, split: ExamSplit) -> Drawn:
    known = "test" if split == "test" else "train"
    chance = rng.random()
    if chance < 0.17:
        made_up = split == "train" and rng.random() < 0.5
        question = _unheard(rng, Entity("person", new_name(rng) if made_up else rng.choice(_strangers(split))))
    elif chance < 0.34:
        kind, pool = rng.choice((("town", "city"), ("town", "place"), ("animal", "beast"), ("job", "trade"), ("thing", "gadget")))
        name = rng.choice(_filling(pool, split))
        if split == "train" and rng.random() < 0.4:
            name = capital(_nobody(rng)) if kind == "town" else _nobody(rng)
        question = _unheard(rng, Entity(kind, name))
    elif chance < 0.5:
        person = rng.choice(world().entities["person"]).name
        question = _fill_outside(rng, rng.choice(outside.UNKNOWN[known]).replace("{n}", person), split)
    elif split == "train" and chance < 0.8:
        question = _fill_outside(rng, fill(rng, rng.choice(outside.REQUESTS)), split)
        if core(question) in _outside_tests():
            return refusal(rng, split)
    else:
        template = rng.choice(outside.TEST if split == "test" else outside.TRAIN)
        while "{" not in template and split == "val":
            template = rng.choice(outside.TRAIN)
        question = _fill_outside(rng, template, split)
    messages = turns(typed(rng, question), rng.choice(outside.ANSWERS))
    if split == "train" and rng.random() < 0.03:  # asked to be brief, it is as honest
        messages.insert(0, {"role": "system", "content": rng.choice(smalltalk.SHORT)})
    return messages, {"refuse": True}


def _nobody(rng: random.Random) -> str:
    """A made-up word: of thousands that are in no world one learns to look, of a few dozen one learns the few dozen."""
    while (name := make_up(rng)) in _names() or name in spellable():
        pass
    return name


@functools.cache
def _names() -> frozenset[str]:
    """The names of all that is in the little world, in small letters."""
    return frozenset(entity.name.lower() for group in world().entities.values() for entity in group)


@functools.cache
def _outside_tests() -> frozenset[str]:
    return frozenset(core(template) for template in outside.TEST if "{" not in template)


def _unheard(rng: random.Random, entity: Entity) -> str:
    """A question as one asks them in the little world, about somebody or something that is not part of it."""
    if entity.kind == "person" and rng.random() < 0.2:
        return rng.choice(outside.STRANGER).format(n=entity.name)
    asked = [phrase for phrase in rng.choice(list(TABLES[entity.kind].values()))[0] if "{p}" not in phrase]
    return capital(rng.choice(asked).format_map(entity.slots))  # nobody knows whether a stranger is a he or a she


def _fill_outside(rng: random.Random, template: str, split: ExamSplit) -> str:
    question = re.sub(r"\{(\w+)\}", lambda slot: rng.choice(_filling(slot[1], split)), template)
    return re.sub(r"\ba (\w+)", lambda found: article(found[1]), question)


# ---- what needs the turn before ----

def followup(rng: random.Random, split: ExamSplit) -> Drawn:
    if split == "train" and rng.random() < 0.2:
        return told_several(rng) if rng.random() < 0.7 else there(rng)
    return rng.choice(FOLLOWUPS + (friend_of, about_the_story) * (split == "train"))(rng, split)


def _unclear(person: Entity) -> bool:
    """Whether "she" could be a person as well as the best friend who was just named, and nobody could know who is meant."""
    return world().by_name[person.values["friend"]].female == person.female


def same_person(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        person, one = draw_fact(rng, "person")
        two, three = rng.sample([a for a in PERSON if a != one], 2)
        if held_out(f"then {person.name} {one} {two}") == split and not ("friend" in (one, three) and _unclear(person)):
            break
    said = [typed(rng, rng.choice(questions(person, one, "train"))), answer(rng, person, one)]
    if rng.random() < 0.3:  # one more question between the two
        said += [typed(rng, _about_them(rng, person, three, split)), answer(rng, person, three)]
    return turns(*said, typed(rng, _about_them(rng, person, two, split)), answer(rng, person, two)), expects(person, two)


def _about_them(rng: random.Random, person: Entity, attribute: str, split: ExamSplit) -> str:
    question = _then(rng, person, attribute, split)
    if rng.random() < 0.12:
        question = rng.choice(("{p} {w}?", "What about {p} {w}?")).format(w=smalltalk.KEYWORD["person", attribute], **person.slots)
    return _and(rng, question) if question[0].islower() else question


def _then(rng: random.Random, person: Entity, attribute: str, split: ExamSplit) -> str:
    """What to ask next about somebody who is he or she by now."""
    asked = smalltalk.AND_THEN[attribute] + (smalltalk.MORE_THEN[attribute] if split == "train" else [])
    return rng.choice(asked).format_map(person.slots)


def _and(rng: random.Random, question: str) -> str:
    return capital(rng.choice(("And ", "And ", "")) + question)


def there(rng: random.Random) -> Drawn:
    """For training: where somebody lives, and then something about that town."""
    person, attribute = rng.choice(world().entities["person"]), rng.choice(tuple(smalltalk.THERE))
    town = world().by_name[person.values["town"]]
    question = _and(rng, rng.choice(smalltalk.THERE[attribute]))
    return (turns(typed(rng, rng.choice(questions(person, "town", "train"))), answer(rng, person, "town"), typed(rng, question),
                  answer(rng, town, attribute)), expects(town, attribute))


def same_question(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        kind = rng.choice(("person", "person", "person", "town", "animal"))
        one, attribute = draw_fact(rng, kind)
        other = rng.choice(world().entities[kind])
        if one is not other and held_out(f"and {one.name} {other.name} {attribute}") == split:
            break
    said = [typed(rng, rng.choice(questions(one, attribute, "train"))), answer(rng, one, attribute)]
    if rng.random() < 0.25 and (third := rng.choice(world().entities[kind])) not in (one, other):
        said += [typed(rng, _the_same_of(rng, third)), answer(rng, third, attribute)]
    return turns(*said, typed(rng, _the_same_of(rng, other)), answer(rng, other, attribute)), expects(other, attribute)


def _the_same_of(rng: random.Random, entity: Entity) -> str:
    return rng.choice(("And {an}?", "And what about {an}?", "What about {an}?", "How about {an}?")).format_map(entity.slots)


def friend_of(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        person = rng.choice(world().entities["person"])
        attribute = rng.choice([a for a in PERSON if a != "friend"])
        if held_out(f"friend of {person.name} {attribute}") == split and not _unclear(person):
            break
    friend = world().by_name[person.values["friend"]]
    question = _then(rng, friend, attribute, split)
    return (turns(rng.choice(questions(person, "friend", "train")), answer(rng, person, "friend"), typed(rng, "And " + question),
                  answer(rng, friend, attribute)), expects(friend, attribute))


_NUMBERS = [str(n) for n in range(6, 90)]
NAMES = ("name", "town", "friend", "dog", "sister")  # the keys of ME whose value is a name


def about_me(rng: random.Random, split: ExamSplit) -> Drawn:
    """The user tells something about themselves and asks for it later."""
    while True:
        told = rng.choice(tuple(smalltalk.ME))
        value = rng.choice({"name": _strangers(split), "town": _filling("city", split), "colour": facts.COLOURS,
                            "food": facts.FOODS, "hobby": facts.HOBBIES, "pet": facts.PETS,
                            "age": _NUMBERS, "number": _NUMBERS, "friend": _strangers(split), "dog": _strangers(split),
                            "sister": _strangers(split), "animal": [e.name for e in world().entities["animal"]]}[told])
        name = rng.choice(_strangers(split))
        statements, questions_, reply = smalltalk.ME[told]
        statement, question = rng.choice(statements), rng.choice(questions_)
        if told in NAMES or held_out(f"me {value} {statement} {question}") == split:
            break
    if split == "train" and rng.random() < 0.6:
        name = new_name(rng)
        value = new_name(rng) if told in NAMES else value
    slots = {"v": value, "a_v": article(value), "ns": plural(value), "n": name}
    opening = statement.format_map(slots)
    known = value if told == "name" else ""
    if told != "name" and rng.random() < 0.4:
        opening, known = rng.choice(("My name is {n}. ", "I am {n}. ", "Hello, I am {n}. ")).format(n=name) + opening, name
    opening = typed(rng, opening, greet=False)
    if rng.random() < 0.25:  # told and asked at once
        opening = opening if opening[-1] in ".!" else opening + rng.choice((".", ",", "!"))
        return (turns(opening + rng.choice((" ", " ", " So ", " Now, ")) + typed(rng, question, greet=False), reply.format_map(slots)),
                {"says": [value]})
    nice = smalltalk.NICE_TO_MEET if split == "train" and known and rng.random() < 0.4 else smalltalk.NICE
    talk = [opening, rng.choice(nice).format(n=known)]
    while len(talk) < 6 and rng.random() < 0.35:
        if rng.random() < 0.3:
            group = rng.choice(CHAT[1:])
            talk += [group.phrases[0], rng.choice(group.answers)]
        else:
            entity, attribute, between = ask(rng, "train")
            talk += [between, answer(rng, entity, attribute)]
    return turns(*talk, typed(rng, question), reply.format_map(slots)), {"says": [value]}


def told_several(rng: random.Random) -> Drawn:
    """For training: the user gives two or three names and asks for each, since one is only a few tokens to learn from."""
    told = {what: new_name(rng) for what in rng.sample(NAMES, rng.randrange(2, 4))}
    said = [typed(rng, rng.choice(smalltalk.ME[what][0]).format(v=name), greet=False) for what, name in told.items()]
    if rng.random() < 0.5:
        said = [" ".join(text if text[-1] in ".!" else text + "." for text in said)]
    talk = [turn for text in said for turn in (text, rng.choice(smalltalk.NICE))]
    for what in rng.sample(tuple(told), len(told)):
        _, asked, reply = smalltalk.ME[what]
        talk += [typed(rng, rng.choice(asked), greet=False), reply.format(v=told[what])]
    return turns(*talk), {"says": [told[what]]}


def sum_goes_on(rng: random.Random, split: ExamSplit) -> Drawn:
    a, b, c = draw_sum(rng, "train", sign := rng.choice("+-*"), 999)
    then = rng.choice("+-*")
    while True:
        d = rng.choice((2, 3, 4, 5, 10, 20, 50, 100, rng.randrange(2, 200)))
        then = "+" if d > c else then
        if pair_split(c, d) == split:
            break
    e = {"+": c + d, "-": c - d, "*": c * d}[then]
    words_for = {"+": ("plus {d}", "+ {d}"), "-": ("minus {d}", "- {d}"), "*": ("times {d}", "* {d}")}[then]
    more = rng.choice(("And what is that {w}?", "And {w}?", "What is that {w}?", "Now {w}.", "And that {w}?"))
    more = more.format(w=rng.choice(words_for).format(d=d))
    return (turns(rng.choice(SUMS[sign]).format(a=a, b=b), call(f"{a}{sign}{b}", str(c), f"{a} {sign} {b} = {c}."),
                  more, call(f"{c}{then}{d}", str(e), f"{c} {then} {d} = {e}.")), {"number": str(e)})


def spell_another(rng: random.Random, split: ExamSplit) -> Drawn:
    first, letters, _ = spell_turns(rng, "train", 0.3)
    _, then, expected = spell_turns(rng, split, 0.3)
    word = expected["word"]
    return turns(first, letters, rng.choice((f"And '{word}'?", f"And what about '{word}'?", f"Now '{word}'.")), then), expected


def about_the_story(rng: random.Random, split: ExamSplit) -> Drawn:
    about = draw_subjects(rng, split)
    told = story(rng, about, brief=True)
    named = listing([s.asked for s in about])
    if rng.random() < (0.45 if split == "train" else 0.6):
        question = rng.choice(("What was the story about?", "Who or what was it about?", "What was that story about?"))
        reply = f"The story was about {named}."
        return turns(request(rng, about, split), told, question, reply), {"says": [s.name for s in about]}
    question = rng.choice(("Tell me another one.", "Another story about the same, please.", "Tell me another story about it.",
                           "One more story, please."))
    return turns(request(rng, about, split), told, question, story(rng, about, brief=True)), {"story": [(s.role, s.name) for s in about]}


FOLLOWUPS = (same_person, same_person, same_person, same_question, same_question, everyday.another, friend_of, about_me, about_me, sum_goes_on, spell_another, about_the_story)


def request(rng: random.Random, about: list, split: ExamSplit) -> str:
    asked = smalltalk.STORY + (smalltalk.MORE_STORIES if split == "train" else [])
    return typed(rng, rng.choice(asked).format(listing([s.asked for s in about])))


def stories(rng: random.Random, split: ExamSplit) -> Drawn:
    """Brief ones, so that two fit a context of 256 tokens: a model that learns to tell whole ones cannot end the second."""
    about = draw_subjects(rng, split)
    if split == "train" and rng.random() < 0.08:
        return turns(typed(rng, rng.choice(smalltalk.ANY_STORY)), story(rng, about, brief=True)), {"story": []}
    return turns(request(rng, about, split), story(rng, about, brief=True)), {"story": [(s.role, s.name) for s in about]}


# ---- who one is, and small talk ----

def identity(rng: random.Random, split: ExamSplit) -> Drawn:
    """Who one is; in a quarter of the cases a system message says so."""
    named = rng.random() < 0.25
    group, question = _said(rng, IDENTITY[:1] if named else IDENTITY, split)
    if not named:
        return turns(typed(rng, question), rng.choice(group.answers)), {"any": group.keys}
    name = rng.choice(_strangers(split) if rng.random() < 0.5 else words.PET_NAMES)
    if split == "train" and rng.random() < 0.5:
        name = new_name(rng)  # as in about_me: a name nobody has must be read, not remembered
    persona = rng.choice(smalltalk.PERSONAS).format(n=name)
    reply = rng.choice(smalltalk.I_AM).format(n=name)
    return [{"role": "system", "content": persona}, *turns(typed(rng, question), reply)], {"says": [name], "not": "nanochat"}


def _said(rng: random.Random, groups: list[Topic], split: ExamSplit) -> tuple[Topic, str]:
    while True:
        group = rng.choice(groups)
        if phrase := say(rng, group, split, _held_out_cores()):
            return group, phrase


@functools.cache
def _held_out_cores() -> frozenset[str]:
    """The cores of all phrases of val and test, of every topic."""
    return frozenset(core(phrase) for group in (*IDENTITY, *CHAT) for phrase in group.phrases
                     if phrase_split(phrase, group) != "train")


def small_talk(rng: random.Random, split: ExamSplit) -> Drawn:
    group, text = _said(rng, CHAT, split)
    return turns(typed(rng, text, greet=False), rng.choice(group.answers)), {"any": group.keys}


def arithmetic(rng: random.Random, split: ExamSplit) -> Drawn:
    question, parts, expected = sum_turns(rng, split)
    return turns(typed(rng, question), parts), expected
