"""A terminal in which a model writes and a person interrupts."""

import contextlib
import io
import os
import re
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence

# Control characters, which could move the cursor or recolour the terminal, or reverse the order of letters; and what
# no file may contain: halves of characters and codes that are none.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


BOLD, DIM = "1", "2"


def coloured() -> bool:
    """Whether stdout is a terminal that shows colours and whose user wants them (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    """The text in bold or dim letters, where stdout shows them."""
    return f"\033[{style}m{text}\033[0m" if coloured() else text


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


class Wrapped:
    """Shows text as it comes, and breaks its lines between words where the terminal ends.

    A word is held back until the next space, or until it fills a line. What is not a terminal gets the text as it is.
    """

    def __init__(self, column: int = 0) -> None:
        """column: where the cursor stands, as behind a label."""
        self.column = column
        self._spaces = ""  # before the word that is held back
        self._word = ""

    def add(self, text: str) -> None:
        if not sys.stdout.isatty():
            print(text, end="", flush=True)
            return
        width = shutil.get_terminal_size().columns
        for letter in text.replace("\r\n", "\n").replace("\t", "    "):
            if letter == "\n":
                self._put(width)
                self._spaces = ""
                print()
                self.column = 0
            elif letter == " ":
                if self._word:
                    self._put(width)
                self._spaces += letter
            else:
                wide = columns_of(letter) == 2  # languages that are written without spaces may break anywhere
                if self._word and (wide or columns_of(self._word + letter) > width):
                    self._put(width)
                self._word += printable(letter)
                if wide:
                    self._put(width)
        sys.stdout.flush()

    def end(self) -> None:
        """Show what is held back. To be called before anything else is printed."""
        if self._word:
            self._put(shutil.get_terminal_size().columns)
        print(end="", flush=True)

    def style(self, code: str) -> None:
        """Change the style of what follows, as `styled` does for a text; "0" ends it."""
        if coloured():
            self.end()
            print(f"\033[{code}m", end="")

    def _put(self, width: int) -> None:
        needed = len(self._spaces) + columns_of(self._word)
        if self.column and self.column + needed > width:
            print()
            self.column, self._spaces = 0, ""
            needed = columns_of(self._word)
        print(self._spaces + self._word, end="")
        self.column += needed
        self._spaces = self._word = ""


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


@contextlib.contextmanager
def keys_unseen() -> Iterator[None]:
    """Within this context, what is typed ahead is not shown among what is printed, but stands at the next prompt."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


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
        if text.strip().lower() in ("quit", "exit", "/quit", "/exit"):
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
