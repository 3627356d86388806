"""The running text of the little world: what base training and the tokenizer read."""

import random
import re
import zlib
from collections.abc import Iterator, Sequence

from tasks.littleworld import everyday, scenes, smalltalk, talk, words
from tasks.littleworld.exercises import spelling_text, sums_text
from tasks.littleworld.letters import quoting_text, repeat_turns
from tasks.littleworld.messages import asked_by_newcomers, plain, plain_text
from tasks.littleworld.phrases import TABLES
from tasks.littleworld.stories import DAYS, MANNER, POOLS, draw_subjects, story, title
from tasks.littleworld.sums import more_sums_text
from tasks.littleworld.world import (
    Entity,
    article,
    grammar,
    ing,
    listing,
    past,
    plural,
    word_split,
    world,
)

_VAL_SHARE = 16  # one document in so many belongs to val, by its hash


def documents(split: str, seed: int = 0, count: int | None = None) -> Iterator[str]:
    """Texts of one split ("train" or "val"), without end or `count` of them; no text is ever in both splits."""
    rng = random.Random(f"little world documents {split} {seed}")
    kinds, shares = tuple(KINDS), [share for share, _ in KINDS.values()]
    made = 0
    while count is None or made < count:
        for kind in rng.choices(kinds, shares, k=256):
            text = KINDS[kind][1](rng)
            if (zlib.crc32(text.encode()) % _VAL_SHARE == 0) == (split == "val"):
                yield text
                made += 1
                if made == count:
                    return


def tell(rng: random.Random, entity: Entity, attribute: str, pronoun: bool = False) -> str:
    """One sentence that states a fact; with a pronoun in place of a person's name where the name comes first."""
    _, answers, told = TABLES[entity.kind][attribute]
    sentence = entity.fill(rng.choice(told if rng.random() < 0.6 else answers), attribute)
    if pronoun and entity.kind == "person":
        if sentence.startswith(f"{entity.name}'s "):
            return entity.slots["P"] + sentence[len(entity.name) + 2 :]
        if sentence.startswith(f"{entity.name} "):
            return entity.slots["S"] + sentence[len(entity.name) :]
    return sentence


def biography(rng: random.Random) -> str:
    person = rng.choice(world().entities["person"])
    attributes = rng.sample(tuple(TABLES["person"]), rng.randrange(5, 10))
    introduced = rng.random() < 0.25
    if introduced:
        attributes = [attribute for attribute in attributes if attribute not in ("job", "town", "hobby")]
    sentences = [tell(rng, person, attribute, pronoun=(i > 0 or introduced) and rng.random() < 0.6) for i, attribute in enumerate(attributes)]
    opening = talk.introduce(person) + " " if introduced else rng.choice((
        "", "", f"This is {person.name}. ", f"About {person.name}\n\n", f"Let me tell you about {person.name}. ",
        f"Do you know {person.name}? ", f"Everybody knows {person.name}. "))
    return opening + " ".join(sentences)


def entry(rng: random.Random) -> str:
    """An almanac entry on a town, an animal, a job or a few things."""
    kind = rng.choices(("town", "animal", "job", "thing"), (30, 32, 16, 22))[0]
    chosen = rng.sample(world().entities[kind], 1 if kind in ("town", "animal") and rng.random() < 0.7 else 3)
    parts = []
    for entity in chosen:
        attributes = rng.sample(tuple(TABLES[kind]), len(TABLES[kind]) if len(chosen) == 1 else rng.randrange(2, 4))
        sentences = [tell(rng, entity, attribute) for attribute in attributes]
        people = [p for p in world().entities["person"] if p.values.get(kind) == entity.name]
        if kind == "town":
            some = rng.sample(people, min(len(people), rng.randrange(1, 4)))
            verb = "lives" if len(some) == 1 else "live"
            sentences.append(f"Here {verb} {listing([f'{p.name} the ' + p.values['job'] for p in some])}.")
        elif kind == "job" and people:
            sentences.append(tell(rng, rng.choice(people), "job"))
        if len(chosen) == 1 and rng.random() < 0.3 and kind in ("town", "animal"):
            sentences.insert(0, talk.introduce(entity))
        parts.append(" ".join(sentences))
    return rng.choice(("\n", "\n", " ")).join(parts)


def _question(rng: random.Random) -> tuple[Entity, str, str]:
    """A fact and a question for it that is trained, and that is not on the newcomers' list."""
    while True:
        entity, attribute, question = talk.ask(rng, "train")
        if not asked_by_newcomers([plain_text(question)]):
            return entity, attribute, question


def _who(rng: random.Random) -> tuple[str, str]:
    """A question for who it is, and its answer."""
    while True:
        messages, _ = talk.reverse(rng, "train")
        question, reply = (message["content"] for message in messages)
        if question.endswith("?") and not asked_by_newcomers([plain_text(question)]):
            return question, reply


def catechism(rng: random.Random) -> str:
    """Questions and answers as text, only in phrasings that are trained."""
    lines = []
    for _ in range(rng.randrange(2, 6)):
        if rng.random() < 0.15:
            lines.append(_who(rng))
            continue
        entity, attribute, question = _question(rng)
        lines.append((question, talk.answer(rng, entity, attribute)))
    style = rng.random()
    if style < 0.5:
        return "\n".join(f"Question: {talk.typed(rng, q, greet=False)}\nAnswer: {a}" for q, a in lines)
    one, other = rng.sample(world().entities["person"], 2)
    if style < 0.8:
        spoken = [f'"{q}" asked {one.name}.' if q.endswith("?") else f'"{q[:-1]}," said {one.name}.' for q, _ in lines]
        return " ".join(f'{q} "{a[:-1]}," said {other.name}.' for q, (_, a) in zip(spoken, lines, strict=True))
    return "\n".join(f"{one.name}: {q}\n{other.name}: {a}" for q, a in lines)


def card(rng: random.Random) -> str:
    """Bare facts: cards with key words, and questions with answers of a word or two, as `brief` wants them."""
    if rng.random() < 0.35:
        kind = rng.choice(("person", "person", "person", "town", "animal"))
        entity = rng.choice(world().entities[kind])
        attributes = rng.sample(tuple(TABLES[kind]), rng.randrange(3, 1 + len(TABLES[kind])))
        facts = [(smalltalk.KEYWORD[kind, attribute], entity.values[attribute]) for attribute in attributes]
        if rng.random() < 0.5:
            return talk.capital(entity.name) + "\n\n" + "\n".join(f"{talk.capital(key)}: {value}" for key, value in facts)
        return "\n".join(f"{talk.capital(entity.name)}'s {key}: {value}" for key, value in facts)
    told = []
    for _ in range(rng.randrange(3, 8)):
        entity, attribute, question = _question(rng)
        told.append((question, talk.bare(entity, attribute)))
    if rng.random() < 0.5:
        return "A quiz with short answers.\n\n" + "\n".join(f"{q} {a}" for q, a in told)
    return "\n".join(f"Question: {talk.typed(rng, q, greet=False)}\nShort answer: {a}" for q, a in told)


def letter(rng: random.Random) -> str:
    """A letter from one person to another, with news of a third."""
    one, about = rng.sample(world().entities["person"], 2)
    friend = world().by_name[one.values["friend"]]
    news = [tell(rng, about, a, pronoun=rng.random() < 0.5) for a in rng.sample(tuple(TABLES["person"]), rng.randrange(2, 4))]
    v, weather = one.values, rng.choice(words.THEMES["a kind of weather"])
    lines = [
        f"Dear {friend.name},",
        rng.choice((f"How are you? Here in {v['town']} all is well.", f"Greetings from {v['town']}!",
                    f"At last I find the time to write to you from {v['town']}.")),
        rng.choice((f"Today I worked hard, for @ {v['job']} is never idle.", f"I still enjoy {v['hobby']} whenever I can.",
                    f"My {v['pet']} {v['petname']} is well and sends you greetings.",
                    f"Yesterday I ate {v['food']}, my favourite food, and thought of you.",
                    f"In {v['month']} I will have my birthday, and you must come.")),
        f"Have you heard of {about.name}? " + " ".join(news) if about is not friend else "I miss you, dear friend.",
        rng.choice((f"After the {weather} everything is {rng.choice(POOLS['mild'])} now.",
                    f"The neighbours talk of nothing but the {weather}.", "Come and visit me soon!",
                    f"I bought @ {rng.choice(POOLS['colour'])} {rng.choice(words.THEMES['something to wear'])} for you.",
                    f"How is your {friend.values['pet']} {friend.values['petname']}?")),
        f"Your friend {one.name}"]
    return grammar("\n".join(lines))


def word_list(rng: random.Random) -> str:
    """Words by theme, by first letter, by their forms, by their opposites, in their order."""
    style = rng.random()
    if style < 0.2:
        return _in_a_row(rng)
    if style < 0.45:
        theme, nouns = rng.choice(list(words.THEMES.items()))
        some = rng.sample(nouns, min(len(nouns), rng.randrange(4, 14)))
        return rng.choice((f"What is {theme}? Here are some: {listing(some)}.", f"Words for {theme}: {', '.join(some)}.",
                           f"Each of these is {theme}: {listing(some)}."))
    if style < 0.55:
        pool = words.VERBS + words.ADJECTIVES + words.ADVERBS + words.OTHER
        first = rng.choice(pool)[0]
        some = sorted({word for word in rng.sample(pool, 300) if word[0] == first and word_split(word) == "train"})[:14]
        return f"Words that begin with the letter {first}: {', '.join(some)}."
    if style < 0.66:
        return "\n".join(f"to {verb}: {ing(verb)}, {past(verb)}" for verb in rng.sample(words.VERBS, rng.randrange(4, 9)))
    if style < 0.78:
        return " ".join(f"One {noun}, many {plural(noun)}." for noun in rng.sample(_COUNTABLE, 5))
    if style < 0.9:
        return " ".join(rng.choice(("The opposite of {} is {}.", "If it is not {}, it is {}.")[: 1 + (a in words.ADJECTIVES)]).format(a, b)
                        for a, b in rng.sample(scenes.OPPOSITES, 4))
    return f"Adjectives: {', '.join(rng.sample(words.ADJECTIVES, 9))}. Adverbs: {', '.join(rng.sample(words.ADVERBS, 6))}."


def _in_a_row(rng: random.Random) -> str:
    """Days, months or seasons: all of them in order, then what comes after and before some."""
    group = rng.choice(("day", "month", "month", "season"))
    row = everyday.groups()[group]
    some = rng.sample(range(len(row)), min(len(row), 5))
    told = [rng.choice((f"After {row[i - 1]} comes {row[i]}.", f"Before {row[i]} comes {row[i - 1]}.")) for i in some]
    return " ".join([f"The {plural(group)} are {listing(list(row))}.", *told])


_COUNTABLE = [noun for theme in ("a tree", "a bird", "a fruit", "a tool", "a toy", "a vehicle", "a building", "a part of the body",
                                 "a musical instrument", "a place in nature", "something in a castle", "a family member")
              for noun in words.THEMES[theme] if noun not in words.MASS]


def _noun(rng: random.Random, theme: str) -> str:
    while (noun := rng.choice(words.THEMES[theme])) in words.MASS:
        pass
    return noun


_THEME = re.compile(r"<([^<>+]+)(\+?)>")
_SLOT = re.compile(r"\{(\w+)\}")


def paint(rng: random.Random, text: str, slots: dict[str, str] | None = None) -> str:
    """Fill `<theme>` (`<theme+>` for the plural) and `{slot}` of the phrases of `scenes.py`."""
    slots = slots or {}
    text = _THEME.sub(lambda theme: plural(_noun(rng, theme[1])) if theme[2] else _noun(rng, theme[1]), text)

    def fill(slot: re.Match) -> str:
        name = slot[1]
        if name in slots:
            return slots[name]
        pool = {"adv": MANNER, "adjective": words.VISIBLE, "adj2": POOLS["adj"]}.get(name) or POOLS[name]
        return rng.choice(pool)

    return _SLOT.sub(fill, text)


def rhyme(rng: random.Random) -> str:
    """Two or three couplets."""
    lines = []
    for (a, b), couplet in zip(rng.sample(scenes.RHYMES, 3), rng.sample(scenes.COUPLETS.split("\n"), 3), strict=True):
        one, other = rng.sample(world().entities["person"], 2)
        slots = {"a": a, "b": b, "a2": a, "c": rng.choice(words.THEMES["a toy"]), "name": one.name, "name2": other.name, "town": rng.choice(world().entities["town"]).name}
        lines += paint(rng, couplet, slots).split(" | ")
    return grammar("\n".join(lines[: rng.choice((4, 4, 6))]))


def _in_order(rng: random.Random, lines: Sequence[str], count: int) -> str:
    return " ".join(lines[i] for i in sorted(rng.sample(range(len(lines)), count)))


def scene(rng: random.Random) -> str:
    """A diary page, a market day, a recipe, a picture or some sayings."""
    person = rng.choice(world().entities["person"])
    own = {**person.values, "favourite": person.values["colour"], "name": person.name}
    style = rng.random()
    if style < 0.3:
        own["colour"] = rng.choice(POOLS["colour"])
        text = f"{rng.choice(DAYS)}. From the diary of {person.name}\n\n" + _in_order(rng, scenes.DIARY, 5)
    elif style < 0.5:
        town = rng.choice(world().entities["town"])
        own = {"seller": person.name, "sellerjob": person.values["job"], "n": str(rng.randrange(2, 20))}
        text = f"It is {town.values['market']}, market day in {town.name}. " + " ".join(rng.sample(scenes.MARKET, 4))
    elif style < 0.65:
        own = {"vessel": rng.choice(("pot", "pan", "saucepan", "big bowl", "cauldron", "kettle")), "cover": rng.choice(("lid", "plate", "cloth")),
               "spice": rng.choice(("honey", "mustard", "sugar", "butter", "parsley", "garlic", "cinnamon", "cream", "vinegar", "oil")),
               "n": rng.choice(("two", "three", "five", "six", "ten", "twenty"))}
        text = f"How {person.name} makes a {rng.choice(('good', 'simple', 'quick', 'hearty', 'cheap'))} dinner. "
        text += _in_order(rng, scenes.RECIPE, 6)
    elif style < 0.9:
        own = {"name": person.name, "smell": rng.choice(("smoke", "rain", "roses", "hay", "the sea", "fresh paint", "old leather", "soap"))}
        text = f"@ {rng.choice(POOLS['adj'])} picture of @ <a place in nature>. " + " ".join(rng.sample(scenes.PICTURE, 5))
    else:
        text = "Sayings from the little world: " + " ".join(rng.sample(scenes.SAYINGS, 4))
    return grammar(paint(rng, text, own))


def riddle(rng: random.Random) -> str:
    animal = rng.choice(world().entities["animal"])
    v = animal.values
    clues = [f"I have {v['legs']} legs.", f"I live {v['home']}.", f"I like to eat {v['food']}.", f"My young is called {v['young']}."]
    rng.shuffle(clues)
    return f"A riddle: {' '.join(clues[:3])} What am I? I am {article(animal.name)}."


def said_again(rng: random.Random) -> str:
    """Names, words and phrases that are copied out of what was just said, piece by piece, many in one text.

    Conversations hold few copies each, and the first piece of an unknown name is what a small model gets wrong.
    """
    lines = []
    while len(lines) < 14:
        if rng.random() < 0.6:
            question, reply = _names_told(rng)
        else:
            question, reply, _ = repeat_turns(rng, "train")
        if not asked_by_newcomers([plain_text(question)]):
            lines += [question, reply]
    if rng.random() < 0.5:
        return "\n".join(f"{('Visitor', 'nanochat')[i % 2]}: {line}" for i, line in enumerate(lines))
    return "\n".join(lines)


def _names_told(rng: random.Random) -> tuple[str, str]:
    """One or two names, as users tell them, and a sentence that holds one of them."""
    told = {what: talk.new_name(rng) for what in rng.sample(talk.NAMES, rng.randrange(1, 3))}
    statement = " ".join(rng.choice(smalltalk.ME[what][0]).format(v=name) for what, name in told.items())
    what = rng.choice(tuple(told))
    return statement.lower() if rng.random() < 0.25 else statement, smalltalk.ME[what][2].format(v=told[what])


def tale(rng: random.Random) -> str:
    about = draw_subjects(rng, "train")
    told = story(rng, about)
    return f"{title(about)}\n\n{told}" if rng.random() < 0.5 else told


def chat(rng: random.Random) -> str:
    """A conversation written down as text."""
    draw = rng.choice((talk.refusal, talk.refusal, talk.identity, talk.small_talk, talk.same_person, talk.about_me, everyday.everyday,
                       talk.two_people))
    names = {"user": "Visitor", "assistant": "nanochat", "system": "Note"}
    while asked_by_newcomers(plain(messages := draw(rng, "train")[0])):
        pass
    return "\n".join(f"{names[message['role']]}: {message['content']}" for message in messages)


# kind of text -> its share in percent, its writer
KINDS = {"biography": (19, biography), "story": (15, tale), "entry": (11, entry), "catechism": (10, catechism), "card": (6, card), "letter": (4, letter),
         "words": (4, word_list), "scene": (3, scene), "rhyme": (1, rhyme), "riddle": (1, riddle), "chat": (4, chat),
         "sums": (4, sums_text), "spelling": (7, spelling_text),
         "more sums": (3, more_sums_text), "quoting": (7, quoting_text), "said again": (4, said_again)}
