"""A reply on its way from the Engine to a client."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from nanochat.engine.request import Event, Request
from nanochat.engine.text import TextChunk, ReplyText, TokenLogprob
from nanochat.web.worker import Job, Pool


class Writer(Protocol):
    """How a reply is told while it grows. All are called in the event loop."""

    def pieces(self, index: int, pieces: list[TextChunk], told: list[TokenLogprob]) -> None: ...
    def finished(self, index: int, reason: str) -> None: ...
    def flush(self) -> None: ...
    def end(self, generation: "Generation") -> None: ...
    def fail(self, reason: str) -> None: ...


class FailedError(Exception):
    """The Engine broke while it worked on a reply."""


class Generation:
    """All choices of one reply. A Sink of the worker."""

    def __init__(self, pool: Pool, requests: Sequence[Request], choices: Sequence[ReplyText], samples: int = 1) -> None:
        """requests and choices belong together one by one; of each `samples` neighbours the prompt is the same."""
        self.pool = pool
        self.requests = requests
        self.choices = choices
        self.samples = samples
        self.writer: Writer | None = None  # set before the start where the reply is streamed
        self.job = Job(requests, self)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = time.monotonic()
        self.first_token: float | None = None  # seconds
        self.seconds = 0.0  # all together, once it is over
        self._open = len(choices)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.prompt) for request in self.requests[:: self.samples])

    @property
    def cached_tokens(self) -> int:
        return sum(choice.cached for choice in self.choices[:: self.samples])

    @property
    def completion_tokens(self) -> int:
        return sum(choice.sampled for choice in self.choices)

    @property
    def usage(self) -> dict:
        """Tokens in OpenAI's terms: what the Engine was given and what the model was asked for.

        The token that ends a reply is asked for too; a tool's output is not.
        """
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def cancel(self) -> None:
        self.pool.cancel(self.job)

    def take(self, index: int, event: Event) -> None:
        choice = self.choices[index]
        if choice.finish is not None:
            return
        if self.first_token is None and event.token is not None:
            self.first_token = time.monotonic() - self.started
        pieces = choice.add(event)
        told = choice.told()
        if self.writer is not None and (pieces or told):
            self.writer.pieces(index, pieces, told)
        if choice.finish is not None:
            if choice.stop_string is not None and event.finish is None:
                self.pool.cancel(self.job, index)
            if self.writer is not None:
                self.writer.finished(index, reason(choice))
            self._open -= 1
            if self._open == 0:
                self._end()

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def fail(self, reason: str) -> None:
        if self.ended.done():
            return
        self.seconds = time.monotonic() - self.started
        if self.writer is not None:
            self.writer.fail(reason)
            self.ended.set_result(None)
        else:
            self.ended.set_exception(FailedError(reason))

    def _end(self) -> None:
        self.seconds = time.monotonic() - self.started
        if self.writer is not None:
            self.writer.end(self)
        if not self.ended.done():
            self.ended.set_result(None)


def reason(choice: ReplyText) -> str:
    """OpenAI's finish_reason. Who stops a reply themselves gets "stop"."""
    return "length" if choice.finish == "length" else "stop"
