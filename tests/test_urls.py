"""Texts from URLs: what is fetched, and above all what is not. All servers are on loopback."""

import http.server
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import urls
from nanochat.errors import UserError

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    asked: list[str]  # "path host"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.path} {self.headers['Host']}")
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.asked = []
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def sends(body: bytes, status: int = 200, **headers: object) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                request.send_header(name.replace("_", "-"), str(value))
        request.end_headers()
        request.wfile.write(body)

    return answer


def drips(seconds: float) -> Answer:
    """A byte now and then, for as long as anybody listens."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x")
            time.sleep(seconds)

    return answer


def refused(url: str, folder: Path, **limits: object) -> str:
    with pytest.raises(UserError) as error:
        urls.fetch(url, folder, **{"allow_private": True, **limits})  # type: ignore[arg-type]
    assert not list(folder.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- what is fetched


def test_a_text_comes_whole(server, tmp_path):
    body = "Ä text.\n".encode() * 100_000
    server.answer = sends(body)
    path = urls.fetch(f"{server.url}/some%20where/the%20b%C3%B6ok.txt?x=%2F&y=ä#part", tmp_path, allow_private=True)
    assert path == tmp_path / "the böok.txt" and path.read_bytes() == body
    assert server.asked == [f"/some%20where/the%20b%C3%B6ok.txt?x=%2F&y=%C3%A4 127.0.0.1:{server.server_port}"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_of_unknown_length(server, tmp_path):
    server.answer = sends(b"until the end", Content_Length=None)
    assert urls.fetch(server.url, tmp_path, allow_private=True).read_bytes() == b"until the end"


@pytest.mark.parametrize("location", ["/there", "there", "http://localhost:{port}/there"])
def test_redirects_are_followed(server, tmp_path, location):
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/there":
            return sends(b"here")(request)
        return sends(b"", 302, Location=location.format(port=server.server_port))(request)

    server.answer = answer
    path = urls.fetch(f"{server.url}/a.jsonl", tmp_path, allow_private=True)
    assert path.name == "a.jsonl" and path.read_bytes() == b"here"


@pytest.mark.parametrize(
    "url, name",
    [
        ("https://x.org/a/b.parquet?y#z", "b.parquet"),
        ("https://x.org/a/b.md", "b.md.txt"),
        ("https://x.org", "text.txt"),
        ("https://x.org/a/..", "...txt"),
        ("https://x.org/a%2F..%2F..%2Fetc%2Fpasswd", "passwd.txt"),
        ("https://x.org/" + "n" * 500, "n" * 100 + ".txt"),
    ],
)
def test_the_name_of_a_url(url, name):
    assert urls.name_of(url) == name


# ---------------------------------------------------------------- which addresses are public


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 127.9.9.9 10.0.0.1 172.16.5.4 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 240.0.0.1
    255.255.255.255 192.0.2.1 198.18.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd12:3456::1 ff02::1 2001:db8::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 2002:7f00:1:: 2002:a00:1::1 64:ff9b::7f00:1 4000::1
    2001:0:4136:e378:8000:63bf:f5ff:fffe""".split(),
)
def test_addresses_that_are_not_public(address):
    assert not urls.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are(address):
    assert urls.is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_no_better_in_the_clothes_of_ipv6(address):
    number = int(address)
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | number)
    sixtofour = ipaddress.IPv6Address(0x2002 << 112 | number << 80)
    assert urls.is_public(str(mapped)) == urls.is_public(str(sixtofour)) == urls.is_public(str(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_asked(server, tmp_path, host):
    url = f"http://{host}:{server.server_port}/secret"
    said = refused(url, tmp_path, allow_private=False)
    assert "which is not public" in said and "--allow_private_urls" in said
    assert server.asked == []


def test_a_redirect_into_the_private_network_is_not_followed(server, tmp_path, monkeypatch):
    """127.0.0.1 plays the public server here, 127.0.0.2 the private one."""
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")
    inside = f"http://127.0.0.2:{server.server_port}/secret"
    server.answer = sends(b"", 302, Location=inside)
    said = refused(server.url, tmp_path, allow_private=False)
    assert said.startswith(f"{inside} was not fetched: 127.0.0.2 has the address 127.0.0.2")
    assert len(server.asked) == 1


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to the lists of addresses in turn; returns the names that were looked up."""
    looked_up: list[str] = []
    left = iter(answers)

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(left)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


def test_one_private_address_among_public_ones_is_enough_to_refuse(server, tmp_path, monkeypatch):
    resolving(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    assert "127.0.0.1" in refused(f"http://x.org:{server.server_port}/", tmp_path, allow_private=False)
    assert server.asked == []


def test_a_name_is_looked_up_once_and_the_connection_made_to_what_was_checked(server, tmp_path, monkeypatch):
    """A name that resolves to something else the second time (DNS rebinding) has no second time."""
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")
    looked_up = resolving(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    server.answer = sends(b"fine")
    path = urls.fetch(f"http://x.org:{server.server_port}/", tmp_path)
    assert path.read_bytes() == b"fine"
    assert looked_up == ["x.org"] and server.asked == [f"/ x.org:{server.server_port}"]


@pytest.mark.parametrize(
    "url, said",
    [
        ("file:///etc/passwd", "expected http://host"),
        ("ftp://x.org/a.txt", "expected http://host"),
        ("http:///a.txt", "expected http://host"),
        ("http://x.org:99999/", "is no URL"),
        ("http://[::1/", "is no URL"),
        ("http://me:secret@x.org/", "holds a user name"),
        ("http://x.invalid/", "cannot fetch http://x.invalid/: "),
    ],
)
def test_urls_that_cannot_be_fetched(tmp_path, url, said):
    sentence = refused(url, tmp_path, allow_private=False)
    assert said in sentence and "secret" not in sentence


# ---------------------------------------------------------------- servers that misbehave


@pytest.mark.parametrize(
    "answer, said",
    [
        (sends(b"x" * 1001), "is too large: 1001 bytes, --max_bytes allows 1000"),
        (sends(b"x" * 1001, Content_Length=None), "is too large: more than 1000 bytes"),
        (sends(b"x" * 10, Content_Length=900), "broke off after 10 of 900 bytes"),
        (sends(b"", 404), "answers 404 Not Found"),
        (sends(b"", 304), "answers 304"),
        (sends(b"<html>", Content_Type="text/html; charset=utf-8"), "is a web page"),
        (sends(b"\x1f\x8b", Content_Encoding="gzip"), "comes compressed (gzip)"),
        (sends(b"", 302, Location="file:///etc/passwd"), "expected http://host"),
        (sends(b"", 302, Location="/again"), "redirects more than 5 times"),
        (lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "breaks the rules of HTTP (BadStatusLine)"),
    ],
)
def test_answers_that_are_refused(server, tmp_path, answer, said):
    server.answer = answer
    assert said in refused(f"{server.url}/x", tmp_path, max_bytes=1000)


def test_a_server_that_is_silent(server, tmp_path):
    server.answer = lambda request: time.sleep(1)
    assert "the server does not answer" in refused(server.url, tmp_path, silence=0.2)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: "])
def test_a_server_that_drips(server, tmp_path, head):
    """Never silent for long, in the body or already in the headers; only the time for all of it ends that."""

    def drip_headers(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(head)
        while True:
            request.wfile.write(b"x")
            time.sleep(0.05)

    server.answer = drip_headers if head else drips(0.05)
    assert "took longer than 0.3 seconds" in refused(server.url, tmp_path, patience=0.3)


def test_nobody_listens(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "Connection refused" in refused(f"http://127.0.0.1:{port}/", tmp_path)


# ---------------------------------------------------------------- TLS


@pytest.fixture
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, with its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost", "-keyout", path.with_name("key.pem"),
               "-out", path]  # fmt: skip
    try:
        made = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl program here")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture
def secure(server: Server, certificate: Path) -> tuple[Server, list[str | None]]:
    """The server with TLS, and the names that clients say in the handshake."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    context.sni_callback = lambda _, name, __: names.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server, names


def test_tls_checks_the_name_in_the_url(secure, certificate, tmp_path, monkeypatch):
    server, names = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.answer = sends(b"secret")
    path = urls.fetch(f"https://localhost:{server.server_port}/", tmp_path, allow_private=True)
    assert path.read_bytes() == b"secret" and names == ["localhost"]
    path.unlink()
    said = refused(f"https://127.0.0.1:{server.server_port}/", tmp_path)  # the same server under another name
    assert "its certificate is not valid" in said and "127.0.0.1" in said


def test_tls_refuses_a_certificate_that_nobody_vouches_for(secure, tmp_path):
    server, _ = secure
    server.answer = sends(b"secret")
    said = refused(f"https://localhost:{server.server_port}/", tmp_path)
    assert "its certificate is not valid (self-signed certificate)" in said or "self signed" in said
    assert server.asked == []
