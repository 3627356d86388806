"""/openapi.json: what a client may send to each route, and what it gets; `reference` shows it as a page."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nanochat.web.bodies.schemas import ErrorReply
from nanochat.web.examples import EXAMPLES

TITLE = "nanochat"
ABOUT = """An OpenAI-compatible server for models trained with nanochat. Point any OpenAI client at /v1.
Errors are {"error": {"message", "type", "param", "code"}}."""
ERRORS = {
    400: "invalid request", 401: "missing or wrong API key", 404: "not found", 413: "request body too large",
    429: "queue full", 500: "engine failure", 503: "server shutting down",
}  # fmt: skip


def describes(body: type[BaseModel]) -> dict[str, Any]:
    """Arguments for a route: the body it reads and the errors it may return."""
    reference = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}},
        "responses": errors(*ERRORS),
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, "description": ERRORS[status]} for status in statuses}


def describe(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=TITLE, version="1", description=ABOUT, routes=app.routes)
        _, definitions = models_json_schema(
            [(body, "validation") for body in app.state.bodies], ref_template="#/components/schemas/{model}"
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(definitions.get("$defs", {}))
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # FastAPI's own; here every invalid request gets a 400
                _add_example(path, operation)
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def _add_example(path: str, operation: dict[str, Any]) -> None:
    example = next((each for each in EXAMPLES if each.path == path), None)
    if example is not None:
        if example.request is not None:
            operation["requestBody"]["content"]["application/json"]["example"] = example.request
        operation["responses"]["200"]["content"]["application/json"]["example"] = example.reply
