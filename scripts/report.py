"""Print the report card of the stages run so far, and write it to <base>/report/report.md."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markdown import Markdown

from nanochat import report
from nanochat.config import parse, run


@dataclass
class Flags:
    """Print the report card of the stages run so far, and write it to <base>/report/report.md."""


def main(argv: Sequence[str] | None = None) -> None:
    parse(Flags, argv)
    card = report.build()
    if sys.stdout.isatty():
        Console().print(Markdown(card))
    else:
        print(card, end="")
    print(f"\nwritten to {report.folder() / 'report.md'}")


if __name__ == "__main__":
    run(main)
