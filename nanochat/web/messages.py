"""From the messages of an API call to a conversation that `chat` renders.

Roles and orders whose meaning is clear are accepted: "developer" is "system"; several system messages are joined at
the front, with an empty line between them; neighbours of one role are joined in the same way.
"""

from collections.abc import Sequence
from typing import Any

from nanochat import chat
from nanochat.engine.text import TextChunk, message_parts
from nanochat.tokenizer import Tokenizer
from nanochat.web.errors import bad_request
from nanochat.web.schemas import Message

PARAM = "messages"


def conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """At most one system message, then user and assistant in turn.

    Raises ApiError where no user's message comes first.
    """
    system: list[str] = []
    turns: list[tuple[str, list[TextChunk]]] = []
    for message in messages:
        parts = [TextChunk(part.type if part.type.startswith("python") else "text", part.text)  # type: ignore[arg-type]
                 for part in message.content]  # fmt: skip
        if message.role in ("system", "developer"):
            system.append(_text(parts))
        elif turns and turns[-1][0] == message.role:
            turns[-1][1].extend([TextChunk("text", "\n\n"), *parts])
        else:
            turns.append((message.role, parts))
    if not turns:
        raise bad_request("messages has no user message to answer", PARAM)
    if turns[0][0] == "assistant":
        raise bad_request("the first message after the system message must be the user's, not the assistant's", PARAM)
    front = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    # Neighbouring texts are joined, because split differently they would be other tokens.
    return front + [
        {"role": role, "content": _text(parts) if role == "user" else message_parts(parts)} for role, parts in turns
    ]


def prompt(tokenizer: Tokenizer, turns: Sequence[dict[str, Any]]) -> list[int]:
    """The token ids that the reply follows. A last message of the assistant's is the beginning of the reply."""
    if turns[-1]["role"] == "user":
        return chat.prompt(tokenizer, turns)
    ids, _ = chat.render(tokenizer, {"messages": turns})
    return ids[:-1]  # without the token that would end the reply


def characters(turns: Sequence[dict[str, Any]]) -> int:
    """How much text a conversation holds."""
    contents = [turn["content"] for turn in turns]
    return sum(len(c) if isinstance(c, str) else sum(len(part["text"]) for part in c) for c in contents)


def _text(parts: Sequence[TextChunk]) -> str:
    return "".join(part.text for part in parts)
