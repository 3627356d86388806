"""The little world: deterministic, correct, well formed, and with nothing of the test split in what is trained on."""

import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras.clean.words import LIST, load
from nanochat import chat
from nanochat.data import shards
from nanochat.engine.tools import calculator
from nanochat.tokenizer import Tokenizer
from tasks.littleworld import corpus, everyday, exercises, messages, stories, sums, talk, topics, words
from tasks.littleworld.chatter import CHAT
from tasks.littleworld.conversations import KINDS, LittleWorld, reference
from tasks.littleworld.identity import IDENTITY
from tasks.littleworld.newcomer import Newcomer
from tasks.littleworld.phrases import TABLES
from tasks.littleworld.world import article, pair_split, past, plural, questions, spellable, word_split, world

SPLITS = ("train", "val", "test")


def said(conversation: dict) -> list[str]:
    """The text of every message, tool parts included."""
    contents = [message["content"] for message in conversation["messages"]]
    return [c if isinstance(c, str) else "\n".join(part["text"] for part in c) for c in contents]


@pytest.fixture(scope="module")
def train() -> dict[str, list[dict]]:
    return {kind: [LittleWorld(kind, "train")[i] for i in range(1500)] for kind in KINDS}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(corpus.documents("train", seed=0, count=8000))


@pytest.fixture(scope="module")
def everything(train: dict[str, list[dict]], texts: list[str]) -> list[str]:
    """All that the fixtures above hold, a message or document each."""
    return texts + [text for group in train.values() for conversation in group for text in said(conversation)]


# ---- the same bytes for the same seed ----

_DIGEST = """
import hashlib
from tasks.littleworld import corpus
from tasks.littleworld.conversations import KINDS, LittleWorld
everything = list(corpus.documents("train", 3, 300)) + [str(LittleWorld(k, s)[i]) for k in KINDS for s in
             ("train", "val", "test") for i in range(20)]
print(hashlib.sha256("|".join(everything).encode()).hexdigest())
"""


def test_the_same_seed_gives_the_same_text_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_seeds_and_splits_of_documents_differ(texts: list[str]) -> None:
    other = list(corpus.documents("train", seed=1, count=500))
    held = list(corpus.documents("val", seed=0, count=500))
    assert len(set(other) & set(texts)) < 25  # a short text comes twice now and then
    assert not set(held) & set(texts)
    assert not set(held) & set(other)


def test_an_item_depends_on_its_number_alone() -> None:
    long, short = LittleWorld("facts", "train", 50), LittleWorld("facts", "train", 10)
    assert [short[i] for i in range(10)] == [long[i] for i in range(10)]
    assert long[3] != long[4]
    assert len(short) == 10
    with pytest.raises(IndexError):
        short[10]
    with pytest.raises(ValueError, match="weather"):
        LittleWorld("weather", "train")


def test_shards_end_with_validation(tmp_path: Path) -> None:
    written = corpus.write(tmp_path / "data", seed=5, num_documents=400)
    train = list(shards.iterate(tmp_path / "data", "train"))
    val = list(shards.iterate(tmp_path / "data", "val"))
    assert (written.train_documents, written.val_documents) == (len(train), len(val)) == (400, 25)
    assert train == list(corpus.documents("train", 5, 400))
    assert not set(train) & set(val)


# ---- train and test never share an item ----

NUMBERS = {exercises.in_words(n): n for n in range(10_000)}
_NUMBER_WORD = "|".join([*exercises.SMALL, *exercises.TENS, "hundred", "thousand"])
_IN_WORDS = re.compile(rf"\b(?:{_NUMBER_WORD})(?:(?: and |[- ])(?:{_NUMBER_WORD}))*\b", re.IGNORECASE)
_OPERATION = r"(?:\+|-|\*|//?|x|plus|minus|times|divided by|and|take away|by|from|away from|into)"


def in_figures(text: str) -> str:
    return _IN_WORDS.sub(lambda found: str(NUMBERS.get(found[0].lower(), found[0])), text)


def pairs(text: str) -> set[tuple[int, int]]:
    """Every two numbers that an operation stands between; the hundred of a percentage is none of them."""
    text = re.sub(r"(\d\*\d+)/100\b", r"\1", in_figures(text))
    found = re.findall(rf"(?=\b(\d+) ?{_OPERATION} ?(\d+)\b)", text)
    return {(min(int(a), int(b)), max(int(a), int(b))) for a, b in found}


@given(st.integers(0, 9999))
def test_numbers_in_words_are_read_back(n: int) -> None:
    assert in_figures(exercises.in_words(n)) == str(n)


def test_no_pair_of_a_held_out_sum_is_trained_on(everything: list[str]) -> None:
    trained = set().union(*(pairs(text) for text in everything))
    assert len(trained) > 2000
    assert {pair_split(a, b) for a, b in trained} == {"train"}
    test = [LittleWorld("arithmetic", "test")[i] for i in range(200)]
    tested = set().union(*(pairs(said(conversation)[-1].split()[0]) for conversation in test))
    assert len(tested) > 190
    assert {pair_split(a, b) for a, b in tested} == {"test"}
    assert not tested & trained
    for text in (said(LittleWorld("numbers", "test")[i])[-1] for i in range(200)):
        first = re.sub(r"\*\*", "*", text.split()[0])  # the call; of a sum in several steps two neighbours are new
        assert not re.search("[-+*/]", first) or pairs(first) - trained, text


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_the_order_of_a_pair_does_not_matter(a: int, b: int) -> None:
    assert pair_split(a, b) == pair_split(b, a)


def test_no_held_out_word_is_spelled_or_counted_in_training(everything: list[str]) -> None:
    spelled = {letters.replace("-", "") for text in everything for letters in re.findall(r"\b[a-z](?:-[a-z])+\b", text)}
    counted = {word for text in everything for word in re.findall(r'"(\w+)"\.count', text)}
    assert len(spelled) > 3000
    assert len(counted) > 700
    assert {word_split(word) for word in spelled | counted} == {"train"}
    for kind in ("spelling", "spelling_plain", "counting", "letters"):
        test = LittleWorld(kind, "test")
        found = re.findall(
            r'\b[a-z](?:-[a-z])+\b|(?<=")\w\w+(?="\.count)', "\n".join(said(test[i])[-1] for i in range(len(test)))
        )
        asked = {word.replace("-", "") for word in found}
        if kind == "letters":  # what is spelled backwards is no word
            asked = {word for word in asked if word in spellable()}
        assert len(asked) > 100
        assert {word_split(word) for word in asked} == {"test"}
        assert not asked & (spelled | counted)


def test_forms_of_a_word_share_its_split() -> None:
    assert {word_split(past(verb)) == word_split(verb) for verb in ("answer", "bake", "carry", "plan")} == {True}
    assert len({word_split(word) for word in words.VERBS}) == 3


@pytest.mark.parametrize("kind", ["facts", "refusal", "identity", "stories", "smalltalk"])
def test_no_test_question_stands_in_the_training_text(kind: str, everything: list[str]) -> None:
    trained = "\n".join(everything).lower()
    task = LittleWorld(kind, "test", 400)
    asked = {said(task[i])[-2].lower() for i in range(len(task))}
    asked = {
        re.sub("^(" + "|".join(map(re.escape, messages.GREETINGS)).lower() + ")", "", q) for q in asked
    }
    asked = {question for question in asked if question[-1] in ".?!"}
    # short ones may be the end of a longer message: compare whole messages
    assert len(asked) > 10
    assert [
        question for question in asked if f"\n{question}\n" in trained or len(question) > 40 and question in trained
    ] == []


def test_no_test_follow_up_is_trained_on(train: dict[str, list[dict]]) -> None:
    def key(conversation: dict) -> tuple[str, ...]:
        return tuple(text.lower().strip(".?!") for text in said(conversation)[:-1])

    test = LittleWorld("followup", "test")
    assert not {key(test[i]) for i in range(len(test))} & {key(conversation) for conversation in train["followup"]}


@given(st.integers(0, 10**9 - 1))
def test_no_pattern_gives_what_is_held_out(i: int) -> None:
    split = {True: set(), False: set()}
    for group in (*IDENTITY, *CHAT):
        for phrase in group.phrases:
            split[topics.phrase_split(phrase, group) == "train"].add(topics.core(phrase))
    held = split[False] - split[True]  # "Yes, please." comes down to "Yes.", which is trained
    assert len(held) > 60
    for kind in ("identity", "smalltalk"):
        assert topics.core(said(LittleWorld(kind, "train", 10**9)[i])[-2]) not in held


@given(st.integers(0, 10**9 - 1), st.sampled_from(["everyday", "brief", "followup", "facts", "identity", "smalltalk"]))
def test_any_reference_is_right_and_no_newcomer_asks_it(i: int, kind: str) -> None:
    task = LittleWorld(kind, "train", 10**9)
    conversation = task[i]
    assert task.grade(conversation, reference(conversation))
    assert not task.grade(conversation, "I am sorry, but I only know the little world.")
    assert not messages.asked_by_newcomers(messages.plain(conversation["messages"]))


def test_the_hashes_of_what_newcomers_ask_are_those_of_the_list() -> None:
    task = Newcomer()
    asked = [messages.plain(task[i]["messages"]) for i in range(len(task))]
    assert {messages.hashed(said) for said in asked} == messages.NEWCOMERS
    assert all(messages.asked_by_newcomers(said) for said in asked)
    assert not messages.asked_by_newcomers(["a question that is not on it"])


def test_every_member_that_is_named_is_one() -> None:
    for kind, row in everyday.MEMBERS.items():
        assert {name.lower() for name in row.split("|")[1:]} <= everyday.members(kind)


def test_every_fact_can_be_learned_and_most_are_asked_in_a_held_out_way() -> None:
    facts = [
        (entity, attribute) for group in world().entities.values() for entity in group for attribute in entity.values
    ]
    assert len(facts) > 1000
    assert all(questions(entity, attribute, "train") for entity, attribute in facts)
    assert sum(bool(questions(entity, attribute, "test")) for entity, attribute in facts) > len(facts) / 2


# ---- correct and pleasant text ----

_AN = set("aeiou")
_LIKE_YOU = ("uni", "use", "usu", "ukulele", "one")


def test_a_and_an_go_by_the_sound(everything: list[str]) -> None:
    found = {
        pair
        for text in everything
        for pair in re.findall(r"\b([Aa]n?) ([A-Za-z]\w+)", text)
        if "letter" not in text and " a's" not in text and "count" not in text
    }
    assert len(found) > 1500
    wrong = []
    for a, word in found:
        vowel = (word[0].lower() in _AN and not word.lower().startswith(_LIKE_YOU)) or word.startswith(
            ("hour", "honest")
        )
        if (a.lower() == "an") != vowel:
            wrong.append(f"{a} {word}")
    assert [
        w for w in wrong if w.split()[1] not in ("is", "occur", "occurs", "appear", "in", "are", "and", "does")
    ] == []


@pytest.mark.parametrize(
    ("one", "many"), [("fox", "foxes"), ("mouse", "mice"), ("pony", "ponies"), ("monkey", "monkeys")]
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


@pytest.mark.parametrize(
    ("word", "with_article"),
    [("orange hat", "an orange hat"), ("unicorn", "a unicorn"), ("honest man", "an honest man"), ("wolf", "a wolf")],
)
def test_articles(word: str, with_article: str) -> None:
    assert article(word) == with_article


def test_every_sum_is_right(everything: list[str], train: dict[str, list[dict]]) -> None:
    checked = 0
    for text in everything:
        figures = in_figures(text)
        for expression, c in re.findall(r"(\(?\d+(?: ?[-+*/] ?\(?\d+\)?)+) = (-?\d+(?:\.\d+)?)", figures):
            assert calculator(expression) in (c, f"{c}.0"), text
            checked += 1
        for a, word, b, c in re.findall(
            r"(?<!average of )\b(\d+) (plus|minus|times|divided by|and|take away) (\d+) (?:is|makes?) (\d+)", figures
        ):
            sign = {"plus": "+", "and": "+", "minus": "-", "take away": "-", "times": "*", "divided by": "/"}[word]
            assert calculator(f"{a}{sign}{b}") in (c, f"{c}.0"), text
            checked += 1
    assert checked > 1500
    for conversation in itertools.chain.from_iterable(train.values()):
        for message in conversation["messages"]:
            if isinstance(message["content"], list):
                parts = message["content"][message["content"][0]["type"] == "text" :]  # a word is spelled first
                assert len(parts) in (3, 6)
                for call, output, text in (parts[:3], parts[3:] or parts[:3]):
                    assert calculator(call["text"]) == output["text"]
                    compared = re.search(r"\b(than|after|before|odd|even)\b", text["text"])  # the sign alone is told
                    assert compared or output["text"].removesuffix(".0") in text["text"]


def test_stories_are_about_what_was_asked(train: dict[str, list[dict]]) -> None:
    told = [conversation for conversation in train["stories"] if conversation["expect"]["story"]]
    for conversation in told:
        about = [stories.Subject(*pair) for pair in conversation["expect"]["story"]]
        assert stories.faults(reference(conversation), about) == []
    assert len({reference(conversation) for conversation in told}) > 0.99 * len(told)
    assert 50 < sum(len(reference(c).split()) for c in told) / len(told) < 150


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (("a lantern", "an lantern"), "a before"),
        (("lantern", "kettle"), "nothing about"),
        (("He was glad.", "He was glad. He was glad."), "said twice"),
        (("went", "went went"), "twice"),
        (("went", "zoomed"), "unknown word"),
        (("He was glad.", "he was glad."), "no capital"),
        (("He", "She"), "she for Otto"),
        (("make 12", "make 13"), "is not 13"),
        (("home.", "home"), "does not begin or end"),
        (('"That is', "That is"), "quotation"),
    ],
)
def test_a_bad_story_is_noticed(broken: tuple[str, str], fault: str) -> None:
    good = (
        'Otto had a lantern. He went to the lake with it and found 5 nuts in a box. "That is fine," said Otto. He was '
        "glad. In the evening he found 7 more, and 5 and 7 make 12. The next day Otto carried all of them home."
    )
    about = [stories.Subject("person", "Otto"), stories.Subject("thing", "lantern")]
    assert stories.faults(good, about) == []
    assert fault in " ".join(stories.faults(good.replace(*broken), about))


def test_the_vocabulary_is_rich(texts: list[str], train: dict[str, list[dict]]) -> None:
    distinct = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert len(distinct) > 3000
    tokenizer = Tokenizer.train(iter(texts), 4096, chat.SPECIALS)
    assert tokenizer.vocab_size == 4096  # merges did not run out
    for kind, conversations in train.items():
        for conversation in conversations[:400]:
            ids, mask = chat.render(tokenizer, conversation)
            assert len(ids) <= 250, kind
            assert any(mask)


def test_nobody_is_known_and_a_stranger_at_once() -> None:
    known = set(words.WOMEN + words.MEN)
    assert len(known) == len(words.WOMEN + words.MEN) >= 110
    assert not known & set(words.STRANGERS)
    assert not (known | set(words.STRANGERS)) & set(words.PET_NAMES)
    assert not known & {town.name for town in world().entities["town"]}


# ---- conversations and their graders ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_references_are_right_and_other_answers_wrong(kind: str, split: str) -> None:
    task = LittleWorld(kind, split, 150)  # type: ignore[arg-type]
    conversations = [task[i] for i in range(len(task))]
    for conversation in conversations:
        chat.check(conversation)
        assert task.grade(conversation, reference(conversation)), conversation
        assert not task.grade(conversation, "")
        assert not task.grade(conversation, "I like it here.")
        honest = "I am sorry, but I only know the little world."
        assert task.grade(conversation, honest) == ("refuse" in conversation["expect"])
    mixed_up = [(one, other) for one, other in itertools.pairwise(conversations) if one["expect"] != other["expect"]]
    wrong = [task.grade(one, reference(other)) for one, other in mixed_up]
    assert sum(wrong) <= 0.06 * len(wrong) + (kind == "stories" and 10)  # a story about both may be drawn


def test_naming_every_value_is_no_answer() -> None:
    task = LittleWorld("facts", "test", 200)
    for i in range(len(task)):
        conversation = task[i]
        for kind, attribute, _ in conversation["expect"].get("values", []):
            listed = " or ".join(world().values[kind, attribute])
            assert not task.grade(conversation, f"{listed}, so the answer is yes or no.")


@pytest.mark.parametrize(
    ("kind", "expect", "right", "wrong"),
    [
        ("arithmetic", {"number": "579"}, "123 + 456 = 579.", "123 + 456 = 580."),
        ("arithmetic", {"number": "1234"}, "That is 1,234 steps.", "That is 12345 steps."),
        ("spelling", {"word": "garden"}, "It is spelled g-a-r-d-e-n.", "It is spelled g-a-r-d-e-e-n."),
        (
            "counting",
            {"number": "3", "in": "strawberry"},
            "The letter r occurs 3 times in 'strawberry'.",
            "It occurs 3 times.",
        ),
        (
            "facts",
            {"values": [["person", "food", "pumpkin soup"]], "about": "Otto"},
            "Otto likes pumpkin soup.",
            "Otto likes pea soup.",
        ),
        ("facts", {"members": ["a bird", 3]}, "A crow, a wren and a lark.", "A crow, a wren and a fork."),
        ("everyday", {"members": ["a bird", 3]}, "A crow, a wren and a lark.", "A crow, a wren, a swan and a lark."),
        ("everyday", {"members": ["a colour", 2]}, "Red and blue.", "Red and red."),
        ("followup", {"members": ["a bird", 1], "not": "A crow"}, "A wren.", "A crow."),
        ("everyday", {"says": ["Tuesday"], "of": "day", "about": "Monday"}, "It is Tuesday.", "Tuesday or Friday."),
        ("everyday", {"people": ["Otto", "Mira"]}, "Mira and Otto live there.", "Mira, Otto and Nell live there."),
        (
            "facts",
            {"values": [["person", "colour", "red"], ["person", "colour", "blue"]], "about": ["Otto", "Mira"]},
            "Mira likes blue best, and Otto likes red best.",
            "Mira likes red best, and Otto likes blue best.",
        ),
        ("followup", {"says": ["Tom"]}, "Your name is Tom.", "Your name is Tomas."),
        ("arithmetic", {"number": "2.5"}, "5 / 2 = 2.5.", "5 / 2 = 2.55."),
        ("numbers", {"number": "10"}, "20 % of 50 is 10.", "20 % of 50 is 10.0."),
        ("numbers", {"begins": "43", "says": ["34"]}, "43 is larger than 34.", "34 is larger than 43."),
        ("numbers", {"begins": "No", "says": ["5", "7"]}, "No, 5 is not more than 7.", "Yes, 5 is more than 7."),
        ("numbers", {"list": ["1", "2", "3"]}, "1, 2, 3.", "1, 2, 3, 4."),
        ("numbers", {"results": ["7", "30"]}, "3 + 4 = 7, and 5 * 6 = 30.", "3 + 4 = 7, and 5 * 6 = 35."),
        (
            "spelling_plain",
            {"word": "garden"},
            "The word 'garden' is spelled g-a-r-d-e-n.",
            "It is spelled g-a-r-d-e-n g-a.",
        ),
        (
            "letters",
            {"number": "6", "spelled": "garden"},
            "It is spelled g-a-r-d-e-n. It has 6 letters.",
            "It has 6 letters.",
        ),
        (
            "letters",
            {"letter": "n", "spelled": "gan"},
            "It is spelled g-a-n. The last letter is n.",
            "It is spelled g-a-n. The last letter is a.",
        ),
        (
            "letters",
            {"backwards": "star"},
            "It is spelled s-t-a-r. Backwards it is r-a-t-s.",
            "It is spelled s-t-a-r. Backwards it is r-a-s-t.",
        ),
        ("repeating", {"repeats": "blue river"}, "Blue river.", "A blue river."),
        ("identity", {"says": ["Pip"], "not": "nanochat"}, "I am Pip.", "I am nanochat, but call me Pip."),
    ],
)
def test_graders(kind: str, expect: dict, right: str, wrong: str) -> None:
    conversation = {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": right}],
        "expect": expect,
    }
    task = LittleWorld(kind, "test")
    assert task.grade(conversation, right)
    assert not task.grade(conversation, wrong)


@given(
    st.sampled_from(("numbers", "spelling_plain", "letters", "repeating", "counting")),
    st.sampled_from(SPLITS),
    st.integers(0, 10**6),
)
def test_a_changed_letter_or_figure_is_wrong(kind: str, split: str, number: int) -> None:
    task = LittleWorld(kind, split, 10**6 + 1)  # type: ignore[arg-type]
    conversation = task[number]
    answer = reference(conversation)
    assert task.grade(conversation, answer)
    if re.search(r"\d", answer):  # also in an answer that spells: its number of letters
        assert not task.grade(conversation, re.sub(r"\d(?!.*\d)", lambda last: str((int(last[0]) + 1) % 10), answer))
    letters = re.search(r"[a-z](-[a-z])+", answer)
    if letters:
        assert not task.grade(conversation, answer.replace(letters[0], letters[0] + "-x"))
        assert not task.grade(conversation, answer.replace(letters[0], letters[0][2:]))
    if kind == "repeating":
        assert not task.grade(conversation, answer + " " + answer.split()[0])
        assert not task.grade(conversation, "x" + answer)


def test_all_shapes_of_conversation_are_trained(train: dict[str, list[dict]]) -> None:
    assert any(conversation["messages"][0]["role"] == "system" for conversation in train["brief"])
    assert any(conversation["messages"][0]["role"] == "system" for conversation in train["identity"])
    at_once = [conversation for conversation in train["followup"] if len(conversation["messages"]) < 4]
    # told and asked in one message
    assert 0 < len(at_once) < 0.1 * len(train["followup"])
    assert any(len(conversation["messages"]) == 6 for conversation in train["followup"])
    assert any(isinstance(m["content"], list) for c in train["followup"] for m in c["messages"])
    attributes = {(value[0], value[1]) for c in train["facts"] for value in c["expect"].get("values", [])}
    assert attributes == {(kind, attribute) for kind, table in TABLES.items() for attribute in table}


@given(st.integers(0, 10**9), st.sampled_from(SPLITS))
def test_no_sign_means_yes_or_the_first(seed: int, split: shards.ExamSplit) -> None:
    """The sign of the calculator's difference alone decides, whether "larger" or "smaller" is asked for."""
    question, parts, _ = sums.compare_turns(random.Random(seed), split)
    _, printed, told = (part["text"] for part in parts)
    first, _ = re.findall(r"\d+", in_figures(question))[-2:]  # "which one" is no number
    assert printed.startswith("-") == (not told.startswith(("Yes, ", f"{first} is ")))


def test_nobody_is_asked_about_who_could_be_two_people(train: dict[str, list[dict]]) -> None:
    """After "Mira's best friend is Greta." nobody could know who "she" is."""
    people, found = world().by_name, 0
    for conversation in train["followup"] + [LittleWorld("followup", "test")[i] for i in range(1000)]:
        *before, question, _ = said(conversation)
        named = re.search(r"(?:best friend of (\w+)|(\w+)'s best friend) is (\w+)\.", " ".join(before))
        if named and named[3] in people and re.search(r"\b(he|she|his|her)\b", question.lower()):
            found += 1
            assert people[named[1] or named[2]].female != people[named[3]].female, said(conversation)
    assert found > 100


def test_new_names_are_nobodys_and_begin_as_names_do() -> None:
    rng = random.Random(0)
    names = {talk.new_name(rng) for _ in range(10_000)}
    assert len(names) > 8000 and not names & {*words.STRANGERS, *(e.name for e in world().entities["person"])}
    assert sum(name[0] in "AEIOU" for name in names) > 0.1 * len(names)  # made-up words: 0.05


def test_no_made_up_word_is_a_swear_word() -> None:
    rude = [word for word in load(LIST) if exercises.word_split(word) == "train"]
    assert len(rude) > 50 and not any(exercises.fit_for_training(word) for word in rude)


def test_counts_end_where_the_calculator_said(train: dict[str, list[dict]]) -> None:
    """And most are short, since where they end is one token of many."""
    lists = [c["messages"][-1]["content"] for c in train["numbers"] if "list" in c["expect"]]
    for call, printed, told in lists:
        end = told["text"].rstrip(".").split(", ")[-1]
        assert (call["text"], printed["text"]) == (f"{end}.", calculator(f"{end}."))
    assert len(lists) > 300 and sum(told["text"].count(",") < 8 for *_, told in lists) > 0.6 * len(lists)
