"""Conversations as tokens, and tokens as replies. The only file that knows the names of the special tokens.

A conversation is {"messages": [{"role", "content"}, ...]}: an optional system message, then user and assistant in
turn. User and system contents are strings; an assistant's is a string or a list of parts {"type", "text"}, whose
types are text, python (a calculation) and python_output (its result).
"""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

from nanochat.tokenizer import Tokenizer

Message = Mapping[str, Any]
Conversation = Mapping[str, Any]

BOS = "<|bos|>"
USER_START, USER_END = "<|user_start|>", "<|user_end|>"
ASSISTANT_START, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
OUTPUT_START, OUTPUT_END = "<|output_start|>", "<|output_end|>"
SYSTEM_START, SYSTEM_END = "<|system_start|>", "<|system_end|>"
# In the order of their ids. The released tokenizers have the first nine.
SPECIALS = [
    BOS, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END,
    SYSTEM_START, SYSTEM_END,
]  # fmt: skip

ROLES = ("system", "user", "assistant")
PART_TYPES = ("text", "python", "python_output")


class ToolIds(NamedTuple):
    """The ids that frame a calculation and its result."""

    python_start: int
    python_end: int
    output_start: int
    output_end: int


def check(conversation: object) -> None:
    """Raise ValueError, with one clause that says what is wrong, unless this is a conversation to learn from.

    It must end with an assistant's message, and no assistant's message may be empty: from such a one the model
    would learn to say nothing. An empty system message counts as none.
    """
    messages = _messages(conversation)
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"the last message must be the assistant's, not the {messages[-1]['role']}'s")
    for number, message in enumerate(messages, 1):
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        if message["role"] == "assistant" and not text.strip():
            raise ValueError(f"message {number} (assistant) is empty")


@overload
def render(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[int]]: ...
@overload
def render(
    tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None
) -> tuple[list[int], list[int]] | None: ...
def render(
    tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None = None
) -> tuple[list[int], list[int]] | None:
    """The ids of a conversation and, for each, 1 where the model learns to say it, else 0.

    With max_tokens, whole turns are left out at the end until it fits, so that no closing token is ever cut off;
    None when not even the first answer fits. Raises ValueError when the roles or contents are not a conversation's.
    """
    messages = _messages(conversation)
    ids, mask = [tokenizer.special(BOS)], [0]
    kept = 0  # the length up to the end of the last answer that fits
    for message in _with_system(tokenizer, messages):
        more_ids, more_mask = _render_message(tokenizer, message)
        ids += more_ids
        mask += more_mask
        if max_tokens is None or len(ids) <= max_tokens:
            kept = len(ids) if message["role"] == "assistant" else kept
        else:
            return (ids[:kept], mask[:kept]) if kept else None
    return ids, mask


def prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The ids after which the assistant answers the last of the messages, which must be the user's.

    Raises ValueError when it is not, or when the messages are not a conversation's.
    """
    _check_messages(messages)
    if messages[-1]["role"] != "user":
        raise ValueError(f"there is no question to answer: the last message is the {messages[-1]['role']}'s")
    ids = [tokenizer.special(BOS)]
    for message in _with_system(tokenizer, messages):
        ids += _render_message(tokenizer, message)[0]
    return [*ids, tokenizer.special(ASSISTANT_START)]


def opening(tokenizer: Tokenizer) -> list[int]:
    """The ids that stand before a text to be continued: bos, or nothing for models that were not trained so."""
    return [tokenizer.special(BOS)] if tokenizer.has_special(BOS) else []


def text_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids after which a text is continued, at least one: before an empty text stands what begins a document.

    A character model knows no such thing; there it is a newline, else the first character.
    """
    if ids := [*opening(tokenizer), *tokenizer.encode(text)]:
        return ids
    if tokenizer.specials:
        return [tokenizer.bos]
    return [tokenizer.tokens.index(b"\n") if b"\n" in tokenizer.tokens else 0]


def can_chat(tokenizer: Tokenizer) -> bool:
    """Whether it has the special tokens of conversations."""
    return all(tokenizer.has_special(name) for name in SPECIALS[: SPECIALS.index(SYSTEM_START)])


def stop_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids that end a reply; they are not part of it. The first special token begins the next document."""
    ends = [tokenizer.specials[name] for name in (ASSISTANT_END,) if tokenizer.has_special(name)]
    return {*ends, tokenizer.bos} if tokenizer.specials else set()


def tool_ids(tokenizer: Tokenizer) -> ToolIds:
    return ToolIds(*map(tokenizer.special, (PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END)))


def reply_parts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[dict[str, str]]:
    """What an assistant said, as content parts: from after assistant_start to the end, or the first stop id.

    A block that was not closed is a part too. Other special tokens, which do not belong in a reply, are left out.
    """
    changes = _changes(tokenizer)
    parts: list[tuple[str, list[int]]] = [("text", [])]
    for id in ids:
        if id < tokenizer.first_special:
            parts[-1][1].append(id)
        elif changes.get(id) == "end":
            break
        else:
            parts.append((changes.get(id, parts[-1][0]), []))
    return [{"type": kind, "text": tokenizer.decode(part)} for kind, part in parts if part or kind != "text"]


def reply_text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """What the user sees of a reply: its text, without calculations and their results."""
    return "".join(part["text"] for part in reply_parts(tokenizer, ids) if part["type"] == "text")


class StreamDecoder:
    """Text from tokens that come one at a time, only ever in whole characters.

    All that is returned, joined, is `tokenizer.decode` of all ids; with `text_only` it is their `reply_text`.
    """

    def __init__(self, tokenizer: Tokenizer, text_only: bool = False):
        self.tokenizer = tokenizer
        self.text_only = text_only
        self.within = "text"
        self._changes = _changes(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        if self.text_only and id >= self.tokenizer.first_special:
            if self.within != "end":
                self.within = self._changes.get(id, self.within)
            return self._flush()
        if self.text_only and self.within != "text":
            return ""
        return self._utf8.decode(self.tokenizer.decode_bytes([id]))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished."""
        return self._flush()

    def _flush(self) -> str:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _messages(conversation: object) -> Sequence[Message]:
    if not isinstance(conversation, Mapping):
        raise ValueError(f"a conversation is an object with messages, not {_kind(conversation)}")
    if "messages" not in conversation:
        raise ValueError("the conversation has no messages")
    _check_messages(conversation["messages"])
    return conversation["messages"]


def _check_messages(messages: object) -> None:
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise ValueError(f"messages must be a list, not {_kind(messages)}")
    if not messages:
        raise ValueError("there are no messages")
    for number, message in enumerate(messages, 1):
        where = f"message {number}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where} must be an object with role and content, not {_kind(message)}")
        for key in ("role", "content"):
            if key not in message:
                raise ValueError(f"{where} has no {key}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"{where} has the unknown role {role!r}; known are {', '.join(ROLES)}")
        where = f"{where} ({role})"
        if role == "system" and number > 1:
            raise ValueError(f"{where}: only the first message may be the system's")
        if role != "system":
            before = messages[number - 2]["role"] if number > 1 else "system"
            expected = "assistant" if before == "user" else "user"
            if role != expected:
                raise ValueError(f"{where}: here it is the {expected}'s turn; user and assistant take turns")
        if role == "assistant":
            _check_parts(where, content)
        elif not isinstance(content, str):
            raise ValueError(f"{where}: the content must be a string, not {_kind(content)}")
    if messages[-1]["role"] == "system":
        raise ValueError("there is only a system message")


def _check_parts(where: str, content: object) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise ValueError(f"{where}: the content must be a string or a list of parts, not {_kind(content)}")
    for number, part in enumerate(content, 1):
        if not isinstance(part, Mapping) or "type" not in part or "text" not in part:
            raise ValueError(f"{where}: part {number} must be an object with type and text")
        if part["type"] not in PART_TYPES:
            raise ValueError(f"{where}: part {number} has the unknown type {part['type']!r}; "
                             f"known are {', '.join(PART_TYPES)}")  # fmt: skip
        if not isinstance(part["text"], str):
            raise ValueError(f"{where}: the text of part {number} must be a string, not {_kind(part['text'])}")


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string",
             list: "a list", dict: "an object"}  # fmt: skip
    return names.get(type(value), type(value).__name__)


def _with_system(tokenizer: Tokenizer, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages to render: a tokenizer without a system role has the system's text told by the first user."""
    if messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if not system["content"]:
        return rest
    if tokenizer.has_special(SYSTEM_START):
        return messages
    return [{"role": "user", "content": system["content"] + "\n\n" + rest[0]["content"]}, *rest[1:]]


def _render_message(tokenizer: Tokenizer, message: Message) -> tuple[list[int], list[int]]:
    role, content = message["role"], message["content"]
    if role != "assistant":
        start, end = (SYSTEM_START, SYSTEM_END) if role == "system" else (USER_START, USER_END)
        ids = tokenizer.encode(content, prepend=start, append=end)
        return ids, [0] * len(ids)
    ids, mask = [tokenizer.special(ASSISTANT_START)], [0]
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        start, end, learnt = {
            "text": (None, None, 1),
            "python": (PYTHON_START, PYTHON_END, 1),
            "python_output": (OUTPUT_START, OUTPUT_END, 0),  # the calculator says it, not the model
        }[part["type"]]
        more = tokenizer.encode(part["text"], prepend=start, append=end)
        ids += more
        mask += [learnt] * len(more)
    return [*ids, tokenizer.special(ASSISTANT_END)], [*mask, 1]


def _changes(tokenizer: Tokenizer) -> dict[int, str]:
    """What the ids after each special token of a reply belong to."""
    changes = {PYTHON_START: "python", PYTHON_END: "text", OUTPUT_START: "python_output", OUTPUT_END: "text"}
    known = {tokenizer.specials[name]: kind for name, kind in changes.items() if tokenizer.has_special(name)}
    return {**known, **dict.fromkeys(stop_ids(tokenizer), "end")}
