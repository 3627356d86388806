"""Pictures of curves: well-formed whatever is drawn, the same bytes each time, and with a description in words."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.report.curves import COLOURS, draw, in_words, loss_of_all, pictures, smoothed
from nanochat.terminal import printable

SVG = "{http://www.w3.org/2000/svg}"
STEPS = [{"step": step, "loss": 8.0 / step} for step in range(1, 301)]
anything = st.floats() | st.none() | st.text(max_size=3)
keys = st.sampled_from(["step", "loss", "lr", "val_bpb", "seconds"]) | st.text(max_size=9).map("accuracy/{}".format)
rows = st.dictionaries(keys, anything, max_size=5)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_smoothing_keeps_straight_lines_ends_and_constants():
    straight = [3.0 * i - 7 for i in range(200)]
    assert smoothed(straight) == pytest.approx(straight)
    rough = [(-1.0) ** i for i in range(500)]
    assert max(map(abs, smoothed(rough)[20:-20])) < 0.1
    assert smoothed(rough)[0] == rough[0] and smoothed(rough)[-1] == rough[-1]


@settings(max_examples=25, deadline=None)
@given(st.lists(rows, max_size=60))
def test_a_picture_is_well_formed_whatever_was_logged(metrics):
    made = pictures("base_train", metrics)
    assert made == pictures("base_train", metrics)
    whole = loss_of_all({"base_train": metrics, "chat_sft": metrics})
    for picture in [*made, whole] if whole else made:
        assert ElementTree.fromstring(picture.svg).find(f".//{SVG}script") is None


def test_markup_in_names_is_text():
    hostile = '<script>alert("1")</script>\x00\x1b\ud800 & $more$'
    svg = draw(hostile, {"a": [(1, 2)], hostile: [(1, 3)]})
    svg.encode("utf-8")
    assert "<script" not in svg and printable(hostile) in texts(svg)


def test_axes_have_a_name_and_a_scale():
    (picture,) = pictures("base_train", STEPS)
    shown = texts(picture.svg)
    assert {"training loss, nats per token", "step", "0", "100", "200", "300", "2", "4", "6", "8"} <= {*shown}
    assert picture.text == (
        "training loss, nats per token: from 8 at step 1 to 0.02667 at step 300, lowest 0.02667, highest 8."
    )
    title = ElementTree.fromstring(picture.svg).find(f"{SVG}title")
    assert title is not None and title.text == picture.text


def test_a_long_noisy_line_is_drawn_faintly_and_smoothed():
    noisy = {"": [(float(step), math.sin(step * step)) for step in range(400)]}
    both = draw("loss", noisy, smooth=True)
    assert both.count(f"stroke: {COLOURS[0]}") == 2 and "stroke-opacity: 0.35" in both
    assert draw("loss", noisy).count(f"stroke: {COLOURS[0]}") == 1


def test_lines_of_several_tasks_have_names_and_colours():
    lines = {name: [(0.0, 1.0), (1.0, 2.0)] for name in ("spelling", "counting", "x" * 40, "_four")}
    svg = draw("fraction", lines)
    assert {"spelling", "counting", "x" * 16, "four"} <= set(texts(svg))
    assert all(colour in svg for colour in COLOURS[:4]) and COLOURS[4] not in svg


def test_many_tasks_are_drawn_as_their_mean():
    tasks = {f"accuracy/{i}": i / 10 for i in range(8)}
    (picture,) = pictures("chat_sft", [{"step": step, **tasks} for step in (100, 200)])
    assert "mean of 8 tasks from 0.35 at step 100 to 0.35 at step 200" in picture.text


def test_it_is_readable_on_light_and_dark_pages():
    svg = draw("loss", {"": [(0.0, 1.0), (1.0, 2.0)]})
    assert "currentColor" in svg and "prefers-color-scheme:dark" in svg
    assert "#000000" not in svg and "#ffffff" not in svg  # neither a black text nor a white ground


def test_what_was_not_measured_has_no_picture():
    assert pictures("base_train", [{"step": math.nan, "loss": 1.0}, {"step": 1, "loss": "Infinity"}]) == []
    assert pictures("base_train", [{"step": 1, "loss": 1.0}]) == []  # one dot is no curve
    assert loss_of_all({"base_train": STEPS}) is None  # nobody knows how long the steps took
    assert in_words("loss", {"": [(1.0, 2.0)]}) == "loss: 2 at step 1."
