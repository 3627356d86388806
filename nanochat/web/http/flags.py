"""The flags of a server's address and of whom it answers, the same in every script that serves.

Nothing here imports a web framework: a script parses its command line before it imports anything heavy.
"""

import ipaddress
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from nanochat.config import alias
from nanochat.errors import UserError
from nanochat.web.http.origins import parse_host, parse_origin

API_KEYS = ("NANOCHAT_API_KEY", "NANOGPT_API_KEY")  # environment variables
PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def share_cores() -> None:
    """Let threads that wait for others sleep. To be called before torch is imported.

    By default they keep their core for milliseconds. In a server the event loop, and on the same machine its clients,
    need it: with other work on two cores, a product of a small model took 3 to 8 ms instead of 0.1.
    On an idle machine it costs one stream of such a model up to a fifth of its rate (dev/LOG.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@dataclass
class NetworkFlags:
    """Where a server listens, and whom it answers."""

    # --- server
    host: str = "127.0.0.1"
    """address to listen on; use 0.0.0.0 to let other machines in"""
    port: Annotated[int, alias("-p")] = 8000
    """port to listen on; 0 takes any free one"""
    api_key: str | None = None
    """key that clients must send as a bearer token; default: NANOCHAT_API_KEY or NANOGPT_API_KEY, else none"""
    cors_origin: list[str] = field(default_factory=list)
    """let the pages of a web site use the API: https://example.com, https://*.example.com, null or *; repeat it"""
    allowed_host: list[str] = field(default_factory=list)
    """answer requests for a host name: chat.example.com, *.example.com or *; repeat it for several"""
    root_path: str = ""
    """path at which a reverse proxy shows the server, such as /chat"""
    keep_alive: int = 120
    """seconds to keep an idle connection open; a proxy in front should close its own sooner"""

    def check_network(self) -> None:
        """Report mistakes that can be seen before anything is loaded."""
        for origin in self.cors_origin:
            _check_origin(origin)
        for name in self.allowed_host:
            _check_host(name)
        self.root_path = root_path(self.root_path)
        if not 0 < self.keep_alive <= 86400:
            raise UserError(f"--keep_alive is {self.keep_alive}; expected 1 to 86400 seconds (a day)")

    def network_settings(self, host: str) -> dict[str, Any]:
        """The part of Settings that these flags decide, for a server that listens on `host`."""
        return {
            "api_key": find_api_key(self.api_key), "cors_origins": tuple(self.cors_origin),
            "hosts": allowed_hosts(host, self.cors_origin, self.allowed_host), "root_path": self.root_path,
            "keep_alive": self.keep_alive,
        }  # fmt: skip


def find_api_key(given: str | None) -> str | None:
    """The key that clients must send: `given`, else from the environment; None: no key is required.

    Raises UserError for a key that an HTTP header cannot carry.
    """
    if given is None:
        return next((value for name in API_KEYS if (value := os.environ.get(name))), None)
    if not re.fullmatch(r"[!-~]+", given):
        raise UserError("--api_key must be one or more ASCII letters, digits and signs, such as s3cret")
    return given


def allowed_hosts(host: str, cors_origins: Iterable[str] = (), names: Iterable[str] = ()) -> frozenset[str] | None:
    """The host names that requests may use. None (any) where nobody named some and other machines are let in."""
    origins, more = list(cors_origins), frozenset(names)
    if "*" in more or not more and (not is_local(host) or "*" in origins):
        return None
    listens = {host} if host and not is_address(host) else set()
    return more | listens | {"localhost"} | {name for each in origins if (name := urlsplit(each).hostname)}


def root_path(given: str) -> str:
    """A proxy's path as it is put before our own: "" or "/chat". Raises UserError for what is not a path."""
    path = "/" + given.strip("/") if given.strip("/") else ""
    if path and not PREFIX.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise UserError(f"--root_path {given} is not the path of a URL; expected one such as /chat")
    return path


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    return host == "localhost" or is_address(host) and ipaddress.ip_address(host).is_loopback


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_origin(given: str) -> None:
    if given == "*":
        return
    try:
        parse_origin(given)
    except ValueError:
        site = urlsplit(given)
        fitting = f"{site.scheme}://{site.netloc}" if site.netloc else f"https://{given}"
        try:
            parse_origin(fitting)
            instead = f"use --cors_origin {shlex.quote(fitting)}, or --cors_origin '*' for all sites"
        except ValueError:
            instead = "expected one such as https://example.com, or '*' for all sites"
        raise UserError(f"--cors_origin {given} is not the address of a web site; {instead}") from None


def _check_host(given: str) -> None:
    try:
        parse_host(given)
    except ValueError:
        name = urlsplit(given).hostname
        instead = f"use --allowed_host {shlex.quote(name)}" if name else "expected one such as chat.example.com"
        raise UserError(f"--allowed_host {given} is not a host name; {instead}") from None
