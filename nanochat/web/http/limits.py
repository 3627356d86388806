"""What every request passes first: the API key, hosts and origins, the size of bodies, security headers."""

import hmac
import shlex
from collections.abc import Collection, Mapping, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.web.errors import ApiError
from nanochat.web.http.origins import Hosts, Origins, parse_host, parse_origin
from nanochat.web.service import Service

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
FILE_HEADERS = SECURITY_HEADERS[1:2]  # of the pages' own scripts and styles, which a browser never shows as pages


class Gate:
    """ASGI middleware that refuses a request, or lets it through with a limit on its body."""

    def __init__(
        self, app: ASGIApp, service: Service, keyless: Collection[str], pages: Collection[str], below: Sequence[str],
        limits: Mapping[str, int],
    ) -> None:  # fmt: skip
        """keyless: paths that need no key, like those that begin with one of `below`; pages: if HTML is asked for.

        limits: bytes of a body, for paths where they are not settings.max_body.
        """
        self.app = app
        self.service = service
        self.keyless, self.pages, self.below, self.limits = frozenset(keyless), frozenset(pages), tuple(below), limits
        self.origins = Origins(service.settings.cors_origins)
        self.hosts = None if service.settings.hosts is None else Hosts(service.settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0
        limit = left = self._limit(scope)

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                protects = FILE_HEADERS if scope["path"].startswith(self.below) else SECURITY_HEADERS
                message["headers"] = [*message.get("headers", ()), *protects]
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
            self.service.metrics.request(getattr(route, "path", "other"), status)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises ApiError for a request that may not pass."""
        settings = self.service.settings
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD", "OPTIONS")
        if self.hosts is not None and b"host" in headers:  # browsers always send it; health checks may not
            _check_host(headers[b"host"].decode("latin-1"), self.hosts)
        if not reads:
            _check_origin(headers, self.origins)
        is_open = path in self.keyless or path.startswith(self.below) or scope["method"] == "OPTIONS"
        is_open = is_open or path in self.pages and scope["method"] == "GET" and asks_for_html(headers)
        if settings.api_key and not is_open:
            _check_key(headers.get(b"authorization", b""), settings.api_key)
        if self.service.draining and not reads:
            message = "the server is shutting down and accepts no new requests"
            raise ApiError(503, message, "shutting_down", headers={"Retry-After": RETRY_WHILE_ENDING})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > (limit := self._limit(scope)):
            raise _too_large(limit)

    def _limit(self, scope: Scope) -> int:
        """Bytes that the body of a request may have."""
        return self.limits.get(scope["path"], self.service.settings.max_body)


def asks_for_html(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is a browser's for a page."""
    return b"text/html" in headers.get(b"accept", b"")


def _check_key(authorization: bytes, expected: str) -> None:
    scheme, _, key = authorization.partition(b" ")
    given = key.strip() if scheme.lower() == b"bearer" else b""
    if not hmac.compare_digest(given, expected.encode()):
        message = "wrong API key" if given else "an API key is required: send the header Authorization: Bearer <key>"
        raise ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _check_host(host: str, allowed: Hosts) -> None:
    """Refuse a foreign page whose name was made to resolve to this machine (DNS rebinding): its Host gives it away."""
    if host not in allowed:
        try:
            name = shlex.quote(parse_host(host))
        except ValueError:
            name = "'*'"
        raise ApiError(403, f"requests for the host {host!r} are refused; --allowed_host {name} allows them", "host")


def _check_origin(headers: dict[bytes, bytes], allowed: Origins) -> None:
    """A foreign page must not make its visitor's browser use this server, not even without reading the reply."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    if not origin or origin in allowed:
        return
    site = headers.get(b"sec-fetch-site")
    own = headers.get(b"host", b"").decode("latin-1")
    if site != b"same-origin" and (site is not None or origin.partition("://")[2] != own):
        raise _foreign(origin)


def _foreign(origin: str) -> ApiError:
    try:
        flag = shlex.quote(parse_origin(origin))
    except ValueError:
        flag = "'*'"
    return ApiError(403, f"pages of {origin!r} may not use this server; --cors_origin {flag} allows them", "origin")


class Cors(CORSMiddleware):
    """Lets browsers give the replies to pages of the sites that the operator named."""

    def __init__(self, app: ASGIApp, origins: Origins, readable: Sequence[str]) -> None:
        """readable: headers of replies that the pages' scripts may read."""
        super().__init__(
            app, allow_origins=["*"] if origins.all else [], allow_methods=["*"], allow_headers=["*"],
            expose_headers=readable, allow_private_network=True,
        )  # fmt: skip
        self.origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        return origin in self.origins

    def preflight_response(self, request_headers: Headers) -> Response:
        origin = request_headers["origin"]
        return super().preflight_response(request_headers) if origin in self.origins else _foreign(origin).response()


async def _drain(receive: Receive, message: Message) -> None:
    """Read the rest of a body and drop it: most clients read no response before they have sent everything."""
    dropped = 0
    while message.get("more_body") and dropped < DRAINED:
        message = await receive()
        dropped += len(message.get("body", b""))


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body exceeds the limit of {limit} bytes", "request_too_large")
