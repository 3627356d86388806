"""The shell of a server: what is around its routes. That is middleware, errors, documentation and the pages' files.

A server is made of parts: the chat is one (`app`), and a script may add others. Nothing here imports torch.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from nanochat.web import documentation, reference
from nanochat.web.errors import ApiError, json_response
from nanochat.web.files import ASSETS, Files
from nanochat.web.http.front import Front, place
from nanochat.web.http.limits import Cors, Gate, asks_for_html
from nanochat.web.http.origins import Origins
from nanochat.web.pages import page
from nanochat.web.service import Service
from nanochat.web.typesetter import TypesetRequest, Typesetter

STATIC = Path(__file__).parent / "static"
API = ("docs", "API")  # the last link of the navigation
# Served without a key. A container's health check asks /health.
OPEN = ("/", "/health", "/docs", "/api", "/openapi.json", "/logo.svg", "/favicon.ico")
READABLE = ("X-Request-Id", "Retry-After")  # headers of responses that other sites' scripts may read


@dataclass(frozen=True)
class Part:
    """What a server can do: its routes, its pages and their files, which need no key, and its links to them."""

    router: APIRouter
    pages: Mapping[str, Callable[[Request], Response]] = field(default_factory=dict)
    """path -> what answers a GET"""
    files: Mapping[str, Path] = field(default_factory=dict)
    """path -> the folder that is served there"""
    links: Sequence[tuple[str, str]] = ()
    """path and name of each page, for the navigation"""
    limits: Mapping[str, int] = field(default_factory=dict)
    """path -> bytes of a body, where max_body is not the limit"""
    bodies: Sequence[type[BaseModel]] = ()
    """what its routes read, for the documentation"""
    readable: Sequence[str] = ()
    """more headers of its responses that other sites' scripts may read"""
    running: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
    """entered when the server starts, left when it ends"""


def build(service: Service, parts: Sequence[Part]) -> ASGIApp:
    """The app of a server with these parts."""
    typesetter = Typesetter()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(typesetter.end)
            for part in parts:
                await stack.enter_async_context(part.running())
            yield

    app = FastAPI(
        title=documentation.TITLE, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.pages = (*(link for part in parts for link in part.links), API)
    app.state.bodies = (TypesetRequest, *(body for part in parts for body in part.bodies))
    files = {"/static": STATIC}
    pages = {path: answer for part in parts for path, answer in part.pages.items()}
    for path, answer in pages.items():  # before the API, which has a /models as well
        app.router.routes.append(PageRoute(path, _shows(answer), methods=["GET"]))
    for part in parts:
        app.include_router(part.router)
        files |= part.files
    app.include_router(typesetter.routes())
    _own_routes(app, service)
    for path, answer in pages.items():
        app.add_api_route(path, _shows(answer), methods=["GET"], include_in_schema=False)
    app.state.files = Files(files)
    for path in files:
        app.router.routes.append(Route(f"{path}/{{name:path}}", _file(path)))
        app.router.routes.append(Route(f"{ASSETS}/{{version}}{path}/{{name:path}}", _file(path)))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
    limits = {path: limit for part in parts for path, limit in part.limits.items()}
    # The gate is around the whole app, its handler of bugs included.
    gate = Gate(app, service, OPEN, pages, [f"{path}/" for path in (ASSETS, *files)], limits)
    readable = [*READABLE, *(header for part in parts for header in part.readable)]
    return Front(Cors(gate, Origins(service.settings.cors_origins), readable), service.settings.root_path)


class PageRoute(Route):
    """A page for browsers, which ask for HTML; a program may get something else at its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_browser = scope["type"] == "http" and asks_for_html(dict(scope["headers"]))
        return super().matches(scope) if is_browser else (Match.NONE, {})


def _shows(answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        return answer(request)

    return show


def _file(folder: str) -> Callable[[Request], Awaitable[Response]]:
    async def file(request: Request) -> Response:
        found = request.path_params
        return request.app.state.files.get(request, f"{folder}/{found['name']}", found.get("version", ""))

    return file


def _own_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["Server"], summary="Whether the server accepts requests")
    async def health() -> Response:
        report = service.health()
        return json_response(report, 200 if report["ready"] else 503)

    @app.get("/metrics", tags=["Server"], summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    @app.get("/api", include_in_schema=False)
    async def docs(request: Request) -> Response:
        key = service.settings.api_key is not None
        html = reference.page(documentation.describe(app), place(request).url, service.example_model, key)
        return page(html, request, "docs")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return json_response({**documentation.describe(app), "servers": [{"url": place(request).url}]})

    @app.get("/logo.svg", include_in_schema=False)
    async def logo() -> Response:
        return FileResponse(STATIC / "logo.svg")


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, in the same envelope. OPTIONS has no route of its own, but an answer."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    if error.status_code == 404:
        message = f"there is nothing at {path}"
        return ApiError(404, message, "not_found", headers=error.headers).response()
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_methods(request))}
        if method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        return ApiError(405, f"{path} does not accept {method}", "method_not_allowed", headers=headers).response()
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response()


def _methods(request: Request) -> list[str]:
    """What may be done with the path of a request."""
    found = []
    for method in ("GET", "POST", "DELETE"):
        scope = {**request.scope, "method": method, "root_path": ""}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            found.append(method)
    return [*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"]


async def _gone(request: Request, error: Exception) -> Response:
    """The client left before it had sent everything. Nobody reads this; the metrics count it."""
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal server error; see the server's log", "internal_error").response()
