"""The Engine: many requests share one model and one cache, and each gets the tokens it would get alone.

Generating one token reads all weights, whether for one request or for sixty, so requests are answered together. They
come and go at any time (continuous batching, Yu et al. 2022), by these ideas:

    slots       The KV cache has a fixed number of slots, one per running request; further requests wait in a queue.
    chunks      A prompt is read in pieces of at most `prefill_chunk` tokens per step, between the steps of the requests
                that are being answered, so a long prompt does not stall them (chunked prefill, Agrawal et al. 2023).
    reuse       A slot keeps what it read after its request has ended. A prompt that starts the same way, such as the
                next turn of a conversation, reads only what is new.
    forking     Requests with the same prompt, such as several samples, read it once; then its keys and values are
                copied to the other slots.
    tools       When the model closes a tool call, the tool runs and its result is forced into the reply.
    passes      On a GPU the model runs in passes of fixed shapes, recorded once, which also sample (`passes`), and the
                next one starts before the host has looked at the tokens of this one (`running`).

`step` does one round: admit waiting requests to free slots, read a chunk of the prompts, read one token of every
request that is past its prompt, sample the next tokens, and report what happened as events. The scheduling is plain
Python over small lists; tensors appear in `_forward`, `_sample`, `sampling` and `passes` alone. The Engine knows token
ids, never text.

Shapes: R requests in a forward pass, T new tokens of each, V vocabulary, N sequences to score.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nanochat.attention import pages_in_place
from nanochat.engine.passes import NEWEST, Passes
from nanochat.engine.request import ContextLengthError, Event, Finish, Reply, Request, Scored
from nanochat.engine.running import Drawing, Running, common, may_run_ahead
from nanochat.engine.sampling import Row, random_numbers, sample_checked, score, settings_of
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.kv_cache import CacheRows, KVCache
from nanochat.paged_cache import PagedCache

SCORED_LOGITS = 1 << 26  # at most this many float32 logits at once while scoring: 256 MiB
CHUNK = 256  # prompt tokens that a step reads
PAGED_CHUNK = 1024  # the same in passes; a guess, not yet measured on a GPU
WORTH_COPYING = 16  # tokens in common with another slot below which reading them is as quick as copying
TOOL_THREADS = 4  # slow tools that run at once
TOOL_WAIT = 0.02  # seconds a step waits for a tool when there is nothing else to do


@dataclass
class Stats:
    """Totals since the Engine was made."""

    steps: int = 0
    prompt_tokens: int = 0  # of all admitted prompts
    cached_tokens: int = 0  # those of them that needed no reading
    generated_tokens: int = 0  # sampled, not forced


class Engine:
    """Continuous batching of requests over the slots of a KV cache.

    `submit`, `step` and `cancel` are the interface; `stream` and `generate` drive them for a list of requests, and
    `score`, `next_logits` and `prompt_logprobs` rate given sequences. Not safe for use by several threads at once.
    """

    def __init__(
        self,
        model: GPT,
        slots: int = 8,
        max_len: int | None = None,
        prefill_chunk: int | None = None,
        paged: bool | None = None,
        buckets: Sequence[int] = (),
        compile: str = "",
    ) -> None:
        """slots: requests that run at once. max_len: tokens of prompt and reply together, by default the model's
        sequence_len. prefill_chunk: prompt tokens to read per step, by default 256, on a GPU PAGED_CHUNK.

        paged: work in passes of fixed shapes (`Passes`, which explains buckets and compile), by default where the
        device's attention reads pages in place. Raises UserError for less than 1 of any, and for a compile that has
        nothing to compile.
        """
        self.model = model
        self.slots = slots
        self.max_len = model.config.sequence_len if max_len is None else max_len
        paged = pages_in_place(model.device, model.dtype, model.config.head_size) if paged is None else paged
        self.prefill_chunk = prefill_chunk if prefill_chunk is not None else PAGED_CHUNK if paged else CHUNK
        for name, value in (("slots", slots), ("max_len", self.max_len), ("prefill_chunk", self.prefill_chunk)):
            if value < 1:
                raise UserError(f"{name} is {value}; expected 1 or more")
        if compile and not paged:
            raise UserError(
                f"decoding is compiled where attention reads the cache in pages, which {model.dtype} on {model.device} "
                "does not; leave --compile out"
            )
        kind = PagedCache if paged else KVCache
        self.cache = kind(model.config, slots, self.max_len, model.device, model.dtype)
        self._passes: Passes | None = None
        if isinstance(self.cache, PagedCache):
            self._passes = Passes(model, self.cache, self.prefill_chunk, buckets, compile)
        self.stats = Stats()
        self._held: list[list[int]] = [[] for _ in range(slots)]  # the ids whose keys and values are in each slot
        self._free = list(range(slots))  # longest unused first
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: dict[int, Running] = {}  # by request id, in order of admission
        self._events: list[Event] = []  # of calls other than step(), reported by the next step
        self._next_id = 0
        self._ahead: Drawing | None = None
        self._tools: futures.ThreadPoolExecutor | None = None  # made for the first slow tool

    @property
    def way(self) -> str:
        """How the model runs, for a line that says what was chosen; empty for the plain way."""
        return "" if self._passes is None else f", in {self._passes}"

    @property
    def busy(self) -> bool:
        """Whether step() has anything to do."""
        return bool(self._waiting or self._running or self._events)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    @property
    def waiting(self) -> int:
        """How many requests have no slot yet."""
        return len(self._waiting)

    def in_common(self, prompt: list[int]) -> int:
        """How many of a prompt's first tokens a slot holds, or is about to hold, so that they need no reading.

        Another thread may step meanwhile.
        """
        texts = [*self._held, *(running.request.prompt for running in list(self._running.values()))]
        most = max(common(text, prompt[:-1]) for text in texts)
        return most if most >= WORTH_COPYING else 0

    def check(self, request: Request) -> None:
        """Raise ContextLengthError (a UserError) if the prompt exceeds the context, UserError for an id >= V."""
        if len(request.prompt) > self.max_len and not request.rolls:
            raise ContextLengthError(len(request.prompt), self.max_len)
        self._check_ids(request.prompt)
        self._check_ids(request.logit_bias)

    def submit(self, request: Request) -> int:
        """Queue a request and return the id that its events carry. Raises what `check` raises."""
        self.check(request)
        if request.rolls:
            request = replace(request, prompt=request.prompt[-self.max_len :])
        self._next_id += 1
        self._waiting.append((self._next_id, request))
        return self._next_id

    def forget(self) -> None:
        """Drop what the slots hold, because the model's weights have changed. Raises RuntimeError if busy."""
        if self.busy:
            raise RuntimeError("the engine is busy: its cache belongs to the present weights")
        self._held = [[] for _ in range(self.slots)]
        self._ahead = None

    def update(self, model: GPT) -> None:
        """Continue with the weights of a model of the same shape. Raises RuntimeError if busy."""
        self.forget()
        if self._passes is None:
            self.model = model
            return
        with torch.no_grad():  # recorded passes read the weights where they are
            for mine, new in zip(self.model.parameters(), model.parameters(), strict=True):
                mine.copy_(new)

    def cancel(self, request_id: int) -> bool:
        """End a request; its last event comes with the next step. False if it is unknown or has ended."""
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
        """One step of all requests. Returns what happened, each request's events in order.

        An error (of a tool, a constraint, a full GPU) ends all requests that have a slot, because some may be a step
        ahead of the others. Their last events, "cancelled", come with the next step.
        """
        self.stats.steps += 1
        events, self._events = self._events, []
        try:
            self._advance(events)
        except BaseException:
            self._ahead = None
            self._events = events + [self._finish(each, None, "cancelled") for each in list(self._running.values())]
            raise
        return events

    def _advance(self, events: list[Event]) -> None:
        """The parts of a step in order: admit, collect tool results, read prompts, decode, sample."""
        events += self._admit()
        events += self._collect_tools()
        # Who decodes is settled before prompts are read: a prompt that ends in this step yields its first token below.
        decoding = sorted((r for r in self._running.values() if not r.reading and not r.pending), key=lambda r: r.slot)
        sampled, logits = self._read_prompts()
        drawing, self._ahead = self._ahead, None
        drawn = decoding
        if drawing:
            drawn = [running for running in drawing.runnings if running.id in self._running]
            self._were_read(drawn, [1] * len(drawn))  # the ids that this pass reads are known by now
        elif decoding and self._passes and all(running.draws_alone for running in decoding):
            drawing = self._draw(self._passes, decoding, [running.unread[0] for running in decoding])
            self._were_read(decoding, [1] * len(decoding))
        elif decoding:
            sampled += decoding
            logits.append(self._forward(decoding, 1))
        certain = drawn == decoding and not sampled and may_run_ahead(decoding, self.cache.lengths, self.max_len)
        if drawing and self._passes and certain:
            self._ahead = self._draw(self._passes, decoding, [NEWEST] * len(decoding))
        if sampled:
            self._sample(torch.cat(logits), sampled, events)
        if drawing:
            self._take_drawn(drawing, events)

    def stream(self, requests: Sequence[Request]) -> Generator[tuple[int, Event], None, None]:
        """Run requests to their ends, yielding (index into requests, event). Closing the iterator cancels the rest.

        Raises what `check` raises before any work, and RuntimeError if the Engine is busy with something else.
        """
        if self.busy:
            raise RuntimeError("the engine is busy: stepping it here would lose the events of other requests")
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
        """The negative log likelihood, in nats, of each token after those before it.

        Returns for each sequence of n >= 1 ids a float32 tensor (n - 1,) on the CPU, for every id but the first.
        Raises what `check` raises.
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

    def prompt_logprobs(self, ids: list[int], top: int) -> list[Scored]:
        """How likely each of n >= 1 ids but the first was after those before it, and the `top` most likely ids there.

        Raises what `check` raises.
        """
        self.check(Request(ids))
        if len(ids) == 1:
            return []
        read = ids[:-1]
        cache = KVCache(self.model.config, 1, len(read), self.model.device, self.model.dtype)
        scored: list[Scored] = []
        for start in range(0, len(read), self.prefill_chunk):  # the logits of a whole long prompt take half a gigabyte
            piece = torch.tensor([read[start : start + self.prefill_chunk]], device=self.model.device)
            targets = ids[start + 1 : start + 1 + piece.size(1)]
            scored += score(self._evaluate(piece, cache=cache.rows([0]))[0], targets, [top] * len(targets))
        return scored

    def _admit(self) -> list[Event]:
        """Give free slots to the requests that have waited longest."""
        events = []
        while self._waiting and self._free:
            request_id, request = self._waiting.popleft()
            self.stats.prompt_tokens += len(request.prompt)
            # The last token need not fit into the cache: nothing is sampled after it.
            left = self.max_len - len(request.prompt) + 1
            if request.max_tokens is not None:
                left = request.max_tokens if request.rolls else min(left, request.max_tokens)
            if left == 0:
                events.append(Event(request_id, None, finish="length"))
                continue
            slot, cached = self._seat(request.prompt)
            self.stats.cached_tokens += cached
            constraint = request.constraint.copy() if request.constraint else None
            unread = deque(request.prompt[cached:])
            self._running[request_id] = Running(
                request_id, request, slot, left, request.min_tokens, random_numbers(request), unread, constraint, cached
            )
        return events

    def _seat(self, prompt: list[int]) -> tuple[int, int]:
        """Choose a free slot for a prompt; returns it and how many of the prompt's tokens it holds already."""
        slot = self._free[0]
        cached = 0
        # If another request is reading this very prompt, it will be forked to this one; see `_prefill_groups`.
        if not any(other.is_reading(prompt) for other in self._running.values()):
            body = prompt[:-1]  # the last token is always read: the logits after it are not kept
            in_common = [common(held, body) for held in self._held]
            best = max(range(self.slots), key=in_common.__getitem__)
            if in_common[best] >= WORTH_COPYING:
                cached = in_common[best]
                if best in self._free and 2 * cached >= len(self._held[best]):
                    slot = best  # most likely the same conversation: continue in its slot
                elif best != slot:
                    self.cache.fork(best, slot)  # another conversation with the same beginning: copy that
        self._free.remove(slot)
        self._held[slot] = prompt[:cached]
        self.cache.cut(slot, cached, prompt[cached - 1] if cached else -1)
        return slot, cached

    def _prefill_groups(self) -> list[list[Running]]:
        """The requests that read a piece of their prompt in this step, in groups that read equally many tokens.

        Together they read at most prefill_chunk tokens, in order of admission. Of several requests with the same prompt
        only the first reads it; the others get copies when it is done.
        """
        groups: dict[int, list[Running]] = {}
        readers: list[Running] = []
        budget = self.prefill_chunk
        # Requests that have outgrown the context read all of it again for each token, so they come last.
        for running in sorted(self._running.values(), key=lambda running: running.rolled):
            prompt = running.request.prompt
            is_twin = not running.counts and any(reader.is_reading(prompt) for reader in readers)
            if not running.reading or is_twin:
                continue
            size = min(len(running.unread), self.prefill_chunk)
            if size > budget:
                break
            budget -= size
            readers.append(running)
            groups.setdefault(size, []).append(running)
        return [sorted(group, key=lambda running: running.slot) for group in groups.values()]

    def _fork_to_twins(self, source: Running) -> list[Running]:
        """Fork: copy a prompt that was just read to the slots of the requests that wait for it; returns those."""
        if source.counts:  # what it has just read was a tool's output
            return []
        prompt = source.request.prompt
        twins = [each for each in self._running.values() if each is not source and each.is_reading(prompt)]
        for twin in twins:
            self.cache.fork(source.slot, twin.slot)
            self._held[twin.slot] = list(self._held[source.slot])
            self.stats.cached_tokens += len(twin.unread)
            twin.cached += len(twin.unread)
            twin.unread.clear()
        return twins

    def _read_prompts(self) -> tuple[list[Running], list[Tensor]]:
        """Read a chunk of the prompts.

        Returns the requests that get their first token in this step, and in pieces the logits (R, V) to sample it from.
        """
        groups = self._prefill_groups()
        if self._passes and groups:
            groups = [[running for group in groups for running in group]]  # all in one pass, whatever their lengths
        sampled: list[Running] = []
        logits: list[Tensor] = []
        for group in groups:
            after = self._forward(group, self.prefill_chunk)  # (R, V)
            for row, running in enumerate(group):
                if not running.unread:
                    for finished in [running, *self._fork_to_twins(running)]:
                        finished.reading = False
                        sampled.append(finished)
                        logits.append(after[row : row + 1])
        return sampled, logits

    def _forward(self, group: list[Running], most: int) -> Tensor:
        """Read the next unread ids, at most `most`, of each of R requests; returns the logits (R, V) after the last.

        Without passes all must have equally many.
        """
        ids = [list(islice(running.unread, most)) for running in group]
        if self._passes:
            entries = [(running.slot, read) for running, read in zip(group, ids, strict=True)]
            if most > 1:
                logits = self._passes.read(entries)
            else:
                logits = self._passes.decode([(slot, read[0]) for slot, read in entries])
        else:
            assert isinstance(self.cache, KVCache)
            rows = self.cache.rows([running.slot for running in group])
            logits = self.model(torch.tensor(ids, device=self.model.device), cache=rows, last_only=True)[:, -1]
        self._were_read(group, [len(read) for read in ids])
        return logits

    def _were_read(self, group: list[Running], counts: list[int]) -> None:
        """So many of their unread ids are in the cache now."""
        for running, count in zip(group, counts, strict=True):
            held = self._held[running.slot]
            for _ in range(count):
                held.append(running.unread.popleft())
            self.cache.lengths[running.slot] = len(held)

    def _draw(self, passes: Passes, decoding: list[Running], ids: list[int]) -> Drawing:
        """Start a pass that reads one id of each request and samples the next."""
        settings = settings_of([self._row(running) for running in decoding], self.model.config.vocab_size)
        entries = [(running.slot, id) for running, id in zip(decoding, ids, strict=True)]
        return Drawing(decoding, passes.decode_and_draw(entries, settings))

    def _take_drawn(self, drawing: Drawing, events: list[Event]) -> None:
        """Wait for tokens that were sampled on the device, and add what follows from them to the events."""
        tokens, finite = drawing.drawn.read()
        for running, is_finite in zip(drawing.runnings, finite, strict=True):
            running.is_finite &= is_finite
        for running, token in zip(drawing.runnings, tokens, strict=True):
            if running.id in self._running:
                events += self._accept(running, token)
            elif not running.is_finite and running.slot in self._free:  # what it wrote after its end must not stay
                self.cache.wipe(running.slot)
                self._held[running.slot] = []

    def _sample(self, logits: Tensor, sampled: list[Running], events: list[Event]) -> None:
        """Sample the next token of each of R requests from its logits (R, V), and add what follows to the events."""
        tokens, finite = sample_checked(logits, [self._row(running) for running in sampled])
        scored: dict[int, Scored] = {}
        if asked := [i for i, running in enumerate(sampled) if running.request.logprobs is not None]:
            top = [sampled[i].request.logprobs or 0 for i in asked]
            scored = dict(zip(asked, score(logits[asked], [tokens[i] for i in asked], top), strict=True))
        for running, is_finite in zip(sampled, finite, strict=True):
            running.is_finite &= is_finite
        for i, (running, token) in enumerate(zip(sampled, tokens, strict=True)):
            events += self._accept(running, token, scored.get(i))

    def _row(self, running: Running) -> Row:
        return Row(running.request, running.random.random(), running.counts, self._mask(running))

    def _accept(self, running: Running, token: int, scored: Scored | None = None) -> list[Event]:
        self.stats.generated_tokens += 1
        if running.constraint:
            running.constraint.accept(token)
        return self._take(running, token, scored)

    def _mask(self, running: Running) -> Tensor | None:
        """Which ids (V,) a request may get next; None: all."""
        mask = running.constraint.mask() if running.constraint else None
        stops = running.request.stop_ids
        if running.least <= 0 or not stops:
            return mask
        longer = torch.ones(self.model.config.vocab_size, dtype=torch.bool) if mask is None else mask.clone()
        longer[list(stops)] = False
        return longer if longer.any() else mask

    def _take(self, running: Running, token: int, scored: Scored | None) -> list[Event]:
        """The events that follow from a sampled token: the request ends, or the token will be read in the next step."""
        if token in running.request.stop_ids:
            return [self._finish(running, None, "stop", stop_id=token, scored=scored)]
        running.left -= 1
        running.least -= 1
        full = self.cache.lengths[running.slot] == self.max_len
        if running.left == 0 or full and not running.request.rolls:
            return [self._finish(running, token, "length", scored=scored)]
        if full:
            self._roll(running)
        running.unread.append(token)
        running.counts[token] += 1
        return [self._event(running, token, scored=scored), *self._call_tool(running, token)]

    def _roll(self, running: Running) -> None:
        """Make room in a full slot: drop its first id and read the others again, at positions that start at 0."""
        running.unread.extend(self._held[running.slot][1:])
        running.reading = running.rolled = True
        self._held[running.slot] = []
        self.cache.cut(running.slot, 0)

    def _call_tool(self, running: Running, token: int) -> list[Event]:
        """Run the tool if this sampled token closes a call; returns the forced events, if it is a quick one."""
        tools = running.request.tools
        if tools is None:
            return []
        if token == tools.ids.python_start:
            running.call = []
        elif token == tools.ids.python_end:
            call, running.call = running.call, None
            if call and tools.slow:
                self._tools = self._tools or futures.ThreadPoolExecutor(TOOL_THREADS, "tool")
                running.pending = self._tools.submit(tools.run, call)
            elif call:
                return self._force(running, tools.run(call))
        elif running.call is not None:
            running.call.append(token)
        return []

    def _collect_tools(self) -> list[Event]:
        """The forced events of slow tools that are done. If all requests wait for tools, wait a moment, too."""
        pending = [running for running in self._running.values() if running.pending]
        if pending and len(pending) == len(self._running):
            futures.wait([r.pending for r in pending if r.pending], TOOL_WAIT, futures.FIRST_COMPLETED)
        events = []
        for running in pending:
            if running.pending and running.pending.done():
                done, running.pending = running.pending, None
                events += self._force(running, done.result())
        return events

    def _force(self, running: Running, result: list[int] | None) -> list[Event]:
        """Force a tool's result into the reply. It must fit into the context as a whole, or the reply ends here."""
        if result is None:
            return []
        assert running.request.tools is not None
        ids = running.request.tools.ids
        forced = [ids.output_start, *result, ids.output_end]
        if self.cache.lengths[running.slot] + len(running.unread) + len(forced) > self.max_len:
            return [self._finish(running, None, "length")]
        running.unread.extend(forced)
        running.counts.update(forced)
        running.reading = True
        return [self._event(running, id, forced=True) for id in forced]

    def _finish(self, running: Running, token: int | None, finish: Finish, **details: Any) -> Event:
        self._release(running)
        return self._event(running, token, finish=finish, **details)

    def _event(self, running: Running, token: int | None, **details: Any) -> Event:
        cached, running.cached = running.cached, 0
        return Event(running.id, token, cached=cached, **details)

    def _release(self, running: Running) -> None:
        """Free the slot of a request that ends. What it holds stays for prompts that start the same way."""
        del self._running[running.id]
        self._free.append(running.slot)
        if running.pending:
            running.pending.cancel()  # if it has not started yet
        if not running.is_finite:
            self.cache.wipe(running.slot)
            self._held[running.slot] = []

    @torch.inference_mode()
    def _evaluate(self, ids: Tensor, targets: Tensor | None = None, cache: CacheRows | None = None) -> Tensor:
        return self.model(ids, targets, cache)

    def _padded(self, sequences: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of sequences of similar length: (their indices, ids (R, T) padded on the right).

        Padding on the right changes nothing before it, because attention is causal.
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
