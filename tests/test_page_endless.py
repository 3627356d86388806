"""Conversations on the page that outgrow the context, and servers that go away: in a real browser, on a real server."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from nanochat import chat
from nanochat.tokenizer import Tokenizer
from tests.browsing import PHONE, needs_chromium, serious
from tests.pageside import (
    ANSWER,
    WORDS,
    Site,
    all_words,
    ask,
    ask_and_wait,
    body,
    calm,
    chain,
    choose_model,
    figures,
    last_answer,
    paused_answer,
    settled,
    site,
    text_of,
    visit,
    words_tokenizer,
)
from tests.served import wait

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def script(words_tokenizer: Tokenizer) -> dict[str, tuple[list[list[int]], int]]:
    start = words_tokenizer.special(chat.ASSISTANT_START)
    words = [chain(words_tokenizer, start, WORDS)]
    return {
        "sft:brief": ([chain(words_tokenizer, start, ANSWER)], 256),
        "sft:words": (words, 1024),
        "sft:small": (words, 64),
    }


def below_the_line(page: Page) -> list[str]:
    """The texts of the messages that the model has seen."""
    return page.locator(".horizon ~ .message :is(.bubble, .markdown)").all_inner_texts()


def test_thirty_turns_on_a_context_of_256(visit, words_tokenizer, picture):
    page = visit()
    answer = "".join(ANSWER)
    messages: list[dict] = []
    for turn in range(30):
        question = f"Question {turn}: what is 6 times 7?"
        messages.append({"role": "user", "content": question})
        kept, _ = chat.newest(messages, lambda each: chat.prompt(words_tokenizer, each), chat.prompt_room(256, 512))
        messages.append({"role": "assistant", "content": answer})
        ask_and_wait(page, question)
        assert text_of(last_answer(page)) == answer
        used, limit = figures(page)
        assert 0 < used <= limit == 256
        expect(page.locator(".horizon")).to_have_count(int(len(kept) + 1 < len(messages)))
    expect(page.locator(".notice")).to_have_count(0)
    seen = below_the_line(page)
    assert seen == [message["content"] for message in kept] + [answer]
    assert 2 < len(seen) < 10
    page.reload()
    expect(page.locator(".horizon")).to_have_text("The model no longer sees what is above")
    assert below_the_line(page) == seen
    page.locator(".horizon").scroll_into_view_if_needed()
    picture(page, "endless-light")


def test_continue_never_ends_in_a_dead_end(visit):
    page = visit()
    choose_model(page, "sft:small")
    ask_and_wait(page, "Say all words")
    again = page.get_by_role("button", name="Continue")
    pressed = 0
    while text_of(last_answer(page)) != all_words():
        length = len(text_of(last_answer(page)))
        assert all_words().startswith(text_of(last_answer(page)))
        again.click()
        settled(page)
        assert len(text_of(last_answer(page))) > length
        assert figures(page)[0] <= 64
        pressed += 1
    assert pressed >= 2
    expect(again).to_have_count(0)
    expect(page.locator(".notice.error")).to_have_count(0)
    expect(page.locator(".notice")).to_contain_text("no longer read the beginning of this answer")


def test_a_message_that_is_too_long_is_refused_while_it_is_typed(visit, picture):
    page = visit()
    choose_model(page, "sft:small")
    field = page.get_by_label("Your question")
    sent: list[str] = []
    page.on("request", lambda request: "/v1/" in request.url and sent.append(request.url))
    for turn in range(3):  # what is above does not count
        ask_and_wait(page, f"Say words {turn}")
    sent.clear()
    field.fill("x" * 80)
    field.press("Enter")  # before the server has counted
    note = page.locator("#too-long")
    expect(note).to_have_text(re.compile(r"Too long: this comes to \d\d tokens, and the model reads at most 64\."))
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    field.press("Enter")
    expect(field).to_have_value("x" * 80)
    assert figures(page) == (64, 64) and sent == []
    picture(page, "too-long-light")
    assert serious(page) == []
    choose_model(page, "sft:words")
    expect(note).to_be_hidden()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    choose_model(page, "sft:small")
    expect(note).to_be_visible()
    field.fill("x" * 30)
    field.press("Enter")
    expect(page.locator(".bubble")).to_have_count(4)
    settled(page)
    page.get_by_role("button", name="Edit question").last.click()
    editor = page.get_by_role("textbox", name="Edit question")
    editor.fill("y" * 80)
    expect(page.locator(".editor .too-long")).to_contain_text("Too long")
    editor.press("Enter")
    expect(page.locator(".editor").get_by_role("button", name="Send")).to_be_disabled()
    editor.fill("y" * 10)
    expect(page.locator(".editor .too-long")).to_be_hidden()
    editor.press("Enter")
    settled(page)
    expect(page.locator(".bubble").last).to_have_text("y" * 10)


def test_a_long_text_that_fits_is_sent_by_one_enter(visit):
    page = visit()
    choose_model(page, "sft:words")
    ask_and_wait(page, "z" * 995)  # its bytes might be too many tokens
    assert text_of(last_answer(page)).startswith(WORDS[0].strip())


@pytest.fixture
def weak(script, words_tokenizer):
    """A server that a test may stop."""
    site = Site(script, words_tokenizer)
    yield site
    site.server.should_exit = True
    site.thread.join()


def end(site: Site, politely: bool) -> None:
    """Like a crash, or like a server that gets a signal and tells its clients."""
    if politely:
        site.server.stop()
        site.thread.join()
    else:
        site.stop()


@pytest.mark.parametrize("politely", [False, True])
def test_an_outage_heals_by_itself(visit, weak, politely, picture):
    page = visit(weak.url)
    choose_model(page, "sft:words")
    banner = page.locator("#down-notice")
    expect(banner).to_be_hidden()
    paused_answer(page, weak, 30)
    end(weak, politely)
    expect(banner).to_contain_text("The server does not answer.")
    waits = last_answer(page).locator(".notice")
    expect(waits).to_have_text("Waiting for the server. The answer resumes as soon as it is back.")
    picture(page, "outage-light")
    if politely:
        assert serious(page) == []
    for name in ("Retry", "Continue"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    weak.start()
    settled(page)
    expect(body(last_answer(page))).to_have_text(all_words())
    expect(banner).to_be_hidden()
    expect(page.locator(".notice")).to_have_count(0)
    expect(page.locator(".message")).to_have_count(2)
    page.reload()
    expect(body(last_answer(page))).to_have_text(all_words())


def test_a_loss_shows_while_nobody_asks_anything(visit, weak, picture):
    page = visit(weak.url, **PHONE)
    page.get_by_label("Your question").fill("What was written stays")
    banner = page.locator("#down-notice")
    weak.stop()
    expect(banner).to_contain_text("The server does not answer.")
    picture(page, "outage-idle-phone")
    assert banner.bounding_box()["height"] <= 60
    page.get_by_label("Your question").press("Enter")  # is asked when the server is back
    expect(last_answer(page).locator(".notice")).to_contain_text("Waiting for the server.")
    page.get_by_role("button", name="Stop").click()  # or not
    expect(last_answer(page).locator(".notice")).to_have_text("Stopped before the first word.")
    ask(page, "Then this")
    weak.start()
    banner.get_by_role("button", name="Try now").click()
    settled(page)
    expect(page.locator(".message.assistant")).to_have_count(2)
    expect(banner).to_be_hidden()


FAR = 4_000_000_000  # a time in seconds that no clock shows yet


def test_silence_is_noticed_within_two_seconds_and_a_slow_line_is_no_silence(visit, site):
    """By the page's own clock, which the test moves."""
    page = visit("about:blank")
    held: list[Callable[[], None]] = []
    under_way: list[str] = []
    is_silent = False
    page.route("**/health", lambda route: held.append(route.continue_) if is_silent else route.continue_())
    page.on("request", lambda request: request.url.endswith("/health") and under_way.append(request.url))
    page.on("requestfinished", lambda request: request.url.endswith("/health") and under_way.remove(request.url))
    page.clock.install()
    page.goto(site.url)
    banner = page.locator("#down-notice")
    expect(page.get_by_label("Model", exact=True)).to_have_value("sft:brief")
    page.clock.pause_at(FAR)

    def now() -> int:
        page.wait_for_timeout(10)  # playwright tells of requests only while one waits
        return page.evaluate("Date.now()")

    def move_until(condition: Callable[[], bool]) -> None:
        while not condition():
            page.clock.run_for(100)
            assert now() < 1000 * FAR + 100_000

    wait(lambda: now() and not under_way)
    is_silent, began = True, now()
    move_until(banner.is_visible)
    assert now() - began <= 2000 and len(held) == 1
    expect(banner).to_contain_text("The server does not answer.")
    held.pop()()
    expect(banner).to_be_hidden()
    move_until(lambda: len(held) == 1)
    page.clock.run_for(2000)  # the answer before took about a second, so this one may take longer
    expect(banner).to_be_hidden()
    held.pop()()


def test_an_answer_that_waits_is_taken_up_after_a_reload(visit, weak):
    page = visit(weak.url)
    choose_model(page, "sft:words")
    paused_answer(page, weak, 10)
    weak.stop()
    expect(last_answer(page).locator(".notice")).to_contain_text("Waiting for the server.")
    address = page.url
    page.goto("about:blank")
    weak.start()
    page.goto(address)
    settled(page)
    expect(body(last_answer(page))).to_have_text(all_words())


def test_a_connection_that_breaks_is_tried_again_a_few_times(visit, site):
    page = visit()
    choose_model(page, "sft:brief")
    left = [2]

    def break_off(route) -> None:
        left[0] -= 1
        (route.abort if left[0] >= 0 else route.continue_)()

    page.route("**/v1/chat/completions", break_off)
    ask_and_wait(page, "Say all words")
    assert text_of(last_answer(page)) == "".join(ANSWER)
    left[0] = 1000
    ask(page, "Once more")
    expect(last_answer(page).locator(".notice")).to_contain_text("interrupted before its first word")
    assert left[0] == 1000 - 4
    left[0] = 0
    page.get_by_role("button", name="Retry").click()
    settled(page)
    assert text_of(last_answer(page)) == "".join(ANSWER)
    expect(page.locator(".notice")).to_have_count(0)


def test_a_model_that_the_server_no_longer_has_does_not_answer_as_another(visit, weak):
    page = visit(weak.url)
    choose_model(page, "sft:words")
    paused_answer(page, weak, 10)
    weak.stop()
    weak.script = {"sft:brief": weak.script["sft:brief"]}
    weak.start()
    expect(last_answer(page).locator(".notice.error")).to_have_text("The server no longer has the model sft:words.")
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    page.get_by_role("button", name="Continue").click()  # with the one that there is
    settled(page)


def test_only_a_page_that_is_seen_asks_for_signs_of_life(visit, site):
    page = visit("about:blank")
    beats: list[str] = []
    page.on("request", lambda request: request.url.endswith("/health") and beats.append(request.url))
    page.clock.install()
    page.goto(site.url)
    wait(lambda: page.wait_for_timeout(10) is None and len(beats) == 1)
    for count in (2, 3):
        page.clock.run_for(1600)
        wait(lambda count=count: page.wait_for_timeout(10) is None and len(beats) == count)
    seen = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => HIDDEN});"
    page.evaluate(seen.replace("HIDDEN", "true"))
    page.clock.run_for(1600)  # what was due already
    page.wait_for_timeout(200)
    asked = len(beats)
    page.clock.run_for(600_000)
    page.wait_for_timeout(200)
    assert len(beats) == asked
    page.evaluate(seen.replace("HIDDEN", "false") + "document.dispatchEvent(new Event('visibilitychange'))")
    wait(lambda: page.wait_for_timeout(10) is None and len(beats) == asked + 1)
