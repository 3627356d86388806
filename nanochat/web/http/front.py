"""The outermost layer: every request gets an id, and a path and a method that all below can take literally.

`/v1//models/` is `/v1/models`, without a redirect: behind a proxy that speaks HTTPS, the server would name the wrong
address. The path at which a proxy shows the server is taken away. HEAD is answered as GET is, without the body.
"""

import re
import secrets
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.web.http.flags import PREFIX

REQUEST_ID = "x-request-id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SANE_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", re.ASCII)


class Place(NamedTuple):
    """Where a client sees the server, as far as its request and the proxies' headers tell."""

    url: str
    """the address, without a slash at its end"""
    base: str
    """what a page puts before the paths of its files: "" or something that ends with a slash"""


class Front:
    """ASGI middleware; see above."""

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        id = request_id(headers.get(REQUEST_ID))
        is_head = scope["method"] == "HEAD"

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID.encode(), id.encode())]
            await send(message)

        prefix = self.root_path or _forwarded_prefix(headers)
        path = plain_path(scope["path"], prefix)
        inner = {
            **scope, "path": path, "raw_path": path.encode(), "root_path": "",
            "method": "GET" if is_head else scope["method"],
            "state": {**scope.get("state", {}), "place": _place(scope, headers, path, prefix)},
        }  # fmt: skip
        await self.app(inner, receive, _head_only(named) if is_head else named)


def request_id(given: str | None) -> str:
    """The client's own id of a request, if it is sane, or a new one."""
    return given if given and _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def plain_path(path: str, prefix: str = "") -> str:
    """A path without double and trailing slashes, and without the proxy's prefix."""
    path = "/" + "/".join(part for part in path.split("/") if part)
    if prefix and (path + "/").startswith(prefix + "/"):
        path = path[len(prefix) :] or "/"
    return path


def place(request: Request) -> Place:
    """Where the client of a request sees the server."""
    return request.state.place


def _forwarded_prefix(headers: Headers) -> str:
    """What proxies have taken from the path's beginning, the outermost first."""
    parts = [part.strip().strip("/") for part in headers.get("x-forwarded-prefix", "").split(",")]
    prefix = "".join(f"/{part}" for part in parts if part)
    return prefix if PREFIX.fullmatch(prefix) and not {".", ".."} & set(prefix.split("/")) else ""


def _place(scope: Scope, headers: Headers, path: str, prefix: str) -> Place:
    scheme = headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
    host = headers.get("x-forwarded-host", "").split(",")[0].strip() or headers.get("host", "")
    if not _SANE_HOST.fullmatch(host):
        name, port = scope.get("server") or ("localhost", None)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    url = f"{scheme if scheme in ('http', 'https') else scope['scheme']}://{host}{prefix}"
    # A proxy may hide a prefix from us, so that only relative paths are right; these depend on the slash at the end.
    below = "../" if scope["path"].endswith("/") and path != "/" else ""
    return Place(url, f"{prefix}/" if prefix else below)


def _head_only(send: Send) -> Send:
    """Sends the head of a response, which ends it: the body may be a stream that lasts."""
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if not ended:
            ended = True
            await send(message)
            await send({"type": "http.response.body"})

    return send_head
