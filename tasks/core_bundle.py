"""The published questions of CORE: what to ask, after how many examples, and what guessing scores.

    core.yaml               icl_tasks: label, dataset_uri, num_fewshot, icl_task_type, continuation_delimiter
    eval_meta_data.csv      "Eval Task" and "Random baseline" (in percent) of each label
    eval_data/<dataset_uri> one question per line, as JSON with the fields in FIELDS

The format is that of DCLM (Li et al. 2024) and MosaicML's gauntlet; the published bundle is the one that the original
nanochat evaluates with. A bundle is a folder or a zip file, which is read without unpacking it to disk.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from nanochat import paths
from nanochat.config_files import Yaml
from nanochat.data import urls
from nanochat.data.task import CoreTask, Item, Kind
from nanochat.errors import UserError, shown

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
SHA256 = "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"  # of the file at URL, as others pin it too
ZIP = "eval_bundle.zip"
MOST = 256 << 20  # bytes of a bundle's files together; a small zip file can unpack to far more
PIECE = 1 << 20  # bytes to unpack at a time

FIELDS: dict[Kind, tuple[str, str]] = {  # the field that differs between the options, and the one they have in common
    "multiple_choice": ("choices", "query"),
    "schema": ("context_options", "continuation"),
    "language_modeling": ("continuation", "context"),
}
Place = Path | zipfile.Path


@dataclass(frozen=True)
class Bundle:
    """Tasks in the order of core.yaml; sha256 is that of all files read, the same for a folder and its zip file."""

    tasks: tuple[CoreTask, ...]
    sha256: str


def folder() -> Path:
    """Where the bundle is kept: the zip file as downloaded, or unpacked as the original nanochat has it."""
    return paths.base_dir() / "eval_bundle"


def is_here() -> bool:
    return folder().is_dir() and any(folder().iterdir())


def fetch(
    url: str = URL, sha256: str | None = SHA256, max_bytes: int = urls.MAX_BYTES, allow_private: bool = False
) -> None:
    """Download a bundle to `folder`, whole and readable or not at all; sha256 is the expected checksum, if known.

    Raises UserError for everything that `urls.fetch` and `read` do, and for another checksum.
    """

    def check() -> None:
        if is_here():
            raise UserError(f"{folder()} is not empty; move it away to fetch the bundle again")

    with paths.draft_of(folder(), check) as draft:
        try:
            file = urls.fetch(url, draft, max_bytes, allow_private)
        except UserError as error:
            raise UserError(f"{error}; a copy of CORE's questions can be named with --bundle") from error
        found = paths.sha256(file)
        if sha256 is not None and found != sha256:
            raise UserError(
                f"{url} has the checksum {found[:12]}, expected {sha256[:12]}, so its scores could not be compared; "
                "to use it anyway, download it yourself and name it with --bundle"
            )
        os.rename(file, draft / ZIP)
        read(draft / ZIP)


def read(place: Path) -> Bundle:
    """Read a folder or a zip file. Raises UserError, naming file and line, for whatever is missing or wrong."""
    try:
        if place.is_dir():
            return read(place / ZIP) if (place / ZIP).is_file() else _read(_root(place))
        if place.exists() and not place.is_file():
            raise UserError(f"{place} is neither a folder nor a regular file; name an evaluation bundle")
        with zipfile.ZipFile(place) as archive:
            methods = {entry.compress_type for entry in archive.infolist()}
            if methods - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # LZMA's file says how much memory it takes
                raise UserError(f"{place} is compressed by LZMA, bzip2 or the like; expected a deflated zip file")
            return _read(_root(zipfile.Path(archive)))
    except OSError as error:
        raise UserError(f"the evaluation bundle {place} cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted
        raise UserError(f"{place} is not a readable zip file ({error}); delete it and get it again") from None


def _root(place: Place) -> Place:
    """The folder of core.yaml: this one, or one folder below."""
    below = sorted((entry for entry in place.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    for root in (place, *below):
        if root.joinpath("core.yaml").is_file():
            return root
    raise UserError(f"there is no core.yaml in {place}; expected an evaluation bundle")


class _Files:
    """Reads files of a bundle as text, keeping a hash over all of them."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self.digest = hashlib.sha256()
        self.left = MOST

    def read(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        place = self.root.joinpath(*parts)
        if ".." in parts or not place.is_file():
            raise UserError(f"the bundle has no file {name} beside core.yaml in {self.root}")
        content = bytearray()
        with place.open("rb") as file:
            while piece := file.read(PIECE):
                content += piece
                if len(content) > self.left:
                    raise UserError(f"the bundle in {self.root} has more than {MOST} bytes; do not use it")
        self.left -= len(content)
        self.digest.update(f"{name} {len(content)} ".encode() + content)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{name} of the bundle is not UTF-8 at byte {error.start}") from None


def _read(root: Place) -> Bundle:
    files = _Files(root)
    try:
        listed = yaml.load(files.read("core.yaml"), Yaml)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"core.yaml of the bundle is not YAML: {' '.join(str(error).split())[:300]}") from None
    entries = listed.get("icl_tasks") if isinstance(listed, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError("core.yaml of the bundle lists no tasks under icl_tasks")
    baselines = _baselines(files.read("eval_meta_data.csv"))
    tasks = tuple(_task(entry, baselines, files.read) for entry in entries)
    return Bundle(tasks, files.digest.hexdigest())


def _task(entry: object, baselines: dict[str, float], text: Callable[[str], str]) -> CoreTask:
    """A task from its entry in core.yaml; `text` reads a file of the bundle."""
    needed = ("label", "dataset_uri", "icl_task_type")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in needed):
        raise UserError(f"core.yaml of the bundle lists a task without {', '.join(needed)}: {shown(entry)}")
    label, source, kind = (entry[name] for name in needed)
    if kind not in FIELDS:
        raise UserError(f"the icl_task_type of {label} is {shown(kind)}; expected {', '.join(FIELDS)}")
    given = entry.get("num_fewshot", 0)
    shots = given[0] if isinstance(given, list) and given else given  # the first of several, as the original takes it
    if not isinstance(shots, int) or shots < 0:
        raise UserError(f"the num_fewshot of {label} is {shown(given)}; expected a number, as in [10]")
    if label not in baselines:
        raise UserError(f"eval_meta_data.csv of the bundle has no Random baseline below 100 for {label}")
    delimiter = entry.get("continuation_delimiter", " ")
    if not isinstance(delimiter, str):
        raise UserError(f"the continuation_delimiter of {label} is {shown(delimiter)}; expected text")
    name = f"eval_data/{source}"
    items = []
    for number, line in enumerate(text(name).split("\n"), 1):
        if line.strip():
            try:
                items.append(_item(kind, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{name}:{number} of the bundle is wrong: {error}") from None
    if not items:
        raise UserError(f"{name} of the bundle holds no questions")
    return CoreTask(label, kind, shots, delimiter, baselines[label], tuple(items))


def _baselines(text: str) -> dict[str, float]:
    """The random baseline of each label as a fraction; lines without one below 100 % are skipped."""
    found = {}
    for row in csv.DictReader(io.StringIO(text, newline="")):
        with contextlib.suppress(ValueError):
            fraction = float(row.get("Random baseline") or "") / 100
            if 0 <= fraction < 1:
                found[row.get("Eval Task")] = fraction
    return found


def _item(kind: Kind, found: object) -> Item:
    """The question in a line. Raises ValueError, with a clause, for anything else."""
    options, common = FIELDS[kind]
    if not isinstance(found, dict):
        raise ValueError(f"expected an object with {options} and {common}")
    one_option = kind == "language_modeling"
    several = [found.get(options)] if one_option else found.get(options)
    gold = 0 if one_option else found.get("gold")
    same = found.get(common)
    if not isinstance(several, list) or not several or not all(_is_text(each) for each in [*several, same]):
        raise ValueError(f"expected {options} and {common}, of text")
    if not isinstance(gold, int) or not 0 <= gold < len(several):
        raise ValueError(f"gold is {shown(gold)}; expected a number from 0 to {len(several) - 1}")
    if one_option and not str(several[0]).strip():
        raise ValueError("the continuation is empty")
    differing = tuple(str(each) for each in several)
    # Some contexts of language modeling end with white space, which would be a token of its own.
    repeated = (str(same).strip() if one_option else str(same),) * len(several)
    return Item(differing, repeated, gold) if kind == "schema" else Item(repeated, differing, gold)


def _is_text(value: object) -> bool:
    """Numbers stand for their digits."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
