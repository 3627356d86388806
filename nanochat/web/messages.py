"""From the messages of an API call to a conversation as `chat` knows it.

Roles and orders whose meaning is clear are accepted: "developer" is "system"; several system messages are joined, with
an empty line between, at the front; neighbours of one role are joined likewise. What the model was not taught is
refused: other roles, images, and a conversation that the assistant opens.
"""

from collections.abc import Sequence
from typing import Any

from nanochat import chat
from nanochat.tokenizer import Tokenizer
from nanochat.web.errors import bad_request

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXT_TYPES = ("text", "input_text", "output_text")
PARAM = "messages"


def conversation(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages that `chat` renders: at most one system message, then user and assistant in turn.

    Raises ApiError that says which message is wrong, and how.
    """
    if not messages:
        raise bad_request("messages is empty; there must be at least one user message", PARAM)
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise bad_request(f"{where} must be an object with role and content", PARAM)
        role = message.get("role")
        if role in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise bad_request(f"{where}: this server has no tool calls of the API's kind", PARAM, "unsupported_value")
        if not isinstance(role, str) or role not in ROLES:
            known = ", ".join(ROLES)
            raise bad_request(f"{where}.role is {_short(role)}; expected one of {known}", PARAM, "invalid_value")
        parts = _parts(message.get("content"), f"{where}.content", role == "assistant")
        if ROLES[role] == "system":
            system.append("".join(part["text"] for part in parts))
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] += [{"type": "text", "text": "\n\n"}, *parts]
        else:
            turns.append({"role": role, "content": parts})
    if not turns:
        raise bad_request("there is only a system message; add a user message to answer", PARAM)
    if turns[0]["role"] == "assistant":
        raise bad_request("the first message after the system's must be the user's, not the assistant's", PARAM)
    for turn in turns:
        if turn["role"] == "user":
            turn["content"] = "".join(part["text"] for part in turn["content"])
        else:
            turn["content"] = _joined(turn["content"])
    return ([{"role": "system", "content": "\n\n".join(system)}] if system else []) + turns


def prompt(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The ids that the reply follows. A last message of the assistant's is the beginning of the reply."""
    if messages[-1]["role"] == "user":
        return chat.prompt(tokenizer, messages)
    ids, _ = chat.render(tokenizer, {"messages": messages})
    return ids[:-1]  # without the token that would end the reply


def characters(messages: Sequence[dict[str, Any]]) -> int:
    """How much text a conversation holds."""
    contents = [message["content"] for message in messages]
    return sum(len(c) if isinstance(c, str) else sum(len(part["text"]) for part in c) for c in contents)


def _parts(content: Any, where: str, assistant: bool) -> list[dict[str, str]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None and assistant:
        return []
    if not isinstance(content, list):
        raise bad_request(f"{where} is {_short(content)}; expected a string or a list of text parts", PARAM)
    parts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise bad_request(f"{where}[{number}] must be an object with type and text", PARAM)
        kind = part.get("type")
        if assistant and kind in ("python", "python_output"):
            parts.append({"type": kind, "text": _text(part, f"{where}[{number}]")})
        elif kind in TEXT_TYPES:
            parts.append({"type": "text", "text": _text(part, f"{where}[{number}]")})
        else:
            message = f"{where}[{number}].type is {_short(kind)}; this model reads text only"
            raise bad_request(message, PARAM, "unsupported_value")
    return parts


def _text(part: dict, where: str) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise bad_request(f"{where}.text is {_short(text)}; expected a string", PARAM)
    return text


def _joined(parts: list[dict[str, str]]) -> list[dict[str, str]]:
    """The parts of an answer with neighbouring text in one: cut differently, it would be other tokens."""
    result: list[dict[str, str]] = []
    for part in parts:
        if result and part["type"] == "text" == result[-1]["type"]:
            result[-1] = {"type": "text", "text": result[-1]["text"] + part["text"]}
        else:
            result.append(part)
    return result


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else said[:57] + "..."
