"""A reply on its way from the Engine to a client."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from nanochat.engine.request import Event, Request
from nanochat.engine.text import ReplyText, TextChunk, TokenLogprob


class Writer(Protocol):
    """Writes a reply as it grows. All methods are called in the event loop."""

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None: ...
    def finish(self, index: int, reason: str) -> None: ...
    def flush(self) -> None: ...
    def end(self, generation: "Generation") -> None: ...
    def fail(self, reason: str) -> None: ...


class Generation:
    """All choices of one reply. Its requests run on one Engine, so that samples share their prompt."""

    def __init__(
        self, requests: Sequence[Request], choices: Sequence[ReplyText], samples: int,
        cancel: "Callable[[Generation, int | None], None]",
    ) -> None:  # fmt: skip
        """requests and choices correspond one to one; each run of `samples` requests has the same prompt.

        cancel: ends one of the requests, or all.
        """
        self.requests = requests
        self.choices = choices
        self.samples = samples
        self.writer: Writer | None = None  # set before the start for a streamed reply
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()  # the error, if any
        self.started = time.monotonic()
        self.first_token: float | None = None  # seconds
        self.seconds = 0.0  # total time, set at the end
        self._open = len(choices)
        self._cancel = cancel

    @property
    def completion_tokens(self) -> int:
        return sum(choice.sampled for choice in self.choices)

    @property
    def usage(self) -> dict:
        """Tokens in OpenAI's terms.

        The token that ends a reply counts, because it was sampled; a tool's output does not.
        """
        prompt_tokens = sum(len(request.prompt) for request in self.requests[:: self.samples])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(choice.cached for choice in self.choices[:: self.samples]),
            },
        }

    def cancel(self) -> None:
        self._cancel(self, None)

    def take(self, index: int, event: Event) -> None:
        """An event of request `index`."""
        choice = self.choices[index]
        if choice.finish is not None or self.ended.done():
            return
        if self.first_token is None and event.token is not None:
            self.first_token = time.monotonic() - self.started
        chunks, logprobs = choice.add(event), choice.pop_logprobs()
        if self.writer is not None and (chunks or logprobs):
            self.writer.add(index, chunks, logprobs)
        if choice.finish is not None:
            if event.finish is None:  # a stop string ended it; the Engine does not know yet
                self._cancel(self, index)
            if self.writer is not None:
                self.writer.finish(index, reason(choice))
            self._open -= 1
            if self._open == 0:
                self._end(None)

    def flush(self) -> None:
        """The events of a step are complete."""
        if self.writer is not None:
            self.writer.flush()

    def fail(self, reason: str) -> None:
        """End because of an error."""
        if not self.ended.done():
            self._end(reason)

    def _end(self, error: str | None) -> None:
        self.seconds = time.monotonic() - self.started
        if self.writer is not None:
            self.writer.end(self) if error is None else self.writer.fail(error)
        self.ended.set_result(error)


def reason(choice: ReplyText) -> str:
    """OpenAI's finish_reason. A reply that its client stopped has "stop"."""
    if choice.finish == "stop" and any(chunk.kind == "call" for chunk in choice.chunks):
        return "tool_calls"
    return "length" if choice.finish == "length" else "stop"
