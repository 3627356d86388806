"""What the POST routes share: from a client's settings to the Engine's request, and from a reply to a response.

A route is a Dialect: the body it reads, and a function that plans the reply. `handler` does the rest for all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat.engine.request import ContextLengthError, Request
from nanochat.engine.text import ReplyText
from nanochat.errors import UserError
from nanochat.web import messages
from nanochat.web.documentation import describes
from nanochat.web.errors import ApiError, bad_request, json_response
from nanochat.web.generation import Generation, Writer
from nanochat.web.schemas import Body, Message, Sampling, validated
from nanochat.web.sse import EventStream, Later, Stream
from nanochat.web.state import ServedModel, ServerState

TAKEN = ("/chat/completions",)  # earlier versions' meaning of this path is other than OpenAI's; see older.py
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
    try:
        request = Request(
            ids,
            max_tokens=settings.max_tokens if body.max_tokens is None else body.max_tokens,
            temperature=settings.temperature if body.temperature is None else body.temperature,
            top_k=settings.top_k if body.top_k is None else max(0, body.top_k),
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=body.logit_bias,
            seed=body.seed,
            stop_ids=model.stop_ids,
            **more,
        )
        model.pool.workers[0].engine.check(request)
    except ContextLengthError as error:
        raise bad_request(str(error), param, "context_length_exceeded") from None
    except UserError as error:
        raise bad_request(str(error), str(error).split()[0]) from None
    return request


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
    """The conversation that a body holds, with a description of tools, and the operator's system text if it has none.

    Raises ApiError for a model that does not chat, and for messages without a question.
    """
    if not model.chats:
        message = f"{model.id} is a base model: it continues texts and has not learned to chat; use /v1/completions"
        raise bad_request(f"{message}, or another model", "model", "model_cannot_chat")
    return messages.conversation(content, tools, state.settings.system)


async def chat_ids(
    state: ServerState, model: ServedModel, content: Sequence[Message], tools: str = ""
) -> list[int]:  # fmt: skip
    """The token ids of the prompt for a conversation."""
    turns = chat_turns(state, model, content, tools)
    state.log("chat", model, turns)
    return await encoded("messages", messages.characters(turns), model.prompt, turns)


def check_ids(model: ServedModel, ids: Iterable[int], param: str) -> None:
    """Raises ApiError for an id outside the vocabulary."""
    size = model.tokenizer.vocab_size
    for id in ids:
        if not 0 <= id < size:
            raise bad_request(f"token id {id} is outside the model's vocabulary of {size}", param)
