"""OpenAI's API: models, chats and completions, and the tokenizer beside them.

What differs: tools and images are refused, the extensions are top_k, min_p and repetition_penalty, the parts of a
reply (a tool's call and output), resumable streams, and a last message of the assistant's, which is continued.
Sampling that a client leaves open is as the operator set it. Usage counts ids: those the Engine was given, and those
the model was asked for, the one that ended the reply included.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat import chat
from nanochat.engine.request import Constraint, Request
from nanochat.engine.text import ReplyText, TokenLogprob
from nanochat.errors import UserError
from nanochat.web import messages
from nanochat.web.documentation import errors, takes
from nanochat.web.errors import ApiError, bad_request, json_response
from nanochat.web.generation import FailedError, Generation
from nanochat.web.limits import read_json
from nanochat.web.schemas import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Sampling,
    TokenizeRequest,
    validated,
)  # fmt: skip
from nanochat.web.service import Model, Service
from nanochat.web.sse import Answer, EventStream, Stream
from nanochat.web.writers import ChatWriter, CompletionWriter, Head, chat_object, completion_object

IN_A_THREAD = 20_000  # characters from which on encoding would hold up the other streams


def routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", tags=["OpenAI"], summary="The models of this server, the default first")
    async def list_models() -> Any:
        return {"object": "list", "data": [_card(service, model) for model in service.models.values()]}

    @router.get("/v1/models/{name:path}", tags=["OpenAI"], summary="One model", responses=errors(404))
    async def one_model(name: str) -> Any:
        return _card(service, service.pick(name))

    @router.post("/v1/chat/completions", tags=["OpenAI"], summary="Answer a conversation", **takes(ChatRequest))
    async def chat_completions(http: HttpRequest) -> Response:
        body: ChatRequest = validated(ChatRequest, await read_json(http))
        _refuse_tools(body)
        model = service.pick(body.model)
        turns = chat_turns(model, body.messages)
        service.note("chat", model, turns)
        ids = await encoded("messages", messages.characters(turns), messages.prompt, model.tokenizer, turns)
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        if body.top_logprobs and not body.logprobs:
            raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")
        request = engine_request(
            service, model, body, ids, limit, "messages",
            logprobs=(body.top_logprobs or 0) if body.logprobs else None, tools=model.tools,
            constraint=await constraint(model, body.response_format),
        )  # fmt: skip
        n = body.n or 1
        choices = [ReplyText(model.tokenizer, body.stops) for _ in range(n)]
        generation = Generation(model.pool, request.samples(n), choices, n)
        id = "chatcmpl-" + secrets.token_hex(12)
        if not body.stream:
            head = Head(model, "chat.completion", id)
            return answer(service, model, generation, lambda: chat_object(generation, model, head, bool(body.logprobs)))
        stream = Stream(generation.cancel, http.headers.get("x-nanochat-resumable") == "1")
        head = Head(model, "chat.completion.chunk", id)
        generation.writer = ChatWriter(stream, model, head, n, wants_usage(body), bool(body.logprobs))
        return stream_of(service, model, generation, stream)

    @router.post("/v1/completions", tags=["OpenAI"], summary="Continue a text", **takes(CompletionRequest))
    async def completions(http: HttpRequest) -> Response:
        body: CompletionRequest = validated(CompletionRequest, await read_json(http))
        if body.suffix:
            raise bad_request("suffix is not supported: the models here write forward only", "suffix")
        if body.best_of is not None and body.best_of != (body.n or 1):
            raise bad_request("best_of is not supported; choose among n yourself", "best_of")
        model = service.pick(body.model)
        prompts = await _prompts(model, body.prompt)
        service.note("completion", model, [prompt.text for prompt in prompts])
        n = body.n or 1
        if len(prompts) * n > MAX_CHOICES:
            raise bad_request(f"{len(prompts)} prompts with n={n} are more than {MAX_CHOICES} replies", "n")
        constrained = await constraint(model, body.response_format)
        requests = []
        for prompt in prompts:
            request = engine_request(
                service, model, body, prompt.ids, body.max_tokens, "prompt", logprobs=body.logprobs,
                constraint=constrained,
            )  # fmt: skip
            requests += request.samples(n)
        echoes: list[tuple[str, list[TokenLogprob]]] = [("", [])] * len(requests)
        if body.echo:
            echoes = [echo for prompt in prompts for echo in [await _echo(model, prompt, body.logprobs)] * n]
        choices = [ReplyText(model.tokenizer, body.stops, parts=False) for _ in requests]
        generation = Generation(model.pool, requests, choices, n)
        head = Head(model, "text_completion", "cmpl-" + secrets.token_hex(12))
        logprobs = body.logprobs is not None
        if not body.stream:
            return answer(
                service, model, generation, lambda: completion_object(generation, model, head, logprobs, echoes)
            )
        stream = Stream(generation.cancel, http.headers.get("x-nanochat-resumable") == "1")
        generation.writer = CompletionWriter(stream, model, head, wants_usage(body), logprobs, echoes)
        return stream_of(service, model, generation, stream)

    @router.post("/tokenize", tags=["Tokenizer"], summary="Text to ids", **takes(TokenizeRequest))
    async def tokenize(http: HttpRequest) -> Response:
        body: TokenizeRequest = validated(TokenizeRequest, await read_json(http))
        model = service.pick(body.model)
        if (body.text is None) == (body.messages is None):
            raise bad_request("give either text or messages", "text")
        turns = chat_turns(model, body.messages) if body.messages is not None else []

        def spelled() -> dict:
            tokenizer = model.tokenizer
            ids = tokenizer.encode(body.text) if body.text is not None else messages.prompt(tokenizer, turns)
            return {"tokens": ids, "count": len(ids), "texts": [tokenizer.decode([id]) for id in ids]}

        return json_response(await encoded("text", len(body.text or "") + messages.characters(turns), spelled))

    @router.post("/detokenize", tags=["Tokenizer"], summary="Ids to text", **takes(DetokenizeRequest))
    async def detokenize(http: HttpRequest) -> Response:
        body: DetokenizeRequest = validated(DetokenizeRequest, await read_json(http))
        model = service.pick(body.model)
        _check_ids(model, body.tokens, "tokens")
        return json_response({"text": model.tokenizer.decode(body.tokens)})

    @router.get("/v1/streams/{id}", tags=["Streams"], summary="Go on reading a stream", responses=errors(404))
    async def read_stream(http: HttpRequest, id: str) -> Response:
        stream = _stream(service, id)
        after = http.query_params.get("after", http.headers.get("last-event-id", "-1"))
        try:
            number = max(-1, int(after[:20]))
        except ValueError:
            raise bad_request(f"after is {after[:20]!r}; expected the number of an event", "after") from None
        return EventStream(stream, service.streams, number)

    @router.delete("/v1/streams/{id}", tags=["Streams"], summary="Stop a reply", responses=errors(404))
    async def stop_stream(id: str) -> Response:
        _stream(service, id).stop()
        return json_response({"id": id, "stopped": True})

    return router


def engine_request(
    service: Service, model: Model, body: Sampling, ids: list[int], max_tokens: int | None, param: str,
    logprobs: int | None = None, tools: Any = None, constraint: Constraint | None = None,
) -> Request:  # fmt: skip
    """What the client asks for as the Engine wants it. Raises ApiError where it cannot be done."""
    settings = service.settings
    top_k = settings.top_k if body.top_k is None else max(0, body.top_k)
    try:
        request = Request(
            ids,
            max_tokens=settings.max_tokens if max_tokens is None else max_tokens,
            temperature=_given(body.temperature, settings.temperature),
            top_k=top_k,
            top_p=_given(body.top_p, 1.0),
            min_p=_given(body.min_p, 0.0),
            repetition_penalty=_given(body.repetition_penalty, 1.0),
            presence_penalty=_given(body.presence_penalty, 0.0),
            frequency_penalty=_given(body.frequency_penalty, 0.0),
            logit_bias=_bias(model, body.logit_bias or {}),
            seed=body.seed,
            stop_ids=model.stop_ids,
            tools=tools,
            logprobs=logprobs,
            constraint=constraint,
        )
    except UserError as error:
        raise bad_request(str(error), str(error).split()[0]) from None
    service.check(model, request, param)
    return request


async def constraint(model: Model, response_format: dict[str, Any] | None) -> Constraint | None:
    """What the reply must look like. In a thread, for a schema can take a second to prepare."""
    if response_format is None:
        return None
    return await asyncio.to_thread(model.grammars.constraint, response_format)


async def encoded(param: str, characters: int, encode: Any, *args: Any) -> Any:
    """encode(*args), in a thread when there is much to encode.

    Raises ApiError for a character that the tokenizer does not have, as those with one id a character may not.
    """
    try:
        if characters < IN_A_THREAD:
            return encode(*args)
        return await asyncio.to_thread(encode, *args)
    except UserError as error:
        raise bad_request(str(error), param) from None


def answer(service: Service, model: Model, generation: Generation, build: Any) -> Response:
    """Begin a reply that is sent when it is whole."""
    service.begin(model, generation)

    async def result() -> Response:
        try:
            await generation.ended
        except FailedError as error:
            return ApiError(500, str(error), "internal_error").response()
        return json_response(build())

    return Answer(result(), generation.cancel)


def stream_of(service: Service, model: Model, generation: Generation, stream: Stream) -> Response:
    """Begin a reply that is sent as it grows."""
    service.begin(model, generation)
    service.streams.keep(stream)
    return EventStream(stream, service.streams)


def wants_usage(body: Sampling) -> bool:
    return bool(body.stream_options and body.stream_options.include_usage)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _card(service: Service, model: Model) -> dict:
    settings = service.settings
    return {
        "id": model.id, "object": "model", "created": model.created, "owned_by": "nanochat",
        "source": model.source, "tag": model.tag, "step": model.step, "context_length": model.context,
        "chat": model.chats, "parameters": model.parameters, "dtype": model.dtype, "device": model.device,
        "default": model is service.default, "tools": model.tool_names,
        "defaults": {
            "temperature": settings.temperature, "top_k": settings.top_k, "max_tokens": settings.max_tokens,
            "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        },
    }  # fmt: skip


def _refuse_tools(body: ChatRequest) -> None:
    for name in ("tools", "functions"):
        if getattr(body, name) and body.tool_choice != "none":
            message = f"{name} are not supported: the models here call only the tools of the server"
            raise bad_request(message, name, "unsupported_parameter")


def chat_turns(model: Model, content: Sequence[Any]) -> list[dict[str, Any]]:
    if not model.chats:
        message = (
            f"{model.id} is a base model: it continues texts and has not learned to chat; "
            "use /v1/completions, or another model"
        )
        raise bad_request(message, "model", "model_cannot_chat")
    return messages.conversation(content)


class Prompt(NamedTuple):
    """A text to continue. Text begins a document, which may need ids in front; ids are taken as they are."""

    text: str
    ids: list[int]
    unsaid: int
    """how many of the first ids are not in the text"""


async def _prompts(model: Model, prompt: Any) -> list[Prompt]:
    if prompt is None:
        prompt = ""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise bad_request("prompt must be a string, a list of strings, or token ids", "prompt")
    if len(prompt) > MAX_CHOICES:
        raise bad_request(f"there are {len(prompt)} prompts; at most {MAX_CHOICES} are taken at once", "prompt")
    result = []
    for each in prompt:
        if isinstance(each, str):
            ids = await encoded("prompt", len(each), chat.text_prompt, model.tokenizer, each)
            result.append(Prompt(each, ids, len(chat.opening(model.tokenizer)) if each else len(ids)))
        elif isinstance(each, list) and each and all(type(id) is int for id in each):
            _check_ids(model, each, "prompt")
            result.append(Prompt(model.tokenizer.decode(each), each, 0))
        else:
            raise bad_request("prompt must be a string, a list of strings, or token ids that are not empty", "prompt")
    return result


def _check_ids(model: Model, ids: Sequence[int], param: str) -> None:
    size = model.tokenizer.vocab_size
    for id in ids:
        if not 0 <= id < size:
            raise bad_request(f"token id {id} is outside the model's vocabulary of {size}", param)


async def _echo(model: Model, prompt: Prompt, logprobs: int | None) -> tuple[str, list[TokenLogprob]]:
    """A prompt as it comes before the reply, and its tokens if their probabilities are wanted."""
    if logprobs is None:
        return prompt.text, []
    scored = await model.pool.call(lambda engine: engine.prompt_logprobs(prompt.ids, logprobs))
    decoder = chat.StreamDecoder(model.tokenizer)
    told, start = [], 0
    for id, value in list(zip(prompt.ids, [None, *scored], strict=True))[prompt.unsaid :]:
        told.append(TokenLogprob(id, start, value))
        start += len(decoder.push(id))
    return prompt.text, told


def _bias(model: Model, given: dict[str, float]) -> dict[int, float]:
    if not all(key.isdecimal() for key in given):
        raise bad_request("the keys of logit_bias must be token ids", "logit_bias")
    bias = {int(key): value for key, value in given.items()}
    _check_ids(model, list(bias), "logit_bias")
    return bias


def _stream(service: Service, id: str) -> Stream:
    stream = service.streams.get(id)
    if stream is None:
        raise ApiError(404, "there is no such stream; a stream is kept for 30 seconds without a reader", "not_found")
    return stream
