"""What goes into the Engine and what comes out, in token ids."""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from nanochat.errors import UserError

if TYPE_CHECKING:
    from nanochat.engine.tools import Tools  # not imported for the Engine, which needs no tokenizer

Finish = Literal["stop", "length", "cancelled"]
LARGEST = 1e30  # of settings that logits are changed by: the result must be a finite float32
RANGES = {  # settings of a request: smallest value, largest value, and what a message says is expected
    "max_tokens": (0, math.inf, "0 or more"),
    "min_tokens": (0, math.inf, "0 or more"),
    "temperature": (0, LARGEST, "0 or more (0 takes the most likely token)"),
    "top_k": (0, math.inf, "1 or more, or 0 for no limit"),
    "top_p": (0, 1, "a number from 0 to 1"),
    "min_p": (0, 1, "a number from 0 to 1"),
    "repetition_penalty": (1e-6, 1e6, "0.000001 to 1000000 (1 is off)"),
    "presence_penalty": (-LARGEST, LARGEST, f"a number up to {LARGEST:g} (0 is off)"),
    "frequency_penalty": (-LARGEST, LARGEST, f"a number up to {LARGEST:g} (0 is off)"),
    "logprobs": (0, math.inf, "0 or more"),
}


class ContextLengthError(UserError):
    """The prompt does not fit into the context."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        # Clients recognise the first half: litellm and what stands on it then shorten the prompt or change the model.
        super().__init__(
            f"this model's maximum context length is {context} tokens, but the prompt has {prompt_tokens} tokens; "
            "shorten the prompt"
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class Constraint(Protocol):
    """A grammar that a reply must follow: `mask` is read before, `accept` called after every sampled token."""

    def mask(self) -> Tensor:
        """Which ids may come next, bool (V,) on the CPU; stop ids are among them where the reply may end."""
        ...

    def accept(self, token: int) -> None:
        """Advance by a token that the mask allowed."""
        ...

    def copy(self) -> "Constraint":
        """An independent copy in the same state."""
        ...


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it.

    Raises UserError when a value is out of its range.
    """

    prompt: list[int]
    max_tokens: int | None = None
    """maximum sampled tokens, forced ones not counted; None or too many: as many as the context holds"""
    temperature: float = 1.0
    """0 takes the most likely token"""
    top_k: int | None = None
    """sample from the k most likely tokens (Fan et al. 2018); None or 0: from all"""
    top_p: float = 1.0
    """sample from the fewest tokens whose probabilities sum to p (Holtzman et al. 2020)"""
    min_p: float = 0.0
    """sample from the tokens with at least this fraction of the most likely one's probability (Nguyen et al. 2024)"""
    repetition_penalty: float = 1.0
    """divides positive and multiplies negative logits of tokens in the prompt or the reply (Keskar et al. 2019)"""
    presence_penalty: float = 0.0
    """subtracted from the logits of tokens in the reply"""
    frequency_penalty: float = 0.0
    """subtracted from the logits of tokens in the reply, once per occurrence"""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """added to the logits of these ids; -100 practically rules one out"""
    seed: int | None = None
    """same seed, same tokens, whatever else is in the batch; None draws a fresh one"""
    sample: int = 0
    """number of this sample among several with one seed; each has its own random numbers"""
    stop_ids: Set[int] = frozenset()
    min_tokens: int = 0
    """stop ids are ruled out until this many tokens are sampled, unless a constraint allows nothing else"""
    tools: "Tools | None" = None
    logprobs: int | None = None
    """report each sampled token's log probability and those of this many most likely ones; None reports none"""
    constraint: Constraint | None = None
    """in its state before the reply; the Engine works on copies"""
    rolls: bool = False
    """continue beyond the context, as nanoGPT does: drop the oldest id and read the others again, at positions from 0,
    for every further token. A prompt that is too long loses its beginning"""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("the prompt is empty; it needs at least one token")
        for name, (low, high, expected) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"{name} is {value}; expected {expected}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise UserError(f"min_tokens is {self.min_tokens}, which is more than max_tokens, {self.max_tokens}")
        if self.rolls and self.max_tokens is None:
            raise UserError("a reply that may outgrow the context needs a limit; set max_tokens")
        for token, bias in self.logit_bias.items():
            if not abs(bias) <= LARGEST:
                raise UserError(f"the logit_bias of token {token} is {bias}; expected a number up to {LARGEST:g}")

    def samples(self, n: int) -> list["Request"]:
        """n requests for independent samples; the Engine reads their common prompt once."""
        return [replace(self, sample=self.sample + i) for i in range(n)]


@dataclass(frozen=True)
class Scored:
    """How likely the model considered a token, before temperature and all other settings of the request."""

    logprob: float
    """natural logarithm of its probability"""
    top: tuple[tuple[int, float], ...]
    """the most likely ids with theirs, most likely first"""


@dataclass(frozen=True)
class Event:
    """One token of one request, or its end, or both."""

    request_id: int
    token: int | None
    """part of the reply; None if the request ended without another one"""
    forced: bool = False
    """the token is a tool's output and was not sampled"""
    finish: Finish | None = None
    stop_id: int | None = None
    """the stop token that ended the request (finish "stop"); it is not part of the reply"""
    scored: Scored | None = None
    """for a sampled token or stop_id, if the request asked for logprobs"""
    cached: int = 0
    """on a request's first event: how many tokens of its prompt were in the cache already"""


@dataclass
class Reply:
    """All events of a request; forced[i] tells whether tokens[i] came from a tool."""

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
