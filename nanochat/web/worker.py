"""The threads that run the Engines, and the queue before them.

The event loop submits and cancels. Each Engine has a thread of its own that steps it while there is work and sleeps
while there is none. What a step yields goes back to the event loop in one batch, however many clients it concerns.
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

# What a step may raise without ending the server: a bug or a full GPU must only cost its own requests.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError, UserError,
)  # fmt: skip
FIRST_GUESS = 2.0  # seconds per job, before any has ended


class QueueFullError(Exception):
    """More requests are waiting than the queue holds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests are waiting")
        self.waiting = waiting
        self.retry_after = retry_after  # seconds


class Sink(Protocol):
    """Where the events of a job go. All methods are called in the event loop."""

    def take(self, index: int, event: Event) -> None:
        """An event of the job's request `index`."""
        ...

    def flush(self) -> None:
        """The events of a step are complete."""
        ...

    def fail(self, reason: str) -> None:
        """The job ended because of an error; no event follows."""
        ...


class Job:
    """The requests of one API call. They run on one Engine, so that samples share their prompt."""

    def __init__(self, requests: Sequence[Request], sink: Sink) -> None:
        self.requests = requests
        self.sink = sink
        self.worker: Worker | None = None  # None while it waits in the queue
        self.ids: list[int] = []  # the Engine's request ids, in the order of the requests
        self.over = False  # set in the event loop: nothing is delivered any more
        self.started = time.monotonic()
        self.left = len(requests)


Delivery = tuple[Job, int, "Event | str"]  # a string is the reason why the job failed


class Pool:
    """The Engines of one model behind one queue.

    Jobs go, in order of arrival, to the Engine with the most free slots. All methods are for the event loop.
    """

    def __init__(self, engines: Sequence[Engine], max_queue: int) -> None:
        self.max_queue = max_queue
        self.lock = threading.Lock()
        self.workers = [Worker(engine, self) for engine in engines]
        self._queue: deque[Job] = deque()
        self._seconds = FIRST_GUESS  # per job, a moving average

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        for worker in self.workers:
            worker.start(loop)

    def stop(self) -> None:
        """End the threads after their current step, and wait for them."""
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
        """Requests without a slot."""
        queued = sum(len(job.requests) for job in self._queue)
        return queued + sum(max(0, worker.load - worker.engine.slots) for worker in self.workers)

    @property
    def totals(self) -> dict[str, int]:
        """What the Engines have counted since the start."""
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
            assert index is None, "a waiting request has generated nothing that could end it"
            self._queue.remove(job)
        for index in range(len(job.requests)):
            job.sink.take(index, Event(0, None, finish="cancelled"))
        job.over = True
        job.sink.flush()

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        """Run work(engine) between two steps of the least busy Engine; raises what it raises."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self.lock:
            max(self.workers, key=lambda worker: worker.free).call(work, result)
        return await result

    def dispatch(self) -> None:
        """Give waiting jobs to Engines with free slots. The lock is held."""
        while self._queue:
            worker = max(self.workers, key=lambda worker: worker.free)
            if worker.free <= 0:
                return
            worker.give(self._queue.popleft())

    def abandoned(self) -> list[Job]:
        """Empty the queue if no Engine is left to serve it. The lock is held."""
        if any(worker.alive for worker in self.workers):
            return []
        jobs = list(self._queue)
        self._queue.clear()
        return jobs

    def took(self, seconds: float) -> None:
        """A job ended after this long; `Retry-After` is estimated from it."""
        self._seconds += 0.1 * (seconds - self._seconds)


class Worker:
    """One Engine and its thread. Public methods but start and stop are called with the pool's lock held."""

    def __init__(self, engine: Engine, pool: Pool) -> None:
        self.engine = engine
        self.load = 0  # requests given to it that have not ended
        self.alive = True
        self._pool = pool
        self._wake = threading.Condition(pool.lock)
        self._inbox: list[Callable[[], list[Delivery]]] = []  # what the thread does before its next step
        self._given: list[Job] = []  # not yet admitted by the thread
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
        self._given.append(job)
        self._post(lambda: self._admit(job))

    def cancel(self, job: Job, index: int | None) -> None:
        def cancel() -> list[Delivery]:
            for id in job.ids if index is None else job.ids[index : index + 1]:
                self.engine.cancel(id)
            return []

        self._post(cancel)

    def call(self, work: Callable[[Engine], Result], future: "asyncio.Future[Result]") -> None:
        def settle(result: Result | None, error: Exception | None) -> None:
            if future.done():  # the client left
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def call() -> list[Delivery]:
            try:
                self._in_loop(settle, work(self.engine), None)
            except FAILURES as error:
                self._in_loop(settle, None, error)
            return []

        self._post(call)

    def _post(self, work: Callable[[], list[Delivery]]) -> None:
        self._inbox.append(work)
        self._wake.notify()

    # ---------------------------------------------------------------- in the Engine's thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            with self._wake:
                self.alive = False
                lost = self._given + self._pool.abandoned()
            reason = f"the engine stopped: {type(error).__name__}"
            self._send(self._end_running(reason) + [(job, 0, reason) for job in lost])
            raise

    def _turn(self) -> bool:
        """Wait for work and do one step of it. False when the thread is to end."""
        with self._wake:
            while not (self._inbox or self.engine.busy or self._stopping):
                self._wake.wait()
            inbox, self._inbox = self._inbox, []
        if self._stopping:
            return False
        batch = [delivery for work in inbox for delivery in work()]
        if self.engine.busy:
            batch += self._step()
        self._send(batch)
        return True

    def _admit(self, job: Job) -> list[Delivery]:
        with self._wake:
            self._given.remove(job)
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
            self._release(len(job.requests))
            return [(job, 0, str(error))]
        return []

    def _step(self) -> list[Delivery]:
        try:
            events = self.engine.step()
        except FAILURES as error:
            log.exception("a step of the engine failed")
            return self._end_running(f"the engine failed: {type(error).__name__}")
        batch: list[Delivery] = []
        ended = 0
        for event in events:
            running = self._running.get(event.request_id)
            if running is None:  # of a job that failed
                continue
            if event.finish is not None:
                del self._running[event.request_id]
                ended += 1
            batch.append((*running, event))
        if ended:
            self._release(ended)
        return batch

    def _end_running(self, reason: str) -> list[Delivery]:
        """End every request that was in the step."""
        jobs = dict.fromkeys(job for job, _ in self._running.values())
        for id in self._running:
            self.engine.cancel(id)
        self._release(len(self._running))
        self._running.clear()
        return [(job, 0, reason) for job in jobs]

    def _release(self, count: int) -> None:
        with self._wake:
            self.load -= count
            self._pool.dispatch()

    def _send(self, batch: list[Delivery]) -> None:
        """Wake the event loop once for everything since its last delivery."""
        if not batch:
            return
        with self._wake:
            scheduled = bool(self._outbox)
            self._outbox += batch
        if not scheduled:
            self._in_loop(self._deliver)

    def _in_loop(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    # ---------------------------------------------------------------- in the event loop

    def _deliver(self) -> None:
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
