"""The FastAPI app: routes, middleware, the page's files, and how errors look."""

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
from nanochat.web.service import Service

STATIC = Path(__file__).parent / "static"


class Files(StaticFiles):
    """The page's files. Browsers ask every time whether they have changed, so that none is older than the others."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def build_app(service: Service) -> FastAPI:
    """The app of a service, whose Engines run as long as the app does."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(title=documentation.TITLE, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.openapi = lambda: documentation.describe(app)  # type: ignore[method-assign]
    app.include_router(openai.routes(service))
    app.include_router(older.routes(service))
    _state_routes(app, service)
    _page_routes(app, service)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(Gate, service=service)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.settings.cors_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["X-Stream-Id", "Retry-After"],
        )  # fmt: skip
    return app


def _state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["Server"], summary="Whether the server takes work")
    async def health() -> Response:
        ready = not service.draining and all(model.pool.healthy for model in service.models.values())
        workers = [worker for model in service.models.values() for worker in model.pool.workers]
        state = {
            "status": "ok" if ready else "draining" if service.draining else "failed",
            "ready": ready,
            "models": list(service.models),
            "num_gpus": len(service.default.pool.workers),
            "available_workers": sum(worker.free > 0 for worker in workers),
        }
        return json_response(state, 200 if ready else 503)

    @app.get("/stats", tags=["Server"], summary="What the engines are doing")
    async def stats() -> Response:
        return json_response(service.stats())

    @app.get("/metrics", tags=["Server"], summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _page_routes(app: FastAPI, service: Service) -> None:
    @app.get("/", tags=["Server"], summary="The page for browsers, JSON for programs", response_class=Response)
    async def root(request: Request) -> Response:
        page = STATIC / "index.html"
        if "text/html" in request.headers.get("accept", "") and page.exists():
            return FileResponse(page, headers={"Cache-Control": "no-cache", "Vary": "Accept"})
        model = service.default
        state = {"status": "ok", "model": model.id, "device": model.device, "dtype": model.dtype}
        return json_response(state, headers={"Vary": "Accept"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(documentation.page(app.openapi()))

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return Response(documentation.STYLE, media_type="text/css")

    for name in ("logo.svg", "favicon.ico"):
        app.add_api_route(f"/{name}", _file(name), include_in_schema=False)
    app.mount("/static", Files(directory=STATIC, check_dir=False))


def _file(name: str):
    async def send() -> Response:
        path = STATIC / name
        if not path.exists():
            raise ApiError(404, f"there is no {name}", "not_found")
        return FileResponse(path)

    return send


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    said = {404: f"there is nothing at {path}", 405: f"{path} does not take {request.method}"}
    codes = {404: "not_found", 405: "method_not_allowed"}
    message = said.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, codes.get(error.status_code), headers=error.headers).response()


async def _bug(request: Request, error: Exception) -> Response:
    return ApiError(500, "something broke in the server; its log says what", "internal_error").response()
