"""A terminal in which a model writes and a person interrupts."""

import contextlib
import io
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

# Control characters, which could move the cursor or recolour the terminal, or reverse the order of letters; and what
# no file may contain: halves of characters and codes that are none.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """A model's text with a replacement character for each character that a terminal or an XML file must not get."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of equal length as aligned lines; the first `left` columns are texts, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[cell.ljust(width) if n < left else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))] for row in rows]  # fmt: skip
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def show(text: str) -> None:
    """Print a piece of a model's text at once; on a terminal without its control characters."""
    print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)


def tolerate_odd_text() -> None:
    """Replace bytes in stdin that are not UTF-8, which would otherwise end a conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def lines_typed(label: str) -> Iterator[str]:
    """Prompt with `label` and yield each line, until quit, exit, Ctrl-C or the end of the input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # not available on Windows
            import readline  # noqa: F401 -- gives input() a history and a cursor
    while True:
        try:
            text = input(f"\n{label}")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not sys.stdin.isatty():
            print(text)  # a terminal has already shown what was typed
        if text.strip().lower() in ("quit", "exit"):
            return
        yield text


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within this context, Ctrl-C sets a flag instead of raising; the yielded function returns the flag.

    An exception could leave the Engine in the middle of a step.
    """
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
