"""A hub on this machine: a real HTTP server with the hub's protocol, and switches for what goes wrong on real ones.

It answers what huggingface_hub 2.4 asks to find, fetch, make and fill a repository. Large files lie, as on the real
hub, behind a redirect to another origin (the CDN), where the token must not follow. Xet is not offered.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

LARGE = (".pt", ".pkl", ".safetensors", ".bin")  # what is kept as large files, besides all above 1 MB
TOKEN = "hf_of-the-test"


@dataclass
class Repo:
    """Files by path, and who may see them."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        described = json.dumps({path: sha256(content) for path, content in sorted(self.files.items())})
        return hashlib.sha1(described.encode()).hexdigest()


@dataclass
class Asked:
    """A request that the hub or its CDN received."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Fault:
    """What goes wrong with `times` requests whose path matches the regular expression, after the first `skip`.

    cut: the connection breaks after so many bytes of the body, and with vanish the hub is gone for good.
    corrupt: one byte of the body is another. status: this answer instead, with these headers.
    meet: the answer waits until so many are asked for at a time.
    """

    pattern: str
    times: int = 1
    skip: int = 0
    cut: int | None = None
    vanish: bool = False
    corrupt: bool = False
    status: int | None = None
    meet: threading.Barrier | None = None
    headers: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """The hub. `asked` is everything it was asked, in order; tests add repositories and faults."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploaded: dict[str, bytes] = {}  # large files that wait for their commit, by sha256
        self.asked: list[Asked] = []
        self.message = ""  # of the last commit
        self.faults: list[Fault] = []
        self.ranges = True  # whether it can send a part of a file
        self.gone = False
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(self)) for _ in range(2)]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, repo: str, files: dict[str, bytes] | Path, **kind: bool) -> Repo:
        """Make a repository of files by path, or of a folder."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        self.repos[repo] = Repo(dict(files), **kind)
        return self.repos[repo]

    def fail(self, pattern: str, **fault) -> None:
        self.faults.append(Fault(pattern, **fault))

    def next_fault(self, path: str) -> Fault | None:
        """What goes wrong with this request."""
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, path):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def sent(self, pattern: str) -> list[Asked]:
        """The GET requests whose path matches."""
        return [each for each in self.asked if each.method == "GET" and re.search(pattern, each.path)]

    def vanish(self) -> None:
        """Nobody listens any more, nor answers on connections that are open."""
        self.gone = True
        while self._servers:
            server = self._servers.pop()
            server.shutdown()
            server.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    return path.endswith(LARGE) or size > 1_000_000


def described(path: str, content: bytes, name: str, identity: str) -> dict:
    """A file as the API lists it; the listings differ in what they call its name and its blob."""
    told: dict = {name: path, "size": len(content), identity: blob(content), "type": "file"}
    if is_large(path, len(content)):
        told["lfs"] = {"oid": sha256(content), "sha256": sha256(content), "size": len(content), "pointerSize": 130}
    return told


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):  # a client that gave up
                super().handle_one_request()

        def do_GET(self) -> None:
            self.answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def answer(self) -> None:
            self.route = unquote(urlsplit(self.path).path)
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization")
            self.authorized = token == f"Bearer {TOKEN}"
            hub.asked.append(Asked(self.command, self.path, self.headers.get("Range"), token))
            if hub.gone:
                self.close_connection = True
                return None
            self.fault = hub.next_fault(self.path)
            if self.fault is not None and self.fault.meet is not None:
                self.fault.meet.wait(30)
            if self.fault is not None and self.fault.status is not None:
                return self.send(self.fault.status, {"error": "a fault of the test"}, self.fault.headers)
            for pattern, respond in ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {self.route}"):
                    return respond(self, **match.groupdict())
            self.send(404, {"error": f"no route for {self.command} {self.route}"})

        def send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
            """Answer with JSON, or bytes, as far as the fault of the moment lets it."""
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            fault = self.fault if self.fault is not None and self.fault.status is None else None
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), **(headers or {})}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault is not None and fault.corrupt:
                body = body[:-1] + bytes([body[-1] ^ 1])
            if fault is not None and fault.cut is not None:
                self.wfile.write(body[: fault.cut])
                if fault.vanish:
                    hub.vanish()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body)

        def repo(self, name: str) -> Repo | None:
            """The repository, if this client may see it; otherwise it has been told."""
            found = hub.repos.get(name)
            if found is None or (found.private and not self.authorized):
                said = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
                self.send(404 if self.authorized else 401, {"error": "Repository not found"}, said)
                return None
            return found

        def at(self, name: str, revision: str | None) -> Repo | None:
            """The repository at a revision; other branches than main are repositories called NAME@BRANCH."""
            found = self.repo(name)
            branches = {key.partition("@")[2]: repo for key, repo in hub.repos.items() if key.startswith(f"{name}@")}
            for branch, repo in {"main": found, **branches}.items():
                if repo is None or revision in (branch, repo.commit) or (branch == "main" and revision is None):
                    return repo
            self.send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None

        def info(self, name: str, revision: str | None = None) -> None:
            found = self.at(name, revision)
            if found is None:
                return
            siblings = [described(path, content, "rfilename", "blobId") for path, content in found.files.items()]
            card = yaml.safe_load((found.files.get("README.md", b"").decode().split("---") + [""])[1])
            told = {"id": name, "sha": found.commit, "private": found.private, "siblings": siblings}
            self.send(200, {**told, "cardData": card} if isinstance(card, dict) else told)

        def tree(self, name: str, revision: str) -> None:
            found = self.at(name, revision)
            if found is not None:
                self.send(200, [described(path, content, "path", "oid") for path, content in found.files.items()])

        def resolve(self, name: str, revision: str, path: str) -> None:
            found = self.at(name, revision)
            if found is None:
                return
            if found.gated and not self.authorized:
                return self.send(401, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            if path not in found.files:
                return self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            content = found.files[path]
            told = {"X-Repo-Commit": found.commit}
            if is_large(path, len(content)):
                told |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
                return self.send(302, b"", {**told, "Location": f"{hub.cdn}/large/{sha256(content)}"})
            if self.route.startswith("/api/resolve-cache/"):
                return self.part(content, {**told, "ETag": f'"{blob(content)}"'})
            self.send(307, b"", {**told, "Location": f"/api/resolve-cache/models/{name}/{found.commit}/{path}"})

        def large(self, digest: str) -> None:
            contents = [content for repo in hub.repos.values() for content in repo.files.values()]
            self.part(next(content for content in contents if sha256(content) == digest), {})

        def part(self, content: bytes, headers: dict[str, str]) -> None:
            """The bytes that were asked for."""
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if not asked or not hub.ranges:
                return self.send(200, content, headers)
            start = int(asked[1])
            if start >= len(content):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            end = min(int(asked[2] or len(content)) + 1, len(content))
            told = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            self.send(206, content[start:end], {**headers, **told})

        # ------------------------------------------------ filling a repository

        def may_write(self) -> bool:
            if not self.authorized:
                self.send(401, {"error": "Invalid username or password."})
            return self.authorized

        def create(self) -> None:
            if not self.may_write():
                return
            wanted = json.loads(self.body)
            owner = wanted.get("organization") or "tester"
            if owner != "tester":
                return self.send(403, {"error": f"You don't have the rights to create a model under {owner}"})
            name = f"{owner}/{wanted['name']}"
            told = {"url": f"{hub.url}/{name}"}
            if name in hub.repos:
                return self.send(409, {**told, "error": "You already created this model repo"})
            hub.add(name, {".gitattributes": b"*.pt filter=lfs\n"}, private=wanted.get("visibility") == "private")
            self.send(200, told)

        def validate(self) -> None:
            front = json.loads(self.body)["content"].split("---")
            self.send(200, {"errors": [] if len(front) >= 3 else [{"message": "no front matter"}], "warnings": []})

        def preupload(self, name: str, revision: str) -> None:
            if not self.may_write():
                return
            files = json.loads(self.body)["files"]
            for file in files:
                large = is_large(file["path"], file["size"])
                file |= {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            self.send(200, {"files": files})

        def batch(self, name: str) -> None:
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                there = wanted["oid"] in hub.uploaded
                put = {"upload": {"href": f"{hub.cdn}/upload/{wanted['oid']}"}}
                objects.append({**wanted, **({} if there else {"actions": put})})
            self.send(200, {"transfer": "basic", "objects": objects})

        def put(self, digest: str) -> None:
            if sha256(self.body) != digest:
                return self.send(400, {"error": "wrong checksum"})
            hub.uploaded[digest] = self.body
            self.send(200, b"")

        def commit(self, name: str, revision: str) -> None:
            if not self.may_write():
                return
            found = hub.repos[name]
            for line in self.body.splitlines():
                item = json.loads(line)
                if item["key"] == "header":
                    hub.message = item["value"]["summary"]
                if item["key"] == "file":
                    found.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                if item["key"] == "lfsFile":
                    found.files[item["value"]["path"]] = hub.uploaded[item["value"]["oid"]]
            url = f"{hub.url}/{name}/commit/{found.commit}"
            self.send(200, {"commitUrl": url, "commitOid": found.commit, "success": True})

    name, revision = r"(?P<name>gpt2[\w-]*|(datasets/)?[\w.-]+/[\w.-]+)", r"(?P<revision>refs/[\w/]+|[^/]+)"
    ROUTES = (
        (rf"GET /api/(models/)?{name}(/revision/{revision})?", Handler.info),
        (rf"GET /api/(models/)?{name}/tree/{revision}", Handler.tree),
        (rf"(GET|HEAD) /{name}/resolve/{revision}/(?P<path>.+)", Handler.resolve),
        (rf"(GET|HEAD) /api/resolve-cache/models/{name}/{revision}/(?P<path>.+)", Handler.resolve),
        (r"(GET|HEAD) /large/(?P<digest>\w+)", Handler.large),
        (r"POST /api/repos/create", Handler.create),
        (r"POST /api/validate-yaml", Handler.validate),
        (rf"POST /api/models/{name}/preupload/{revision}", Handler.preupload),
        (rf"POST /{name}\.git/info/lfs/objects/batch", Handler.batch),
        (r"PUT /upload/(?P<digest>\w+)", Handler.put),
        (rf"POST /api/models/{name}/commit/{revision}", Handler.commit),
    )
    return Handler


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """What a program needs to see to take `hub` for the hub and `home` for the place of its cache."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}


def connect(hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for this process. The library has read its environment when another test imported it."""
    from huggingface_hub import constants

    for variable, value in environment(hub, home).items():
        monkeypatch.setenv(variable, value)
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@contextlib.contextmanager
def running(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub which the library of this process takes for the real one; its cache lies in `home`."""
    hub = FakeHub()
    connect(hub, home, monkeypatch)
    try:
        yield hub
    finally:
        hub.vanish()
