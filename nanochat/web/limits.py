"""What a server that anybody can talk to must not do: answer strangers, read without end, or trip over odd JSON."""

import hmac
import ipaddress
import json
import shlex
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.web.errors import ApiError, bad_request
from nanochat.web.service import Service

# Served without a key, as is /static/.
OPEN = ("/", "/health", "/docs", "/docs.css", "/openapi.json", "/logo.svg", "/favicon.ico")
MAX_DEPTH = 64  # of JSON inside JSON: schemas go deepest, and real ones not nearly as deep
DRAINED = 1 << 30  # bytes of a refused body that are read and dropped, so that the client can hear the refusal
RETRY_WHILE_ENDING = "5"  # seconds

SECURITY_HEADERS = [
    # What a model wrote is shown on this origin, so nothing but the page's own files may run, load or be talked to.
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; "
     b"img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]  # fmt: skip


class Gate:
    """ASGI middleware before everything else: keys, origins, the size of bodies, security headers, the last minutes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
            await send(message)

        limit = self.service.settings.max_body
        left = limit

        async def measured() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    await _drain(receive, message)
                    raise _too_large(limit)
            return message

        headers = dict(scope["headers"])
        try:
            try:
                self._check(scope, headers)
            except ApiError as error:
                # A client that waits for "100 Continue" has sent nothing and hears the refusal at once.
                if b"expect" not in headers:
                    await _drain(receive, {"more_body": True})
                await error.response()(scope, receive, guarded)
                return
            await self.app(scope, measured, guarded)
        finally:
            route = scope.get("route")
            self.service.metrics.request(getattr(route, "path", "other"), status)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises ApiError for a request that is none of the server's business."""
        settings = self.service.settings
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD", "OPTIONS")
        if settings.hosts is not None:
            _check_host(headers.get(b"host", b"").decode("latin-1"), settings.hosts)
        if not reads:
            _check_origin(headers, settings.cors_origins)
        if settings.api_key and not (path in OPEN or path.startswith("/static/")):
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            given = key.strip() if scheme.lower() == b"bearer" else b""
            if not hmac.compare_digest(given, settings.api_key.encode()):
                said = "the API key is wrong" if given else "an API key is needed: send Authorization: Bearer <key>"
                raise ApiError(401, said, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if self.service.draining and not reads:
            raise ApiError(
                503, "the server is shutting down and takes no new work", "shutting_down",
                headers={"Retry-After": RETRY_WHILE_ENDING},
            )  # fmt: skip
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > settings.max_body:
            raise _too_large(settings.max_body)


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError for anything else, and for JSON that only some programs read."""
    body = await request.body()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise bad_request(f"the body's JSON is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        if not text.strip():
            raise bad_request("the body is empty; expected a JSON object") from None
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise bad_request("the body must be a JSON object")
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper(content, MAX_DEPTH):
        raise bad_request(f"the body's JSON is nested deeper than {MAX_DEPTH} levels")
    return _without_halves(content) if "\\u" in text else content


def _without_halves(content: dict[str, Any]) -> dict[str, Any]:
    """JSON can spell half of a surrogate pair, which no text can hold; it becomes U+FFFD."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _deeper(content: Any, limit: int) -> bool:
    """Whether lists and objects are nested in more than `limit` levels."""
    level = [content]
    for _ in range(limit):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _check_host(host: str, allowed: frozenset[str]) -> None:
    """A page from elsewhere whose name was made to point here (DNS rebinding) says so in its Host header."""
    name = urlsplit(f"//{host}").hostname if _is_host(host) else None
    if name is None or not (name in allowed or _is_address(name)):
        raise ApiError(403, f"requests for the host {host!r} are not answered here; --cors_origin allows more", "host")


def _check_origin(headers: dict[bytes, bytes], allowed: tuple[str, ...]) -> None:
    """A page from elsewhere must not make the browser of a user work for it, not even without seeing the answer."""
    origin = headers.get(b"origin")
    if origin is None or "*" in allowed or origin.decode("latin-1") in allowed:
        return
    site = headers.get(b"sec-fetch-site")
    own = headers.get(b"host", b"")
    if site == b"same-origin" or (site is None and origin.partition(b"://")[2] == own):
        return
    said = origin.decode("latin-1")
    flag = f"--cors_origin={shlex.quote(said)}"
    raise ApiError(403, f"pages of {said!r} may not use this server; {flag} allows it", "origin")


def _is_host(host: str) -> bool:
    try:
        urlsplit(f"//{host}").hostname  # noqa: B018 -- raises for brackets that do not match
    except ValueError:
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _drain(receive: Receive, message: Message) -> None:
    """Read the rest of a body and drop it: who is still sending does not listen."""
    dropped = 0
    while message.get("more_body") and dropped < DRAINED:
        message = await receive()
        dropped += len(message.get("body", b""))


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than the {limit} bytes that are taken", "request_too_large")
