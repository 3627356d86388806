"""The chat page in a real browser against the real server, with models that answer what is written in pageside.py."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import Page, expect

from nanochat.engine.engine import Engine
from nanochat.web import typeset
from nanochat.web.state import Settings
from tests.browsing import PHONE, needs_chromium, serious
from tests.pageside import (
    STORY,
    WORDS,
    Site,
    all_words,
    ask,
    ask_and_wait,
    body,
    calm,
    choose_model,
    last_answer,
    paused_answer,
    script,
    settled,
    site,
    text_of,
    titles,
    visit,
    words_tokenizer,
)
from tests.scripted import scripted
from tests.served import loaded, served, wait

pytestmark = needs_chromium


def test_an_answer_streams_in_and_stays_after_a_reload(visit, site, picture):
    page = visit()
    picture(page, "empty-light")
    ask_and_wait(page, "Say all words")
    assert text_of(last_answer(page)) == all_words()
    assert "101 tokens" in last_answer(page).locator(".foot").inner_text()  # the end is one, too
    assert re.search(r"[\d.]+ tokens/s", last_answer(page).locator(".foot").inner_text())
    expect(page.locator("#announcer")).to_contain_text(WORDS[-1].strip())
    expect(page.locator("#meter-text")).to_have_text(re.compile(r"^1\d\d / 1024$"))
    expect(page.get_by_label("Your question")).to_be_focused()
    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    assert text_of(last_answer(page)) == all_words()
    expect(page).to_have_title("Say all words – nanochat")


def test_stop_frees_the_server_and_the_answer_can_be_continued(visit, site):
    page = visit()
    paused_answer(page, site, 30)
    expect(page.get_by_role("button", name="Send")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    site.engines["sft:words"].left = None
    wait(site.is_idle)
    assert text_of(last_answer(page)) == "".join(WORDS[:30]).strip()
    page.get_by_role("button", name="Continue").click()
    settled(page)
    expect(body(last_answer(page))).to_have_text(all_words())
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_the_stop_button_stops_before_the_first_word_too(visit, site):
    page = visit()
    site.engines["sft:words"].left = 0
    ask(page, "Say all words")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".notice")).to_have_text("Stopped before the first word.")
    site.engines["sft:words"].left = None
    wait(site.is_idle)
    ask_and_wait(page, "And now?")  # the two questions reach the model as one
    assert text_of(last_answer(page)) == all_words()


def test_a_reload_in_the_middle_loses_nothing(visit, site):
    page = visit()
    paused_answer(page, site, 50)
    page.reload()
    expect(body(last_answer(page))).to_have_text("".join(WORDS[:50]).strip())
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    site.engines["sft:words"].left = 30
    expect(body(last_answer(page))).to_have_text("".join(WORDS[:80]).strip())
    page.reload()
    site.engines["sft:words"].left = None
    settled(page)
    assert text_of(last_answer(page)) == all_words()
    expect(page.locator(".message")).to_have_count(2)


def test_a_question_may_be_faster_than_the_list_of_models(visit, site):
    page = visit("about:blank")
    held: list[Callable[[], None]] = []
    page.route("**/v1/models", lambda route: held.append(route.continue_))
    page.goto(site.url)
    ask(page, "Say all words")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    held.pop()()
    settled(page)
    assert text_of(last_answer(page)) == all_words()


def test_an_answer_continues_while_another_conversation_is_shown(visit, site):
    page = visit()
    paused_answer(page, site, 20)
    page.get_by_role("button", name="New chat").first.click()
    expect(page.locator(".message")).to_have_count(0)
    site.engines["sft:words"].left = None
    wait(site.is_idle)
    titles(page).first.click()
    settled(page)
    assert text_of(last_answer(page)) == all_words()


def test_editing_and_regenerating_make_branches(visit):
    page = visit()
    choose_model(page, "sft:tool")
    ask_and_wait(page, "First question")
    ask_and_wait(page, "Second question")
    editor = page.get_by_role("textbox", name="Edit question")
    page.get_by_role("button", name="Edit question").first.click()
    editor.fill("never sent")
    editor.press("Escape")
    expect(page.locator(".bubble")).to_have_text(["First question", "Second question"])
    expect(page.locator(".branches")).to_have_count(0)
    page.get_by_role("button", name="Edit question").first.click()
    expect(editor).to_have_value("First question")
    editor.fill("Another beginning")
    editor.press("Enter")
    settled(page)
    expect(page.locator(".message.user")).to_have_text(re.compile("Another beginning"))
    branches = page.locator(".message.user .branches")
    expect(branches).to_have_text("2/2")
    page.get_by_role("button", name="Previous question").click()
    expect(branches).to_have_text("1/2")
    expect(page.locator(".message.user .bubble")).to_have_text(["First question", "Second question"])
    expect(page.get_by_role("button", name="Next question")).to_be_focused()
    page.get_by_role("button", name="Answer again").last.click()
    settled(page)
    answers = page.locator(".message.assistant .branches")
    expect(answers).to_have_text("2/2")
    page.reload()
    expect(answers).to_have_text("2/2")
    page.get_by_role("button", name="Previous answer").click()
    expect(answers).to_have_text("1/2")
    page.get_by_role("button", name="Next question").click()
    expect(page.locator(".message.user .bubble")).to_have_text(["Another beginning"])


def test_conversations_are_found_renamed_and_deleted(visit, picture):
    page = visit()
    choose_model(page, "sft:tool")
    for question in ("Where do foxes sleep?", "How old is the owl?", "What is 6 times 7?"):
        page.get_by_role("button", name="New chat").first.click()
        ask_and_wait(page, question)
    expect(titles(page)).to_have_text(["What is 6 times 7?", "How old is the owl?", "Where do foxes sleep?"])
    page.keyboard.press("Control+k")
    page.keyboard.type("FOXES sleep")
    expect(titles(page)).to_have_text(["Where do foxes sleep?"])
    expect(page.locator("#found")).to_have_text("1 conversation found")
    page.keyboard.press("Escape")
    expect(titles(page)).to_have_count(3)

    page.get_by_role("button", name="More about “How old is the owl?”").click()
    picture(page, "menu-light")
    page.keyboard.press("Enter")  # the menu's first entry has the focus
    page.get_by_label("New title").fill("The owl")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["What is 6 times 7?", "The owl", "Where do foxes sleep?"])

    page.get_by_role("button", name="More about “The owl”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(titles(page)).to_have_count(2)
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_count(3)
    page.get_by_role("button", name="More about “What is 6 times 7?”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.locator("#welcome")).to_be_visible()  # it was the one that was shown
    expect(titles(page)).to_have_text(["The owl", "Where do foxes sleep?"])
    page.reload()
    expect(titles(page)).to_have_text(["The owl", "Where do foxes sleep?"])


def export(page: Page, click: Callable[[], None], path: Path) -> dict:
    with page.expect_download() as download:
        click()
    download.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_conversations_leave_and_come_back_as_files(visit, tmp_path):
    page = visit()
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7?")
    page.get_by_role("button", name="Answer again").click()
    settled(page)
    page.get_by_role("button", name="New chat").first.click()
    ask_and_wait(page, "Naïve café? 🦊")
    everything = export(page, page.get_by_role("button", name="Export all").click, tmp_path / "all.json")
    assert [each["title"] for each in everything["conversations"]] == ["Naïve café? 🦊", "What is 6 times 7?"]
    assert everything["conversations"][1]["messages"] == [
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "assistant", "content": [
            {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"},
            {"type": "text", "text": "6 times 7 is 42."},
        ]},
    ]  # fmt: skip
    page.get_by_role("button", name="More about “What is 6 times 7?”").click()
    one = export(page, page.get_by_role("menuitem", name="Export").click, tmp_path / "one.json")
    assert len(one["conversations"]) == 1

    other = visit()
    other.locator("#import-file").set_input_files(tmp_path / "all.json")
    expect(other.get_by_text("Imported 2 conversations.")).to_be_visible()
    expect(titles(other)).to_have_text(["Naïve café? 🦊", "What is 6 times 7?"])
    other.locator("#import-file").set_input_files(tmp_path / "one.json")
    expect(other.get_by_text("Imported 0 conversations; 1 already here.")).to_be_visible()
    titles(other).last.click()
    expect(other.locator(".message.assistant .branches")).to_have_text("2/2")
    other.reload()
    expect(other.locator(".message.assistant .branches")).to_have_text("2/2")
    again = export(other, other.get_by_role("button", name="Export all").click, tmp_path / "again.json")
    assert again == everything


REFUSED = {
    "Dear diary": "the file is not JSON",
    '{"conversations": []}': "conversation 1 has no messages",
    '{"messages": [{"role": "pirate", "content": "Arr"}]}': "unknown role",
    '{"format": "nanochat-conversations", "version": 2}': "version 2",
    '{"columns": [{"nodes": [{"id": "a", "parent": "a", "role": "user", "parts": []}]}]}': "do not form a tree",
    '{"columns": [{"nodes": [{"id": "a", "role": "user", "parts": [{"type": "html"}]}]}]}': "unknown part",
    "[]": "Imported 0 conversations",
}


def test_a_file_that_is_something_else_is_refused_with_a_reason(visit, tmp_path):
    page = visit()
    for content, reason in REFUSED.items():
        (tmp_path / "odd.json").write_text(content, encoding="utf-8")
        page.locator("#import-file").set_input_files(tmp_path / "odd.json")
        expect(page.locator(".note").last).to_contain_text(reason)
    expect(titles(page)).to_have_count(0)


def test_training_conversations_can_be_imported(visit, tmp_path):
    page = visit()
    lines = [
        {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]},
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    page.locator("#import-file").set_input_files(tmp_path / "data.jsonl")
    expect(page.get_by_text("Imported 2 conversations.")).to_be_visible()
    titles(page).filter(has_text="Hello!").click()
    expect(page.locator(".message.assistant .body")).to_have_text("Hi.")


# The database opens when the test says, once for each time that the page loads.
HELD = """
    const open = indexedDB.open.bind(indexedDB);
    indexedDB.open = (...names) => {
        const request = {};
        indexedDB.open = open;
        window.letOpen = () => {
            const real = open(...names);
            for (const event of ["onupgradeneeded", "onsuccess", "onerror", "onblocked"])
                real[event] = (happened) => {
                    request.result = real.result;
                    request.transaction = real.transaction;
                    request[event]?.(happened);
                };
        };
        return request;
    };
"""
IS_KEPT = """async () => {
    const done = (request) => new Promise((resolve) => request.onsuccess = () => resolve(request.result));
    const database = await done(indexedDB.open("nanochat", 1));
    const count = await done(database.transaction("conversations").objectStore("conversations").count());
    database.close();
    return count === 1;
}"""


def test_what_is_imported_while_the_database_opens_is_kept(visit, tmp_path):
    page = visit(before=HELD)
    line = {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    page.locator("#import-file").set_input_files(tmp_path / "data.jsonl")
    expect(page.get_by_text("Imported 1 conversation.")).to_be_visible()
    page.evaluate("letOpen()")
    wait(lambda: page.evaluate(IS_KEPT))
    expect(titles(page)).to_have_text(["Hello!"])
    page.reload()
    page.evaluate("letOpen()")
    expect(titles(page)).to_have_text(["Hello!"])


def test_two_models_side_by_side(visit, site, picture):
    page = visit()
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story about a fox")
    page.get_by_role("button", name="Two models side by side").click()
    choose_model(page, "sft:tool", "Model of column 2")
    ask_and_wait(page, "What is 6 times 7?")
    columns = page.locator(".column")
    expect(columns).to_have_count(2)
    for column in (columns.first, columns.last):
        expect(column.locator(".bubble")).to_have_text(["Tell me a story about a fox", "What is 6 times 7?"])
    expect(body(columns.first.locator(".message.assistant").last)).to_contain_text("The end.")
    expect(body(columns.last.locator(".message.assistant").last)).to_contain_text("6 times 7 is 42.")
    picture(page, "side-by-side-light")
    page.reload()
    expect(columns).to_have_count(2)
    columns.last.get_by_role("button", name="Keep only this").click()
    expect(columns).to_have_count(1)
    expect(body(last_answer(page))).to_contain_text("6 times 7 is 42.")
    page.get_by_role("button", name="Undo").click()
    expect(columns).to_have_count(2)


def test_inside_the_model_are_attention_and_the_lens(visit, site, picture):
    page = visit()
    choose_model(page, "sft:story")
    page.get_by_role("button", name="Token inspector").click()
    ask_and_wait(page, "Tell me a story")
    page.get_by_role("button", name="Inside the model").click()
    dialog = page.get_by_role("dialog", name="Inside the model")
    tokens = dialog.locator(".token")
    expect(tokens.last).to_have_text(".")
    expect(dialog.get_by_role("tab", name="Attention")).to_be_focused()
    looks = dialog.locator(".inside-looks")
    expect(looks).to_contain_text(re.compile(r"^\. looks at .+ %, .+ %"))
    heads = dialog.get_by_label("Head")
    config = site.engines["sft:story"].model.config
    assert heads.locator("option").count() == 1 + config.n_head
    heads.select_option("0")
    expect(dialog.get_by_role("status")).to_contain_text("sft:story")
    tokens.nth(3).click()
    expect(tokens.nth(3)).to_be_focused()
    before = looks.inner_text()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(4)).to_be_focused()
    expect(looks).not_to_have_text(before)
    assert tokens.nth(5).evaluate("token => token.style.getPropertyValue('--weight')") == "0"  # a later one
    picture(page, "inside-attention")
    dialog.get_by_role("tab", name="Attention").focus()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("tab", name="Logit lens")).to_be_focused()
    rows = dialog.locator("tbody tr")
    assert (rows.count(), rows.first.locator("td").count()) == (tokens.count(), config.n_layer)
    assert rows.last.locator("td").last.get_attribute("title").count("%") == 3
    assert serious(page) == []
    picture(page, "inside-lens")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_tool_call_is_a_block_with_its_result(visit):
    page = visit()
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7?")
    tool = page.locator(".tool")
    expect(tool.locator("figcaption")).to_have_text("Calculator")
    expect(tool.locator("pre")).to_have_text(["6*7", "42"])
    expect(page.locator(".markdown")).to_have_text("6 times 7 is 42.")
    ask_and_wait(page, "And again?")  # the call goes back to the server as part of the conversation
    expect(page.locator(".tool")).to_have_count(2)


def test_a_base_model_with_the_plain_template_chats(visit, words_tokenizer):
    said = [words_tokenizer.tokens.index(text.encode()) for text in (":", *WORDS[:5])]  # after that of "Assistant:"
    model = loaded(Engine(scripted(words_tokenizer, [said], 256), slots=2), words_tokenizer, "base")
    with served([model], settings=Settings(temperature=0), plain=True) as live:
        page = visit(live.url)
        with page.expect_request("**/v1/chat/completions"):
            ask_and_wait(page, "Say words")
        expect(body(last_answer(page))).to_have_text("".join(WORDS[:5]).strip())
        expect(page.locator("#base-notice")).to_be_hidden()


def test_settings_reach_the_model(visit):
    page = visit()
    page.get_by_role("button", name="System prompt and sampling").click()
    page.get_by_label("Maximum length").fill("7")
    page.get_by_label("System prompt", exact=True).fill("Be brief.")
    with page.expect_request("**/v1/chat/completions") as asked:
        ask_and_wait(page, "Say words")
    sent = asked.value.post_data_json
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["max_tokens"] == 7
    assert text_of(last_answer(page)) == "".join(WORDS[:7]).strip()
    expect(page.locator(".notice")).to_contain_text("The answer is cut off")
    page.get_by_label("Maximum length").fill("")
    page.get_by_label("Stop sequences").fill(WORDS[20])
    page.get_by_role("button", name="Continue").click()
    settled(page)
    expect(body(last_answer(page))).to_have_text("".join(WORDS[:20]).strip())
    page.reload()
    page.get_by_role("button", name="System prompt and sampling").click()
    expect(page.get_by_label("Stop sequences")).to_have_value(WORDS[20])
    expect(page.get_by_label("System prompt", exact=True)).to_have_value("Be brief.")


def test_a_key_is_asked_for_and_kept_in_the_tab(script, words_tokenizer, visit):
    site = Site({"sft:tool": script["sft:tool"]}, words_tokenizer, api_key="open sesame")
    try:
        page = visit(site.url)
        dialog = page.get_by_role("dialog", name="This server requires an API key")
        dialog.get_by_label("API key").fill("open barley")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server did not accept this key.")
        dialog.get_by_label("API key").fill("open sesame")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        ask_and_wait(page, "What is 6 times 7?")
        page.reload()
        expect(page.get_by_label("Model", exact=True)).to_have_value("sft:tool")
        expect(dialog).to_be_hidden()
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")
    finally:
        site.stop()


def test_a_busy_server_names_the_time_to_retry(visit, site):
    engine = site.engines["sft:words"]
    engine.left = 0
    waiting = [visit() for _ in range(engine.slots)]
    for page in waiting:
        ask(page, "Say all words")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
    wait(lambda: engine.waiting + engine.slots - engine.free_slots == engine.slots)
    page = visit()
    ask(page, "Me too")
    error = page.locator(".notice.error")
    expect(error).to_contain_text(re.compile(r"Try again in \d+ s\.|You can try again now\."))
    engine.left = None
    wait(site.is_idle)
    error.get_by_role("button", name="Retry").click()
    settled(page)
    assert text_of(last_answer(page)) == all_words()
    for page in waiting:
        settled(page)
        assert text_of(last_answer(page)) == all_words()


SHOWN = """message => [...message.querySelectorAll('.body *')].map(element => [
    element.localName, [...element.attributes].map(({name, value}) => [name, value])])"""
KNOWN = {
    "p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "hr", "pre", "code", "table", "thead", "tbody", "tr",
    "th", "td", "strong", "em", "del", "a", "br", "div", "button", "span", "svg", "path", "input", *typeset.ELEMENTS,
}  # fmt: skip


def harmless(elements: list) -> None:
    for name, attributes in elements:
        assert name in KNOWN, name
        for attribute, value in attributes:
            assert not attribute.startswith("on") and attribute not in ("src", "style", "srcdoc"), attribute
            if attribute == "href":
                assert re.match(r"https?://|mailto:", value, re.IGNORECASE), value


def test_nothing_that_a_model_writes_is_executed(visit, site):
    page = visit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    choose_model(page, "sft:hostile")
    ask_and_wait(page, "<img src=x onerror='window.hacked = 20'>")
    expect(page.locator(".message.user .bubble")).to_have_text("<img src=x onerror='window.hacked = 20'>")
    shown = text_of(last_answer(page))
    for visible in ("<script>window.hacked = 1</script>", "onerror", "<iframe", "javascript:window.hacked=4"):
        assert visible in shown
    harmless(last_answer(page).evaluate(SHOWN))
    for link in page.locator(".message.assistant .body a").all():
        link.hover()
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    page.reload()  # the title and the history come from storage
    expect(page.locator(".message")).to_have_count(2)
    assert page.evaluate("window.hacked") is None
    assert [url for url in asked if not url.startswith(site.url)] == []


def test_no_text_makes_markdown_dangerous_or_endless(visit):
    page = visit()
    draw = """async texts => {
        const {Markdown} = await import('/static/markdown.js');
        return texts.map(text => {
            const view = new Markdown();
            view.update(text);
            return RESULT;
        });
    }"""
    elements = "(" + SHOWN + ")({querySelectorAll: () => view.element.querySelectorAll('*')})"
    pieces = st.sampled_from([
        *"*_~`[]()<>!#|-+>\\:\n\t 1.aé🦊\"'&=", "  ", "**", "```", "~~~", "](", "https://", "javascript:", "mailto:a@b",
        "1. ", "- ", "> ", "|--|", "<script>", " onerror=x ", "data:text/html,", "\r", "\u2028", "\x00",
    ])  # fmt: skip
    texts = st.lists(st.lists(pieces, max_size=40).map("".join), min_size=20, max_size=20)

    @hypothesis.settings(max_examples=20)
    @hypothesis.given(texts)
    def check(texts: list[str]) -> None:
        for shown in page.evaluate(draw.replace("RESULT", elements), texts):
            harmless(shown)

    check()
    walls = [
        "*a ", "a* ", "_a *b ", "[", "[a](", "](", "`", "`` ` ", "> ", "- ", "  - ", "1. ", "#", "|", "|-\n", "<", "h",
        "**_~~", "![", "\\", "* ", "http://", "a\n\n", "    \n", "```\n", "[a](((", "[x](a ", "[[a](", "[[b]", "http://.",
        "<https://", "|a|b|\n|-|-|\n", "* a\n", "# # ",
    ]  # fmt: skip
    texts = [wall * (20_000 // len(wall)) for wall in walls] + ["[a](b" + " " * 20_000, "[ " + "[b]" * 6_000]
    # Not awaited here, since nothing interrupts a renderer that never ends but this wait's time-out of 30 seconds.
    page.evaluate(f"texts => void ({draw.replace('RESULT', '1')})(texts).then(drawn => window.drawn = drawn)", texts)
    page.wait_for_function(f"() => window.drawn?.length === {len(texts)}")


MARKDOWN = {
    "plain & <b>simple</b>": "<p>plain &amp; &lt;b&gt;simple&lt;/b&gt;</p>",
    "two\nlines": "<p>two<br>lines</p>",
    "**bold** and *italic* and ~~gone~~": "<p><strong>bold</strong> and <em>italic</em> and <del>gone</del></p>",
    "***both***": "<p><em><strong>both</strong></em></p>",
    "2 * 3 * 4 and snake_case_name": "<p>2 * 3 * 4 and snake_case_name</p>",
    "`a * b` and ``x ` y``": "<p><code>a * b</code> and <code>x ` y</code></p>",
    "\\*not\\*": "<p>*not*</p>",
    "# One\n### Three ###": '<h3 class="level-1">One</h3><h5 class="level-3">Three</h5>',
    "- a\n- b\n  - c\n\nd": "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><p>d</p>",
    "3. c\n4. d": '<ol start="3"><li>c</li><li>d</li></ol>',
    "1. a\n\n2. b": "<ol><li><p>a</p></li><li><p>b</p></li></ol>",
    "> quoted\n> more": "<blockquote><p>quoted<br>more</p></blockquote>",
    "a\n\n---\n\nb": "<p>a</p><hr><p>b</p>",
    "in\n1986. Then": "<p>in<br>1986. Then</p>",
    "a **b": "<p>a **b</p>",
    "a\n- b\n\n  c": "<p>a</p><ul><li><p>b</p><p>c</p></li></ul>",
    "| a |\n|--|\n| b \\| c |": (
        '<div class="table" tabindex="0" role="group" aria-label="Table"><table>'
        '<thead><tr><th class="left" scope="col">a</th></tr></thead>'
        '<tbody><tr><td class="left">b | c</td></tr></tbody></table></div>'
    ),
    '[**a** [1]](https://b.example/c_(d) "e") [x](b)': (
        '<p><a href="https://b.example/c_(d)" target="_blank" rel="noopener noreferrer nofollow"><strong>a</strong>'
        " [1]</a> [x](b)</p>"
    ),
    "see https://a.example/b.": (
        '<p>see <a href="https://a.example/b" target="_blank" rel="noopener noreferrer nofollow">https://a.example/b'
        "</a>.</p>"
    ),
}


def test_markdown_becomes_what_it_means(visit):
    page = visit()
    render = """async texts => {
        const {Markdown} = await import('/static/markdown.js');
        return texts.map(text => {
            const view = new Markdown();
            for (let end = 1; end <= text.length; end++) view.update(text.slice(0, end));
            return view.element.innerHTML;
        });
    }"""
    shown = [html.replace(' dir="auto"', "") for html in page.evaluate(render, [*MARKDOWN])]
    assert dict(zip(MARKDOWN, shown, strict=True)) == MARKDOWN


def test_blocks_that_did_not_change_stay_while_a_text_grows(visit):
    kept = """async () => {
        const {Markdown} = await import('/static/markdown.js');
        const view = new Markdown();
        view.update("one\\n\\ntwo\\n\\nthr");
        const before = [...view.element.children];
        view.update("one\\n\\ntwo\\n\\nthree\\n\\nfour");
        return before.map(element => element.isConnected || view.element.contains(element));
    }"""
    assert visit().evaluate(kept) == [True, True, False]


def test_a_story_with_all_of_markdown(visit, picture):
    page = visit()
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story about a fox")
    expect(last_answer(page).locator(".foot")).to_be_in_viewport()  # the page has followed the answer to its end
    picture(page, "story-light")
    answer = last_answer(page)
    assert answer.locator("td").all_inner_texts() == ["November", "12", "no", "December", "3", "a little"]
    expect(answer.locator("ol > li")).to_have_count(3)
    expect(answer.locator("ol ul code")).to_have_text("honey")
    expect(answer.locator("blockquote")).to_contain_text("said the owl")
    expect(answer.get_by_role("link", name="the owl")).to_have_attribute("href", "https://example.org/owl")
    expect(answer.locator(".code-head span")).to_have_text("python")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer.get_by_role("button", name="Copy code").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    code = 'def winter(days):\n    for day in range(days):\n        sleep() if snow(day) else share("berries")'
    assert page.evaluate("navigator.clipboard.readText()") == code
    answer.get_by_role("button", name="Copy answer").click()
    expect(answer.get_by_role("button", name="Copied")).to_have_count(2)
    assert page.evaluate("navigator.clipboard.readText()") == "".join(STORY)


def test_dark_follows_the_system_and_the_switch(visit, picture):
    page = visit(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story about a fox")
    picture(page, "story-dark")
    page.get_by_label("Light", exact=True).check(force=True)
    light = page.evaluate(background)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 700 < sum(map(int, re.findall(r"\d+", light)))
    page.reload()
    assert page.evaluate(background) == light
    page.get_by_label("System", exact=True).check(force=True)
    assert page.evaluate(background) == dark


def test_a_window_of_a_phones_size(visit, picture):
    page = visit(**PHONE)
    picture(page, "empty-phone")
    sidebar = page.locator("#sidebar")
    expect(sidebar).not_to_be_in_viewport()
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story about a fox")
    page.locator(".scroll").evaluate("scroll => scroll.scrollTop = 0")
    picture(page, "story-phone")
    for button in page.locator("header button:visible").all():
        expect(button).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Open sidebar").tap()
    expect(sidebar).to_be_in_viewport()
    picture(page, "sidebar-phone")
    titles(page).first.tap()
    expect(sidebar).not_to_be_in_viewport()
    page.get_by_role("button", name="Open sidebar").tap()
    page.keyboard.press("Escape")
    expect(sidebar).not_to_be_in_viewport()
    page.get_by_role("button", name="Two models side by side").tap()
    ask_and_wait(page, "Again")
    expect(page.locator(".column").first).to_be_in_viewport()
    picture(page, "side-by-side-phone")
    page.locator(".column").last.scroll_into_view_if_needed()
    expect(page.get_by_label("Model of column 2")).to_be_in_viewport(ratio=1)


FORBIDDEN = """
    for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
        Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
    }"""
FULL = 'IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); }'


@pytest.mark.parametrize(
    "storage, note", [(FORBIDDEN, "does not let the page keep anything"), (FULL, "its storage is full")]
)
def test_a_browser_that_keeps_nothing_still_chats(visit, storage, note):
    page = visit(before=storage)
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7?")
    ask_and_wait(page, "And again?")
    expect(page.locator("#notes")).to_contain_text(note)
    expect(page.locator(".note")).to_have_count(1)  # reported once
    expect(page.locator(".message")).to_have_count(4)
    expect(titles(page)).to_have_text(["What is 6 times 7?"])


def test_the_page_links_the_documentation_of_the_api(visit, site: Site) -> None:
    page = visit()
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", name="API", exact=True)).to_be_visible()
    expect(page.locator("pre").filter(has_text=f"curl {site.url}v1/chat/completions").first).to_be_visible()
    page.goto(f"{site.url}api/")  # styled also with a slash at the end
    expect(page.locator(".code").first).to_have_css("border-radius", "14.4px")
    page.get_by_role("link", name="POST /v1/responses", exact=True).click()
    expect(page.get_by_role("heading", name="POST /v1/responses")).to_be_in_viewport()
    assert serious(page) == []
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Chat").click()
    expect(page.get_by_label("Your question")).to_be_visible()


def test_another_tab_shows_what_happened_in_this_one(visit):
    page = visit()
    other = page.context.new_page()
    other.goto(page.url)
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7?")
    expect(titles(other)).to_have_text(["What is 6 times 7?"])
    titles(other).click()
    expect(body(last_answer(other))).to_contain_text("6 times 7 is 42.")
    ask_and_wait(page, "And again?")
    expect(other.locator(".message")).to_have_count(4)


def test_the_keyboard_is_enough(visit):
    page = visit()
    choose_model(page, "sft:tool")
    page.get_by_label("Your question").focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator(".bubble")).to_have_text("one\ntwo", use_inner_text=True)
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#welcome")).to_be_visible()
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_count(1)
    page.reload()
    page.locator("body").press("Shift+Tab")  # whatever has the focus, the skip link is the first thing there is
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing_serious(visit, picture, look):
    page = visit(**(PHONE if look == "phone" else {"color_scheme": look}), reduced_motion="reduce")
    assert serious(page) == []
    choose_model(page, "sft:story")
    ask_and_wait(page, "Tell me a story about a fox")
    assert serious(page) == []
    page.get_by_role("button", name="Token inspector").click()
    page.get_by_role("button", name="Answer again").click()
    settled(page)
    page.locator(".token").nth(4).click()
    assert serious(page) == []
    picture(page, f"axe-inspector-{look}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Inside the model").click()
    expect(page.locator("#inside-dialog .token").last).to_be_visible()
    assert serious(page) == []
    picture(page, f"axe-inside-{look}")
    page.get_by_role("tab", name="Logit lens").click()
    picture(page, f"axe-lens-{look}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Two models side by side").click()
    choose_model(page, "base:words", "Model of column 2")
    page.get_by_role("button", name="System prompt and sampling").click()
    assert serious(page) == []
    picture(page, f"axe-panel-{look}")
    page.keyboard.press("Escape")
    if look == "phone":
        page.get_by_role("button", name="Open sidebar").click()
    page.get_by_role("button", name="More about").first.click()
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Shortcuts").click()
    assert serious(page) == []
