"""Whatever is sent, the answer is a refusal in OpenAI's envelope and the server lives on."""

import json
import socket
from collections.abc import Iterator

import pytest

from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.state import Settings
from tests.scripted import calculating
from tests.served import Live, loaded, served
from tests.served import refusal as error

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    with served([loaded(Engine(calculating(tokenizer, "é! Rome", 64), slots=4), tokenizer)]) as live:
        yield live


@pytest.fixture(scope="module")
def guarded(tokenizer: Tokenizer) -> Iterator[Live]:
    """A server with a key, one foreign origin, and names for its host."""
    engine = Engine(calculating(tokenizer, "é! Rome", 64), slots=4)
    chosen = Settings(api_key="sésame", cors_origins=("https://friend.example",), hosts=frozenset({"localhost"}))
    with served([loaded(engine, tokenizer)], settings=chosen) as live:
        yield live


def lives(live: Live) -> bool:
    reply = live.post(CHAT, HELLO)
    return reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"] == "é! Rome"


# ---------------------------------------------------------------- bodies

ODD_BODIES = {
    "nothing": b"", "spaces": b"  ", "no JSON": b"hello", "half JSON": b'{"messages": [', "a list": b"[]",
    "a number": b"5",
    "null": b"null", "no UTF-8": b'{"messages": "\xff"}', "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": -Infinity}', "too large a number": b'{"messages": [], "temperature": 1e999}',
    "endless digits": b'{"seed": ' + b"9" * 10_000 + b"}",
    "deep lists": b"[" * 100_000, "deep objects": b'{"a":' * 50_000,
    "deep and whole": b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
    "null characters": b'{"\x00": 1}', "a BOM": b"\xef\xbb\xbf{}",
}  # fmt: skip


@pytest.mark.parametrize(
    "path", [CHAT, "/v1/completions", "/chat/completions", "/generate", "/tokenize", "/detokenize"]
)
@pytest.mark.parametrize("name", ODD_BODIES)
def test_an_odd_body_is_refused(live: Live, path: str, name: str) -> None:
    assert error(live.post(path, ODD_BODIES[name]))["type"] == "invalid_request_error"


def test_after_all_that_the_server_lives(live: Live) -> None:
    assert lives(live)


def test_a_body_of_100_mb_is_refused_without_being_kept(live: Live) -> None:
    big = b'{"prompt": "' + b"a" * (100 << 20) + b'"}'
    assert error(live.post("/v1/completions", big), 413)["code"] == "request_too_large"

    def pieces() -> Iterator[bytes]:  # nothing says beforehand how much it will be
        for start in range(0, len(big), 1 << 20):
            yield big[start : start + (1 << 20)]

    assert error(live.client.post("/v1/completions", content=pieces()), 413)["code"] == "request_too_large"
    closing = {"Connection": "close"}
    assert error(live.client.post("/v1/completions", content=big[: 20 << 20], headers=closing), 413)
    assert lives(live)


def test_who_asks_before_sending_too_much_is_told_at_once(live: Live) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
    assert b" 413 " in raw(live, head.encode()).split(b"\r\n")[0]


def raw(live: Live, request: bytes) -> bytes:
    """What the server says to some bytes, until it has nothing more to say."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
        connection.sendall(request)
        said = connection.recv(1 << 16)
        while b"\r\n\r\n" not in said:
            more = connection.recv(1 << 16)
            if not more:
                break
            said += more
        return said


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad\x00Header: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"G\xc3\x89T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_envelope(live: Live, head: bytes) -> None:
    said = raw(live, head)
    status, _, rest = said.partition(b"\r\n")
    assert b" 4" in status
    assert set(json.loads(rest.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}


def test_odd_headers_are_no_trouble(live: Live) -> None:
    odd = {"Accept": b"\xe9", "Content-Type": b"image/png; charset=\x80", "X-Forwarded-For": b"' OR 1=1",
           "Cookie": b"a" * 5000}  # fmt: skip
    assert live.client.post(CHAT, json=HELLO, headers=odd).status_code == 200
    after = {"Last-Event-ID": "9" * 6000}
    assert error(live.get("/v1/streams/x", headers=after), 404)["code"] == "not_found"


def test_a_websocket_is_not_served(live: Live) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert raw(live, head).split(b" ")[1] in (b"200", b"400", b"403", b"426")
    assert lives(live)


# ---------------------------------------------------------------- keys, origins, hosts


def test_with_a_key_only_the_page_and_health_are_open(guarded: Live) -> None:
    key = {"Authorization": "Bearer sésame".encode()}
    for value in (None, b"Bearer wrong", "sésame".encode(), b"Bearer", b"Bearer \xff"):
        headers = {"Authorization": value} if value else {}
        refused = guarded.client.get("/v1/models", headers=headers)
        assert error(refused, 401)["code"] == "invalid_api_key" and refused.headers["www-authenticate"] == "Bearer"
        assert error(guarded.client.post(CHAT, json=HELLO, headers=headers), 401)
    assert guarded.client.post(CHAT, json=HELLO, headers=key).status_code == 200
    assert guarded.client.get("/v1/models", headers={"Authorization": "bearer sésame".encode()}).status_code == 200
    for path in ("/stats", "/metrics", "/tokenize", "/generate", "/chat", "/v1/streams/x", "/staticx", "/static"):
        error(guarded.get(path), 401)
    assert guarded.get("/").status_code == guarded.get("/health").status_code == 200
    assert guarded.get("/static/nothing.js").status_code == 404


def test_pages_from_elsewhere_are_refused_unless_named(guarded: Live, live: Live) -> None:
    key = {"Authorization": "Bearer sésame".encode()}
    friend = guarded.client.post(CHAT, json=HELLO, headers={**key, "Origin": "https://friend.example"})
    assert friend.status_code == 200 and friend.headers["access-control-allow-origin"] == "https://friend.example"
    ask = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST",
           "Access-Control-Request-Headers": "authorization"}  # fmt: skip
    assert guarded.client.options(CHAT, headers=ask).status_code == 200
    stranger = guarded.client.post(CHAT, json=HELLO, headers={**key, "Origin": "https://evil.example"})
    assert error(stranger, 403) and "access-control-allow-origin" not in stranger.headers
    for each in (live.client.options(CHAT, headers=ask), live.client.get("/v1/models", headers=ask)):
        assert "access-control-allow-origin" not in each.headers
    assert live.client.post(CHAT, json=HELLO, headers={"Origin": live.url}).status_code == 200
    tunnelled = {"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"}
    assert live.client.post(CHAT, json=HELLO, headers=tunnelled).status_code == 200
    assert error(live.client.post(CHAT, json=HELLO, headers={"Origin": "null"}), 403)


def test_a_name_that_was_made_to_point_here_is_refused(guarded: Live) -> None:
    for host in ("evil.example", "localhost.evil.example:80", "[::1", ""):
        error(guarded.client.get("/health", headers={"Host": host}), 403)
    for host in ("localhost", "localhost:9", "127.0.0.1", "[::1]:9", "LOCALHOST"):
        assert guarded.client.get("/health", headers={"Host": host}).status_code == 200


def test_every_answer_forbids_what_a_page_does_not_need(guarded: Live) -> None:
    for response in (guarded.get("/"), guarded.get("/v1/models"), guarded.get("/nothing")):
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
