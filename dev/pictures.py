"""Take the pictures of the README and the documentation, and every state of the pages, with a real model in Chromium.

    python -m dev.pictures --model sft:d4 --out /tmp/pictures           all states, and the moving picture
    python -m dev.pictures --model sft:d4 --docs                        those of docs/assets, too

NANOCHAT_BASE_DIR names the base folder, whose models, runs and report are shown. The page is driven by the roles and
labels that a screen reader has, so a page that has changed stops this script with what it did not find.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.report import sections
from tests.browsing import CHROMIUM, PHONE, SIZE, chromium
from tests.served import started

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
LOOKS = {"desktop": {"viewport": SIZE}, "laptop": {"viewport": {"width": 1024, "height": 700}}, "phone": PHONE}
FILM: ViewportSize = {"width": 960, "height": 640}
MOST_BYTES, QUALITY = 1_000_000, 70  # of the moving picture
TALK = ("Where does Mira live?", "And what is her job?", "What is 123 + 456?")


@dataclass
class Flags:
    """Take pictures of the chat page, the dashboard and the report card of the base folder in use."""

    model: str = "sft:d4"
    """serve this model, named as for scripts.chat_web --model"""
    out: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "nanochat-pictures")
    """write the pictures to this folder"""
    docs: bool = False
    """renew those of docs/assets as well"""
    only: str = ""
    """take only the states whose name has this in it; "film" is the moving picture"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if CHROMIUM is None:
        raise UserError("no Chromium is installed; install it (Debian: apt-get install chromium), and run this again")
    report = sections.folder() / "report.html"
    if not report.exists():
        raise UserError(f"{report} does not exist; write it with python -m scripts.report")
    flags.out.mkdir(parents=True, exist_ok=True)
    with started("chat_web", f"--model={flags.model}", "--temperature=0") as (_, url, _), chromium() as browser:
        for name, states in (("page", chat_states(url)), ("card", card_states(report))):
            take(browser, states, flags, name)
        with started("dashboard") as (_, board, _):
            take(browser, board_states(board, flags.model), flags, "board")
        if flags.only in "film":
            film(browser, url, flags.out / "page.webp")
        if flags.docs:
            for_docs(browser, url, report)
    print(f"the pictures are in {flags.out}" + (f" and {ASSETS}" if flags.docs else ""))


State = Callable[[Page], None]  # brings a fresh page into a state


def take(browser: Browser, states: dict[str, State], flags: Flags, kind: str) -> None:
    """A picture of each state on each device, by day and by night."""
    for name, reach in states.items():
        if flags.only not in f"{kind}-{name}":
            continue
        for device, options in LOOKS.items():
            for look in ("light", "dark"):
                with visit(browser, color_scheme=look, **options) as page:
                    reach(page)
                    page.screenshot(path=flags.out / f"{kind}-{name}-{device}-{look}.png", animations="disabled")
        print(f"{kind}-{name}", flush=True)


@contextmanager
def visit(browser: Browser, **options) -> Iterator[Page]:
    """A page in a browser profile of its own, in which no error may occur."""
    errors: list[str] = []
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    if errors:
        raise UserError(f"the page failed while it was pictured: {errors[0]}")


# ---------------------------------------------------------------- the chat page


def ask(page: Page, text: str) -> None:
    """Ask, and wait for the end of the answer."""
    answers = page.get_by_role("article").and_(page.locator("[aria-busy]"))
    before = answers.count()
    page.get_by_label("Your question").fill(text)
    page.get_by_label("Your question").press("Enter")
    expect(answers).to_have_count(before + 1)
    expect(answers.last).to_have_attribute("aria-busy", "false")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).filter(visible=True).first.click()


def chat_states(url: str) -> dict[str, State]:
    def opened(page: Page) -> None:
        page.goto(url)
        expect(page.get_by_label("Model", exact=True)).to_be_enabled()

    def talked(page: Page) -> None:
        opened(page)
        for question in TALK:
            ask(page, question)

    def inspected(page: Page) -> None:
        opened(page)
        press(page, "Token inspector")
        ask(page, TALK[0])
        page.get_by_label("Tokens of the answer").get_by_role("button").nth(2).click()

    def besides(page: Page) -> None:
        opened(page)
        press(page, "Two models side by side")
        ask(page, TALK[2])

    def pressed(name: str, then: State = opened) -> State:
        def reach(page: Page) -> None:
            then(page)
            press(page, name)

        return reach

    def cut_off(page: Page) -> None:
        talked(page)
        page.route("**/v1/**", lambda route: route.abort())
        page.get_by_label("Your question").fill(TALK[0])
        page.get_by_label("Your question").press("Enter")
        expect(page.get_by_text(re.compile("Is it still running|reach")).first).to_be_visible()

    def shortcuts(page: Page) -> None:
        opened(page)
        page.keyboard.press("Control+/")
        expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()

    def documented(page: Page) -> None:
        page.goto(f"{url}docs")
        expect(page.get_by_role("heading", level=1)).to_be_visible()

    return {
        "empty": opened, "talk": talked, "inspector": inspected, "side-by-side": besides, "shortcuts": shortcuts,
        "settings": pressed("System prompt and sampling", talked), "away": cut_off, "docs": documented,
    }  # fmt: skip


# ---------------------------------------------------------------- the report card and the dashboard


def card_states(report: Path) -> dict[str, State]:
    def top(page: Page) -> None:
        page.goto(report.as_uri())

    def at(heading: str) -> State:
        def reach(page: Page) -> None:
            top(page)
            page.get_by_role("heading", name=heading, exact=True).evaluate("element => element.scrollIntoView()")

        return reach

    def printed(page: Page) -> None:
        page.emulate_media(media="print")
        top(page)

    return {
        "top": top, "conversations": at("Conversations"), "detail": at("In detail"), "print": printed,
    }  # fmt: skip


def board_states(url: str, model: str) -> dict[str, State]:
    def runs(page: Page) -> None:
        page.goto(f"{url}#runs={model}")
        expect(page.get_by_role("img", name=re.compile("^Training loss"))).to_be_visible()

    def models(page: Page) -> None:
        page.goto(f"{url}models")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text(model.partition(":")[2]).first).to_be_visible()

    return {"runs": runs, "models": models}


# ---------------------------------------------------------------- README and documentation


class Film:
    """The frames of a moving picture, each with how long it is shown."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []

    def shoot(self, milliseconds: int) -> None:
        """Take the page as it is; one that looks as before only lasts longer."""
        frame = Image.open(io.BytesIO(self.page.screenshot(animations="disabled"))).convert("RGB")
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.milliseconds[-1] += milliseconds
        else:
            self.frames.append(frame)
            self.milliseconds.append(milliseconds)

    def write(self, path: Path) -> None:
        """Write it as an animated WebP. Raises UserError where it is too large."""
        file = io.BytesIO()
        first, *rest = self.frames
        first.save(file, "webp", save_all=True, append_images=rest, duration=self.milliseconds, loop=0, quality=QUALITY)
        size, seconds = len(file.getvalue()), sum(self.milliseconds) / 1000
        if size > MOST_BYTES:
            raise UserError(f"the moving picture has {size} bytes; expected at most {MOST_BYTES}: film fewer scenes")
        path.write_bytes(file.getvalue())
        print(f"{path}: {len(self.frames)} frames, {seconds:.0f} s, {size / 1000:.0f} kB", flush=True)


def film(browser: Browser, url: str, path: Path) -> None:
    """Three questions, then the token inspector, as a moving picture. Typing is shown at a reader's pace."""
    with visit(browser, viewport=FILM, color_scheme="light") as page:
        page.goto(url)
        expect(page.get_by_label("Model", exact=True)).to_be_enabled()
        reel = Film(page)
        reel.shoot(1200)
        for question in TALK:
            _type(page, reel, question)
            _answer(page, reel)
        press(page, "Token inspector")
        reel.shoot(500)
        _type(page, reel, "How do you spell meadow?")
        _answer(page, reel)
        tokens = page.get_by_label("Tokens of the answer").last.get_by_role("button")
        for i in range(min(3, tokens.count())):
            tokens.nth(i).click()
            reel.shoot(1300)
        reel.write(path)


def _type(page: Page, reel: Film, text: str) -> None:
    page.get_by_label("Your question").focus()
    for begin in range(0, len(text), 2):
        page.keyboard.type(text[begin : begin + 2])
        reel.shoot(80)
    reel.shoot(350)


def _answer(page: Page, reel: Film) -> None:
    """Send what was typed, and film the answer while it comes."""
    answers = page.get_by_role("article").and_(page.locator("[aria-busy]"))
    before = answers.count()
    page.keyboard.press("Enter")
    expect(answers).to_have_count(before + 1)
    while answers.last.get_attribute("aria-busy") == "true":
        reel.shoot(120)
    expect(answers.last).to_have_attribute("aria-busy", "false")
    reel.shoot(1600)


def for_docs(browser: Browser, url: str, report: Path) -> None:
    """Renew the pictures of docs/assets."""
    film(browser, url, ASSETS / "page.webp")
    with visit(browser, viewport=SIZE, color_scheme="light") as page:
        chat_states(url)["talk"](page)
        page.screenshot(path=ASSETS / "page.png", animations="disabled")
        shutil.copyfile(report.with_name("report.png"), ASSETS / "report.png")
        with started("dashboard") as (_, board, _):
            page.goto(board)
            expect(page.get_by_role("img", name=re.compile("^Training loss"))).to_be_visible()
            page.screenshot(path=ASSETS / "dashboard.png", animations="disabled")


if __name__ == "__main__":
    run(main)
