"""Conversations of the user's own, from a JSONL file."""

import codecs
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nanochat import chat
from nanochat.config import UserError


class CustomJSON(Sequence[dict]):
    """One conversation a line, {"messages": [...]} or the bare list of messages; blank lines are skipped.

    Opening the file checks every line of it, and keeps only where each begins.
    Raises UserError, naming file and line, for the first line that is not a conversation to learn from.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.name
        self.lines = array("Q")  # the number and byte offset of each conversation's line
        self.offsets = array("Q")
        try:
            with open(self.path, "rb") as file:
                offset = 0
                for number, line in enumerate(file, 1):
                    if number == 1 and line.startswith(codecs.BOM_UTF8):  # Windows editors put it there
                        offset, line = len(codecs.BOM_UTF8), line[len(codecs.BOM_UTF8) :]
                    if line.strip():
                        self._conversation(line, number, offset)
                        self.lines.append(number)
                        self.offsets.append(offset)
                    offset += len(line)
        except FileNotFoundError:
            raise UserError(f"there is no file {self.path}; --data_path takes a JSONL file of conversations") from None
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        if not self.lines:
            raise UserError(f"{self.path} holds no conversations; expected lines such as " + EXAMPLE)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        with open(self.path, "rb") as file:
            file.seek(self.offsets[index])
            return self._conversation(file.readline(), self.lines[index], self.offsets[index])

    def _conversation(self, line: bytes, number: int, offset: int) -> dict:
        try:
            value = json.loads(line.rstrip().decode("utf-8"))
            conversation = {"messages": value} if isinstance(value, list) else value
            chat.check(conversation)
            return {"messages": conversation["messages"]}
        except UnicodeDecodeError as error:
            byte = line[error.start]
            self._refuse(number, f"byte {byte:#04x} at offset {offset + error.start} is not UTF-8; save it as UTF-8")
        except json.JSONDecodeError as error:
            self._refuse(number, f"not JSON: {error.msg} at column {error.colno}; expected one conversation a line")
        except RecursionError:
            self._refuse(number, "not a conversation: nested too deeply")
        except ValueError as error:
            self._refuse(number, str(error))

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise UserError(f"{self.path}:{number}: {reason}") from None


EXAMPLE = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'
