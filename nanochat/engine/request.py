"""What goes into the Engine and what comes out, in token ids."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from torch import Tensor

from nanochat.engine.tools import Tools
from nanochat.errors import UserError

Finish = Literal["stop", "length", "cancelled"]
LARGEST = 1e30  # of settings that are added, multiplied or divided by: what comes out must be a finite float32


class ContextLengthError(UserError):
    """The prompt does not fit into the context."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        super().__init__(f"the prompt has {prompt_tokens} tokens, the context holds {context}; shorten the prompt")
        self.prompt_tokens = prompt_tokens
        self.context = context


class Constraint(Protocol):
    """What a reply may look like, asked before and told after every sampled token."""

    def mask(self) -> Tensor:
        """Which ids may come next, bool (V,) on the CPU; stop ids are among them where the reply may end."""
        ...

    def accept(self, token: int) -> None:
        """Go on past a token that the mask allowed."""
        ...

    def copy(self) -> "Constraint":
        """One that goes on separately from here."""
        ...


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it.

    Raises UserError when a value is out of its range.
    """

    prompt: list[int]
    max_tokens: int | None = None
    """sampled tokens at most, forced ones not counted; None or too many: as many as the context holds"""
    temperature: float = 1.0
    """0 takes the most likely token"""
    top_k: int | None = None
    """sample from the k most likely tokens; None or 0: from all"""
    top_p: float = 1.0
    """sample from the fewest tokens whose probabilities sum to p"""
    min_p: float = 0.0
    """sample from the tokens with at least this fraction of the most likely one's probability (Nguyen et al. 2024)"""
    repetition_penalty: float = 1.0
    """divides positive and multiplies negative logits of what is in the prompt or the reply (Keskar et al. 2019)"""
    presence_penalty: float = 0.0
    """taken from the logits of what is in the reply"""
    frequency_penalty: float = 0.0
    """taken from the logits of what is in the reply, as often as it is there"""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """added to the logits of these ids; -100 all but rules one out"""
    seed: int | None = None
    """same seed, same tokens, whoever shares the batch; None draws a fresh one"""
    sample: int = 0
    """which of several samples with one seed this is; each has its own random numbers from the first token on"""
    stop_ids: Set[int] = frozenset()
    tools: Tools | None = None
    logprobs: int | None = None
    """report each sampled token's log probability and those of this many most likely ones; None reports none"""
    constraint: Constraint | None = None
    """its state before the reply; the Engine works on copies"""
    rolls: bool = False
    """at the end of the context go on with its last ids, whose positions begin at 0 again, as nanoGPT does: every
    further token then costs reading a whole context. A prompt that is too long loses its beginning"""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("the prompt is empty; it needs at least one token")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise UserError(f"max_tokens is {self.max_tokens}; expected 0 or more")
        if self.rolls and self.max_tokens is None:
            raise UserError("a reply that goes on beyond the context needs an end; set max_tokens")
        if not 0 <= self.temperature <= LARGEST:
            raise UserError(f"temperature is {self.temperature}; expected 0 or more (0 takes the most likely token)")
        if self.top_k is not None and self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; expected 1 or more, or 0 for no limit")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; expected a number from 0 to 1")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; expected a number from 0 to 1")
        if not 1e-6 <= self.repetition_penalty <= 1e6:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}; expected 0.000001 to 1000000 (1 is off)")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(value := getattr(self, name)) <= LARGEST:
                raise UserError(f"{name} is {value}; expected a number up to {LARGEST:g} (0 is off)")
        for token, bias in self.logit_bias.items():
            if not abs(bias) <= LARGEST:
                raise UserError(f"the logit_bias of token {token} is {bias}; expected a number up to {LARGEST:g}")
        if self.logprobs is not None and self.logprobs < 0:
            raise UserError(f"logprobs is {self.logprobs}; expected 0 or more")

    def samples(self, n: int) -> list["Request"]:
        """n requests for independent samples; the Engine reads their common prompt once."""
        return [replace(self, sample=self.sample + i) for i in range(n)]


@dataclass(frozen=True)
class Scored:
    """How likely the model held a token, before temperature and everything else that a request asks for."""

    logprob: float
    """natural logarithm of its probability"""
    top: tuple[tuple[int, float], ...]
    """the most likely ids with theirs, most likely first"""


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
    scored: Scored | None = None
    """of a sampled token, where the request asked for logprobs; of stop_id where that ended it"""
    cached: int = 0
    """on a request's first event: how many tokens of its prompt the cache held already"""


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
