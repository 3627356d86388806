"""Words and their letters: how long a word is, its first and last letter, backwards, and words to be repeated."""

import random

from nanochat.data.shards import ExamSplit
from tasks.littleworld import words
from tasks.littleworld.exercises import call, count_turns, draw_word, in_words, make_up, quotes, real_words, spelled
from tasks.littleworld.world import held_out, plural, word_split

LENGTH = ["How many letters are in '{w}'?", "How many letters are there in '{w}'?", "How many letters does '{w}' have?",
          "How many letters does the word '{w}' have?", "How long is '{w}'?", "How long is the word '{w}'?",
          "Count the letters in '{w}'.", "Count the letters of '{w}'.", "What is the length of '{w}'?",
          "What is the length of the word '{w}'?", "Tell me how many letters '{w}' has.", "How many letters has '{w}'?",
          "How many letters are in the word '{w}'?", "How many letters make up '{w}'?", "How many characters does '{w}' have?",
          "How many letters in '{w}'?", "How many letters in the word '{w}'?", "Length of '{w}'?", "Number of letters in '{w}'?"]
# for training alone
MORE_LENGTHS = ["'{w}', how many letters is that?", "'{w}': how many letters?", "And '{w}', how many letters are that?", "'{w}' has how many letters?",
                "The number of letters of '{w}', please.", "I want to know how many letters '{w}' has."]
FIRST = ["What letter does '{w}' start with?", "Which letter does '{w}' begin with?", "What is the first letter of '{w}'?",
         "What does '{w}' start with?", "Which letter does the word '{w}' start with?", "With which letter does '{w}' begin?",
         "What letter does '{w}' begin with?", "Tell me the first letter of '{w}'."]
# for training alone
MORE_FIRSTS = ["The first letter of '{w}', please.", "'{w}' begins with which letter?", "'{w}', what is its first letter?"]
MORE_LASTS = ["The last letter of '{w}', please.", "'{w}' ends with which letter?", "'{w}', what is its last letter?"]
LAST = ["What letter does '{w}' end with?", "Which letter does '{w}' end in?", "What is the last letter of '{w}'?",
        "What does '{w}' end with?", "Which letter does the word '{w}' end with?", "With which letter does '{w}' end?",
        "What letter does '{w}' end in?", "Tell me the last letter of '{w}'."]
NTH = ["What is the {n} letter of '{w}'?", "Which letter is the {n} one in '{w}'?", "Tell me the {n} letter of '{w}'.",
       "What is the {n} letter in the word '{w}'?"]
BACKWARDS = ["Spell '{w}' backwards.", "How do you spell '{w}' backwards?", "What is '{w}' backwards?", "Write '{w}' backwards.",
             "Reverse the word '{w}'.", "Can you spell '{w}' backwards?", "What is '{w}' spelled backwards?", "Say '{w}' backwards."]
ORDER = ("first", "second", "third", "fourth", "fifth")

SAY = ["Repeat after me: {p}", "Repeat after me: {p}.", "Say {p}.", "Please say {p}.", "Can you say {p}?", "Repeat {p}.",
       "Please repeat: {p}", "Repeat this: {p}", "Repeat: {p}", "Say after me: {p}", "Repeat the words {p}.", "Could you repeat {p}?"]
SAY_WORD = ["Repeat the word {p}.", "Say the word {p}.", "Please repeat the word {p}.", "Can you say the word {p}?", "Say {p}."]
TIMES = ["Say {p} {n} times.", "Repeat {p} {n} times.", "Can you say {p} {n} times?", "Please say {p} {n} times.",
         "Repeat the word {p} {n} times.", "Write {p} {n} times."]
ADDRESS = "hello,thank you,good morning,please,hurrah,yes,good night,no,hi,welcome,goodbye,sorry,cheers,hooray".split(",")
VERBS = "is sleeping,is shining,is here,was late,is far away,can sing,can wait,will come back,sings well,likes me,has gone".split(",")


def letter_turns(rng: random.Random, split: ExamSplit) -> tuple[str, str | list[dict], dict]:
    """A question about the letters of a word, mostly without quotes; the answer spells it first."""
    quoted, chance = rng.random() < 0.3, rng.random()
    if chance < 0.25:
        return count_turns(rng, split, quoted=False)
    word = draw_word(rng, split, 0.4)
    letters = "-".join(word)
    if chance < 0.6:
        text, number = spelled(word), str(len(word))
        parts = call(f'"{letters}".count("-")+1', number, f" It has {number} letters.", text)
        return quotes(rng, rng.choice(LENGTH + MORE_LENGTHS if split == "train" else LENGTH).format(w=word), split, quoted), parts, {"number": number, "spelled": word}
    if chance < 0.75:
        while len(word) > 7 or (split == "train" and word_split(word[::-1]) != "train"):
            word = draw_word(rng, split, 0.4)
        text = f"{spelled(word)} Backwards it is {'-'.join(reversed(word))}."
        return quotes(rng, rng.choice(BACKWARDS).format(w=word), split, quoted), text, {"backwards": word}
    which = rng.choice((0, 0, 0, -1, -1, -1, 1, 2, 3, 4))
    which = which if which < len(word) else 1
    name = ORDER[which] if which >= 0 else "last"
    asks = {0: FIRST, -1: LAST}.get(which, NTH)
    if split == "train" and which <= 0 and rng.random() < 0.3:
        asks = MORE_LASTS if which else MORE_FIRSTS
    question = rng.choice(asks).format(w=word, n=name)
    text = f"{spelled(word)} The {name} letter is {word[which]}."
    return quotes(rng, question, split, quoted), text, {"letter": word[which], "spelled": word}


def repeat_turns(rng: random.Random, split: ExamSplit) -> tuple[str, str, dict]:
    """A word or a phrase to be repeated.

    In train often a word alone, also of those that are never spelled there: the model learns the pieces into which a
    word is cut where no space is in front of it, but not its letters.
    """
    while True:
        chance = rng.random()
        if chance < 0.45 and split == "train":
            phrase, asked, n = rng.choice(real_words()), SAY_WORD, 1
        elif chance < 0.65:
            phrase, asked, n = rng.choice(ADDRESS) if rng.random() < 0.4 else rng.choice(real_words()), TIMES, rng.randrange(2, 6)
        else:
            phrase, asked, n = _phrase(rng), SAY, 1
        if asked is SAY_WORD or held_out(f"say {phrase} {n}") == split:
            break
    number = "twice" if n == 2 else in_words(n) if rng.random() < 0.8 else str(n)
    question = rng.choice(asked).format(p=f"'{phrase}'" if rng.random() < 0.1 else phrase, n=number).replace("twice times", "twice")
    text = ", ".join([phrase] * n)
    return question, text, {"repeats": text}


def _phrase(rng: random.Random) -> str:
    style, adjective = rng.random(), rng.choice(words.ADJECTIVES)
    noun = rng.choice(words.THEMES[rng.choice(tuple(words.THEMES))])
    if style < 0.3:
        return f"{adjective} {noun}"
    if style < 0.55:
        return f"the {adjective} {noun} {rng.choice(VERBS)}"
    if style < 0.7:
        return f"{rng.choice(real_words())} {rng.choice(real_words())} {rng.choice(real_words())}"
    if style < 0.85:
        return f"{rng.choice(words.VERBS)} the {plural(noun) if noun not in words.MASS else noun}"
    return f"I {rng.choice(('like', 'love', 'want', 'see', 'have'))} {rng.choice(('my', 'the', 'your'))} {adjective} {noun}"


def quoting_text(rng: random.Random) -> str:
    """Words with and without quotes around them, held-out ones too: the pieces of a word, but not its letters."""
    some = [make_up(rng) if rng.random() < 0.25 else rng.choice(real_words()) for _ in range(rng.randrange(6, 13))]
    form = rng.choice(("{w} is '{w}'", "{w} becomes '{w}'", "the word {w}: the word '{w}'", "for {w} write '{w}'"))
    return rng.choice(("In quotes: ", "With quotes around them: ", "How to put words in quotes: ")) + ", ".join(
        form.format(w=word) for word in some) + "."
