"""Pickles of other programs, read without running any code in them.

A pickle is a program: it may name any function of any module and call it. Here it may name only what the caller allows;
plain strings, numbers, lists and dicts need no names at all.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.errors import UserError

MOST_TUPLES = 100


class _Refused(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, allowed: Mapping[str, type]):
        super().__init__(file)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> type:
        if f"{module}.{name}" not in self.allowed:
            raise _Refused(f"{module}.{name}")
        return self.allowed[f"{module}.{name}"]

    def persistent_load(self, pid: object) -> object:
        raise _Refused("an object from outside the file")


def load(path: Path, allowed: Mapping[str, type] | None = None) -> Any:
    """The content of a pickle. allowed: names it may use, such as "tiktoken.core.Encoding", and their stand-ins.

    Raises UserError for any other name, which is not even imported, and for a file that cannot be read.
    """
    try:
        content = path.read_bytes()
        _check_plain(content)
        return _Unpickler(io.BytesIO(content), allowed or {}).load()
    except _Refused as refused:
        raise UserError(
            f"{path} was not read: it is a pickle that uses {refused}, which could run any code; "
            "get the file from a source you trust, in a format without code"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # garbled pickles raise many kinds
        raise UserError(f"{path} is damaged or not a pickle: {error}") from None


def _check_plain(content: bytes) -> None:
    """Refuse what no plain pickle has: nested tuples whose hash overflows the stack, a memo with room for billions."""
    tuples = 0
    for code, argument, _ in pickletools.genops(content):
        tuples += code.name.startswith("TUPLE")
        if tuples > MOST_TUPLES or ("PUT" in code.name and int(argument or 0) > len(content)):
            raise pickle.UnpicklingError("it is built to exhaust the reader")


def dump(value: object) -> bytes:
    """A pickle for programs that read nothing else; writing one runs no code."""
    return pickle.dumps(value)
