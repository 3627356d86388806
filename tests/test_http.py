"""HTTP as clients, proxies and browsers use it: methods, paths, origins and hosts, prefixes, kept connections."""

import http.client
import re
import shlex
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from nanochat.config import parse
from nanochat.engine.engine import Engine
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.web.examples import EXAMPLES, Example
from nanochat.web.http.flags import allowed_hosts
from nanochat.web.state import Settings
from scripts import chat_web, inference_server
from tests.scripted import calculating
from tests.served import Live, events, loaded, served
from tests.served import refusal as error

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
PAGES = ["/", "/docs", "/api", "/openapi.json", "/logo.svg", "/static/style.css"]
STATE = ["/health", "/stats", "/v1/models", "/v1/models/sft:d1"]


def engine(tokenizer: Tokenizer) -> Engine:
    return Engine(calculating(tokenizer, "é! Rome", 64), slots=4)


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    with served([loaded(engine(tokenizer), tokenizer)], settings=Settings(hosts=allowed_hosts("127.0.0.1"))) as live:
        yield live


def heads(response: httpx.Response) -> dict[str, str]:
    """The headers that do not change from one request to the next."""
    return {name: value for name, value in response.headers.items() if name not in ("date", "x-request-id")}


# ---------------------------------------------------------------- methods: serving/head-405


@pytest.mark.parametrize("path", [*PAGES, *STATE, "/metrics", "/nothing", "/static/nothing", "/v1/models/none", CHAT])
def test_head_is_get_without_the_body(live: Live, path: str) -> None:
    """Case serving/head-405."""
    got, head = live.get(path), live.client.head(path)
    assert head.status_code == got.status_code and head.content == b""
    if path != "/metrics":  # where numbers grow by digits
        assert heads(head) == heads(got)
    page = {"Accept": "text/html"}
    assert heads(live.client.head(path, headers=page)) == heads(live.get(path, headers=page)) or path == "/metrics"


def test_head_of_a_stream_does_not_wait_for_its_end(live: Live) -> None:
    stream = live.client.post(CHAT, json={**HELLO, "stream": True}, headers={"X-Nanochat-Resumable": "1"})
    path = f"/v1/streams/{stream.headers['x-stream-id']}"
    head = live.client.head(path)
    assert head.status_code == 200 and head.headers["content-type"].startswith("text/event-stream")
    assert events(live.get(path)) == events(stream)  # it took nothing away


@pytest.mark.parametrize(
    ("path", "methods"),
    [*((path, {"GET", "HEAD", "OPTIONS"}) for path in [*PAGES, *STATE, "/metrics"]),
     (CHAT, {"POST", "OPTIONS"}), ("/generate", {"POST", "OPTIONS"}),
     ("/v1/streams/x", {"GET", "HEAD", "DELETE", "OPTIONS"})],
)  # fmt: skip
def test_options_says_what_is_allowed(live: Live, path: str, methods: set[str]) -> None:
    """Case serving/head-405: OPTIONS / is HAProxy's default check."""
    answer = live.client.options(path)
    assert answer.status_code == 204 and set(answer.headers["allow"].split(", ")) == methods
    refused = live.client.request("PATCH", path)
    assert error(refused, 405) and set(refused.headers["allow"].split(", ")) == methods
    error(live.client.options("/nothing"), 404)


def test_a_health_check_without_a_host_is_answered(live: Live) -> None:
    """Case serving/head-405: HAProxy sends HTTP/1.0 and no Host."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
        connection.sendall(b"OPTIONS / HTTP/1.0\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 204 ")


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("path", "same"),
    [("/v1/models/", "/v1/models"), ("//v1//models", "/v1/models"), ("/health/", "/health"), ("//", "/"),
     ("/v1/models/sft:d1/", "/v1/models/sft:d1"), ("//static//style.css/", "/static/style.css")],
)  # fmt: skip
def test_slashes_too_many_are_no_other_route(live: Live, path: str, same: str) -> None:
    got = live.client.get(f"{live.url}{path}", follow_redirects=False)
    assert got.status_code == 200 and got.content == live.get(same).content


def test_a_post_with_slashes_too_many_is_answered_without_a_redirect(live: Live) -> None:
    for path in (f"{CHAT}/", "//v1/chat//completions"):
        reply = live.client.post(f"{live.url}{path}", json=HELLO, follow_redirects=False)
        assert reply.json()["choices"][0]["message"]["content"] == "é! Rome"


def test_no_slashes_let_anybody_past_the_key(tokenizer: Tokenizer) -> None:
    with served([loaded(engine(tokenizer), tokenizer)], settings=Settings(api_key="k", root_path="/chat")) as live:
        for path in ("//v1/models", "/v1/models/", "/static/../v1/models", "//static//..//v1//models",
                     "/chat/v1/models", "/static/%2e%2e/v1/models", "/./v1/models", "/chat//v1/models"):  # fmt: skip
            with socket.create_connection(("127.0.0.1", live.port), timeout=30) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                assert connection.recv(1 << 16).split(b" ")[1] in (b"401", b"404"), path


# ---------------------------------------------------------------- request ids


def test_every_reply_has_a_request_id(live: Live) -> None:
    replies = [
        live.get("/health"), live.get("/nothing"), live.client.head("/"), live.client.options("/"),
        live.post(CHAT, b"{"), live.post(CHAT, HELLO), live.post(CHAT, {**HELLO, "stream": True}),
        live.get("/static/style.css"), live.client.post(CHAT, headers={"Origin": "https://evil.example"}),
        live.get("/health", headers={"Host": "evil.example"}), live.get("/health", headers={"X": "a" * 500_000}),
        live.client.options(CHAT, headers={"Origin": "https://a.b", "Access-Control-Request-Method": "POST"}),
    ]  # fmt: skip
    statuses = [reply.status_code for reply in replies]
    assert statuses == [200, 404, 200, 204, 400, 200, 200, 200, 403, 403, 400, 403]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", id) for id in ids) and len(set(ids)) == len(ids)


def test_a_client_may_name_its_request(live: Live) -> None:
    for id in ("a1b2-c3", "trace:1/2=x+y@z", "x" * 128):
        assert live.get("/health", headers={"X-Request-Id": id}).headers["x-request-id"] == id
    for id in (b"", b"a b", b"x" * 129, b"\xe9", b"<b>"):
        assert live.client.get("/health", headers={b"X-Request-Id": id}).headers["x-request-id"].startswith("req_")


# ---------------------------------------------------------------- origins and hosts: serving/origin-host-advice


def advised(message: str) -> list[str]:
    """The flag that a refusal names, as a shell would read it."""
    return shlex.split(message.partition("; ")[2].removesuffix(" allows them"))


@contextmanager
def told(tokenizer: Tokenizer, script: type, flags: list[str]) -> Iterator[Live]:
    """A server with these flags."""
    given = parse(script, flags)
    given.check_network()
    settings = Settings(**given.network_settings("127.0.0.1"))
    with served([loaded(engine(tokenizer), tokenizer)], settings=settings) as live:
        yield live


@pytest.mark.parametrize("script", [chat_web.Flags, inference_server.Flags])
def test_a_refusal_names_the_flag_that_works(live: Live, tokenizer: Tokenizer, script: type) -> None:
    """Case serving/origin-host-advice, 1 to 3."""
    origins = ["null", "file://", "https://example.com:443", "HTTPS://Example.com", "http://10.0.0.1:3000",
               "chrome-extension://abcdefgh"]  # fmt: skip
    hosts = ["host.docker.internal:9310", "nanochat", "a1b2.ngrok-free.app", "Stitch.internal:80"]
    asked = [{"Origin": origin} for origin in origins] + [{"Host": host} for host in hosts]
    flags: list[str] = []
    for headers in asked:
        flags += advised(error(live.client.post(CHAT, json=HELLO, headers=headers), 403)["message"])
    with told(tokenizer, script, flags) as allowing:
        for headers in asked:
            assert allowing.client.post(CHAT, json=HELLO, headers=headers).status_code == 200, headers
        error(allowing.client.post(CHAT, json=HELLO, headers={"Origin": "https://example.net"}), 403)
        error(allowing.client.post(CHAT, json=HELLO, headers={"Host": "evil.example"}), 403)


def test_what_is_no_origin_can_only_be_allowed_with_all(live: Live, tokenizer: Tokenizer) -> None:
    """Case serving/origin-host-advice: Origin: abc."""
    odd = {"Origin": "abc"}
    flags = advised(error(live.client.post(CHAT, json=HELLO, headers=odd), 403)["message"])
    assert flags == ["--cors_origin", "*"]
    with told(tokenizer, chat_web.Flags, flags) as allowing:
        assert allowing.client.post(CHAT, json=HELLO, headers=odd).status_code == 200


def test_wildcards_and_default_ports_match(tokenizer: Tokenizer) -> None:
    """Case serving/origin-host-advice, 4: accepted, but never matched."""
    flags = ["--cors_origin", "https://*.example.com", "HTTPS://Example.org:443/", "http://localhost:*", "http://a.b:80",
             "https://bücher.example",
             "--allowed_host", "*.ngrok-free.app", "Nanochat:8000"]  # fmt: skip
    with told(tokenizer, inference_server.Flags, flags) as live:
        def status(**headers: str) -> int:
            return live.client.post(CHAT, json=HELLO, headers=headers).status_code

        for origin in ("https://a.example.com", "https://a.b.example.com", "https://example.org", "http://localhost",
                       "http://localhost:5173", "http://a.b", "http://a.b:80",
                       "https://xn--bcher-kva.example"):  # fmt: skip
            assert status(Origin=origin) == 200, origin
        for origin in ("https://example.com", "https://evil-example.com", "https://a.example.com.evil.example", "null",
                       "http://a.example.com", "https://a.example.com:8443", "https://localhost:5173",
                       "https://evil.example/.example.com", "https://*.example.net"):  # fmt: skip
            assert status(Origin=origin) == 403, origin
        for host in ("a.ngrok-free.app", "nanochat", "NANOCHAT:80", "localhost:1", "127.0.0.1", "[::1]:9",
                     "example.org"):  # fmt: skip
            assert status(Host=host) == 200, host
        for host in ("ngrok-free.app", "xngrok-free.app", "nanochat.evil.example", "evil.example"):
            assert status(Host=host) == 403, host


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--cors_origin", "https://example.com/chat"], "use --cors_origin https://example.com,"),
     (["--cors_origin", "example.com"], "use --cors_origin https://example.com,"),
     (["--cors_origin", "a b"], "such as https://example.com"), (["--cors_origin", "https://*"], "'\\*' for all"),
     (["--allowed_host", "https://example.com/x"], "use --allowed_host example.com"),
     (["--allowed_host", "a b"], "such as chat.example.com"), (["--allowed_host", "a.*"], "not a host name"),
     (["--root_path", "/a b"], "such as /chat"), (["--root_path", "/a/../b"], "such as /chat"),
     (["--keep_alive", "0"], "1 to 86400")],
)  # fmt: skip
@pytest.mark.parametrize("main", [chat_web.main, inference_server.main])
def test_network_flags_that_make_no_sense_are_refused(main, flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(["--port", "0", *flags])


def test_hosts_are_any_where_others_are_let_in_unless_some_are_named() -> None:
    assert allowed_hosts("0.0.0.0") is None and allowed_hosts("127.0.0.1", [], ["*"]) is None
    assert allowed_hosts("0.0.0.0", [], ["chat.example.com"]) == {"chat.example.com", "localhost"}
    assert allowed_hosts("127.0.0.1", ["https://a.example", "null"]) == {"a.example", "localhost"}


# ---------------------------------------------------------------- preflights: serving/preflight-private-network


def test_an_allowed_site_may_reach_into_the_private_network(tokenizer: Tokenizer) -> None:
    """Case serving/preflight-private-network."""
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type",
           "Access-Control-Request-Private-Network": "true"}  # fmt: skip
    settings = Settings(api_key="s3cret", cors_origins=("https://example.com",))
    with served([loaded(engine(tokenizer), tokenizer)], settings=settings) as live:
        answer = live.client.options(CHAT, headers={"Origin": "https://example.com", **ask})
        assert answer.status_code == 200 and answer.headers["access-control-allow-private-network"] == "true"
        assert answer.headers["access-control-allow-origin"] == "https://example.com"
        stranger = live.client.options(CHAT, headers={"Origin": "https://evil.example", **ask})
        assert "--cors_origin https://evil.example" in error(stranger, 403)["message"]
        assert not [name for name in stranger.headers if name.startswith("access-control")]
        key = {"Authorization": "Bearer s3cret", "Origin": "https://example.com"}
        reply = live.client.post(CHAT, json=HELLO, headers=key)
        assert "X-Request-Id" in reply.headers["access-control-expose-headers"]


# ---------------------------------------------------------------- prefixes


class Proxy(BaseHTTPRequestHandler):
    """A reverse proxy that shows a server below /some/chat, with or without taking that away."""

    protocol_version = "HTTP/1.1"
    port: int
    strips: bool
    sends: Mapping[str, str]

    def relay(self) -> None:
        path = self.path
        if not path.startswith("/some/chat"):
            self.send_error(404, "outside of the prefix")
            return
        if self.strips:
            path = path.removeprefix("/some/chat") or "/"
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {**self.headers, **self.sends}
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        upstream.request(self.command, path, content, headers)
        reply = upstream.getresponse()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while part := reply.read1():
            self.wfile.write(part)
        upstream.close()
        self.close_connection = True

    do_GET = do_POST = do_HEAD = do_OPTIONS = do_DELETE = relay

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxied(live: Live, strips: bool, **sends: str) -> Iterator[str]:
    """The address of a server behind a proxy. sends: headers that it adds."""
    handler = type("Handler", (Proxy,), {"port": live.port, "strips": strips, "sends": sends})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}/some/chat"
        finally:
            proxy.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def prefixed(tokenizer: Tokenizer) -> Iterator[Live]:
    with served([loaded(engine(tokenizer), tokenizer)], settings=Settings(root_path="/some/chat")) as live:
        yield live


def linked(client: httpx.Client, page: httpx.Response) -> list[int]:
    """The statuses of what a browser loads for a page, and of what it links."""
    found = [link for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text) if not link.startswith("data:")]
    assert len(found) >= 2
    return [client.get(page.url.join(link)).status_code for link in dict.fromkeys(found)]


# a server that neither a flag nor a header tells of the prefix cannot know which paths are its own
@pytest.mark.parametrize(
    ("strips", "by"), [(True, "flag"), (True, "header"), (True, "neither"), (False, "flag"), (False, "header")]
)
def test_all_works_below_a_prefix(live: Live, prefixed: Live, strips: bool, by: str) -> None:
    sends = {"X-Forwarded-Prefix": "/some/chat"} if by == "header" else {}
    with proxied(prefixed if by == "flag" else live, strips, **sends) as url, httpx.Client() as client:
        html = {"Accept": "text/html"}
        pages = ["/", "/docs", "/docs/", "/api", "/api/"] + ([""] if by != "neither" else [])
        for path in pages:
            page = client.get(url + path, headers=html)
            assert page.status_code == 200, path
            assert set(linked(client, page)) == {200}, path
        assert "../" in client.get(f"{url}/static/api.js").text  # scripts ask relative to themselves
        if by != "neither":
            described = client.get(f"{url}/openapi.json").json()
            assert described["servers"] == [{"url": url}] and f"curl {url}/v1/" in client.get(f"{url}/docs").text
        assert client.post(f"{url}{CHAT}", json=HELLO).json()["choices"][0]["message"]["content"] == "é! Rome"
        assert events(client.post(f"{url}{CHAT}/", json={**HELLO, "stream": True}))
        assert client.head(f"{url}/health").status_code == client.get(f"{url}/v1/models/").status_code == 200


# ---------------------------------------------------------------- the documentation


def fits(example: Any, real: Any) -> bool:
    """Whether everything in an example is in the real thing, with values of the same types."""
    if isinstance(example, dict):
        return isinstance(real, dict) and all(name in real and fits(each, real[name]) for name, each in example.items())
    if isinstance(example, list):
        return isinstance(real, list) and (not example or not real or fits(example[0], real[0]))
    return type(example) is type(real)


@pytest.fixture(scope="module")
def roomy(tokenizer: Tokenizer) -> Iterator[Live]:
    """A server whose model has the context that the description of a tool takes."""
    with served([loaded(Engine(calculating(tokenizer, "é! Rome", 1024), slots=4), tokenizer)]) as live:
        yield live


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_the_examples_in_the_documentation_are_true(roomy: Live, example: Example) -> None:
    real = roomy.get(example.path) if example.request is None else roomy.post(example.path, example.request)
    assert real.status_code == example.status
    reply = example.reply
    if example.title == "Models":  # this one has no record of its training; tests/test_record.py has one that does
        assert isinstance(reply, dict)
        reply = {**reply, "data": [{name: each for name, each in reply["data"][0].items() if name != "trained"}]}
    assert fits(reply, events(real) if example.streams else real.json())


def test_the_documentation_shows_the_address_that_was_reached(live: Live) -> None:
    for path in ("/docs", "/api"):
        page = live.get(path).text
        assert all(f"{live.url}{example.path}" in page for example in EXAMPLES)
    proxy = {"Host": "localhost", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.example.com",
             "X-Forwarded-Prefix": "/a"}  # fmt: skip
    assert "curl https://chat.example.com/a/v1/models" in live.get("/docs", headers=proxy).text
    odd = {"X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "$(rm)<b>", "X-Forwarded-Prefix": "/\"><script>"}
    assert f"curl {live.url}/v1/models" in live.get("/docs", headers=odd).text
    assert live.get("/openapi.json").json()["servers"] == [{"url": live.url}]


# ---------------------------------------------------------------- kept connections: serving/keepalive-502


def test_idle_connections_are_kept_longer_than_clients_keep_theirs(live: Live) -> None:
    """Case serving/keepalive-502: nginx and load balancers keep theirs for 60 s, Go's clients for 90."""
    live.get("/health")
    everybody: list[Any] = list(live.server.server_state.connections)
    assert everybody and all(each.timeout_keep_alive > 90 for each in everybody)


def test_how_long_they_are_kept_is_a_flag(tokenizer: Tokenizer) -> None:
    with told(tokenizer, inference_server.Flags, ["--keep-alive", "1"]) as live:
        connection = socket.create_connection(("127.0.0.1", live.port), timeout=30)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while part := connection.recv(1 << 16):
            said += part
        assert said.startswith(b"HTTP/1.1 200 ")  # and then the end, from the server
        connection.close()


def test_what_is_written_leaves_at_once(live: Live) -> None:
    """Otherwise the second packet of a reply waits for the acknowledgement of the first: 44 ms for /health, not 0.5."""
    live.get("/health")
    sockets = [each.transport.get_extra_info("socket") for each in list(live.server.server_state.connections)]
    assert sockets and all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)
