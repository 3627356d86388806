"""Server-sent events: written once, read as they come, and read again by a page that was reloaded.

A reply is written into a Stream. Usually its only reader is the client that asked for it, and when that client leaves,
the reply ends. A resumable stream numbers its events and keeps them, so that it survives a while without a reader.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

KEEP_ALIVE = 10.0  # seconds of silence after which a comment tells proxies and clients that the connection is alive
WAIT_FOR_READER = 30.0  # seconds that a resumable stream is kept without a reader
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Stream:
    """The events of one reply."""

    def __init__(self, stop: Callable[[], None], streams: "dict[str, Stream] | None" = None) -> None:
        """stop: ends the reply; called when no reader is left. streams: where a resumable stream is found by its id.

        A stream that is not resumable forgets what it has sent.
        """
        self.id = None if streams is None else secrets.token_urlsafe(18)  # a secret: whoever knows it can read on
        self.closed = False
        self._stop = stop
        self._streams = streams
        self._readers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._events: list[bytes] = []
        self._written = 0
        self._waiting: dict[asyncio.Future[None], int] = {}  # readers that have read everything up to a position

    def write(self, data: str, event: str = "") -> None:
        """Add the event `data`, which must be one line, of type `event`. It is sent with the next flush."""
        number = "" if self.id is None else f"id: {self._written}\n"
        kind = f"event: {event}\n" if event else ""
        self._events.append(f"{number}{kind}data: {data}\n\n".encode())
        self._written += 1

    def flush(self) -> None:
        """Wake the readers for whom there is something new: one write for all events since the last flush."""
        for waiting, position in self._waiting.items():
            if position < self._written or self.closed:
                _wake(waiting)

    def close(self) -> None:
        """No event will follow."""
        self.closed = True
        self.flush()

    def stop(self) -> None:
        """End the reply, if it has not ended."""
        if not self.closed:
            self._stop()

    def enter(self) -> None:
        """A reader comes."""
        self._readers += 1
        if self._timer is not None:
            self._timer.cancel()
        if self.id is not None and self._streams is not None:
            self._streams[self.id] = self

    def leave(self) -> None:
        """A reader goes. Without one, a resumable stream is kept for WAIT_FOR_READER seconds."""
        self._readers -= 1
        if self.id is None:
            self.stop()
        elif self._readers == 0:
            self._timer = asyncio.get_running_loop().call_later(WAIT_FOR_READER, self._expire, self.id)

    def _expire(self, id: str) -> None:
        if self._streams is not None:
            del self._streams[id]
        self.stop()

    async def read(self, position: int) -> tuple[bytes | None, int]:
        """All events from number `position` on, and the next position.

        Waits for one: b"" after KEEP_ALIVE seconds without; None when the stream is closed and read to its end.
        """
        if position >= self._written:
            if self.closed:
                return None, position
            loop = asyncio.get_running_loop()
            waiting = loop.create_future()
            self._waiting[waiting] = position
            timer = loop.call_later(KEEP_ALIVE, _wake, waiting)
            try:
                await waiting
            finally:
                timer.cancel()
                del self._waiting[waiting]
        first = self._written - len(self._events)
        data = b"".join(self._events[max(0, position - first) :])
        if self.id is None:
            self._events.clear()
        return (None if not data and self.closed else data), max(position, self._written)


class EventStream(StreamingResponse):
    """Sends a Stream to one client until it ends or the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, after: int = -1) -> None:
        """after: the number of the last event that the client has."""
        headers = HEADERS if stream.id is None else {**HEADERS, "X-Stream-Id": stream.id}
        super().__init__(self._events(after + 1), headers=headers)
        self.stream = stream

    async def _events(self, position: int) -> AsyncIterator[bytes]:
        while True:
            data, position = await self.stream.read(position)
            if data is None:
                return
            yield data or b": waiting\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.stream.enter()
        try:
            await super().__call__(scope, receive, send)  # returns at once when the client leaves
        finally:
            self.stream.leave()


class Later(StreamingResponse):
    """Sends a response that is still being made. If the client leaves before, `stop` ends the work."""

    def __init__(self, response: Awaitable[Response], stop: Callable[[], None]) -> None:
        super().__init__(iter(()))
        self.response = response
        self.stop = stop

    async def stream_response(self, send: Send) -> None:
        response = await self.response
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)  # returns at once when the client leaves
        finally:
            self.stop()


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
