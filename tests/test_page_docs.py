"""/docs in a real browser: its programs run as they stand, and its forms send what they show."""

import contextlib
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect

from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.examples import EXAMPLES, KEY, Example, for_model, programs
from nanochat.web.state import Settings
from tests.browsing import PHONE, needs_chromium, profiles, serious
from tests.scripted import calculating
from tests.served import Live, loaded, served

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    engine = Engine(calculating(tokenizer, "é! Rome", 1024), slots=4)
    with served([loaded(engine, tokenizer)], settings=Settings(temperature=0)) as live:
        yield live


@pytest.fixture
def docs(browser: Browser, live: Live) -> Iterator[Callable[..., Page]]:
    with profiles(browser) as visit:
        yield lambda **options: visit(f"{live.url}/docs", **options)


def id_of(title: str) -> str:
    return "-".join(re.findall(r"\w+", title.lower()))


def test_every_program_runs_as_it_stands(docs, live: Live) -> None:
    page = docs()
    for example in EXAMPLES:
        section = page.locator(f"section#{id_of(example.title)}")
        shown = {
            each.get_attribute("data-language"): each.locator("pre").text_content() or ""
            for each in section.locator(".program").all()
        }
        assert set(shown) == {"curl", "Python", "JavaScript"}
        said = {"Python": python(shown["Python"]), "JavaScript": javascript(page, shown["JavaScript"])}
        if shutil.which("curl"):
            done = subprocess.run(["bash", "-c", shown["curl"]], capture_output=True, text=True, check=True)
            assert done.stdout.startswith("data: {" if example.streams else "{"), done.stdout
        if example.path != "/generate":  # nanoGPT's temperature
            assert squeezed(said["Python"]) == squeezed(said["JavaScript"]), example.title
        if example.title in ("Chat", "Stream"):
            assert "Rome" in said["Python"]
        assert live.url in shown["curl"] + shown["Python"]


def python(program: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "docs", "exec"), {})
    return out.getvalue()


def javascript(page: Page, program: str) -> str:
    run = """async program => {
        const lines = [];
        const console = {log: line => lines.push(typeof line === "string" ? line : JSON.stringify(line))};
        await new (Object.getPrototypeOf(async () => {}).constructor)("console", program)(console);
        return lines.join("");
    }"""
    return page.evaluate(run, program)


def squeezed(text: str) -> str:
    """Without what Python and JavaScript print differently around the same values."""
    return re.sub(r"[\s'\"]", "", text)


def test_every_form_sends_what_it_shows(docs) -> None:
    page = docs()
    for example in EXAMPLES:
        section = page.locator(f"section#{id_of(example.title)}")
        section.get_by_text("Try it").click()
        section.get_by_role("button", name="Send").click()
        expect(section.get_by_role("status")).to_have_text(re.compile(rf"Status {example.status}, [\d.]+ s"))
        came = section.get_by_label("What came back")
        expect(came).to_contain_text("[DONE]" if example.streams else "{")
    section = page.locator("section#tokenize")
    section.get_by_label("Body").fill('{"text": ')
    section.get_by_role("button", name="Send").click()
    expect(section.get_by_role("status")).to_contain_text("The body is not JSON")


def test_the_language_is_chosen_once_and_code_is_copied(docs, live: Live) -> None:
    page = docs()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat = page.locator("section#chat")
    expect(chat.get_by_label("curl", exact=True)).to_be_visible()
    expect(chat.locator(".hl-string").first).to_be_visible()
    page.get_by_label("JavaScript", exact=True).first.check(force=True)
    expect(chat.get_by_label("curl", exact=True)).to_be_hidden()
    chat.get_by_role("button", name="Copy JavaScript").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f'const response = await fetch("{live.url}/v1/chat/completions"') and "sft:d1" in copied
    page.reload()
    expect(chat.get_by_label("JavaScript", exact=True)).to_be_visible()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_the_page_looks_like_the_others_and_can_be_walked(docs, picture, look: str) -> None:
    page = docs(**(PHONE if look == "phone" else {"color_scheme": look}), reduced_motion="reduce")
    assert serious(page) == []
    picture(page, f"docs-{look}")
    for link in ("Keys", "Errors", "POST /v1/responses"):
        if look == "phone":
            page.get_by_role("button", name="Open sidebar").tap()
        page.get_by_role("navigation", name="On this page").get_by_role("link", name=link, exact=True).click()
        expect(page.locator(f"section#{id_of(link)}")).to_be_in_viewport()
        assert page.locator("#sidebar").is_visible() == (look != "phone")
    page.locator("section#chat").get_by_text("Try it").click()
    page.locator("section#post-v1-responses summary").first.click()
    assert serious(page) == []
    picture(page, f"docs-open-{look}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("section#chat").scroll_into_view_if_needed()
    picture(page, f"docs-chat-{look}")


def test_where_a_key_is_needed_the_page_says_so_and_asks(tokenizer: Tokenizer, browser: Browser) -> None:
    engine = Engine(calculating(tokenizer, "é! Rome", 256), slots=1)
    with served([loaded(engine, tokenizer)], settings=Settings(api_key="s3cret")) as live, profiles(browser) as visit:
        page = visit(f"{live.url}/docs")
        expect(page.locator("#keys")).to_contain_text("This server requires a key")
        example = next(each for each in EXAMPLES if each.title == "Tokenize")
        for program in programs(for_model(example, "sft:d1"), live.url, KEY).values():
            assert "s3cret" not in program and f"Bearer {KEY}" in program
        assert "s3cret" not in page.content()
        curl = page.locator("section#tokenize .program pre").first.text_content() or ""
        assert curl == programs(example, live.url, KEY)["curl"]
        if shutil.which("curl"):
            command = ["bash", "-c", curl.replace(KEY, "s3cret")]
            assert '"tokens"' in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        section = page.locator("section#tokenize")
        section.get_by_text("Try it").click()
        section.get_by_role("button", name="Send").click()
        page.get_by_role("textbox", name="API key").fill("s3cret")
        page.get_by_role("button", name="Use key").click()
        expect(section.get_by_role("status")).to_contain_text("Status 200")
