"""Short stories about asked subjects, and the check that a story is about them and well formed.

A story is a plot of `plots.py` told beat by beat; the asked subjects take its parts, so the plot is about them.
"""

import functools
import random
import re
from dataclasses import dataclass

from tasks.littleworld import facts
from tasks.littleworld.plots import PLOTS
from tasks.littleworld.world import Entity, article, grammar, held_out, listing, pair_split, plural, world

FIXED = "anchor boat bridge cart piano star table wagon window nest rose wheel".split()  # not to be carried about
PORTABLE = """accordion atlas bagpipe banjo barrel blocks bonnet bracelet bugle cape cardigan cello clarinet cloak cornet
crayon dictionary doll dress fiddle funnel globe harmonica harp helmet hood hoop horn jacket jigsaw jumper kaleidoscope ladle
lute mandolin marble mask mitten mug necklace oboe pinwheel pitcher puppet puzzle quilt rake rattle ribbon robe rug sandal
saucepan scooter screwdriver shawl shield shirt shoe skateboard skirt slipper spade stapler sword tambourine teddy thimble
top train treasure triangle trombone trowel tuba ukulele vest violin waistcoat whisk wrench xylophone yo-yo""".split()
PORTABLE.remove("blocks")

# where, the place
PLACES = [(f"{prep} {place}", place) for prep, places in {
    "in": """the forest|the old barn|the attic|the cave|the cellar|the garden|the orchard|the park|the meadow|the valley
the library|the castle|the jungle|the desert|the swamp|the old mill|the tower|the museum|the greenhouse|the empty house""",
    "at": "the harbour|the market|the beach|the railway station|the lighthouse|the theatre|the waterfall|the crossroads",
    "by": "the lake|the river|the sea|the old well|the pond|the bridge|the windmill|the ruined wall",
    "on": "the hill|the island|the moor|the roof|the high mountain|the frozen lake|the stage|the river bank",
}.items() for place in places.replace("\n", "|").split("|")]

TIMES = """one morning|one evening|one windy day|one rainy afternoon|one cold night|one summer day|one winter morning|one day
in spring|in the middle of the night|on a Sunday|one foggy morning|one bright day|last autumn|late in the evening|early in the
morning|on the first day of May|at noon|one snowy day|on a quiet afternoon|one starry night|just before sunset|one hot day in
July|on the last day of the year|before breakfast|one stormy evening""".replace("\n", " ").split("|")

POOLS = {name: pool.split("|") for name, pool in {
    "Time2": "the next morning|the next day|early next morning|in the evening|a day later|after a long night",
    "sad": "sad|unhappy|lonely|gloomy|miserable|downcast|sorrowful",
    "glad": "glad|happy|merry|cheerful|delighted|overjoyed|joyful|grateful",
    "angry": "angry|cross|grumpy|sulky|gloomy|sour",
    "tired": "tired|weary|worn out|sleepy|exhausted",
    "worried": "worried|anxious|alarmed|upset|troubled",
    "wx": "rain|wind|snow|fog|storm|mist|drizzle|hail|sleet",
    "rain": "a clap of thunder|a heavy shower|a cloudburst|a flash of lightning|a downpour|a gust of wind",
    "fruits": "apples|pears|plums|cherries|strawberries|blackberries|grapes|raspberries|nuts|peaches|apricots|figs",
    "drink": "tea|cocoa|lemonade|milk|apple juice|cider|coffee|cherry juice",
    "cake": "plum cake|apple pie|honey cake|chocolate cake|lemon tart|gingerbread|cheesecake|carrot cake|pudding|cherry tart",
    "tree": "birch|oak|willow|beech|chestnut|pine|maple|fir|elm|linden|poplar|ash",
    "bird": "blackbird|jay|robin|starling|sparrow|crow|magpie|finch|lark|thrush|wren|gull",
    "plants": "bluebells|daisies|poppies|snowdrops|violets|buttercups|primroses|foxgloves|marigolds|ferns|lilies|pansies",
    "tool": "hammer|screwdriver|saw|rope|spade|wrench|needle|shovel|ladder|bucket|file|chisel",
    "pastv": "painted|mended|scrubbed|repaired|polished|cleaned|built",
    "colour": "red|blue|green|golden|silver|orange|yellow|violet|striped|spotted",
    "num": "six|seven|eight|nine|ten|eleven|twelve|thirteen|twenty",
    "adj": "beautiful|wonderful|strange|lovely|quiet|curious|splendid|tiny|merry|peaceful|special|glorious|unusual|silly|gentle|"
           "mysterious|cheerful|magnificent|peculiar|simple|delightful|marvellous|charming|remarkable|elegant|amazing|odd|"
           "old|bright|pleasant|precious|funny|solemn|graceful|astonishing|dreamy|extraordinary|fine|grand|humble|joyful",
    "marvel": "wonderful|beautiful|peaceful|mysterious|magnificent|splendid|marvellous|charming|remarkable|glorious|delightful|"
              "astonishing|amazing|extraordinary|peculiar|elegant|special|unusual",
    "deep": "deeply|soundly|well|peacefully|like a log|like a stone",
    "sky": "a comet|a rainbow|a red moon|a falling star|an eclipse|a golden cloud|a bright planet|a pale moon|a satellite|a meteor",
    "water": "calm|clear|cold|deep|dark|still|wild|shallow|muddy|smooth|green|silver",
    "joy": "joy|wonder|delight|hope|longing|curiosity|gratitude|pride|love|patience|cheer|courage",
    "mild": "mild|warm|quiet|peaceful|sunny|calm|lovely|pleasant|bright|beautiful|wonderful|still|cool",
    "thing_adj": "old|new|shiny|tiny|wonderful|strange|beautiful|dusty|precious|red|blue|green|golden|silver|wooden|painted|odd|"
                 "elegant|crooked|striped|little|famous|ordinary|rusty|splendid|enormous|borrowed|simple|colourful|antique|"
                 "heavy|light|curious|scratched|polished|magnificent|unusual|ancient|plain|yellow|black|white|brown|spotted",
    "animal_adj": "little|young|old|clever|lazy|curious|brave|hungry|shy|friendly|fat|thin|proud|lonely|cheerful|grumpy|polite|"
                  "sleepy|adventurous|nosy|wise|gentle|impatient|elegant|absent-minded|stubborn|musical|kind|vain|nervous",
}.items()}

# ways in which one can both speak and do almost anything
MANNER = """calmly carefully cheerfully eagerly gently happily patiently proudly quickly quietly slowly softly gladly merrily
politely bravely nervously shyly warmly thoughtfully curiously kindly sleepily timidly hopefully briskly solemnly dreamily
modestly playfully loudly earnestly excitedly silently""".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


@dataclass(frozen=True)
class Subject:
    """What a story is asked to be about. `asked` stands in the request: "a fox", "Mira", "the harbour"."""

    role: str  # person, animal, thing, place
    name: str  # must occur in the story

    @property
    def asked(self) -> str:
        return self.name if self.role == "person" or self.name[0].isupper() or self.name.startswith("the ") else \
            article(self.name)


@functools.cache
def subjects() -> dict[str, list[Subject]]:
    """Everything a story can be about, by role."""
    named = {kind: [e.name for e in world().entities[kind]] for kind in ("person", "animal", "thing", "town")}
    things = sorted((set(named["thing"]) | set(PORTABLE)) - set(FIXED))
    return {"person": [Subject("person", name) for name in named["person"]],
            "animal": [Subject("animal", name) for name in named["animal"]],
            "thing": [Subject("thing", name) for name in things],
            "place": [Subject("place", place) for _, place in PLACES] + [Subject("place", t) for t in named["town"]]}


@functools.cache
def _plots() -> list[list[list[str]]]:
    """Every plot as a list of beats, each with its tellings."""
    return [[beat.split(" | ") for beat in block.split("\n")] for block in PLOTS.strip().split("\n\n")]


SHAPES = ("person", "animal", "thing", "place", "animal thing", "person thing", "animal animal", "person person", "person animal",
          "animal place", "person place", "animal thing place")
WITH_THING = tuple(shape for shape in SHAPES if "thing" in shape)


def draw_subjects(rng: random.Random, split: str) -> list[Subject]:
    """One to three subjects that go together; which combinations of two are held out depends on their names."""
    while True:
        pool = subjects()
        # Trained more often than asked: only here must a story be about a thing, and a model that has seen few such
        # stories tells one of the others, where it is right about everything but the thing.
        shape = rng.choice(SHAPES + WITH_THING if split == "train" else SHAPES)
        drawn = [rng.choice(pool[role]) for role in shape.split()]
        names = {subject.name for subject in drawn}
        if len(names) == len(drawn) and held_out("story " + " ".join(sorted(names))) == split:
            return drawn


def story(rng: random.Random, about: list[Subject], brief: bool = False) -> str:
    """A story about these subjects (from `draw_subjects`), 60 to 150 words; `brief` leaves beats out.

    All of them are named in the first three beats. A small model that has not copied a name by then forgets it: where
    the friend or the thing might come later, half of the stories about two went on with one.
    """
    parts = [_PARTS[subject.role] for subject in about if subject.role in _PARTS] + [_FRIEND] * (_actors(about) == 2)
    while True:
        beats = rng.choice(_plots())
        if brief:
            beats = beats[:3] + beats[-2:]
        told = [beat[int(rng.random() * len(beat))] for beat in beats]
        if all(part.search(" ".join(told[:3])) for part in parts):
            return _tell(rng, " ".join(told), about)


def _actors(about: list[Subject]) -> int:
    return sum(subject.role in ("person", "animal") for subject in about)


_PARTS = {"thing": re.compile(r"\{T\}"), "place": re.compile(r"\{(at|to|pl)\}")}
_FRIEND = re.compile(r"\{[Ff]\}")
_SLOT = re.compile(r"\{(\w+)\}")


def _tell(rng: random.Random, text: str, about: list[Subject]) -> str:
    pool = subjects()
    actors = [subject for subject in about if subject.role in ("person", "animal")]
    while len(actors) < 2:
        extra = rng.choice(pool["person" if rng.random() < 0.5 else "animal"])
        if extra not in actors:
            actors.append(extra)
    thing = next((s.name for s in about if s.role == "thing"), None) or rng.choice(pool["thing"]).name
    where = next((s.name for s in about if s.role == "place"), None)
    if where is None:
        at, where = rng.choice(PLACES)
    elif where[0].isupper():
        at = f"in {where}"
    else:
        at = next(at for at, place in PLACES if place == where)
    first, later, female = zip(*(_actor(rng, actor) for actor in actors[:2]), strict=True)
    s, o, p = ("she", "her", "her") if female[0] else ("he", "him", "his")
    things = plural(thing)
    slots = {"s": s, "o": o, "p": p, "S": s.capitalize(), "T": f"@ {rng.choice(POOLS['thing_adj'])} {thing}",
             "t": f"the {thing}", "ti": thing, "things": things, "at": at, "to": f"to {where}", "pl": where,
             "Time": "{Time}", "fv": later[1] if later[1][0].isupper() else "dear " + later[1][4:],
             "food": rng.choice(facts.FOODS), "cake": rng.choice(POOLS["cake"]), "day": rng.choice(DAYS)}
    slots["day2"] = DAYS[(DAYS.index(slots["day"]) + rng.randrange(1, 7)) % 7]
    if "{na}" in text:
        slots |= _sum(rng)
    seen: set[str] = set()

    def fill(slot: re.Match) -> str:
        name = slot[1]
        if name in "HhFf":
            i = "hf".index(name.lower())
            known = name.lower() in seen
            seen.add(name.lower())
            return later[i] if known else first[i]
        if name == "Time":
            return TIMES[int(rng.random() * len(TIMES))]
        if name == "adv":
            return MANNER[int(rng.random() * len(MANNER))]
        if name in slots:
            return slots[name]
        options = POOLS[name]
        return options[int(rng.random() * len(options))]

    return grammar(_SLOT.sub(fill, text))


def _actor(rng: random.Random, actor: Subject) -> tuple[str, str, bool]:
    """How an actor is called at first and later, and whether it is a she."""
    if actor.role == "animal":
        adjective = POOLS["animal_adj"][int(rng.random() * len(POOLS["animal_adj"]))]
        return (f"@ {adjective} {actor.name}" if rng.random() < 0.6 else f"@ {actor.name}", f"the {actor.name}",
                rng.random() < 0.5)
    person: Entity = world().by_name[actor.name]
    called = rng.random()
    first = person.name
    if called < 0.25:
        first = f"{person.name} the {person.values['job']}"
    elif called < 0.4:
        first = f"{person.name} from {person.values['town']}"
    return first, person.name, person.female


def _sum(rng: random.Random) -> dict[str, str]:
    while True:
        a, b = rng.randrange(4, 40), rng.randrange(2, 20)
        if a - b >= 2 and pair_split(a, b) == "train":
            return {"na": str(a), "nb": str(b), "nc": str(a + b), "nd": str(a - b)}


def title(about: list[Subject]) -> str:
    """A headline: The Fox and the Lantern."""
    names = [s.name if s.name[0].isupper() else "the " + s.name.removeprefix("the ") for s in about]
    return " ".join(w if w in ("and", "the", "of") and i else w[0].upper() + w[1:] for i, w in enumerate(listing(names).split()))


@functools.cache
def vocabulary() -> frozenset[str]:
    """Every word, in lower case, that a story can use."""
    texts = [PLOTS, *TIMES, *facts.FOODS, *MANNER, *DAYS]
    texts += [option for pool in POOLS.values() for option in pool]
    texts += [part for place in PLACES for part in place]
    texts += [s.name for group in subjects().values() for s in group]
    texts += [plural(s.name) for s in subjects()["thing"]]
    texts += [e.name for kind in ("job", "town") for e in world().entities[kind]] + ["a an she her he him his the dear"]
    return frozenset(re.findall(r"[a-z]+", " ".join(texts).lower()))


def faults(text: str, about: list[Subject]) -> list[str]:
    """What is wrong with a story, as far as a machine can see; empty for a good one."""
    found = []
    lower = text.lower()
    for subject in about:
        if not re.search(rf"\b{re.escape(subject.name.lower())}\b", lower):
            found.append(f"nothing about {subject.name}")
    count = len(text.split())
    if not 25 <= count <= 220:
        found.append(f"{count} words")
    if not re.match(r"[\"A-Z0-9]", text) or not re.search(r"[.!?]\"?$", text):
        found.append("does not begin or end as a sentence does")
    if text.count('"') % 2:
        found.append("a quotation is not closed")
    found += [f"a before {m[2]}" for m in re.finditer(r"\b(an?) (\w+)", lower) if article(m[2]) != m[0]]
    found += [f"{m[1]} twice" for m in re.finditer(r"\b(\w+) \1\b", lower)]
    found += [f"unknown word {word}" for word in sorted(set(re.findall(r"[a-z]+", lower)) - vocabulary())]
    sentences = re.split(r"(?<=[.!?])\"? (?=[\"A-Z0-9])", text)
    found += [f"said twice: {s}" for s in {s for s in sentences if sentences.count(s) > 1}]
    found += [f"no capital: {s}" for s in re.findall(r"\. \"?([a-z]\w*)", text)]
    people = [world().by_name[n] for n in re.findall(r"[A-Z][a-z]+", text)
              if n in world().by_name and world().by_name[n].kind == "person"]
    if people and not any(s.role == "animal" for s in subjects_in(lower)):
        wrong = {"she", "her"} if not any(p.female for p in people) else \
            {"he", "him", "his"} if all(p.female for p in people) else set()
        found += [f"{word} for {people[0].name}" for word in wrong & set(re.findall(r"[a-z]+", lower))]
    for a, sign, b, c in re.findall(r"(\d+) (and|take away) (\d+) makes? (\d+)", text):
        if (int(a) + int(b) if sign == "and" else int(a) - int(b)) != int(c):
            found.append(f"{a} {sign} {b} is not {c}")
    return found


def subjects_in(lower: str) -> list[Subject]:
    """The animals that a text in lower case names; they may be a he or a she."""
    present = set(re.findall(r"[a-z]+", lower))
    return [s for s in subjects()["animal"] if s.name in present]
