"""One text from a URL, without becoming a way into the network that this machine stands in.

A URL may be somebody else's, and so may be what it redirects to and what its name resolves to. So every address of
every host on the way must be a public one, and the connection is made to the very address that was looked at: a name
that resolves to another one a moment later changes nothing.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from nanochat.errors import UserError
from nanochat.paths import write_atomically

MAX_BYTES = 1 << 30
MAX_REDIRECTS = 5
REDIRECTS = {301, 302, 303, 307, 308}
SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".txt", ".gz", ".zst")


def is_url(text: str) -> bool:
    return "://" in text


def name_of(url: str) -> str:
    """The file name that a URL ends with, with one of SUFFIXES, by which it is read: .txt where it has none."""
    name = PurePosixPath(unquote(_parsed(url)[0].path)).name.replace("\0", "")[-100:] or "text"
    return name if name.lower().endswith(SUFFIXES) else f"{name}.txt"


def check(url: str, allow_private: bool = False) -> None:
    """Raise UserError where `fetch` would refuse a URL before it asks the server: for its form, or for its address."""
    _, host, port = _parsed(url)
    with _one_sentence(url, _Deadline(60.0, url)):
        _addresses(host, port, url, allow_private)


def fetch(
    url: str,
    folder: Path,
    max_bytes: int = MAX_BYTES,
    allow_private: bool = False,
    silence: float = 30.0,
    patience: float = 3600.0,
) -> Path:
    """Download a URL as a stream into a folder; returns the file, named by `name_of`.

    http and https only, at most MAX_REDIRECTS redirects; proxies of the environment are not used. `allow_private` lets
    addresses pass that are not public: loopback, private, link-local, reserved. A server may be silent for `silence`
    seconds, and all of it may take `patience`. Raises UserError for all that goes wrong; nothing is left behind then.
    """
    deadline = _Deadline(patience, url)
    at = url
    for _ in range(MAX_REDIRECTS + 1):
        with _one_sentence(at, deadline), _answer(at, allow_private, silence, deadline) as response:
            location = response.getheader("Location")
            if response.status in REDIRECTS and location:
                at = urljoin(at, location)
                continue
            return _save(at, response, folder / name_of(url), max_bytes, deadline)
    raise UserError(f"{url} redirects more than {MAX_REDIRECTS} times; give the address where it ends")


class _Response(http.client.HTTPResponse):
    """The library takes a chunk of -1 bytes for one without end, and reads it into memory."""

    def _read_next_chunk_size(self) -> int:
        size = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise http.client.HTTPException("a chunk of less than no bytes")
        return size


class _Deadline:
    """Ends a connection that is still open when the time is up, whatever it is being waited for."""

    def __init__(self, seconds: float, url: str):
        self.seconds = seconds
        self.url = url
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(self.end - time.monotonic(), 0.01)

    def check(self) -> None:
        if time.monotonic() >= self.end:
            raise UserError(f"{self.url} took longer than {self.seconds:g} seconds; download it by other means")

    @contextmanager
    def over(self, connection: socket.socket) -> Iterator[None]:
        def end() -> None:
            with suppress(OSError):  # it has just ended by itself
                # The plain socket's method: that of a TLS socket would take its state from under the reading thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

        timer = threading.Timer(self.left, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _answer(
    url: str, allow_private: bool, silence: float, deadline: _Deadline
) -> Iterator[http.client.HTTPResponse]:
    """Ask for a URL, at an address that was checked; yields the answer with its body unread."""
    parts, host, port = _parsed(url)
    with ExitStack() as stack:
        plain = _connect(_addresses(host, port, url, allow_private), min(silence, deadline.left))
        stack.callback(plain.close)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            tls = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            stack.callback(tls.close)
            stack.enter_context(deadline.over(tls))
            tls.do_handshake()
            connection = http.client.HTTPSConnection(host, port, context=context)
            connection.sock = tls
        else:
            stack.enter_context(deadline.over(plain))
            connection = http.client.HTTPConnection(host, port)
            connection.sock = plain
        connection.response_class = _Response
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~?[]')}" if parts.query else ""
        connection.request("GET", target + query, headers={"User-Agent": "nanochat", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        stack.callback(response.close)
        yield response


def _parsed(url: str) -> tuple[SplitResult, str, int]:
    """A URL, its host as the name system knows it, and its port."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError as error:
        raise UserError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{url!r} cannot be fetched; expected http://host/… or https://host/…")
    if parts.username is not None or parts.password is not None:
        raise UserError(f"the URL for {host} holds a user name, which is not sent; download it by other means")
    return parts, host, port


def _addresses(host: str, port: int, url: str, allow_private: bool) -> list[tuple]:
    """What a host resolves to, as getaddrinfo has it. Raises UserError where one of the addresses is not public."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not allow_private and not is_public(str(address[0])):
            raise UserError(
                f"{url} was not fetched: {host} has the address {address[0]}, which is not public; "
                "--allow_private_urls permits it"
            )
    return found


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, and not of this machine or of a network it may stand in."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner:
            return is_public(str(inner))
    if isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _connect(addresses: list[tuple], timeout: float) -> socket.socket:
    """Connect to the first of these addresses that answers."""
    refused: OSError = ConnectionError("it has no address")
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            refused = error
    raise refused


def _save(url: str, response: http.client.HTTPResponse, path: Path, max_bytes: int, deadline: _Deadline) -> Path:
    if response.status != 200:
        raise UserError(f"{url} answers {response.status} {response.reason}; check the address")
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise UserError(f"{url} is a web page ({kind}); give the address of the text itself, often called raw")
    coding = response.getheader("Content-Encoding", "identity")
    if coding != "identity":
        raise UserError(f"{url} comes compressed ({coding}), unasked; download and unpack it by other means")
    announced = response.getheader("Content-Length", "")
    if not re.fullmatch(r"[0-9]{1,18}", announced):
        announced = ""

    def too_large(size: object) -> UserError:
        return UserError(f"{url} is too large: {size} bytes, --max_bytes allows {max_bytes}")

    def write(file: BinaryIO) -> None:
        size = 0
        while block := response.read(1 << 16):
            size += len(block)
            if size > max_bytes:
                raise too_large(f"more than {max_bytes}")
            file.write(block)
        deadline.check()
        if announced and size < int(announced):
            raise UserError(f"{url} broke off after {size} of {announced} bytes; try again")

    if announced and int(announced) > max_bytes:
        raise too_large(announced)
    write_atomically(path, write)
    return path


@contextmanager
def _one_sentence(url: str, deadline: _Deadline) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        deadline.check()
        raise UserError(f"cannot fetch {url}: {_reason(error)}") from error


def _reason(error: Any) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    if isinstance(error, http.client.HTTPException):
        return f"the server breaks the rules of HTTP ({type(error).__name__})"
    return getattr(error, "strerror", None) or str(error)
