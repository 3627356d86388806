"""The Hugging Face hub: downloading the files of a repository, and uploading a folder.

huggingface_hub lists, names and authorises. The download itself is here, because that library starts a file again in
every process, and a download of 8 GB must be able to resume. The library reads HF_ENDPOINT, HF_TOKEN, HF_HOME and
HF_HUB_OFFLINE once, when it is imported, so functions import it when they run.
"""

import contextlib
import fcntl
import math
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from json import JSONDecodeError
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeVar

from nanochat.errors import UserError
from nanochat.log import Progress, duration, short
from nanochat.paths import refusal

GPT2 = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
# The hub knows these repositories by both names, and so do those who fetched them: transformers keeps what
# from_pretrained("gpt2") brings in another folder of the cache than ours.
TWINS = GPT2 | {repo: name for name, repo in GPT2.items()}

RETRIES = 5  # consecutive failures without a byte received before giving up
PAUSE = 1.0  # seconds before the first retry; doubles with each retry
LONGEST_WAIT = 300  # seconds; if the hub asks for a longer wait, we give up
GLANCE = 3.0  # seconds to wait for the hub when the cache already holds everything
TRANSIENT = (408, 429, 500, 502, 503, 504)
LONGEST_PATH, LONGEST_PART = 1000, 200  # bytes; the name of an incomplete file is a little longer

# Files that a model consists of, and others to leave out: optimizers, weights for other programs.
NEEDED = ("*.json", "*.txt", "*.md", "*.safetensors", "*.bin", "*.pt", "*.pkl")
NOT_NEEDED = ("optim*", "*/optim*", "onnx/*", "training_args.bin", "scheduler.pt", "rng_state*")

Kind = Literal["model", "dataset"]  # of a repository
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 or a sha256
Result = TypeVar("Result")


class Unreachable(UserError):
    """The hub does not answer or is busy, or HF_HUB_OFFLINE is set."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; size in bytes, digest is the sha256 of a large file and git's sha1 of a small one."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """Files of a repository at a commit; card is the metadata at the top of its README, such as a dataset's splits."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    kind: Kind = "model"
    card: dict = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(file.size for file in self.files)


def look(
    repo: str, allow: Sequence[str] | None = None, revision: str | None = None, kind: Kind = "model",
    hurried: bool = False,
) -> Listing:  # fmt: skip
    """List the files to download: those that match a pattern of `allow`, by default those that a model needs.

    hurried: try once, for at most GLANCE seconds. Raises Unreachable, and UserError if the repository is missing or
    private, has none of these files, or its listing cannot be trusted.
    """
    from huggingface_hub import HfApi, constants

    timeout = min(GLANCE, constants.HF_HUB_DOWNLOAD_TIMEOUT) if hurried else constants.HF_HUB_DOWNLOAD_TIMEOUT
    ask = partial(HfApi().repo_info, repo, revision=revision, repo_type=kind, timeout=timeout, files_metadata=True)
    try:
        with _explained(repo, revision):
            info: Any = ask() if hurried else _insist(ask)
    except (JSONDecodeError, KeyError, TypeError, AttributeError) as error:  # not the JSON of a hub
        raise UserError(f"{constants.ENDPOINT} does not speak the hub's protocol; check HF_ENDPOINT") from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = []
    for path in _chosen(siblings, allow):
        size, lfs = siblings[path].size, siblings[path].lfs
        digest = lfs.sha256 if lfs else siblings[path].blob_id
        if not is_safe(path):
            raise UserError(f"{repo} names a file that must not be written, {path[:80]!r}; do not use this repository")
        # A digest becomes a file's name in the cache, so it must be one.
        if not info.sha or not DIGEST.fullmatch(str(digest)) or not isinstance(size, int):
            raise UserError(f"the hub gives neither size nor checksum of {path} in {repo}; check HF_ENDPOINT")
        files.append(RemoteFile(path, size, str(digest)))
    if not files:
        wanted = "a model" if allow is None else "a file named " + " or ".join(allow)
        raise UserError(f"{repo} does not hold {wanted}; it holds {', '.join(sorted(siblings)[:8]) or 'nothing'}")
    return Listing(repo, str(info.sha), tuple(files), kind, info.card_data.to_dict() if info.card_data else {})


def fetch(repo: str, allow: Sequence[str] | None = None, kind: Kind = "model") -> Path:
    """Download files of a repository into the hub's cache, complete and checked, and return their folder there.

    `allow` and the errors are those of `look`. If the hub cannot be reached, a cache that holds all files is enough.
    """
    folder = cached(repo, allow, kind=kind)
    try:
        listing = look(repo, allow, kind=kind, hurried=folder is not None)
    except Unreachable:
        if folder is None:
            raise
        print(f"{repo} comes from the cache, because the hub cannot be reached")
        return folder
    return bring(listing)


def bring(listing: Listing, into: Path | None = None, workers: int = 1, revision: str | None = None) -> Path:
    """Download the files of a listing, `workers` at a time, into a folder or, with None, the hub's cache.

    Returns that folder; in the cache it is the one of `revision`. Complete files get their names in the order of the
    listing, so a folder that is still being filled holds the first files and no others.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if into is None:
        share_twin(listing.repo)
    waiting = _waiting(listing, into)
    lacking = _lacking(waiting)
    check_space(lacking, into or cache(), f"fetching {listing.repo}")
    with _explained(listing.repo, revision):
        if waiting:
            in_order, whole = deque(waiting), set()
            # Leaving the pool does not wait for its threads; the meter ends them if one failed or Ctrl-C was pressed.
            with ThreadPool(workers) as pool, _Meter(listing, lacking) as meter:
                for item in pool.imap_unordered(partial(_download, listing, meter), waiting):
                    whole.add(item)
                    while in_order and in_order[0] in whole:
                        file, target = in_order.popleft()
                        with contextlib.suppress(FileNotFoundError):  # another process was faster
                            os.replace(_partial(file, target), target)
        if into is not None:
            return into
        with disable_progress_bars():  # it only links the files into the folder of their commit
            return Path(snapshot_download(
                listing.repo, repo_type=listing.kind, revision=revision, max_workers=1,
                allow_patterns=[file.path for file in listing.files],
            ))  # fmt: skip


def cached(
    repo: str, allow: Sequence[str] | None = None, revision: str | None = None, kind: Kind = "model"
) -> Path | None:
    """The folder in the hub's cache if it holds all of these files, else None. Uses no network."""
    names = [repo, TWINS[repo]] if kind == "model" and repo in TWINS else [repo]
    found = (_cached(name, allow, revision, kind) for name in names)
    return next((folder for folder in found if folder is not None), None)


def _cached(repo: str, allow: Sequence[str] | None, revision: str | None, kind: Kind) -> Path | None:
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    wanted = list(allow or NEEDED)
    with _explained(repo, revision), contextlib.suppress(LocalEntryNotFoundError):
        if allow is None:
            with contextlib.suppress(CachedRepoTreeNotFoundError):  # another program put the files there
                tree = get_cached_repo_tree(repo, repo_type=kind, revision=revision)
                wanted = _chosen([file.path for file in tree])
        return Path(snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=wanted, local_files_only=True
        ))  # fmt: skip
    return None


def share_twin(repo: str) -> None:
    """Let both names of a GPT-2 share one folder of the cache, so that nothing is fetched twice.

    Where each has a folder already, this one gets the other's files as hard links.
    """
    if repo not in TWINS:
        return
    ours, other = _in_cache(repo), _in_cache(TWINS[repo])
    with contextlib.suppress(OSError):  # a cache that cannot be written, or a file system without links
        if not ours.exists() and not other.exists():
            ours.mkdir(parents=True)
        if not (ours.exists() and other.exists()):
            here, lacking = (ours, other) if ours.exists() else (other, ours)
            lacking.symlink_to(here.name)
        elif not ours.samefile(other):
            for blob in (other / "blobs").glob("[0-9a-f]" * 40 + "*"):
                target = ours / "blobs" / blob.name
                if DIGEST.fullmatch(blob.name) and not target.exists():
                    target.parent.mkdir(exist_ok=True)
                    os.link(blob, target)


def names_here(name: str) -> list[str]:
    """Which of a GPT-2's names another program can load it by from the cache, without a network."""
    return [each for each in (name, GPT2[name]) if _cached(each, ["config.json"], None, "model")]


def _in_cache(repo: str, kind: Kind = "model") -> Path:
    return cache() / f"{kind}s--{repo.replace('/', '--')}"


def missing(listing: Listing, into: Path | None = None) -> int:
    """The bytes that `bring` would still have to receive."""
    return _lacking(_waiting(listing, into))


def check_space(needed: int, folder: Path, what: str) -> None:
    """Raise UserError if the disk of `folder`, which need not exist yet, has less than `needed` bytes free."""
    if needed > free(folder):
        raise UserError(
            f"{what} needs {in_bytes(needed)} in {folder}, but only {in_bytes(free(folder))} are free there; free some "
            "space, or move the folder with HF_HOME (the hub's cache) or NANOCHAT_BASE_DIR"
        )


def free(folder: Path) -> int:
    """The free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(next(each for each in (folder, *folder.absolute().parents) if each.is_dir())).free


def in_bytes(size: float) -> str:
    """A size for people: 8.8GB."""
    return short(size).replace("B", "G") + "B"  # a billion is a giga here


def cache() -> Path:
    """The folder of the hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def upload(repo: str, folder: Path, private: bool = False, message: str = "Upload a model") -> str:
    """Upload the files of a folder, following links, and return the repository's address; creates it if need be.

    Raises UserError if the token is missing or not sufficient, or if the repository is public despite `private`.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise UserError(f"HF_HUB_OFFLINE is set, which forbids uploading to {repo}; unset it")
    if get_token() is None:
        raise UserError(
            "uploading needs a token with write permission; make one at "
            f"{constants.ENDPOINT}/settings/tokens and set HF_TOKEN, or run hf auth login"
        )
    api = HfApi()
    with _explained(repo):
        url = _insist(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        if private and not _insist(lambda: api.model_info(repo)).private:
            raise UserError(f"{repo} already exists and is public; make it private on its page, or leave out --private")
        try:
            _insist(lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
        except HTTPError:
            raise
        except (RuntimeError, OSError, ValueError) as error:  # raised by the library if a large file fails
            raise UserError(
                f"the upload to {repo} broke off ({_line(error.__cause__ or error)}); run it again: files that have "
                "arrived are not sent twice"
            ) from error
    return str(url)


def _chosen(paths: Iterable[str], allow: Sequence[str] | None = None) -> list[str]:
    """The paths that match a pattern; without patterns a model's weights, configuration and tokenizer."""
    from huggingface_hub.utils import filter_repo_objects

    if allow is not None:
        return list(filter_repo_objects(paths, allow_patterns=list(allow)))
    found = list(filter_repo_objects(paths, allow_patterns=list(NEEDED), ignore_patterns=list(NOT_NEEDED)))
    if any(path.endswith(".safetensors") for path in found):  # then the .bin files are the same weights
        found = [path for path in found if not path.endswith(".bin")]
    return found


def is_safe(path: str) -> bool:
    """Whether a path stays inside its folder, and every file system accepts its names."""
    parts = PurePosixPath(path).parts
    inside = not PurePosixPath(path).is_absolute() and ".." not in parts and "\\" not in path
    short = len(os.fsencode(path)) <= LONGEST_PATH and max(len(os.fsencode(part)) for part in parts) <= LONGEST_PART
    return inside and short and path.isprintable()


def _waiting(listing: Listing, into: Path | None) -> list[tuple[RemoteFile, Path]]:
    """The files still to be downloaded, each with its target.

    The cache names a file by its digest and links to it from the folder of each commit.
    """
    blobs = _in_cache(listing.repo, listing.kind) / "blobs"
    items = [(file, into / file.path if into else blobs / file.digest) for file in listing.files]
    with ThreadPool() as pool:
        return [item for item, here in zip(items, pool.starmap(is_here, items), strict=True) if not here]


def _lacking(waiting: Sequence[tuple[RemoteFile, Path]]) -> int:
    return sum(file.size - _size(_partial(file, target)) for file, target in waiting)


def is_here(file: RemoteFile, place: Path) -> bool:
    """Whether the file at `place` is this one. A file of the cache is trusted, because its name is its digest."""
    if not place.exists() or _size(place) != file.size:
        return False
    with open(place, "rb") as content:
        return place.name == file.digest or _digest(content, file) == file.digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):  # not here, or renamed by another process just now
        return 0


def _partial(file: RemoteFile, target: Path) -> Path:
    """The file that receives a download; its name contains the digest, so that no other version is resumed."""
    return target.with_name(f"{target.name}.{file.digest[:12]}.incomplete")


def _digest(content: BinaryIO, file: RemoteFile) -> str:
    """The digest of an open file, of the same kind as `file.digest`."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    content.seek(0)
    return sha_fileobj(content).hex() if len(file.digest) == 64 else git_hash(content.read())


def _download(listing: Listing, meter: "_Meter", item: tuple[RemoteFile, Path]) -> tuple[RemoteFile, Path]:
    """Complete the partial file of an item, which is returned. Waits while another process downloads the same file."""
    file, target = item
    meter.received(0)
    partial = _partial(file, target)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        # The checksum reads the open file, because another process may have renamed it by then.
        with open(partial, "a+b") as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that fetches {file.path}", flush=True)
                fcntl.flock(out, fcntl.LOCK_EX)
            try:
                if not is_here(file, target):
                    _receive_checked(listing, file, out, meter.received)
            finally:
                if _size(partial) == 0:
                    partial.unlink(missing_ok=True)
    except BaseException as error:
        meter.is_over = True
        if message := refusal(error, target):
            raise message from error
        raise
    return item


def _receive_checked(listing: Listing, file: RemoteFile, out: BinaryIO, received: Callable[[int], None]) -> None:
    """Receive the rest of a file, and if its checksum is wrong, all of it once more."""
    for _ in range(2):
        _insist(lambda: _receive(listing, file, out, received), out)
        if _digest(out, file) == file.digest:
            os.fsync(out.fileno())
            return
        received(-out.tell())
        out.truncate(0)
    raise UserError(
        f"{file.path} of {listing.repo} arrived twice with another checksum than the hub says ({file.digest[:12]}); "
        "it was deleted, try again later or with another HF_ENDPOINT"
    )


def _receive(listing: Listing, file: RemoteFile, out: BinaryIO, received: Callable[[int], None]) -> None:
    """Append the rest of a file to `out` in one request. Raises HTTPError if the file is still incomplete then."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    have = out.seek(0, os.SEEK_END)
    if have >= file.size:
        return
    url = hf_hub_url(listing.repo, file.path, repo_type=listing.kind, revision=listing.commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
        hf_raise_for_status(answer)
        if have and answer.status_code != 206:  # this server sends the whole file again
            received(-have)
            out.truncate(0)
        for block in answer.iter_bytes():  # as they arrive: larger blocks would be lost with the connection
            out.write(block)
            received(len(block))
    if out.tell() < file.size:
        raise HTTPError(f"it sent {out.tell()} of {file.size} bytes")


def _insist(call: Callable[[], Result], out: BinaryIO | None = None) -> Result:
    """Call the hub, and retry while it is busy. Whenever `out` has grown, the count of retries starts again.

    A hub that cannot be reached is retried only with `out`, since a download has reached it before.
    """
    from httpx2 import ConnectError, HTTPError, TimeoutException

    left, pause = RETRIES, PAUSE
    while True:
        before = out.seek(0, os.SEEK_END) if out else 0
        try:
            return call()
        except HTTPError as error:
            if out and out.seek(0, os.SEEK_END) > before:
                left, pause = RETRIES, PAUSE
            response = getattr(error, "response", None)
            if response is not None:
                seconds, reason = _wait_after(response, pause), f"it answers {response.status_code}"
            elif out or not isinstance(error, (ConnectError, TimeoutException)):
                seconds, reason = pause, _line(error)
            else:
                raise
            if seconds > LONGEST_WAIT or not left:
                raise
            print(f"waiting {duration(seconds)} for the hub ({reason})", flush=True)
            time.sleep(seconds)
            left, pause = left - 1, pause * 2


def _wait_after(response: Any, pause: float) -> float:
    """Seconds before a retry: what the hub asks for in either of its two headers, else `pause`; inf if final."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if response.status_code not in TRANSIENT:
        return math.inf
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = response.headers.get("Retry-After", "").strip()
    return float(after) if after.isdigit() else pause


class _Meter:
    """The progress of a download by several threads; stops the other threads when it is over."""

    def __init__(self, listing: Listing, lacking: int) -> None:
        self.is_over, self._lock = False, threading.Lock()
        self._before, self._came, self._began = listing.size - lacking, 0, time.monotonic()
        self._scale, unit = (1e6, "MB") if listing.size > 20e6 else (1e3, "kB")
        self._progress = Progress(math.ceil(listing.size / self._scale), f"fetching {listing.repo}", unit)

    def __enter__(self) -> "_Meter":
        self._progress.__enter__()
        self.received(0)
        return self

    def __exit__(self, *how: Any) -> None:
        with self._lock:
            self.is_over = True
        self._progress.__exit__(*how)

    def received(self, count: int) -> None:
        """Count received bytes. Raises UserError when the download is over, to end the calling thread."""
        with self._lock:
            if self.is_over:
                raise UserError("another file failed")
            self._came += count
            rate = self._came / 1e6 / max(time.monotonic() - self._began, 1e-3)
            self._progress.update(math.ceil((self._before + self._came) / self._scale), MB_per_second=rate)


@contextlib.contextmanager
def _explained(repo: str, revision: str | None = None) -> Iterator[None]:
    """Raise each error of the library as a UserError of one sentence."""
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
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set; unset it to fetch from {where}"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(f"{repo} is gated; ask for access at {where}/{repo}, then {token}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r}; see its revisions at {where}/{repo}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{where} has no {repo}, or it is private; check the name, and if it is, {token}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        message = f"{where} answers {status} for {repo} ({_line(error.server_message or error)})"
        if status in (401, 403):
            raise UserError(f"{message}; the token does not suffice or is missing: {token}") from error
        raise (Unreachable if status in TRANSIENT else UserError)(f"{message}; try again later") from error
    except (HTTPError, InvalidURL) as error:
        raise Unreachable(
            f"{where} cannot be reached for {repo} ({_line(error)}); check the network and HF_ENDPOINT, "
            "and start again to resume the download"
        ) from error


def _line(error: object) -> str:
    """An error's message on one line of limited length."""
    return " ".join(str(error).split())[:160] or type(error).__name__
