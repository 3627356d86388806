"""The chat as a part of a server: its page, OpenAI's API and the older ones."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from nanochat.web import inside, older, openai, record, responses, shell
from nanochat.web.bodies.items import ResponsesRequest
from nanochat.web.bodies.schemas import BODIES
from nanochat.web.errors import json_response
from nanochat.web.pages import page
from nanochat.web.shell import STATIC, Part
from nanochat.web.state import ServerState


def build_app(state: ServerState, parts: Sequence[Part] = ()) -> ASGIApp:
    """The app of a server with the chat and further parts; its Engines run as long as it does."""
    return shell.build(state, [chat_part(state), *parts])


def chat_part(state: ServerState) -> Part:
    """The page to chat with and the APIs."""

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        state.start()
        yield
        await state.stop()

    router = APIRouter()
    for routes in (openai.routes, responses.routes, inside.routes, record.routes, older.routes, _state_routes):
        router.include_router(routes(state))
    return Part(
        router,
        links=[(".", "Chat")],
        bodies=[*BODIES, ResponsesRequest],
        readable=["X-Stream-Id", older.DROPPED],
        running=running,
    )


def _state_routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.get("/", tags=["Server"], summary="The page for browsers, JSON for programs", response_class=Response)
    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return page((STATIC / "index.html").read_text(encoding="utf-8"), request, ".")
        model = state.default
        summary = {"status": "ok", "model": model.id, "device": model.device, "dtype": model.dtype}
        return json_response(summary, headers={"Vary": "Accept"})

    @router.get("/stats", tags=["Server"], summary="What the engines are doing")
    async def stats() -> Response:
        return json_response(state.stats())

    return router
