"""/openapi.json and the page that shows it, which needs nothing from elsewhere."""

from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nanochat.web.schemas import BODIES, ErrorReply

TITLE = "nanochat"
ABOUT = """An OpenAI-compatible server for models that nanochat has trained. Point any OpenAI client at /v1.
Errors are {"error": {"message", "type", "param", "code"}}."""
REFUSALS = {
    400: "the request is wrong", 401: "the API key is missing or wrong", 404: "there is no such thing",
    413: "the body is too large", 429: "the queue is full", 500: "the engine failed", 503: "the server is ending",
}  # fmt: skip

STYLE = """:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; } main { max-width: 56rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; font-size: 1.1rem; } code, pre { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid #8884; border-radius: 8px; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 0.3rem 0.8rem 0.3rem 0; }
th, td { border-bottom: 1px solid #8884; vertical-align: top; }
"""


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """What a route says of itself: the body it reads and the ways it refuses."""
    reference = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}},
        "responses": errors(400, 401, 404, 413, 429, 500, 503),
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, "description": REFUSALS[status]} for status in statuses}


def describe(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=TITLE, version="1", description=ABOUT, routes=app.routes)
        _, definitions = models_json_schema(
            [(body, "validation") for body in BODIES], ref_template="#/components/schemas/{model}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        if "securitySchemes" not in document["components"]:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own; here everything wrong is a 400
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def page(document: dict[str, Any]) -> str:
    """The OpenAPI document as a page to read."""
    schemas = document["components"]["schemas"]
    sections = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            sections.append(_operation(f"{method.upper()} {path}", operation, schemas))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}: API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/docs.css"></head>'
        f"<body><main><h1>{TITLE}: API</h1><p>{escape(ABOUT)}</p>"
        '<p>The same for programs: <a href="/openapi.json">openapi.json</a>. Example:</p>'
        "<pre>curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        '  -d \'{"messages": [{"role": "user", "content": "Hello!"}], "stream": true}\'</pre>'
        f"{''.join(sections)}</main></body></html>"
    )


def _operation(name: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    said = f"<section><h2><code>{escape(name)}</code></h2><p>{escape(operation.get('summary', ''))}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schema = schemas.get(body.get("$ref", "").rpartition("/")[2])
    if schema:
        said += f"<p>{escape(schema.get('description', ''))}</p><table><tr><th>field</th><th>type</th><th></th></tr>"
        for field, about in schema.get("properties", {}).items():
            needed = " (required)" if field in schema.get("required", ()) else ""
            said += (
                f"<tr><td><code>{escape(field)}</code>{needed}</td><td>{escape(_type(about))}</td>"
                f"<td>{escape(about.get('description', ''))}</td></tr>"
            )
        said += "</table>"
    return said + "</section>"


def _type(about: dict[str, Any]) -> str:
    branches = [_type(branch) for branch in about.get("anyOf", ()) if branch.get("type") != "null"]
    if branches:
        return " or ".join(dict.fromkeys(branches))
    limits = [
        f"{sign} {about[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in about
    ]
    kind = about.get("type") or about.get("$ref", "anything").rpartition("/")[2]
    if kind == "array":
        kind = f"list of {_type(about.get('items', {}))}"
    return " ".join([kind, *limits])
