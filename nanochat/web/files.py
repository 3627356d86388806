"""The pages' own files and the pages themselves, as browsers keep them.

    /static/main.js                        asked for again every time
    /assets/<version>/static/main.js       the same file, kept for good: pages name the version, and scripts import each
                                           other relative to themselves
    /assets/<version>/static/a.css+b.css   two stylesheets as one

The version is a hash of all files, so all that a page loads is of one version. Each is compressed once. A page names
what its script imports, so that a browser asks for all of it at once and not import by import.
"""

import functools
import gzip
import hashlib
import mimetypes
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

ASSETS = "/assets"  # below it, the version and the path of a file
FOREVER = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}  # a system may know others
TEMPLATES = ".html"  # pages fill them in; they are no files of their own
SCRIPT = re.compile(r' *<script type="module" src="\{base\}([^"]+)"></script>\n')  # in a template
IMPORT = re.compile(r'^(?:import|\}) .*?"(\.[^"]+)";$', re.MULTILINE)  # in a script; what is loaded later is not meant
SHEET = re.compile(r' *<link rel="stylesheet" href="\{base\}([^"]+)/([\w.-]+)" />\n')
MOST_SHEETS = 20


class Sent(NamedTuple):
    """What a browser gets, ready to be sent."""

    content: bytes
    packed: bytes
    """by gzip"""
    media_type: str
    etag: str
    """weak, as it stands for the plain and the compressed content"""


class Files:
    """The files below some paths. Read once, and again by `version` when one has changed on disk."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """folders: path of a URL -> the folder that is served there."""
        self.folders = folders
        self._seen: dict[str, tuple[Path, int, int]] = {}
        self._files: dict[str, Sent] = {}
        self._version = ""

    def version(self) -> str:
        """A name for the content of all files as it is now."""
        paths = {
            f"{place}/{path.relative_to(folder).as_posix()}": path
            for place, folder in self.folders.items()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        seen = {name: (path, path.stat().st_mtime_ns, path.stat().st_size) for name, path in paths.items()}
        if seen != self._seen:
            self._read(paths)
            self._seen = seen
        return self._version

    def _read(self, paths: Mapping[str, Path]) -> None:
        self._files = {
            name: sent(path.read_bytes(), media_type(path))
            for name, path in paths.items() if path.suffix != TEMPLATES
        }  # fmt: skip
        everything = "".join(f"{name} {file.etag}\n" for name, file in self._files.items())
        self._version = hashlib.sha256(everything.encode()).hexdigest()[:12]

    def imports(self, script: str) -> list[str]:
        """The paths of all that a script imports, and what that imports, each once."""
        found = [script]
        for path in found:  # which grows
            text = self._files[path].content.decode() if path in self._files else ""
            near = (posixpath.normpath(f"{posixpath.dirname(path)}/{each}") for each in IMPORT.findall(text))
            found += dict.fromkeys(each for each in near if each not in found)
        return found[1:]

    def linked(self, html: str) -> str:
        """A template that loads its files from where they are kept for good, stylesheets of a folder as one."""
        kept = f"{{base}}{ASSETS[1:]}/{self.version()}"
        sheets: dict[str, list[str]] = {}
        for folder, name in SHEET.findall(html):
            sheets.setdefault(folder, []).append(name)

        def first(found: re.Match[str]) -> str:
            names = sheets.pop(found[1], None)
            return found[0].replace(found[2], "+".join(names)) if names else ""

        def early(found: re.Match[str]) -> str:
            links = (f'    <link rel="modulepreload" href="{kept}{path}" />\n' for path in self.imports(f"/{found[1]}"))
            return "".join(links) + found[0]

        html = SCRIPT.sub(early, SHEET.sub(first, html))
        for folder in self.folders:
            html = html.replace(f'"{{base}}{folder[1:]}/', f'"{kept}{folder}/')
        return html

    def get(self, request: Request, path: str, version: str = "") -> Response:
        """The file of a path; one of an old version is what it has become since. Raises HTTPException."""
        current = self._version or self.version()
        found = self._files.get(path)
        if found is None and version and "+" in path:
            folder, _, names = path.rpartition("/")
            parts = [self._files.get(f"{folder}/{name}") for name in names.split("+")[:MOST_SHEETS]]
            if all(part is not None and part.media_type == TYPES[".css"] for part in parts):
                found = once("".join(part.content.decode() for part in parts if part), TYPES[".css"])
        if found is None:
            raise HTTPException(404)
        return answer(request, found, FOREVER if version == current else REVALIDATE)


def media_type(path: Path) -> str:
    return TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def sent(content: bytes, media_type: str) -> Sent:
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
    return Sent(content, gzip.compress(content, 9, mtime=0), media_type, etag)


@functools.lru_cache(maxsize=32)
def once(text: str, media_type: str) -> Sent:
    """What is made for a request, compressed once, however often it is asked for."""
    return sent(text.encode(), media_type)


def answer(request: Request, file: Sent, cache: str, vary: str = "Accept-Encoding") -> Response:
    """A response with this content, or one that says that the browser has it already."""
    headers = {"ETag": file.etag, "Cache-Control": cache, "Vary": vary}
    known = request.headers.get("if-none-match", "")
    if file.etag.removeprefix("W/") in re.findall(r'"[^"]*"', known):
        return Response(status_code=304, headers=headers)
    if takes_gzip(request.headers.get("accept-encoding", "")) and len(file.packed) < len(file.content):
        return Response(file.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


def takes_gzip(accepted: str) -> bool:
    """Whether a header Accept-Encoding allows gzip: by its name, and not with q=0."""
    for each in accepted.lower().split(","):
        name, _, quality = each.partition(";")
        if name.strip() == "gzip":
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality) is None
    return False
