"""Running the server: the address, the API key, what is printed at the start, and the way it ends."""

import asyncio
import errno
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from nanochat.errors import UserError
from nanochat.web.http.connections import LONGEST_HEAD, Connection
from nanochat.web.http.flags import is_local
from nanochat.web.memory import Memory
from nanochat.web.service import Service

BACKLOG = 2048  # connections that wait to be accepted
AT_ONCE = 8  # that asyncio accepts, and errors that it reports, before it does something else
QUIET_SECONDS = 60.0  # between two reports that descriptors ran out
LAST_WORDS = 1.5  # seconds at the end of the drain time, kept for telling clients that the server shuts down


log = logging.getLogger("nanochat.web")


class Server(uvicorn.Server):
    """Serves an app until a signal; then GETs only, until all replies are done or drain_seconds have passed."""

    def __init__(
        self, app: ASGIApp, service: Service, drain_seconds: float, ready: Callable[["Server"], object] | None = None
    ) -> None:
        """ready: called, in the server's thread, as soon as it accepts requests."""
        # h11 and asyncio behave the same everywhere. No access log: it would record who asks, and costs time.
        config = uvicorn.Config(
            app, loop="asyncio", http=Connection, ws="none", lifespan="on", log_config=None, log_level="error",
            access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=1, backlog=AT_ONCE,
            timeout_keep_alive=service.settings.keep_alive, h11_max_incomplete_event_size=LONGEST_HEAD,
        )  # fmt: skip
        super().__init__(config)
        self.service = service
        self.drain_seconds = drain_seconds
        self._deadline = 0.0
        self._quiet_until = 0.0
        self._memory = Memory()
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)  # uvicorn made it AT_ONCE
        if self.started and self._ready is not None:
            self._ready(self)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """One line in a while when descriptors run out; asyncio reports each connection that it cannot accept."""
        if "socket.accept()" not in context["message"]:
            loop.default_exception_handler(context)
        elif time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            log.warning("no connection can be accepted: %s; raise the limit of ulimit -n", context.get("exception"))

    def stop(self) -> None:
        """End as after a signal. Safe in any thread."""
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the shutdown; the second does not wait for replies."""
        if self.service.draining:
            self._deadline = 0.0
            return
        self.service.draining = True
        self._deadline = time.monotonic() + max(0.0, self.drain_seconds - LAST_WORDS)

    async def on_tick(self, counter: int) -> bool:
        if self.service.draining and (self.service.idle or time.monotonic() >= self._deadline):
            self.service.abort("the server is shutting down")
            return True
        if counter % 20 == 0 and self.service.idle and not self.server_state.tasks:
            self._memory.give_back()
        if counter % 10 == 0:  # once a second
            now = asyncio.get_running_loop().time()
            everybody: Any = list(self.server_state.connections)
            for connection in everybody:
                connection.end_if_overdue(now)
        return await super().on_tick(counter)


def serve(
    app: ASGIApp, service: Service, bound: socket.socket, host: str, drain_seconds: float = 30.0, note: str = "",
    ready: Callable[[Server], object] | None = None,
) -> None:  # fmt: skip
    """Serve an app until a signal or `Server.stop`, and print what is served and where.

    bound: the socket that `listen` made for `host`. note: one more line to print. ready: see Server.
    """

    def announce(server: Server) -> None:
        _announce(service, host, bound.getsockname()[1], note)
        if ready is not None:
            ready(server)

    Server(app, service, drain_seconds, announce).run([bound])


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
        # Where other machines are let in by IPv6, those with IPv4 are, too.
        dual = address[0] == "::" and socket.has_dualstack_ipv6()
        made = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=dual)
        # create_server does not name the protocol, and asyncio switches Nagle's algorithm off for sockets that do: with
        # it, the second part of a response waits for the client's acknowledgement of the first, 40 ms on a quiet line.
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=made.detach())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} on {host} is taken by another program; choose another --port") from None
        raise UserError(f"cannot listen on port {port} of {host}: {error.strerror}") from None


def log_to_stderr() -> None:
    """Show the server's own log, and only warnings of other libraries."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("nanochat.web").setLevel(logging.INFO)


def _announce(service: Service, host: str, port: int, note: str) -> None:
    for line in service.announcement():
        print(line)
    local = is_local(host)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name if local else 'localhost'}:{port}"
    print(f"\n{address}        {service.at(address)}")
    if local:
        print(f"From another machine: ssh -L {port}:127.0.0.1:{port} <this machine>, then open http://localhost:{port}")
    elif not service.settings.api_key:
        print("Anybody who can reach this machine can use it; --api_key requires a key.")
    if note:
        print(note)
    print("Ctrl-C finishes the running replies, then exits.", flush=True)
