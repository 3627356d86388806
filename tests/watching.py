"""What the tests of the dashboard share: a server of its routes, and runs that are only logs."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import uvicorn
from fastapi import FastAPI

from extras.dashboard import watch
from nanochat.log import MetricsLog, strict_json
from nanochat.web.errors import ApiError

PATIENCE = 60.0


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.01)


def places(base: Path, *out_dirs: Path, training: bool = True, served: tuple[str, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(base=base, watched=out_dirs, training=training, running=dict, served=lambda: served)


@contextlib.contextmanager
def serving(where: SimpleNamespace) -> Iterator[httpx.Client]:
    """A real server of the routes."""
    app = FastAPI()
    app.include_router(watch.routes(where), prefix="/dashboard")
    app.add_exception_handler(ApiError, lambda _, error: error.response())  # type: ignore[attr-defined]
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, args=[[bound]])
        thread.start()
        wait(lambda: server.started)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}/dashboard", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def synthetic(folder: Path, steps: int, loss: Callable[[int], float] = lambda step: 4 - step / 1e4, **config) -> Path:
    """A run as its log would be, half done: 50 tokens a step."""
    log = MetricsLog(folder, "dummy", {"user_config": {"depth": 1}, "model_config": {"n_layer": 1}, **config})
    log.note(0, {"changed_flags": {}})
    rest = {"lr": 0.1, "seconds": 0.5, "tok_per_second": 100.0}
    log.log(1, {"loss": loss(1), "progress": 0.5 / steps, **rest})
    with open(log.path, "a", encoding="utf-8") as file:
        for step in range(2, steps + 1):
            row = {"step": step, "time": 1.7e9 + step, "loss": loss(step), "progress": step / (2 * steps), **rest}
            file.write(strict_json(row) + "\n")
    return folder
