"""An object store on loopback: moto's S3 server, in front of which a gate counts requests and lets some fail."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

pytest.importorskip("s3fs", reason="needs the extra stores")
pytest.importorskip("moto", reason="needs the extra stores")
BUCKET = "lab"


class Asked(NamedTuple):
    """A request: its method, its path below the bucket, its Range header, and the bytes that came back."""

    method: str
    path: str
    range: str
    size: int


@dataclass
class Store:
    """The store. `fail` lets requests whose method and path match fail: with a status, or with half of the body."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    faults: list[tuple[str, int, int | None]] = field(default_factory=list)  # pattern, how often, status

    def fail(self, pattern: str, times: int = 1, status: int | None = 503) -> None:
        self.faults.append((pattern, times, status))

    def got(self, pattern: str) -> list[Asked]:
        """The requests whose method and path match."""
        return [each for each in self.asked if re.search(pattern, f"{each.method} {each.path}")]

    def gate(self, app: Callable) -> Callable:
        def answer(environ: dict, start: Callable) -> Any:
            said: list = []
            path = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
            line = f"{environ['REQUEST_METHOD']} {path}"
            if status := self._next(line):
                start(f"{status} Failed", [("Content-Length", "0")])
                self.asked.append(Asked(environ["REQUEST_METHOD"], path, "", 0))
                return [b""]
            body = b"".join(app(environ, lambda *head: said.append(head)))
            start(*said[-1])
            asked = environ.get("HTTP_RANGE", "")
            self.asked.append(Asked(environ["REQUEST_METHOD"], path, asked, len(body)))
            return [body]

        return answer

    def _next(self, line: str) -> int | None:
        for n, (pattern, times, status) in enumerate(self.faults):
            if times and re.search(pattern, line):
                self.faults[n] = (pattern, times - 1, status)
                return status
        return None


@contextmanager
def running() -> Iterator[Store]:
    """A store with one empty bucket, to which the environment of this process and its children points."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Store()
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, store.gate(app), threaded=True)
    store.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret",
             "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
             "NO_PROXY": "127.0.0.1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.lower().endswith("_proxy") and name != "NO_PROXY"]:
            patch.delenv(name)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
