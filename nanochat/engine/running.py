"""A request that has a slot of the Engine, and passes that start on the device before the host has their ids.

While the host reports the tokens of one step, the device could compute the next, for what it reads are these tokens,
which are on the device already. `may_run_ahead` says when the next step is that certain; the Engine then starts it
first and looks at the tokens afterwards. A request that stops at one of them has computed a token for nothing.
"""

import random
from collections import Counter, deque
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass, field

from nanochat.engine.passes import Drawn
from nanochat.engine.request import Constraint, Request
from nanochat.engine.sampling import changes_logits


@dataclass
class Running:
    """A request that has a slot."""

    id: int
    request: Request
    slot: int
    left: int  # how many more tokens may be sampled
    least: int  # how many more must be sampled before it may stop
    random: random.Random
    unread: deque[int]  # known ids that are not in the cache yet: the prompt, the last sample, forced tokens
    constraint: Constraint | None
    cached: int  # tokens of the prompt that needed no reading; reported with the first event
    reading: bool = True  # a prompt, or a tool's output, has to be read before the next sample
    rolled: bool = False  # it has outgrown the context
    counts: Counter[int] = field(default_factory=Counter)  # how often each id is in the reply so far
    is_finite: bool = True  # so far; if not, its keys and values must not stay in the slot
    call: list[int] | None = None  # the ids since python_start, while a tool call is open
    pending: "futures.Future[list[int] | None] | None" = None  # a slow tool that is running

    def is_reading(self, prompt: list[int]) -> bool:
        """Whether it is still reading this prompt, and nothing after it."""
        return self.reading and not self.counts and self.request.prompt == prompt

    @property
    def draws_alone(self) -> bool:
        """Whether its next token can be sampled on the device, without what only the host knows."""
        request = self.request
        plain = self.constraint is None and request.logprobs is None and not changes_logits(request)
        return plain and (self.least <= 0 or not request.stop_ids)


@dataclass
class Drawing:
    """A decoding pass under way on the device."""

    runnings: list[Running]
    drawn: Drawn


def may_run_ahead(decoding: Sequence[Running], lengths: Sequence[int], max_len: int) -> bool:
    """Whether the tokens that are being drawn for these requests will all be read next, unless one is a stop.

    lengths: of what the slots hold, of at most max_len.
    """
    return bool(decoding) and all(
        running.left > 1
        and lengths[running.slot] < max_len
        and (running.least <= 1 or not running.request.stop_ids)
        and running.call is None  # so that no token closes a tool call
        for running in decoding
    )


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two lists have in common at their beginning."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
