"""Print the report card of the stages run so far, and write it to <base>/report as report.md and report.html."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markdown import Markdown

from nanochat.config import parse
from nanochat.errors import run
from nanochat.report import sections as report


@dataclass
class Flags:
    """Print the report card of the stages run so far, and write it to <base>/report as report.md and report.html."""

    price_per_gpu_hour: float | None = None
    """dollars for an hour of one GPU, to say what the run cost; default: $NANOCHAT_PRICE_PER_GPU_HOUR"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    card = report.build(report.price(flags.price_per_gpu_hour))
    if sys.stdout.isatty():
        Console().print(Markdown(card))
    else:
        print(card, end="")
    print(f"\nwritten to {report.folder() / 'report.md'}, with its curves in {report.folder() / 'report.html'}")


if __name__ == "__main__":
    run(main)
