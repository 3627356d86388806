"""A real server on this machine, in a thread of the test's process, so that a test can look at its Engines too."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch

from nanochat.engine.engine import Engine
from nanochat.engine.serving import Serving
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer
from nanochat.web.app import build_app
from nanochat.web.server import Server, listen
from nanochat.web.state import ServedModel, ServerState, Settings

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0  # seconds after which a test gives up on a machine that does not get on


def loaded(engine: Engine, tokenizer: Tokenizer, source: str = "sft", tag: str = "d1") -> Serving:
    """What `serving.load` returns, without a file."""
    return Serving(
        engine, tokenizer, {}, source, tag, step=7, folder=Path("nowhere"), dtype_name="float32",
        device=engine.model.device, parameters=sum(each.numel() for each in engine.model.parameters()),
    )  # fmt: skip


@dataclass
class Live:
    """A server that runs."""

    url: str
    state: ServerState
    server: Server
    client: httpx.Client

    @property
    def engines(self) -> list[Engine]:
        return [worker.engine for each in self.state.models.values() for worker in each.pool.workers]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, **settings) -> httpx.Response:
        return self.client.get(path, **settings)

    def post(self, path: str, body: object = None, **settings) -> httpx.Response:
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.client.post(path, **given, **settings)

    def wait_until_idle(self) -> None:
        """Returns when no slot is taken and nothing waits; fails when that does not come to pass."""
        wait(lambda: all(engine.free_slots == engine.slots and not engine.busy for engine in self.engines))
        wait(lambda: self.state.idle)


def wait(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.005)


@contextlib.contextmanager
def served(
    *checkpoints: Sequence[Serving], settings: Settings | None = None, drain_seconds: float = 5, plain: bool = False
) -> Iterator[Live]:
    """Serve checkpoints, each in one or several Engines, as <source>:<tag>; plain: base models chat, too."""
    settings = settings or Settings()
    models = [
        ServedModel(f"{each[0].source}:{each[0].tag}", each, settings.max_queue, plain=plain) for each in checkpoints
    ]
    state = ServerState(models, settings)
    with listen("127.0.0.1", 0) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        server = Server(build_app(state), state, drain_seconds)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            wait(lambda: server.started)
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                yield Live(url, state, server, client)
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def started(script: str, *flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str, str]]:
    """A server script on the CPU: its process, its address and what it printed until it was ready."""
    on_cpu = [] if script == "dashboard" else ["--device_type=cpu", "--dtype=float32"]
    command = [sys.executable, "-m", f"scripts.{script}", "--port=0", *on_cpu, *flags]
    keys = dict.fromkeys(("NANOCHAT_API_KEY", "NANOGPT_API_KEY"), "")
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **keys, **environment}, **pipes)
    assert process.stdout and process.stderr
    try:
        printed = ""
        while "Ctrl-C" not in printed:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            printed += line
        yield process, next(word for word in printed.split() if word.startswith("http://")), printed
    finally:
        process.kill()
        process.communicate()


def get(url: str, **settings) -> httpx.Response:
    """Like httpx.get, which gives up after 5 seconds: too soon on a machine that is busy."""
    return httpx.get(url, timeout=PATIENCE, **settings)


def post(url: str, **settings) -> httpx.Response:
    return httpx.post(url, timeout=PATIENCE, **settings)


def refusal(response: httpx.Response, status: int = 400) -> dict:
    """The error of a refusal, which must be in OpenAI's envelope."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def random_model(tokenizer: Tokenizer, context: int = 256, seed: int = 0) -> GPT:
    """A small GPT with random weights: it may say anything."""
    torch.manual_seed(seed)
    model = GPT(
        GPTConfig(sequence_len=context, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)
    )
    model.init_weights()
    return model


def events(response: httpx.Response) -> list[dict]:
    """The data of all events of a response, which must end with [DONE]."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def content(chunks: list[dict], index: int = 0) -> str:
    """The visible text of a stream of chat chunks."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
