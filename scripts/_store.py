"""Checkpoints in object stores: files that arrive whole, are compared by checksum, and are not sent twice.

Beside the files lies SHA256SUMS, as `sha256sum -c` reads it. A line is written when the store has returned the file as
it was sent, so that an interrupted upload resumes with the first file that has none.
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from nanochat import hub
from nanochat.data.stores import Remote
from nanochat.errors import UserError
from nanochat.log import Progress
from nanochat.paths import refusal, sha256

SUMS = "SHA256SUMS"
REPLACED = ("README.md", SUMS)  # what describes the whole folder
BLOCK = 16 << 20  # bytes per request


def send(folder: Path, place: Remote, recorded: Mapping[str, Mapping]) -> None:
    """Copy a folder's files into a store, meta files last: a checkpoint exists when all of it is there.

    recorded: the size and sha256 of files as a meta file has them. Raises UserError, before anything is sent, where a
    file is not what was recorded or the store holds another one of its name.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    digests = {name: sha256(path) for name, path in files.items()}
    if damaged := [name for name in files if name in recorded and recorded[name]["sha256"] != digests[name]]:
        raise UserError(f"{damaged[0]} is damaged: its checksum is not the one that was recorded; it was not sent")
    there = place.sizes(deep=True)
    sums = read_sums(place, there)
    for name in files.keys() & there.keys() - {*REPLACED}:
        if name not in sums:  # the upload was interrupted before its line was written
            sums[name] = digest_of(place / name, there[name])
        if sums[name] != digests[name]:
            raise UserError(f"{place} holds another {name}; push to another folder")
    for name in sorted(files, key=lambda name: (name.startswith("meta_"), name)):
        whole = name in there and sums.get(name) == digests[name]
        print(f"{hub.in_bytes(files[name].stat().st_size):>8}  {name}" + (" (is there)" if whole else ""), flush=True)
        if whole:
            continue
        sums[name] = digests[name]
        if name.startswith("meta_"):
            write_sums(place, sums)
        (place / name).upload(files[name])
        if digest_of(place / name, files[name].stat().st_size) != digests[name]:
            raise UserError(f"{place / name} is not what was sent; push again, and if it stays so, distrust the store")
        if not name.startswith("meta_"):
            write_sums(place, sums)


def receive(source: Remote, size: int, digest: str, target: Path) -> None:
    """Download a file, from where an interrupted download stopped. digest: its sha256 in hex, or "" if not known.

    Raises UserError if it arrives twice with another checksum, and if the disk is full.
    """
    if target.is_file() and target.stat().st_size == size and (not digest or sha256(target) == digest):
        return
    partial = target.with_name(f"{target.name}.{digest[:12] or size}.incomplete")
    scale, unit = (1e6, "MB") if size > 20e6 else (1e3, "kB")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            progress = Progress(math.ceil(size / scale), f"fetching {source.name}", unit)
            with open(partial, "ab") as out, progress as shown:
                while (have := out.tell()) < size:
                    out.write(source.read(have, min(have + BLOCK, size)))
                    shown.update(math.ceil(out.tell() / scale))
                out.flush()
                os.fsync(out.fileno())
            if not digest or sha256(partial) == digest:
                os.replace(partial, target)
                return
            partial.unlink()
    except OSError as error:
        if refused := refusal(error, target):
            raise refused from error
        raise
    raise UserError(f"{source} arrived twice with another checksum than {SUMS} has ({digest[:12]}); push it again")


def digest_of(remote: Remote, size: int) -> str:
    """The sha256 of a file in a store, in hex; reads all of it."""
    digest = hashlib.sha256()
    for start in range(0, size, BLOCK):
        digest.update(remote.read(start, min(start + BLOCK, size)))
    return digest.hexdigest()


def read_sums(place: Remote, names: Mapping[str, int]) -> dict[str, str]:
    """The sha256 of files by name, from SHA256SUMS if it is among `names`. Raises UserError if it is damaged."""
    if SUMS not in names:
        return {}
    lines = (place / SUMS).read().decode("utf-8", "replace").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines if line.strip()]
    if None in found:
        raise UserError(f"{place / SUMS} is damaged; expected lines of a checksum and a name: delete it and push again")
    return {match[2]: match[1] for match in found if match}


def write_sums(place: Remote, sums: Mapping[str, str]) -> None:
    lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()) if name != SUMS)
    (place / SUMS).write("".join(lines).encode())
