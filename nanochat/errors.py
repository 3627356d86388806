"""Mistakes that a user can fix end in one sentence; this file makes sure of it for every script."""

import errno
import io
import json
import os
import reprlib
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

REFUSALS = {  # why a file system refuses a write
    errno.ENOSPC: "the disk is full; free some space and start again",
    errno.EDQUOT: "the quota on this disk is used up; free some space and start again",
    errno.EFBIG: "files may not be that large here; raise the limit (ulimit -f unlimited) and start again",
    errno.EROFS: "the file system is mounted read-only; write elsewhere, or mount it read-write",
}
EXIT_PIPE = 141  # 128 + SIGPIPE
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a process that ended on Ctrl-C
LONGEST_SHOWN = 300  # characters of a value in a message
BITS = 63  # of a whole number; torch and numpy have no larger ones


class UserError(Exception):
    """Something the user can fix. Its one sentence is all that is printed; the exit code is 2."""


def sentence_of(error: BaseException) -> str | None:
    """The sentence to print for an error that the user can fix; None for a bug, which gets a traceback."""
    match error:
        case UserError():
            return str(error)
        case PermissionError(filename=str() | bytes() as name):
            return f"{os.fsdecode(name)}: permission denied"
        case OSError(errno=int() as number) if number in REFUSALS:
            return f"{os.fsdecode(error.filename or 'the output')}: {REFUSALS[number]}"
    return None


def shown(value: Any) -> str:
    """A value as shown in a message, cut to a reasonable length."""
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"a number of {value.bit_length()} bits"
    brief = reprlib.Repr()
    brief.maxlevel = 3
    return brief.repr(value)[:LONGEST_SHOWN]


def escape_unshowable() -> None:
    """Print characters that the terminal's encoding does not have as escapes, such as \\u4e2d, from here on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def leave_reason(reason: str) -> None:
    """Leave the reason of a failure where torchrun looks for it, and shows it at the end of its summary."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": reason, "timestamp": int(time.time())}, file)


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` as a program: a UserError becomes one line on stderr and exit code 2.

    So does a write that the file system refuses. On several ranks only the first one prints.
    """
    escape_unshowable()
    message = None
    try:
        code = main()
    except BrokenPipeError:  # the reader of the output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it exits
        code = EXIT_PIPE
    except (UserError, OSError) as error:
        if (sentence := sentence_of(error)) is None:
            raise
        message, code = f"error: {sentence}", 2
        leave_reason(sentence)
    except KeyboardInterrupt:
        message, code = "interrupted", EXIT_INTERRUPTED
    if message and os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr)
    sys.exit(code)
