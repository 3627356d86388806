"""From the messages of an API call to a conversation that `chat` renders.

Roles and orders whose meaning is clear are accepted: "developer" is "system"; several system messages are joined at
the front, with an empty line between them; neighbours of one role are joined in the same way. Calls of functions are
text of the assistant's and their results text of the user's; see `toolcalls`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanochat import chat
from nanochat.engine.text import TextChunk, message_parts
from nanochat.tokenizer import Tokenizer
from nanochat.web.bodies import toolcalls
from nanochat.web.bodies.schemas import ChatRequest, Message, Part
from nanochat.web.errors import bad_request

PARAM = "messages"


def conversation(messages: Sequence[Message], tools: str = "", default: str = "") -> list[dict[str, Any]]:
    """At most one system message, then user and assistant in turn, whoever comes first.

    tools: a description of them, for the system message. default: the system message where the client sends none.
    Raises ApiError where there is nothing to answer.
    """
    system: list[str] = []
    turns: list[tuple[str, list[TextChunk]]] = []
    for message in _results_in_order(messages):
        role = "user" if message.role in ("tool", "function") else message.role
        parts = _parts(message)
        if role in ("system", "developer"):
            system.append(_text(parts))
        elif turns and turns[-1][0] == role:
            # Calls follow the text before them as the model writes them, even where a client makes them two messages.
            between = [] if message.tool_calls and not message.content else [TextChunk("text", "\n\n")]
            turns[-1][1].extend([*between, *parts])
        else:
            turns.append((role, parts))
    if not messages:
        raise bad_request("messages is empty; send at least one message", PARAM)
    system = [text for text in (*(system or [default]), tools) if text]
    front = [{"role": "system", "content": "\n\n".join(system)}] if system or not turns else []
    # Neighbouring texts are joined, because split differently they would be other tokens.
    return front + [
        {"role": role, "content": _text(parts) if role == "user" else message_parts(parts)} for role, parts in turns
    ]


def training(row: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation with tools as text to train a model on, which then reads and writes the same on a server.

    row: {"messages": [...], "tools": [...]}, as in a request and in OpenAI's files for fine-tuning. Raises ValueError,
    or ApiError, where a server would refuse it.
    """
    body = ChatRequest.model_validate(row)
    offered = toolcalls.offer(body)
    return {"messages": conversation(body.messages, toolcalls.description(offered.described) if offered else "")}


def _results_in_order(messages: Sequence[Message]) -> Iterator[Message]:
    """The messages, results of several calls in the order of the calls, which is all that tells the model whose they
    are. A result without its call, which a client may have left out with the beginning of a conversation, is kept."""
    calls: list[str | None] = []
    results: list[Message] = []
    for message in messages:
        if message.role == "tool":
            results.append(message)
            continue
        yield from _sorted(results, calls)
        results = []
        calls = [call.id for call in message.tool_calls]
        yield message
    yield from _sorted(results, calls)


def _sorted(results: list[Message], calls: list[str | None]) -> list[Message]:
    known = {id: number for number, id in enumerate(calls)}
    return sorted(results, key=lambda result: known.get(result.tool_call_id, len(calls)))


def _parts(message: Message) -> list[TextChunk]:
    """What a message holds, as the model reads it."""
    content = _chunks(message.content)
    if message.role in ("tool", "function"):
        return [TextChunk("text", toolcalls.response_text(_text(content)))]
    if message.role != "assistant":
        return content
    parts = _chunks(message.parts)
    shown = "".join(part.text for part in parts if part.kind == "text")
    if parts and (shown == _text(content) or not message.content):
        content = parts  # an earlier reply as this server sent it: its text and the calculator's calls
    calls = toolcalls.call_text(message.tool_calls)
    return [*content, TextChunk("text", calls)] if calls else content


def _chunks(parts: Sequence[Part]) -> list[TextChunk]:
    return [TextChunk(part.type if part.type.startswith("python") else "text", part.text) for part in parts]  # type: ignore[arg-type]


def prompt(tokenizer: Tokenizer, turns: Sequence[dict[str, Any]]) -> list[int]:
    """The token ids that the reply follows. A last message of the assistant's is the beginning of the reply."""
    return (chat.prefilled_prompt if turns[-1]["role"] == "assistant" else chat.prompt)(tokenizer, turns)


def characters(turns: Sequence[dict[str, Any]]) -> int:
    """How much text a conversation holds."""
    contents = [turn["content"] for turn in turns]
    return sum(len(c) if isinstance(c, str) else sum(len(part["text"]) for part in c) for c in contents)


def _text(parts: Sequence[TextChunk]) -> str:
    return "".join(part.text for part in parts)
