"""Running the server: the address, the API key, what is printed at the start, and the way it ends."""

import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat.errors import UserError
from nanochat.web.app import build_app
from nanochat.web.errors import bad_request
from nanochat.web.state import ServerState

API_KEYS = ("NANOCHAT_API_KEY", "NANOGPT_API_KEY")  # environment variables
LAST_WORDS = 1.5  # seconds at the end of the drain time, kept for telling clients that the server shuts down


class Protocol(H11Protocol):
    """uvicorn's HTTP, but malformed requests get the same error envelope as all others."""

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or not self.cycle.response_started:
            body = bytes(bad_request("this is not a valid HTTP/1.1 request").response().body)
            head = "HTTP/1.1 400 Bad Request", "content-type: application/json", "connection: close"
            self.transport.write("\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves an app until a signal; then GETs only, until all replies are done or drain_seconds have passed."""

    def __init__(
        self, app: FastAPI, state: ServerState, drain_seconds: float, ready: Callable[["Server"], object] | None = None
    ) -> None:
        """ready: called, in the server's thread, as soon as it accepts requests."""
        # h11 and asyncio behave the same everywhere. No access log: it would record who asks, and costs time.
        config = uvicorn.Config(
            app, loop="asyncio", http=Protocol, ws="none", lifespan="on", log_config=None, log_level="error",
            access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        super().__init__(config)
        self.state = state
        self.drain_seconds = drain_seconds
        self._deadline = 0.0
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready(self)

    def stop(self) -> None:
        """End as after a signal. Safe in any thread."""
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the shutdown; the second does not wait for replies."""
        if self.state.draining:
            self._deadline = 0.0
            return
        self.state.draining = True
        self._deadline = time.monotonic() + max(0.0, self.drain_seconds - LAST_WORDS)

    async def on_tick(self, counter: int) -> bool:
        if self.state.draining and (self.state.idle or time.monotonic() >= self._deadline):
            self.state.abort("the server is shutting down")
            return True
        return await super().on_tick(counter)


def serve(
    state: ServerState, bound: socket.socket, host: str, drain_seconds: float = 30.0, note: str = "",
    ready: Callable[[Server], object] | None = None,
) -> None:  # fmt: skip
    """Serve until a signal or `Server.stop`, and print what is served and where.

    bound: the socket that `listen` made for `host`. note: one more line to print. ready: see Server.
    """

    def announce(server: Server) -> None:
        _announce(state, host, bound.getsockname()[1], note)
        if ready is not None:
            ready(server)

    Server(build_app(state), state, drain_seconds, announce).run([bound])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 is any free one.

    Raises UserError for an address that is wrong or taken.
    """
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}; expected a number from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise UserError(
            f"--host {host} is not an address of this machine; use 127.0.0.1 to allow this machine only, or 0.0.0.0"
        ) from None
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} on {host} is taken by another program; choose another --port") from None
        raise UserError(f"cannot listen on port {port} of {host}: {error.strerror}") from None


def find_api_key(given: str | None) -> str | None:
    """The key that clients must send: `given`, else from the environment; None: no key is required.

    Raises UserError for a key that an HTTP header cannot carry.
    """
    if given is None:
        return next((value for name in API_KEYS if (value := os.environ.get(name))), None)
    if not re.fullmatch(r"[!-~]+", given):
        raise UserError("--api_key must be one or more ASCII letters, digits and signs, such as s3cret")
    return given


def allowed_hosts(host: str, cors_origins: Iterable[str] = ()) -> frozenset[str] | None:
    """The host names that requests may use. None (any) unless the server listens to this machine only."""
    origins = list(cors_origins)
    if not _is_local(host) or "*" in origins:
        return None
    return frozenset({"localhost", host, *(urlsplit(origin).hostname or "" for origin in origins)})


def log_to_stderr() -> None:
    """Show the server's own log, and only warnings of other libraries."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("nanochat.web").setLevel(logging.INFO)


def _is_local(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(state: ServerState, host: str, port: int, note: str) -> None:
    for model in state.models.values():
        chats = "" if model.chats else "; continues texts, does not chat"
        if model.plain:
            chats = "; a base model: chats are plain text to it, in lines of User: and Assistant:"
        step = f"step {model.step}, " if model.step else ""
        print(f"{model.id}: {step}{model.parameters / 1e6:.1f}M parameters, {model.dtype} on {model.device}, "
              f"context {model.context}, {model.pool.slots} at once{chats}")  # fmt: skip
    local = _is_local(host)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name if local else 'localhost'}:{port}"
    print(f"\n{address}        the page; the API is at {address}/v1, its documentation at {address}/docs")
    if local:
        print(f"From another machine: ssh -L {port}:127.0.0.1:{port} <this machine>, then open http://localhost:{port}")
    elif not state.settings.api_key:
        print("Anybody who can reach this machine can use the models; --api_key requires a key.")
    if note:
        print(note)
    print("Ctrl-C finishes the running replies, then exits.", flush=True)
