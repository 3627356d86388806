"""The older routes: the chat of earlier versions, and /generate as nanoGPT's servers have it."""

from dataclasses import replace

from fastapi import APIRouter

from nanochat import chat
from nanochat.engine.text import ReplyText
from nanochat.web.errors import bad_request
from nanochat.web.replies import Dialect, Plan, add_route, chat_ids, encoded, engine_request
from nanochat.web.schemas import ClassicRequest, GenerateRequest, Message, Sampling
from nanochat.web.state import ServerState
from nanochat.web.writers import ClassicWriter

MAX_CHARACTERS = 32_000  # of all messages together


def routes(state: ServerState) -> APIRouter:
    router = APIRouter()
    classic = Dialect(ClassicRequest, plan_classic_chat, accept_streams=True)
    for path in ("/chat/completions", "/chat"):
        add_route(router, path, "Earlier versions", "Answer a conversation", state, classic)
    generate = Dialect(GenerateRequest, plan_generate)
    add_route(router, "/generate", "Earlier versions", "Continue a text", state, generate)
    return router


async def plan_classic_chat(state: ServerState, body: ClassicRequest) -> Plan:
    characters = sum(len(message.content) for message in body.messages)
    if characters > MAX_CHARACTERS:
        raise bad_request(f"the messages have {characters} characters; the limit is {MAX_CHARACTERS}", "messages")
    model = state.pick(body.model)
    ids = await chat_ids(state, model, [Message.model_validate(message.model_dump()) for message in body.messages])
    request = engine_request(state, model, _sampling(body), ids, "messages", tools=model.tools)
    writer = ClassicWriter(model)
    return Plan(model, [request], [ReplyText(model.tokenizer)], writer.whole, writer if body.stream else None)


async def plan_generate(state: ServerState, body: GenerateRequest) -> Plan:
    model = state.pick(body.model)
    state.log("generate", model, body.prompt)
    ids = await encoded("prompt", len(body.prompt), chat.text_prompt, model.tokenizer, body.prompt)
    # As in nanoGPT a reply may outgrow the context. A prompt that does is refused, rather than silently cut.
    request = replace(engine_request(state, model, _sampling(body), ids, "prompt"), rolls=True)
    choice = ReplyText(model.tokenizer, parts=False)
    return Plan(model, [request], [choice], lambda _: {"text": choice.text.strip()})


def _sampling(body: ClassicRequest | GenerateRequest) -> Sampling:
    return Sampling.model_construct(max_tokens=body.max_tokens, temperature=body.temperature, top_k=body.top_k)
