"""Files in object stores, named by URL: s3://, gs://, hf://, and whatever else fsspec knows.

Reading is lazy, in ranges of bytes. The fsspec driver of a store finds credentials and endpoints by itself: s3fs where
the AWS tools do (AWS_PROFILE, AWS_ENDPOINT_URL, ...), gcsfs where gcloud does, huggingface_hub in HF_TOKEN.
"""

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from nanochat.data.urls import is_url
from nanochat.errors import UserError
from nanochat.log import duration
from nanochat.paths import dataset_dir

RETRIES = 5  # failures in a row before giving up
PAUSE = 1.0  # seconds before the first retry; doubles with each retry
INSTALL = "install it with `uv sync --extra stores` in a clone, or else `pip install 'nanochat[stores]'`"
# What another try would not change: the drivers turn the store's answers into these.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, TypeError,
         ValueError)  # fmt: skip

Result = TypeVar("Result")


@dataclass(frozen=True, order=True)
class Remote:
    """A file or folder of an object store, with as much of Path's ways as reading needs.

    Every method raises UserError where the store cannot be reached or refuses, with the URL and the reason.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]

    def __truediv__(self, inside: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{inside}")

    def sizes(self, deep: bool = False) -> dict[str, int]:
        """The bytes of each file in this folder, by name; `deep`: also of those in its folders, by path from here.

        Empty where there is no such folder, which a store cannot tell from an empty one.
        """
        fs, path = self._opened()

        def found() -> Mapping[str, Mapping]:
            fs.invalidate_cache()  # other processes write
            return fs.find(path, maxdepth=None if deep else 1, withdirs=False, detail=True)

        files = self._insist(found, missing={})
        start = len(fs._strip_protocol(path).rstrip("/")) + 1
        return {name[start:]: int(about["size"]) for name, about in sorted(files.items()) if len(name) > start}

    def glob(self, pattern: str) -> list["Remote"]:
        """The files in this folder whose names match, sorted."""
        return [self / name for name in self.sizes() if fnmatch(name, pattern)]

    def exists(self) -> bool:
        """Whether there is such a file or folder now."""
        fs, path = self._opened()

        def found() -> bool:
            fs.invalidate_cache()
            return bool(fs.info(path))

        return self._insist(found, missing=False)

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes from `start` to `end`, the last one not included; without an end, -n means the last n or fewer.

        Raises FileNotFoundError if the file does not exist.
        """
        fs, path = self._opened()
        # Drivers without ranges of their own open the file; they must not read ahead.
        options = {} if getattr(fs, "async_impl", False) else {"cache_type": "none"}

        def received() -> bytes:
            content = fs.cat_file(path, start=start, end=end, **options)
            if start is not None and end is not None and len(content) != end - start:
                raise ConnectionError(f"it sent {len(content)} of {end - start} bytes")
            return content

        return self._insist(received)

    def write(self, content: bytes) -> None:
        """Write a small file in one request: a reader finds the old content or the new."""
        fs, path = self._opened()
        self._insist(lambda: fs.pipe_file(path, content))

    def upload(self, file: Path) -> None:
        """Write a file of any size; it appears when it is complete."""
        fs, path = self._opened()
        self._insist(lambda: fs.put_file(str(file), path))

    def _opened(self) -> tuple[Any, str]:
        """The fsspec file system, and this place's path in it."""
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.url)
        except ImportError as error:
            raise UserError(f"{self} needs a package that is not installed ({_line(error)}); {INSTALL}") from error
        except ValueError as error:
            raise UserError(
                f"{self} cannot be opened ({_line(error)}); expected a URL such as s3://bucket/folder, "
                "gs://bucket/folder or hf://datasets/user/name"
            ) from error

    def _insist(self, call: Callable[[], Result], **missing: Result) -> Result:
        """Call the store, and retry while it fails. `missing`: what to return instead if there is no such file."""
        for left in reversed(range(RETRIES + 1)):
            try:
                return call()
            except FileNotFoundError:
                if "missing" in missing:
                    return missing["missing"]
                raise
            except Exception as error:
                if isinstance(error, FINAL) or not left or "credentials" in str(error):
                    raise UserError(
                        f"{self} cannot be reached: {_line(error)}; check the URL, the network and the credentials, "
                        "then start again to resume"
                    ) from error
                pause = PAUSE * 2 ** (RETRIES - left)
                print(f"waiting {duration(pause)} for {self} ({_line(error)})", flush=True)
                time.sleep(pause)
        raise AssertionError(self)


class Ranges(io.RawIOBase):
    """A remote file for a reader that seeks, as far as the end of what `fetch` brought.

    That part is in memory; any other is fetched when it is read.
    """

    def __init__(self, remote: Remote):
        self._remote, self._at = remote, 0
        self._start, self._part = 0, b""  # what is in memory

    def fetch(self, start: int, end: int) -> None:
        """Bring the bytes from `start` to `end` into memory in one request."""
        self._start, self._part = start, self._remote.read(start, end)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._start + len(self._part)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if not self._start <= self._at < self._start + len(self._part):
            self.fetch(self._at, self._at + len(buffer))
        first = self._at - self._start
        content = self._part[first : first + len(buffer)]
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def dataset(name: str) -> Path | Remote:
    """The folder of a dataset's shards: that of a URL, or of the dataset that has this name here."""
    return Remote(name) if is_url(name) else dataset_dir(name)


def _line(error: BaseException) -> str:
    """An error's message on one line of limited length."""
    return " ".join(str(error).split())[:200] or type(error).__name__
