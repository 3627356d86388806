"""Training curves as SVG pictures for light and dark pages: the same bytes for the same numbers."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from nanochat.log import short
from nanochat.terminal import printable

# File name, title, key in metrics.jsonl (one that ends in "/" has a line per task), smoothed, y axis from zero.
CURVES = (
    ("loss", "training loss, nats per token", "loss", True, False),
    ("reward", "mean reward of the sampled answers", "reward", True, False),
    ("margin", "margin between chosen and rejected answers, nats", "margin", True, False),
    ("val_margin", "margin of held-out pairs, nats", "val_margin", False, False),
    ("preferred", "fraction of held-out pairs whose chosen answer is preferred", "val_accuracy", False, False),
    ("bpb", "validation, bits per byte", "val_bpb", False, False),
    ("pass", "fraction of correct answers to held-out questions", "pass@1/", False, False),
    ("accuracy", "fraction of correct answers to held-out questions", "accuracy/", False, False),
    ("lr", "learning rate, as a multiple of the peak", "lr", False, True),
    ("speed", "throughput, tokens per second", "tok_per_second", True, True),
)
# The loss of RL is weighted by advantages, so its size means nothing; that of DPO is of pairs, not of tokens.
LOSSLESS = ("chat_rl", "chat_dpo")
MAX_LINES = 6  # per picture; with more tasks, their mean is drawn
LARGEST = 1e100  # larger numbers are not drawn
WINDOW = 1 / 50  # fraction of a line's points on each side of a point that are averaged to smooth it
INK = "#4a453e"  # of text and axes; becomes light where the reader's page is dark
STYLE = "<style>svg{color:#4a453e}@media(prefers-color-scheme:dark){svg{color:#c9c3b9}}</style>"
COLOURS = ("#2f80c4", "#d0691f", "#3a9a60", "#a457b8", "#a68600", "#c84a68")  # visible on white and on black
SIZE = (4.6, 2.8)  # inches
SETTINGS: dict = {
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "nanochat",  # the same names in every drawing
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
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.use": True,
    **dict.fromkeys(("grid.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color"), INK),
}

Lines = Mapping[str, Sequence[tuple[float, float]]]  # name -> points (x, value) in the order of x, mostly the step


@dataclass
class Picture:
    """A file name without .svg, the curves in words for readers who cannot see them, and the SVG text."""

    name: str
    text: str
    svg: str


def pictures(stage: str, metrics: Sequence[Mapping]) -> list[Picture]:
    """The curves of a training stage, from the lines of its metrics.jsonl."""
    made = []
    for name, title, key, smooth, from_zero in CURVES:
        lines = {} if key == "loss" and stage in LOSSLESS else _lines(metrics, key)
        if any(len(points) > 1 for points in lines.values()):  # one dot is no curve; tables have it
            svg = draw(title, lines, smooth, from_zero)
            made.append(Picture(f"{stage}_{name}", in_words(title, lines), svg))
    return made


def loss_of_all(metrics: Mapping[str, Sequence[Mapping]]) -> Picture | None:
    """The training loss of the stages, one after the other over the minutes that their steps took; None without one.

    metrics: by training stage, the lines of its metrics.jsonl.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    minutes = 0.0
    for stage, rows in metrics.items():
        points = []
        for row in rows:
            loss, took = _number(row.get("loss")), _number(row.get("seconds"))
            if took >= 0 and stage not in LOSSLESS:
                minutes += took / 60
                points += [] if math.isnan(loss) else [(round(minutes, 3), loss)]
        if len(points) > 1:
            lines[stage] = points
    if not lines:
        return None
    title, x_name = "training loss, nats per token", "minute of training"
    svg = draw(title, lines, smooth=True, x_name=x_name, size=(9.2, 3.1))
    return Picture("loss", in_words(title, lines, x_name), svg)


def draw(
    title: str, lines: Lines, smooth: bool = False, from_zero: bool = False, x_name: str = "step", log: bool = False,
    size: tuple[float, float] = SIZE,
) -> str:  # fmt: skip
    """Lines in one plot, as the text of an SVG file. A smoothed line covers its own points, which are faint.

    log: whether the x axis, which x_name names, is logarithmic; its ticks are then the points of the first line.
    size: width and height in inches.
    """
    text = printable(in_words(title, lines, x_name))
    with plot(title, x_name, text, size) as (figure, axes, file):
        if log:
            axes.set_xscale("log")
            ticks = [x for x, _ in next(iter(lines.values()))]
            axes.set_xticks(ticks, [short(x) for x in ticks])
            axes.set_xticks([], minor=True)
        drawn = []
        for points, colour in zip(lines.values(), COLOURS, strict=False):
            x, y = [x for x, _ in points], [y for _, y in points]
            if smooth and len(y) > 1 / WINDOW:
                axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.35)
                y = smoothed(y)
            dots = {"marker": "o", "markersize": 3.5, "clip_on": False} if len(y) <= 20 else {}
            drawn += axes.plot(x, y, color=colour, **dots)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:  # matplotlib would leave out a name that begins with an underscore
            names = [printable(line).lstrip("_")[:16] for line in lines]
            figure.legend(drawn, names, loc="outside lower left", ncols=3)
    return themed(file)


def draw_intervals(
    title: str, rows: Mapping[str, tuple[float, float, float]], x_name: str, beside_zero: bool = True
) -> str:
    """A dot with its interval per name, (value, low, high), below each other, as an SVG file.

    beside_zero: they are differences, with a line at zero, and those that are not zero have a colour of their own.
    """
    with plot(title, x_name, printable(intervals_in_words(title, rows))) as (figure, axes, file):
        figure.set_figheight(1.1 + 0.25 * len(rows))
        if beside_zero:
            axes.axvline(0, color=INK, linewidth=0.8)
        for place, (value, low, high) in enumerate(rows.values()):
            colour = COLOURS[1] if beside_zero and not low <= 0 <= high else COLOURS[0]
            axes.plot([low, high], [place, place], color=colour)
            axes.plot([value], [place], color=colour, marker="o", markersize=4)
        axes.set_yticks(range(len(rows)), [printable(name)[:24] for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return themed(file)


def intervals_in_words(title: str, rows: Mapping[str, tuple[float, float, float]]) -> str:
    """What `draw_intervals` shows."""
    parts = (f"{name} {value:.4g} ({low:.4g} to {high:.4g})" for name, (value, low, high) in rows.items())
    return f"{title}: {'; '.join(parts)}."


@contextmanager
def plot(
    title: str, x_name: str, text: str, size: tuple[float, float] = SIZE
) -> Iterator[tuple[Any, Any, io.StringIO]]:
    """A figure with its axes, and the file that it is in after the body, with the text for who cannot see it."""
    # matplotlib is slow to import and looks through the machine's fonts the first time.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that its font lacks: the reader's font draws them
        figure = Figure(figsize=size)
        yield figure, figure.add_subplot(title=printable(title), xlabel=printable(x_name)), file
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": text})


def themed(file: io.StringIO) -> str:
    """The SVG text of a figure, in the colours of the reader's page."""
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor").replace("<defs>", f"{STYLE}<defs>", 1)


def smoothed(y: Sequence[float]) -> list[float]:
    """The mean of each value and as many neighbours before as after it, fewer towards the ends."""
    sums = [0.0, *accumulate(y)]
    near = [min(round(WINDOW * len(y)), i, len(y) - 1 - i) for i in range(len(y))]
    return [(sums[i + n + 1] - sums[i - n]) / (2 * n + 1) for i, n in enumerate(near)]


def in_words(title: str, lines: Lines, x_name: str = "step") -> str:
    """Where each line begins and ends, and its extremes."""
    parts = []
    for name, points in lines.items():
        (first, begin), (last, end) = points[0], points[-1]
        values = [value for _, value in points]
        text = f"{begin:.4g} at {x_name} {first:.6g}"
        if len(points) > 1:
            reached = f"{end:.4g} at {x_name} {last:.6g}"
            text = f"from {text} to {reached}, lowest {min(values):.4g}, highest {max(values):.4g}"
        parts.append(f"{name} {text}".strip())
    return f"{title}: {'; '.join(parts)}."


def _lines(metrics: Sequence[Mapping], key: str) -> dict[str, list[tuple[float, float]]]:
    """The lines to draw for a key, without points that are not numbers."""
    keys = dict.fromkeys(k for row in metrics for k in row if k == key or (key[-1] == "/" and k.startswith(key)))
    lines = {}
    for k in keys:
        points = [(_number(row.get("step")), _number(row[k])) for row in metrics if k in row]
        if points := [point for point in points if not math.isnan(sum(point))]:
            lines[k.removeprefix(key)] = points
    if len(lines) > MAX_LINES:
        known = [dict(points) for points in lines.values()]
        shared = sorted(set(known[0]).intersection(*known[1:]))
        mean = [(step, sum(line[step] for line in known) / len(known)) for step in shared]
        return {f"mean of {len(lines)} tasks": mean} if mean else {}
    return lines


def _number(value: object) -> float:
    """A number, also one written as text in strict JSON; NaN for anything else, or a number too large to draw."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) < LARGEST else math.nan
