"""What everybody knows: members of a kind, days, months, colours, opposites, who lives where.

Names are always the same ones, for a model that takes the likeliest word cannot draw lots.
"""

import functools
import random

from nanochat.data.shards import ExamSplit
from tasks.littleworld import facts, scenes, words
from tasks.littleworld.exercises import SMALL, TENS
from tasks.littleworld.messages import Drawn, capital, turns, typed
from tasks.littleworld.world import article, held_out, listing, plural, world

# kind -> what several of them are called, and five that are named first
MEMBERS = {
    "an animal": "animals|fox|bear|rabbit|horse|owl", "a bird": "birds|robin|swan|eagle|sparrow|crow", "a tree": "trees|oak|birch|willow|maple|pine",
    "a flower": "flowers|rose|tulip|daisy|lily|poppy", "a fruit": "fruits|apple|pear|plum|cherry|banana",
    "a vegetable": "vegetables|carrot|potato|onion|tomato|cabbage", "a tool": "tools|hammer|saw|axe|spade|screwdriver",
    "a piece of furniture": "pieces of furniture|table|chair|bed|sofa|wardrobe", "a toy": "toys|ball|kite|doll|puzzle|drum",
    "a musical instrument": "musical instruments|piano|violin|flute|guitar|drum", "a vehicle": "vehicles|bus|train|bicycle|ship|tractor",
    "a building": "buildings|house|castle|church|mill|school", "an insect": "insects|bee|ant|butterfly|beetle|fly",
    "a part of the body": "parts of the body|hand|foot|nose|ear|knee", "something to wear": "things to wear|hat|coat|scarf|shirt|shoe",
    "something in a castle": "things in a castle|king|queen|throne|sword|knight", "a fish": "fish|trout|salmon|herring|pike|carp",
    "a colour": "colours|red|blue|green|yellow|white", "a drink": "drinks|tea|milk|water|juice|coffee", "a pet": "pets|cat|dog|rabbit|hamster|parrot",
    "a job": "jobs|baker|farmer|teacher|painter|sailor", "a town": "towns|Silverlea|Oakhaven|Rosemere|Larkham|Honeyfield",
    "a town in the little world": "towns in the little world|Silverlea|Oakhaven|Rosemere|Larkham|Honeyfield",
    "a person": "people|Mira|Otto|Greta|Felix|Ruby", "somebody in the little world": "people in the little world|Mira|Otto|Greta|Felix|Ruby",
    "a hobby": "hobbies|painting|reading|swimming|dancing|fishing", "a month": "months|January|February|March|April|May",
    "a day of the week": "days of the week|Monday|Tuesday|Wednesday|Thursday|Friday", "a season": "seasons|spring|summer|autumn|winter",
    "a family member": "family members|mother|father|sister|brother|aunt", "a feeling": "feelings|joy|fear|anger|love|sadness",
}
_BARE = ("a colour", "a drink", "a town", "a town in the little world", "a person", "somebody in the little world", "a hobby", "a month",
         "a day of the week", "a season", "a feeling")
NAME_ONE = ["Name {}.", "Can you name {}?", "Tell me {}.", "Give me an example of {}.", "What is an example of {}?", "Do you know {}?",
            "Please name {}.", "Give me {}.", "Say {}.", "Think of {}.", "An example of {}, please.", "Could you name {}?", "I need {}.",
            "Tell me the name of {}.", "Name me {}.", "What is {}, for example?"]
NAME_MANY = ["Name {n} {k}.", "Can you name {n} {k}?", "Tell me {n} {k}.", "Which {k} do you know? Name {n}.", "Please name {n} {k}.",
             "I need {n} {k}.", "List {n} {k}.", "Give me {n} {k}.", "Do you know {n} {k}?", "What are {n} {k}?", "Say {n} {k}.",
             "Could you list {n} {k}?", "Write down {n} {k}.", "{n} {k}, please.", "Name me {n} {k}.", "Tell me the names of {n} {k}.",
             "Give me the names of {n} {k}.", "Give me {n} examples of {k}.", "Can you list {n} {k}?", "Can you give me {n} {k}?"]
NAME_SOME = ["Name some {k}.", "List some {k}.", "Which {k} do you know?", "What {k} are there?", "Tell me some {k}.", "Give me some {k}.",
             "Which {k} are there?", "Can you name some {k}?", "Name a few {k}.", "List a few {k}.", "What are some {k}?",
             "Give me a list of {k}.", "Do you know any {k}?", "Some {k}, please.", "Give me examples of {k}.", "Can you list a few {k}?"]
ANOTHER = ["Another one.", "And another?", "One more, please.", "Tell me another.", "Another one, please.", "Name another one.", "One more.",
           "And one more?", "Do you know another one?", "Give me another."]
NUMBERS = {1: ("one", "1"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4"), 5: ("five", "5")}


@functools.cache
def members(kind: str) -> frozenset[str]:
    """All that counts as a member of a kind, in lower case."""
    others = {"an animal": [e.name for e in world().entities["animal"]], "a pet": facts.PETS, "a hobby": facts.HOBBIES,
              "a job": [e.name for e in world().entities["job"]], "a month": facts.MONTHS, "a day of the week": DAYS, "a season": SEASONS,
              "a colour": facts.COLOURS, "a musical instrument": ["piano"]}
    for name, of in (("a town", "town"), ("a town in the little world", "town"), ("a person", "person"), ("somebody in the little world", "person")):
        others[name] = [e.name for e in world().entities[of]]
    return frozenset(name.lower() for name in (*words.THEMES.get(kind, ()), *others.get(kind, ())))


def _first(kind: str) -> tuple[str, list[str]]:
    """What several are called, and the members that are named, as they are named."""
    many, *names = MEMBERS[kind].split("|")
    return many, [name if kind in _BARE or name in words.MASS else article(name) for name in names]


def name_some(rng: random.Random, split: ExamSplit) -> Drawn:
    """Name three birds."""
    while True:
        kind = rng.choice(tuple(MEMBERS))
        n = rng.choice((1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5) if split == "train" else (1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5))
        many, names = _first(kind)
        if n == 1:
            question = rng.choice(NAME_ONE).format(kind)
        elif n == 3 and rng.random() < 0.4:
            question = rng.choice(NAME_SOME).format(k=many)
        else:
            question = capital(rng.choice(NAME_MANY).format(n=rng.choice(NUMBERS[n]), k=many))
        if n <= len(names) and held_out("name " + question, 15) == split:
            break
    return turns(typed(rng, question), capital(listing(names[:n])) + "."), {"members": [kind, n]}


def another(rng: random.Random, split: ExamSplit) -> Drawn:
    """Name a bird. And another?"""
    while True:
        kind, more, steps = rng.choice(tuple(MEMBERS)), rng.choice(ANOTHER), rng.choice((1, 1, 2))
        if held_out(f"another {kind} {more} {steps}") == split:
            break
    _, names = _first(kind)
    first = [way.format(kind) for way in NAME_ONE]
    said = [rng.choice([question for question in first if held_out("name " + question, 15) == "train"]), capital(names[0]) + "."]
    for name in names[1:steps]:
        said += [rng.choice(ANOTHER), capital(name) + "."]
    return turns(*said, typed(rng, more), capital(names[steps]) + "."), {"members": [kind, 1], "not": capital(names[steps - 1])}


# ---- days, months, colours, opposites ----

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SEASONS = "spring summer autumn winter".split()
AMOUNTS = {"days|a week": "seven", "months|a year": "twelve", "seasons|a year": "four", "hours|a day": "twenty-four", "minutes|an hour": "sixty",
           "seconds|a minute": "sixty", "weeks|a year": "fifty-two", "fingers|a hand": "five", "toes|a foot": "five", "letters|the alphabet": "twenty-six",
           "wheels|a car": "four", "wheels|a bicycle": "two", "sides|a triangle": "three", "sides|a square": "four", "cents|a dollar": "one hundred",
           "years|a century": "one hundred", "eggs|a dozen": "twelve", "days|a weekend": "two"}
LOOKS = {"the sky": "blue", "grass": "green", "snow": "white", "blood": "red", "coal": "black", "the sea": "blue", "milk": "white",
         "chocolate": "brown", "an elephant": "grey", "a frog": "green", "a crow": "black", "a swan": "white", "a pig": "pink", "a mouse": "grey",
         "honey": "golden", "ink": "blue", "the night": "black", "a cloud": "white", "butter": "yellow", "a fire engine": "red", "a cucumber": "green"}
NEXT = ["What comes after {v}?", "Which {k} comes after {v}?", "What {k} comes after {v}?", "What is the {k} after {v}?", "Which {k} follows {v}?",
        "Tell me the {k} after {v}.", "What {k} follows {v}?", "Which is the next {k} after {v}?"]
BEFORE = ["What comes before {v}?", "Which {k} comes before {v}?", "What {k} comes before {v}?", "What is the {k} before {v}?",
          "Tell me the {k} before {v}.", "Which {k} is before {v}?"]
HOW_MANY = ["How many {k} are in {v}?", "How many {k} does {v} have?", "How many {k} are there in {v}?", "How many {k} has {v}?",
            "Tell me how many {k} are in {v}.", "Do you know how many {k} {v} has?"]
COLOUR = ["What colour is {v}?", "Which colour is {v}?", "What is the colour of {v}?", "Which colour does {v} have?", "Tell me the colour of {v}.",
          "Do you know what colour {v} is?"]
OPPOSITE = ["What is the opposite of {v}?", "What is the opposite of '{v}'?", "Tell me the opposite of {v}.", "Which word is the opposite of {v}?",
            "The opposite of {v}?", "Opposite of {v}?", "Can you tell me the opposite of {v}?", "Say the opposite of {v}.", "What is the contrary of {v}?"]


@functools.cache
def groups() -> dict[str, tuple[str, ...]]:
    """Group -> all answers that its questions can have; a right answer names one of them alone."""
    return {"day": tuple(DAYS), "month": tuple(facts.MONTHS), "season": tuple(SEASONS), "number": (*SMALL, *TENS, "twenty-four", "fifty-two", "twenty-six", "one hundred"),
            "colour": tuple(sorted({*facts.COLOURS, *LOOKS.values()})), "opposite": tuple(sorted(_opposites()))}


@functools.cache
def _opposites() -> dict[str, str]:
    """Word -> its opposite, for those that have only one."""
    pairs = [(a, b) for one, other in scenes.OPPOSITES for a, b in ((one, other), (other, one))]
    firsts = [a for a, _ in pairs]
    return {a: b for a, b in pairs if firsts.count(a) == firsts.count(b) == 1}


def everyday(rng: random.Random, split: ExamSplit) -> Drawn:
    """What every child knows."""
    if rng.random() < 0.45:
        return name_some(rng, split)
    if rng.random() < 0.2:
        return residents(rng, split)
    while True:
        question, group, asked, value, told = rng.choice((_after, _amount, _look, _look, _opposite, _opposite))(rng)
        if held_out("everyday " + question, 15) == split:
            break
    return turns(typed(rng, question), told), {"says": [value], "of": group, "about": asked}


def _after(rng: random.Random) -> tuple[str, str, str, str, str]:
    group = rng.choice(("day", "day", "month", "month", "season"))
    row = groups()[group]
    i = rng.randrange(len(row))
    if rng.random() < 0.65:
        asked, value, ways, told = row[i - 1], row[i], NEXT, "After {a} comes {b}."
    else:
        asked, value, ways, told = row[i], row[i - 1], BEFORE, "Before {a} comes {b}."
    return rng.choice(ways).format(v=asked, k=group), group, asked, value, told.format(a=asked, b=value)


def _amount(rng: random.Random) -> tuple[str, str, str, str, str]:
    pair, value = rng.choice(tuple(AMOUNTS.items()))
    many, whole = pair.split("|")
    return rng.choice(HOW_MANY).format(k=many, v=whole), "number", whole, value, f"{capital(whole)} has {value} {many}."


def _look(rng: random.Random) -> tuple[str, str, str, str, str]:
    what, value = rng.choice(tuple(LOOKS.items()))
    return rng.choice(COLOUR).format(v=what), "colour", what, value, f"{capital(what)} is {value}."


def _opposite(rng: random.Random) -> tuple[str, str, str, str, str]:
    word, value = rng.choice(tuple(_opposites().items()))
    return rng.choice(OPPOSITE).format(v=word), "opposite", word, value, f"The opposite of {word} is {value}."


# ---- who lives in a town, who has a job ----

LIVES = ["Who lives in {t}?", "Which people live in {t}?", "Name the people who live in {t}.", "Do you know who lives in {t}?", "Who has a home in {t}?",
         "Tell me who lives in {t}."]
WORKS = ["Who is {a}?", "Who works as {a}?", "Do you know {a}?", "Who are the {many}?", "Name the {many}.", "Which people are {many}?"]


def residents(rng: random.Random, split: ExamSplit) -> Drawn:
    """All people of a town, or of a job."""
    while True:
        attribute = rng.choice(("town", "job"))
        name = rng.choice(world().values["person", attribute])
        slots = {"t": name, "a": article(name), "many": plural(name)}
        question = rng.choice(LIVES if attribute == "town" else WORKS).format_map(slots)
        if held_out("residents " + question) == split:
            break
    people = [p.name for p in world().entities["person"] if p.values[attribute] == name]
    if attribute == "town":
        told = f"{listing(people)} {'lives' if len(people) == 1 else 'live'} in {name}."
    else:
        told = f"{listing(people)} {'is ' + article(name) if len(people) == 1 else 'are ' + plural(name)}."
    return turns(typed(rng, question), told), {"people": people}
