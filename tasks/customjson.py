"""The user's own conversations, from JSON files, and which of them are held out."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from nanochat import chat
from nanochat.data import files
from nanochat.data.shards import Split
from nanochat.errors import UserError
from tasks.mixture import Mixture

EXAMPLE = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'
HELD_OUT = 0.05  # fraction of the user's own conversations used for validation
_BOM = b"\xef\xbb\xbf"  # written by Windows editors at the start of a file


class CustomJSON(Sequence[dict]):
    """One conversation per line, {"messages": [...]} or a bare list of messages; blank lines are skipped.

    The file may also be one JSON array of such values, and compressed (.gz, .zst). Opening it checks every conversation
    and keeps only its offset and a hash. Raises UserError, naming file and line, for the first invalid one, and later
    if the file has changed. A subclass may read rows of another kind.
    """

    noun, column, example = "conversation", "messages", EXAMPLE

    def __init__(self, filepath: str | Path):
        self.path = Path(filepath)
        self.name = self.path.name
        self.lines = array("Q")  # of each conversation: its first line, its place in bytes, and its hash
        self.offsets = array("Q")
        self.lengths = array("Q")
        self.keys = array("Q")
        self._unpacked: BinaryIO | None = None
        with self._readable():
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise UserError(f"cannot read {self.path}: it is not a regular file; --data_path takes a JSONL file")
            if self.path.suffix.lower() in files.PACKED:
                self._unpacked = self._unpack()
                self.sha256 = self._index(self._unpacked)
            else:
                with open(self.path, "rb") as file:
                    self.sha256 = self._index(file)
        if not self.lines:
            raise UserError(f"{self.path} holds no {self.noun}s; expected lines such as " + self.example)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        try:
            row = self.parse(json.loads(self._bytes(self.offsets[index], self.lengths[index])))
            if self.key(row) == self.keys[index]:
                return row
        except FileNotFoundError:
            message = f"{self.path} was removed while this run was reading it; put it back and start again"
            raise UserError(message) from None
        except (OSError, ValueError, RecursionError):
            pass
        raise UserError(
            f"{self.path} changed while this run was reading it (line {self.lines[index]}); "
            "put the old file back and start again"
        )

    def parse(self, value: object) -> dict:
        """A row from what JSON holds. Raises ValueError, with one clause, for anything else."""
        conversation = {"messages": value} if isinstance(value, list) else value
        chat.check(conversation)
        assert isinstance(conversation, dict)
        return {"messages": conversation["messages"]}

    def key(self, row: dict) -> int:
        """A hash of a row, 64 bits."""
        text = json.dumps(row["messages"], sort_keys=True)  # ASCII, so that half a surrogate pair does no harm
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def contents(self) -> list[dict]:
        """What the file holds, for nanochat/data/contents.py."""
        return [{"what": self.name, "sha256": self.sha256, "conversations": len(self)}]

    def _index(self, file: BinaryIO) -> str:
        """Note every conversation; returns the sha256 of the whole file."""
        digest, offset = hashlib.sha256(), 0
        for number, line in enumerate(file, 1):
            digest.update(line)
            if number == 1 and line.startswith(_BOM):
                offset, line = len(_BOM), line[len(_BOM) :]
            if line.strip():
                if not self.lines and _begins_array(line, self.column):
                    rest = file.read()
                    digest.update(rest)
                    self._index_array(line + rest, number, offset)
                    break
                try:
                    self._note(json.loads(line.rstrip().decode("utf-8")), number, offset, len(line.rstrip()))
                except json.JSONDecodeError as error:
                    what = f"not JSON: {error.msg} at column {error.colno}; expected one {self.noun} per line"
                    self._refuse(number, what)
                except UnicodeDecodeError as error:
                    self._refuse_bytes(number, line, offset, error)
                except RecursionError:
                    self._refuse(number, "not a conversation: nested too deeply")
                except ValueError as error:  # a number of too many digits
                    self._refuse(number, str(error))
            offset += len(line)
        return digest.hexdigest()

    def _index_array(self, data: bytes, number: int, offset: int) -> None:
        """Note the conversations of a JSON array that begins on line `number` at `offset`."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            self._refuse_bytes(number + data.count(b"\n", 0, error.start), data, offset, error)
        first, at = number, 0
        try:
            for value, start, end in _elements(text):
                number, offset = number + text.count("\n", at, start), offset + len(text[at:start].encode())
                size = len(text[start:end].encode())
                self._note(value, number, offset, size)
                number, offset, at = number + text.count("\n", start, end), offset + size, end
        except json.JSONDecodeError as error:
            self._refuse(first + error.lineno - 1, f"not JSON: {error.msg} at column {error.colno}")
        except RecursionError:
            self._refuse(number, "not a conversation: nested too deeply")
        except ValueError as error:
            self._refuse(number, str(error))

    def _note(self, value: object, number: int, offset: int, length: int) -> None:
        try:
            row = self.parse(value)
        except ValueError as error:
            self._refuse(number, str(error))
        self.lines.append(number)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.keys.append(self.key(row))

    def _unpack(self) -> BinaryIO:
        """The decompressed file, as a temporary file that goes with this process."""
        whole = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open for as long as this object lives
        with files.opened(self.path) as packed:
            shutil.copyfileobj(packed, whole)
        whole.seek(0)
        return whole

    def _bytes(self, offset: int, count: int) -> bytes:
        if self._unpacked is not None:
            return os.pread(self._unpacked.fileno(), count, offset)
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(count)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise UserError(f"{self.path} does not exist; --data_path takes a JSONL file of {self.noun}s") from None
        except files.Unfit as unfit:
            raise UserError(f"{self.path} is {unfit.reason}; {unfit.remedy}") from None
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from None

    def _refuse_bytes(self, number: int, data: bytes, offset: int, error: UnicodeDecodeError) -> NoReturn:
        byte, place = data[error.start], offset + error.start
        self._refuse(number, f"byte {byte:#04x} at offset {place} is not UTF-8; save it as UTF-8")

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise UserError(f"{self.path}:{number}: {reason}") from None


class Part(Sequence[dict]):
    """Some conversations of a file, by their numbers `rows`; `use` names their purpose, such as "validation"."""

    def __init__(self, file: CustomJSON, rows: Sequence[int], use: str):
        self.file, self.name, self.rows, self.use = file, file.name, rows, use

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.file[self.rows[index]]

    def contents(self) -> list[dict]:
        return [{**entry, "part": self.use} for entry in self.file.contents()]


def held_out(keys: Iterable[int]) -> set[int]:
    """The hashes of the conversations held out for validation: at least one and never all, but none of a single one.

    A conversation's own hash decides, so that it stays on its side whatever is added, together with its copies.
    """
    different = set(keys)
    if len(different) < 2:
        return set()
    chosen = {key for key in different if key < HELD_OUT * 2**64} or {min(different)}
    return chosen - {max(different)}


def divided(files: Sequence[CustomJSON], split: Split) -> Mixture:
    """The part of the files' rows that is for training, or a held-out one for validation, which `note` reports."""
    noun = files[0].noun
    chosen = held_out(key for file in files for key in file.keys)
    if not chosen:
        note = f"the only {noun} is also used for validation; pass --val_data_path to validate on others"
        return Mixture(files, note if split == "val" else "")
    use = {"train": "training, but for a held-out share", "val": "validation, a held-out share"}[split]
    parts = [Part(file, [row for row, key in enumerate(file.keys) if (key in chosen) == (split == "val")], use)
             for file in files]  # fmt: skip
    mixture = Mixture(parts)
    if split == "val":
        total = sum(len(file) for file in files)
        mixture.note = (
            f"{len(mixture)} of the {total} {noun}s are held out for validation; --val_data_path names others"
        )
    return mixture


def overlap(trained_on: Sequence[CustomJSON], given: Sequence[CustomJSON]) -> str:
    """A note of how many of the rows for validation are trained on, "" for none."""
    keys = {key for file in trained_on for key in file.keys}
    both = sum(key in keys for file in given for key in file.keys)
    total = sum(len(file) for file in given)
    return f"{both} of the {total} {given[0].noun}s of --val_data_path are also trained on" if both else ""


def _begins_array(line: bytes, column: str) -> bool:
    """Whether a file with this first line holds an array of rows that have such a column, and not one per line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line.lstrip().startswith(b"[") and not re.match(rb'\s*\[+\s*(\[\s*\[|\{\s*"(role|content)")', line)
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) or (isinstance(first, dict) and column in first)


def _elements(text: str) -> Iterator[tuple[object, int, int]]:
    """The values of a JSON array one by one, each with its start and end."""
    decoder = json.JSONDecoder()
    at = _past_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        value, end = decoder.raw_decode(text, at)
        yield value, at, end
        at = _past_space(text, end)
        if text[at : at + 1] == ",":
            at = _past_space(text, at + 1)
            if text[at : at + 1] == "]":
                raise json.JSONDecodeError("Expecting value", text, at)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if text[at + 1 :].strip():
        raise json.JSONDecodeError("Extra data", text, _past_space(text, at + 1))


def _past_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\n", "\r"):
        at += 1
    return at
