"""The stages of cleaning on this machine, in one process or several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from extras.clean.stages import Plan, Stage, Step, claimed, prepare
from nanochat.errors import UserError
from nanochat.log import Progress


def clean(plan: Plan, workers: int) -> None:
    """Run all stages; resumes an interrupted run. Raises UserError for everything a user can get wrong."""
    with claimed(plan):
        prepare(plan)
        with _pool(min(workers, max(len(plan.pieces), plan.parts))) as pool:
            _run(plan, "scan", pool)
            _run(plan, "match", pool)
        Step(plan, "write")()


def _run(plan: Plan, stage: Stage, pool: ProcessPoolExecutor | None) -> None:
    sizes = [piece.documents for piece in plan.pieces] if stage == "scan" else [1] * plan.tasks(stage)
    waiting = [task for task in range(len(sizes)) if not plan.done(stage, task)]
    done = sum(sizes) - sum(sizes[task] for task in waiting)
    if not waiting:
        return
    with Progress(sum(sizes), stage, "documents" if stage == "scan" else "parts") as progress:
        progress.update(done)
        for task in _finished(Step(plan, stage), waiting, pool):
            done += sizes[task]
            progress.update(done)


def _finished(step: Step, tasks: list[int], pool: ProcessPoolExecutor | None) -> Iterator[int]:
    if pool is None:
        for task in tasks:
            step(rank=task)
            yield task
        return
    futures = {pool.submit(step, rank=task): task for task in tasks}
    try:
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps because memory ran out; start again with fewer --workers to resume"
        ) from None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes, or None to work in this one if that is enough. No worker outlives this process."""
    if workers <= 1:
        yield None
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: exit when the parent process has gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
