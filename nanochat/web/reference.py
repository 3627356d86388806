"""/docs: the API as a page, with programs to copy and forms to try it. It loads nothing from other servers."""

import functools
import re
from html import escape
from pathlib import Path
from typing import Any

from nanochat.web import typeset
from nanochat.web.documentation import ERRORS
from nanochat.web.examples import (
    EXAMPLES,
    KEY,
    LANGUAGES,
    MODEL,
    Example,
    for_model,
    programs,
    shown_reply,
    shown_request,
)

TEMPLATE = Path(__file__).parent / "static" / "docs.html"
WITH_KEY = "This server requires a key: ask whoever runs it, and put it where the examples have <code>YOUR_KEY</code>."
WITHOUT_KEY = "This server asks for no key; started with <code>--api_key</code>, it would."
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page(document: dict[str, Any], url: str, model: str = MODEL, key: bool = False) -> str:
    """The OpenAPI document as HTML, for a server at `url`; model: for the examples; key: whether it requires one."""
    shown = [for_model(example, model) for example in EXAMPLES if example.path in document["paths"]]
    said = KEY if key else ""
    routes = [
        (f"{method.upper()} {path}", path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    groups = dict.fromkeys(operation.get("tags", ["Other"])[0] for _, _, operation in routes)
    by_group = {group: [each for each in routes if each[2].get("tags", ["Other"])[0] == group] for group in groups}
    first = [example for example in shown if example.about]
    schemas = document["components"]["schemas"]
    fields = {
        "url": escape(url), "keys": WITH_KEY if key else WITHOUT_KEY,
        "examples": "".join(_example(example, url, said, "h3") for example in first),
        "errors": "".join(f"<tr><td>{status}</td><td>{escape(what)}</td></tr>" for status, what in ERRORS.items()),
        "contents": _contents(first, by_group),
        "routes": "".join(
            f"<h2>{escape(group)}</h2>" + "".join(_section(*route, schemas, shown, url, said) for route in its)
            for group, its in by_group.items()
        ),
    }  # fmt: skip
    html = TEMPLATE.read_text(encoding="utf-8")
    if "/v1/models" not in document["paths"]:
        html = re.sub(r"<!-- with models -->.*?<!-- end -->", "", html, flags=re.DOTALL)
    return re.sub(r"<!-- (\w+) -->", lambda found: fields.get(found[1], found[0]), html)


def _contents(first: list[Example], by_group: dict[str, list]) -> str:
    """The navigation: a list below a heading for each part of the page."""
    parts: dict[str, list[tuple[str, str]]] = {}
    parts["Start"] = [("address", "Address"), ("keys", "Keys"), ("statuses", "Statuses")]
    if first:
        parts["Examples"] = [(_id(example.title), example.title) for example in first]
    for group, routes in by_group.items():
        parts[escape(group)] = [(_id(name), f"<code>{escape(name)}</code>") for name, *_ in routes]
    html = ""
    for name, links in parts.items():
        items = "".join(f'<li class="entry"><a href="#{id}">{text}</a></li>' for id, text in links)
        html += f"<h2>{name}</h2><ul>{items}</ul>"
    return html


def _id(name: str) -> str:
    """The id of a part of the page: "post-v1-chat-completions"."""
    return "-".join(re.findall(r"\w+", name.lower()))


def _example(example: Example, url: str, key: str, heading: str) -> str:
    """Programs, the reply and a form to try it."""
    method = "GET" if example.request is None else "POST"
    html = f'<section id="{_id(example.title)}"><{heading}>{escape(example.title)}</{heading}>'
    html += f"<p><code>{method} {example.path}</code> {escape(example.about)}</p>"
    for name, program in programs(example, url, key).items():
        html += f'<div class="program" data-language="{name}">{_code(program, LANGUAGES[name], name)}</div>'
    status = "" if example.status == 200 else f" with status {example.status}"
    html += f"<p>Reply{status}, cut to what most clients read:</p>"
    html += _code(shown_reply(example), "text" if example.streams else "json", "reply")
    return html + _form(example, method) + "</section>"


def _code(text: str, language: str, name: str) -> str:
    label = escape(name)
    return (
        f'<div class="code"><div class="code-head"><span>{label}</span></div>'
        f'<pre tabindex="0" role="group" aria-label="{label}"><code>{_coloured(text, language)}</code></pre></div>'
    )


@functools.lru_cache(maxsize=512)
def _coloured(text: str, language: str) -> str:
    runs = typeset.code(text, language) or [["", text]]
    return "".join(f'<span class="hl-{kind}">{escape(run)}</span>' if kind else escape(run) for kind, run in runs)


def _form(example: Example, method: str) -> str:
    field = ""
    if example.request is not None:
        body = shown_request(example)
        rows = min(body.count("\n") + 1, 16)
        field = f'<label>Body<textarea name="body" rows="{rows}" spellcheck="false">{escape(body)}</textarea></label>'
    return (
        f'<details class="try"><summary>Try it</summary><form data-method="{method}" data-path="{example.path[1:]}">'
        f'{field}<p><button type="submit" class="button primary">Send</button> <span role="status"></span></p>'
        f'<pre tabindex="0" role="group" aria-label="What came back" hidden></pre></form></details>'
    )


def _section(
    name: str, path: str, operation: dict[str, Any], schemas: dict[str, Any], shown: list[Example], url: str, key: str
) -> str:  # fmt: skip
    """A route: what it does, its examples and its fields."""
    its = [example for example in shown if example.path == path]
    above = [f'<a href="#{_id(example.title)}">{escape(example.title)}</a>' for example in its if example.about]
    html = f'<section id="{_id(name)}"><h3><code>{escape(name)}</code></h3><p>{escape(operation["summary"])}'
    html += f". Examples: {', '.join(above)}</p>" if above else "</p>"
    html += "".join(_example(example, url, key, "h4") for example in its if not example.about)
    if "requestBody" in operation:
        schema = schemas[operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        html += f"<p>{escape(schema['description'])}</p>{_fields(schema)}"
    return html + "</section>"


def _fields(schema: dict[str, Any]) -> str:
    rows = ""
    for field, value in schema["properties"].items():
        required = " (required)" if field in schema.get("required", ()) else ""
        rows += f"<tr><td><code>{field}</code>{required}</td><td>{escape(_type(value))}</td>"
        rows += f"<td>{escape(value.get('description', ''))}</td></tr>"
    count = len(schema["properties"])
    return (
        f"<details><summary>{count} field{'s' if count > 1 else ''}</summary>"
        '<div class="fields" tabindex="0" role="group" aria-label="Fields"><table><thead><tr>'
        '<th scope="col">field</th><th scope="col">type</th><th scope="col">meaning</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _type(value: dict[str, Any]) -> str:
    branches = [_type(branch) for branch in value.get("anyOf", ()) if branch.get("type") != "null"]
    if branches:
        return " or ".join(dict.fromkeys(branches))
    kind = value.get("type") or value.get("$ref", "anything").rpartition("/")[2]
    if kind == "array":
        kind = f"list of {_type(value.get('items', {}))}"
    return " ".join([kind, *(f"{sign} {value[key]}" for key, sign in LIMITS.items() if key in value)])
