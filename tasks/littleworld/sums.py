"""Sums in several steps, percentages, halves, comparing and counting: questions, and the one expression that answers them."""

import itertools
import random
import re

from nanochat.data.shards import ExamSplit
from tasks.littleworld.exercises import call, draw_sum, in_words, shown
from tasks.littleworld.messages import asked_by_newcomers, plain_text
from tasks.littleworld.world import held_out, pair_split

ASK = ["What is {e}?", "What is {e}?", "How much is {e}?", "Calculate {e}.", "{e}", "{e} = ?", "Work out {e}.", "Please work out {e}.",
       "Can you calculate {e}?", "{e}?", "What does {e} make?", "Compute {e}.", "What do you get for {e}?", "Tell me what {e} is."]
STEPS = {"({a} + {b}) * {c}": "Add {a} and {b}, then multiply by {c}.", "({a} - {b}) * {c}": "Take {b} away from {a}, then multiply by {c}.",
         "{a} * {b} + {c}": "Multiply {a} by {b} and add {c}.", "{a} * {b} - {c}": "Multiply {a} by {b} and take away {c}.",
         "{a} + {b} - {c}": "Add {a} and {b} and take away {c}.", "{a} - {b} + {c}": "Take {b} away from {a} and add {c}."}
CHAINS = ["{a} + {b} + {c}", "{a} + {b} + {c}", "{a} + {b} - {c}", "{a} - {b} + {c}", "{a} - {b} - {c}", "{a} * {b} + {c}", "{a} * {b} + {c}",
          "{a} * {b} - {c}", "{c} + {a} * {b}", "{a} * {b} * {c}", "({a} + {b}) * {c}", "({a} - {b}) * {c}", "{c} * ({a} + {b})",
          "{a} / {b} + {c}", "{a} / {b} * {c}", "({a} + {b}) / {c}", "{a} + {b} + {c} + {d}", "{a} + {b} - {c} + {d}", "{a} * {b} + {c} * {d}"]
SUM_OF_THREE = ["Add {a}, {b} and {c}.", "What is the sum of {a}, {b} and {c}?", "How much are {a}, {b} and {c} together?",
                "Add up {a}, {b} and {c}."]
SPOKEN = {" + ": " plus ", " - ": " minus ", " * ": " times ", " / ": " divided by "}

PERCENT = ["What is {p} % of {n}?", "What is {p}% of {n}?", "How much is {p} % of {n}?", "What is {p} percent of {n}?",
           "How much is {p} percent of {n}?", "Calculate {p}% of {n}.", "{p} percent of {n}", "{p} % of {n}", "{p}% of {n}",
           "Calculate {p} percent of {n}.", "Tell me {p} percent of {n}."]
# of what part -> the expression, ways to ask, how the answer begins
PARTS = {
    "half": ("{n}/2", ["What is half of {n}?", "What is a half of {n}?", "How much is half of {n}?", "Halve {n}.", "Half of {n}?"], "Half of {n}"),
    "double": ("{n}*2", ["Double {n}.", "What is double {n}?", "What is twice {n}?", "What is the double of {n}?", "How much is twice {n}?"],
               "Twice {n}"),
    "third": ("{n}/3", ["What is a third of {n}?", "What is one third of {n}?", "How much is a third of {n}?"], "A third of {n}"),
    "quarter": ("{n}/4", ["What is a quarter of {n}?", "What is one quarter of {n}?", "How much is a quarter of {n}?"], "A quarter of {n}"),
    "square": ("{n}**2", ["What is {n} squared?", "What is the square of {n}?", "Square {n}."], "{n} squared"),
    "root": ("{n}**0.5", ["What is the square root of {n}?", "What is the root of {n}?", "How much is the square root of {n}?"], "The square root of {n}"),
}
# the expression, ways to ask, the answer: of two numbers
TWO = [("({a}+{b})/2", ["What is the average of {a} and {b}?", "What is the mean of {a} and {b}?"], "The average of {a} and {b} is {c}."),
       ("{a}%{b}", ["What is the remainder of {a} divided by {b}?", "What is left when {a} is divided by {b}?"], "The remainder is {c}."),
       ("{a}**{b}", ["What is {a} to the power of {b}?", "How much is {a} to the power of {b}?", "What is {a}^{b}?"], "{a} to the power of {b} is {c}.")]
PARITY = ["Is {n} even or odd?", "Is {n} odd or even?", "Is {n} an even number?", "Is {n} even?", "Is {n} odd?", "Is {n} an odd number?"]
WHICH = ["Which is {y}, {a} or {b}?", "Which number is {y}, {a} or {b}?", "What is {y}, {a} or {b}?", "Which is {y}: {a} or {b}?",
         "Is {a} or {b} {y}?", "Which is the {y} number, {a} or {b}?", "{a} or {b}, which is {y}?", "Which one is {y}, {a} or {b}?",
         "Which is {y}, {a} or {b}?", "Which is {y} {a} or {b}?", "What is {y} {a} or {b}?"]
MORE, LESS = ("larger", "bigger", "greater", "more", "higher"), ("smaller", "less", "lower")
COUNT_UP = ["Count from {a} to {b}.", "Please count from {a} to {b}.", "Can you count from {a} to {b}?", "Count up from {a} to {b}.",
            "List the numbers from {a} to {b}."]
COUNT_TO = ["Count to {b}.", "Count up to {b}.", "Can you count to {b}?", "Please count to {b}."]
# for training alone
MORE_COUNTS = ["Say the numbers from {a} to {b}.", "All numbers from {a} to {b}, please.", "Start at {a} and count until {b}.", "Count on from {a} until you are at {b}."]
COUNT_DOWN = ["Count down from {a} to {b}.", "Count backwards from {a} to {b}.", "Can you count down from {a} to {b}?"]
AFTER = ["What comes after {n}?", "What number comes after {n}?", "Which number comes after {n}?", "What is the number after {n}?",
         "What is the next number after {n}?"]
BEFORE = ["What comes before {n}?", "What number comes before {n}?", "Which number comes before {n}?", "What is the number before {n}?"]


def number_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """A question about numbers, the answer's parts, and what is expected."""
    return rng.choices(_KINDS, _TRAINED if split == "train" else _SHARES)[0](rng, split)


def _numeral(rng: random.Random, n: int, share: float = 0.12) -> str:
    return in_words(n) if rng.random() < share else str(n)


def _small(rng: random.Random) -> int:
    return rng.randrange(1, (10, 10, 20, 100, 100, 1000)[int(rng.random() * 6)]) + 1


def _chain(rng: random.Random, split: ExamSplit) -> tuple[str, dict]:
    """The form of a sum in several steps, and its numbers; their first pair is of this split.

    Every two neighbours are of train in train. Nothing is negative, and what is divided leaves no remainder.
    """
    while True:
        form = rng.choice(CHAINS)
        n = {name: _small(rng) for name in "abcd"}
        if "*" in form:
            n["b" if form.startswith("{a} * {b}") or form == "{c} + {a} * {b}" else "c"] %= 20
        if form.startswith("{a} /"):
            n["b"] = n["b"] % 12 + 1
            n["a"] = n["b"] * (n["a"] % 50 + 1)
        order = [n[name] for name in re.findall(r"\w", form)]
        if pair_split(n["a"], n["b"]) != split or min(order) < 1:
            continue
        if split == "train" and any(pair_split(*two) != "train" for two in itertools.pairwise(order)):
            continue
        _, said = shown(form.format(**n).replace(" ", ""))
        if said.isdecimal() and not ("- {b}" in form and n["a"] < n["b"]):
            return form, n


def chain_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    form, n = _chain(rng, split)
    expression = form.format(**n)
    printed, said = shown(expression.replace(" ", ""))
    chance, asked = rng.random(), expression
    if form in STEPS and chance < 0.3:
        question = STEPS[form].format(**n)
    elif form == "{a} + {b} + {c}" and chance < 0.35:
        asks = SUM_OF_THREE + ["{a} and {b} and {c}, how much is that?"] * (split == "train")
        question = rng.choice(asks).format(**n)
    else:
        if chance > 0.6 and "(" not in form:
            if chance > 0.85:
                asked = form.format(**{name: in_words(number) for name, number in n.items()})
            for sign, spoken in SPOKEN.items():
                asked = asked.replace(sign, spoken)
        elif chance < 0.45:  # as people type it
            asked = asked.replace(" ", "") if chance < 0.4 else asked.replace("*", "x")
        question = rng.choice(ASK).format(e=asked)
        question = question[0].upper() + question[1:]
    return question, call(expression.replace(" ", ""), printed, f"{expression} = {said}."), {"number": said}


def product_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """Two numbers of two digits, in words."""
    while pair_split(a := rng.randrange(11, 100), b := rng.randrange(11, 100)) != split:
        pass
    asked = f"{in_words(a)} {rng.choice(('times', 'times', 'multiplied by'))} {in_words(b)}"
    question = rng.choice(ASK).format(e=asked) if rng.random() < 0.8 else f"Multiply {in_words(a)} by {in_words(b)}."
    return question[0].upper() + question[1:], call(f"{a}*{b}", str(a * b), f"{a} * {b} = {a * b}."), {"number": str(a * b)}


def percent_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    while True:
        p = rng.choice((1, 5, 10, 10, 20, 20, 25, 30, 40, 50, 50, 60, 75, 80, 90, 100, rng.randrange(1, 100)))
        n = rng.choice((rng.randrange(1, 100) * 10, rng.randrange(1, 20) * 100, rng.randrange(2, 1000), rng.choice((40, 50, 60, 80, 100, 120, 200))))
        if pair_split(n, p) == split:
            break
    printed, said = shown(f"{n}*{p}/100")
    spoken = rng.random() < 0.15
    question = rng.choice(PERCENT[3:5] + PERCENT[9:] if spoken else PERCENT)
    question = question.format(p=in_words(p) if spoken else p, n=in_words(n) if spoken else n)
    return question, call(f"{n}*{p}/100", printed, f"{p} % of {n} is {said}."), {"number": said}


def part_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    while True:
        name = rng.choice(tuple(PARTS))
        expression, asked, told = PARTS[name]
        n = rng.randrange(1, (10, 100, 100, 1000)[int(rng.random() * 4)]) + 1
        n = {"half": n * 2 if rng.random() < 0.75 else n, "third": n * 3, "quarter": n * 4, "root": (n % 30 + 1) ** 2}.get(name, n)
        if pair_split(n, {"third": 3, "quarter": 4}.get(name, 2)) == split:
            break
    printed, said = shown(expression.format(n=n))
    question = rng.choice(asked).format(n=_numeral(rng, n))
    return question, call(expression.format(n=n), printed, f"{told.format(n=n)} is {said}."), {"number": said}


def two_number_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """An average, a remainder, a power, whether a number is even, or a difference below nothing."""
    chance = rng.random()
    while True:
        a, b = _small(rng), _small(rng)
        b = 2 if chance < 0.4 else b
        if chance >= 0.6:
            a, b = (a, b) if chance < 0.74 else (a, b % 12 + 2) if chance < 0.88 else (a % 10 + 1, b % 5 + 2)
        if pair_split(a, b) == split and (not 0.4 <= chance < 0.6 or a < b):
            break
    if chance < 0.4:
        asked, kind = rng.choice(PARITY), "odd" if a % 2 else "even"
        text = f"{a} is {kind}."
        if " or " not in asked:
            text = ("Yes, " if kind in asked else "No, ") + text
        return asked.format(n=_numeral(rng, a)), call(f"{a}%2", str(a % 2), text), {"begins": text[:-1], "says": [str(a)]}
    if chance < 0.6:
        sign, said = rng.choice((" - ", " minus ")), str(a - b)
        question = rng.choice(ASK).format(e=f"{a}{sign}{b}")
        return question, call(f"{a}-{b}", said, f"{a} - {b} = {said}."), {"results": [said]}
    expression, asked, told = TWO[0 if chance < 0.74 else 1 if chance < 0.88 else 2]
    expression = expression.format(a=a, b=b)
    printed, said = shown(expression)
    return rng.choice(asked).format(a=a, b=b), call(expression, printed, told.format(a=a, b=b, c=said)), {"number": said}


def compare_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """Which of two numbers is larger. The calculator's difference says it: a sign is easier to read than digits.

    It is a - b for "larger" and b - a for "smaller", so no sign always means yes, or the first of them. (With a - b for both, where
    the sign and the word decide together, 15 of 40 wrong answers about numbers had the right difference and the wrong verdict.)
    """
    while True:
        a, b = _small(rng), _small(rng)
        if rng.random() < 0.3:  # 34 and 43
            b = int(str(a)[::-1])
        if a != b and pair_split(a, b) == split:
            break
    more, share = rng.random() < 0.65, 0.15
    word = rng.choice(MORE if more else LESS)
    one, other = _numeral(rng, a, share), _numeral(rng, b, share)
    if rng.random() < 0.55:
        first, second = (a, b) if (a > b) == more else (b, a)
        word = "larger" if word == "more" else "smaller" if word == "less" else word
        question = rng.choice(WHICH).format(y=word, a=one, b=other)
        question = question[0].upper() + question[1:]
        text, expect = f"{first} is {word} than {second}.", {"begins": str(first), "says": [str(second)]}
    else:
        true = (a > b) == more
        question = f"Is {one} {word} than {other}?"
        text = f"Yes, {a} is {word} than {b}." if true else f"No, {a} is not {word} than {b}."
        expect = {"begins": "Yes" if true else "No", "says": [str(a), str(b)]}
    difference = f"{a}-{b}" if more else f"{b}-{a}"
    return question, call(difference, shown(difference)[0], text), expect


def counting_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """Count up or down, or name the number before or after one."""
    while True:
        style = rng.random()
        if split == "train" and rng.random() < 0.6:
            style = 0.4 + 0.6 * style  # a list, which is harder
        if style < 0.4:
            n, after = rng.randrange(1, (20, 100, 1000)[int(rng.random() * 3)]) + 1, style < 0.27
            if pair_split(n, 1) != split:
                continue
            question = rng.choice(AFTER if after else BEFORE).format(n=_numeral(rng, n))
            other = n + 1 if after else n - 1
            text = f"{other} comes {'after' if after else 'before'} {n}."
            return question, call(f"{n}{'+' if after else '-'}1", str(other), text), {"begins": str(other), "says": [str(n)]}
        a = 1 if style < 0.75 else rng.randrange(1, 60)
        b = a + rng.randrange(2, 20 if a == 1 else 13)
        if split == "train":
            # Where to stop is one token of many: short counts show it often, from many starts to many ends.
            a = 1 if style < 0.55 else rng.randrange(2, 12) if style < 0.75 else rng.randrange(1, 99)
            b = a + rng.randrange(1, 5) if rng.random() < 0.6 else a + rng.randrange(2, 30 if a == 1 else 13)
        if held_out(f"count {a} {b} {style > 0.9}") == split:
            break
    if style > 0.9:
        asked, numbers = COUNT_DOWN, range(b, a - 1, -1)
        a, b = b, a
    else:
        up = COUNT_UP + MORE_COUNTS if split == "train" else COUNT_UP
        asked, numbers = COUNT_TO if a == 1 and style < 0.65 else up, range(a, b + 1)
    spoken = rng.random() < (0.4 if split == "train" else 0.25)
    question = rng.choice(asked).format(a=in_words(a) if spoken else a, b=in_words(b) if spoken else b)
    # A number alone is its own result: the calculator puts in figures where to stop, and the point after it is what comes
    # after it in the list as well, so that a model that copies stops there.
    return question, call(f"{b}.", f"{b}.0", ", ".join(map(str, numbers)) + "."), {"list": [str(n) for n in numbers]}


def two_sums_turns(rng: random.Random, split: ExamSplit) -> tuple[str, list[dict], dict]:
    """Two sums in one question, and a call for each."""
    parts, asked, results = [], [], []
    spoken = rng.random() < 0.4
    for i in range(2):
        sign = rng.choice("++-*/")
        a, b, c = draw_sum(rng, split, sign, 99)
        sum_ = f"{a} {sign} {b}"
        asked.append(sum_.replace(f" {sign} ", SPOKEN[f" {sign} "]) if spoken else sum_)
        results.append(str(c))
        parts += call(f"{a}{sign}{b}", shown(f"{a}{sign}{b}")[0], f"{sum_} = {c}, and " if i == 0 else f"{sum_} = {c}.")
    question = rng.choice(("What is {} and what is {}?", "How much is {} and how much is {}?", "What is {}? And what is {}?",
                           "What is {}, and what is {}?", "Calculate {}, and then calculate {}.")).format(*asked)
    return question, parts, {"results": results}


_KINDS = (chain_turns, product_turns, percent_turns, part_turns, compare_turns, counting_turns, two_sums_turns, two_number_turns)
_SHARES = (32, 9, 14, 9, 14, 10, 5, 7)
_TRAINED = (29, 9, 12, 8, 14, 75, 5, 7)  # where a count ends is the hardest: of 2,500 lists nothing is learned, of 13,000 all


def more_sums_text(rng: random.Random) -> str:
    """Lines of sums in several steps, parts and comparisons."""
    lines, counts = [], rng.random() < 0.5
    for _ in range(rng.randrange(5, 10) if counts else rng.randrange(3, 7)):
        draw = counting_turns if counts else rng.choice((chain_turns, percent_turns, part_turns, compare_turns, counting_turns))
        question, reply, expected = draw(rng, "train")
        while asked_by_newcomers([plain_text(question)]):
            question, reply, expected = draw(rng, "train")
        said = reply[-1]["text"]
        lines.append(f"{question} To {reply[0]['text']} {said}" if "list" in expected else said)  # with where the count ends
    return rng.choice(("Sums:", "Some sums:", "Today at school:", "From the sum book:")) + "\n" + "\n".join(lines)
