"""The older ways to ask: the chat of earlier versions, and /generate as wrappers of nanoGPT have it."""

import secrets
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat import chat
from nanochat.engine.text import ReplyText
from nanochat.web import messages
from nanochat.web.documentation import takes
from nanochat.web.errors import bad_request
from nanochat.web.generation import Generation
from nanochat.web.limits import read_json
from nanochat.web.openai import answer, chat_turns, encoded, engine_request, stream_of
from nanochat.web.schemas import ClassicRequest, GenerateRequest, Sampling, validated
from nanochat.web.service import Service
from nanochat.web.sse import Stream
from nanochat.web.writers import ClassicWriter, Head, chat_object

MAX_CHARACTERS = 32_000  # of all messages together
GENERATE = {"max_tokens": 256, "temperature": 0.8, "top_k": 200}


def routes(service: Service) -> APIRouter:
    router = APIRouter()

    async def classic(http: HttpRequest) -> Response:
        body: ClassicRequest = validated(ClassicRequest, await read_json(http))
        _check(body)
        model = service.pick(body.model)
        turns = chat_turns(model, [message.model_dump() for message in body.messages])
        service.note("chat", model, turns)
        ids = await encoded("messages", messages.characters(turns), messages.prompt, model.tokenizer, turns)
        sampling = Sampling.model_construct(temperature=body.temperature, top_k=body.top_k)
        request = engine_request(service, model, sampling, ids, body.max_tokens, "messages", tools=model.tools)
        generation = Generation(model.pool, [request], [ReplyText(model.tokenizer)])
        if not body.stream and "text/event-stream" not in http.headers.get("accept", ""):
            head = Head(model, "chat.completion", "chatcmpl-" + secrets.token_hex(12))
            return answer(service, model, generation, lambda: chat_object(generation, model, head))
        stream = Stream(generation.cancel)
        generation.writer = ClassicWriter(stream)
        return stream_of(service, model, generation, stream)

    for path in ("/chat/completions", "/chat"):
        router.post(path, tags=["Earlier versions"], summary="Answer a conversation", **takes(ClassicRequest))(classic)

    @router.post("/generate", tags=["Earlier versions"], summary="Continue a text", **takes(GenerateRequest))
    async def generate(http: HttpRequest) -> Response:
        given = {name: value for name, value in (await read_json(http)).items() if value is not None}
        body: GenerateRequest = validated(GenerateRequest, {**GENERATE, **given})
        model = service.pick(body.model)
        service.note("generate", model, body.prompt)
        ids = await encoded("prompt", len(body.prompt), chat.text_prompt, model.tokenizer, body.prompt)
        sampling = Sampling.model_construct(temperature=body.temperature, top_k=body.top_k)
        # A reply may outgrow the context, as nanoGPT's do; a prompt that does is refused, not cut behind one's back.
        request = replace(engine_request(service, model, sampling, ids, body.max_tokens, "prompt"), rolls=True)
        generation = Generation(model.pool, [request], [ReplyText(model.tokenizer, parts=False)])

        def build() -> Any:
            return {"text": generation.choices[0].text.strip()}

        return answer(service, model, generation, build)

    return router


def _check(body: ClassicRequest) -> None:
    for number, message in enumerate(body.messages):
        if message.role not in ("user", "assistant"):
            said = f"messages[{number}].role is {message.role[:40]!r}; expected user or assistant"
            raise bad_request(said, "messages")
    characters = sum(len(message.content) for message in body.messages)
    if characters > MAX_CHARACTERS:
        raise bad_request(f"the messages have {characters} characters; at most {MAX_CHARACTERS} are taken", "messages")
