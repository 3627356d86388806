"""uvicorn's HTTP connections, with an end to what may take forever, and never more of them than there are descriptors.

h11 reads and writes HTTP. httptools would be another dependency, and compiled, for a fifth of a millisecond a request.
"""

import asyncio
import functools
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol, h11

from nanochat.web.errors import ApiError, bad_request
from nanochat.web.http.front import REQUEST_ID, request_id

HEAD_SECONDS = 30.0  # to send the head of a request
BODY_SECONDS = 30.0  # to send its body, and a second more for each SLOWEST bytes
SLOWEST = 1000
UNREAD_SECONDS = 120.0  # that a response may wait for a client that reads nothing
MOST = 4096  # connections
SPARE = 100  # descriptors that are kept for files and the sandbox
LONGEST_HEAD = 64 << 10  # bytes; browsers send a machine's servers the cookies of all of them


class Connection(H11Protocol):
    """One client's connection."""

    since: float
    """when the server began to wait for what it waits for"""
    received: int
    """bytes of the request that is arriving"""
    arriving: bool
    """whether a request is arriving, or a new connection's first is due"""
    unread_since: float | None = None
    """when a response began to wait for the client to read it"""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(arriving=True)
        if len(self.connections) > most_connections():
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if not self.arriving:
            self._expect(arriving=True)
        self.received += len(data)
        super().data_received(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        early, _ = self.conn.trailing_data  # of a request that was sent before this one was answered
        self._expect(arriving=bool(early) or self.conn.their_state is h11.SEND_BODY)
        self.received = len(early)

    def pause_writing(self) -> None:
        self.unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(bad_request("this is not a valid HTTP/1.1 request"))

    def end_if_overdue(self, now: float) -> None:
        """End a connection whose client takes too long; an idle one has uvicorn's timer for it."""
        if self.transport.is_closing():
            return
        if self.unread_since is not None and now - self.unread_since > UNREAD_SECONDS:
            self.transport.abort()
        elif self.arriving and self.waits_for_client and now - self.since > self._patience():
            self._refuse(ApiError(408, "the request did not arrive in time", "timeout"))

    @property
    def waits_for_client(self) -> bool:
        is_their_turn = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.flow.read_paused
        return is_their_turn and not self.transport.is_closing()

    def _patience(self) -> float:
        if self.conn.their_state is h11.IDLE:
            return HEAD_SECONDS
        return BODY_SECONDS + self.received / SLOWEST

    def _expect(self, arriving: bool) -> None:
        self.since, self.received, self.arriving = self.loop.time(), 0, arriving

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its client, or refuse this one where all are busy."""
        everybody: Any = self.connections
        waiting = [each for each in everybody if each is not self and each.waits_for_client]
        if waiting:
            min(waiting, key=lambda each: each.since).transport.close()
        else:
            retry = {"Retry-After": "5"}
            self._refuse(ApiError(503, "the server has too many connections", "overloaded", headers=retry))

    def _refuse(self, error: ApiError) -> None:
        """Answer without the app, unless it has begun to, and close. A connection that sent nothing is just closed."""
        cycle = self.cycle if self.cycle is not None and not self.cycle.response_complete else None
        if not (cycle and cycle.response_started) and (self.received or error.status == 503):
            self.transport.write(_bytes(error.response()))
        self.transport.close()
        if cycle:
            cycle.disconnected = True
            cycle.message_event.set()


@functools.cache
def most_connections() -> int:
    """How many connections the limits of this process (ulimit -n) allow."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(8, min(MOST, soft - SPARE))


def _bytes(response: Response) -> bytes:
    """A whole response as it is sent."""
    headers = [*response.raw_headers, (b"connection", b"close"), (REQUEST_ID.encode(), request_id(None).encode())]
    head = [f"HTTP/1.1 {response.status_code} ".encode(), *(name + b": " + value for name, value in headers)]
    return b"\r\n".join([*head, b"", bytes(response.body)])
