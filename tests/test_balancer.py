"""Servers behind nginx, as dev/launch/nginx.conf sets it up: two of scripts.chat_web and one of this process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from nanochat import chat
from nanochat.checkpoint import manager
from nanochat.engine.engine import Engine
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from tests.scripted import scripted
from tests.served import PATIENCE, ROOT, loaded, served, started, wait

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")
AROUND = """
worker_processes 1; pid {folder}/pid; error_log {folder}/errors; daemon off; {user} events {{}}
http {{
    log_format tried "$upstream_addr|$status|$request_uri"; access_log {folder}/tried tried;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/nanochat.conf;
}}
"""


@contextmanager
def nginx(folder: Path, ports: list[int]) -> Iterator[str]:
    """The documented configuration with these servers; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (ROOT / "dev" / "launch" / "nginx.conf").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ *server 127.0.0.1:8001.*\n", text, re.M)
    text = re.sub(r"^ *server 127.0.0.1:800.*\n", "", text, flags=re.M)
    text = text.replace("    keepalive", "".join(line.replace("8001", str(each)) for each in ports) + "    keepalive")
    text = text.replace("listen 8000", f"listen 127.0.0.1:{port}")
    (folder / "nanochat.conf").write_text(text, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user), encoding="utf-8")
    process = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "errors"])
    try:
        wait(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None, (folder / "errors").read_text(encoding="utf-8")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def log_of(folder: Path) -> list[str]:
    """The whole lines of nginx's log, a request each."""
    return (folder / "tried").read_text(encoding="utf-8").split("\n")[:-1]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(client: httpx.Client, who: str | None, *turns: str) -> httpx.Response:
    """The next answer of a conversation, whose turns alternate."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
    headers = {"X-Conversation-Id": who} if who else {}
    body = {"messages": messages, "temperature": 0, "max_tokens": 4}
    answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def test_conversations_keep_their_server_and_lose_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tokenizer_dir())
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    model = scripted(tokenizer, [[tokenizer.special(chat.ASSISTANT_START), x, y, x]], 256)  # it never stops
    manager.save(checkpoints_dir("sft") / "d1", 7, model, None, {"tokenizer_hash": tokenizer.hash})
    flags = ("chat_web", "--slots=8", "--drain_seconds=900")
    third = loaded(Engine(model, slots=8), tokenizer)
    with started(*flags) as (first, at_first, _), started(*flags) as (second, at_second, _), served([third]) as live:
        servers = {int(url.rpartition(":")[2]): process for url, process in ((at_first, first), (at_second, second))}
        with nginx(tmp_path, [*servers, live.port]) as address, httpx.Client(timeout=PATIENCE) as direct:
            seen = 0

            def tried(number: int) -> list[list[int]]:
                """The ports of the servers that nginx tried for each of the next requests in its log."""
                nonlocal seen
                seen += number
                wait(lambda: len(log_of(tmp_path)) >= seen)
                lines = log_of(tmp_path)[seen - number : seen]
                return [[int(port) for port in re.findall(r":(\d+)", line.partition("|")[0])] for line in lines]

            homes = check_stickiness(address, tried)
            draining, killed = servers
            check_draining(address, draining, servers[draining], homes, direct, tried)
            check_killing(address, killed, servers[killed], homes, tried)


def check_stickiness(address: str, tried) -> dict[int, str]:
    """Second turns find the first ones in the cache of their server; browsers get a cookie; all servers have work.

    Returns a conversation of each server, by port.
    """
    for name in range(12):
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:  # without cookies from before
            who = f"talk-{name}"
            one = ask(client, who, question := f"Who is number {name} of {name * 37}?").json()
            client.cookies.clear()
            reply = one["choices"][0]["message"]["content"]
            two = ask(client, who, question, reply, "And then?").json()
        assert two["usage"]["prompt_tokens_details"]["cached_tokens"] >= one["usage"]["prompt_tokens"] - 1
    went = tried(24)
    assert all(len(one) == 1 and one == two for one, two in zip(went[::2], went[1::2], strict=True))
    homes = {port: f"talk-{n // 2}" for n, (port,) in enumerate(went)}
    assert len(homes) == 3
    with httpx.Client(base_url=address, timeout=PATIENCE) as browser:
        assert "nanochat" in browser.get("/", headers={"Accept": "text/html"}).cookies
        for _ in range(4):
            assert "Set-Cookie" not in ask(browser, None, "Hello!").headers
    assert len({port for (port,) in tried(5)}) == 1
    return homes


def check_draining(
    address: str, port: int, process: subprocess.Popen, homes: dict[int, str], direct: httpx.Client, tried
) -> None:
    """A server that drains finishes its reply and gets no other."""
    long = {"prompt": "x", "max_tokens": 4096, "stream": True}
    with direct.stream("POST", f"http://127.0.0.1:{port}/generate", json=long) as reply:
        assert reply.status_code == 200
        events = reply.iter_lines()
        next(events)
        process.send_signal(signal.SIGTERM)
        wait(lambda: direct.get(f"http://127.0.0.1:{port}/health").status_code == 503)
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            for name in (homes[port], *(f"new-{n}" for n in range(6))):
                ask(client, name, "Hello!")
            assert client.get("/health").json()["ready"]
        went = tried(8)
        assert went[0][0] == port and all(passed[-1] != port for passed in went)
        assert all(next(events) is not None for _ in range(50))  # and its reply continues


def check_killing(address: str, port: int, process: subprocess.Popen, homes: dict[int, str], tried) -> None:
    """A server that is killed in the middle of a request costs nobody an answer."""
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        answers: list[httpx.Response] = []
        body = {"prompt": "x", "max_tokens": 400}
        headers = {"X-Conversation-Id": homes[port]}
        waiting = threading.Thread(target=lambda: answers.append(client.post("/generate", json=body, headers=headers)))
        waiting.start()
        busy = httpx.Client(timeout=PATIENCE)
        wait(lambda: busy.get(f"http://127.0.0.1:{port}/stats").json()["models"]["sft:d1"]["busy_slots"])
        process.kill()
        waiting.join()
        assert answers[0].status_code == 200 and answers[0].json()["text"]
        (went,) = tried(1)
        assert went[0] == port and went[-1] != port
        ask(client, homes[port], "Hello!")
