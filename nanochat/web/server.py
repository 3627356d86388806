"""uvicorn, ended the way a server with streams should be: what runs is finished, what is new is refused."""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat.errors import UserError
from nanochat.web.errors import bad_request
from nanochat.web.service import Service

NO_HTTP = "this is no HTTP/1.1 request that can be understood"
LAST_WORDS = 1.5  # seconds of the time to drain that are kept for telling clients that it is over


class Protocol(H11Protocol):
    """uvicorn's HTTP, but what is no HTTP is refused in the same envelope as everything else."""

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or not self.cycle.response_started:
            body = bytes(bad_request(NO_HTTP).response().body)
            head = "HTTP/1.1 400 Bad Request", "content-type: application/json", "connection: close"
            self.transport.write("\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves an app until a signal; then GETs only, until all replies are done or drain_seconds have passed."""

    def __init__(
        self, app: FastAPI, service: Service, drain_seconds: float, ready: Callable[["Server"], object] | None = None
    ) -> None:
        """ready: called, in the server's thread, as soon as it answers."""
        # h11 and asyncio: the same everywhere. No access log: it would tell who asks, and costs time.
        config = uvicorn.Config(
            app, loop="asyncio", http=Protocol, ws="none", lifespan="on", log_config=None, log_level="error",
            access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        super().__init__(config)
        self.service = service
        self.drain_seconds = drain_seconds
        self._deadline = 0.0
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready(self)

    def stop(self) -> None:
        """End as a signal would end it, from any thread."""
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second one does not wait for replies."""
        if self.service.draining:
            self._deadline = 0.0
            return
        self.service.draining = True
        self._deadline = time.monotonic() + max(0.0, self.drain_seconds - LAST_WORDS)

    async def on_tick(self, counter: int) -> bool:
        if self.service.draining and (self.service.idle or time.monotonic() >= self._deadline):
            self.service.abort("the server is shutting down")
            return True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address; port 0 is any free one. Raises UserError where that cannot be had."""
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}; expected a number from 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise UserError(f"--host {host} is no address of this machine; 127.0.0.1 is this machine only") from None
    bound = socket.socket(family, kind)
    try:
        if os.name == "posix":  # elsewhere the option lets two programs share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is taken by another program; choose another --port") from None
        raise UserError(f"cannot listen on port {port} of {host}: {error.strerror}") from None
    return bound
