"""/openapi.json and a page that shows it. The page loads nothing from other servers."""

import json
import re
import shlex
from html import escape
from pathlib import Path
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

TEMPLATE = Path(__file__).parent / "static" / "docs.html"
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


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
    if path in EXAMPLES:
        request, reply = EXAMPLES[path]
        if request is not None:
            operation["requestBody"]["content"]["application/json"]["example"] = request
        operation["responses"]["200"]["content"]["application/json"]["example"] = reply


def page(document: dict[str, Any], url: str) -> str:
    """The OpenAPI document as HTML, for a server at `url`."""
    schemas = document["components"]["schemas"]
    routes = [
        (f"{method.upper()} {path}", operation, _example(path, url))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    sections = [_section(name, operation, schemas, example) for name, operation, example in routes]
    contents = [f'<li class="entry"><a href="#{_id(name)}"><code>{escape(name)}</code></a></li>' for name, *_ in routes]
    html = TEMPLATE.read_text(encoding="utf-8").replace("{url}", escape(url))
    if "/v1/models" not in document["paths"]:
        html = re.sub(r"<!-- with models -->.*?<!-- end -->", "", html, flags=re.DOTALL)
    return html.replace("<!-- contents -->", "\n".join(contents)).replace("<!-- routes -->", "\n".join(sections))


def _id(name: str) -> str:
    """The id of a route's section: "post-v1-chat-completions"."""
    return "-".join(re.findall(r"\w+", name.lower()))


def _example(path: str, url: str) -> str:
    """A request as it is typed, and the reply, in HTML; "" where there is no example."""
    if path not in EXAMPLES:
        return ""
    request, reply = EXAMPLES[path]
    sent = f" -H 'Content-Type: application/json' \\\n  -d {shlex.quote(json.dumps(request))}"
    body = "" if request is None else sent
    return f"<pre>{escape(f'curl {url}{path}{body}')}</pre><pre>{escape(json.dumps(reply, indent=2))}</pre>"


def _section(name: str, operation: dict[str, Any], schemas: dict[str, Any], example: str) -> str:
    html = f'<section id="{_id(name)}">'
    html += f"<h2><code>{escape(name)}</code></h2><p>{escape(operation['summary'])}</p>{example}"
    if "requestBody" in operation:
        schema = schemas[operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        html += f"<p>{escape(schema['description'])}</p><table><tr><th>field</th><th>type</th><th></th></tr>"
        for field, value in schema["properties"].items():
            required = " (required)" if field in schema.get("required", ()) else ""
            html += f"<tr><td><code>{field}</code>{required}</td><td>{escape(_type(value))}</td>"
            html += f"<td>{escape(value.get('description', ''))}</td></tr>"
        html += "</table>"
    return html + "</section>"


def _type(value: dict[str, Any]) -> str:
    branches = [_type(branch) for branch in value.get("anyOf", ()) if branch.get("type") != "null"]
    if branches:
        return " or ".join(dict.fromkeys(branches))
    kind = value.get("type") or value.get("$ref", "anything").rpartition("/")[2]
    if kind == "array":
        kind = f"list of {_type(value.get('items', {}))}"
    return " ".join([kind, *(f"{sign} {value[key]}" for key, sign in LIMITS.items() if key in value)])
