"""The Hugging Face hub: fetching a repository's files whole and checked, and putting a folder there.

The library behind it reads its environment (HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE) once, when it is imported,
so it is imported where it is used. It finds, names and authorises; the bytes are received here, because it begins a
file anew in every run, and a model of 8 GB must be able to go on where it was.
"""

import contextlib
import fcntl
import hashlib
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch
from functools import partial
from json import JSONDecodeError
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeVar

from nanochat.errors import UserError
from nanochat.log import Progress, duration, short
from nanochat.paths import fsync_folder, refusal

GPT2 = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}

RETRIES = 5  # failures in a row, without a byte in between, after which a transfer is given up
PAUSE = 1.0  # seconds before the first retry; each further one waits twice as long
LONGEST_WAIT = 300  # seconds that a hub may ask for
GLANCE = 3.0  # seconds that a hub has to answer where all of it is in the cache anyway
TRANSIENT = (408, 429, 500, 502, 503, 504)

# Of what a repository lists. A name has room for what is added while its file arrives.
MOST_FILES, LONGEST_PATH, LONGEST_PART = 2000, 1000, 200  # files of a model; bytes; bytes

# What a model is made of, and what lies beside it in repositories: optimizers, other programs' weights.
NEEDED = ("*.json", "*.txt", "*.md", "*.safetensors", "*.bin", "*.pt", "*.pkl")
NOT_NEEDED = ("optim*", "*/optim*", "onnx/*", "training_args.bin", "scheduler.pt", "rng_state*")

Kind = Literal["model", "dataset"]  # of a repository
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 or a sha256
Result = TypeVar("Result")


class Unreachable(UserError):
    """The hub does not answer or is busy, or HF_HUB_OFFLINE forbids to ask it."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; size in bytes, digest is the sha256 of a large file and git's sha1 of a small one."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """What a repository holds at a commit; card is the data at the head of its README, such as a dataset's splits."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    kind: Kind = "model"
    card: dict = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)


def look(
    repo: str, allow: Sequence[str] | None = None, revision: str | None = None, kind: Kind = "model",
    hurried: bool = False,
) -> Listing:  # fmt: skip
    """What there is to fetch: the files that match one of the patterns `allow`, else what the model needs.

    hurried: ask once, and not for longer than GLANCE. Raises Unreachable, and UserError for a repository that is
    missing, private or has none of these files.
    """
    from huggingface_hub import HfApi, constants

    timeout = min(GLANCE, constants.HF_HUB_DOWNLOAD_TIMEOUT) if hurried else constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with _explained(repo, revision):
            ask = HfApi().dataset_info if kind == "dataset" else HfApi().model_info
            info = _insist(
                lambda: ask(repo, revision=revision, files_metadata=True, timeout=timeout),
                retries=0 if hurried else RETRIES,
            )
    except (JSONDecodeError, KeyError, TypeError, AttributeError) as error:  # no JSON, or of another shape
        raise UserError(f"{constants.ENDPOINT} does not speak the hub's protocol; check HF_ENDPOINT") from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = []
    paths = _needed(siblings) if allow is None else [name for name in siblings if _matches(name, allow)]
    if kind == "model" and len(paths) > MOST_FILES:
        raise UserError(f"{repo} lists {len(paths):,} files of models, expected at most {MOST_FILES:,}; do not use it")
    for path in paths:
        sibling = siblings[path]
        digest = (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
            raise UserError(f"{repo} names a file outside of itself, {path[:80]!r}; do not use this repository")
        if not path.isprintable() or len(os.fsencode(path)) > LONGEST_PATH or _longest_part(path) > LONGEST_PART:
            raise UserError(f"{repo} names a file that no disk can hold, {path[:80]!r}; do not use this repository")
        # A digest becomes a file's name in the cache, so it must be one.
        if not info.sha or not DIGEST.fullmatch(str(digest)) or not isinstance(sibling.size, int) or sibling.size < 0:
            raise UserError(f"the hub says neither size nor checksum of {path} in {repo}; check HF_ENDPOINT")
        files.append(RemoteFile(path, sibling.size, digest))
    if not files:
        wanted = "a model" if allow is None else "a file named " + " or ".join(allow)
        raise UserError(f"{repo} does not hold {wanted}; it holds {', '.join(sorted(siblings)[:8]) or 'nothing'}")
    return Listing(repo, str(info.sha), tuple(files), kind, info.card_data.to_dict() if info.card_data else {})


def fetch(
    repo: str, allow: Sequence[str] | None = None, revision: str | None = None, into: Path | None = None,
    kind: Kind = "model",
) -> Path:  # fmt: skip
    """Bring a repository's files here, whole and checked, and return the folder they are in.

    `allow` and what is raised are as in `look`. into=None puts them into the hub's own cache, where other programs
    find them too. Where the hub cannot be asked, what the cache holds is returned, if it holds all.
    """
    there = cached(repo, allow, revision, kind) if into is None else None
    try:
        listing = look(repo, allow, revision, kind, hurried=there is not None)
    except Unreachable:
        there = there or cached(repo, allow, revision, kind)
        if there is None:
            raise
        print(f"{repo} comes from the cache, as the hub cannot be asked")
        return there
    return bring(listing, into, revision=revision)


def bring(listing: Listing, into: Path | None = None, workers: int = 1, revision: str | None = None) -> Path:
    """`fetch` for what `look` has found, or a part of it, `workers` files at a time.

    A file takes its name when it is whole and those before it in the listing have theirs, so that a folder which is
    still being filled holds the first files of the listing and no others.
    """
    waiting = _waiting(listing, into, workers)
    if waiting:
        check_space(_lacking(waiting), into or cache(), f"fetching {listing.repo}")
        named, whole = 0, set()
        # The threads of this pool are not waited for where one has failed, or Ctrl-C was pressed.
        with _explained(listing.repo, revision), _Meter(listing, waiting) as meter, ThreadPool(workers) as pool:
            for n in pool.imap_unordered(partial(_bring_one, listing, waiting, meter), range(len(waiting))):
                whole.add(n)
                while named in whole:
                    _take_name(*waiting[named])
                    named += 1
    return into or _linked(listing, revision)


def cached(
    repo: str, allow: Sequence[str] | None = None, revision: str | None = None, kind: Kind = "model"
) -> Path | None:
    """The folder of the hub's cache with these files of the repository, if it is whole. Asks no network."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    with _explained(repo, revision):
        try:
            if allow is None:
                allow = _needed([file.path for file in get_cached_repo_tree(repo, repo_type=kind, revision=revision)])
        except CachedRepoTreeNotFoundError:  # another program put it there; what it took must do
            allow = NEEDED
        try:
            found = snapshot_download(
                repo, repo_type=kind, revision=revision, allow_patterns=list(allow), local_files_only=True
            )
            return Path(found)
        except LocalEntryNotFoundError:
            return None


def missing(listing: Listing, into: Path | None = None, workers: int = 1) -> int:
    """The bytes of a listing that `bring` would still have to receive."""
    return _lacking(_waiting(listing, into, workers))


def check_space(needed: int, folder: Path, what: str) -> None:
    """Raises UserError where the disk of `folder`, which need not exist yet, has less than `needed` bytes free."""
    if needed > free(folder):
        raise UserError(
            f"{what} needs {in_bytes(needed)} in {folder}, but only {in_bytes(free(folder))} are free there; free some "
            "space, or move the folder with HF_HOME (the hub's cache) or NANOCHAT_BASE_DIR"
        )


def free(folder: Path) -> int:
    """The free bytes of the disk of a folder, which need not exist yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def in_bytes(size: float) -> str:
    """A size for people: 8.8GB."""
    return short(size).replace("B", "G") + "B"  # what is a billion to others is a giga to a disk


def cache() -> Path:
    """The folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def upload(repo: str, folder: Path, private: bool = False, message: str = "Upload a model") -> str:
    """Put the files of a folder (links are followed) into a repository, which is made if need be; returns its address.

    Raises UserError where there is no token, or it does not suffice, and where `private` is wanted but the repository
    is there and public.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise UserError(f"HF_HUB_OFFLINE forbids to upload to {repo}; unset it")
    if get_token() is None:
        raise UserError(
            "uploading needs a token with write permission, and there is none; make one at "
            f"{constants.ENDPOINT}/settings/tokens and set HF_TOKEN, or run hf auth login"
        )
    api = HfApi()
    with _explained(repo):
        url = _insist(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        if private and not _insist(lambda: api.model_info(repo), reached=True).private:
            raise UserError(f"{repo} is there already and public; make it private on its page, or leave out --private")
        try:
            _insist(lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message), reached=True)
        except HTTPError:
            raise
        except (RuntimeError, OSError, ValueError) as error:  # what the library makes of a large file's failure
            raise UserError(
                f"the upload to {repo} broke off ({_line(error.__cause__ or error)}); start again, "
                "what has arrived is not sent twice"
            ) from error
    return str(url)


def _needed(paths: Sequence[str] | dict) -> list[str]:
    """The files of a repository with which its model loads: the weights once, configuration, tokenizer."""
    found = [path for path in paths if _matches(path, NEEDED) and not _matches(path, NOT_NEEDED)]
    if any(path.endswith(".safetensors") for path in found):  # the same weights again
        found = [path for path in found if not path.endswith(".bin")]
    return found


def _longest_part(path: str) -> int:
    return max(len(os.fsencode(part)) for part in PurePosixPath(path).parts)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def _waiting(listing: Listing, into: Path | None, workers: int = 1) -> list[tuple[RemoteFile, Path]]:
    """The files that are not here yet, each with the path where it goes.

    The cache keeps a file under its digest and links to it from the folder of each commit.
    """
    if into is not None:
        places = [into / file.path for file in listing.files]
    else:
        folder = cache() / f"{listing.kind}s--{listing.repo.replace('/', '--')}" / "blobs"
        places = [folder / file.digest for file in listing.files]
    items = list(zip(listing.files, places, strict=True))
    with ThreadPool(workers) as pool:
        return [item for item, here in zip(items, pool.starmap(is_here, items), strict=True) if not here]


def _lacking(waiting: Sequence[tuple[RemoteFile, Path]]) -> int:
    return sum(file.size - _size(_partial(file, target)) for file, target in waiting)


def is_here(file: RemoteFile, place: Path) -> bool:
    """Whether `place` is this very file."""
    if not place.exists() or _size(place) != file.size:
        return False
    with open(place, "rb") as content:
        return file.digest in (place.name, _digest(content, file))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _partial(file: RemoteFile, target: Path) -> Path:
    """What has come of a file; its name has the digest, so that another commit's file is not continued."""
    return target.with_name(f"{target.name}.{file.digest[:12]}.incomplete")


def _digest(content: BinaryIO, file: RemoteFile) -> str:
    """The digest of an open file, of the same kind as the hub's: git's puts the size in front."""
    large, size = len(file.digest) == 64, os.fstat(content.fileno()).st_size
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    content.seek(0)
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _bring_one(listing: Listing, waiting: Sequence[tuple[RemoteFile, Path]], meter: "_Meter", n: int) -> int:
    """Download what is waiting at n, and return n. Where that fails the other threads, too, are done."""
    try:
        _download(listing, *waiting[n], meter.received)
    except BaseException:
        meter.over.set()
        raise
    return n


def _download(listing: Listing, file: RemoteFile, target: Path, received: Callable[[int], None]) -> None:
    """Bring one file whole to where its parts are gathered. Another process that brings the same one is waited for."""
    received(0)
    partial = _partial(file, target)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        # Read by what is open: a process that is done with the same file may give it its name meanwhile.
        with open(partial, "a+b") as out:
            _lock(out, file.path)
            try:
                if is_here(file, target):
                    return
                for _ in range(2):
                    _receive(listing, file, out, received)
                    if _digest(out, file) == file.digest:
                        os.fsync(out.fileno())
                        return
                    received(-out.tell())
                    out.truncate(0)
            finally:
                if _size(partial) == 0:
                    partial.unlink(missing_ok=True)
    except OSError as error:
        if said := refusal(error, target):
            raise said from error
        raise
    raise UserError(
        f"{file.path} of {listing.repo} arrived twice with another checksum than the hub says ({file.digest[:12]}); "
        "it was deleted, try again later or with another HF_ENDPOINT"
    )


def _take_name(file: RemoteFile, target: Path) -> None:
    """Give a file that is whole its name, unless another process was faster."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(_partial(file, target), target)
    fsync_folder(target.parent)


def _lock(out: BinaryIO, name: str) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that fetches {name}", flush=True)
        fcntl.flock(out, fcntl.LOCK_EX)


def _receive(listing: Listing, file: RemoteFile, out: BinaryIO, received: Callable[[int], None]) -> None:
    """Append to `out` what it lacks of a file, over as many requests as that takes."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(listing.repo, file.path, repo_type=listing.kind, revision=listing.commit)
    patience = _Patience(reached=True)
    while (have := out.seek(0, os.SEEK_END)) < file.size:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
                hf_raise_for_status(answer)
                if have and answer.status_code != 206:  # a server without ranges sends all of it again
                    received(-have)
                    out.truncate(0)
                for block in answer.iter_bytes():  # as they come; what is gathered is lost with the connection
                    out.write(block)
                    received(len(block))
                    patience.renew()
                    if out.tell() > file.size:
                        return  # of a wrong file the checksum is wrong
            if out.tell() == have:
                raise HTTPError("it sends nothing")
        except HTTPError as error:
            patience.wait(error)


class _Patience:
    """How often and how long a hub that fails is waited for."""

    def __init__(self, reached: bool, retries: int = RETRIES) -> None:
        self.reached = reached  # it has answered before, so it is worth waiting even where nobody does now
        self.retries = retries
        self.renew()

    def renew(self) -> None:
        self.left, self.pause = self.retries, PAUSE

    def wait(self, error: Exception) -> None:
        """Sleep as long as the hub asks to, else longer each time. Raises `error` where that is of no use."""
        from httpx2 import ConnectError, TimeoutException

        response = getattr(error, "response", None)
        hopeless = response is not None and response.status_code not in TRANSIENT
        nobody = isinstance(error, (ConnectError, TimeoutException)) and not self.reached
        asked = _asked_to_wait(response.headers) if response is not None else None
        if hopeless or nobody or not self.left or (asked or 0) > LONGEST_WAIT:
            raise error
        pause = self.pause if asked is None else asked
        said = f"it answers {response.status_code}" if response is not None else _line(error)
        print(f"waiting {duration(pause)} for the hub ({said})", flush=True)
        time.sleep(pause)
        self.left -= 1
        self.pause *= 2


def _asked_to_wait(headers) -> float | None:
    """The seconds after which an answer says to come again, in either of the two ways that the hub has."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _insist(call: Callable[[], Result], reached: bool = False, retries: int = RETRIES) -> Result:
    """Make a call to the hub, and again while it is only busy."""
    from httpx2 import HTTPError

    patience = _Patience(reached, retries)
    while True:
        try:
            return call()
        except HTTPError as error:
            patience.wait(error)


def _linked(listing: Listing, revision: str | None) -> Path:
    """Let the library link a listing's files, which the cache now holds, into the folder of their commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    with _explained(listing.repo, revision), disable_progress_bars():
        paths = [file.path for file in listing.files]
        found = snapshot_download(
            listing.repo, repo_type=listing.kind, revision=revision, allow_patterns=paths, max_workers=1
        )
        return Path(found)


class _Meter:
    """Shows how far a listing is. Threads tell it what comes, and those still at work when it is over end by that."""

    def __init__(self, listing: Listing, waiting: Sequence[tuple[RemoteFile, Path]]) -> None:
        self.over = threading.Event()
        self._alone = threading.Lock()
        self._there = listing.size - _lacking(waiting)
        self._came, self._began = 0, time.monotonic()
        self._scale, unit = (1e6, "MB") if listing.size > 20e6 else (1e3, "kB")
        self._progress = Progress(math.ceil(listing.size / self._scale), f"fetching {listing.repo}", unit)

    def __enter__(self) -> "_Meter":
        self._progress.__enter__()
        self.received(0)
        return self

    def __exit__(self, *how: Any) -> None:
        with self._alone:
            self.over.set()
        self._progress.__exit__(*how)

    def received(self, count: int) -> None:
        """Count bytes that came. Raises UserError, which nobody hears, when it is over."""
        with self._alone:
            if self.over.is_set():
                raise UserError("another file failed")
            self._came += count
            rate = self._came / 1e6 / max(time.monotonic() - self._began, 1e-3)
            self._progress.update(math.ceil((self._there + self._came) / self._scale), MB_per_second=rate)


@contextlib.contextmanager
def _explained(repo: str, revision: str | None = None) -> Iterator[None]:
    """What the library raises, in one sentence each."""
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    token = "set HF_TOKEN to a token of your account, or run hf auth login"
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{repo!r} is not a repository name; expected one such as karpathy/nanochat-d34") from error
    except errors.OfflineModeIsEnabled as error:
        raise Unreachable(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids to ask {where}; unset it where there is a network"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(f"{repo} is gated; ask for access at {where}/{repo}, then {token}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r}; see those it has at {where}/{repo}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{repo} lost a file while it was fetched ({_line(error)}); start again") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{where} has no {repo}, or it is private; check the name, and if it is, {token}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = f"{where} answers {status} for {repo} ({_line(error.server_message or error)})"
        if status in (401, 403):
            raise UserError(f"{said}; the token does not suffice or is missing: {token}") from error
        raise (Unreachable if status in TRANSIENT else UserError)(f"{said}; try again later") from error
    except (HTTPError, InvalidURL) as error:
        raise Unreachable(
            f"{where} cannot be reached for {repo} ({_line(error)}); check the network and HF_ENDPOINT, "
            "and start again: what has come is kept"
        ) from error


def _line(error: object) -> str:
    """What an error says, on one line of bearable length."""
    return " ".join(str(error).split())[:160] or type(error).__name__
