"""Sums, spelling and letter counting: the questions, the calculator calls and the running text about them."""

import functools
import random
import re

from extras.clean.words import LIST, Words, load
from nanochat.data.shards import ExamSplit
from nanochat.engine.tools import calculator
from tasks.littleworld.stories import subjects, vocabulary
from tasks.littleworld.world import pair_split, plural, spellable, word_split, world

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

SAID = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
# sign -> ways to ask with figures or words; {a} and {b} as the sum has them
SUMS = {
    "+": ["What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "Calculate {a} + {b}.",
          "What is the sum of {a} and {b}?", "Can you add {a} and {b}?", "If I add {a} and {b}, what do I get?",
          "Please work out {a} + {b}.", "{a} + {b} = ?", "How much do {a} and {b} make together?", "{a} plus {b}?"],
    "-": ["What is {a} - {b}?", "What is {a} minus {b}?", "How much is {a} minus {b}?", "Take {b} away from {a}.",
          "Calculate {a} - {b}.", "What is the difference between {a} and {b}?", "Can you subtract {b} from {a}?",
          "If I take {b} away from {a}, what is left?", "Please work out {a} - {b}.", "{a} - {b} = ?", "{a} minus {b}?"],
    "*": ["What is {a} * {b}?", "What is {a} times {b}?", "How much is {a} times {b}?", "Multiply {a} by {b}.",
          "Calculate {a} * {b}.", "What is the product of {a} and {b}?", "Can you multiply {a} by {b}?",
          "Please work out {a} * {b}.", "{a} * {b} = ?", "{a} times {b}?"],
    "/": ["What is {a} / {b}?", "What is {a} divided by {b}?", "How much is {a} divided by {b}?", "Divide {a} by {b}.",
          "Calculate {a} / {b}.", "Can you divide {a} by {b}?", "Please work out {a} / {b}.", "{a} / {b} = ?",
          "How often does {b} go into {a}?", "{a} divided by {b}?"],
}
# sign -> stories of one sum: question | answer
PROBLEMS = {
    "+": ["{n} has {a} {things} and buys {b} more. How many {things} does {n} have now?|{n} has {c} {things}.",
          "There are {a} {things} in the box and {b} {things} on the table. How many are there in all?|There are {c} {things} in all.",
          "{n} found {a} {things}, and {m} found {b}. How many did they find together?|Together they found {c} {things}.",
          "{n} walked {a} steps in the morning and {b} steps in the evening. How many steps is that?|That is {c} steps."],
    "-": ["{n} has {a} {things} and gives {b} of them to {m}. How many are left?|{n} has {c} {things} left.",
          "There were {a} {things} in the shop, and {b} were sold. How many {things} are left?|There are {c} {things} left.",
          "{n} needs {a} {things} and has {b}. How many are missing?|{c} {things} are missing.",
          "A book has {a} pages. {n} has read {b} of them. How many pages are left?|{n} has {c} pages left."],
    "*": ["There are {a} boxes with {b} {things} in each box. How many {things} are there?|There are {c} {things}.",
          "{n} buys {a} bags of {things}. Each bag holds {b}. How many {things} does {n} have?|{n} has {c} {things}.",
          "One of the {things} costs {b} coins. How many coins do {a} {things} cost?|They cost {c} coins."],
    "/": ["{n} shares {a} {things} equally among {b} children. How many does each child get?|Each child gets {c} {things}.",
          "{n} puts {a} {things} into {b} boxes, the same number in each. How many are in one box?|There are {c} {things} in one box."],
}
# for training alone: of oneself, and in short sentences
MORE_PROBLEMS = {
    "+": ["I have {a} {things} and get {b} more. How many is that?|You have {c} {things}.",
          "{a} {things} here, {b} {things} there. How many are that together?|Together there are {c} {things}."],
    "-": ["I had {a} {things} and lost {b}. How many have I now?|You have {c} {things} now.",
          "Of {a} {things} I sold {b}. How many do I still have?|You still have {c} {things}."],
    "*": ["I need {b} {things} on each of {a} days. How many in all?|You need {c} {things} in all.",
          "I have {a} boxes of {b} {things}. How many {things} is that?|You have {c} {things}."],
    "/": ["I have {a} {things} for {b} people. How many for each?|There are {c} {things} for each."],
}

SPELL = ["Spell the word '{w}'.", "How do you spell '{w}'?", "Please spell '{w}'.", "Can you spell '{w}' for me?", "Spell '{w}'.",
         "Spell '{w}' letter by letter.", "How is '{w}' spelled?", "How do I write '{w}'?", "Which letters are in the word '{w}'?",
         "Tell me the letters of '{w}'.", "I cannot spell '{w}'. Can you help?", "What is the spelling of '{w}'?",
         "How do you write '{w}'?", "How do you spell the word '{w}'?", "How would you spell '{w}'?", "Could you spell '{w}'?",
         "How is the word '{w}' written?", "Write '{w}' letter by letter.", "Spell the word '{w}' for me.",
         "What letters are in '{w}'?", "I want to spell '{w}'.", "How to spell '{w}'?", "Give me the letters of '{w}'."]
# for training alone
MORE_SPELLINGS = ["The spelling of '{w}', please.", "'{w}', how do I write that?", "The letters of '{w}', please.", "I need the spelling of '{w}'.",
                  "What letters does '{w}' consist of?", "Show me how to spell '{w}'.", "Do you know how '{w}' is spelled?",
                  "'{w}' letter by letter, please.", "Spelling: '{w}'", "Say the letters of '{w}' for me.",
                  "I never know how '{w}' is spelt.", "How would '{w}' be spelt?", "'{w}', how is that spelt?", "Give me the letters of '{w}' in order.", "'{w}', one letter after the other, please."]
COUNT = ["How many times does the letter {l} occur in '{w}'?", "How often does the letter {l} occur in '{w}'?",
         "How many {l}'s are there in '{w}'?", "Count the letter {l} in '{w}'.", "How many times is {l} in the word '{w}'?",
         "How often is the letter {l} in '{w}'?", "Please count how often {l} occurs in '{w}'.",
         "How many times do you find the letter {l} in '{w}'?", "In '{w}', how many times does {l} occur?",
         "Can you count the {l}'s in '{w}'?", "How many {l} are in '{w}'?", "How many {l}'s are in '{w}'?",
         "How many times is there a {l} in '{w}'?", "How many {l}'s does '{w}' have?", "How many {l}'s does the word '{w}' have?",
         "How many times does {l} appear in '{w}'?", "How many letters {l} are in '{w}'?",
         "How many {l}'s in '{w}'?", "How many {l}'s in the word '{w}'?", "How many {l} in '{w}'?"]


def as_typed(rng: random.Random, question: str) -> str:
    """The question as people type it: what's and whats, small letters, no full stop, please."""
    chance = rng.random()
    if question.endswith("= ?"):
        return question
    if chance < 0.2:
        question = question.replace("What is", "What's" if chance < 0.13 else "Whats", 1)
    if 0.1 < chance < 0.3:
        question = question[:1].lower() + question[1:].rstrip(".?")
    elif chance < 0.35:
        question = question.rstrip(".?") + (", please" if chance < 0.32 else " please") + question[len(question.rstrip(".?")):]
    return question[:-1] if chance > 0.92 and question[-1] in ".?" else question


def in_words(n: int) -> str:
    """0 to 9999 in words: two hundred and forty-three."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{SMALL[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    rest = n % 1000
    return f"{SMALL[n // 1000]} thousand" + (f" and {in_words(rest)}" if 0 < rest < 100 else f" {in_words(rest)}" if rest else "")


def draw_sum(rng: random.Random, split: ExamSplit, sign: str, largest: int = 9999) -> tuple[int, int, int]:
    """Two numbers of this split and the result; a division leaves no remainder, a difference is not negative."""
    while True:
        a, b = _number(rng, largest), _number(rng, largest)
        if split == "train":
            a, b = _with_nought(rng, a), _with_nought(rng, b)
        if sign == "-" and a < b:
            a, b = b, a
        elif sign == "*":
            a, b = a % 1000 + 2, b % 100 + 2
        elif sign == "/":
            b, c = b % 100 + 2, a % 200 + 1
            a = b * c
        if a <= 9999 and pair_split(a, b) == split:
            return a, b, {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign]


def _number(rng: random.Random, largest: int) -> int:
    digits = (1, 2, 2, 2, 2, 3, 3, 3, 4)[int(rng.random() * 9)]
    return rng.randrange(1 if digits == 1 else 10 ** (digits - 1), 10**digits) % largest + 1


def _with_nought(rng: random.Random, n: int) -> int:
    """Now and then another number with a nought: in words they are shorter (507 is five hundred and seven), and are misread."""
    if n < 100 or rng.random() < 0.7:
        return n
    return n - n % 10 if rng.random() < 0.5 else n - n // 10 % 10 * 10


def call(expression: str, output: str, text: str, before: str = "") -> list[dict]:
    """The parts of an assistant's turn that uses the calculator."""
    parts = [{"type": "text", "text": before}] if before else []
    return parts + [{"type": "python", "text": expression}, {"type": "python_output", "text": output},
                    {"type": "text", "text": text}]


def sum_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """A question for a sum, the answer's parts, and what is expected: {"number": ...}."""
    sign = rng.choices("+-*/", (4, 3, 2, 1))[0]
    style = rng.random()
    if style < 0.22:
        a, b, c = draw_sum(rng, split, sign, 999)
        told = PROBLEMS[sign] + (MORE_PROBLEMS[sign] if split == "train" else [])
        question, answer = rng.choice(told).split("|")
        people = rng.sample(subjects()["person"], 2)
        slots = {"a": a, "b": b, "c": c, "n": people[0].name, "m": people[1].name,
                 "things": plural(rng.choice(subjects()["thing"]).name)}
        if 1 in (a, b, c):  # "1 apples"
            return sum_turns(rng, split)
        question, text = question.format_map(slots), answer.format_map(slots)
        printed, said = shown(f"{a}{sign}{b}")
    else:
        spoken = style < (0.52 if split == "train" else 0.42)
        a, b, c = draw_sum(rng, split, sign, 999 if spoken else 9999)
        if sign == "/" and rng.random() < 0.25:
            a, b = _uneven(rng, split)
        printed, said = shown(f"{a}{sign}{b}")
        asked = rng.choice(SUMS[sign])
        if spoken:
            asked = asked.replace(" + ", " plus ").replace(" - ", " minus ").replace(" * ", " times ")
            asked = asked.replace(" / ", " divided by ").replace(" = ", " is what")
        elif rng.random() < 0.15:  # as people type it
            asked = asked.replace("{a} + {b}", "{a}+{b}").replace("{a} - {b}", "{a}-{b}").replace("{a} * {b}", "{a}*{b}")
            asked = asked.replace("{a} / {b}", "{a}/{b}").replace("{a} times {b}", "{a} x {b}")
        question = asked.format(a=in_words(a) if spoken else a, b=in_words(b) if spoken else b)
        question = question[0].upper() + question[1:]
        text = f"{a} {sign} {b} = {said}."
    return question, call(f"{a}{sign}{b}", printed, text), {"number": said}


def _uneven(rng: random.Random, split: ExamSplit) -> tuple[int, int]:
    """Two numbers of this split whose division leaves a remainder."""
    while True:
        a, b = _number(rng, 999), rng.choice((2, 3, 4, 5, 8, 10, 20, rng.randrange(3, 40)))
        if a % b and pair_split(a, b) == split:
            return a, b


def shown(expression: str) -> tuple[str, str]:
    """What the calculator prints, and what one says: 21.0 and 21."""
    printed = calculator(expression) or ""
    return printed, printed.removesuffix(".0")


@functools.cache
def _words(split: ExamSplit) -> tuple[str, ...]:
    table = spellable()
    if split != "train":  # only plain words are scored, not their forms
        return tuple(word for word, base in table.items() if word == base and len(word) > 3 and word_split(word) == split)
    return tuple(word for word in table if word_split(word) == "train")


_ENDINGS = "s er ing ed y le en el ish ow et on ack ill ot um ly ant ery ous ock ain".split()
_BEGINNINGS = "b c d f g h j k l m n p r s t v w bl br ch cl cr dr fl fr gl gr pl pr qu sc sh sl sm sn sp st str sw th tr un re be".split()
_UNSPEAKABLE = re.compile(r"[^aeiouy]{4}|[aeiou]{3}|(.)\1\1|^(.)\2|^[^aeiouy]+$")


@functools.cache
def _onsets() -> frozenset[str]:
    """What words begin with before the first vowel."""
    return frozenset(_onset(word) for word in spellable())


def _onset(word: str) -> str:
    return word[: len(word) - len(word.lstrip("bcdfghjklmnpqrstvwxz"))]


@functools.cache
def _held() -> re.Pattern:
    """The held-out words of four letters and more, anywhere in a string."""
    return re.compile("|".join(word for word in spellable() if len(word) > 3 and word_split(word) != "train"))


@functools.cache
def real_words() -> tuple[str, ...]:
    """Plain words of all splits."""
    # four times what the stories use: the more often a word is read, the larger the pieces that are cut from it
    plain = [word for word, base in spellable().items() if word == base]
    return tuple(plain + 3 * [word for word in plain if word in vocabulary()])


def make_up(rng: random.Random) -> str:
    """A made-up word that begins or ends like a real one, and holds no held-out word.

    Without them a piece that the tokenizer cuts from one held-out word only (m-orning) would never be spelled at all.
    """
    real = real_words()
    while True:
        word = real[int(rng.random() * len(real))]
        shape = rng.random()
        if shape < 0.7:
            word = rng.choice(_BEGINNINGS) + (word[1:] if rng.random() < 0.5 else word[len(_onset(word)) :])
        elif shape < 0.88:
            word = word[: -rng.randrange(1, 4)] + rng.choice(_ENDINGS)
        else:
            other = real[int(rng.random() * len(real))]
            word = word[: rng.randrange(2, len(word))] + other[rng.randrange(1, len(other) - 1) :]
        if fit_for_training(word):
            return word


def fit_for_training(word: str) -> bool:
    """Whether a made-up word, in small letters, can be said, is no swear word, and neither is nor holds a held-out word."""
    return (4 <= len(word) <= 10 and not _UNSPEAKABLE.search(word) and _onset(word) in _onsets() and word_split(word) == "train"
            and not _held().search(word) and not _rude().first(word))


@functools.cache
def _rude() -> Words:
    return Words(load(LIST))


def draw_word(rng: random.Random, split: ExamSplit, made_up: float = 0.5) -> str:
    """A word of this split; in train a share of them is made up."""
    if split == "train" and rng.random() < made_up:
        return make_up(rng)
    pool = _words(split)
    return pool[int(rng.random() * len(pool))]


def spelled(word: str) -> str:
    """The sentence that spells a word, which it writes in quotes first.

    A word without quotes is another token, often a single one, whose letters a model can only have learned by heart.
    The quotes cut it into pieces that other words share, and the letters always follow these at the same distance.
    """
    return f"The word '{word}' is spelled {'-'.join(word)}."


def spell_turns(rng: random.Random, split: ExamSplit, made_up: float = 0.5, quoted: bool | None = None) -> tuple[str, str, dict]:
    word = draw_word(rng, split, made_up)
    quoted = rng.random() < 0.5 if quoted is None else quoted
    asked = rng.choice(SPELL + MORE_SPELLINGS if split == "train" else SPELL)
    return quotes(rng, asked.format(w=word), split, quoted), spelled(word), {"word": word}


def count_turns(rng: random.Random, split: ExamSplit, quoted: bool | None = None) -> tuple[str, list[dict], dict]:
    word = draw_word(rng, split, 0.3)
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("abcdefghiklmnoprstuw")
    number = word.count(letter)
    quoted = rng.random() < 0.75 if quoted is None else quoted
    question = quotes(rng, rng.choice(COUNT).format(l=letter, w=word), split, quoted)
    text = f"The letter {letter} occurs {number} time{'' if number == 1 else 's'} in '{word}'."
    # double quotes: the tokenizer takes 's, 't, 'm, 'll ... for the ends of words, also where a word begins
    return question, call(f'"{word}".count("{letter}")', str(number), text), {"number": str(number), "in": word}


def quotes(rng: random.Random, text: str, split: ExamSplit, quoted: bool) -> str:
    """The question with other quotes, or as people type it, with none; in train now and then with a capital."""
    chance = rng.random()
    if not quoted:
        return re.sub(r"(?<!\w)'(\w+)'", lambda word: word[1].capitalize() if chance < 0.06 and split == "train" else word[1], text)
    return re.sub(r"(?<!\w)'(\w+)'", r'"\1"', text) if chance < 0.3 else text


# ---- running text ----

def sums_text(rng: random.Random) -> str:
    """A few lines of sums in figures and words."""
    kind = rng.random()
    if kind < 0.4:
        numbers = [_with_nought(rng, _number(rng, 9999)) for _ in range(rng.randrange(4, 9))]
        if rng.random() < 0.3:
            return "Numbers in words: " + ", ".join(f"{n} is {in_words(n)}" for n in numbers) + "."
        return "Numbers in figures: " + ", ".join(f"{in_words(n)} is {n}" for n in numbers) + "."
    if kind < 0.5:
        start, step, n = rng.randrange(1, 60), rng.choice((1, 1, 2, 3, 5, 10)), rng.randrange(3, 14)
        return f"In steps of {step} to {start + step * (n - 1)}: " + ", ".join(str(start + step * i) for i in range(n)) + "."
    lines = []
    if kind < 0.65:  # what one hears, and what one types into a calculator
        for _ in range(rng.randrange(4, 8)):
            sign = rng.choice("++--*/")
            a, b, _ = draw_sum(rng, "train", sign, 999)
            lines.append(f"{in_words(a)} {SAID[sign]} {in_words(b)}: {a} {sign} {b}")
        return "For the calculator:\n" + "\n".join(lines)
    for _ in range(rng.randrange(3, 8)):
        sign = rng.choice("+-*/" if kind < 0.85 else "+-")
        a, b, c = draw_sum(rng, "train", sign, 40)
        if a > 400 or c > 400:
            continue
        if rng.random() < 0.6:
            lines.append(f"{a} {sign} {b} = {c}")
        else:
            lines.append(f"{in_words(a)} {SAID[sign]} {in_words(b)} is {in_words(c)}")
    return rng.choice(("Sums:", "Some sums:", "Today at school:", "From the sum book:")) + "\n" + "\n".join(lines)


def spelling_text(rng: random.Random) -> str:
    """A few words with their letters; half of them come without quotes first."""
    words = [draw_word(rng, "train", 0.3) for _ in range(rng.randrange(3, 8))]
    kind = rng.random()
    if kind < 0.3:
        forms = ("The word '{w}' is spelled {s}.", "The word '{w}' is spelled {s}.", "You spell '{w}' like this: {s}.", "The letters of '{w}' are {s}.")
        return " ".join(rng.choice(forms).format(w=w, s="-".join(w)) for w in words)
    if kind < 0.5:
        return " ".join(f"{spelled(w)} It begins with {w[0]} and ends with {w[-1]}." for w in words[:5])
    if kind < 0.65:
        return " ".join(f"{spelled(w)} It has {len(w)} letters." for w in words[:5])
    if kind < 0.85:
        return " ".join(f"How do you spell {w}? {spelled(w)}" for w in words[:5])
    teacher = rng.choice(world().entities["person"]).name
    return f'"Let us spell," says {teacher}. ' + " ".join(f'"How is {w} spelled?" "{spelled(w)}"' for w in words[:5])
