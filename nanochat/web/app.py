"""The FastAPI app: routes, middleware, the page's files, and the shape of errors."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from nanochat.web import documentation, inside, older, openai, responses
from nanochat.web.errors import ApiError, json_response
from nanochat.web.http.front import Front, place
from nanochat.web.http.limits import Cors, Gate
from nanochat.web.http.origins import Origins
from nanochat.web.state import ServerState

STATIC = Path(__file__).parent / "static"


def _page(html: str, request: Request) -> Response:
    """A page whose links are right wherever the client sees it."""
    html = html.replace("{base}", place(request).base)
    return HTMLResponse(html, headers={"Cache-Control": "no-cache", "Vary": "Accept"})


class Files(StaticFiles):
    """The page's files. Browsers revalidate them every time, so that all are of one version."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def build_app(state: ServerState) -> ASGIApp:
    """The app; its Engines run as long as it does."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        await state.stop()

    app = FastAPI(
        title=documentation.TITLE, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.include_router(openai.routes(state))
    app.include_router(responses.routes(state))
    app.include_router(inside.routes(state))
    app.include_router(older.routes(state))
    _state_routes(app, state)
    _page_routes(app, state)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
    gate = Gate(app, state)  # around the whole app, its handler of bugs included
    readable = ["X-Stream-Id", "X-Request-Id", "Retry-After", older.DROPPED]
    return Front(Cors(gate, Origins(state.settings.cors_origins), readable), state.settings.root_path)


def _state_routes(app: FastAPI, state: ServerState) -> None:
    @app.get("/health", tags=["Server"], summary="Whether the server accepts requests")
    async def health() -> Response:
        report = state.health()
        return json_response(report, 200 if report["ready"] else 503)

    @app.get("/stats", tags=["Server"], summary="What the engines are doing")
    async def stats() -> Response:
        return json_response(state.stats())

    @app.get("/metrics", tags=["Server"], summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _page_routes(app: FastAPI, state: ServerState) -> None:
    @app.get("/", tags=["Server"], summary="The page for browsers, JSON for programs", response_class=Response)
    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return _page((STATIC / "index.html").read_text(encoding="utf-8"), request)
        model = state.default
        summary = {"status": "ok", "model": model.id, "device": model.device, "dtype": model.dtype}
        return json_response(summary, headers={"Vary": "Accept"})

    @app.get("/docs", include_in_schema=False)
    @app.get("/api", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return _page(documentation.page(documentation.describe(app), place(request).url), request)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return json_response({**documentation.describe(app), "servers": [{"url": place(request).url}]})

    @app.get("/logo.svg", include_in_schema=False)
    async def logo() -> Response:
        return FileResponse(STATIC / "logo.svg")

    app.mount("/static", Files(directory=STATIC))


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
        routes = [route for route in request.app.routes if route.matches(scope)[0] is Match.FULL]
        if method == "GET" or any(not isinstance(route, Mount) for route in routes):
            found += [method] if routes else []
    return [*found, *(["HEAD"] if "GET" in found else []), "OPTIONS"]


async def _gone(request: Request, error: Exception) -> Response:
    """The client left before it had sent everything. Nobody reads this; the metrics count it."""
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal server error; see the server's log", "internal_error").response()
