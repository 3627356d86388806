"""The questions of CORE: what to ask, after how many examples, and what guessing scores.

    core.yaml               icl_tasks: label, dataset_uri, num_fewshot, icl_task_type, continuation_delimiter
    eval_meta_data.csv      "Eval Task" and "Random baseline" (in percent) of each label
    eval_data/<dataset_uri> a question a line, as JSON; its fields are those of FIELDS

The format is that of DCLM (Li et al. 2024) and MosaicML's gauntlet; the published bundle is the one that the original
nanochat evaluates with. A bundle is a folder or a zip file. The zip file is read where it is and never unpacked, so it
can neither write outside of a folder nor fill the disk.
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
from typing import Literal

import yaml

from nanochat import paths
from nanochat.config_files import Yaml, shown
from nanochat.data import urls
from nanochat.errors import UserError

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
SHA256 = "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"  # of the file at URL, as others pin it too
ZIP = "eval_bundle.zip"
# A zip file of some kilobytes can unpack to gigabytes, and a question takes ten times its text in memory.
LARGEST = 1 << 30  # bytes of all files of a zip file, unpacked
MOST = 256 << 20  # bytes of all that is read, whether from a folder or a zip file
MOST_RATIO = 200  # to the packed size of a file of more than FREE bytes; prose has three, one passage over and over 50
FREE = 1 << 20
MOST_FILES = 10_000
LONGEST_NAME = 1000  # characters of a file's name in a zip file

Kind = Literal["multiple_choice", "schema", "language_modeling"]
FIELDS: dict[Kind, tuple[str, str]] = {  # what the options are, and what they share
    "multiple_choice": ("choices", "query"),
    "schema": ("context_options", "continuation"),
    "language_modeling": ("continuation", "context"),
}
Place = Path | zipfile.Path


@dataclass(frozen=True)
class Item:
    """A question: option i says contexts[i], the task's delimiter, continuations[i]; gold is the true one."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Task:
    """Questions of one kind, each asked after `shots` others with their answers; baseline is what guessing scores."""

    label: str
    kind: Kind
    shots: int
    delimiter: str
    baseline: float
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Bundle:
    """Tasks in the order of core.yaml; sha256 is over all that was read, whether from a folder or a zip file."""

    tasks: tuple[Task, ...]
    sha256: str


def folder() -> Path:
    """Where a bundle is kept, as it was fetched, or as the original nanochat unpacked it."""
    return paths.base_dir() / "eval_bundle"


def is_here() -> bool:
    return folder().is_dir() and any(folder().iterdir())


def fetch(
    url: str = URL, sha256: str | None = SHA256, max_bytes: int = urls.MAX_BYTES, allow_private: bool = False
) -> None:
    """Bring a bundle from a URL to `folder`, whole and readable or not at all; sha256 is what it must have, if known.

    Raises UserError for all that `urls.fetch` and `read` do, and for another checksum.
    """

    def check() -> None:
        if is_here():
            raise UserError(f"{folder()} holds something; move it away to fetch the bundle again")

    with paths.draft_of(folder(), check) as draft:
        try:
            came = urls.fetch(url, draft, max_bytes, allow_private)
        except UserError as error:
            raise UserError(f"{error}; a copy of CORE's questions can be named with --bundle") from error
        found = paths.sha256(came)
        if sha256 is not None and found != sha256:
            raise UserError(
                f"{url} has the checksum {found[:12]}, expected {sha256[:12]}; scores on it compare with no others: "
                "if you want them all the same, download it by other means and name it with --bundle"
            )
        os.rename(came, draft / ZIP)
        read(draft / ZIP)


def read(place: Path) -> Bundle:
    """Read a folder or a zip file. Raises UserError, naming file and line, for whatever is missing or wrong."""
    try:
        if place.is_dir():
            return read(place / ZIP) if (place / ZIP).is_file() else _read(_root(place))
        if place.exists() and not place.is_file():
            raise UserError(f"{place} is neither a folder nor a regular file; name an evaluation bundle")
        with zipfile.ZipFile(place) as archive:
            _check(archive.infolist(), place)
            return _read(_root(zipfile.Path(archive)))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{place} is no readable zip file ({error}); delete it and get it again") from None
    except OSError as error:
        raise UserError(f"the evaluation bundle {place} cannot be read ({error.strerror or error})") from None


def _check(entries: list[zipfile.ZipInfo], place: Path) -> None:
    """Raise UserError, before anything is unpacked, for a zip file that no bundle is."""
    size = sum(entry.file_size for entry in entries)
    if size > LARGEST:
        raise UserError(f"{place} unpacks to {size} bytes, more than {LARGEST}; do not use it")
    if len(entries) > MOST_FILES or any(len(entry.filename) > LONGEST_NAME for entry in entries):
        raise UserError(f"{place} has more than {MOST_FILES:,} files, or names that no bundle has; do not use it")
    for entry in entries:
        if entry.flag_bits & 1:
            raise UserError(f"{place} is encrypted; get an evaluation bundle that is not")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others have no bound in memory
            kind = {zipfile.ZIP_LZMA: "LZMA", zipfile.ZIP_BZIP2: "bzip2"}.get(entry.compress_type, "an unusual method")
            raise UserError(f"{place} is compressed by {kind}; get an evaluation bundle that is stored or deflated")
        if entry.file_size > max(FREE, MOST_RATIO * entry.compress_size):
            raise UserError(
                f"{place} has {entry.compress_size} bytes that unpack to {entry.file_size}, which no real "
                "bundle does; do not use it"
            )


def _root(place: Place) -> Place:
    """Where core.yaml is: here, or one folder below."""
    below = sorted((entry for entry in place.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    for root in (place, *below):
        if root.joinpath("core.yaml").is_file():
            return root
    raise UserError(f"there is no core.yaml in {place}; expected an evaluation bundle")


def _read(root: Place) -> Bundle:
    digest = hashlib.sha256()
    left = MOST

    def text(name: str) -> str:
        """A file of the bundle, which goes into the hash."""
        place = root.joinpath(*PurePosixPath(name).parts)
        if ".." in PurePosixPath(name).parts or not place.is_file():
            raise UserError(f"the bundle has no file {name} beside core.yaml in {root}")
        nonlocal left
        pieces = []
        with place.open("rb") as file:
            while piece := file.read(FREE):  # all at once would take what a lying size unpacks to
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    raise UserError(f"the bundle in {root} has more than {MOST} bytes of questions; do not use it")
        content = b"".join(pieces)
        digest.update(f"{name} {len(content)} ".encode() + content)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{name} of the bundle is not UTF-8 at byte {error.start}") from None

    listed = text("core.yaml")
    if len(listed) > FREE:
        raise UserError(f"core.yaml of the bundle has {len(listed)} characters; expected a list of tasks")
    try:
        described = yaml.load(listed, Yaml)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"core.yaml of the bundle is not YAML: {' '.join(str(error).split())[:300]}") from None
    entries = described.get("icl_tasks") if isinstance(described, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError("core.yaml of the bundle lists no tasks under icl_tasks")
    baselines = _baselines(text("eval_meta_data.csv"))
    return Bundle(tuple(_task(entry, baselines, text) for entry in entries), digest.hexdigest())


def _task(entry: object, baselines: dict[str, float], text: Callable[[str], str]) -> Task:
    """A task that core.yaml lists."""
    needed = ("label", "dataset_uri", "icl_task_type")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in needed):
        raise UserError(f"core.yaml of the bundle lists a task without {', '.join(needed)}: {shown(entry)}")
    label, source, kind = (entry[name] for name in needed)
    if kind not in FIELDS:
        raise UserError(f"the icl_task_type of {label} is {shown(kind)}; expected {', '.join(FIELDS)}")
    given = entry.get("num_fewshot", 0)
    shots = given[0] if isinstance(given, list) and given else given  # of several the first, as the original has it
    if not isinstance(shots, int) or shots < 0:
        raise UserError(f"the num_fewshot of {label} is {shown(given)}; expected a number, as in [10]")
    if label not in baselines:
        raise UserError(f"eval_meta_data.csv of the bundle has no Random baseline below 100 for {label}")
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
    return Task(label, kind, shots, str(entry.get("continuation_delimiter", " ")), baselines[label], tuple(items))


def _baselines(text: str) -> dict[str, float]:
    """The random baseline of each label as a fraction, of the lines that have one below 100 %."""
    found = {}
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            with contextlib.suppress(ValueError):
                fraction = float(row.get("Random baseline") or "") / 100
                if 0 <= fraction < 1:
                    found[row.get("Eval Task")] = fraction
    except csv.Error as error:
        raise UserError(f"eval_meta_data.csv of the bundle is not CSV: {error}") from None
    return found


def _item(kind: Kind, found: object) -> Item:
    """A question of a line. Raises ValueError, with one clause, for one that is none."""
    options, shared = FIELDS[kind]
    if not isinstance(found, dict):
        raise ValueError(f"expected an object with {options} and {shared}")
    one_option = kind == "language_modeling"
    several = [found.get(options)] if one_option else found.get(options)
    gold = 0 if one_option else found.get("gold")
    alike = found.get(shared)
    if not isinstance(several, list) or not several or not all(_is_text(each) for each in [*several, alike]):
        raise ValueError(f"expected {options} and {shared}, of text")
    if not isinstance(gold, int) or not 0 <= gold < len(several):
        raise ValueError(f"gold is {shown(gold)}; expected a number from 0 to {len(several) - 1}")
    if one_option and not str(several[0]).strip():
        raise ValueError("the continuation is empty")
    differing = tuple(str(each) for each in several)
    same = (str(alike),) * len(several)
    if kind == "schema":
        return Item(differing, same, gold)
    if one_option:  # some contexts end with white space, which would be a token of its own
        same = (same[0].strip(),)
    return Item(same, differing, gold)


def _is_text(value: object) -> bool:
    """Numbers stand for their digits."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
