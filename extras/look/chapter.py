"""A chapter of the report, and the pictures and texts that all of them use."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nanochat.report import curves
from nanochat.report.curves import COLOURS, Picture
from nanochat.terminal import printable
from nanochat.tokenizer import Tokenizer

MOST_NAMES = 48  # names along an axis; with more, every second, third ... is written


@dataclass
class Chapter:
    """What one question found: Markdown, the pictures in it, and the numbers for JSON."""

    title: str
    text: str
    pictures: list[Picture] = field(default_factory=list)
    data: dict = field(default_factory=dict)


def visible(tokenizer: Tokenizer, id: int, longest: int = 16) -> str:
    """A token in a table or along an axis: white space as signs, and no control characters."""
    text = tokenizer.decode([id]).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    text = printable(text) or "(nothing)"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def rounded(values: Tensor, digits: int = 4) -> list:
    """A tensor as nested lists for JSON."""
    return values.double().round(decimals=digits).tolist()


def heat(
    name: str, title: str, values: Tensor, rows: Sequence[str], columns: Sequence[str], x_name: str, y_name: str,
    most: float | None = None,
) -> Picture:  # fmt: skip
    """A picture of values (rows, columns), 0 transparent, the first row on top; negative values in another colour.

    most: the value at full colour; default: the largest.
    """
    from matplotlib.colors import LinearSegmentedColormap

    numbers = values.float().cpu()
    most = float(numbers.abs().max()) if most is None else most
    most = most or 1.0
    top = int(numbers.argmax())
    largest = f"{y_name} {rows[top // len(columns)]}, {x_name} {columns[top % len(columns)]}"
    words = f"{title}: the largest of {len(rows)} × {len(columns)} values is {float(numbers.max()):.4g}, at {largest}."
    signed = bool((numbers < 0).any())
    shades = [(COLOURS[0] + "00"), COLOURS[0]]
    colours = [COLOURS[1], COLOURS[1] + "00", *shades] if signed else shades
    with curves.plot(title, x_name, printable(words)) as (figure, axes, file):
        figure.set_figheight(min(9.0, 1.3 + max(0.16 * len(rows), 1.2)))
        axes.set_ylabel(printable(y_name))
        axes.grid(False)
        image = axes.imshow(
            numbers.numpy(), cmap=LinearSegmentedColormap.from_list("heat", colours), vmin=-most if signed else 0,
            vmax=most, aspect="auto", interpolation="none",
        )  # fmt: skip
        for set_ticks, names in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
            every = -(-len(names) // MOST_NAMES)
            shown = [printable(each) for each in names[::every]]
            is_long = set_ticks == axes.set_xticks and max(map(len, shown)) > 2
            set_ticks(range(0, len(names), every), shown, fontsize=6.5, **({"rotation": 90} if is_long else {}))
        figure.colorbar(image, ax=axes, shrink=0.8)
    return Picture(name, words, curves.themed(file))


def shown(pictures: Sequence[Picture]) -> str:
    """Markdown that shows the pictures."""
    from nanochat.report.card import escaped

    return "\n".join(f"![{escaped(picture.text)}]({picture.name}.svg)" for picture in pictures)
