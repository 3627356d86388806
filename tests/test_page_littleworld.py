"""The first hour on the chat page with a model that was trained: chat_web as a process, and what a newcomer does there.

What such a model says is its own affair; that the page shows it faithfully is tested with scripted models.
"""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect

from tests.browsing import needs_chromium, profiles, serious
from tests.pageside import (
    ask,
    ask_and_wait,
    body,
    by_model,
    card,
    choose_model,
    figures,
    inspect,
    last_answer,
    settled,
    titles,
    tokens,
    told,
    written,
)
from tests.served import started

pytestmark = needs_chromium

CONTEXT = 256
DRAWN = (
    "$\\frac{a}{b}$\n\n```python\ndef f(x):\n    return x\n```\n\n"
    "| town | people |\n|---|--:|\n| Dunmere | 7 |\n\n- [x] done"
)


class Running(NamedTuple):
    process: Popen
    url: str


@pytest.fixture(scope="module")
def server(littleworld_models: Path) -> Iterator[Running]:
    models = ["--model=sft", "--model=base"]
    with started("chat_web", *models, NANOCHAT_BASE_DIR=str(littleworld_models)) as (process, url, _):
        yield Running(process, url)


@pytest.fixture
def visit(browser: Browser, server: Running) -> Iterator[Callable[..., Page]]:
    with profiles(browser) as open_page:
        yield lambda query="", **options: open_page(f"{server.url}/{query}", **options)


def test_a_first_visit(visit, littleworld_models, picture) -> None:
    page = visit(first_visit=True, color_scheme="dark")
    tour = page.get_by_role("dialog", name=re.compile("Talk|tokens|data|again|Compare"))
    for number in range(1, 6):
        expect(tour).to_contain_text(f"Step {number} of 5")
        page.keyboard.press("Enter")
    expect(tour).to_have_count(0)
    expect(page.locator("#about-model")).to_contain_text("d2 knows the little world: its people, towns and animals")
    chosen = page.get_by_label("Model", exact=True).locator("option:checked")
    expect(chosen).to_have_text(re.compile(r"^d2 · SFT, step"))
    chips = page.locator("#examples .example:visible")
    report = json.loads((littleworld_models / "report" / "chat_eval_sft.json").read_text(encoding="utf-8"))
    expect(chips).to_have_count(min(6, len(report["examples"]) or 3))  # three that anybody may ask
    assert serious(page) == []
    page.get_by_role("button", name="About this model").click()
    about = page.locator("#about-dialog")
    expect(about).to_contain_text("base:d2pretraining, 60 steps")
    expect(about.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"^Training loss: \d\.\d\d at step"))
    expect(about.get_by_role("row", name="arithmetic")).to_contain_text("%")
    assert serious(page) == []
    picture(page, "littleworld-card")
    page.keyboard.press("Escape")
    chips.first.click()
    settled(page)
    expect(page.locator(".message")).to_have_count(2)
    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    expect(tour).to_have_count(0)


def test_a_conversation_outgrows_the_context_and_is_looked_into(visit, picture) -> None:
    page = visit("?q=Where+does+Mira+live%3F")
    field = page.get_by_label("Your question")
    expect(field).to_have_value("Where does Mira live?")  # filled in when the models are known
    field.press("Enter")
    settled(page)
    turns = 1
    while page.locator(".horizon").count() == 0:
        ask_and_wait(page, f"What is {turns} + 30, and who lives in Dunmere?")
        used, limit = figures(page)
        assert 0 < used <= limit == CONTEXT
        turns += 1
        assert turns < 20
    expect(page.locator(".notice.error")).to_have_count(0)
    inspect(page)
    answer = last_answer(page)
    tokens(answer).first.click()
    expect(card(page).locator(".bars li").nth(4)).to_be_visible()  # a sixth is the token itself, if it was unlikely
    assert serious(page) == []
    picture(page, "littleworld-inspector")
    with page.expect_request("**/v1/chat/completions") as asked:
        card(page).get_by_role("button", name="Continue with").first.click()
    assert len(asked.value.post_data_json["begins_with"]) == 1
    settled(page)
    expect(answer.locator(".branches")).to_have_text("2/2")
    page.get_by_label("As the model reads it").check()
    expect(page.locator(".reading .special").first).to_have_text("bos")
    page.get_by_label("As the model reads it").uncheck()
    page.get_by_label("Your question").press("ArrowUp")
    editor = page.get_by_role("textbox", name="Edit question")
    editor.fill("Who are you?")
    editor.press("Enter")
    settled(page)
    page.get_by_label("Your question").fill("not yet")
    page.reload()
    expect(page.get_by_label("Your question")).to_have_value("not yet")
    expect(page.locator(".message.user .branches").last).to_have_text("2/2")


def test_the_base_model_continues_a_text(visit, picture) -> None:
    page = visit("?model=base:d2", color_scheme="dark")
    written(page).fill("Mira lives in")
    page.keyboard.press("Control+Enter")
    told(page)
    assert written(page).input_value() == "Mira lives in" + "".join(by_model(page))
    whole = written(page).input_value()
    inspect(page)
    expect(tokens(page.locator("#notebook")).first).to_be_visible()
    assert serious(page) == []
    picture(page, "littleworld-notebook")
    inspect(page)
    page.get_by_role("button", name="Undo").click()
    expect(written(page)).to_have_value("Mira lives in")
    page.get_by_role("button", name="Next version").click()
    expect(written(page)).to_have_value(whole)
    page.reload()
    expect(written(page)).to_have_value(whole)


def test_both_models_answer_below_what_was_brought_along(visit, picture, tmp_path) -> None:
    page = visit()
    line = {"messages": [{"role": "user", "content": "Draw"}, {"role": "assistant", "content": DRAWN}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    page.locator("#import-file").set_input_files(tmp_path / "talk.jsonl")
    drawn = last_answer(page)
    expect(drawn.locator("math mfrac")).to_have_count(1)
    expect(drawn.locator("pre .hl-keyword").first).to_have_text(re.compile("def"))
    expect(drawn.locator("td").first).to_have_text("Dunmere")
    expect(drawn.get_by_role("checkbox")).to_be_checked()
    page.get_by_role("button", name="Two models side by side").click()
    choose_model(page, "base:d2", "Model of column 2")
    asked: list[dict] = []
    page.on("request", lambda sent: sent.url.endswith("/completions") and asked.append(sent.post_data_json))
    ask_and_wait(page, "Where does Mira live?")
    assert {each["model"] for each in asked} == {"sft:d2", "base:d2"} and len({each["seed"] for each in asked}) == 1
    expect(page.get_by_role("group", name="Comparison")).to_contain_text(f"Seed of both: {asked[0]['seed']}")
    assert serious(page) == []
    picture(page, "littleworld-side-by-side")
    expect(titles(page)).to_have_text(["Draw"])


def test_a_server_that_stands_still_is_noticed_and_waited_for(visit, server, picture) -> None:
    """It refuses nothing, so that only its silence shows."""
    page = visit()
    expect(page.locator("#examples .example").first).to_be_visible()
    banner = page.locator("#down-notice")
    server.process.send_signal(signal.SIGSTOP)
    try:
        expect(banner).to_contain_text("The server does not answer.")
        ask(page, "Who are you?")
        expect(last_answer(page).locator(".notice")).to_contain_text("Waiting for the server.")
        picture(page, "littleworld-silent")
    finally:
        server.process.send_signal(signal.SIGCONT)
    settled(page)
    expect(banner).to_be_hidden()
    expect(page.locator(".notice")).to_have_count(0)
    expect(body(last_answer(page))).to_be_visible()
