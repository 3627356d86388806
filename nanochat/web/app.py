"""The FastAPI app: routes, middleware, the page's files, and the shape of errors."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from nanochat.web import documentation, older, openai
from nanochat.web.errors import ApiError, json_response
from nanochat.web.limits import Gate
from nanochat.web.state import ServerState

STATIC = Path(__file__).parent / "static"


class Files(StaticFiles):
    """The page's files. Browsers revalidate them every time, so that all are of one version."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def build_app(state: ServerState) -> FastAPI:
    """The app; its Engines run as long as it does."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        await state.stop()

    app = FastAPI(title=documentation.TITLE, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.openapi = lambda: documentation.describe(app)  # type: ignore[method-assign]
    app.include_router(openai.routes(state))
    app.include_router(older.routes(state))
    _state_routes(app, state)
    _page_routes(app, state)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(Gate, state=state)
    if state.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=state.settings.cors_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["X-Stream-Id", "Retry-After", older.DROPPED],
        )  # fmt: skip
    return app


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
            return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache", "Vary": "Accept"})
        model = state.default
        summary = {"status": "ok", "model": model.id, "device": model.device, "dtype": model.dtype}
        return json_response(summary, headers={"Vary": "Accept"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(documentation.page(app.openapi()))

    @app.get("/logo.svg", include_in_schema=False)
    async def logo() -> Response:
        return FileResponse(STATIC / "logo.svg")

    app.mount("/static", Files(directory=STATIC))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, in the same envelope."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    known = {
        404: ("not_found", f"there is nothing at {path}"),
        405: ("method_not_allowed", f"{path} does not accept {method}"),
    }
    code, message = known.get(error.status_code, (None, str(error.detail)))
    return ApiError(error.status_code, message, code, headers=error.headers).response()


async def _bug(request: Request, error: Exception) -> Response:
    return ApiError(500, "internal server error; see the server's log", "internal_error").response()
