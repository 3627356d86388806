"""The report card as one picture of 1200 x 630 pixels, which sites show beside a link to it."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from nanochat.report import facts
from nanochat.report.facts import Score, Sections
from nanochat.report.front import SIZE
from nanochat.terminal import printable

PAPER, INK, MUTED, LINE, ACCENT, BEFORE = "#fffefc", "#23211e", "#655f56", "#e4dfd6", "#2a6656", "#8b857a"
BAR = "#3f8f78"
LEFT, RIGHT, TOP = 64, SIZE[0] - 64, 56  # pixels; y goes down
ROWS, COLUMNS = 8, 2  # of bars
ROW = 32  # pixels from one bar to the next


def picture(found: Sections, price: float | None) -> bytes:
    """The bytes of the PNG: name, sentence, figures and bars, without the parts that cannot be read."""
    from matplotlib import rc_context  # slow to import
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with rc_context({"text.parse_math": False, "font.family": "DejaVu Sans"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks
        figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIZE[0]), ylim=(SIZE[1], 0))
        axes.axis("off")
        for part in (_heading, lambda axes, found: _figures(axes, found, price), _bars):
            try:
                part(axes, found)
            except facts.UNREADABLE:
                continue  # report.md names what could not be read
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def _write(axes: Any, x: float, y: float, text: str, pixels: float, **style: Any) -> None:
    """A text whose baseline is at y; matplotlib counts in points, of which a pixel here is 0.72."""
    axes.text(x, y, printable(text), fontsize=0.72 * pixels, **{"color": INK, "va": "baseline", **style})


def _clipped(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _heading(axes: Any, found: Sections) -> None:
    _write(axes, LEFT, TOP + 10, "nanochat report card", 20, color=ACCENT, weight="bold")
    _write(axes, RIGHT, TOP + 10, facts.day(facts.date(found)), 20, color=MUTED, ha="right")
    _write(axes, LEFT, TOP + 74, _clipped(facts.name(found), 32), 54, weight="bold")
    lines = textwrap.wrap(facts.sentence(found), 104)[:2]
    for i, line in enumerate(lines):
        _write(axes, LEFT, TOP + 116 + 27 * i, line, 19, color=MUTED)


def _figures(axes: Any, found: Sections, price: float | None) -> None:
    known = [figure for figure in facts.figures(found, price) if figure.value]
    for i, figure in enumerate(known):
        x = LEFT + i * (RIGHT - LEFT) / max(len(known), 4)
        _write(axes, x, TOP + 207, figure.value, 36, weight="bold")
        _write(axes, x, TOP + 233, figure.label, 17, color=MUTED)


def _bars(axes: Any, found: Sections) -> None:
    by_task = list(facts.scores(found).items())
    width = (RIGHT - LEFT - 48) / COLUMNS
    for i, (task, own) in enumerate(by_task[: ROWS * COLUMNS]):
        column, row = divmod(i, ROWS)
        _row(axes, LEFT + column * (width + 48), TOP + 284 + ROW * row, width, task, own)
    if (left_out := len(by_task) - ROWS * COLUMNS) > 0:
        _write(axes, RIGHT, SIZE[1] - 20, f"and {left_out} more", 15, color=MUTED, ha="right")


def _row(axes: Any, x: float, y: float, width: float, task: str, own: Sequence[Score]) -> None:
    """A task's name, the bar of its last score over a thin one of the score before, the whisker and the percentage."""
    begin, length, score = x + 150, width - 222, own[-1]
    _write(axes, x, y + 6, _clipped(task, 16), 17)
    axes.barh(y, length, 16, left=begin, color=LINE)
    axes.barh(y, length * score.fraction, 16, left=begin, color=BAR)
    if len(own) > 1:
        axes.plot([begin + length * own[-2].fraction] * 2, [y - 11, y + 11], color=BEFORE, linewidth=2.5)
    if score.interval is not None:
        low, high = (begin + length * bound for bound in score.interval)
        axes.plot([low, high], [y, y], color=INK, linewidth=1.3, marker="|", markersize=5)
    _write(axes, x + width, y + 6, facts.whole(score.fraction), 17, ha="right", weight="bold")
