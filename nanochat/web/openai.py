"""OpenAI's API: models, chats and completions, and the tokenizer beside them.

What differs: images are refused. Extensions are top_k, min_p and repetition_penalty, the parts of a reply (calls of the
server's own tools and their output), resumable streams, truncation of a prompt that is too long, and a last message of
the assistant's, which is continued.
Sampling settings that a client leaves out are the operator's. Usage counts token ids: those of the prompt, and those
sampled, including the one that ended the reply.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat import chat
from nanochat.engine.beginning import Beginning
from nanochat.engine.request import Constraint
from nanochat.engine.text import ReplyText, TokenLogprob, prompt_logprobs
from nanochat.web import record
from nanochat.web.bodies import toolcalls
from nanochat.web.bodies.grammar import demand
from nanochat.web.bodies.schemas import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Prompts,
    Sampling,
    TokenizeRequest,
    validated,
)  # fmt: skip
from nanochat.web.documentation import describes, errors
from nanochat.web.errors import ApiError, bad_request, json_response
from nanochat.web.replies import (
    ChatReplyWriter,
    Dialect,
    Plan,
    add_route,
    begins_reply,
    chat_prompt,
    check_ids,
    encoded,
    engine_request,
    fitted_prompt,
    prompt_room,
)
from nanochat.web.sse import EventStream, Stream
from nanochat.web.state import ServedModel, ServerState
from nanochat.web.writers import ChatWriter, CompletionWriter

# OpenAI's routes that models of other kinds answer
UNSUPPORTED = (
    "embeddings", "moderations", "rerank", "images/generations", "audio/speech", "audio/transcriptions",
)  # fmt: skip


def routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.get("/models", include_in_schema=False)
    @router.get("/v1/models", tags=["OpenAI"], summary="The models of this server, the default first")
    async def list_models() -> Any:
        cards = [await asyncio.to_thread(_card, state, model) for model in state.models.values()]
        return {"object": "list", "data": cards}

    @router.get("/models/{name:path}", include_in_schema=False)
    @router.get("/v1/models/{name:path}", tags=["OpenAI"], summary="One model", responses=errors(404))
    async def one_model(name: str) -> Any:
        return await asyncio.to_thread(_card, state, state.pick(name))

    chats, completions = Dialect(ChatRequest, plan_chat), Dialect(CompletionRequest, plan_completion)
    add_route(router, "/v1/chat/completions", "OpenAI", "Answer a conversation", state, chats)
    add_route(router, "/v1/completions", "OpenAI", "Continue a text", state, completions)
    for path in (f"{prefix}/{thing}" for prefix in ("/v1", "") for thing in UNSUPPORTED):
        router.add_api_route(path, _unsupported, methods=["POST"], include_in_schema=False)
    _tokenizer_routes(router, state)
    _stream_routes(router, state)
    return router


async def _unsupported(http: HttpRequest) -> Response:
    message = f"there is nothing at {http.url.path}: the models here write text; /docs lists what they do"
    raise ApiError(404, message, "not_found")


def _tokenizer_routes(router: APIRouter, state: ServerState) -> None:
    @router.post("/tokenize", tags=["Tokenizer"], summary="Text to token ids", **describes(TokenizeRequest))
    async def tokenize(http: HttpRequest) -> Response:
        body = validated(TokenizeRequest, await http.body())
        model = state.pick(body.model)
        if (body.text is None) == (body.messages is None):
            raise bad_request("give either text or messages", "text")
        functions = [tool.function for tool in body.tools]
        toolcalls.check(functions)
        tokenizer = model.tokenizer
        if body.text is not None:
            ids = await encoded("text", len(body.text), tokenizer.encode, body.text)
            figures = {}
        else:
            sampling = Sampling.model_construct(max_tokens=body.max_tokens, truncation=body.truncation)
            room = prompt_room(state, model, sampling)
            described = toolcalls.description(functions)
            prompt = await fitted_prompt(state, model, body.messages or [], described, room=room)
            ids, figures = prompt.ids, prompt.figures if sampling.truncates else {}
        split = await encoded("text", len(ids), lambda: [tokenizer.decode([id]) for id in ids])
        return json_response({"tokens": ids, "count": len(ids), "texts": split, **figures})

    @router.post("/detokenize", tags=["Tokenizer"], summary="Token ids to text", **describes(DetokenizeRequest))
    async def detokenize(http: HttpRequest) -> Response:
        body = validated(DetokenizeRequest, await http.body())
        model = state.pick(body.model)
        check_ids(model, body.tokens, "tokens")
        return json_response({"text": model.tokenizer.decode(body.tokens)})


def _stream_routes(router: APIRouter, state: ServerState) -> None:
    def find(id: str) -> Stream:
        stream = state.streams.get(id)
        if stream is None:
            message = "there is no such stream; a stream without a reader is kept for 30 seconds"
            raise ApiError(404, message, "not_found")
        return stream

    @router.get("/v1/streams/{id}", tags=["Streams"], summary="Resume reading a stream", responses=errors(404))
    async def read_stream(http: HttpRequest, id: str) -> Response:
        stream = find(id)
        after = http.query_params.get("after", http.headers.get("last-event-id", "-1"))
        try:
            number = max(-1, int(after[:20]))
        except ValueError:
            raise bad_request(f"after is {after[:20]!r}; expected the number of an event", "after") from None
        return EventStream(stream, number)

    @router.delete("/v1/streams/{id}", tags=["Streams"], summary="Stop a reply", responses=errors(404))
    async def stop_stream(id: str) -> Response:
        find(id).stop()
        return json_response({"id": id, "stopped": True})


async def plan_chat(
    state: ServerState, body: ChatRequest, writer: Callable[..., ChatReplyWriter] = ChatWriter
) -> Plan:
    """writer: makes what writes the reply, from the model, the body and what ChatPrompt.figures has for the client."""
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs requires logprobs to be true", "top_logprobs")
    model = state.pick(body.model)
    offer = toolcalls.offer(body)
    description = toolcalls.description(offer.described) if offer else ""
    room = prompt_room(state, model, body)
    prompt = await chat_prompt(state, model, body.messages, description, begins_reply(body), room)
    prefill = prompt.prefill
    constraint = _begun(model, body, await _constraint(model, body, offer, prefill))
    try:
        request = engine_request(
            state, model, body, prompt.ids, "messages", tools=model.tools,
            logprobs=body.top_logprobs if body.logprobs else None, constraint=constraint,
        )  # fmt: skip
    except ApiError as error:
        if not offer or error.code != "context_length_exceeded":
            raise
        size = len(model.tokenizer.encode(description))
        raise bad_request(f"{error} (the tools' description has {size} tokens)", error.param, error.code) from None
    choices = [model.reply_text(body.stops, bool(prefill), body.ignore_eos, **body.ends) for _ in range(body.n)]
    wanted = demand(body)
    if offer and (offer.required or not (wanted and prefill)):  # JSON that has begun holds no calls
        for choice in choices:
            choice.expect_calls(toolcalls.CallParser(only_first=wanted is not None), offer.required)
    writes = writer(model, body, prompt.figures if body.truncates else {})
    return Plan(model, request.samples(body.n), choices, writes.whole, writes if body.stream else None, body.n)


async def _constraint(
    model: ServedModel, body: ChatRequest, offer: toolcalls.Offer | None, prefill: str
) -> Constraint | None:
    """What the reply must follow: the grammar of its calls, and what the body demands of its text."""
    if offer is None:
        return await model.grammars.constraint(body, prefill)
    return await toolcalls.constraint(model.grammars, offer, model.tools and model.tools.ids, demand(body), prefill)


def _begun(model: ServedModel, body: Sampling, constraint: Constraint | None) -> Constraint | None:
    """What the reply must follow, with the tokens that it begins with."""
    if not body.begins_with:
        return constraint
    check_ids(model, body.begins_with, "begins_with")
    if constraint is not None:
        message = "begins_with cannot be combined with a format or tools: leave one of them out"
        raise bad_request(message, "begins_with", "invalid_value")
    return Beginning(body.begins_with, model.tokenizer.vocab_size)


async def plan_completion(state: ServerState, body: CompletionRequest) -> Plan:
    if body.suffix:
        raise bad_request("suffix is not supported: the models here write forward only", "suffix")
    if body.best_of not in (None, body.n):
        raise bad_request("best_of is not supported; choose among n replies yourself", "best_of")
    if not body.add_special_tokens:
        reason = "add_special_tokens=false is not supported; send the prompt as token ids"
        raise bad_request(reason, "add_special_tokens")
    model = state.pick(body.model)
    prompts = await _prompts(model, body.prompt)
    state.log("completion", model, [prompt.text for prompt in prompts])
    if len(prompts) * body.n > MAX_CHOICES:
        raise bad_request(f"{len(prompts)} prompts with n={body.n} exceed the limit of {MAX_CHOICES} replies", "n")
    constraint = _begun(model, body, await model.grammars.constraint(body))
    if body.truncates and body.echo:
        raise bad_request("echo repeats the whole prompt and cannot be kept together with truncation", "truncation")
    room = prompt_room(state, model, body)
    requests, echoes, dropped = [], [], 0
    for prompt in prompts:
        ids = prompt.ids
        if len(ids) > room:
            ids = chat.without_beginning(ids, prompt.before, int(room), model.context)
            dropped += len(prompt.ids) - len(ids)
        request = engine_request(state, model, body, ids, "prompt", logprobs=body.logprobs, constraint=constraint)
        requests += request.samples(body.n)
        echoes += [await _echo(model, prompt, body.logprobs) if body.echo else ("", [])] * body.n
    choices = [ReplyText(model.tokenizer, body.stops, parts=False, **body.ends) for _ in requests]
    figures = {"prompt_tokens_dropped": dropped} if body.truncates else {}
    writer = CompletionWriter(model, echoes, body.stream_options.include_usage, body.logprobs is not None, figures)
    return Plan(model, requests, choices, writer.whole, writer if body.stream else None, body.n)


class Prompt(NamedTuple):
    """A text to continue. A text may need ids before it that begin a document; ids are taken as they are."""

    text: str
    ids: list[int]
    before: int
    """how many of the first ids are not part of the text"""


async def _prompts(model: ServedModel, given: Prompts) -> list[Prompt]:
    prompts: Any = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    result = []
    for number, each in enumerate(prompts):
        if isinstance(each, str):
            ids = await encoded("prompt", len(each), chat.text_prompt, model.tokenizer, each)
            result.append(Prompt(each, ids, len(chat.opening(model.tokenizer)) if each else len(ids)))
        else:
            check_ids(model, each, "prompt" if each is given else f"prompt[{number}]")
            result.append(Prompt(model.tokenizer.decode(each), each, 0))
    return result


async def _echo(model: ServedModel, prompt: Prompt, logprobs: int | None) -> tuple[str, Sequence[TokenLogprob]]:
    """The prompt's text, and its tokens if their log probabilities are wanted."""
    if logprobs is None:
        return prompt.text, []
    scored = await model.pool.call(lambda engine: engine.prompt_logprobs(prompt.ids, logprobs))
    shown = slice(prompt.before, None)
    return prompt.text, list(prompt_logprobs(model.tokenizer, prompt.ids[shown], [None, *scored][shown]))


def _card(state: ServerState, model: ServedModel) -> dict:
    """A model of the list; reads what is recorded of it."""
    settings = state.settings
    return {
        "id": model.id, "object": "model", "created": model.created, "owned_by": "nanochat",
        "source": model.source, "tag": model.tag, "step": model.step, "context_length": model.context,
        "chat": model.chats, "parameters": model.parameters, "dtype": model.dtype, "device": model.device,
        "default": model is state.default, "tools": model.tool_names,
        "special_tokens": model.tokenizer.specials,
        "defaults": {
            "temperature": settings.temperature, "top_k": settings.top_k, "max_tokens": settings.max_tokens,
            "top_p": settings.top_p, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        },
        **record.describe(model),
    }  # fmt: skip
