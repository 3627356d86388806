"""What every way to start the server has in common: who may come in, what is said, and the run until a signal."""

import ipaddress
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from nanochat.errors import UserError
from nanochat.web.app import build_app
from nanochat.web.server import Server
from nanochat.web.service import Service

KEYS = ("NANOCHAT_API_KEY", "NANOGPT_API_KEY")  # environment variables


def api_key(given: str | None) -> str | None:
    """What clients must send as a bearer token: `given`, else what the environment says; None: nothing.

    Raises UserError for a key that no header can carry.
    """
    if given is None:
        return next((value for name in KEYS if (value := os.environ.get(name))), None)
    if not re.fullmatch(r"[!-~]+", given):
        raise UserError("--api_key is empty or not of ASCII letters, digits and signs; expected such as s3cret")
    return given


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def known_hosts(host: str, cors_origins: Iterable[str] = ()) -> frozenset[str] | None:
    """The names that a browser may know this machine by; None, any, unless only this machine is meant to come in."""
    origins = list(cors_origins)
    if not is_local(host) or "*" in origins:
        return None
    return frozenset({"localhost", host, *(urlsplit(origin).hostname or "" for origin in origins)})


def log_to_stderr() -> None:
    """Let the server's own log be seen, of other libraries only their warnings."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("nanochat.web").setLevel(logging.INFO)


def serve(
    service: Service, bound: socket.socket, host: str, drain_seconds: float = 30.0, remark: str = "",
    ready: Callable[[Server], object] | None = None,
) -> None:  # fmt: skip
    """Serve until a signal or `Server.stop`; as soon as it answers, say what is served and where.

    bound: the socket that `listen` made for `host`. remark: one more line to say. ready: see Server.
    """

    def announce(server: Server) -> None:
        _say(service, host, bound.getsockname()[1], remark)
        if ready is not None:
            ready(server)

    Server(build_app(service), service, drain_seconds, announce).run([bound])


def _say(service: Service, host: str, port: int, remark: str) -> None:
    for each in service.models.values():
        chats = "" if each.chats else "; continues texts, does not chat"
        step = f"step {each.step}, " if each.step else ""
        print(f"{each.id}: {step}{each.parameters / 1e6:.1f}M parameters, {each.dtype} on {each.device}, "
              f"context {each.context}, {each.pool.slots} at once{chats}")  # fmt: skip
    local = is_local(host)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name if local else 'localhost'}:{port}"
    print(f"\n{address}        the page; the API is at {address}/v1, described at {address}/docs")
    if local:
        print(f"From another machine: ssh -L {port}:127.0.0.1:{port} <this machine>, then open http://localhost:{port}")
    elif not service.settings.api_key:
        print("Anybody who can reach this machine can use the models; --api_key asks for a key.")
    if remark:
        print(remark)
    print("Ctrl-C finishes what runs and ends.", flush=True)
