"""The chat template: conversations become tokens here, and tokens become replies.

This is the only file that spells the special tokens. A conversation is {"messages": [{"role", "content"}, ...]}: an
optional system message, then user and assistant in turn. Line breaks and indents below are for reading only:

    <|bos|>
    <|system_start|>Be brief.<|system_end|>
    <|user_start|>What is 12 + 30?<|user_end|>
    <|assistant_start|>Let me see. <|python_start|>12 + 30<|python_end|><|output_start|>42<|output_end|>It is 42.
    <|assistant_end|>

User and system contents are strings. An assistant's content is a string or a list of parts {"type", "text"}: "text"
is shown to the user, "python" is a call of the calculator, "python_output" is its result.

`render` also returns the loss mask. The model is trained on what it has to generate itself (mask 1): the text, the
tool call with its two special tokens, and <|assistant_end|>, by which it learns to stop. It is not trained on what
others write (mask 0): <|bos|>, the system's and the user's messages, <|assistant_start|>, and the tool's output, which
the Engine inserts.

Text is encoded without special tokens, so a message that spells "<|user_end|>" cannot end its turn.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar, overload

from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

Message = Mapping[str, Any]
Conversation = Mapping[str, Any]
AnyMessage = TypeVar("AnyMessage")

BOS = "<|bos|>"
USER_START, USER_END = "<|user_start|>", "<|user_end|>"
ASSISTANT_START, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
OUTPUT_START, OUTPUT_END = "<|output_start|>", "<|output_end|>"
SYSTEM_START, SYSTEM_END = "<|system_start|>", "<|system_end|>"
# In the order of their ids. The released tokenizers have the first nine: no system role.
SPECIALS = [
    BOS, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END,
    SYSTEM_START, SYSTEM_END,
]  # fmt: skip

ROLES = ("system", "user", "assistant")
PART_TYPES = ("text", "python", "python_output")


class ToolIds(NamedTuple):
    """The ids around a tool call and its output."""

    python_start: int
    python_end: int
    output_start: int
    output_end: int


def check(conversation: object) -> None:
    """Check that a conversation can be trained on.

    After an optional system message, user and assistant take turns. It must end with an assistant's message, and none
    of these may be empty: the model would learn to answer nothing. An empty system message counts as none.

    Raises:
        ValueError: with one clause that names the message and what is wrong with it.
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
    """The token ids of a conversation, and its loss mask: 1 for each token the model is trained on, else 0.

    With max_tokens, whole turns are dropped from the end until the rest fits, so that no closing token is cut off;
    None when not even the first answer fits.

    Raises:
        ValueError: the roles or contents are not those of a conversation.
    """
    messages = _messages(conversation)
    ids, mask = [tokenizer.special(BOS)], [0]
    kept = 0  # length up to the end of the last answer that fits
    for message in _with_system(tokenizer, messages):
        more_ids, more_mask = _render_message(tokenizer, message)
        ids += more_ids
        mask += more_mask
        if max_tokens is None or len(ids) <= max_tokens:
            kept = len(ids) if message["role"] == "assistant" else kept
        else:
            return (ids[:kept], mask[:kept]) if kept else None
    return ids, mask


def _with_system(tokenizer: Tokenizer, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages to render. For a tokenizer without a system role, the system's text begins the first question."""
    if messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if not system["content"]:
        return rest
    if tokenizer.has_special(SYSTEM_START):
        return messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{"role": "user", "content": system["content"] + "\n\n" + rest[0]["content"]}, *rest[1:]]


def _render_message(tokenizer: Tokenizer, message: Message) -> tuple[list[int], list[int]]:
    """One turn of the template and its loss mask."""
    role, content = message["role"], message["content"]
    if role != "assistant":
        start, end = (SYSTEM_START, SYSTEM_END) if role == "system" else (USER_START, USER_END)
        ids = tokenizer.encode(content, prepend=start, append=end)
        return ids, [0] * len(ids)
    ids, mask = [tokenizer.special(ASSISTANT_START)], [0]
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        start, end, trained = {
            "text": (None, None, 1),
            "python": (PYTHON_START, PYTHON_END, 1),
            "python_output": (OUTPUT_START, OUTPUT_END, 0),  # the Engine inserts it; the model never generates it
        }[part["type"]]
        more = tokenizer.encode(part["text"], prepend=start, append=end)
        ids += more
        mask += [trained] * len(more)
    return [*ids, tokenizer.special(ASSISTANT_END)], [*mask, 1]


def prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The token ids after which the model writes its answer: the conversation and <|assistant_start|>.

    Unlike in training, the assistant's greeting may come first, and there may be nothing but a system message.

    Raises:
        ValueError: the last message is the assistant's, or the messages are not a conversation.
    """
    _check_messages(messages)
    _check_turns(messages, any_first=True)
    if messages[-1]["role"] == "assistant":
        raise ValueError("there is no question to answer: the last message is the assistant's")
    return [*_rendered(tokenizer, messages), tokenizer.special(ASSISTANT_START)]


def prefilled_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The token ids after which the model continues the last message, which is the assistant's.

    It may follow another one of the assistant's, which is then complete.

    Raises:
        ValueError: the messages are not a conversation.
    """
    _check_messages(messages)
    if len(messages) > 1:
        _check_turns(messages[:-1], any_first=True)
    return _rendered(tokenizer, messages)[:-1]  # without the token that would end the answer


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    turns = _with_system(tokenizer, messages)
    return [tokenizer.special(BOS), *(id for turn in turns for id in _render_message(tokenizer, turn)[0])]


# ---------------------------------------------------------------- conversations that outgrow the context


def prompt_room(context: int, max_tokens: int | None) -> int:
    """The most tokens of a prompt that leaves room for the answer: for max_tokens, or half the context if that is less.

    max_tokens None: as many as fit.
    """
    half = context // 2
    return context - (half if max_tokens is None else min(max_tokens, half))


def newest(
    messages: Sequence[AnyMessage],
    prompt: Callable[[Sequence[AnyMessage]], list[int]],
    room: float,
    role: Callable[[Any], str] = itemgetter("role"),
) -> tuple[Sequence[AnyMessage], list[int]]:
    """The end of a conversation whose prompt has at most `room` tokens, and that prompt.

    System messages stay. What stays of the others begins with a question; the last question and what follows it stay
    even where they exceed the room. prompt: the token ids for messages. role: that of a message.
    """
    ids = prompt(messages)
    questions = [number for number, message in enumerate(messages) if role(message) == "user"]
    if len(ids) <= room or not questions:
        return messages, ids

    def since(first: int) -> list[AnyMessage]:
        pairs = enumerate(messages)
        return [message for number, message in pairs if number >= first or role(message) in ("system", "developer")]

    # The later the first question, the shorter the prompt.
    last = len(questions) - 1
    first = bisect_left(questions, True, hi=last, key=lambda first: len(prompt(since(first))) <= room)
    kept = since(questions[first])
    return kept, prompt(kept)


def without_beginning(ids: list[int], head: int, room: int, context: int) -> list[int]:
    """A prompt that has at most `room` ids because what follows the first `head` ids has lost its beginning.

    Where the head leaves little of the room, half of what it leaves of the context remains.
    """
    kept = max(room, (context + head) // 2) - head
    return ids[:head] + ids[max(head, len(ids) - kept) :]


# ---------------------------------------------------------------- texts


def opening(tokenizer: Tokenizer) -> list[int]:
    """The ids before a text to be continued: bos, or none where the model was not trained with it."""
    return [tokenizer.special(BOS)] if tokenizer.has_special(BOS) else []


def text_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids after which a text is continued, at least one.

    An empty text becomes the token that begins a document; for a character model, which has none, a newline or else
    the first character.
    """
    if ids := [*opening(tokenizer), *tokenizer.encode(text)]:
        return ids
    if tokenizer.specials:
        return [tokenizer.bos]
    return [tokenizer.tokens.index(b"\n") if b"\n" in tokenizer.tokens else 0]


def can_chat(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has the special tokens of conversations."""
    return all(tokenizer.has_special(name) for name in SPECIALS[: SPECIALS.index(SYSTEM_START)])


def stop_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids that end a reply and are not part of it: <|assistant_end|>, and bos, which begins the next document."""
    ends = [tokenizer.specials[name] for name in (ASSISTANT_END,) if tokenizer.has_special(name)]
    return {*ends, tokenizer.bos} if tokenizer.specials else set()


def tool_ids(tokenizer: Tokenizer) -> ToolIds:
    """Raises UserError for a tokenizer without these tokens."""
    return ToolIds(*map(tokenizer.special, (PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END)))


def reply_parts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[dict[str, str]]:
    """The content parts of a reply: the inverse of `render` for what follows <|assistant_start|>.

    It ends at the first stop id. A tool call that was not closed is a part too; special tokens that do not belong in
    a reply are dropped, and so is a character that is unfinished at the end.
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
    last = parts[-1]
    decoded = [(part[0], tokenizer.decode(part[1], cut_off=part is last)) for part in parts]
    return [{"type": kind, "text": text} for kind, text in decoded if text or kind != "text"]


def reply_text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """What the user sees of a reply: its text, without tool calls and their output."""
    return "".join(part["text"] for part in reply_parts(tokenizer, ids) if part["type"] == "text")


def _changes(tokenizer: Tokenizer) -> dict[int, str]:
    """The type of the part that each special token begins in a reply, or "end"."""
    changes = {PYTHON_START: "python", PYTHON_END: "text", OUTPUT_START: "python_output", OUTPUT_END: "text"}
    known = {tokenizer.specials[name]: kind for name, kind in changes.items() if tokenizer.has_special(name)}
    return {**known, **dict.fromkeys(stop_ids(tokenizer), "end")}


def _messages(conversation: object) -> Sequence[Message]:
    if not isinstance(conversation, Mapping):
        raise ValueError(f"a conversation is an object with messages, not {_kind(conversation)}")
    if "messages" not in conversation:
        raise ValueError("the conversation has no messages")
    _check_messages(conversation["messages"])
    _check_turns(conversation["messages"])
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
        if role == "assistant":
            _check_parts(where, content)
        elif not isinstance(content, str):
            raise ValueError(f"{where}: the content must be a string, not {_kind(content)}")


def _check_turns(messages: Sequence[Message], any_first: bool = False) -> None:
    """After an optional system message, user and assistant take turns; the user first, unless anybody may be."""
    for number, message in enumerate(messages, 1):
        before = messages[number - 2]["role"] if number > 1 else "system"
        expected = "assistant" if before == "user" else "user"
        if message["role"] not in (expected, "system") and not (any_first and before == "system"):
            where = f"message {number} ({message['role']})"
            raise ValueError(f"{where}: here it is the {expected}'s turn; user and assistant take turns")
    if messages[-1]["role"] == "system" and not any_first:
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


# ---------------------------------------------------------------- conversations with a base model

PLAIN_STOPS = ("\nUser:", "\nAssistant:")  # a base model would write the next turn itself


def plain_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The token ids of a conversation as plain text, after which a model that was never taught to chat answers:

        Be brief.

        User: What is 12 + 30?
        Assistant: It is 42.
        User: And 12 - 30?
        Assistant:

    A last message of the assistant's is the beginning of the answer. Of its parts only the text is shown.
    """
    lines = [f"{message['content']}\n" for message in messages if message["role"] == "system" and message["content"]]
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content if part["type"] == "text")
        if message["role"] != "system":
            lines.append(f"{message['role'].capitalize()}: {content}" if content else "Assistant:")
    if messages[-1]["role"] != "assistant":
        lines.append("Assistant:")
    return text_prompt(tokenizer, "\n".join(lines))


def can_chat_plainly(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer can spell `plain_prompt`, which one of characters may not."""
    try:
        return bool(tokenizer.encode("\nUser:\nAssistant: "))
    except UserError:
        return False
