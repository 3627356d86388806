"""What every request passes first: the API key, hosts and origins, the size of bodies, security headers."""

import hmac
import ipaddress
import shlex
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.web.errors import ApiError
from nanochat.web.state import ServerState

# Served without a key, as is /static/. A container's health check asks /health.
OPEN = ("/", "/health", "/docs", "/openapi.json", "/logo.svg", "/favicon.ico")
DRAINED = 1 << 30  # bytes of a refused body that are read and dropped, so that the client can read the refusal
RETRY_WHILE_ENDING = "5"  # seconds

SECURITY_HEADERS = [
    # Model output is shown on this origin, so only the page's own files may run, load or be connected to.
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; "
     b"img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]  # fmt: skip


class Gate:
    """ASGI middleware that refuses a request, or lets it through with a limit on its body."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0
        limit = left = self.state.settings.max_body

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
            await send(message)

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
            self._check(scope, headers)
        except ApiError as error:
            # A client that waits for "100 Continue" has sent nothing and gets the refusal at once.
            if b"expect" not in headers:
                await _drain(receive, {"more_body": True})
            await error.response()(scope, receive, guarded)
        else:
            await self.app(scope, measured, guarded)
        finally:
            route = scope.get("route")
            self.state.metrics.request(getattr(route, "path", "other"), status)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises ApiError for a request that may not pass."""
        settings = self.state.settings
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD", "OPTIONS")
        if settings.hosts is not None:
            _check_host(headers.get(b"host", b"").decode("latin-1"), settings.hosts)
        if not reads:
            _check_origin(headers, settings.cors_origins)
        if settings.api_key and not (path in OPEN or path.startswith("/static/")):
            _check_key(headers.get(b"authorization", b""), settings.api_key)
        if self.state.draining and not reads:
            message = "the server is shutting down and accepts no new requests"
            raise ApiError(503, message, "shutting_down", headers={"Retry-After": RETRY_WHILE_ENDING})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > settings.max_body:
            raise _too_large(settings.max_body)


def _check_key(authorization: bytes, expected: str) -> None:
    scheme, _, key = authorization.partition(b" ")
    given = key.strip() if scheme.lower() == b"bearer" else b""
    if not hmac.compare_digest(given, expected.encode()):
        message = "wrong API key" if given else "an API key is required: send the header Authorization: Bearer <key>"
        raise ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _check_host(host: str, allowed: frozenset[str]) -> None:
    """Refuse a foreign page whose name was made to resolve to this machine (DNS rebinding): its Host gives it away."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name not in allowed:
            ipaddress.ip_address(name)
    except ValueError:
        message = f"requests for the host {host!r} are refused; to allow more hosts use --cors_origin"
        raise ApiError(403, message, "host") from None


def _check_origin(headers: dict[bytes, bytes], allowed: tuple[str, ...]) -> None:
    """A foreign page must not make its visitor's browser use this server, not even without reading the reply."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    if not origin or "*" in allowed or origin in allowed:
        return
    site = headers.get(b"sec-fetch-site")
    own = headers.get(b"host", b"").decode("latin-1")
    if site == b"same-origin" or (site is None and origin.partition("://")[2] == own):
        return
    flag = f"--cors_origin={shlex.quote(origin)}"
    raise ApiError(403, f"pages of {origin!r} may not use this server; {flag} allows them", "origin")


async def _drain(receive: Receive, message: Message) -> None:
    """Read the rest of a body and drop it: most clients read no response before they have sent everything."""
    dropped = 0
    while message.get("more_body") and dropped < DRAINED:
        message = await receive()
        dropped += len(message.get("body", b""))


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body exceeds the limit of {limit} bytes", "request_too_large")
