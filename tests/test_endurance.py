"""What clients that are slow, many, gone or hostile leave behind: nothing, and the server keeps serving."""

import json
import logging
import os
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.checkpoint import manager
from nanochat.engine.engine import Engine
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from nanochat.web import memory
from nanochat.web.http import connections
from tests.scripted import calculating
from tests.served import PATIENCE, Live, get, loaded, post, served, started, wait

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
BODY = json.dumps(HELLO).encode()


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    with served([loaded(Engine(calculating(tokenizer, "é! Rome", 64), slots=4), tokenizer)]) as live:
        yield live


def connect(live: Live, *sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=30)
    for part in sent:
        connection.sendall(part)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection."""
    said = b""
    with connection:
        try:
            while part := connection.recv(1 << 16):
                said += part
        except ConnectionResetError:
            pass
    return said


def lives(live: Live) -> bool:
    return live.post(CHAT, HELLO).json()["choices"][0]["message"]["content"] == "é! Rome"


def open_connections(live: Live) -> int:
    return len(live.server.server_state.connections)


# ---------------------------------------------------------------- slow clients


@pytest.mark.parametrize(
    ("sent", "said"),
    [((), b""), ((b"GET /hea",), b"408"), ((b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"a"), b"408"),
     ((HEAD + b"Content-Length: 100\r\n\r\n", b'{"me'), b"408"),
     ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello",), b"408"),
     ((b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /hea"), b"200")],
)  # fmt: skip
def test_a_request_that_does_not_arrive_is_ended(
    live: Live, monkeypatch: pytest.MonkeyPatch, sent: tuple[bytes, ...], said: bytes
) -> None:
    """Slow loris: half of a head, half of a body, half of a second request, and nothing at all."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.1)
    assert rest(connect(live, *sent))[9:12] == said
    assert lives(live)


def test_a_slow_body_gets_the_time_that_its_size_needs(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.0)
    monkeypatch.setattr(connections, "SLOWEST", 0.001)
    connection = connect(live, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY[:10])
    wait(lambda: live.server.server_state.tasks)  # the head has arrived
    everybody: list[Any] = list(live.server.server_state.connections)
    for each in everybody:  # as the server does once a second
        each.loop.call_soon_threadsafe(each.end_if_overdue, each.loop.time() + 100)
    connection.sendall(BODY[10:])
    assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_reads_nothing_is_let_go(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.1)
    before = open_connections(live)
    asks = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    with connect(live) as connection:
        sender = threading.Thread(target=lambda: connection.sendall(asks))
        sender.start()
        wait(lambda: open_connections(live) > before)
        wait(lambda: open_connections(live) <= before)
        connection.close()
        sender.join()
    assert lives(live)


def test_when_all_connections_are_taken_the_longest_waiting_one_goes(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 6)
    halves = [connect(live, b"GET / HTTP/1.1\r\n") for _ in range(20)]
    for _ in range(3):
        assert get(f"{live.url}/health").status_code == 200
    assert open_connections(live) <= 7
    assert rest(halves[0]) == b""
    for each in halves:
        each.close()
    assert lives(live)


def test_with_few_descriptors_the_server_stays_reachable_and_quiet(tokenizer: Tokenizer) -> None:
    tokenizer.save(tokenizer_dir())
    model = calculating(tokenizer, "é! Rome", 64)
    manager.save(checkpoints_dir("sft") / "d1", 7, model, {}, {"tokenizer_hash": tokenizer.hash})
    with started("chat_web") as (process, address, _):
        open_now = len(os.listdir(f"/proc/{process.pid}/fd")) if os.path.isdir("/proc/self/fd") else 40
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now + 40, open_now + 40))
        port = int(address.rpartition(":")[2])
        halves = []
        for _ in range(140):
            half = socket.create_connection(("127.0.0.1", port), timeout=30)
            half.sendall(b"GET / HTTP/1.1\r\n")
            halves.append(half)
        for _ in range(3):
            assert get(f"{address}/health").status_code == 200
        for half in halves:
            half.close()
        assert post(address + CHAT, json=HELLO).status_code == 200
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
        assert err.count("\n") <= 2, err


# ---------------------------------------------------------------- clients that leave


def test_a_client_that_leaves_in_mid_body_is_no_line_in_the_log(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            connect(live, HEAD + b"Content-Length: 100\r\n\r\n", b'{"me').close()
            connect(live, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel").close()
        wait(lambda: not live.server.server_state.tasks)
        assert live.get("/health").status_code == 200
    assert [record for record in caplog.records if record.name in ("uvicorn.error", "asyncio", "nanochat.web")] == []
    assert 'status="499"' in live.get("/metrics").text


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(memory.resident() == 0, reason="no /proc here")
def test_an_idle_connection_costs_little(live: Live) -> None:
    """At most 100 KB, both ends and their client's share in this process included."""
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    before = memory.resident()
    kept = [connect(live, ask) for _ in range(300)]
    for each in kept:
        assert each.recv(1 << 16)
    assert (memory.resident() - before) / 300 < 100_000
    for each in kept:
        each.close()


@pytest.mark.skipif(memory.resident() == 0, reason="no /proc here")
def test_memory_goes_back_once_after_growth() -> None:
    given_back = []
    kept = memory.Memory()
    kept._trim = lambda size: given_back.append(size) or 0
    kept.give_back()
    assert given_back == []
    kept._held -= memory.GROWTH + (8 << 20)
    kept.give_back()
    kept.give_back()
    assert given_back == [0]


def test_an_idle_server_gives_memory_back(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(live.server._memory, "give_back", asked.set)
    assert asked.wait(30)


# ---------------------------------------------------------------- hostile input

LONG = b"a" * 300_000
SIZED = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
HOSTILE = {
    "a header bomb": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(40_000)),
    "a long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + LONG + LONG,
    "a long line": b"GET /" + LONG + LONG,
    "a header without an end": b"GET / HTTP/1.1\r\nHost: localhost\r\n X\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no version": b"GET /\r\n\r\n", "HTTP/9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    "line feeds": b"\n\n\nGET / HTTP/1.1\nHost: localhost\n\n", "zeros": b"\0" * 1000, "nothing": b"",
    "an absolute target": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "odd escapes": b"GET /%ff%00%2e%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a climb": b"GET /static/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a file with a zero": b"GET /static/a%00b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long file name": b"GET /static/" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a query bomb": b"GET /v1/streams/x?" + b"after=1&" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a range": b"GET /static/style.css HTTP/1.1\r\nHost: x\r\nRange: bytes=" + b"0-," * 3000 + b"0-1\r\n\r\n",
    "a range that is none": b"GET /static/style.css HTTP/1.1\r\nHost: x\r\nRange: bytes=9-1,x\r\n\r\n",
    "odd dates": b"GET /static/style.css HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: \xff\x80 99999\r\n\r\n",
    "a length too small": HEAD + b"Content-Length: 3\r\n\r\n" + BODY,
    "a length too large": HEAD + b"Content-Length: 99\r\n\r\n" + BODY,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "a huge length": HEAD + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
    "a length of digits elsewhere": HEAD + "Content-Length: ٣\r\n\r\n".encode() + BODY,
    "a length of hex": HEAD + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a chunk of words": HEAD + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n",
    "a huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 40 + b"\r\n",
    "a negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    "small chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 5000 + b"0\r\n\r\n",
    "a chunk's long extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + LONG,
    "endless trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 40_000,
    "expectations": HEAD + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}",
    "an upgrade": HEAD + b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\nContent-Length: 2\r\n\r\n{}",
    "pipelined": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50) + HEAD + SIZED + b"garbage\r\n\r\n",
    "pipelined chats": (HEAD + SIZED) * 3,
}  # fmt: skip

JSONS = {
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"messages":' * 50_000,
    "many keys": b"{" + b'"a":1,' * 100_000 + b'"b":2}',
    "many messages": b'{"messages":[' + b'{"role":"user","content":"x"},' * 30_000 + b'{"role":"user","content":"x"}]}',
    "huge numbers": b'{"messages":[],"seed":' + b"9" * 5000 + b',"max_tokens":1e400}', "NaN": b'{"temperature":NaN}',
    "bad UTF-8": b'{"messages":[{"role":"user","content":"\xed\xa0\x80\xff"}]}',
    "half a pair": b'{"messages":[{"role":"user","content":"\\ud83d"}]}',
    "zeros": b'{"messages":[{"role":"user","content":"' + b"\\u0000" * 1000 + b'"}],"max_tokens":2}',
    "a wide schema": json.dumps({**HELLO, "json_schema": {"anyOf": [{"type": "object"}] * 500}}).encode(),
    "biases": json.dumps({**HELLO, "logit_bias": {str(n): 1 for n in range(-5, 5000)}}).encode(),
    "stops": json.dumps({**HELLO, "stop": ["x" * 501] * 17}).encode(),
}  # fmt: skip
GRAMMAR = st.lists(
    st.sampled_from([b"GET ", b"POST ", CHAT.encode(), b" /", b"//", b"?a=%", b" HTTP/1.1", b"\r\n", b"\r\n\r\n",
                     b"\n", b": ", b"Host: localhost\r\n", b"Content-Length: 5\r\n",
                     b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n",
                     b"Connection: close\r\n", b"Expect: 100-continue\r\n", BODY, b"\0", b"\xff\xfe"])
    | st.binary(max_size=12),
    min_size=1, max_size=14,
).map(b"".join)  # fmt: skip


def statuses(said: bytes) -> list[bytes]:
    return [line[9:12] for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def answered(live: Live, sent: bytes) -> list[bytes]:
    """The statuses of what the server answers to some bytes, after which the client sends no more."""
    connection = connect(live)
    try:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
    except OSError:  # the server has had enough already
        pass
    return statuses(rest(connection))


def left_behind(live: Live) -> tuple[int, int]:
    """Connections and tasks of the server."""
    return open_connections(live), len(live.server.server_state.tasks)


def test_nothing_hostile_is_a_5xx_a_hang_or_a_leak(live: Live) -> None:
    live.get("/health")
    live.wait_until_idle()
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for name, sent in HOSTILE.items():
        assert all(not status.startswith(b"5") for status in answered(live, sent)), name
    for name, body in JSONS.items():
        for path in (b"/v1/chat/completions", b"/v1/completions", b"/generate", b"/tokenize"):
            head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            found = statuses(rest(connect(live, head % (path, len(body)), body)))
            assert len(found) == 1 and not found[0].startswith(b"5"), (name, path, found)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(GRAMMAR)
    def attempt(sent: bytes) -> None:
        assert all(not status.startswith(b"5") for status in answered(live, sent))

    attempt()
    live.wait_until_idle()
    wait(lambda: left_behind(live) <= (1, 0))
    assert not live.state.streams and lives(live)
    if descriptors is not None:
        wait(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
