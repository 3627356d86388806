"""The older routes: the chat of earlier versions, and /generate as nanoGPT's servers have it.

The earlier chat and OpenAI's share the path /chat/completions, where clients of OpenAI's end up whose base URL lacks
/v1. Each is answered in its own shape: a request is OpenAI's when it holds anything that earlier versions did not know.
"""

import json
from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat import chat
from nanochat.engine.text import ReplyText
from nanochat.web.bodies.schemas import ChatRequest, ClassicMessage, ClassicRequest, GenerateRequest, Message, Sampling
from nanochat.web.documentation import describes
from nanochat.web.errors import bad_request
from nanochat.web.generation import Generation
from nanochat.web.openai import plan_chat
from nanochat.web.replies import Dialect, Plan, add_route, chat_ids, encoded, engine_request, handler
from nanochat.web.state import ServerState
from nanochat.web.writers import ClassicWriter, GenerateWriter

MAX_CHARACTERS = 32_000  # of all messages together
DROPPED = "X-Prompt-Tokens-Dropped"  # header: how many tokens of a prompt that exceeds the context were left out
FIELDS = ClassicRequest.model_fields.keys() - {"model"}  # OpenAI's clients always send a model, older ones never did
OPENAI_HEADER = "x-stainless-"  # headers of OpenAI's own clients begin so


def routes(state: ServerState) -> APIRouter:
    router = APIRouter()
    classic = Dialect(ClassicRequest, plan_classic_chat, accept_streams=True)
    add_route(router, "/chat", "Earlier versions", "Answer a conversation", state, classic)
    as_classic, as_openai = handler(state, classic), handler(state, Dialect(ChatRequest, plan_chat))

    @router.post(
        "/chat/completions", tags=["Earlier versions"], summary="Answer a conversation, or /v1/chat/completions",
        **describes(ClassicRequest),
    )  # fmt: skip
    async def chat_completions(http: HttpRequest) -> Response:
        return await (as_openai if is_openais(http.headers, await http.body()) else as_classic)(http)

    generate = Dialect(GenerateRequest, plan_generate)
    add_route(router, "/generate", "Earlier versions", "Continue a text", state, generate)
    return router


def is_openais(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a chat request is of OpenAI's API rather than of earlier versions.

    Those sent only `messages` of user and assistant with text, temperature, top_k, max_tokens and stream.
    """
    if any(name.startswith(OPENAI_HEADER) for name in headers):
        return True
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(content, dict):
        return False
    sent, messages = {name for name, value in content.items() if value is not None}, content.get("messages")
    return not sent <= FIELDS or (isinstance(messages, list) and not all(map(_is_classic, messages)))


def _is_classic(message: object) -> bool:
    if not isinstance(message, dict):
        return True
    known = message.keys() <= ClassicMessage.model_fields.keys() and message.get("role") in ("user", "assistant")
    return known and isinstance(message.get("content"), str | None)


async def plan_classic_chat(state: ServerState, body: ClassicRequest) -> Plan:
    characters = sum(len(message.content) for message in body.messages)
    if characters > MAX_CHARACTERS:
        raise bad_request(f"the messages have {characters} characters; the limit is {MAX_CHARACTERS}", "messages")
    model = state.pick(body.model)
    ids = await chat_ids(state, model, [Message.model_validate(message.model_dump()) for message in body.messages])
    sampling = Sampling.model_construct(max_tokens=body.max_tokens, temperature=body.temperature, top_k=body.top_k)
    request = engine_request(state, model, sampling, ids, "messages", tools=model.tools)
    writer = ClassicWriter(model)
    choices = [model.reply_text((), prefilled=body.messages[-1].role == "assistant")]
    return Plan(model, [request], choices, writer.whole, writer if body.stream else None)


async def plan_generate(state: ServerState, body: GenerateRequest) -> Plan:
    model = state.pick(body.model)
    state.log("generate", model, body.prompt)
    ids = await encoded("prompt", len(body.prompt), chat.text_prompt, model.tokenizer, body.prompt)
    dropped = max(0, len(ids) - model.context)
    # As in nanoGPT a reply may outgrow the context, and of a prompt that does the last tokens count.
    settings = state.settings
    sampling = Sampling.model_construct(
        max_tokens=settings.generate_max_tokens if body.max_tokens is None else body.max_tokens,
        top_k=settings.generate_top_k if body.top_k is None else body.top_k,
        temperature=body.temperature, seed=body.seed,
    )  # fmt: skip
    request = engine_request(state, model, sampling, ids[dropped:], "prompt", rolls=True)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop
    choices = [ReplyText(model.tokenizer, stops, parts=False, lstrip=True) for _ in range(body.num_samples)]
    headers = {DROPPED: str(dropped)} if dropped else {}
    writer = GenerateWriter() if body.stream else None
    requests = request.samples(body.num_samples)
    return Plan(model, requests, choices, _texts, writer, body.num_samples, headers)


def _texts(generation: Generation) -> dict:
    texts = [choice.text.strip() for choice in generation.choices]
    return {"text": texts[0]} if len(texts) == 1 else {"text": texts[0], "texts": texts}

