"""Print the report card of the stages run so far, and write it to <base>/report: report.md, .html and .png."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nanochat.config import parse
from nanochat.errors import run
from nanochat.report import card, sections


@dataclass
class Flags:
    """Print the report card of the stages run so far, and write it to <base>/report: report.md, .html and .png."""

    EXAMPLE: ClassVar = "--price_per_gpu_hour 3"

    price_per_gpu_hour: float | None = None
    """dollars for an hour of one GPU, to show what the run cost; default: $NANOCHAT_PRICE_PER_GPU_HOUR"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    text = card.build(sections.price(flags.price_per_gpu_hour))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text, end="")
    print(f"\nwritten to {sections.folder() / 'report.md'}; open report.html beside it, and share it with report.png")


if __name__ == "__main__":
    run(main)
