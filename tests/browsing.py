"""A real browser for the tests of pages: profiles of its own for each visit, pictures, and what axe-core finds.

NANOCHAT_SCREENSHOTS names a folder for pictures of the pages; without it they go into the test's own.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-quic"
).split()

SIZE = {"width": 1280, "height": 860}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
# What makes a visit not the first one, which would begin with the tour; a test may forbid storage.
NO_TOUR = 'try { localStorage.setItem("nanochat.tour-seen", "true") } catch {}'
WAIT_S = 60.0  # far more than anything takes, for a machine that is busy with other things


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def profiles(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Yields what opens an address in a browser profile of its own; at the end no error may have occurred in any."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def refused(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            errors.append(message.text)

    def open_page(url: str, before: str = "", first_visit: bool = False, **options) -> Page:
        context = browser.new_context(**{"viewport": SIZE, **options})
        context.set_default_timeout(1000 * WAIT_S)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", refused)
        if not first_visit:
            page.add_init_script(NO_TOUR)
        if before:
            page.add_init_script(before)
        page.goto(url)
        return page

    expect.set_options(timeout=1000 * WAIT_S)
    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def pictures(folder: Path) -> Callable[[Page, str], None]:
    """What takes a picture of a page by a name, into this folder or the one of NANOCHAT_SCREENSHOTS."""
    folder = Path(os.environ.get("NANOCHAT_SCREENSHOTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.mouse.move(0, 0)
        page.screenshot(path=folder / f"{name}.png", animations="disabled")

    return take


def serious(page: Page) -> list[str]:
    """What axe-core finds, as far as it is serious."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {[node['target'] for node in violation['nodes']]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]
