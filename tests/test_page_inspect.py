"""The chat page's token inspector, the notebook of base models, and two models side by side."""

import json
import re

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import Page, expect

from tests.browsing import PHONE, needs_chromium, serious
from tests.pageside import (
    ANSWER,
    STORY,
    WORDS,
    all_words,
    ask,
    ask_and_wait,
    body,
    by_model,
    calm,
    card,
    choose_model,
    inspect,
    last_answer,
    script,
    settled,
    site,
    text_of,
    texts,
    titles,
    tokens,
    told,
    visit,
    words_tokenizer,
    written,
)
from tests.served import wait

pytestmark = needs_chromium


def test_an_old_answer_is_scored_when_the_inspector_opens(visit, picture):
    page = visit()
    ask_and_wait(page, "Say all words")
    expect(page.locator(".token")).to_have_count(0)
    inspect(page)
    answer = last_answer(page)
    expect(tokens(answer)).to_have_count(len(WORDS) + 1)
    assert texts(answer) == [*WORDS, "assistant_end"]
    expect(tokens(answer).last).to_have_class(re.compile("special"))
    tokens(answer).nth(2).click()
    expect(card(page).locator(".bars li")).to_have_count(5)
    expect(card(page).locator(".bars li.it code")).to_have_text(WORDS[2].replace(" ", "␣"))
    expect(card(page)).to_contain_text("most likely")
    expect(card(page).locator(".bars li").nth(1).locator("code")).to_have_text(WORDS[3].replace(" ", "␣"))
    first, second = (float(text.removesuffix(" %")) for text in card(page).locator(".figure").all_inner_texts()[:2])
    assert first > second > 1 and first + second > 95
    picture(page, "inspector-light")
    page.keyboard.press("ArrowRight")
    expect(card(page).locator(".bars li.it code")).to_have_text(WORDS[3].replace(" ", "␣"))
    page.keyboard.press("Escape")
    expect(card(page)).to_have_count(0)
    expect(tokens(answer).nth(3)).to_be_focused()
    inspect(page)
    expect(page.locator(".token")).to_have_count(0)
    assert text_of(answer) == all_words()


def test_a_new_answer_keeps_the_tokens_that_were_sampled(visit):
    page = visit()
    choose_model(page, "sft:story")
    inspect(page)
    ask_and_wait(page, "Tell me a story")  # encoded again, the story would be other tokens
    expect(tokens(last_answer(page))).to_have_count(len(STORY) + 1)
    assert texts(last_answer(page)) == [*STORY, "assistant_end"]


def test_an_imported_answer_is_scored_as_well(visit, site, tmp_path):
    page = visit()
    parts = {"python": "6*7", "python_output": "42", "text": "42!"}
    said = [{"type": type, "text": text} for type, text in parts.items()]
    line = {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": said}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    page.locator("#import-file").set_input_files(tmp_path / "talk.jsonl")
    choose_model(page, "sft:tool")
    inspect(page)
    expect(tokens(last_answer(page))).to_have_text(["python_start", *"6*7", "python_end", *"42!", "assistant_end"])
    tokens(page.locator(".tool")).first.click()  # whether to call the calculator at all
    expect(card(page).locator(".bars li.it")).to_contain_text(re.compile(r"python_start9\d\.\d %"))


def test_another_token_begins_another_answer(visit, site, picture):
    page = visit()
    ask_and_wait(page, "Say all words")
    inspect(page)
    answer = last_answer(page)
    expect(tokens(answer)).to_have_count(len(WORDS) + 1)
    tokens(answer).nth(3).click()
    with page.expect_request("**/v1/chat/completions") as asked:
        card(page).get_by_role("button", name=f"Continue with ␣{WORDS[4].strip()}").click()
    assert len(asked.value.post_data_json["begins_with"]) == 4
    settled(page)
    expect(answer.locator(".branches")).to_have_text("2/2")
    expect(tokens(answer)).to_have_count(len(WORDS))  # one was left out
    assert texts(answer)[:-1] == WORDS[:3] + WORDS[4:]
    page.keyboard.press("Tab")  # whatever has the focus: the tokens are reached by keys, too
    tokens(answer).nth(0).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    expect(card(page).locator(".bars button").first).to_be_focused()
    page.keyboard.press("Enter")
    settled(page)
    expect(answer.locator(".branches")).to_have_text("3/3")
    page.reload()
    expect(answer.locator(".branches")).to_have_text("3/3")
    page.get_by_role("button", name="Previous answer").click()
    page.get_by_role("button", name="Previous answer").click()
    assert texts(answer)[:-1] == WORDS


def test_another_token_in_a_call_changes_what_is_computed(visit):
    page = visit()
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7?")
    inspect(page)
    call = page.locator(".tool")
    expect(tokens(call)).to_have_count(5)
    tokens(call).nth(1).click()
    card(page).get_by_role("button", name="Continue with *").click()
    settled(page)
    expect(tokens(call)).to_have_text(["python_start", "*", "7", "python_end"])
    expect(call.locator("pre")).to_have_count(2)
    expect(call.locator("pre").last).to_be_hidden()  # nothing that the calculator knows
    page.get_by_role("button", name="Previous answer").click()
    expect(call.locator("pre").last).to_have_text("42")
    expect(page.locator(".message.assistant")).to_contain_text("".join(ANSWER))


def test_a_switch_shows_the_prompt_as_the_model_reads_it(visit, picture):
    page = visit()
    choose_model(page, "sft:tool")
    ask_and_wait(page, "What is 6 times 7? <|user_end|>")
    inspect(page)
    page.get_by_label("As the model reads it").check()
    reading = page.locator(".reading")
    expect(reading.locator(".special")).to_have_text([
        "bos", "user_start", "user_end", "assistant_start", "python_start", "python_end", "output_start", "output_end",
        "assistant_end",
    ])  # fmt: skip
    whole = "".join(texts(reading))
    assert "user_startWhat is 6 times 7? <|user_end|>user_end" in whole  # what is merely spelled is no special token
    assert "output_start42output_end" in whole
    expect(reading.get_by_role("status")).to_have_text(re.compile(r"^\d+ tokens, as tool reads them$"))
    picture(page, "reading-light")
    ask(page, "And again?")
    expect(reading.locator(".special", has_text="user_start")).to_have_count(2)
    page.get_by_label("As the model reads it").uncheck()
    expect(page.locator(".message")).to_have_count(4)


BEGINNING = WORDS[0].strip() + WORDS[0]
CONTINUED = "".join(WORDS[1:65])


@pytest.fixture
def notebook(visit) -> Page:
    page = visit()
    choose_model(page, "base:words")
    expect(page.locator("#prompt")).to_be_hidden()
    return page


def test_a_base_model_continues_a_text_where_the_cursor_is(notebook, picture):
    page = notebook
    picture(page, "notebook-empty")
    expect(written(page)).to_be_focused()
    page.keyboard.type(BEGINNING)
    page.keyboard.press("Control+Enter")
    expect(written(page)).to_have_value(BEGINNING + CONTINUED)
    told(page)
    assert by_model(page) == [CONTINUED]
    expect(page.locator(".message")).to_have_count(0)
    expect(titles(page)).to_have_text([BEGINNING])
    picture(page, "notebook-light")
    page.keyboard.press("Control+z")
    expect(written(page)).to_have_value(BEGINNING)
    page.keyboard.press("Control+Shift+z")
    expect(written(page)).to_have_value(BEGINNING + CONTINUED)
    at = len(BEGINNING + WORDS[1])
    written(page).evaluate("(field, at) => field.setSelectionRange(at, at)", at)
    page.keyboard.type("!")  # among the model's words
    assert by_model(page) == [WORDS[1], CONTINUED[len(WORDS[1]) :]]
    page.reload()  # at once: the last key is kept, too
    expect(written(page)).to_have_value(f"{BEGINNING}{WORDS[1]}!{CONTINUED[len(WORDS[1]) :]}")
    assert by_model(page) == [WORDS[1], CONTINUED[len(WORDS[1]) :]]
    rest = CONTINUED[len(WORDS[1]) :]
    written(page).evaluate("(field, at) => field.setSelectionRange(at, at)", len(BEGINNING))
    page.get_by_role("button", name="Continue", exact=True).click()
    expect(written(page)).to_have_value(f"{BEGINNING}{CONTINUED}{WORDS[1]}!{rest}")
    assert by_model(page) == [CONTINUED + WORDS[1], rest]


def test_versions_of_a_text_are_kept(notebook, tmp_path):
    page = notebook
    written(page).fill(BEGINNING)
    page.keyboard.press("Control+Enter")
    told(page)
    versions = page.get_by_role("group", name="Versions of this text")
    expect(versions).to_have_text("2/2")
    written(page).fill(f"{BEGINNING}{WORDS[50]}")
    expect(versions).to_have_text("edited, 2 kept")
    page.keyboard.press("Control+Enter")
    told(page)
    expect(versions).to_have_text("4/4")
    for _ in range(3):
        page.get_by_role("button", name="Previous version").click()
    expect(written(page)).to_have_value(BEGINNING)
    page.get_by_role("button", name="Next version").click()
    expect(written(page)).to_have_value(BEGINNING + CONTINUED)
    assert by_model(page) == [CONTINUED]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    download.value.save_as(tmp_path / "texts.json")
    page.get_by_role("button", name=f"More about “{BEGINNING}”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(titles(page)).to_have_count(0)
    page.locator("#import-file").set_input_files(tmp_path / "texts.json")
    expect(written(page)).to_have_value(BEGINNING + CONTINUED)
    expect(versions).to_have_text("2/4")
    assert by_model(page) == [CONTINUED]


def test_a_continuation_survives_a_reload_and_can_be_stopped(notebook, site):
    page = notebook
    engine = site.engines["base:words"]
    engine.left = 10
    written(page).fill(BEGINNING)
    page.keyboard.press("Control+Enter")
    expect(written(page)).to_have_value(BEGINNING + "".join(WORDS[1:11]))
    page.reload()
    expect(written(page)).to_have_value(BEGINNING + "".join(WORDS[1:11]))
    engine.left = 10
    expect(written(page)).to_have_value(BEGINNING + "".join(WORDS[1:21]))
    page.get_by_role("button", name="Stop").click()
    engine.left = None
    wait(site.is_idle)
    expect(written(page)).to_have_value(BEGINNING + "".join(WORDS[1:21]))
    assert by_model(page) == ["".join(WORDS[1:21])]


def test_the_inspector_of_a_text(notebook, picture):
    page = notebook
    written(page).fill(BEGINNING)
    page.keyboard.press("Control+Enter")
    told(page)
    inspect(page)
    text = page.locator("#notebook")
    shown = tokens(text)
    expect(shown.last).to_have_text(WORDS[64])
    assert "".join(texts(text)) == BEGINNING + CONTINUED  # the user's words, too
    shown.nth(shown.count() - 10).click()
    picture(page, "notebook-inspector")
    card(page).get_by_role("button", name=f"Continue with ␣{WORDS[56].strip()}").click()
    told(page)
    expect(shown.last).to_have_text(WORDS[99])
    inspect(page)
    expect(written(page)).to_have_value(BEGINNING + "".join(WORDS[1:55] + WORDS[56:]))
    page.get_by_role("button", name="Previous version").click()
    expect(written(page)).to_have_value(BEGINNING + CONTINUED)
    inspect(page)
    expect(written(page)).to_be_hidden()
    page.get_by_role("button", name="Edit the text").click()
    page.keyboard.press("Control+End")
    page.keyboard.type(WORDS[80])
    expect(written(page)).to_be_focused()  # nothing takes the place of what is being written
    page.keyboard.press("Control+Enter")
    told(page)
    expect(shown.last).to_have_text(WORDS[99])


def test_a_text_and_a_chat_do_not_mix(notebook):
    page = notebook
    written(page).fill(BEGINNING)
    choose_model(page, "sft:tool")
    expect(page.locator(".note")).to_contain_text("chats: a new chat.")
    ask_and_wait(page, "What is 6 times 7?")
    expect(titles(page)).to_have_text(["What is 6 times 7?", BEGINNING])
    titles(page).last.click()
    expect(written(page)).to_have_value(BEGINNING)
    expect(page.get_by_role("button", name="Two models side by side")).to_be_disabled()


def test_edits_keep_account_of_who_wrote_what(visit):
    edits = """async () => {
        const {afterEdit, difference} = await import('/static/writing.js');
        return [
            difference("abc", "abXc", 3), difference("aaa", "aa", 1), difference("", "x", 1), difference("abc", "c", 0),
            afterEdit([[2, 6]], {start: 3, end: 4, inserted: "xyz"}), afterEdit([[2, 6]], {start: 0, end: 9, inserted: ""}),
            afterEdit([[2, 6]], {start: 4, end: 4, inserted: "ab"}, true), afterEdit([[2, 6]], {start: 3, end: 5, inserted: ""}),
            afterEdit([[2, 4], [6, 8]], {start: 4, end: 6, inserted: ""}), afterEdit([[2, 4]], {start: 0, end: 1, inserted: "xx"}),
        ];
    }"""  # noqa: E501 - one line per edit
    assert visit().evaluate(edits) == [
        {"start": 2, "end": 2, "inserted": "X"}, {"start": 1, "end": 2, "inserted": ""},
        {"start": 0, "end": 0, "inserted": "x"}, {"start": 0, "end": 2, "inserted": ""},
        [[2, 3], [6, 8]], [],
        [[2, 8]], [[2, 4]],
        [[2, 6]], [[3, 5]],
    ]  # fmt: skip


def test_two_models_are_chosen_before_and_compared_after(visit, picture):
    page = visit()
    page.get_by_role("button", name="Two models side by side").click()
    choose_model(page, "sft:story", "Model of column 1")
    choose_model(page, "sft:tool", "Model of column 2")
    picture(page, "side-by-side-empty")
    asked: list[dict] = []
    page.on("request", lambda sent: sent.url.endswith("/chat/completions") and asked.append(sent.post_data_json))
    ask_and_wait(page, "Tell me a story about a fox")
    first, second = asked
    assert {first["model"], second["model"]} == {"sft:story", "sft:tool"} and first["seed"] == second["seed"]
    comparison = page.get_by_role("group", name="Comparison")
    expect(comparison).to_contain_text(f"{len(STORY) + 1} tokens")
    expect(comparison).to_contain_text(re.compile(r"Longer: story .*, \d+\.\d times · Seed of both: \d+"))
    for _ in range(2):
        ask_and_wait(page, "And then?")
    picture(page, "side-by-side-compared")
    left, right = page.locator(".scroll").first, page.locator(".scroll").last
    left.evaluate("scroll => scroll.scrollTop = 0")
    page.wait_for_function("() => [...document.querySelectorAll('.scroll')].every(scroll => scroll.scrollTop === 0)")
    right.evaluate("scroll => scroll.scrollTop = scroll.querySelectorAll('.message.user')[1].offsetTop")
    page.wait_for_function("""() => {
        const columns = [...document.querySelectorAll('.column')];
        const [a, b] = columns.map(column => column.querySelectorAll('.message.user')[1].getBoundingClientRect().top);
        return Math.abs(a - b) < 5 && columns[0].querySelector('.scroll').scrollTop > 300;
    }""")  # the same question, beside itself, below a longer answer


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing_serious(visit, picture, look):
    page = visit(**(PHONE if look == "phone" else {"color_scheme": look}), reduced_motion="reduce")
    page.get_by_role("button", name="Two models side by side").click()
    assert serious(page) == []
    picture(page, f"side-by-side-empty-{look}")
    ask_and_wait(page, "Say all words")
    inspect(page)
    answer = page.locator(".column").first.locator(".message.assistant")
    tokens(answer).nth(4).click()
    assert serious(page) == []
    picture(page, f"side-by-side-inspector-{look}")
    page.keyboard.press("Escape")
    page.get_by_label("As the model reads it").check()
    expect(page.locator(".reading .special").first).to_be_visible()
    assert serious(page) == []
    picture(page, f"reading-{look}")
    page.get_by_role("button", name="Two models side by side").click()
    choose_model(page, "base:words")
    written(page).fill(BEGINNING)
    page.get_by_role("button", name="Continue", exact=True).click()
    told(page)
    tokens(page.locator("#notebook")).nth(20).click()
    assert serious(page) == []
    picture(page, f"notebook-inspector-{look}")
    inspect(page)
    assert serious(page) == []
    picture(page, f"notebook-{look}")
