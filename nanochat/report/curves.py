"""Curves as pictures, drawn by matplotlib: SVG, the same bytes for the same numbers, for light and dark pages.

A line of many points is drawn twice, as it was measured, faintly, and smoothed over it.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIZE = (4.6, 2.8)  # inches
LARGEST = 1e100  # what is beyond is as good as infinite
REACH = 1 / 50  # share of a line's points on each side of one that its smoothed copy is the mean of
LONGEST = 16  # letters of a name that stand beside its line
FEW = 20  # points: measured so rarely that one wants to see when
INK = "#4a453e"  # of texts and axes, which become light where the reader's page is dark
STYLE = "<style>svg{color:#4a453e}@media(prefers-color-scheme:dark){svg{color:#c9c3b9}}</style>"
COLOURS = ("#2f80c4", "#d0691f", "#3a9a60", "#a457b8", "#a68600", "#c84a68")  # to be seen on white and on black
LOOKS: dict[Any, object] = {
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.2,
    "grid.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.use": True,
    "path.simplify_threshold": 0.5,  # points that would not be told apart
}


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the order of x, and what they are called where there are several lines."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Picture:
    """Lines in one plot. `what` names them and the unit, as in "loss, nats per token"."""

    name: str
    """of its file, without the ending"""
    what: str
    lines: Sequence[Line]
    x: str = "step"
    smooth: bool = False
    from_zero: bool = False
    """the axis begins at 0 and not at the lowest value"""
    until: float = 0.0
    """x ends here at least, so that pictures of one run have one scale; where it is given x begins at 0"""

    @property
    def text(self) -> str:
        """What the picture says, for those who do not see it."""
        return f"{self.what}: {'; '.join(_told(line, self.x) for line in self.lines)}."

    def svg(self) -> str:
        """The picture as the text of a file."""
        # Imported where it is used: it is slow, and the first time it looks through the machine's fonts.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context({**LOOKS, "svg.hashsalt": self.name}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that its font lacks: the reader's draws them
            figure = Figure(figsize=SIZE)
            axes = figure.add_subplot(title=clean(self.what), xlabel=clean(self.x))
            drawn = []
            for i, line in enumerate(self.lines):
                x, y = np.array(_drawable(line)).reshape(-1, 2).T
                colour, is_long = COLOURS[i % len(COLOURS)], self.smooth and len(x) > 1 / REACH
                if is_long:
                    axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35)
                marker = {"marker": "o", "markersize": 3.5, "clip_on": False} if len(x) <= FEW else {}
                drawn += axes.plot(x, smoothed(y) if is_long else y, color=colour, **marker)
            if self.until > 0:
                axes.set_xlim(0, self.until)
            if self.from_zero:
                axes.set_ylim(bottom=0)
            if len(self.lines) > 1:
                # A name that begins with an underscore would be left out.
                names = [clean(line.name).lstrip("_")[:LONGEST] for line in self.lines]
                figure.legend(drawn, names, loc="outside lower left", ncols=3)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": clean(self.text)})
        text = file.getvalue()
        return text[text.index("<svg") :].replace(INK, "currentColor").replace("<defs>", f"{STYLE}<defs>", 1)


def smoothed(y: np.ndarray) -> np.ndarray:
    """(n,): the mean of each value and as many neighbours before as behind it, fewer towards the ends."""
    i = np.arange(len(y))
    near = np.minimum(round(REACH * len(y)), np.minimum(i, len(y) - 1 - i))
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)


def clean(text: str) -> str:
    """A text without control characters and half characters, which neither XML nor a terminal should get."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def _drawable(line: Line) -> list[tuple[float, float]]:
    """The points of a line that have a place in a picture."""
    return [(x, y) for x, y in line.points if abs(x) < LARGEST and abs(y) < LARGEST]  # NaN is neither


def _told(line: Line, unit: str) -> str:
    """A line in words: where it begins and ends, and its extremes."""
    points = _drawable(line)
    name = f"{line.name} " if line.name else ""
    if not points:
        return f"{name}not measured"
    (first, begin), (last, end) = points[0], points[-1]
    if len(points) == 1:
        return f"{name}{begin:.4g} at {unit} {first:.6g}"
    low, high = (choose(y for _, y in points) for choose in (min, max))
    said = f"{name}from {begin:.4g} at {unit} {first:.6g} to {end:.4g} at {unit} {last:.6g}"
    return f"{said}, lowest {low:.4g}, highest {high:.4g}"
