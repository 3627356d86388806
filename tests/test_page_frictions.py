"""What stops people on the chat page: settings, notes, drafts, addresses, saving, labels and targets for fingers."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import Page, Request, expect

from tests.browsing import PHONE, needs_chromium, serious
from tests.pageside import (
    STORY,
    ask,
    ask_and_wait,
    calm,
    choose_model,
    last_answer,
    script,
    settled,
    site,
    text_of,
    titles,
    visit,
    words_tokenizer,
)

pytestmark = needs_chromium

LAPTOP = {"viewport": {"width": 1024, "height": 700}}


def sent(page: Page, question: str) -> dict:
    """What the page sends to the server when this is asked."""
    with page.expect_request("**/v1/chat/completions") as asked:
        ask_and_wait(page, question)
    return asked.value.post_data_json


def field(page: Page):
    return page.get_by_label("Your question")


def test_settings_out_of_range_are_marked_and_not_sent(visit, picture):
    page = visit()
    choose_model(page, "sft:tool")
    page.get_by_role("button", name="Settings").first.click()
    temperature, length = page.get_by_label("Temperature"), page.get_by_label("Maximum length")
    temperature.fill("5")
    length.fill("7.5")
    page.get_by_label("Top k").press_sequentially("1e")
    page.get_by_label("Stop sequences").fill("\n".join("abcdefghijklmnopq"))
    expect(temperature).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#hint-temperature")).to_have_text("Temperature must be a number from 0 to 2. It is not sent.")
    expect(page.locator("#hint-max_tokens")).to_contain_text("must be a whole number of at least 1")
    expect(page.locator("#hint-top_k")).to_contain_text("must be a whole number of at least 0")
    expect(page.locator("#hint-stop")).to_have_text("Only the first 16 are sent.")
    assert serious(page) == []
    picture(page, "settings-out-of-range")
    body = sent(page, "What is 6 times 7?")
    assert not {"temperature", "max_tokens", "top_k"} & set(body) and len(body["stop"]) == 16
    page.reload()
    page.get_by_role("button", name="Settings").first.click()
    expect(temperature).to_have_attribute("aria-invalid", "true")
    temperature.fill("2")
    length.fill("")
    expect(page.locator("#hint-temperature")).to_have_text("0: always the most likely token")
    expect(page.locator("#sampling [aria-invalid=true]")).to_have_count(0)
    assert sent(page, "And now?")["temperature"] == 2


def test_presets_fill_in_the_fields(visit):
    page = visit()
    choose_model(page, "sft:tool")
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("Maximum length").fill("50")
    page.get_by_role("button", name="Wild").click()
    expect(page.get_by_label("Temperature")).to_have_value("1.4")
    expect(page.get_by_role("button", name="Wild")).to_have_attribute("aria-pressed", "true")
    wild = sent(page, "First")
    assert {name: wild[name] for name in ("temperature", "top_k", "min_p", "max_tokens")} == {
        "temperature": 1.4, "top_k": 0, "min_p": 0.02, "max_tokens": 50,
    }  # fmt: skip
    page.get_by_role("button", name="Precise").click()
    expect(page.get_by_role("button", name="Wild")).to_have_attribute("aria-pressed", "false")
    precise = sent(page, "Second")
    assert precise["temperature"] == 0 and not {"top_k", "min_p"} & set(precise)
    page.get_by_role("button", name="Reset").click()  # the server's own temperature is 0 here
    expect(page.get_by_role("button", name="Precise")).to_have_attribute("aria-pressed", "true")


def test_the_system_prompt_is_a_chip(visit, picture):
    page = visit()
    choose_model(page, "sft:tool")
    chip = page.locator("#system-chip")
    expect(chip).to_be_hidden()
    page.get_by_role("button", name="Settings").first.click()
    prompt = page.get_by_label("System prompt", exact=True)
    prompt.fill("You are a pirate, and a rather talkative one: whatever is asked, the sea comes into it.")
    page.get_by_role("button", name="Close settings").click()
    expect(chip).to_contain_text("System: You are a pirate")
    picture(page, "chip-light")
    chip.get_by_role("button", name="System: You are").click()
    expect(prompt).to_be_focused()
    page.get_by_role("button", name="Remove the system prompt").click()
    expect(chip).to_be_hidden()
    expect(prompt).to_have_value("")
    page.get_by_role("button", name="Undo").click()
    assert sent(page, "What is 6 times 7?")["messages"][0]["content"].startswith("You are a pirate")
    choose_model(page, "base:words")
    expect(chip).to_be_hidden()  # a base model is not sent it


def test_conversations_are_pinned_and_all_deleted(visit, picture):
    page = visit()
    choose_model(page, "sft:tool")
    for question in ("One", "Two", "Three"):
        page.get_by_role("button", name="New chat").first.click()
        ask_and_wait(page, question)
    page.get_by_role("button", name="More about “One”").click()
    page.get_by_role("menuitem", name="Pin").click()
    pinned = page.get_by_role("region", name="Pinned")
    expect(pinned.get_by_role("link")).to_have_text(["One"])
    expect(titles(page)).to_have_text(["One", "Three", "Two"])
    page.reload()
    expect(pinned.get_by_role("link")).to_have_text(["One"])
    page.get_by_role("button", name="Delete all").click()
    dialog = page.get_by_role("dialog", name="Delete 3 conversations, also the pinned ones?")
    picture(page, "delete-all-light")
    page.keyboard.press("Enter")  # whoever answers without reading keeps everything
    expect(dialog).to_have_count(0)
    expect(titles(page)).to_have_count(3)
    page.get_by_role("button", name="Delete all").click()
    dialog.get_by_role("button", name="Delete all").click()
    expect(titles(page)).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_text(["One", "Three", "Two"])
    expect(page.locator(".bubble")).to_have_text("Three")
    page.get_by_role("button", name="More about “One”").click()
    page.get_by_role("menuitem", name="Unpin").click()
    expect(pinned).to_have_count(0)


MARKDOWN = """## You

What is `6` times 7?

## sft:tool

```python
6*7
```

```text
42
```

6 times 7 is 42.

## You

Tell me a story

## sft:story

"""


def saved(page: Page, entry: str, path: Path) -> str:
    page.get_by_role("button", name="Save or copy").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=entry).click()
    download.value.save_as(path)
    return path.read_text(encoding="utf-8")


def test_a_conversation_is_saved_to_be_read_elsewhere(visit, picture, tmp_path):
    page = visit()
    expect(page.get_by_role("button", name="Save or copy")).to_be_hidden()  # nothing to save yet
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is `6` times 7?")
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story")
    markdown = saved(page, "Save as Markdown", tmp_path / "chat.md")
    head, line, text = markdown.split("\n\n", 2)
    assert head == "# What is `6` times 7?" and line.endswith(" · sft:tool · sft:story")
    assert text == MARKDOWN + "".join(STORY) + "\n"

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Save or copy").click()
    page.get_by_role("menuitem", name="Copy").click()
    expect(page.locator(".note")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == markdown
    types = "navigator.clipboard.read().then(items => items[0].types)"
    assert page.evaluate(types) == ["text/plain", "text/html"]

    html = saved(page, "Save as HTML", tmp_path / "chat.html")
    asked: list[Request] = []
    for look in ("light", "dark"):
        copy = visit("about:blank", color_scheme=look, java_script_enabled=False)
        copy.on("request", lambda request: asked.append(request))
        copy.goto((tmp_path / "chat.html").as_uri())
        expect(copy).to_have_title("What is `6` times 7?")
        expect(copy.locator(".tool pre")).to_have_text(["6*7", "42"])
        expect(copy.locator("td").first).to_have_text("November")
        expect(copy.locator("pre .hl-keyword").first).to_have_text("def")
        expect(copy.locator("button, script, link, img")).to_have_count(0)
        picture(copy, f"saved-{look}")
    page.emulate_media(color_scheme="dark")
    for part, look in ((".bubble", "background-color"), ("th", "border-bottom-color"), ("pre", "font-family")):
        there, here = page.locator(part).first, copy.locator(part).first
        expect(here).to_have_css(look, there.evaluate(f"element => getComputedStyle(element)['{look}']"))
    assert len(asked) == 2  # the file itself, twice
    assert "#panel" not in html and len(html) < 40_000


def test_what_a_model_writes_is_harmless_in_a_saved_file(visit, tmp_path):
    page = visit()
    choose_model(page, "sft:hostile")
    ask_and_wait(page, "</title><script>window.hacked = 20</script>")
    saved(page, "Save as HTML", tmp_path / "chat.html")
    copy = visit((tmp_path / "chat.html").as_uri())
    expect(copy.locator(".bubble")).to_have_text("</title><script>window.hacked = 20</script>")
    assert copy.evaluate("window.hacked") is None
    expect(copy.locator("script, img, iframe, body [onload], body [onclick]")).to_have_count(0)


def test_arrow_up_edits_the_last_question(visit):
    page = visit()
    choose_model(page, "sft:tool")
    field(page).press("ArrowUp")  # there is none yet
    ask_and_wait(page, "First")
    ask_and_wait(page, "Second")
    field(page).fill("x")
    field(page).press("ArrowUp")
    editor = page.get_by_role("textbox", name="Edit question")
    expect(editor).to_have_count(0)
    field(page).fill("")
    field(page).press("ArrowUp")
    expect(editor).to_be_focused()
    expect(editor).to_have_value("Second")
    page.keyboard.press("Escape")
    expect(field(page)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.type(" and a half")
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator(".bubble")).to_have_text(["First", "Second and a half"])
    expect(field(page)).to_be_focused()


def test_drafts_survive_a_reload_each_in_its_conversation(visit):
    page = visit()
    choose_model(page, "sft:tool")
    ask_and_wait(page, "First")
    field(page).fill("more about the first,\nin two lines")
    page.get_by_role("button", name="New chat").first.click()
    expect(field(page)).to_have_value("")
    field(page).fill("something new")
    page.reload()
    expect(field(page)).to_have_value("something new")
    titles(page).click()
    expect(field(page)).to_have_value("more about the first,\nin two lines")
    page.reload()
    expect(field(page)).to_have_value("more about the first,\nin two lines")
    assert field(page).evaluate("field => field.clientHeight >= field.scrollHeight")  # it has grown with its text
    field(page).press("Enter")
    settled(page)
    page.reload()
    expect(page.locator(".message")).to_have_count(4)
    expect(field(page)).to_have_value("")
    page.get_by_role("button", name="New chat").first.click()
    expect(field(page)).to_have_value("something new")


def test_an_address_of_no_conversation_is_explained(visit, site):
    page = visit(f"{site.url}#0123456789abcdef01234567")
    expect(page.locator(".note")).to_contain_text("no conversation #0123456789abcdef01234567")
    expect(page.locator("#welcome")).to_be_visible()
    assert page.url == site.url
    page.locator(".skip").focus()  # its target is no conversation
    page.keyboard.press("Enter")
    expect(field(page)).to_be_focused()
    assert page.url == site.url
    expect(page.locator(".note")).to_have_count(1)


def test_a_link_brings_a_question_and_does_not_send_it(visit, site):
    page = visit("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.url}?model=sft:tool&q=What+is+6+times+7%3F")
    expect(field(page)).to_have_value("What is 6 times 7?")
    expect(field(page)).to_be_focused()
    expect(page.get_by_label("Model", exact=True)).to_have_value("sft:tool")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert page.url == site.url  # a reload does not fill it in again
    assert not [url for url in asked if "completions" in url]
    page.goto(f"{site.url}?q=Who+are+you%3F")
    expect(field(page)).to_have_value("Who are you?")
    page.get_by_role("button", name="Undo").click()
    expect(field(page)).to_have_value("What is 6 times 7?")
    field(page).press("Enter")
    settled(page)
    assert "6 times 7 is 42." in text_of(last_answer(page))
    page.goto(f"{site.url}?model=base:words&q=Once+upon+a+time")
    expect(page.get_by_label("Your text")).to_have_value("Once upon a time")


NOTE = "async (undo) => (await import('/static/dialogs.js')).note('Something happened.', undo ? () => {} : null)"


def test_notes_stand_above_the_composer_for_four_seconds(visit, site, picture):
    page = visit("about:blank")
    page.clock.install(time=0)
    page.goto(site.url)
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7?")
    page.clock.pause_at(3_600_000)
    note = page.locator(".note")
    page.evaluate(NOTE, False)
    box, composer = note.bounding_box(), page.locator("#composer").bounding_box()
    assert box and composer and 0 < composer["y"] - box["y"] - box["height"] < 30
    assert abs(box["x"] + box["width"] / 2 - composer["x"] - composer["width"] / 2) < 2
    picture(page, "note-light")
    page.clock.run_for(3900)
    expect(note).to_have_count(1)
    page.clock.run_for(200)
    expect(note).to_have_count(0)
    page.evaluate(NOTE, True)  # something to do takes longer
    page.clock.run_for(7900)
    note.hover()  # and nobody has to hurry
    page.clock.run_for(60_000)
    expect(note).to_have_count(1)
    note.get_by_role("button", name="Undo").focus()
    page.mouse.move(0, 0)
    page.clock.run_for(60_000)
    expect(note).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.clock.run_for(8100)
    expect(note).to_have_count(0)
    assert page.locator("#notes").get_attribute("aria-live") == "polite"


def test_the_headers_buttons_are_labelled_where_there_is_room(visit, picture):
    labels = "header .tools button:visible .label"
    for options, names in (
        ({}, ["Inspector", "Side by side", "Save", "Settings"]),
        (LAPTOP, ["Inspector", "Side by side", "Save", "Settings"]),
        (PHONE, []),
    ):
        page = visit(**options)
        choose_model(page, "sft:tool")
        ask_and_wait(page, "What is 6 times 7?")
        shown = [each for each in page.locator(labels).all() if each.is_visible()]
        assert [each.inner_text() for each in shown] == names
        expect(page.locator("#title")).to_be_visible(visible=not options)  # elsewhere it would be cut short
        for label in shown:
            name = label.locator("..").get_attribute("aria-label") or ""
            assert label.inner_text().lower() in name.lower()
        assert page.locator("header").evaluate("header => header.scrollWidth <= header.clientWidth")
        picture(page, f"header-{page.viewport_size['width']}")
    expect(page.locator("#show-keys")).to_have_text("Shortcuts")


# Tokens are parts of a text, each as wide as what it says; radio buttons and boxes have their label.
TARGETS = """() => [...document.querySelectorAll(
    "button, select, summary, textarea, input:not([type=radio], [type=checkbox]), .pages a, .side-list a," +
    "label:has(input[type=radio], input[type=checkbox])"
)].filter(element => element.checkVisibility({visibilityProperty: true, opacityProperty: false}))
  .map(element => [element.outerHTML.slice(0, 120), element.getBoundingClientRect()])
  .filter(([, {width, height}]) => width < 40 || height < 40)
  .map(([html, {width, height}]) => `${Math.round(width)}x${Math.round(height)} ${html}`)"""


def test_every_target_is_large_enough_for_a_finger(visit, site, picture):
    page = visit(**PHONE)
    assert page.evaluate(TARGETS) == []
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story")
    ask_and_wait(page, "Tell me another one")
    page.get_by_role("button", name="Answer again").last.tap()
    settled(page)
    assert page.evaluate(TARGETS) == []
    page.get_by_role("button", name="Token inspector").tap()
    page.get_by_role("button", name="Edit question").first.tap()
    assert page.evaluate(TARGETS) == []
    picture(page, "targets-phone")
    page.get_by_role("button", name="Cancel").tap()
    page.get_by_role("button", name="Two models side by side").tap()
    page.get_by_role("button", name="Settings").first.tap()
    page.get_by_label("System prompt", exact=True).fill("Be brief.")
    assert page.evaluate(TARGETS) == []
    picture(page, "targets-panel-phone")
    page.get_by_role("button", name="Close settings").tap()
    assert page.evaluate(TARGETS) == []
    page.get_by_role("button", name="Open sidebar").tap()
    page.get_by_role("button", name="More about").first.tap()
    assert page.evaluate(TARGETS) == []
    picture(page, "targets-menu-phone")
    page.get_by_role("menuitem", name="Delete").tap()
    page.get_by_role("button", name="Undo").tap()
    page.get_by_role("button", name="Delete all").tap()
    assert page.evaluate(TARGETS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{site.url}docs")
    page.get_by_role("button", name="Open sidebar").tap()
    assert page.evaluate(TARGETS) == []
