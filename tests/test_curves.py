"""Pictures of curves: well-formed whatever is drawn, the same bytes each time, and saying what they show."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.report.curves import COLOURS, Line, Picture, clean, smoothed

numbers = st.floats(allow_nan=True, allow_infinity=True)
points = st.lists(st.tuples(numbers, numbers), max_size=60)
names = st.text(max_size=30)
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_smoothing_keeps_straight_lines_ends_and_constants():
    straight = 3.0 * np.arange(200) - 7
    assert smoothed(straight) == pytest.approx(straight)
    rough = (-1.0) ** np.arange(500)
    assert abs(smoothed(rough)[20:-20]).max() < 0.1
    assert smoothed(rough)[0] == rough[0] and smoothed(rough)[-1] == rough[-1]
    assert len(smoothed(np.array([]))) == 0


@settings(max_examples=25, deadline=None)
@given(names, st.lists(st.builds(Line, names, points), max_size=8), names, st.booleans(), st.booleans(), numbers)
def test_a_picture_is_well_formed_whatever_it_shows(what, lines, x, smooth, from_zero, until):
    picture = Picture("name", what, lines, x, smooth, from_zero, until if 0 < until < 1e9 else 0.0)
    svg = picture.svg()
    assert ElementTree.fromstring(svg).find(f".//{SVG}script") is None
    assert svg == picture.svg()


def test_markup_in_names_is_text():
    hostile = '<script>alert("1")</script>\x00\x1b\ud800 & $more$'
    svg = Picture("name", hostile, [Line("a", [(1, 2)]), Line("b", [(1, 3)])], hostile).svg()
    svg.encode("utf-8")
    assert "<script" not in svg and clean(hostile) in texts(svg)


def test_axes_say_what_and_how_much():
    line = Line("", [(float(step), 8.0 / step) for step in range(1, 301)])
    picture = Picture("loss", "training loss, nats per token", [line], smooth=True)
    shown = texts(picture.svg())
    assert {"training loss, nats per token", "step", "100", "200", "300", "2", "4", "6", "8"} <= set(shown)
    assert picture.text == (
        "training loss, nats per token: from 8 at step 1 to 0.02667 at step 300, lowest 0.02667, highest 8."
    )
    title = ElementTree.fromstring(picture.svg()).find(f"{SVG}title")
    assert title is not None and title.text == picture.text


def test_a_long_noisy_line_is_drawn_faintly_and_smoothed():
    noisy = Line("", [(float(step), math.sin(step * step)) for step in range(400)])
    both = Picture("loss", "loss", [noisy], smooth=True).svg()
    assert both.count(f"stroke: {COLOURS[0]}") == 2 and "stroke-opacity: 0.35" in both
    assert Picture("loss", "loss", [noisy]).svg().count(f"stroke: {COLOURS[0]}") == 1


def test_several_lines_are_named_and_told_apart():
    lines = [Line(name, [(0.0, 1.0), (1.0, 2.0)]) for name in ("spelling", "counting", "x" * 40, "_four")]
    svg = Picture("accuracy", "share", lines).svg()
    assert {"spelling", "counting", "x" * 16, "four"} <= set(texts(svg))
    assert all(colour in svg for colour in COLOURS[:4]) and COLOURS[4] not in svg


def test_it_is_readable_on_light_and_dark_pages():
    svg = Picture("loss", "loss", [Line("", [(0.0, 1.0), (1.0, 2.0)])]).svg()
    assert "currentColor" in svg and "prefers-color-scheme:dark" in svg
    assert "#000000" not in svg and "#ffffff" not in svg  # neither a black text nor a white ground


def test_pictures_of_one_run_have_one_scale():
    assert {"0", "600"} <= set(texts(Picture("bpb", "bits per byte", [Line("", [(300.0, 0.28)])], until=600.0).svg()))


def test_nothing_measured_is_an_empty_plot():
    picture = Picture("loss", "loss", [Line("", [(math.nan, 1.0), (1.0, math.inf)])])
    assert picture.text == "loss: not measured." and "loss" in texts(picture.svg())
