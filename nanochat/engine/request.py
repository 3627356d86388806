"""What goes into the Engine and what comes out, in token ids."""

import math
from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import Literal

from nanochat.config import UserError
from nanochat.engine.tools import Tools

Finish = Literal["stop", "length", "cancelled"]


class ContextLengthError(UserError):
    """The prompt does not fit into the context."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        super().__init__(f"the prompt has {prompt_tokens} tokens, the context holds {context}; shorten the prompt")
        self.prompt_tokens = prompt_tokens
        self.context = context


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it.

    Raises UserError when a value is out of its range.
    """

    prompt: list[int]
    max_tokens: int | None = None
    """sampled tokens at most, forced ones not counted; None or too many: as many as the context holds"""
    temperature: float = 1.0
    """0 takes the likeliest token"""
    top_k: int | None = None
    """sample from the k likeliest tokens; None or 0: from all"""
    top_p: float = 1.0
    """sample from the fewest tokens whose probabilities sum to p"""
    seed: int | None = None
    """same seed, same tokens, whoever shares the batch; None draws a fresh one"""
    sample: int = 0
    """which of several samples with one seed this is; each has its own random numbers from the first token on"""
    stop_ids: Set[int] = frozenset()
    tools: Tools | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("the prompt is empty; it needs at least one token")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise UserError(f"max_tokens is {self.max_tokens}; expected 0 or more")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; expected 0 or more (0 takes the likeliest token)")
        if self.top_k is not None and self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; expected 1 or more, or 0 for no limit")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; expected a number from 0 to 1")

    def samples(self, n: int) -> list["Request"]:
        """n requests for independent samples; the Engine reads their common prompt once."""
        return [replace(self, sample=self.sample + i) for i in range(n)]


@dataclass(frozen=True)
class Event:
    """One token of one request, or its end, or both."""

    request_id: int
    token: int | None
    """part of the reply; None when the request ended without a further one"""
    forced: bool = False
    """the token is a tool's output and was not sampled"""
    finish: Finish | None = None
    stop_id: int | None = None
    """the stop token that ended the request (finish "stop"); it is no part of the reply"""


@dataclass
class Reply:
    """All events of a request: forced[i] says whether tokens[i] came from a tool."""

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    finish: Finish | None = None
    stop_id: int | None = None

    def add(self, event: Event) -> None:
        if event.token is not None:
            self.tokens.append(event.token)
            self.forced.append(event.forced)
        self.finish = event.finish
        self.stop_id = event.stop_id
