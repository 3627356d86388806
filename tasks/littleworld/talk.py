"""Conversations about the little world: questions of fact, honest refusals, follow-ups, who one is, small talk.

Every function draws one conversation of a split and returns (messages, expect); `expect` is what a grader looks for.
"""

import functools
import random
import re
import zlib

from nanochat.data.shards import ExamSplit
from tasks.littleworld import facts, outside, smalltalk, words
from tasks.littleworld.exercises import SUMS, call, draw_sum, make_up, spell_turns, sum_turns
from tasks.littleworld.phrases import PERSON, TABLES
from tasks.littleworld.stories import draw_subjects, story
from tasks.littleworld.world import Entity, article, held_out, listing, pair_split, questions, world

Drawn = tuple[list[dict], dict]


def turns(*texts: str | list) -> list[dict]:
    """Messages from texts, user first."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]


def typed(rng: random.Random, question: str, greet: bool = True) -> str:
    """A question as people type it: now and then without capital, without question mark, or with a greeting."""
    chance = rng.random()
    if chance < 0.04:
        return question.lower()
    if chance < 0.08:
        return question[0].lower() + question[1:].rstrip("?.")
    if chance < 0.11:
        return question.rstrip("?.")
    if chance < 0.15 and greet:
        return rng.choice(("Hello! ", "Hi! ", "Please help me. ", "I have a question. ", "Excuse me. ", "Dear nanochat! ")) + question
    return question


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
    chance = rng.random()
    if chance < 0.12:
        return two_facts(rng, split)
    if chance < 0.2:
        return yes_or_no(rng, split)
    if chance < 0.28:
        return reverse(rng, split)
    if chance < 0.33:
        return who_is(rng, split)
    if chance < 0.36:
        return name_three(rng, split)
    entity, attribute, question = ask(rng, split)
    return turns(typed(rng, question), answer(rng, entity, attribute)), expects(entity, attribute)


def brief(rng: random.Random, split: ExamSplit) -> Drawn:
    """A system message asks for short answers, and gets the bare fact."""
    entity, attribute, question = ask(rng, split)
    messages = turns(typed(rng, question), capital(entity.values[attribute]) + ".")
    return [{"role": "system", "content": rng.choice(smalltalk.SHORT)}, *messages], expects(entity, attribute)


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


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


def name_three(rng: random.Random, split: ExamSplit) -> Drawn:
    """Name three birds: always the same ones, for a model that takes the likeliest word cannot draw a lot."""
    while True:
        theme = rng.choice(tuple(smalltalk.MANY))
        question = rng.choice(smalltalk.NAME_THREE).format(smalltalk.MANY[theme])
        if held_out("three " + question, 15) == split:
            break
    some = [noun for noun in words.THEMES[theme] if noun not in words.MASS][:3]
    return turns(typed(rng, question), capital(listing([article(noun) for noun in some])) + "."), {"three": theme}


# ---- outside the world ----

@functools.cache
def _strangers(split: ExamSplit) -> tuple[str, ...]:
    return tuple(name for name in words.STRANGERS if held_out("stranger " + name, 15, 5) == split)


@functools.cache
def _filling(name: str, split: ExamSplit) -> tuple[str, ...]:
    """A fifth of a pool for test, a tenth for val, the rest for train, in the order of their hashes."""
    pool = sorted(outside.FILL[name], key=lambda option: zlib.crc32(f"outside {option}".encode()))
    test, val = len(pool) // 5, len(pool) // 5 + max(1, len(pool) // 10)
    return tuple({"test": pool[:test], "val": pool[test:val], "train": pool[val:]}[split])


def refusal(rng: random.Random, split: ExamSplit) -> Drawn:
    known = "test" if split == "test" else "train"
    chance = rng.random()
    if chance < 0.2:
        question = _unheard(rng, Entity("person", rng.choice(_strangers(split))))
    elif chance < 0.4:
        kind, pool = rng.choice((("town", "city"), ("town", "place"), ("animal", "beast"), ("job", "trade")))
        question = _unheard(rng, Entity(kind, rng.choice(_filling(pool, split))))
    elif chance < 0.6:
        person = rng.choice(world().entities["person"]).name
        question = _fill_outside(rng, rng.choice(outside.UNKNOWN[known]).replace("{n}", person), split)
    else:
        template = rng.choice(outside.TEST if split == "test" else outside.TRAIN)
        while "{" not in template and split == "val":
            template = rng.choice(outside.TRAIN)
        question = _fill_outside(rng, template, split)
    return turns(typed(rng, question), rng.choice(outside.ANSWERS)), {"refuse": True}


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
    return rng.choice(FOLLOWUPS)(rng, split)


def same_person(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        person, one = draw_fact(rng, "person")
        two = rng.choice([a for a in PERSON if a != one])
        if held_out(f"then {person.name} {one} {two}") == split:
            break
    question = rng.choice(smalltalk.AND_THEN[two]).format_map(person.slots)
    return (turns(typed(rng, rng.choice(questions(person, one, "train"))), answer(rng, person, one),
                  typed(rng, rng.choice(("And ", "And ", "")) + question), answer(rng, person, two)), expects(person, two))


def same_question(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        kind = rng.choice(("person", "person", "person", "town", "animal"))
        one, attribute = draw_fact(rng, kind)
        other = rng.choice(world().entities[kind])
        if one is not other and held_out(f"and {one.name} {other.name} {attribute}") == split:
            break
    named = other.slots["an"]
    question = rng.choice((f"And {named}?", f"And what about {named}?", f"What about {named}?", f"How about {named}?"))
    return (turns(typed(rng, rng.choice(questions(one, attribute, "train"))), answer(rng, one, attribute),
                  typed(rng, question), answer(rng, other, attribute)), expects(other, attribute))


def friend_of(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        person = rng.choice(world().entities["person"])
        attribute = rng.choice([a for a in PERSON if a != "friend"])
        if held_out(f"friend of {person.name} {attribute}") == split:
            break
    friend = world().by_name[person.values["friend"]]
    question = rng.choice(smalltalk.AND_THEN[attribute]).format_map(friend.slots)
    return (turns(rng.choice(questions(person, "friend", "train")), answer(rng, person, "friend"), typed(rng, "And " + question),
                  answer(rng, friend, attribute)), expects(friend, attribute))


def about_me(rng: random.Random, split: ExamSplit) -> Drawn:
    """The user tells something about themselves and asks for it later."""
    while True:
        told = rng.choice(tuple(smalltalk.ME))
        value = rng.choice({"name": _strangers(split), "town": _filling("city", split), "colour": facts.COLOURS,
                            "food": facts.FOODS, "hobby": facts.HOBBIES, "pet": facts.PETS,
                            "age": [str(n) for n in range(6, 90)]}[told])
        name = rng.choice(_strangers(split))
        statements, questions_, reply = smalltalk.ME[told]
        statement, question = rng.choice(statements), rng.choice(questions_)
        if told in ("name", "town") or held_out(f"me {value} {statement} {question}") == split:
            break
    if split == "train" and rng.random() < 0.6:
        # Of a few dozen names one learns the names; of thousands that nobody has, one learns to look back.
        name = capital(make_up(rng))
        value = capital(make_up(rng)) if told in ("name", "town") else value
    slots = {"v": value, "a_v": article(value), "n": name}
    opening = statement.format_map(slots)
    if told != "name" and rng.random() < 0.4:
        opening = rng.choice(("My name is {n}. ", "I am {n}. ", "Hello, I am {n}. ")).format(n=name) + opening
    thanks = rng.choice(smalltalk.NICE)
    talk = [opening, thanks]
    if rng.random() < 0.3:
        entity, attribute, between = ask(rng, "train")
        talk += [between, answer(rng, entity, attribute)]
    return turns(*talk, typed(rng, question), reply.format_map(slots)), {"says": [value]}


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
    if rng.random() < 0.6:
        question = rng.choice(("What was the story about?", "Who or what was it about?", "What was that story about?"))
        reply = f"The story was about {named}."
        return turns(request(rng, about), told, question, reply), {"says": [s.name for s in about]}
    question = rng.choice(("Tell me another one.", "Another story about the same, please.", "Tell me another story about it.",
                           "One more story, please."))
    return turns(request(rng, about), told, question, story(rng, about, brief=True)), {"story": [(s.role, s.name) for s in about]}


FOLLOWUPS = (same_person, same_person, same_question, friend_of, about_me, about_me, sum_goes_on, spell_another, about_the_story)


def request(rng: random.Random, about: list) -> str:
    return typed(rng, rng.choice(smalltalk.STORY).format(listing([s.asked for s in about])))


def stories(rng: random.Random, split: ExamSplit) -> Drawn:
    about = draw_subjects(rng, split)
    if split == "train" and rng.random() < 0.08:
        return turns(typed(rng, rng.choice(smalltalk.ANY_STORY)), story(rng, about)), {"story": []}
    return turns(request(rng, about), story(rng, about)), {"story": [(s.role, s.name) for s in about]}


# ---- who one is, and small talk ----

def identity(rng: random.Random, split: ExamSplit) -> Drawn:
    """Who one is; in a quarter of the cases a system message says so."""
    named = rng.random() < 0.25
    while True:
        asked, answers, keys = smalltalk.IDENTITY[0] if named else rng.choice(smalltalk.IDENTITY)
        question = rng.choice(asked)
        if _phrase_split(question, asked) == split:
            break
    if not named:
        return turns(typed(rng, question), rng.choice(answers)), {"any": keys}
    name = rng.choice(_strangers(split) if rng.random() < 0.5 else words.PET_NAMES)
    persona = rng.choice(smalltalk.PERSONAS).format(n=name)
    reply = rng.choice(smalltalk.I_AM).format(n=name)
    return [{"role": "system", "content": persona}, *turns(typed(rng, question), reply)], {"says": [name], "not": "nanochat"}


def _phrase_split(phrase: str, group: list[str]) -> ExamSplit:
    # the first of a group is trained; so is what users ask about themselves, for a follow-up asks it in the same words
    return "train" if phrase in (group[0], *smalltalk.ABOUT_ME) else held_out(f"phrase {phrase}", 15)


def small_talk(rng: random.Random, split: ExamSplit) -> Drawn:
    while True:
        said, answers, keys = rng.choice(smalltalk.CHAT)
        text = rng.choice(said)
        if _phrase_split(text, said) == split:
            break
    return turns(typed(rng, text, greet=False), rng.choice(answers)), {"any": keys}


def arithmetic(rng: random.Random, split: ExamSplit) -> Drawn:
    question, parts, expected = sum_turns(rng, split)
    return turns(typed(rng, question), parts), expected
