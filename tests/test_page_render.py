"""What an answer looks like: formulas, colours of code, tables, task lists, and text from right to left."""

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright.sync_api import expect

from nanochat import chat
from nanochat.tokenizer import Tokenizer
from nanochat.web import typeset
from nanochat.web.typesetter import Typesetter
from tests.browsing import PHONE, needs_chromium, serious
from tests.pageside import (
    Site,
    ask,
    ask_and_wait,
    body,
    calm,
    choose_model,
    last_answer,
    settled,
    site,
    visit,
)
from tests.served import PATIENCE, refusal

pytestmark = needs_chromium

LONG_WORD = "Donaudampfschifffahrtsgesellschaft"
DRAWN = [
    "## Sums\n\nThe integral \\(\\int_0^\\infty e^{-x^2}\\,dx\\)", " costs $5 or $6, and $x_1 * x_2 * x_3$ less.\n\n",
    "\\[\n\\begin{aligned}\na &= \\frac{b}{2} \\\\\n", "- c &= \\sum_{i=1}^{n} d_i\n\\end{aligned}\n", "\\]\n\n",
    "```python\ndef f(x):  # how many\n", "    return 'é' * 42", "\n```\n\n",
    f"| Company | What it did | Since | Where | Remarks |\n|---|---|--:|---|---|\n| {LONG_WORD} | carried passengers "
    "and freight up and down the river, whatever the weather | 1829 | Vienna | none |\n\n",
    "- [x] sown\n- [ ] reaped\n\n", "שלום olam\n\n", "Done \\[x\\] here.",
]  # fmt: skip
HOSTILE = [
    "$\\href{javascript:window.hacked=1}{x}$ ", "$\\text{<img src=x onerror=window.hacked=2>}$ ",
    "$\\style{position:fixed;inset:0}{x}$ ", "$\\class{skip}{x}\\hspace{9999em}$ ",
    "$\\def\\a{xxxxxxxxxx}\\def\\b{\\a\\a\\a\\a\\a\\a\\a\\a\\a\\a}\\b$ ", f"${'{' * 500}x{'}' * 500}$\n\n",
    "```html\n<script>window.hacked=3</script>\n```\n\n", "```no-such-language\nplain\n```\n\n",
    "```../../etc\nplain\n```\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def words_tokenizer() -> Tokenizer:
    fragments = list(dict.fromkeys([*DRAWN, *HOSTILE]))
    size = -(256 + len(fragments) + len(chat.SPECIALS)) % 8  # the model's width must suit its heads
    tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in fragments]
    return Tokenizer({token: i for i, token in enumerate(tokens + [b"\xff" * (2 + i) for i in range(size)])},
                     chat.SPECIALS)  # fmt: skip


@pytest.fixture(scope="module")
def script(words_tokenizer: Tokenizer) -> dict[str, tuple[list[list[int]], int]]:
    ids = {token: i for i, token in enumerate(words_tokenizer.tokens)}

    def says(fragments: Sequence[str]) -> tuple[list[list[int]], int]:
        start = words_tokenizer.special(chat.ASSISTANT_START)
        return [[start, *(ids[text.encode()] for text in fragments)]], 256

    return {"sft:drawn": says(DRAWN), "sft:hostile": says(HOSTILE)}


def test_formulas_and_code_are_drawn_when_they_are_complete_and_stay_so(visit, site, picture):
    page = visit(color_scheme="light")
    page.evaluate("""() => {
        window.fewer = [];
        let before = 0;
        new MutationObserver(() => {
            const now = document.querySelectorAll("math, .code span[class]").length;
            if (now < before) window.fewer.push([before, now]);
            before = now;
        }).observe(document.getElementById("columns"), {childList: true, subtree: true});
    }""")
    engine = site.engines["sft:drawn"]
    engine.left = 3
    ask(page, "Draw")
    answer = last_answer(page)
    expect(answer.locator("math")).to_have_count(2)
    assert answer.locator("math").first.locator("mo").first.text_content() == "∫"
    assert "$5 or $6" in answer.inner_text()
    expect(answer.locator(".display")).to_have_text(re.compile(r"^\\\[\s\\begin"))  # plain until it is complete
    engine.left = 4
    expect(answer.locator("pre code")).to_contain_text("return 'é' * 42")
    expect(answer.locator(".display math mtr")).to_have_count(2)
    expect(answer.locator("pre span[class]")).to_have_count(0)
    engine.left = None
    settled(page)
    expect(answer.locator("pre .hl-keyword")).to_have_text(["def ", "return "])
    expect(answer.locator("pre .hl-comment")).to_contain_text("# how many")
    assert answer.locator("pre").inner_text() == "def f(x):  # how many\n    return 'é' * 42"
    assert page.evaluate("window.fewer") == []
    expect(answer.locator(".display munderover")).to_have_count(1)  # the sum's limits stand below and above it
    assert serious(page) == []
    picture(page, "drawn-light")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Answer again").click()
    settled(page)
    assert [url for url in asked if url.endswith("/typeset")] == []  # kept in the page


def test_in_the_dark_and_on_a_phone(visit, picture):
    page = visit(**{**PHONE, "color_scheme": "dark"})
    ask_and_wait(page, "Draw")
    answer = last_answer(page)
    expect(answer.locator("math")).to_have_count(4)
    expect(answer.locator("pre .hl-keyword")).to_have_count(2)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for scroll in page.locator(".scroll").all():
        assert scroll.evaluate("scroll => scroll.scrollWidth <= scroll.clientWidth")
    picture(page, "drawn-dark-phone")


LINES = """cell => [...cell.childNodes].flatMap(node => [...node.textContent.matchAll(/\\S+/g)].map(word => {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    return range.getClientRects().length;
}))"""


@pytest.mark.parametrize("options", [{}, PHONE])
def test_a_table_scrolls_and_never_breaks_a_word(visit, options):
    page = visit(**options)
    ask_and_wait(page, "Draw")
    table = last_answer(page).locator(".table")
    for cell in table.locator("th, td").all():
        assert set(cell.evaluate(LINES)) <= {1}
        assert cell.evaluate("cell => cell.offsetWidth") <= 22 * 16 + 1
    long = table.locator("td").nth(1)
    assert long.evaluate("cell => cell.offsetWidth") > 300  # not one word below the other
    width, seen = table.evaluate("table => [table.scrollWidth, table.clientWidth]")
    if options:
        assert width > seen + 100
        table.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.querySelector('.table').scrollLeft > 0")
    else:
        assert width >= seen


def test_tasks_have_boxes_and_text_runs_as_its_letters_do(visit):
    page = visit()
    ask_and_wait(page, "שלום")
    answer = last_answer(page)
    boxes = answer.get_by_role("checkbox")
    assert [box.is_checked() for box in boxes.all()] == [True, False]
    assert all(box.is_disabled() for box in boxes.all())
    expect(answer.locator("li")).to_have_text(["sown", "reaped"])
    direction = "element => getComputedStyle(element).direction"
    assert answer.locator("p", has_text="שלום").evaluate(direction) == "rtl"
    assert answer.locator("p", has_text="integral").evaluate(direction) == "ltr"
    assert page.locator(".bubble").evaluate(direction) == "rtl"
    page.get_by_label("Your question").fill("עולם")
    assert page.get_by_label("Your question").evaluate(direction) == "rtl"


MATHML = {*typeset.ELEMENTS}
ELEMENTS = """message => [...message.querySelectorAll(".math *, pre *")].map(element => [
    element.namespaceURI.endsWith("MathML"), element.localName, [...element.attributes].map(({name}) => name)])"""


def test_nothing_that_is_drawn_leads_out_of_a_formula(visit):
    page = visit()
    choose_model(page, "sft:hostile")
    ask_and_wait(page, "Draw")
    answer = last_answer(page)
    expect(answer.locator("math")).to_have_count(5)  # the one with too many braces stays plain
    expect(answer.locator("mtext")).to_have_text("<img\xa0src=x\xa0onerror=window.hacked=2>")
    expect(answer.locator("pre .hl-keyword").first).to_have_text("script")
    expect(answer.locator("pre").nth(1)).to_have_text("plain")
    for is_math, name, attributes in answer.evaluate(ELEMENTS):
        assert (is_math and name in MATHML) or name in ("code", "span")
        assert set(attributes) <= typeset.ATTRIBUTES | {"class"}
    assert all(box["width"] < 740 for formula in answer.locator(".math").all() if (box := formula.bounding_box()))
    assert page.evaluate("window.hacked") is None


WALLS = ["$", "$a", "$a$", "\\[", "\\(a", "\\[a\n", "$$\n", "$$a\n", "- [ ] ", "- [x] a\n", "\\)\\(", "$a\n\n"]


def test_no_text_makes_the_page_endless(visit):
    page = visit()
    draw = """texts => void (async () => {
        const {Markdown} = await import('/static/markdown.js');
        for (const text of texts) new Markdown().update(text);
        window.drawn = true;
    })()"""
    page.evaluate(draw, [wall * (20_000 // len(wall)) for wall in WALLS])
    page.wait_for_function("() => window.drawn")


# ---------------------------------------------------------------- the route


def drawn(site: Site, *items: dict) -> list:
    reply = httpx.post(f"{site.url}typeset", json={"items": items}, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    return reply.json()["items"]


def math(text: str) -> dict:
    return {"type": "math", "text": text}


def test_what_is_too_much_is_refused_or_left_plain(site):
    x = drawn(site, math("x"))[0]
    assert x == ["math", {"display": "inline"}, ["mrow", {}, ["mi", {}, "x"]]]
    for text in ("x" * 3000, "{" * 900 + "}" * 900, "\\sqrt" * 400 + "x", "\\left( x", "^", "\\begin{x}", ""):
        assert drawn(site, math(text), math("x")) == [None, x], text
    code = {"type": "code", "language": "python", "text": "a\r\nb"}  # which Pygments would change
    assert drawn(site, code, {**code, "language": "x"}, {**code, "text": "1"}) == [None, None, [["number", "1"]]]
    url = f"{site.url}typeset"
    assert "20000" in refusal(httpx.post(url, json={"items": [math("x" * (1 << 20))]}, timeout=PATIENCE))["message"]
    assert "64" in refusal(httpx.post(url, json={"items": [math("x")] * 65}, timeout=PATIENCE))["message"]
    refusal(httpx.post(url, content=b"{", timeout=PATIENCE))
    refusal(httpx.post(url, content=b"x" * (5 << 20), timeout=PATIENCE), 413)


def test_a_formula_that_grows_without_end_harms_nobody(site):
    """A formula whose macros grow tenfold at each step stays plain; the next one is drawn."""
    names = "abcdefghij"
    steps = [f"\\def\\{name}{{{f'{chr(92)}{names[i]} ' * 10}}}" for i, name in enumerate(names[1:])]
    bomb = f"\\def\\a{{x}}{''.join(steps)}\\j"
    assert drawn(site, math(bomb))[0] is None
    assert drawn(site, math("x"))[0] is not None
    assert httpx.get(f"{site.url}health", timeout=PATIENCE).status_code == 200


def test_what_takes_too_long_stays_plain_and_is_ended():
    async def check() -> None:
        typesetter = Typesetter(seconds=PATIENCE)
        item = {"type": "math", "text": "x", "display": False}
        [first] = await typesetter.typeset([item])
        typesetter.seconds = 0.0
        slow = {"type": "code", "text": "x = 1\n" * 3000, "language": "python"}
        assert await typesetter.typeset([slow, item]) == [None, None]
        typesetter.seconds = PATIENCE
        assert first is not None and await typesetter.typeset([item]) == [first]
        await typesetter.end()

    with ThreadPoolExecutor(1) as pool:  # the browser's own loop runs in this thread
        pool.submit(asyncio.run, check()).result()


@pytest.mark.parametrize(
    ("tex", "shown"),
    [(r"\mathbb{RQ}", "ℝℚ"), (r"\mathbf{xy}", "𝐱𝐲"), (r"\mathfrak{C}", "ℭ"), (r"\mathcal{L}", "ℒ"), (r"a<b", "a<b"),
     (r"\boldsymbol{\alpha}", "𝜶"), (r"\text{if } x", "if\xa0x")],
)  # fmt: skip
def test_letters_have_the_style_that_was_asked_for(tex, shown):
    def text(node: list | str) -> str:
        return node if isinstance(node, str) else "".join(map(text, node[2:]))

    tree = typeset.formula(tex, False)
    assert tree is not None and text(tree) == shown
