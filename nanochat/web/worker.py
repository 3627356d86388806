"""The Engines behind the server, and the queue before them.

Everything but the Engine's own work happens in the event loop: generations are queued, submitted and cancelled between
two steps. Steps run in a thread, one after the other while there is nothing to do between them. While one runs, the
event loop delivers what the step before it has yielded.
"""

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nanochat.engine.engine import Engine
from nanochat.engine.request import Event
from nanochat.errors import UserError
from nanochat.web.generation import Generation

log = logging.getLogger("nanochat.web")
Result = TypeVar("Result")

# What a step may raise without ending the server: a bug or a full GPU must only cost its own requests.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError, UserError,
)  # fmt: skip
FIRST_GUESS = 2.0  # seconds per generation, before any has ended
MUCH_BUSIER = 0.5  # as a fraction of the slots: beyond it a prompt is read again elsewhere rather than kept together
BEHIND = 0.5  # seconds that a step waits for the event loop to deliver what the one before it has yielded


class QueueFullError(Exception):
    """More requests are waiting than the queue holds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests are waiting")
        self.waiting = waiting
        self.retry_after = retry_after  # seconds


Delivery = tuple[Generation, int, Event]  # of a generation's request with this index


class Pool:
    """The Engines of one model behind one queue, in order of arrival.

    A conversation returns to the Engine that holds its beginning, unless that one is much busier than another; what no
    Engine knows goes to the one with most free slots.
    """

    def __init__(self, engines: Sequence[Engine], max_queue: int) -> None:
        self.max_queue = max_queue
        self.workers = [Worker(engine, self) for engine in engines]
        self._queue: deque[Generation] = deque()
        self._seconds = FIRST_GUESS  # per generation, a moving average

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    async def stop(self) -> None:
        """End the workers after their current step."""
        for worker in self.workers:
            await worker.stop()

    @property
    def slots(self) -> int:
        return sum(worker.engine.slots for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        queued = sum(len(generation.requests) for generation in self._queue)
        return queued + sum(max(0, worker.load - worker.engine.slots) for worker in self.workers)

    @property
    def figures(self) -> dict[str, int]:
        """The current load, and what the Engines have counted since the start."""
        engines = [worker.engine for worker in self.workers]
        counted = ("steps", "prompt_tokens", "cached_tokens", "generated_tokens")
        return {
            "slots": self.slots,
            "busy_slots": sum(engine.slots - engine.free_slots for engine in engines),
            "waiting": self.waiting,
            **{name: sum(getattr(engine.stats, name) for engine in engines) for name in counted},
        }

    @property
    def idle(self) -> bool:
        return not self._queue and all(worker.load == 0 for worker in self.workers)

    @property
    def healthy(self) -> bool:
        return all(worker.alive for worker in self.workers)

    def submit(self, generation: Generation) -> None:
        """Queue a generation. Raises QueueFullError when more than max_queue requests would wait."""
        free = sum(max(0, worker.free) for worker in self.workers)
        if self.waiting + len(generation.requests) > free + self.max_queue:
            wait = self._seconds * (1 + self.waiting / self.slots)
            raise QueueFullError(self.waiting, min(60, max(1, math.ceil(wait))))
        self._queue.append(generation)
        self.dispatch()

    def cancel(self, generation: Generation, index: int | None = None) -> None:
        """End a generation, or one of its requests, within one step. Its "cancelled" events still come."""
        if generation.ended.done():
            return
        if generation not in self._queue:
            for worker in self.workers:
                worker.cancel(generation, index)
            return
        assert index is None, "a waiting request has generated nothing that could end it"
        self._queue.remove(generation)
        for index in range(len(generation.requests)):
            generation.take(index, Event(0, None, finish="cancelled"))
        generation.flush()

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        """Run work(engine) between two steps of the least busy Engine; raises what it raises."""
        return await max(self.workers, key=lambda worker: worker.free).call(work)

    def dispatch(self) -> None:
        """Give waiting generations to Engines with free slots."""
        while self._queue:
            worker = self._choose(self._queue[0])
            if worker is None:
                return
            worker.give(self._queue.popleft())

    def _choose(self, generation: Generation) -> "Worker | None":
        """Who answers; None while nobody has a free slot."""
        most = max(worker.free for worker in self.workers)
        if most <= 0 or len(self.workers) == 1:
            return self.workers[0] if most > 0 else None
        near = [w for w in self.workers if w.free > 0 and most - w.free <= MUCH_BUSIER * w.engine.slots]
        prompt = generation.requests[0].prompt
        return max(near, key=lambda worker: (worker.engine.in_common(prompt), worker.free))

    def took(self, seconds: float) -> None:
        """A generation ended after this long; `Retry-After` is estimated from it."""
        self._seconds += 0.1 * (seconds - self._seconds)


class Worker:
    """One Engine, its thread, and the task that steps it."""

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self.engine = engine
        self.load = 0  # requests given to it that have not ended
        self._pool = pool
        self._thread = ThreadPoolExecutor(1, "engine")
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # there is something to do before the next step
        self._delivered = threading.Event()  # what the thread has handed over
        self._delivered.set()
        self._stopping = False
        self._given: list[Generation] = []
        self._cancelled: list[tuple[Generation, int | None]] = []
        self._between = asyncio.Lock()  # held during a step, and during a call
        self._orphans: list[int] = []  # requests to cancel, of generations that failed
        self._running: dict[int, tuple[Generation, int]] = {}  # by the Engine's request id

    @property
    def alive(self) -> bool:
        """False after an error that a step should never raise; /health then reports it."""
        return self._task is not None and not self._task.done()

    @property
    def free(self) -> int:
        return self.engine.slots - self.load if self.alive else 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._thread.shutdown()

    def give(self, generation: Generation) -> None:
        self.load += len(generation.requests)
        self._given.append(generation)
        self._changed.set()

    def cancel(self, generation: Generation, index: int | None) -> None:
        """End what runs here of a generation, before the next step."""
        self._cancelled.append((generation, index))
        self._changed.set()

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        self._changed.set()
        async with self._between:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self.engine)

    async def _run(self) -> None:
        batch: list[Delivery] = []
        while not self._stopping:
            async with self._between:
                self._prepare()
                step = None
                if self.engine.busy:
                    loop = asyncio.get_running_loop()
                    step = loop.run_in_executor(self._thread, self._steps, loop)
                self._deliver(batch)  # while the step runs
                batch = []
                if step is not None:
                    try:
                        batch = self._collect(await step)
                    except FAILURES as error:
                        log.exception("a step of the engine failed")
                        for generation in dict.fromkeys(generation for generation, _ in self._running.values()):
                            self._end(generation, f"the engine failed: {type(error).__name__}")
                self._pool.dispatch()
            if not (batch or self.engine.busy):
                await self._changed.wait()

    def _steps(self, loop: asyncio.AbstractEventLoop) -> Sequence[Event]:
        """In the thread: step until something is to be done between two steps. Returns the events of the last one.

        Those of the others are handed over. Were the thread to wait for the event loop after every step, one stream of
        a small model would lose a fifth of its tokens per second.
        """
        while True:
            events = self.engine.step()
            delivered = self._delivered.wait(BEHIND)
            ended = not self.engine.busy or any(event.finish is not None for event in events)
            if ended or not delivered or self._changed.is_set():
                return events
            if events:
                self._delivered.clear()
                loop.call_soon_threadsafe(self._pass_on, events)

    def _pass_on(self, events: Sequence[Event]) -> None:
        try:
            self._deliver(self._collect(events))
        finally:
            self._delivered.set()

    def _prepare(self) -> None:
        """Submit and cancel what came since the last step."""
        self._changed.clear()
        given, self._given = self._given, []
        cancelled, self._cancelled = self._cancelled, []
        for generation in given:
            try:
                for index, request in enumerate(generation.requests):
                    self._running[self.engine.submit(request)] = generation, index
            except FAILURES as error:
                log.exception("a request could not be submitted")
                self.load -= len(generation.requests) - len(self._ids(generation))
                self._end(generation, str(error))
        orphans, self._orphans = self._orphans, []
        for id in [*orphans, *(id for generation, index in cancelled for id in self._ids(generation, index))]:
            self.engine.cancel(id)

    def _ids(self, generation: Generation, index: int | None = None) -> list[int]:
        """The Engine's ids of a generation's requests, or of one of them, that run."""
        return [
            id for id, (each, position) in self._running.items() if each is generation and index in (None, position)
        ]

    def _collect(self, events: Sequence[Event]) -> list[Delivery]:
        """Who gets the events of a step. Slots of ended requests are free for what waits."""
        batch: list[Delivery] = []
        for event in events:
            if event.request_id in self._running:  # not of a generation that failed
                batch.append((*self._running[event.request_id], event))
                if event.finish is not None:
                    del self._running[event.request_id]
                    self.load -= 1
        return batch

    def _deliver(self, batch: Sequence[Delivery]) -> None:
        for generation, index, event in batch:
            try:
                generation.take(index, event)
            except FAILURES:
                log.exception("an event could not be passed on")
                self._end(generation, "the reply could not be written")
        for generation in dict.fromkeys(generation for generation, _, _ in batch):
            generation.flush()

    def _end(self, generation: Generation, reason: str) -> None:
        """End a generation because of an error. The Engine's last events of it go to nobody."""
        for id in self._ids(generation):
            self._orphans.append(id)
            del self._running[id]
            self.load -= 1
        self._changed.set()
        generation.fail(reason)
        generation.flush()
