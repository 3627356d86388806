"""Sixty questions as a newcomer types them, for evaluation only: no generator of training text may use this file.

They were written by hand without a look at the generators' phrasings: small letters, no quotes, imperatives, typing
errors, and questions from outside of the little world. What a newcomer minds is confident nonsense, so a question that
has an answer may also be refused honestly; one from outside must be.
"""

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanochat.data.shards import ExamSplit
from tasks.littleworld import words
from tasks.littleworld.conversations import LittleWorld, names_only, outside_answer
from tasks.littleworld.world import plural, world

if TYPE_CHECKING:
    from nanochat.eval.accuracy import Example

NAME = "newcomer"
REFUSED = 0.5  # the grade of an honest refusal where there is an answer: counted as correct, told apart in the note
OUTSIDE = {"refuse": True}
_IN_WORDS = "zero one two three four five six seven eight nine ten".split()
_NO = "I am sorry, but I only know the little world."
_TALE = ("Nora had a lantern. One evening she lost it in the forest. She looked behind every tree, and at last she found it "
         "under a leaf. She lit it and went home.")


def _fact(kind: str, name: str, *attributes: str) -> dict:
    return {"fact": [kind, name, *attributes]}


def _says(pattern: str, never: str = r"(?!)") -> dict:
    return {"match": pattern, "never": never}


# what a right answer must hold; then the turns, question and reply by turns, a right answer last
_FACTS = [
    (_fact("person", "Otto", "town"), "so which town is otto in", "Otto lives in Dunmere."),
    (_fact("person", "Mira", "job"), "mira's job?", "Mira is a farmer."),
    (_fact("person", "Polly", "pet"), "polly has got a pet, what is it", "Polly has an owl."),
    (_fact("person", "Emma", "month"), "when is it emmas birthday", "Emma's birthday is in July."),
    (_fact("person", "Henry", "friend"), "whos henrys bestie", "Henry's best friend is George."),
    (_fact("person", "Clara", "food"), "fav food of clara", "Clara's favourite food is lentil stew."),
    (_fact("town", "Kettleby", "known"), "why would anyone have heard of kettleby", "Kettleby is known for its strong tea."),
    (_says(r"\bcygnet\b"), "whats a baby swan called", "A young swan is called a cygnet."),
    (_says(r"\bhoots?\b"), "owls make what noise", "An owl hoots."),
]  # fmt: skip
_LETTERS = [
    ({"word": "curtain"}, "spell curtain pls", "c-u-r-t-a-i-n"),
    ({"word": "palace"}, "how is palace spelt", "p-a-l-a-c-e"),
    ({"word": "helmet"}, "can u spell helmet for me", "h-e-l-m-e-t"),
    ({"word": "lemonade"}, "spelling of lemonade", "l-e-m-o-n-a-d-e"),
    ({"word": "market"}, "give me the letters of market one by one", "m-a-r-k-e-t"),
    ({"number": "6"}, "how many letters has valley got", "The word has 6 letters."),
    ({"number": "10"}, "strawberry is how many letters long", "The word has 10 letters."),
    ({"number": "3"}, "how many e are in sentence", "The letter e occurs 3 times."),
    ({"number": "2"}, "count the t's in butter", "The letter t occurs 2 times."),
    ({"letter": "k"}, "first letter of kennel?", "The first letter is k."),
]  # fmt: skip
_SUMS = [
    ({"number": "92"}, "34+58?", "34 + 58 = 92"),
    ({"number": "54"}, "whats 9 times 6", "9 * 6 = 54"),
    ({"number": "49"}, "add 12 and 7 and 30", "12 + 7 + 30 = 49"),
    ({"number": "34"}, "5 times 8 minus 6", "5 * 8 - 6 = 34"),
    ({"number": "25"}, "whats 10 percent of 250", "10 percent of 250 is 25."),
    ({"number": "437"}, "twenty three times nineteen is what", "23 * 19 = 437"),
    ({"number": "12"}, "divide 144 by 12 for me", "144 / 12 = 12"),
    ({"number": "26"}, "i have 14 eggs and buy 12 more. how many now", "You have 26 eggs."),
    (_says(r"^\D*84\b", r"\b48 is (the )?(bigger|larger|greater|more)"), "which one is bigger 48 or 84", "84 is bigger than 48."),
    (_says(r"^no\b|\bless\b|\bsmaller\b|\bnot\b", r"\byes\b"), "is 19 more than 91", "No, 19 is less than 91."),
    ({"count": [4, 5, 6, 7, 8, 9]}, "count from 4 up to 9", "4, 5, 6, 7, 8, 9"),
    ({"count": [1, 2, 3, 4, 5]}, "can you count to five", "One, two, three, four, five."),
]  # fmt: skip
_MEMBERS = [
    ({"members": "bird", "n": 3}, "3 birds please", "An owl, a robin and a swan."),
    ({"members": "fruit", "n": 2}, "tell me two fruits you know", "An apple and a pear."),
    ({"members": "town", "n": 3}, "list three towns", "Dunmere, Kettleby and Larkham."),
    ({"members": "animal", "n": 4}, "give me four animals", "A dog, a cat, a fox and a hare."),
]
_COMPANY = [
    (_says(r"\b(hello|hi|hey|good (morning|day|evening)|welcome|nice to)\b"), "heyy there", "Hello! What would you like to know?"),
    (_says(r"\b(fine|well|good|great|happy|cheerful|thank)"), "how r u doing", "I am fine, thank you."),
    (_says(r"welcome|pleasure|glad|happy to|any ?time|no problem|not at all"), "thx that was helpful", "You are welcome."),
    (_says(r"\b(bye|goodbye|farewell|see you|until|take care|good night|come back|soon)\b"), "gotta go now, bye", "Goodbye! Come back soon."),
    (_says(r"\b(good ?night|sleep|dreams?|rest|bye|goodbye|tomorrow)\b"), "im off to bed, night night", "Good night! Sleep well."),
    (_says(r"nanochat"), "who r u", "I am nanochat."),
    (_says(r"nanochat", r"^yes\b"), "are you chatgpt or something", "No, I am nanochat."),
    (_says(r"question|stor(y|ies)|spell|sums?\b|calculat|arithmetic"), "what sort of stuff are you able to do", "I answer questions about the little world, do sums and tell stories."),
    (_says(r"\bgerald\b"), "my name is gerald. whats my name", "Your name is Gerald."),
    (_says(r"\bpriya\b"), "hi im priya", "Hello, Priya! What would you like to know?", "ok so what am i called", "Your name is Priya."),
    (_says(r"\bboris\b"), "im boris btw", "Nice to meet you, Boris!", "whats 2 and 5", "2 + 5 = 7", "and do you still know my name", "Your name is Boris."),
    (_says(r"\blantern\b"), "say lantern", "Lantern."),
    (_says(r"\bcold morning\b"), "repeat after me: cold morning", "Cold morning."),
    ({"story": [["person", "Nora"], ["thing", "lantern"]]}, "make up a short story with nora and a lantern", _TALE),
]  # fmt: skip
_FOLLOWUPS = [
    (_fact("person", "Karl", "pet"), "what does karl do for work", "Karl is a nurse.", "and has he got a pet", "Karl has a pony."),
    (_fact("person", "Lily", "hobby"), "lily lives where", "Lily lives in Rosemere.", "what does she do for a job", "Lily works as a boatbuilder.",
     "what about her hobby", "Lily's hobby is playing the drums."),
    (_fact("town", "Dunmere", "market"), "which town is max in", "Max lives in Dunmere.", "when is the market there", "The market in Dunmere is on Tuesday."),
    (_fact("person", "Felix", "town", "job"), "where is felix living and whats his job", "Felix lives in Willowby and works as a dressmaker."),
]  # fmt: skip
_OUTSIDE = [(OUTSIDE, question, _NO) for question in (
    "who won the world cup in 2018", "capital of france?", "write me a python function that sorts a list",
    "how do i say good morning in spanish", "is it going to rain in london tomorrow",
    "which pill should i take for a headache", "where was barack obama born")]  # fmt: skip
_ASKED = _FACTS + _LETTERS + _SUMS + _MEMBERS + _COMPANY + _FOLLOWUPS + _OUTSIDE


class Newcomer:
    """The questions as a graded task; there is one list, so only its test split exists."""

    name = NAME

    def __init__(self, split: ExamSplit = "test"):
        if split != "test":
            raise ValueError(f"the newcomer's questions are for evaluation only; they have no split {split!r}")

    def __len__(self) -> int:
        return len(_ASKED)

    def __getitem__(self, i: int) -> dict:
        expect, *turns = _ASKED[i]
        roles = ("user", "assistant")
        messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(turns)]
        return {"messages": messages, "expect": expect}

    def grade(self, conversation: dict, answer: str) -> float:
        """1 for a right answer, REFUSED for an honest refusal of a question that has one, 0 for anything else."""
        expect = conversation["expect"]
        if outside_answer(answer):
            return 1.0 if "refuse" in expect else REFUSED
        if "match" in expect:
            said = re.search(expect["match"], answer, re.IGNORECASE)
            return float(said is not None and not re.search(expect["never"], answer, re.IGNORECASE))
        if "count" in expect:
            said = re.findall(rf"\d+|\b(?:{'|'.join(_IN_WORDS)})\b", answer.lower())
            return float([_IN_WORDS.index(n) if n in _IN_WORDS else int(n) for n in said] == expect["count"])
        if "fact" in expect:
            kind, name, *attributes = expect["fact"]
            known = next(entity for entity in world().entities[kind] if entity.name == name).values
            return float(names_only(answer, [[kind, each, known[each]] for each in attributes], name))
        if "members" in expect:
            return float(_names(answer, _members(expect["members"]), expect["n"]))
        return float(LittleWorld("facts", "test").grade(conversation, answer))

    def note(self, examples: "Sequence[Example]") -> str:
        """How many of the correct answers are refusals; correct counts both."""
        right = [example for example in examples if example.correct]
        refused = sum(self.grade(self[e.index], _text(e.reply)) == REFUSED for e in right)
        return f"{NAME}: {len(right) - refused} right, {refused} honestly refused, {len(examples) - len(right)} wrong"


def _text(reply: list[dict[str, str]]) -> str:
    return "".join(part["text"] for part in reply if part["type"] == "text")


@functools.cache
def _members(kind: str) -> frozenset[str]:
    """The names of a kind, one or many, in small letters."""
    themes = {"animal": ("a bird", "a fish", "an insect"), "bird": ("a bird",), "fruit": ("a fruit",)}.get(kind, ())
    names = [noun for theme in themes for noun in words.THEMES[theme]]
    if kind in world().entities:
        names += [entity.name for entity in world().entities[kind]]
    if kind == "bird":
        names += ["chicken", "duck", "goose", "owl", "penguin", "hen", "seagull"]
    return frozenset(name.lower() for noun in names for name in (noun, plural(noun)))


def _names(answer: str, members: frozenset[str], n: int) -> bool:
    """Whether the answer lists n different members and nothing else, perhaps after "... are" or a colon."""
    listed = re.sub(r"^.*?(?:\bare\b|:)", "", answer.strip().lower(), count=1, flags=re.DOTALL)
    items = [item for item in re.split(r",|\band\b|\n|\.", listed) if item.strip()]
    named = [re.sub(r"^\W*(?:an?\s|the\s)?\s*|\W+$", "", item.strip()) for item in items]
    return len(set(named)) == len(named) == n and set(named) <= members
