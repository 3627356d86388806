"""dev/pictures.py: every state on every device, and a moving picture that stays small."""

import io
import re

import pytest

pytest.importorskip("playwright")

from PIL import Image

from dev import pictures
from nanochat.errors import UserError
from nanochat.report import card
from nanochat.report.sections import folder, write_section
from tests.browsing import chromium, needs_chromium


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), colour).save(file, "png")
    return file.getvalue()


class Screen:
    """Looks as the test says."""

    def __init__(self, *colours: str) -> None:
        self.shown = iter(colours)

    def screenshot(self, **options) -> bytes:
        return png(next(self.shown))


def test_a_still_page_lasts_longer_instead_of_being_taken_again(tmp_path, monkeypatch):
    reel = pictures.Film(Screen("red", "red", "blue", "red"))  # type: ignore[arg-type]
    for milliseconds in (100, 200, 300, 400):
        reel.shoot(milliseconds)
    reel.write(tmp_path / "film.webp")
    with Image.open(tmp_path / "film.webp") as film:
        assert getattr(film, "n_frames", 1) == 3 and film.size == (64, 32)
    assert reel.milliseconds == [300, 300, 400]
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    with pytest.raises(UserError, match=r"the moving picture has \d+ bytes; expected at most 10: film fewer scenes"):
        reel.write(tmp_path / "large.webp")
    assert not (tmp_path / "large.webp").exists()


def test_without_a_report_it_says_how_to_write_one(monkeypatch):
    monkeypatch.setattr(pictures, "CHROMIUM", "chromium")
    with pytest.raises(UserError, match=r"report\.html does not exist; write it with python -m scripts\.report"):
        pictures.main([])


@needs_chromium
def test_the_card_is_pictured_on_every_device_by_day_and_by_night(tmp_path):
    task = {"n": 2, "correct": 1, "interval": [0.1, 0.9], "asks": "Sums."}
    talk = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    write_section("chat_eval_sft", {"tasks": {"sums": task}, "samples": [{"task": "sums", "messages": talk}]})
    card.build()
    states = pictures.card_states(folder() / "report.html")
    with chromium() as browser:
        pictures.take(browser, {name: states[name] for name in ("card-talk", "card-print")}, tmp_path)
    sizes = {}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.stem] = picture.size
    assert len(sizes) == 12
    assert sizes["card-talk-laptop-dark"] == (1024, 700) and sizes["card-print-phone-light"] == (780, 1688)
    with Image.open(tmp_path / "card-print-desktop-dark.png") as paper:
        assert re.match(r"\(25[0-9], 25[0-9], 25[0-9]", str(paper.getpixel((5, 400))))  # no dark paper
