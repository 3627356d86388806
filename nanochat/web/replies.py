"""What the POST routes share: from a client's settings to the Engine's request, and from a reply to a response.

A route is a Dialect: the body it reads, and a function that plans the reply. `handler` does the rest for all of them.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat import chat
from nanochat.engine.request import ContextLengthError, Request
from nanochat.engine.text import ReplyText
from nanochat.errors import UserError
from nanochat.web.bodies import messages
from nanochat.web.bodies.schemas import Body, ChatRequest, CompletionRequest, Message, Sampling, validated
from nanochat.web.documentation import describes
from nanochat.web.errors import ApiError, bad_request, json_response
from nanochat.web.generation import Generation, Writer
from nanochat.web.sse import EventStream, Later, Stream
from nanochat.web.state import ServedModel, ServerState

TAKEN = ("/chat/completions",)  # earlier versions' meaning of this path is other than OpenAI's; see older.py
COMPLETION_TOKENS = 16  # of a reply at /v1/completions whose client sets no limit, as at OpenAI's
LONG = 20_000  # characters; encoding more would hold up the other streams, so a thread does it


class StreamWriter(Writer, Protocol):
    def begin(self, stream: Stream) -> None: ...


class ChatReplyWriter(StreamWriter, Protocol):
    def whole(self, generation: Generation) -> object:
        """The JSON of a reply that is sent whole."""
        ...


@dataclass(frozen=True)
class Plan:
    """What to generate, and how to send it."""

    model: ServedModel
    requests: Sequence[Request]
    choices: Sequence[ReplyText]
    """one per request"""
    whole: Callable[[Generation], object]
    """the JSON of a reply that is sent whole"""
    writer: StreamWriter | None = None
    """writes the events; None for a reply that is sent whole"""
    samples: int = 1
    """how many neighbouring requests have the same prompt"""
    headers: Mapping[str, str] = field(default_factory=dict)
    """of the response"""


class Dialect(NamedTuple):
    """How one route speaks."""

    body: type[Body]
    plan: Callable[[ServerState, Any], Awaitable[Plan]]
    accept_streams: bool = False
    """stream, too, for clients that send "Accept: text/event-stream\""""


def add_route(router: APIRouter, path: str, tag: str, summary: str, state: ServerState, dialect: Dialect) -> None:
    """Under /v1 the route exists without that prefix as well, which many base URLs lack."""
    handle = handler(state, dialect)
    router.add_api_route(path, handle, methods=["POST"], tags=[tag], summary=summary, **describes(dialect.body))
    if (bare := path.removeprefix("/v1")) not in (path, *TAKEN):
        router.add_api_route(bare, handle, methods=["POST"], include_in_schema=False)


def handler(state: ServerState, dialect: Dialect) -> Callable[[HttpRequest], Awaitable[Response]]:
    """The function that answers a route's requests."""

    async def handle(http: HttpRequest) -> Response:
        body: Any = validated(dialect.body, await http.body())
        if dialect.accept_streams and "text/event-stream" in http.headers.get("accept", ""):
            body.stream = True
        plan = await dialect.plan(state, body)
        generation = Generation(plan.requests, plan.choices, plan.samples, plan.model.pool.cancel)
        if plan.writer is None:
            state.begin(plan.model, generation)
            return Later(_whole(plan, generation), generation.cancel)
        resumable = http.headers.get("x-nanochat-resumable") == "1"
        stream = Stream(generation.cancel, state.streams if resumable else None)
        plan.writer.begin(stream)
        generation.writer = plan.writer
        state.begin(plan.model, generation)
        response = EventStream(stream)
        response.headers.update(plan.headers)
        return response

    return handle


async def _whole(plan: Plan, generation: Generation) -> Response:
    error = await asyncio.shield(generation.ended)  # a client that leaves ends the wait, not the future
    if error is not None:
        return ApiError(500, error, "internal_error").response()
    return json_response(plan.whole(generation), headers=plan.headers)


def engine_request(
    state: ServerState, model: ServedModel, body: Sampling, ids: list[int], param: str, **more: Any
) -> Request:
    """The Engine's request for a client's settings. Raises ApiError where it cannot be met.

    param: the field of the body that the prompt stands in. more: further fields of the request.
    """
    settings = state.settings
    check_ids(model, body.logit_bias, "logit_bias")
    check_ids(model, body.stop_token_ids, "stop_token_ids")
    if body.ignore_eos and more.get("constraint") is not None:
        message = "ignore_eos cannot be kept together with a format or tools: only the model's end ends such a reply"
        raise bad_request(message, "ignore_eos", "invalid_value")
    try:
        request = Request(
            ids,
            max_tokens=most_tokens(state, body),
            min_tokens=body.min_tokens,
            temperature=settings.temperature if body.temperature is None else body.temperature,
            top_k=settings.top_k if body.top_k is None else max(0, body.top_k),
            top_p=body.top_p if "top_p" in body.model_fields_set else settings.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=body.logit_bias,
            seed=None if body.seed == -1 else body.seed,
            stop_ids=frozenset(body.stop_token_ids) | (frozenset() if body.ignore_eos else model.stop_ids),
            **more,
        )
        model.pool.workers[0].engine.check(request)
    except ContextLengthError as error:
        raise bad_request(str(error), param, "context_length_exceeded") from None
    except UserError as error:
        raise bad_request(str(error), str(error).split()[0]) from None
    return request


def most_tokens(state: ServerState, body: Sampling) -> int | None:
    """The most tokens of the reply; None: as many as the context holds."""
    default = COMPLETION_TOKENS if isinstance(body, CompletionRequest) else state.settings.max_tokens
    length = max(default, body.min_tokens) if body.length is None else body.length
    return None if length == -1 else length


def prompt_room(state: ServerState, model: ServedModel, body: Sampling) -> float:
    """The most tokens of a prompt that is not to lose its beginning."""
    return chat.prompt_room(model.context, most_tokens(state, body)) if body.truncates else math.inf


async def encoded(param: str, characters: int, encode: Callable[..., Any], *args: Any) -> Any:
    """encode(*args), in a thread when there is much to encode.

    Raises ApiError for a character that a character-level tokenizer does not have.
    """
    try:
        if characters < LONG:
            return encode(*args)
        return await asyncio.to_thread(encode, *args)
    except UserError as error:
        raise bad_request(str(error), param) from None


def chat_turns(
    state: ServerState, model: ServedModel, content: Sequence[Message], tools: str = ""
) -> list[dict[str, Any]]:
    """The conversation that a body holds, with the operator's system message if it has none.

    tools: a description of them, for the system message.
    Raises ApiError for a model that does not chat, and for messages without a question.
    """
    if not model.chats:
        message = f"{model.id} is a base model: it continues texts and has not learned to chat; use /v1/completions"
        raise bad_request(f"{message}, or another model", "model", "model_cannot_chat")
    if content and content[-1].tool_calls:
        reason = "calls a tool and no result follows; add a message of role tool that has it"
        raise bad_request(f"messages[{len(content) - 1}] {reason}", "messages")
    return messages.conversation(content, tools, state.settings.system)


class ChatPrompt(NamedTuple):
    """What the reply to a conversation follows."""

    turns: list[dict[str, Any]]
    ids: list[int]
    prefill: str
    """the text of a last message of the assistant's that the reply continues"""
    messages_dropped: int
    """how many of the oldest messages are not in it"""
    reply_tokens_dropped: int
    """how many of the first tokens of that last message are not in it"""

    @property
    def figures(self) -> dict[str, int]:
        """What a client that lets the server truncate its prompt learns about it."""
        dropped = {"messages_dropped": self.messages_dropped, "reply_tokens_dropped": self.reply_tokens_dropped}
        return {"prompt_tokens": len(self.ids), **dropped}


async def chat_prompt(
    state: ServerState, model: ServedModel, content: Sequence[Message], tools: str = "", begins: bool = True,
    room: float = math.inf,
) -> ChatPrompt:  # fmt: skip
    """The prompt for the reply to a conversation; see `fitted_prompt`."""
    prompt = await fitted_prompt(state, model, content, tools, begins, room)
    state.log("chat", model, prompt.turns)
    return prompt


async def fitted_prompt(
    state: ServerState, model: ServedModel, content: Sequence[Message], tools: str = "", begins: bool = True,
    room: float = math.inf,
) -> ChatPrompt:  # fmt: skip
    """The prompt for a conversation. begins: a last message of the assistant's is the beginning of the reply.

    room: the most tokens of a prompt that is not to lose its beginning.
    """

    def turns_of(kept: Sequence[Message]) -> list[dict[str, Any]]:
        turns = chat_turns(state, model, kept, tools)
        if turns[-1]["role"] == "assistant" and not begins:
            turns.append({"role": "assistant", "content": ""})  # whose end, like the end of any beginning, is left out
        return turns

    def fit() -> ChatPrompt:
        kept, whole = chat.newest(content, lambda each: model.prompt(turns_of(each)), room, attrgetter("role"))
        *before, last = turns = turns_of(kept)
        prefill, ids = "", whole
        if begins and last["role"] == "assistant":
            prefill = "".join(part["text"] for part in last["content"] if part["type"] == "text")
            if len(whole) > room and before and before[-1]["role"] == "user":
                head = model.prompt(before)
                if whole[: len(head)] == head:
                    ids = chat.without_beginning(whole, len(head), int(room), model.context)
        return ChatPrompt(turns, ids, prefill, len(content) - len(kept), len(whole) - len(ids))

    return await encoded("messages", messages.characters(turns_of(content)), fit)


async def chat_ids(state: ServerState, model: ServedModel, content: Sequence[Message]) -> list[int]:
    """The token ids of the prompt for a conversation."""
    return (await chat_prompt(state, model, content)).ids


def begins_reply(body: ChatRequest) -> bool:
    """Whether a last message of the assistant's is the beginning of the reply, and not a turn before it.

    Raises ApiError for settings that contradict each other or the messages.
    """
    roles = [message.role for message in body.messages if message.role not in ("system", "developer")]
    continues, adds = body.continue_final_message, body.add_generation_prompt
    if continues and adds:
        reason = "continue_final_message and add_generation_prompt cannot both be true: the reply either continues"
        raise bad_request(f"{reason} the last message or is a turn of its own", "continue_final_message")
    if continues and roles[-1:] != ["assistant"]:
        reason = "continue_final_message needs a last message with the role assistant"
        raise bad_request(reason, "continue_final_message")
    if adds is False and not continues:
        reason = "add_generation_prompt=false needs continue_final_message=true: else the reply is a turn of its own"
        raise bad_request(reason, "add_generation_prompt")
    return continues is not False and not adds


def check_ids(model: ServedModel, ids: Iterable[int], place: str) -> None:
    """Raises ApiError for an id outside the vocabulary. place: where the ids are, such as prompt[0]."""
    size = model.tokenizer.vocab_size
    for number, id in enumerate(ids):
        if not 0 <= id < size:
            where = f'{place}["{id}"]' if isinstance(ids, Mapping) else f"{place}[{number}]"
            message = f"{where}: token id {id} is outside the model's vocabulary of {size}"
            raise bad_request(message, place.partition("[")[0], "invalid_value")
