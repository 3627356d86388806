"""Questions with several answers to choose from: how they are asked, and what is right."""

from collections.abc import Sequence

BASELINE = 0.25  # what guessing gets: nearly all of them have four answers


def choice(question: str, choices: Sequence[str], letters: Sequence[str], answer: str) -> dict:
    """A conversation in which the assistant says the letter of the right answer, and nothing else.

    "letters" tells `eval.accuracy` to compare how likely the letters are instead of letting the model write. The
    letter follows its answer without a space, for "A" alone and " A" are different tokens, and the reply is an "A".
    """
    listed = "".join(f"- {text}={letter}\n" for text, letter in zip(choices, letters, strict=True))
    asked = f"Multiple Choice question: {question}\n{listed}\nRespond only with the letter of the correct answer."
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "letters": list(letters)}


def is_chosen(conversation: dict, answer: str) -> bool:
    """Whether `answer` is the letter of the right answer."""
    return answer == conversation["messages"][-1]["content"]
