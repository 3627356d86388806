"""Server-sent events: written once, read as they come, and read again by a page that was reloaded.

A Stream is what a reply is written into. Usually its one reader is the client that asked, and when that client leaves,
the reply ends. A resumable stream numbers its events and keeps them, so that it survives without a reader for a while.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEEP_ALIVE = 10.0  # seconds of silence after which a comment tells proxies and clients that the server is there
WAIT_FOR_READER = 30.0  # seconds that a resumable stream is kept without one
NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Stream:
    """Events of one reply. `stop` is called when nobody is left who would read them."""

    def __init__(self, stop: Callable[[], None], resumable: bool = False) -> None:
        """What a stream that is not resumable has sent is forgotten."""
        self.id = secrets.token_urlsafe(18) if resumable else None  # nobody else's to guess
        self.closed = False
        self.readers = 0
        self._stop = stop
        self._events: list[bytes] = []
        self._written = 0
        self._waiting: dict[asyncio.Future[None], int] = {}  # readers that have read all, and how far that is

    def write(self, data: str) -> None:
        """Add the event `data`, which must be one line. It is sent with the next flush."""
        number = "" if self.id is None else f"id: {self._written}\n"
        self._events.append(f"{number}data: {data}\n\n".encode())
        self._written += 1

    def flush(self) -> None:
        """Wake the readers for whom there is something new: one write for everything since the last time."""
        for waiting, position in self._waiting.items():
            if position < self._written or self.closed:
                _settle(waiting)

    def wake(self) -> None:
        """Wake all readers, so that they see whether their clients are still there."""
        for waiting in self._waiting:
            _settle(waiting)

    def close(self) -> None:
        """No event will follow."""
        self.closed = True
        self.flush()

    def stop(self) -> None:
        """End the reply, if it has not ended."""
        if not self.closed:
            self._stop()

    async def read(self, position: int, patience: float) -> tuple[bytes | None, int]:
        """All events from number `position` on, and the next position.

        Waits for one: b"" after `patience` seconds without, None when the stream is closed and was read to its end.
        """
        if position >= self._written:
            if self.closed:
                return None, position
            loop = asyncio.get_running_loop()
            waiting = loop.create_future()
            self._waiting[waiting] = position
            timer = loop.call_later(patience, _settle, waiting)
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


class Streams:
    """The resumable streams of a server, by id."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def keep(self, stream: Stream) -> None:
        """Make a resumable stream known."""
        if stream.id is not None:
            self._streams[stream.id] = stream
            self.left(stream)

    def get(self, id: str) -> Stream | None:
        return self._streams.get(id)

    def joined(self, stream: Stream) -> None:
        """A reader came."""
        timer = self._timers.pop(stream.id or "", None)
        if timer is not None:
            timer.cancel()

    def left(self, stream: Stream) -> None:
        """Without a reader the stream has WAIT_FOR_READER seconds, whether the reply has ended or not."""
        if stream.readers == 0 and stream.id in self._streams and stream.id not in self._timers:
            self._timers[stream.id] = asyncio.get_running_loop().call_later(WAIT_FOR_READER, self.drop, stream.id)

    def drop(self, id: str) -> None:
        """Forget a stream and end its reply."""
        timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()
        self._streams.pop(id).stop()


class EventStream(Response):
    """Sends a Stream to one client until it ends or the client leaves.

    Starlette's StreamingResponse would notice a client that left, but only its generator could tell the Engine, when
    it is next resumed; here the reply is stopped the moment the connection is gone.
    """

    media_type = "text/event-stream"

    def __init__(
        self, stream: Stream, streams: Streams, after: int = -1, headers: Mapping[str, str] | None = None
    ) -> None:
        """after: the number of the last event that the client has."""
        named = {} if stream.id is None else {"X-Stream-Id": stream.id}
        super().__init__(headers={**NO_BUFFERING, **named, **(headers or {})}, media_type=self.media_type)
        del self.headers["content-length"]
        self.stream = stream
        self.streams = streams
        self.position = after + 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = self.stream
        stream.readers += 1
        self.streams.joined(stream)
        gone = asyncio.create_task(_left(receive))
        gone.add_done_callback(lambda _: self._leave() if stream.id is None else stream.wake())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not gone.done():
                data, self.position = await stream.read(self.position, KEEP_ALIVE)
                if data is None:
                    break
                await send({"type": "http.response.body", "body": data or b": waiting\n\n", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            stream.readers -= 1
            if stream.id is None:
                self._leave()
            else:
                self.streams.left(stream)

    def _leave(self) -> None:
        self.stream.stop()
        self.stream.wake()


class Answer(Response):
    """Sends one response when it is there; a client that leaves before ends the work."""

    def __init__(self, result: Coroutine[Any, Any, Response], stop: Callable[[], None]) -> None:
        super().__init__()
        self.result = asyncio.create_task(result)
        self.stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({gone, self.result}, return_when=asyncio.FIRST_COMPLETED)
            if self.result.done():
                response = self.result.result()
                await response(scope, receive, send)
        finally:
            gone.cancel()
            if not self.result.done():
                self.stop()


async def _left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _settle(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
