"""Whom a server answers: the web sites whose pages may use it, and the names that requests may call it by."""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>(?:\*\.)?[^\s/?#@:*\[\]]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}|\*))?/?",
    re.IGNORECASE,
)
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}


def parse_origin(text: str) -> str:
    """An origin as browsers write it: in lower case and without the default port. `*` may stand for any subdomain
    (https://*.example.com) or port (http://localhost:*).

    Raises ValueError for anything else but "null" and "file://", which some programs' pages send.
    """
    if text in ("null", "file://"):
        return text
    found = _ORIGIN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not an origin")
    scheme, host, port = found["scheme"].lower(), _ascii(found["host"]), found["port"]
    return f"{scheme}://{host}" + ("" if port is None or (scheme, port) in _DEFAULT_PORTS else f":{port}")


def parse_host(text: str) -> str:
    """The name or address in a Host header, in lower case and without its port. `*.` may stand for any subdomain.

    Raises ValueError for what is not a name.
    """
    if re.search(r"[\s/?#@]|\*(?!\.)", text.strip()) and text != "*":
        raise ValueError(f"{text!r} is not a host name")
    name = urlsplit(f"//{text.strip()}").hostname
    if not name:
        raise ValueError(f"{text!r} is not a host name")
    return _ascii(name)


class Origins:
    """The web sites whose pages may use the server."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """patterns: as `parse_origin` takes them, or "*" for all sites."""
        given = list(patterns)
        self.all = "*" in given
        self._known = _any_of(parse_origin(each) for each in given if each != "*")

    def __contains__(self, origin: object) -> bool:
        try:
            return self.all or self._known.fullmatch(parse_origin(str(origin))) is not None
        except ValueError:
            return False


class Hosts:
    """The names that requests may call the server by. Addresses always pass: only a name can be made to point here."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """patterns: as `parse_host` takes them, or "*" for all names."""
        given = list(patterns)
        self.all = "*" in given
        self._known = _any_of(parse_host(each) for each in given if each != "*")

    def __contains__(self, host: object) -> bool:
        """Whether a request with this Host header may pass."""
        if self.all:
            return True
        try:
            name = parse_host(str(host))
            return self._known.fullmatch(name) is not None or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _ascii(host: str) -> str:
    """A host name as browsers send it: in lower case, and in punycode where it is not ASCII."""
    try:
        return host.lower() if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{host!r} is not a host name") from None


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """What matches any of the patterns, whose * stands for a subdomain or a port."""
    choices = []
    for pattern in patterns:
        rest, any_port, _ = pattern.partition(":*")
        choices.append(re.escape(rest).replace(r"\*\.", r"[a-z0-9_.-]+\.") + (r"(?::\d+)?" if any_port else ""))
    return re.compile("|".join(choices) or "(?!)")
