"""The threads that run the Engines, and the one queue before them.

The event loop submits and cancels; each Engine has a thread of its own that steps it while there is work and sleeps
when there is none. What a step yields goes back to the event loop in one batch, however many clients it concerns.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from nanochat.engine.engine import Engine
from nanochat.engine.request import Event, Request
from nanochat.errors import UserError

log = logging.getLogger("nanochat.web")
Result = TypeVar("Result")

# What a step may raise without the end of the server: a bug or a full GPU must cost no more than its own requests.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError, UserError,
)  # fmt: skip
FIRST_GUESS = 2.0  # seconds that a request takes, before any has been seen


class QueueFullError(Exception):
    """There are more requests waiting than the queue takes."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests are waiting already")
        self.waiting = waiting
        self.retry_after = retry_after  # seconds


class Sink(Protocol):
    """Where the events of a job go. All three are called in the event loop."""

    def take(self, index: int, event: Event) -> None:
        """An event of the job's request `index`."""
        ...

    def flush(self) -> None:
        """The events of a step are complete."""
        ...

    def fail(self, reason: str) -> None:
        """The job ended because something broke; no event follows."""
        ...


class Job:
    """The requests of one client's call. They run on one Engine, so that samples share their prompt."""

    def __init__(self, requests: Sequence[Request], sink: Sink) -> None:
        self.requests = requests
        self.sink = sink
        self.worker: Worker | None = None  # None while it waits in the queue
        self.ids: list[int] = []  # the Engine's, in the order of the requests
        self.over = False  # in the event loop: nothing is delivered any more
        self.started = time.monotonic()
        self.left = len(requests)


Delivery = tuple[Job, int, "Event | str"]  # a string says why the job failed


class Pool:
    """Engines of one model behind one queue.

    A job goes to the Engine with the most free slots, in the order of arrival. All methods are for the event loop.
    """

    def __init__(self, engines: Sequence[Engine], max_queue: int) -> None:
        self.max_queue = max_queue
        self.lock = threading.Lock()
        self.workers = [Worker(engine, self) for engine in engines]
        self._queue: deque[Job] = deque()
        self._seconds = FIRST_GUESS  # a job's, as a moving mean

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        for worker in self.workers:
            worker.start(loop)

    def stop(self) -> None:
        """End the threads, in the middle of whatever they do; returns when they have."""
        for worker in self.workers:
            worker.stop()

    @property
    def slots(self) -> int:
        return sum(worker.engine.slots for worker in self.workers)

    @property
    def busy_slots(self) -> int:
        return sum(worker.engine.slots - worker.engine.free_slots for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        queued = sum(len(job.requests) for job in self._queue)
        return queued + sum(max(0, worker.load - worker.engine.slots) for worker in self.workers)

    @property
    def totals(self) -> dict[str, int]:
        """What the Engines have counted since they were made."""
        names = ("steps", "prompt_tokens", "cached_tokens", "generated_tokens")
        return {name: sum(getattr(worker.engine.stats, name) for worker in self.workers) for name in names}

    @property
    def idle(self) -> bool:
        return not self._queue and all(worker.load == 0 for worker in self.workers)

    @property
    def healthy(self) -> bool:
        return all(worker.alive for worker in self.workers)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises QueueFullError when more than max_queue requests would wait."""
        with self.lock:
            free = sum(max(0, worker.free) for worker in self.workers)
            if self.waiting + len(job.requests) > free + self.max_queue:
                wait = self._seconds * (1 + self.waiting / self.slots)
                raise QueueFullError(self.waiting, min(60, max(1, math.ceil(wait))))
            self._queue.append(job)
            self.dispatch()

    def cancel(self, job: Job, index: int | None = None) -> None:
        """End a job, or one of its requests, within one step. Its "cancelled" events still come."""
        with self.lock:
            if job.over:
                return
            if job.worker is not None:
                job.worker.cancel(job, index)
                return
            assert index is None, "a request that waits has said nothing that could end it"
            self._queue.remove(job)
        for index in range(len(job.requests)):
            job.sink.take(index, Event(0, None, finish="cancelled"))
        job.over = True
        job.sink.flush()

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        """Run work(engine) between two steps of the least busy Engine; raises what it raises."""
        with self.lock:
            worker = max(self.workers, key=lambda worker: worker.free)
            return_to: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            worker.call(work, return_to)
        return await return_to

    def dispatch(self) -> None:
        """Give waiting jobs to Engines with free slots. The lock is held."""
        while self._queue:
            worker = max(self.workers, key=lambda worker: worker.free)
            if worker.free <= 0:
                return
            worker.give(self._queue.popleft())

    def lost(self) -> list[Job]:
        """Empty the queue where no Engine is left that could take from it. The lock is held."""
        if any(worker.alive for worker in self.workers):
            return []
        jobs = list(self._queue)
        self._queue.clear()
        return jobs

    def took(self, seconds: float) -> None:
        """A job ended after this long; `Retry-After` is estimated from it."""
        self._seconds += 0.1 * (seconds - self._seconds)


class Worker:
    """One Engine and its thread. What is not private is called with the pool's lock held, except start and stop."""

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self.engine = engine
        self.load = 0  # requests it was given that are not over
        self.alive = True
        self._pool = pool
        self._wake = threading.Condition(pool.lock)
        self._jobs: list[Job] = []
        self._cancelled: list[tuple[Job, int | None]] = []
        self._calls: list[tuple[Callable, asyncio.Future]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[int, tuple[Job, int]] = {}  # by the Engine's request id
        self._outbox: list[Delivery] = []

    @property
    def free(self) -> int:
        return self.engine.slots - self.load if self.alive else 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def give(self, job: Job) -> None:
        job.worker = self
        self.load += len(job.requests)
        self._jobs.append(job)
        self._wake.notify()

    def cancel(self, job: Job, index: int | None) -> None:
        self._cancelled.append((job, index))
        self._wake.notify()

    def call(self, work: Callable, return_to: asyncio.Future) -> None:
        self._calls.append((work, return_to))
        self._wake.notify()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            with self._wake:
                self.alive = False
                lost, self._jobs = self._jobs + self._pool.lost(), []
            reason = f"the engine stopped: {type(error).__name__}"
            self._send(self._failed(reason) + [(job, 0, reason) for job in lost])
            raise

    def _turn(self) -> bool:
        """Wait for work and do one step of it. False when the thread is to end."""
        with self._wake:
            while not (self._jobs or self._cancelled or self._calls or self.engine.busy or self._stopping):
                self._wake.wait()
            jobs, self._jobs = self._jobs, []
            cancelled, self._cancelled = self._cancelled, []
            calls, self._calls = self._calls, []
        if self._stopping:
            return False
        batch: list[Delivery] = []
        for job in jobs:
            batch += self._admit(job)
        for job, index in cancelled:
            for id in job.ids if index is None else job.ids[index : index + 1]:
                self.engine.cancel(id)
        for work, return_to in calls:
            self._answer(work, return_to)
        if self.engine.busy:
            batch += self._step()
        self._send(batch)
        return True

    def _admit(self, job: Job) -> list[Delivery]:
        try:
            for index, request in enumerate(job.requests):
                id = self.engine.submit(request)
                job.ids.append(id)
                self._running[id] = (job, index)
        except FAILURES as error:
            log.exception("a request could not be submitted")
            for id in job.ids:
                self.engine.cancel(id)
                del self._running[id]
            self._over(len(job.requests))
            return [(job, 0, str(error))]
        return []

    def _step(self) -> list[Delivery]:
        try:
            events = self.engine.step()
        except FAILURES as error:
            log.exception("a step of the engine failed")
            return self._failed(f"the engine failed: {type(error).__name__}")
        batch: list[Delivery] = []
        over = 0
        for event in events:
            running = self._running.get(event.request_id)
            if running is None:  # of a job that failed
                continue
            if event.finish is not None:
                del self._running[event.request_id]
                over += 1
            batch.append((*running, event))
        if over:
            self._over(over)
        return batch

    def _failed(self, reason: str) -> list[Delivery]:
        """End every request that was in the step."""
        jobs = dict.fromkeys(job for job, _ in self._running.values())
        for id in self._running:
            self.engine.cancel(id)
        self._over(len(self._running))
        self._running.clear()
        return [(job, 0, reason) for job in jobs]

    def _over(self, count: int) -> None:
        with self._wake:
            self.load -= count
            self._pool.dispatch()

    def _answer(self, work: Callable, return_to: asyncio.Future) -> None:
        try:
            result, error = work(self.engine), None
        except FAILURES as raised:
            result, error = None, raised

        def settle() -> None:
            if return_to.done():  # the client left
                return
            if error is None:
                return_to.set_result(result)
            else:
                return_to.set_exception(error)

        self._in_loop(settle)

    def _send(self, batch: list[Delivery]) -> None:
        """Wake the event loop once for all that happened since it last looked."""
        if not batch:
            return
        with self._wake:
            scheduled = bool(self._outbox)
            self._outbox += batch
        if not scheduled:
            self._in_loop(self._deliver)

    def _in_loop(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    def _deliver(self) -> None:
        """In the event loop: hand the events to their sinks."""
        with self._wake:
            batch, self._outbox = self._outbox, []
        touched: dict[Job, None] = {}
        for job, index, event in batch:
            if job.over:
                continue
            touched[job] = None
            try:
                if isinstance(event, str):
                    job.over = True
                    job.sink.fail(event)
                    continue
                job.left -= event.finish is not None
                job.sink.take(index, event)
            except FAILURES:
                log.exception("an event could not be passed on")
                job.over = True
                job.sink.fail("the reply could not be written")
                with self._wake:
                    self.cancel(job, None)
            if job.left == 0:
                job.over = True
                self._pool.took(time.monotonic() - job.started)
        for job in touched:
            job.sink.flush()
