"""POST /typeset: formulas and code as the page draws them. A process of its own does the work; see `typeset`."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from nanochat.web import typeset
from nanochat.web.bodies.schemas import Body, validated
from nanochat.web.documentation import describes
from nanochat.web.errors import ApiError, json_response

SECONDS = 3.0  # for all items of a request
STARTING = 20.0  # that a busy machine may take to start the process
MAX_WAITING = 16  # requests
IDLE_SECONDS = 120.0  # that the process is kept without work
# What a new process is asked first, so that the time of its imports is no item's.
FIRST = ({"type": "code", "text": "", "language": "text"}, {"type": "math", "text": "x", "display": False})
LONGEST_LINE = 16 << 20  # bytes of a result


class TypesetItem(Body):
    """A formula, or a piece of code."""

    type: Literal["math", "code"]
    text: str = Field(max_length=typeset.MAX_TEXT)
    display: bool = Field(default=False, description="of a formula: it stands on lines of its own")
    language: str = Field(default="", max_length=40, description="of code: a name or alias that Pygments knows")


class TypesetRequest(Body):
    """Formulas in LaTeX and code, to be drawn. What cannot be drawn comes back as null."""

    items: list[TypesetItem] = Field(max_length=64)


class Typesetter:
    """The process that typesets, started when there is something to do, and ended when it takes too long."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._rest: asyncio.TimerHandle | None = None

    def routes(self) -> APIRouter:
        router = APIRouter()

        @router.post(
            "/typeset", tags=["Page"], summary="Formulas as MathML, code as coloured runs", **describes(TypesetRequest)
        )
        async def draw(request: Request) -> Response:
            items = validated(TypesetRequest, await request.body()).items
            return json_response({"items": await self.typeset([item.model_dump() for item in items])})

        return router

    async def typeset(self, items: Sequence[dict]) -> list[object]:
        """What each item becomes; None for one that stays plain, and for those that time is too short for.

        Raises ApiError when too many wait.
        """
        if self._waiting >= MAX_WAITING:
            raise ApiError(429, "too much waits to be typeset", "rate_limit_exceeded", headers={"Retry-After": "2"})
        done: list[object] = []
        self._waiting += 1
        try:
            async with self._lock:
                await self._work(items, done)
        finally:
            self._waiting -= 1
        return done + [None] * (len(items) - len(done))

    async def _work(self, items: Sequence[dict], done: list[object]) -> None:
        complete = False
        try:
            process = await asyncio.wait_for(self._started(), STARTING)
            until = asyncio.get_running_loop().time() + self.seconds
            for item in items:
                left = until - asyncio.get_running_loop().time()
                line = await asyncio.wait_for(_ask(process, item), max(left, 0.01))
                done.append(json.loads(line) if line else None)
                if not line:  # it did not survive this item
                    await self.end()
                    process = await asyncio.wait_for(self._started(), STARTING)
            complete = True
        except asyncio.TimeoutError:
            pass  # done as far as it went
        finally:
            if complete:
                self._rest = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close)
            else:  # what it still writes must not be taken for the next answer
                await self.end()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._process is not None and self._process.returncode is not None:
            self._process = None
        if self._process is None:
            pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
            # -I: its folder has modules with names of Python's own
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(Path(typeset.__file__)), stdin=pipe, stdout=pipe, stderr=nothing,
                limit=LONGEST_LINE,
            )  # fmt: skip
            for item in FIRST:
                await _ask(self._process, item)
        return self._process

    def _close(self) -> None:
        """Let the process end by itself."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process = None

    async def end(self) -> None:
        """End the process; the next item starts another."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


async def _ask(process: asyncio.subprocess.Process, item: dict) -> bytes:
    """The line with which the process answers; b"" when it has ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(item).encode() + b"\n")
        await process.stdin.drain()
        return await process.stdout.readline()
    except ConnectionError:
        return b""
