"""The newcomer's questions: right answers pass, nonsense does not, and nothing that is trained on is among them."""

import re

import pytest

from nanochat.eval.accuracy import Example
from tasks import catalog
from tasks.littleworld.conversations import KINDS, LittleWorld
from tasks.littleworld.newcomer import NAME, OUTSIDE, REFUSED, Newcomer

TASK = Newcomer()
ASKED = [TASK[i] for i in range(len(TASK))]
REFUSAL = "Sorry, I only know the little world."


def asked(conversation: dict) -> tuple[str, ...]:
    """What the user says, turn by turn, in small letters without marks."""
    turns = [message["content"] for message in conversation["messages"] if message["role"] == "user"]
    return tuple(" ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))) for text in turns)


def about(question: str) -> dict:
    return next(each for each in ASKED if each["messages"][-2]["content"] == question)


def test_there_are_sixty_and_every_reference_is_right() -> None:
    assert len({asked(each) for each in ASKED}) == 60
    assert [each for each in ASKED if TASK.grade(each, each["messages"][-1]["content"]) != 1] == []


def test_no_other_references_answer_is_right() -> None:
    answers = [(each["expect"], each["messages"][-1]["content"]) for each in ASKED if each["expect"] != OUTSIDE]
    for each in ASKED:
        right = [answer for expect, answer in answers if TASK.grade(each, answer) == 1 and expect != each["expect"]]
        assert len(right) <= 2, (each["messages"][-2]["content"], right)  # "bye" and "good night", greetings, names


def test_a_refusal_is_right_outside_and_told_apart_inside() -> None:
    assert [TASK.grade(each, REFUSAL) for each in ASKED] == [
        1 if each["expect"] == OUTSIDE else REFUSED for each in ASKED
    ]
    outside = [each for each in ASKED if each["expect"] == OUTSIDE]
    assert len(outside) == 7 and not any(TASK.grade(each, "Paris, of course.") for each in outside)


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        ("so which town is otto in", "Otto lives in Dunmere or Kettleby."),
        ("spell curtain pls", "c-u-r-t-i-a-n"),
        ("spell curtain pls", "curtain"),
        ("34+58?", "34 + 58 = 82"),
        ("which one is bigger 48 or 84", "48 is bigger than 84."),
        ("is 19 more than 91", "Yes, 19 is more than 91."),
        ("count from 4 up to 9", "3, 4, 5, 6, 7, 8, 9"),
        ("count from 4 up to 9", "4, 5, 6, 8, 9"),
        ("count from 4 up to 9", "4, 5, 6, 7, 8, 9, 10"),
        ("3 birds please", "An owl, an owl and a robin."),
        ("3 birds please", "An owl, a thing and a robin."),
        ("tell me two fruits you know", "An apple."),
        ("first letter of kennel?", "The first letter is e."),
        ("first letter of kennel?", "The word 'kennel' is spelled k-e-n-n-e-l. The last letter is l."),
        ("repeat after me: cold morning", "cold cold evening"),
        ("are you chatgpt or something", "Yes, I am nanochat."),
        ("where is felix living and whats his job", "Felix lives in Willowby."),
    ],
)
def test_nonsense_is_wrong(question: str, wrong: str) -> None:
    assert TASK.grade(about(question), wrong) == 0


def test_letters_that_spell_a_word_are_no_answer_and_do_no_harm() -> None:
    asked = about("first letter of kennel?")
    assert TASK.grade(asked, "The word 'kennel' is spelled k-e-n-n-e-l. The first letter is k.") == 1
    assert TASK.grade(asked, "The word 'kennel' is spelled k-e-n-n-e-l.") == 0


def test_lists_are_read_as_people_write_them() -> None:
    for answer in ("Three birds are a crow, an owl and a dove.", "crow, owl, dove", "Crows, owls and doves."):
        assert TASK.grade(about("3 birds please"), answer) == 1
    assert TASK.grade(about("can you count to five"), "1 2 3 4 5") == 1


def test_none_is_what_the_generators_train_on() -> None:
    questions = {asked(each) for each in ASKED}
    trained = [LittleWorld(kind, "train") for kind in KINDS]
    drawn = {asked(task[i]) for task in trained for i in range(20_000 // len(KINDS) + 1)}
    assert len(drawn) > 10_000
    assert not questions & drawn
    assert not questions & {(turn,) for turns in drawn for turn in turns}


def test_training_cannot_have_them() -> None:
    with pytest.raises(ValueError, match="evaluation only"):
        catalog.task(NAME, "train")
    with pytest.raises(ValueError, match="evaluation only"):
        catalog.task(NAME, "val")
    assert NAME in [task.name for task in catalog.graded_tasks("littleworld", "test")]
    assert NAME not in [task.name for task in catalog.graded_tasks("littleworld", "val")]


def test_the_note_tells_refusals_from_right_answers() -> None:
    def example(i: int, text: str) -> Example:
        grade = TASK.grade(ASKED[i], text)
        return Example(i, ASKED[i]["messages"], [{"type": "text", "text": text}], int(grade > 0))

    examples = [example(0, "Otto lives in Dunmere."), example(1, REFUSAL), example(2, "No."), example(59, REFUSAL)]
    assert TASK.note(examples) == "newcomer: 2 right, 1 honestly refused, 1 wrong"
