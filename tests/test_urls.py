"""Downloads from URLs: what is fetched, and above all what is not. All servers are on loopback."""

import http.server
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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


def drips(head: bytes) -> Answer:
    """Sends `head`, then a byte now and then for as long as anybody listens."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(head)
        while True:
            request.wfile.write(b"x")
            time.sleep(0.05)

    return answer


def refused(url: str, folder: Path, **limits: object) -> str:
    with pytest.raises(UserError) as error:
        urls.fetch(url, folder, **{"allow_private": True, **limits})  # type: ignore[arg-type]
    assert not list(folder.iterdir())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_text_comes_whole(server, tmp_path):
    body = "Ä text.\n".encode() * 100_000
    server.answer = sends(body)
    path = urls.fetch(f"{server.url}/some%20where/the%20b%C3%B6ok.txt?x=%2F&y=ä#part", tmp_path, allow_private=True)
    assert path == tmp_path / "the böok.txt" and path.read_bytes() == body
    assert server.asked == [f"/some%20where/the%20b%C3%B6ok.txt?x=%2F&y=%C3%A4 127.0.0.1:{server.server_port}"]
    assert list(tmp_path.iterdir()) == [path]
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
        ("https://x.org/a/..", "text.txt"),
        ("https://x.org/a%2F..%2F..%2Fetc%2Fpasswd", "passwd.txt"),
        ("https://x.org/" + "n" * 500, "n" * 100 + ".txt"),
    ],
)
def test_the_name_of_a_url(url, name):
    assert urls.name_of(url) == name


PRIVATE = """127.0.0.1 127.9.9.9 10.0.0.1 172.16.5.4 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 240.0.0.1
    255.255.255.255 192.0.2.1 198.18.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd12:3456::1 ff02::1 2001:db8::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 2002:7f00:1:: 2002:a00:1::1 64:ff9b::7f00:1 4000::1 fec0::1
    2001:0:4136:e378:8000:63bf:f5ff:fffe""".split()
PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:808:808::"]


@pytest.mark.parametrize("address", PRIVATE + PUBLIC)
def test_which_addresses_are_public(address):
    assert urls.is_public(address) == (address in PUBLIC)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_asked(server, tmp_path, host):
    message = refused(f"http://{host}:{server.server_port}/secret", tmp_path, allow_private=False)
    assert "which is not public" in message and "--allow_private_urls" in message
    assert server.asked == []


def test_a_redirect_into_the_private_network_is_not_followed(server, tmp_path, monkeypatch):
    """127.0.0.1 plays the public server here, 127.0.0.2 the private one."""
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1")
    inside = f"http://127.0.0.2:{server.server_port}/secret"
    server.answer = sends(b"", 302, Location=inside)
    message = refused(server.url, tmp_path, allow_private=False)
    assert message.startswith(f"{inside} was not fetched: 127.0.0.2 has the address 127.0.0.2")
    assert len(server.asked) == 1


def test_one_private_address_among_public_ones_is_enough_to_refuse(server, tmp_path, monkeypatch):
    found = [(0, 0, 0, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    assert "127.0.0.1" in refused(f"http://x.org:{server.server_port}/", tmp_path, allow_private=False)


@pytest.mark.parametrize(
    "url, message",
    [
        ("file:///etc/passwd", "expected http://host"),
        ("ftp://x.org/a.txt", "expected http://host"),
        ("http:///a.txt", "expected http://host"),
        ("http://x.org:99999/", "expected http://host"),
        ("http://[::1/", "is not a URL"),
        ("http://me:secret@x.org/", "holds a user name"),
        ("http://x.invalid/", "cannot fetch http://x.invalid/: "),
        ("http://127.0.0.1:9/", "Connection refused"),
    ],
)
def test_urls_that_cannot_be_fetched(tmp_path, url, message):
    sentence = refused(url, tmp_path)
    assert message in sentence and "secret" not in sentence


@pytest.mark.parametrize(
    "answer, message",
    [
        (sends(b"x" * 1001), "is too large: 1001 bytes, --max_bytes allows 1000"),
        (sends(b"x" * 1001, Content_Length=None), "is too large: more than 1000 bytes"),
        (sends(b"x" * 10, Content_Length=900), "broke off after 10 of 900 bytes"),
        (sends(b"", 404), "answers 404 Not Found"),
        (sends(b"", 304), "answers 304"),
        (sends(b"<html>", Content_Type="text/html; charset=utf-8"), "is a web page"),
        (sends(b"\x1f\x8b", Content_Encoding="gzip"), "is sent compressed (gzip)"),
        (sends(b"", 302, Location="file:///etc/passwd"), "expected http://host"),
        (sends(b"", 302, Location="/again"), "redirects more than 5 times"),
        (lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "breaks the rules of HTTP"),
        (sends(b"-1\r\n" + b"x" * 10, Content_Length=None, Transfer_Encoding="chunked"), "broke off"),
    ],
)
def test_answers_that_are_refused(server, tmp_path, answer, message):
    server.answer = answer
    assert message in refused(f"{server.url}/x", tmp_path, max_bytes=1000)


def test_a_server_that_is_silent(server, tmp_path):
    server.answer = lambda request: time.sleep(1)
    assert "the server does not answer" in refused(server.url, tmp_path, silence=0.2)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_that_drips(server, tmp_path, head):
    """Never silent for long, in the headers or in the body; only the time for all of it ends that."""
    server.answer = drips(head)
    assert "took longer than 0.3 seconds" in refused(server.url, tmp_path, patience=0.3)


def test_tls_checks_the_certificate_and_the_name_in_the_url(server, tmp_path, tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    key = path.with_name("key.pem")
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run(
            [*request, "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", path],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no openssl program here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answer = sends(b"secret")
    url = f"https://localhost:{server.server_port}/"
    assert "its certificate is not valid (self" in refused(url, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert urls.fetch(url, tmp_path, allow_private=True).read_bytes() == b"secret"
    (tmp_path / "text.txt").unlink()
    message = refused(url.replace("localhost", "127.0.0.1"), tmp_path)  # the same server under another name
    assert "its certificate is not valid" in message and "127.0.0.1" in message
