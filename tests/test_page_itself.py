"""The page says what its model is: greeting, examples, the card; and the tour of the first visit. In a real browser."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect

from nanochat.checkpoint import manager
from nanochat.engine.engine import Engine
from nanochat.gpt import GPT
from nanochat.paths import checkpoints_dir
from nanochat.report import sections
from nanochat.tokenizer import Tokenizer
from tests.browsing import PHONE, needs_chromium, profiles, serious
from tests.pageside import ask_and_wait, script, settled, words_tokenizer
from tests.scripted import scripted
from tests.served import Live, loaded, served

pytestmark = needs_chromium

KINDS = ("followup", "arithmetic", "spelling_plain", "stories", "refusal", "facts", "numbers", "letters")
ASKED = [{"task": kind, "questions": [f"A question of {kind}?"]} for kind in KINDS]
ASKED[0]["questions"] = ["Where does Mira live?", "And what is her job?"]
TASKS = {kind: {"n": 200, "correct": 150, "interval": [0.69, 0.8]} for kind in KINDS}
TINY = {"tokenizer_hash": "x", "dataset": "tinyworld", "total_batch_size": 4096, "loop_state": {"seconds": 300.0}}


@pytest.fixture(scope="module")
def gpt(script, words_tokenizer: Tokenizer) -> GPT:
    chains, _ = script["sft:words"]
    return scripted(words_tokenizer, [chain[:6] for chain in chains], 512)


@pytest.fixture(scope="module")
def live(gpt: GPT, words_tokenizer: Tokenizer) -> Iterator[Live]:
    """A server of sft:d4, its parent base:d4, and gpt2, of which nothing is recorded."""
    names = ("sft", "d4"), ("base", "d4"), ("base", "gpt2")
    servings = [loaded(Engine(gpt, slots=2), words_tokenizer, *name) for name in names]
    with served(*[[dataclasses.replace(each, step=1400)] for each in servings]) as live:
        yield live


@pytest.fixture(autouse=True)
def recorded(base: Path, gpt: GPT, live: Live) -> None:
    """The record of sft:d4 and base:d4 in this test's base folder."""
    parent = None
    for source in ("base", "sft"):
        folder = checkpoints_dir(source) / "d4"
        more = {"user_config": {}, "parent": parent, "conversations": "littleworld" if parent else None}
        manager.save(folder, 1400, gpt, None, {**TINY, **more})
        model = live.state.models[f"{source}:d4"]
        model.folder, model.meta = folder, manager.read_meta(folder, 1400)
        parent = manager.record_of(model.meta, source, "d4", 1400)
        rows = "".join(json.dumps({"step": step, "loss": 4 / step}) + "\n" for step in range(1, 1401))
        (folder / "metrics.jsonl").write_text(rows, encoding="utf-8")
    sections.write_section("chat_eval_sft", {**(parent or {}), "tasks": TASKS, "samples": [], "examples": ASKED})


@pytest.fixture
def visit(browser: Browser, live: Live) -> Iterator[Callable[..., Page]]:
    with profiles(browser) as open_page:
        yield lambda **options: open_page(f"{live.url}/", **options)


def card(page: Page):
    return page.locator("#about-dialog")


def tour(page: Page):
    return page.get_by_role("dialog", name=re.compile("Talk|tokens|data|again|Compare"))


def test_the_empty_page_says_what_the_model_is_and_what_to_ask(visit, picture) -> None:
    page = visit()
    expect(page.locator("#greeting")).to_have_text("Talk to d4")
    expect(page.locator("#about-model")).to_contain_text("d4 knows the little world: its people, towns and animals")
    expect(page.locator("#about-model")).to_contain_text("trained on 11.5 M tokens in 10 min.")
    expect(page.get_by_label("Your question")).to_have_attribute("placeholder", "For example: Where does Mira live?")
    expect(page.get_by_label("Model", exact=True).locator("option:checked")).to_have_text("d4 · SFT, step 1,400")
    chips = page.locator("#examples .example:visible")
    expect(chips).to_have_count(6)
    expect(chips.nth(4)).to_have_text("refusal · 75 % rightA question of refusal?")
    picture(page, "itself-welcome")
    page.get_by_role("button", name="More examples").click()
    expect(chips).to_have_count(len(KINDS))
    expect(chips.nth(6)).to_be_focused()


def test_an_example_is_followed_by_its_next_question(visit) -> None:
    page = visit()
    following = page.locator("#next-question button")
    page.locator("#examples .example").first.click()
    settled(page)
    expect(following).to_have_text("And what is her job?")
    following.click()
    settled(page)
    expect(page.locator(".message.user .bubble")).to_have_text(["Where does Mira live?", "And what is her job?"])
    expect(following).to_have_count(0)
    page.get_by_role("button", name="New chat").first.click()
    page.locator("#examples .example").first.click()
    settled(page)
    expect(following).to_be_visible()
    ask_and_wait(page, "Something else")  # then that question no longer follows
    expect(following).to_have_count(0)


def test_the_card_shows_the_record_and_compares_with_the_parent(visit, picture) -> None:
    page = visit()
    page.get_by_role("button", name="About this model").click()
    expect(card(page).get_by_role("heading")).to_have_text("d4 · SFT, step 1,400")
    expect(card(page)).to_contain_text("base:d4pretraining, 1,400 steps, 5.73 M tokens, 5 min")
    curve = re.compile(r"^Training loss: \d\.\d\d at step")
    expect(card(page).get_by_role("img")).to_have_attribute("aria-label", curve)
    expect(card(page).get_by_role("row", name="spelling plain")).to_contain_text("75 %")
    picture(page, "itself-card")
    assert serious(page) == []
    page.keyboard.press("Escape")
    expect(card(page)).to_have_count(0)
    expect(page.get_by_role("button", name="About this model")).to_be_focused()
    page.keyboard.press("Enter")
    card(page).get_by_role("button", name="Compare with d4 · base, step 1,400").click()
    expect(page.get_by_label("Model of column 1")).to_have_value("sft:d4")
    expect(page.get_by_label("Model of column 2")).to_have_value("base:d4")


def test_of_a_model_without_a_record_nothing_is_claimed(visit) -> None:
    page = visit()
    page.get_by_label("Model", exact=True).select_option("base:gpt2")
    expect(page.locator("#greeting")).to_have_text("Write with gpt2")
    expect(page.locator("#about-model")).to_have_text("gpt2 continues texts. How it was trained is not recorded.")
    expect(page.locator("#examples .example-task")).to_have_count(0)
    page.get_by_role("button", name="About this model").click()
    expect(card(page)).to_contain_text("is not recorded with its files")
    expect(card(page).locator("svg[role=img], table")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_label("Model", exact=True).select_option("base:d4")  # trained here, but never evaluated
    page.get_by_role("button", name="About this model").click()
    expect(card(page)).to_contain_text("not been evaluated. python -m scripts.base_eval --source base:d4 does that.")


def test_with_one_model_its_name_opens_the_card(live: Live, visit, monkeypatch) -> None:
    monkeypatch.setattr(live.state, "models", {"sft:d4": live.state.models["sft:d4"]})
    page = visit()
    page.get_by_role("button", name="d4 · SFT, step 1,400").click()
    expect(card(page).locator(".command code")).to_have_text(
        "python -m scripts.chat_web --model sft:d4 --model base:d4")  # fmt: skip


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_the_tour_has_five_steps_and_comes_once(visit, picture, look) -> None:
    options = PHONE if look == "phone" else {"color_scheme": look}
    page = visit(first_visit=True, **options)
    steps = ["Talk", "See the tokens", "Change the data", "Train it again", "Compare the two"]
    for number, title in enumerate(steps, 1):
        expect(tour(page)).to_contain_text(f"Step {number} of 5{title}")
        box = tour(page).bounding_box()
        size = page.viewport_size
        assert box and size and min(box["x"], box["y"]) >= 0
        assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"]
        expect(tour(page).get_by_role("button", name=re.compile("Next|Done"))).to_be_focused()
        picture(page, f"itself-tour-{look}-{number}")
        assert number not in (2, 3) or serious(page) == []
        page.keyboard.press("Enter" if number % 2 else "ArrowRight" if number < 5 else "Enter")
    expect(tour(page)).to_have_count(0)
    expect(page.locator("#tour-ring")).to_have_count(0)
    page.reload()
    expect(page.locator("#examples .example").first).to_be_visible()
    expect(tour(page)).to_have_count(0)


def test_the_tour_can_be_skipped_and_taken_again(visit) -> None:
    page = visit(first_visit=True)
    tour(page).get_by_role("button", name="Skip the tour").click()
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.press("Control+/")
    page.get_by_role("button", name="Take the tour").click()
    expect(tour(page)).to_contain_text("Step 1 of 5")
    expect(tour(page).get_by_role("button", name="Next")).to_be_focused()
    page.keyboard.press("Escape")
    expect(tour(page)).to_have_count(0)


def test_a_browser_that_keeps_nothing_gets_no_tour(visit) -> None:
    no_storage = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })"
    page = visit(first_visit=True, before=no_storage)
    expect(page.locator("#examples .example").first).to_be_visible()
    expect(tour(page)).to_have_count(0)
