"""The Engines behind the server, and the queue before them.

Everything but the Engine's own work happens in the event loop: jobs are queued, submitted and cancelled between two
steps. A step runs in a thread. While it does, the event loop delivers what the step before it has yielded.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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


class Job:
    """The requests of one API call. They run on one Engine, so that samples share their prompt."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.worker: Worker | None = None  # None while it waits in the queue
        self.ids: list[int] = []  # the Engine's request ids, in the order of the requests
        self.over = False  # nothing is delivered any more
        self.started = time.monotonic()
        self.left = len(requests)  # those that have not ended

    def take(self, index: int, event: Event) -> None:
        """An event of request `index`."""
        raise NotImplementedError

    def flush(self) -> None:
        """The events of a step are complete."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """The job ended because of an error; no event follows."""
        raise NotImplementedError


class Pool:
    """The Engines of one model behind one queue. Jobs go, in order of arrival, to the Engine with most free slots."""

    def __init__(self, engines: Sequence[Engine], max_queue: int) -> None:
        self.max_queue = max_queue
        self.workers = [Worker(engine, self) for engine in engines]
        self._queue: deque[Job] = deque()
        self._seconds = FIRST_GUESS  # per job, a moving average

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
        queued = sum(len(job.requests) for job in self._queue)
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

    def submit(self, job: Job) -> None:
        """Queue a job. Raises QueueFullError when more than max_queue requests would wait."""
        free = sum(max(0, worker.free) for worker in self.workers)
        if self.waiting + len(job.requests) > free + self.max_queue:
            wait = self._seconds * (1 + self.waiting / self.slots)
            raise QueueFullError(self.waiting, min(60, max(1, math.ceil(wait))))
        self._queue.append(job)
        self.dispatch()

    def cancel(self, job: Job, index: int | None = None) -> None:
        """End a job, or one of its requests, within one step. Its "cancelled" events still come."""
        if job.over:
            return
        if job.worker is not None:
            job.worker.cancel(job, index)
            return
        assert index is None, "a waiting request has generated nothing that could end it"
        self._queue.remove(job)
        for index in range(len(job.requests)):
            job.take(index, Event(0, None, finish="cancelled"))
        job.over = True
        job.flush()

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        """Run work(engine) between two steps of the least busy Engine; raises what it raises."""
        return await max(self.workers, key=lambda worker: worker.free).call(work)

    def dispatch(self) -> None:
        """Give waiting jobs to Engines with free slots."""
        while self._queue:
            worker = max(self.workers, key=lambda worker: worker.free)
            if worker.free <= 0:
                return
            worker.give(self._queue.popleft())

    def took(self, seconds: float) -> None:
        """A job ended after this long; `Retry-After` is estimated from it."""
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
        self._stopping = False
        self._given: list[Job] = []
        self._cancelled: list[tuple[Job, int | None]] = []
        self._between = asyncio.Lock()  # held during a step, and during a call
        self._running: dict[int, tuple[Job, int]] = {}  # by the Engine's request id

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

    def give(self, job: Job) -> None:
        job.worker = self
        self.load += len(job.requests)
        self._given.append(job)
        self._changed.set()

    def cancel(self, job: Job, index: int | None) -> None:
        self._cancelled.append((job, index))
        self._changed.set()

    async def call(self, work: Callable[[Engine], Result]) -> Result:
        async with self._between:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self.engine)

    async def _run(self) -> None:
        events: list[Event] = []
        while not self._stopping:
            async with self._between:
                self._prepare()
                step = None
                if self.engine.busy:
                    step = asyncio.get_running_loop().run_in_executor(self._thread, self.engine.step)
                self._deliver(events)  # while the step runs
                events = []
                if step is not None:
                    try:
                        events = await step
                        self._release(events)
                    except FAILURES as error:
                        log.exception("a step of the engine failed")
                        self._fail(f"the engine failed: {type(error).__name__}")
            if not (events or self.engine.busy):
                await self._changed.wait()

    def _prepare(self) -> None:
        """Submit and cancel what came since the last step."""
        self._changed.clear()
        given, self._given = self._given, []
        cancelled, self._cancelled = self._cancelled, []
        for job in given:
            try:
                for index, request in enumerate(job.requests):
                    id = self.engine.submit(request)
                    job.ids.append(id)
                    self._running[id] = (job, index)
            except FAILURES as error:
                log.exception("a request could not be submitted")
                self._end(job, str(error))
        for job, index in cancelled:
            for id in job.ids if index is None else job.ids[index : index + 1]:
                self.engine.cancel(id)

    def _release(self, events: Sequence[Event]) -> None:
        """Make the slots of ended requests available, so that the next step can begin what waits."""
        for event in events:
            if event.finish is not None and event.request_id in self._running:
                self._running[event.request_id][0].left -= 1
                self.load -= 1
        self._pool.dispatch()

    def _deliver(self, events: Sequence[Event]) -> None:
        touched: dict[Job, None] = {}
        for event in events:
            if event.request_id not in self._running:  # of a job that failed
                continue
            job, index = self._running[event.request_id]
            touched[job] = None
            if event.finish is not None:
                del self._running[event.request_id]
            try:
                job.take(index, event)
            except FAILURES:
                log.exception("an event could not be passed on")
                self._end(job, "the reply could not be written")
            if job.left == 0 and not job.over:
                job.over = True
                self._pool.took(time.monotonic() - job.started)
        for job in touched:
            job.flush()

    def _fail(self, reason: str) -> None:
        """End every request that was in the step."""
        for job in dict.fromkeys(job for job, _ in self._running.values()):
            self._end(job, reason)
        self._pool.dispatch()

    def _end(self, job: Job, reason: str) -> None:
        """End a job because of an error."""
        job.over = True
        for id in job.ids:
            self._running.pop(id, None)
        self.cancel(job, None)
        self.load -= job.left
        job.fail(reason)
        job.flush()
