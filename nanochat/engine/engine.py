"""The Engine: many requests share one model and one cache, each as if it were alone.

A step is: admit waiting requests to free slots, read a piece of their prompts, add one token to every request that is
past its prompt, sample, and turn the samples into events. The scheduling is plain Python over small lists; tensors
appear in `_forward` and `sample` alone. The Engine knows token ids, never text.

Letters: R requests in a forward pass, T new tokens of each, V vocabulary.
"""

import random
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice

import torch
from torch import Tensor

from nanochat.config import UserError
from nanochat.engine.request import ContextLengthError, Event, Finish, Reply, Request
from nanochat.engine.sampling import random_numbers, sample
from nanochat.gpt import GPT
from nanochat.kv_cache import KVCache

SCORED_LOGITS = 1 << 26  # at most this many float32 logits at once while scoring: 256 MiB


@dataclass
class _Running:
    """A request that was admitted to a slot."""

    id: int
    request: Request
    slot: int
    left: int  # how many more tokens may be sampled
    random: random.Random
    unread: deque[int]  # ids that are decided but not in the cache yet: the prompt, the last sample, forced tokens
    in_prompt: bool = True
    call: list[int] | None = None  # the ids since python_start, while a tool call is open


class Engine:
    """Continuous batching of requests over the slots of a KV cache.

    `submit`, `step` and `cancel` are the interface; `stream` and `generate` drive them for a list of requests, and
    `score` and `next_logits` rate given sequences. Not safe for use by several threads at once.
    """

    def __init__(self, model: GPT, slots: int = 8, max_len: int | None = None, prefill_chunk: int = 256) -> None:
        """slots: requests that run at once, the others wait. max_len: tokens of prompt and reply together, by default
        the model's sequence_len. prefill_chunk: prompt tokens read in one step, so that a long prompt does not stall
        the requests that are being answered.
        """
        self.model = model
        self.slots = slots
        self.max_len = model.config.sequence_len if max_len is None else max_len
        self.prefill_chunk = prefill_chunk
        self.cache = KVCache(model.config, slots, self.max_len, model.device, model.dtype)
        self._free = list(range(slots))  # a heap, the lowest slot first: the cache reads neighbours without a copy
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: dict[int, _Running] = {}  # by request id, in order of admission
        self._events: list[Event] = []  # those that a call other than step() caused
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Whether step() has anything to do."""
        return bool(self._waiting or self._running or self._events)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def check(self, request: Request) -> None:
        """Raises ContextLengthError (a UserError) where the prompt exceeds the context, UserError for an id >= V."""
        if len(request.prompt) > self.max_len:
            raise ContextLengthError(len(request.prompt), self.max_len)
        self._check_ids(request.prompt)

    def submit(self, request: Request) -> int:
        """Queue a request; returns the id that its events carry. Raises what `check` raises, before any work."""
        self.check(request)
        self._next_id += 1
        self._waiting.append((self._next_id, request))
        return self._next_id

    def cancel(self, request_id: int) -> bool:
        """End a request now; its last event comes with the next step. False if it is unknown or over."""
        if request_id in self._running:
            self._release(self._running[request_id])
        else:
            waiting = [entry for entry in self._waiting if entry[0] == request_id]
            if not waiting:
                return False
            self._waiting.remove(waiting[0])
        self._events.append(Event(request_id, None, finish="cancelled"))
        return True

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One step for everybody. Returns what happened, each request's events in order."""
        events, self._events = self._events, []
        events += self._admit()
        sampled: list[_Running] = []
        logits: list[Tensor] = []
        decoding = sorted((r for r in self._running.values() if not r.in_prompt), key=lambda r: r.slot)
        for group in self._prefill_groups():
            after = self._forward(group, min(len(group[0].unread), self.prefill_chunk))
            for row, running in enumerate(group):
                if not running.unread:
                    for finished in [running, *self._fork_to_twins(running)]:
                        finished.in_prompt = False
                        sampled.append(finished)
                        logits.append(after[row : row + 1])
        if decoding:
            after = self._forward(decoding, 1)
            rows = [row for row, running in enumerate(decoding) if not running.unread]
            if rows:
                sampled += [decoding[row] for row in rows]
                logits.append(after if len(rows) == len(decoding) else after[rows])
        if sampled:
            uniforms = [running.random.random() for running in sampled]
            tokens = sample(torch.cat(logits), [running.request for running in sampled], uniforms)
            for running, token in zip(sampled, tokens, strict=True):
                events += self._take(running, token)
        return events

    def stream(self, requests: Sequence[Request]) -> Generator[tuple[int, Event], None, None]:
        """Run requests to their ends, yielding (index into requests, event). Closing the iterator cancels the rest.

        Raises what `check` raises before any work, and RuntimeError if the Engine is busy with something else.
        """
        if self.busy:
            raise RuntimeError("the engine is busy: its steps would take the events of other requests")
        for request in requests:
            self.check(request)
        index = {self.submit(request): i for i, request in enumerate(requests)}
        unfinished = set(index)
        try:
            while unfinished:
                for event in self.step():
                    if event.finish:
                        unfinished.discard(event.request_id)
                    yield index[event.request_id], event
        finally:
            for request_id in unfinished:
                self.cancel(request_id)
            self._events.clear()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies to all requests, in their order. Raises what `stream` raises."""
        replies = [Reply() for _ in requests]
        for i, event in self.stream(requests):
            replies[i].add(event)
        return replies

    def score(self, sequences: Sequence[list[int]]) -> list[Tensor]:
        """How unlikely each token is after those before it.

        Returns for each sequence of n >= 1 ids a float32 tensor (n - 1,) on the CPU: the negative log likelihood in
        nats of every id but the first. Raises what `check` raises.
        """
        scores: list[Tensor] = [torch.empty(0)] * len(sequences)
        for indices, ids in self._padded(sequences):
            if ids.size(1) > 1:
                nll = self._evaluate(ids[:, :-1], ids[:, 1:]).cpu()
                for row, i in enumerate(indices):
                    scores[i] = nll[row, : len(sequences[i]) - 1].clone()
        return scores

    def next_logits(self, sequences: Sequence[list[int]]) -> Tensor:
        """The logits (N, V) float32 on the CPU of what follows each of N sequences. Raises what `check` raises."""
        result = torch.empty(len(sequences), self.model.config.vocab_size)
        for indices, ids in self._padded(sequences):
            ends = torch.tensor([len(sequences[i]) - 1 for i in indices], device=ids.device)
            logits = self._evaluate(ids)
            result[indices] = logits[torch.arange(len(indices), device=ids.device), ends].cpu()
        return result

    def _admit(self) -> list[Event]:
        """Give free slots to those who waited longest."""
        events = []
        while self._waiting and self._free:
            request_id, request = self._waiting.popleft()
            # The last token of all need not fit into the cache: nothing is sampled after it.
            left = self.max_len - len(request.prompt) + 1
            if request.max_tokens is not None:
                left = min(left, request.max_tokens)
            if left == 0:
                events.append(Event(request_id, None, finish="length"))
                continue
            slot = heappop(self._free)
            self.cache.reset(slot)
            self._running[request_id] = _Running(
                request_id, request, slot, left, random_numbers(request), deque(request.prompt)
            )
        return events

    def _prefill_groups(self) -> list[list[_Running]]:
        """Who reads how much of its prompt in this step: groups of requests that read equally many tokens.

        Together they read at most prefill_chunk tokens, the longest waiting first. Of requests with one prompt only
        the first reads it; the others get copies when it is done.
        """
        groups: dict[int, list[_Running]] = {}
        readers: list[_Running] = []
        budget = self.prefill_chunk
        for running in self._running.values():
            if not running.in_prompt or any(_twins(reader, running) for reader in readers):
                continue
            size = min(len(running.unread), self.prefill_chunk)
            if size > budget:
                break
            budget -= size
            readers.append(running)
            groups.setdefault(size, []).append(running)
        return [sorted(group, key=lambda running: running.slot) for group in groups.values()]

    def _fork_to_twins(self, source: _Running) -> list[_Running]:
        """Copy a prompt that was just read to the requests that wait for it; returns them."""
        twins = [running for running in self._running.values() if running.in_prompt and _twins(source, running)]
        for twin in twins:
            self.cache.fork(source.slot, twin.slot)
            twin.unread.clear()
        return twins

    def _forward(self, group: list[_Running], size: int) -> Tensor:
        """Read the next `size` unread ids of each of R requests; returns the logits (R, V) after the last."""
        ids = [list(islice(running.unread, size)) for running in group]
        rows = self.cache.rows([running.slot for running in group])
        logits = self.model(torch.tensor(ids, device=self.model.device), cache=rows)
        for running in group:  # only now: whatever the forward raises, the Engine stays consistent
            for _ in range(size):
                running.unread.popleft()
        return logits[:, -1]

    def _take(self, running: _Running, token: int) -> list[Event]:
        """What follows from a sampled token."""
        request = running.request
        if token in request.stop_ids:
            return [self._finish(running, None, "stop", stop_id=token)]
        running.left -= 1
        room = self.max_len - self.cache.lengths[running.slot]
        if running.left == 0 or room == 0:
            return [self._finish(running, token, "length")]
        running.unread.append(token)
        forced = self._tool_output(running, token)
        # A tool's output is given whole or not at all, and leaves room to go on.
        if 1 + len(forced) > room:
            return [self._finish(running, token, "length")]
        running.unread.extend(forced)
        return [Event(running.id, token)] + [Event(running.id, id_, forced=True) for id_ in forced]

    def _tool_output(self, running: _Running, token: int) -> list[int]:
        """The ids to force after a sampled token: not empty when it closes a tool call that has a result."""
        tools = running.request.tools
        if tools is None:
            return []
        if token == tools.ids.python_start:
            running.call = []
        elif token == tools.ids.python_end:
            call, running.call = running.call, None
            result = tools.run(call) if call else None
            if result is not None:
                return [tools.ids.output_start, *result, tools.ids.output_end]
        elif running.call is not None:
            running.call.append(token)
        return []

    def _finish(self, running: _Running, token: int | None, finish: Finish, stop_id: int | None = None) -> Event:
        self._release(running)
        return Event(running.id, token, finish=finish, stop_id=stop_id)

    def _release(self, running: _Running) -> None:
        del self._running[running.id]
        heappush(self._free, running.slot)

    @torch.inference_mode()
    def _evaluate(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.model(ids, targets)

    def _padded(self, sequences: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of sequences of similar length: (their indices, ids (R, T) padded on the right).

        What stands to the right changes nothing before it: attention is causal.
        """
        for ids in sequences:
            self.check(Request(ids))
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]), reverse=True)
        while order:
            longest = len(sequences[order[0]])
            rows = max(1, SCORED_LOGITS // (longest * self.model.config.vocab_size))
            indices, order = order[:rows], order[rows:]
            padded = [sequences[i] + [0] * (longest - len(sequences[i])) for i in indices]
            yield indices, torch.tensor(padded, device=self.model.device)

    def _check_ids(self, ids: Iterable[int]) -> None:
        vocabulary = self.model.config.vocab_size
        for id_ in ids:
            if not 0 <= id_ < vocabulary:
                raise UserError(f"token id {id_} is outside the model's vocabulary of {vocabulary}")


def _twins(reader: _Running, other: _Running) -> bool:
    """Whether `other` has read nothing of the very prompt that `reader` reads or has read."""
    unread = other.request.prompt
    return other is not reader and len(other.unread) == len(unread) and reader.request.prompt == unread
