"""A terminal in which a model writes and a person interrupts."""

import contextlib
import io
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what could move the cursor or recolour the terminal


def show(text: str) -> None:
    """Print a piece of a model's text at once; a terminal gets no control characters from a model."""
    print(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if sys.stdout.isatty() else text, end="", flush=True)


def tolerate_odd_text() -> None:
    """A stray byte from stdin must not end a conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def lines_typed(label: str) -> Iterator[str]:
    """What is typed after `label`, line by line, until quit, exit, Ctrl-C or the end of the input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 -- gives input() a history and a cursor
    while True:
        try:
            text = input(f"\n{label}")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not sys.stdin.isatty():
            print(text)  # a terminal has shown it already
        if text.strip().lower() in ("quit", "exit"):
            return
        yield text


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Meanwhile Ctrl-C raises nothing; the function given tells whether it was pressed.

    An exception could leave the Engine in the middle of a step.
    """
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
