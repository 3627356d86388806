"""Take the pictures of the README and the documentation, and every state of the pages, with a real model in Chromium.

    python -m dev.pictures --model sft:d3 --out /tmp/pictures           all states, and the moving picture
    python -m dev.pictures --model sft:d3 --docs                        those of docs/assets, too

NANOCHAT_BASE_DIR names the base folder, whose models, runs and report are shown. The page is driven by the roles and
labels that a screen reader has, so a page that has changed stops this script with what it did not find.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.report import sections
from tests.browsing import CHROMIUM, PHONE, chromium, profiles
from tests.served import started

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
LOOKS = {"desktop": {}, "laptop": {"viewport": {"width": 1024, "height": 700}}, "phone": PHONE}
FILM: ViewportSize = {"width": 960, "height": 640}
MOST_BYTES, QUALITY = 1_000_000, 70  # of the moving picture
TEXT = "Once upon a time"
TALK = ("Where does Mira live?", "And what is her job?", "What is 123 + 456?")

State = Callable[[Page], None]  # brings an empty tab into a state


@dataclass
class Flags:
    """Take pictures of the chat page, the dashboard and the report card of the base folder in use."""

    model: str = "sft:d3"
    """talk to this model, named as for scripts.chat_web --model"""
    base: str = "base:d3"
    """let this base model continue a text"""
    out: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "nanochat-pictures")
    """write the pictures to this folder"""
    docs: bool = False
    """renew those of docs/assets as well"""
    only: str = ""
    """take only the states whose name has this in it, such as page-talk, card or film"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if CHROMIUM is None:
        raise UserError("no Chromium is installed; install it (Debian: apt-get install chromium), and run this again")
    report = sections.folder() / "report.html"
    if not report.exists():
        raise UserError(f"{report} does not exist; write it with python -m scripts.report")
    flags.out.mkdir(parents=True, exist_ok=True)
    models = [f"--model={flags.model}", f"--model={flags.base}"]
    with chromium() as browser, started("chat_web", *models, "--temperature=0") as (_, url, _):
        with started("dashboard") as (_, board, _):
            states = chat_states(url, flags.base) | card_states(report) | board_states(board, flags.model)
            take(browser, {name: reach for name, reach in states.items() if flags.only in name}, flags.out)
            if flags.docs:
                for_docs(browser, states, report)
        if flags.docs or flags.only in "film":
            written = film(browser, url, flags.out / "page.webp")
            if flags.docs:
                shutil.copyfile(written, ASSETS / written.name)
    print(f"the pictures are in {flags.out}" + (f" and {ASSETS}" if flags.docs else ""))


def take(browser: Browser, states: dict[str, State], out: Path) -> None:
    """A picture of each state on each device, by day and by night."""
    for name, reach in states.items():
        for device, options in LOOKS.items():
            for look in ("light", "dark"):
                with profiles(browser) as open_page:
                    page = open_page("about:blank", color_scheme=look, **options)
                    reach(page)
                    page.screenshot(path=out / f"{name}-{device}-{look}.png", animations="disabled")
        print(name, flush=True)


# ---------------------------------------------------------------- the chat page


def answers(page: Page) -> Locator:
    return page.get_by_role("article").and_(page.locator("[aria-busy]"))


def ask(page: Page, text: str) -> None:
    """Ask, and wait for the end of the answer."""
    before = answers(page).count()
    page.get_by_label("Your question").fill(text)
    page.get_by_label("Your question").press("Enter")
    expect(answers(page)).to_have_count(before + 1)
    expect(answers(page).last).to_have_attribute("aria-busy", "false")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).filter(visible=True).first.click()


def chat_states(url: str, base: str) -> dict[str, State]:
    def opened(page: Page) -> None:
        page.goto(url)
        expect(page.get_by_label("Model", exact=True)).to_be_enabled()

    def talked(page: Page) -> None:
        opened(page)
        for question in TALK:
            ask(page, question)

    def inspected(page: Page) -> None:
        talked(page)
        press(page, "Token inspector")
        page.get_by_label("Tokens of the answer").first.get_by_role("button").nth(2).click()

    def read(page: Page) -> None:
        talked(page)
        press(page, "Token inspector")
        page.get_by_role("switch", name="As the model reads it").check()
        expect(page.get_by_label("All tokens that the model reads").get_by_role("button").last).to_be_visible()

    def full(page: Page) -> None:
        opened(page)
        for question in TALK * 4:
            ask(page, question)
        page.get_by_text("The model no longer sees what is above").first.scroll_into_view_if_needed()

    def first_visit(page: Page) -> None:
        page.add_init_script('localStorage.removeItem("nanochat.tour-seen")')
        page.goto(url)
        expect(page.get_by_role("dialog")).to_be_visible()

    def besides(page: Page) -> None:
        opened(page)
        press(page, "Two models side by side")
        page.get_by_label("Your question").fill(TALK[2])
        page.get_by_label("Your question").press("Enter")
        expect(answers(page)).to_have_count(2)
        expect(answers(page).first).to_have_attribute("aria-busy", "false")  # a base model may write for long

    def continued(page: Page) -> None:
        opened(page)
        page.get_by_label("Model", exact=True).select_option(base)
        page.get_by_label("Your text").fill(TEXT)
        press(page, "Continue")
        expect(page.get_by_label("Your text")).not_to_have_value(TEXT)
        page.keyboard.press("Escape")  # it would write until the context is full
        expect(page.get_by_role("button", name="Another continuation")).to_be_enabled()

    def pressed(name: str, then: State = opened) -> State:
        def reach(page: Page) -> None:
            then(page)
            press(page, name)

        return reach

    def away(page: Page) -> None:
        talked(page)
        page.context.set_offline(True)
        expect(page.get_by_role("alert")).to_be_visible()

    def sidebar(page: Page) -> None:
        talked(page)
        if (button := page.get_by_role("button", name="Open sidebar")).is_visible():  # on small screens
            button.click()
        expect(page.get_by_role("complementary", name="Sidebar")).to_be_visible()

    def shortcuts(page: Page) -> None:
        opened(page)
        page.keyboard.press("Control+/")
        expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()

    def documented(page: Page) -> None:
        page.goto(f"{url}/docs")
        expect(page.get_by_role("heading", level=1)).to_be_visible()

    return {
        "page-empty": opened, "page-talk": talked, "page-inspector": inspected, "page-read": read,
        "page-besides": besides, "page-text": continued, "page-full": full, "page-tour": first_visit,
        "page-about": pressed("About this model"), "page-sidebar": sidebar,
        "page-settings": pressed("Settings: system prompt and sampling", talked), "page-away": away,
        "page-shortcuts": shortcuts, "page-docs": documented,
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
        "card-top": top, "card-talk": at("Conversations"), "card-rest": at("In detail"), "card-print": printed,
    }  # fmt: skip


def board_states(url: str, model: str) -> dict[str, State]:
    def runs(page: Page) -> None:
        page.goto(f"{url}/runs#runs={model}")
        expect(page.get_by_role("img", name=re.compile("^Training loss"))).to_be_visible()

    def models(page: Page) -> None:
        page.goto(f"{url}/models")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text(model.partition(":")[2]).first).to_be_visible()

    return {"board-runs": runs, "board-models": models}


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


def film(browser: Browser, url: str, path: Path) -> Path:
    """Three questions, then the token inspector, as a moving picture. Only the typing is slowed down."""
    with profiles(browser) as open_page:
        page = open_page(url, viewport=FILM, color_scheme="light")
        expect(page.get_by_label("Model", exact=True)).to_be_enabled()
        reel = Film(page)
        reel.shoot(1200)
        for question in TALK:
            _question(page, reel, question)
        press(page, "Token inspector")
        reel.shoot(500)
        press(page, "New chat")  # an answer near the top leaves room for a token's card below it
        _question(page, reel, "How do you spell meadow?")
        tokens = page.get_by_label("Tokens of the answer").last.get_by_role("button")
        for i in range(min(3, tokens.count())):
            tokens.nth(i).click()
            reel.shoot(1300)
        reel.write(path)
    return path


def _question(page: Page, reel: Film, text: str) -> None:
    """Type and send a question, and film the answer while it comes."""
    page.get_by_label("Your question").focus()
    for begin in range(0, len(text), 3):
        page.keyboard.type(text[begin : begin + 3])
        reel.shoot(110)
    reel.shoot(350)
    before = answers(page).count()
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(before + 1)
    while answers(page).last.get_attribute("aria-busy") == "true":
        reel.shoot(120)
    reel.shoot(1600)


def for_docs(browser: Browser, states: dict[str, State], report: Path) -> None:
    """Renew the pictures of docs/assets, but the moving one."""
    for name, state in (("page", "page-talk"), ("dashboard", "board-runs")):
        with profiles(browser) as open_page:
            page = open_page("about:blank", color_scheme="light")
            states[state](page)
            page.screenshot(path=ASSETS / f"{name}.png", animations="disabled")
    shutil.copyfile(report.with_name("report.png"), ASSETS / "report.png")


if __name__ == "__main__":
    run(main)
