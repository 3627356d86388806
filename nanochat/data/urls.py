"""Download one file from a URL.

A URL may come from somebody else, and so may the address it redirects to. Unless allowed, no request is made to a host
that has an address outside the public internet, such as this machine or the network it is in.
"""

import ipaddress
import multiprocessing
import socket
import ssl
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from nanochat.errors import UserError
from nanochat.paths import write_atomically

if TYPE_CHECKING:
    from httpx2 import URL, Response

MAX_BYTES = 1 << 30
MAX_REDIRECTS = 5
SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".txt", ".gz", ".zst")


def is_url(text: str) -> bool:
    return "://" in text


def name_of(url: str) -> str:
    """The file name that a URL ends with; `.txt` is added where it does not end with one of SUFFIXES."""
    name = PurePosixPath(_parsed(url).path).name.replace("\0", "")[-100:]
    return name if name.lower().endswith(SUFFIXES) else f"{name or 'text'}.txt"


def fetch(
    url: str,
    folder: Path,
    max_bytes: int = MAX_BYTES,
    allow_private: bool = False,
    silence: float = 30.0,
    patience: float = 3600.0,
) -> Path:
    """Download a URL into a folder; returns the file, named by `name_of`.

    Follows at most MAX_REDIRECTS redirects and ignores proxy settings. `silence` limits the seconds between two
    packets, `patience` the whole transfer. Raises UserError for everything that goes wrong, and leaves no file then.
    """
    import httpx2

    end = time.monotonic() + patience
    at, headers = url, {"User-Agent": "nanochat", "Accept-Encoding": "identity"}
    # trust_env would send requests through a proxy, which resolves names by itself.
    with httpx2.Client(
        headers=headers, timeout=min(silence, patience), trust_env=False, verify=ssl.create_default_context()
    ) as client:
        for _ in range(MAX_REDIRECTS + 1):
            check(at, allow_private)
            try:
                # In a thread: a server that sends its headers byte by byte never runs into a timeout of httpx2.
                with ThreadPool(1) as pool:
                    send = pool.apply_async(client.send, [client.build_request("GET", at)], {"stream": True})
                    response = send.get(max(0.0, end - time.monotonic()))
                if response.next_request is None:
                    return _save(at, response, folder / name_of(url), max_bytes, end)
                at = str(response.next_request.url)
                response.close()
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, multiprocessing.TimeoutError) as error:
                if time.monotonic() >= end:
                    raise UserError(f"{at} took longer than {patience:g} seconds; download it by other means") from None
                raise UserError(f"cannot fetch {at}: {_reason(error)}") from error
    raise UserError(f"{url} redirects more than {MAX_REDIRECTS} times; give the address where it ends")


def check(url: str, allow_private: bool = False) -> None:
    """Raise UserError where `fetch` would refuse a URL before it asks the server: for its form, or for its address."""
    parsed = _parsed(url)
    host = parsed.raw_host.decode()
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, parsed.port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot fetch {url}: {getattr(error, 'strerror', None) or error}") from error
    private = next((address for address in sorted(addresses) if not is_public(address)), None)
    if private is not None and not allow_private:
        raise UserError(
            f"{url} was not fetched: {host} has the address {private}, which is not public; "
            "--allow_private_urls permits it"
        )


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, and not to this machine or a private network."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _parsed(url: str) -> "URL":
    import httpx2  # slow to import, and needed for downloads only

    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UserError(f"{url!r} is not a URL: {error}") from None
    if parsed.userinfo:
        raise UserError(f"the URL for {parsed.host} holds a user name, which is not sent; leave it out")
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) >= 1 << 16:
        raise UserError(f"{url!r} cannot be fetched; expected http://host/… or https://host/…")
    return parsed


def _save(url: str, response: "Response", path: Path, max_bytes: int, end: float) -> Path:
    """Write an answer's body to a file. Raises TimeoutError when the time is up."""
    import httpx2

    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    announced = response.headers.get("Content-Length", "")
    coding = response.headers.get("Content-Encoding", "identity")
    if response.status_code != 200:
        raise UserError(f"{url} answers {response.status_code} {response.reason_phrase}; check the address")
    if kind in ("text/html", "application/xhtml+xml"):
        raise UserError(f"{url} is a web page ({kind}); give the address of the text itself, often called raw")
    if coding != "identity":
        raise UserError(f"{url} is sent compressed ({coding}), which was not requested; download and unpack it")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise UserError(f"{url} is too large: {announced} bytes, --max_bytes allows {max_bytes}")

    def write(file: BinaryIO) -> None:
        size = 0
        try:
            for block in response.iter_raw():
                size += len(block)
                if size > max_bytes:
                    raise UserError(f"{url} is too large: more than {max_bytes} bytes, --max_bytes allows {max_bytes}")
                if time.monotonic() >= end:
                    raise TimeoutError
                file.write(block)
        except httpx2.RemoteProtocolError:
            raise UserError(f"{url} broke off after {size} of {announced or 'unknown'} bytes; try again") from None

    write_atomically(path, write)
    return path


def _reason(error: Exception) -> str:
    import httpx2

    match error:
        case TimeoutError() | httpx2.TimeoutException():
            return "the server does not answer"
        case httpx2.ProtocolError():
            return f"the server breaks the rules of HTTP ({error})"
    invalid = str(error).partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
    return f"its certificate is not valid ({invalid})" if invalid else str(error)
