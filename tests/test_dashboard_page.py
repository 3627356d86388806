"""The dashboard in a real browser: a real server, and processes that really train a model of one layer."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from conftest import TEXT
from playwright.sync_api import Browser, Locator, Page, expect

from nanochat.data.shards import write_shards
from nanochat.paths import dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from tests.browsing import PHONE, needs_chromium, profiles, serious
from tests.served import ROOT

pytestmark = needs_chromium

RUN = {
    "depth": "1", "dataset": "tiny", "model tag": "page", "device batch size": "2", "total batch size": "128",
    "max seq len": "32", "aspect ratio": "32", "head dim": "32", "num iterations": "100000", "eval every": "40",
    "eval tokens": "128", "warmup steps": "2", "sample every": "-1",
}  # fmt: skip
OTHER = 80  # lines of the run that was there before
SLOW_S = 240.0  # far more than a process needs to import torch and to train a few steps


class Dashboard:
    """scripts.dashboard as a process, which can be killed and started again at the same address."""

    def __init__(self, base: Path, *flags: str) -> None:
        self.environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "NANOCHAT_API_KEY": ""}
        self.flags, self.port = flags, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "scripts.dashboard", f"--port={self.port}", *self.flags]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self.process.stdout
        while "Ctrl-C" not in (line := self.process.stdout.readline()):
            assert line, "the server has ended"
            if found := re.search(r"http://[\d.]+:(\d+)", line):
                self.port = int(found[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A base folder with a tokenizer, a dataset, and what a run has left that was there before."""
    base = tmp_path_factory.mktemp("dashboard") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        tokenizer.save(tokenizer_dir())
        write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(60)), dataset_dir("tiny"))
    run = base / "base_checkpoints" / "other"
    run.mkdir(parents=True)
    config = {"user_config": {"depth": 2}, "changed_flags": {"depth": 2}}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with open(run / "metrics.jsonl", "w", encoding="utf-8") as file:
        for step in range(1, OTHER + 1):
            line = {"step": step, "time": 1.7e9 + step, "loss": 8 - step / 20, "lr": 1.0, "grad_norm": 0.5,
                    "progress": step / OTHER, "seconds": 1.0, "tok_per_second": 1000.0}  # fmt: skip
            file.write(json.dumps(line) + "\n")
    return base


@pytest.fixture(scope="module")
def dashboard(folder: Path) -> Iterator[Dashboard]:
    dashboard = Dashboard(folder, "--allow_training")
    yield dashboard
    dashboard.kill()
    for record in folder.glob("jobs/*/job.json"):  # of a test that failed
        job = json.loads(record.read_text(encoding="utf-8"))
        if job["state"] in ("running", "stopping") and job["pid"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job["pid"], signal.SIGKILL)


@pytest.fixture
def visit(browser: Browser, dashboard: Dashboard) -> Iterator[Callable[..., Page]]:
    """Opens a page of the dashboard, such as runs#runs=base:d4."""
    with profiles(browser) as open_page:
        yield lambda path, **options: open_page(dashboard.url + path, **options)


def enter(page: Page, name: str, text: str) -> None:
    """Fill in a setting, wherever it is folded away."""
    page.get_by_label("Find a setting").fill("")
    field = page.get_by_label(name, exact=True)
    if not field.is_visible():
        page.get_by_label("Find a setting").fill(name.replace(" ", "_"))
    field.fill(text)


def fill_in(page: Page) -> None:
    for name, text in RUN.items():
        enter(page, name, text)
    page.get_by_label("Find a setting").fill("compile")
    page.get_by_label("compile", exact=True).select_option("False")
    page.get_by_label("Find a setting").fill("")


def chart(page: Page, title: str) -> Locator:
    return page.get_by_role("img", name=re.compile(f"^{title}"))


def step_of(page: Page, run: str) -> int:
    """The last step of a run's loss, as the chart tells it to those who cannot see it."""
    label = chart(page, "Training loss").get_attribute("aria-label") or ""
    found = re.search(rf"{re.escape(run)}: from [\d.]+ to [\d.]+ at step ([\d,]+)", label)
    return int(found[1].replace(",", "")) if found else 0


def grows(page: Page, run: str = "base:page", by: int = 5) -> int:
    """Wait until the curve has so many more steps. Returns the last."""
    chart(page, "Training loss").wait_for(timeout=1000 * SLOW_S)
    first, deadline = step_of(page, run), time.monotonic() + SLOW_S
    while (now := step_of(page, run)) < first + by:
        assert time.monotonic() < deadline, f"the curve of {run} stays at step {now}"
        page.wait_for_timeout(100)
    return now


def becomes(page: Page, state: str) -> None:
    expect(page.locator(".job .state")).to_have_text(state, timeout=1000 * SLOW_S)


def test_a_run_from_its_form_to_its_deletion(visit, dashboard: Dashboard, folder: Path, picture) -> None:
    page = visit("train")
    page.get_by_role("radio", name="Base model", exact=True).check(force=True)
    fill_in(page)
    enter(page, "depth", "0")
    expect(page.locator("#error-depth")).to_contain_text("depth is 0")
    enter(page, "depth", "1")
    expect(page.locator("#error-depth")).to_have_text("")
    expect(page.get_by_label("Command", exact=True)).to_contain_text("python -m scripts.base_train --depth=1")
    expect(page.locator(".facts")).to_contain_text("Memory")
    page.reload()  # what was entered stays
    expect(page.get_by_label("depth", exact=True)).to_have_value("1")
    picture(page, "dashboard-form")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("heading", name="base:page")).to_be_visible()
    becomes(page, "running")
    grows(page)
    picture(page, "dashboard-job")

    page.get_by_role("link", name="Open in Runs").click()
    grows(page)
    page.reload()
    before = grows(page)
    dashboard.kill()  # the job is a process of its own
    expect(page.locator("#down-notice")).to_be_visible()
    dashboard.start()
    expect(page.locator("#down-notice")).to_be_hidden()
    assert grows(page) > before + 5

    page.get_by_role("link", name="Train", exact=True).click()
    page.get_by_role("link", name=re.compile("base:page")).click()
    page.get_by_role("button", name="Stop", exact=True).click()
    becomes(page, "stopped")
    checkpoints = folder / "base_checkpoints" / "page"
    [saved] = checkpoints.glob("meta_*.json")  # it saves first
    page.get_by_role("button", name="Resume").click()
    becomes(page, "running")
    page.get_by_role("link", name="Open in Runs").click()
    grows(page, by=20)
    page.get_by_role("tab", name="Events").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("resumed", timeout=1000 * SLOW_S)
    assert step_of(page, "base:page") > int(saved.stem.partition("_")[2])
    page.go_back()
    page.get_by_role("button", name="Stop", exact=True).click()
    becomes(page, "stopped")

    compare(page, visit, picture)
    delete(page, checkpoints)


def compare(page: Page, visit: Callable[..., Page], picture: Callable[[Page, str], None]) -> None:
    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("link", name=re.compile("base:page")).click()
    page.get_by_role("checkbox", name="Show base:other").check()
    expect(page.locator(".picked tbody tr")).to_have_count(2)
    expect(chart(page, "Training loss").locator(".line[d^=M]")).to_have_count(2)
    page.get_by_role("radio", name="Tokens").check(force=True)
    page.get_by_role("button", name="Logarithmic scale: Training loss").click()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("against").fill("base:other")
    expect(page.get_by_role("tabpanel").get_by_role("row", name=re.compile("^depth"))).to_contain_text("2")
    expect(page).to_have_url(re.compile(r"#runs=base:page,base:other&x=tokens&log=loss&tab=compare$"))
    picture(page, "dashboard-compare")
    again = visit(page.url.rpartition("/")[2])  # a link shows the same to somebody else
    expect(chart(again, "Training loss.*logarithmic").locator(".line[d^=M]")).to_have_count(2)
    expect(again.get_by_role("radio", name="Tokens")).to_be_checked()


def delete(page: Page, checkpoints: Path) -> None:
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("button", name="More about base:page").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep").click()
    assert checkpoints.exists()
    page.get_by_role("button", name="More about base:page").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".note")).to_contain_text("Deleted base:page")
    expect(page.get_by_role("button", name="More about base:page")).to_have_count(0)
    assert not checkpoints.exists()


def test_a_chart_is_read_and_zoomed_with_keys_and_mouse(visit) -> None:
    page = visit("runs#runs=base:other")
    plot = chart(page, "Training loss")
    expect(plot).to_have_accessible_name(re.compile(r"base:other: from 7\.95 to 4 at step 80, between 4 and 7\.95"))
    plot.focus()
    page.keyboard.press("Home")
    expect(plot.locator(".readout")).to_contain_text("Step 1")
    expect(plot.locator(".readout")).to_contain_text("7.95")
    expect(page.locator("#announcer")).to_have_text("Step 1, base:other 7.95")
    for _ in range(30):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Show everything")).to_be_visible()
    expect(chart(page, "Learning rate").locator("text.x").last).to_have_text(re.compile("^2[0-5]$"))  # all charts zoom
    page.keyboard.press("0")
    expect(page.get_by_role("button", name="Show everything")).to_be_hidden()
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="Show everything")).to_be_visible()
    page.get_by_role("button", name="Show everything").click()
    page.get_by_role("button", name="Show as a table: Training loss").click()
    table = page.get_by_role("group", name="Training loss, nats per token: values")
    expect(table.get_by_role("row").nth(1)).to_have_text("17.95")
    expect(table.get_by_role("row").last).to_have_text("804")
    page.get_by_title("Show or hide its lines").click()
    expect(table.get_by_role("columnheader")).to_have_count(1)


def test_a_long_list_is_drawn_in_pieces_and_searched(visit) -> None:
    many = [
        {"id": f"base:run{n}", "stage": "base", "tag": f"run{n}", "folder": "/x", "kind": "stage", "state": "finished",
         "step": n, "total_steps": n, "updated": 1.7e9 - n, "started": 1.6e9, "parent": None, "job": None,
         "last": {"loss": 2.0, "val_bpb": None, "seconds_left": None}}
        for n in range(1000)
    ]  # fmt: skip
    page = visit("models")
    page.route("**/dashboard/runs", lambda route: route.fulfill(json={"runs": many}))
    page.get_by_role("link", name="Runs", exact=True).click()
    entries = page.get_by_role("navigation", name="Runs").get_by_role("listitem")
    expect(entries).to_have_count(100)
    page.get_by_role("button", name="Show 100 more of 900").click()
    expect(entries).to_have_count(200)
    expect(entries.nth(100).get_by_role("link")).to_be_focused()
    page.keyboard.press("Control+k")
    page.keyboard.type("run99 finished")
    expect(page.get_by_text("11 runs found")).to_be_visible()
    expect(entries).to_have_count(11)


def test_to_delete_what_others_came_from_its_name_is_typed(visit) -> None:
    model = {"tag": "d4", "steps": [1], "step": 1, "bytes": 5e6, "val_bpb": None, "served": False, "modified": 1.7e9,
             "parameters": None, "scores": {}, "children": []}  # fmt: skip
    family = [("base:d4", None), ("mid:d4", "base:d4"), ("sft:d4", "mid:d4")]
    models = [{**model, "id": id, "stage": id.partition(":")[0], "parent": parent} for id, parent in family]
    asked: list[str] = []
    page = visit("runs")
    page.route("**/dashboard/models", lambda route: route.fulfill(json={"models": models}))
    page.route("**/dashboard/models/*", lambda route: (asked.append(route.request.url),
                                                       route.fulfill(json={"freed": 15e6})))  # fmt: skip
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("button", name="More about base:d4").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete base:d4?")
    expect(dialog.get_by_role("listitem")).to_have_text(["base:d4", "mid:d4", "sft:d4"])
    button = dialog.get_by_role("button", name="Delete all 3")
    dialog.get_by_label("Type base:d4 to confirm").fill("base:d")
    expect(button).to_be_disabled()
    dialog.get_by_label("Type base:d4 to confirm").press("Enter")  # which keeps it
    expect(dialog).to_have_count(0)
    assert asked == []
    page.get_by_role("button", name="More about base:d4").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog.get_by_label("Type base:d4 to confirm").fill("base:d4")
    button.click()
    expect(page.locator(".note")).to_contain_text("Deleted 3 models; 15 MB are free again.")
    assert len(asked) == 1 and asked[0].endswith("/dashboard/models/base%3Ad4?confirm=base%3Ad4&with_children=1")


def test_uploads_become_the_forms_data(visit, tmp_path: Path) -> None:
    page = visit("train#stage=chat_sft")
    expect(page.get_by_label("Command", exact=True)).to_be_visible()
    talk = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "talk.jsonl").write_text(json.dumps(talk) + "\n", encoding="utf-8")
    page.locator("#upload").set_input_files(tmp_path / "talk.jsonl")
    expect(page.locator(".note")).to_contain_text("talk.jsonl: 1 conversation")
    expect(page.get_by_label("data path", exact=True)).to_have_value(re.compile("talk.jsonl$"))
    (tmp_path / "odd.jsonl").write_text("{", encoding="utf-8")
    page.locator("#upload").set_input_files(tmp_path / "odd.jsonl")
    expect(page.locator(".note").last).to_contain_text("odd.jsonl")


def test_a_page_behind_a_key_and_a_proxys_path_that_may_only_watch(browser: Browser, folder: Path) -> None:
    dashboard = Dashboard(folder, "--api_key=secret", "--root_path=/some/where")
    try:
        with profiles(browser) as open_page:
            page = open_page(f"{dashboard.url}some/where/")
            page.get_by_label("API key", exact=True).fill("secret")
            page.keyboard.press("Enter")
            expect(chart(page, "Training loss").locator(".line[d^=M]")).to_have_count(1)
            page.get_by_role("link", name="Train", exact=True).click()
            expect(page.locator(".banner.quiet")).to_contain_text("--allow_training")
            expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
            expect(page.get_by_label("Command", exact=True)).to_contain_text("python -m scripts.base_train")
            assert page.url.startswith(f"{dashboard.url}some/where/train")
    finally:
        dashboard.kill()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing_serious(visit, picture, look: str) -> None:
    page = visit("runs#runs=base:other", **(PHONE if look == "phone" else {"color_scheme": look}))
    expect(chart(page, "Training loss").locator(".line[d^=M]")).to_have_count(1)
    assert serious(page) == []
    picture(page, f"dashboard-runs-{look}")
    page.get_by_role("tab", name="Configuration").click()
    page.get_by_role("button", name="Show as a table: Training loss").click()
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if look == "phone":
        page.get_by_role("button", name="Open sidebar").tap()
        assert serious(page) == []
    page.get_by_role("link", name="Train", exact=True).click()
    expect(page.get_by_label("Command", exact=True)).to_be_visible()
    assert serious(page) == []
    picture(page, f"dashboard-train-{look}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(page.url.partition("train")[0] + "models")
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    assert serious(page) == []
