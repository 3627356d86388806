"""The report card shows what the stages left, and nothing that they did not."""

import html.parser
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import ViewportSize, sync_playwright

from nanochat import paths
from nanochat.errors import UserError
from nanochat.report import sections as report
from scripts import report as script

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def write_all() -> None:
    report.write_section("tok_train", {"flags": {"vocab_size": 4096}, "vocab_size": 4096, "seconds": 9.0})
    report.write_section("tok_eval", {"compression": {"val": {"bytes": 9000, "tokens": {"ours": 2000, "gpt2": 2500}}}})
    training = {"parameters": 4_600_000, "steps": 900, "tokens_per_second": 12_345.0, "flags": {"depth": 4}}
    report.write_section("base_train", {**training, "tokens": 3_000_000, "seconds": 240.0, "val_bpb": 0.91})
    report.write_section("base_eval", {"train_bpb": 0.88, "val_bpb": 0.9, "samples": [
        {"prompt": "Once upon a time", "text": " there was a *fox*.\n\nIt ran."}]})  # fmt: skip
    report.write_section("chat_sft", {**training, "tokens": 500_000, "seconds": 35.0, "train_loss": math.nan})
    for source, correct in (("base", 4), ("sft", 196)):
        report.write_section(f"chat_eval_{source}", {
            "tasks": {"facts": {"n": 200, "correct": correct, "interval": [0.95, 0.99]}, "spelling": {"n": 0}},
            "samples": [{"messages": [
                {"role": "user", "content": "What is 123 + 456?"},
                {"role": "assistant", "content": [
                    {"type": "python", "text": "123+456"}, {"type": "python_output", "text": "579"},
                    {"type": "text", "text": "It is 579."}]}]}]})  # fmt: skip


def cells(card: str, chapter: str) -> list[list[str]]:
    """The rows of a chapter's table, the head first."""
    body = card.split(f"## {chapter}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for i, row in enumerate(rows) if i != 1]


def test_accuracies_have_a_column_a_checkpoint():
    write_all()
    head, facts, spelling = cells(report.build(), "Accuracy")
    assert head[1:] == ["base", "SFT"]  # no mid section, no mid column
    assert facts == ["facts", "2.0 % (95–99, 200)", "98.0 % (95–99, 200)"]
    assert spelling == ["spelling", "", ""]


def test_bits_per_byte_and_losses():
    write_all()
    assert cells(report.build(), "Bits per byte")[1:] == [
        ["base_train", "", "", "0.9100"], ["base_eval", "", "0.8800", "0.9000"], ["chat_sft", "nan", "", ""]
    ]  # fmt: skip


def test_times_add_up():
    write_all()
    rows = {row[0]: row[1:] for row in cells(report.build(), "Time")}
    assert rows["base_train"] == ["4m00s", "900", "3.0M", "12k"]
    assert rows["**total**"][0] == "**4m44s**"


def test_tokenizer_flags_and_machine():
    write_all()
    card = report.build()
    assert cells(card, "Tokenizer") == [["bytes per token", "bytes", "ours", "gpt2"], ["val", "9000", "4.50", "3.60"]]
    assert ["base_train", "`--depth=4`"] in cells(card, "Configuration")
    machine = dict(row[:2] for row in cells(card, "Machine"))
    assert machine["torch"] and int(machine["cores"]) >= 1 and machine["CPU"]


def test_samples_are_quoted_and_escaped():
    write_all()
    card = report.build()
    assert "> **Once upon a time** there was a \\*fox\\*.\n>\n> It ran." in card
    assert "> **user**: What is 123 + 456?\n>\n> **assistant**: [123+456][= 579]It is 579." in card


def test_control_characters_do_not_reach_the_terminal():
    report.write_section("base_eval", {"samples": [{"prompt": "", "text": "red\x1b[31m\x0b alert\n\nnext"}]})
    assert "> red\ufffd[31m\ufffd alert\n>\n> next" in report.build()


def test_missing_sections_are_absent():
    report.write_section("tok_train", {"seconds": 3.0})
    card = report.build()
    titles = [line for line in card.splitlines() if line.startswith("## ")]
    assert titles == ["## Time", "## Machine"]


def test_the_card_is_written_and_the_sections_are_strict_json(base):
    write_all()
    card = report.build()
    assert (base / "report" / "report.md").read_text(encoding="utf-8") == card
    section = json.loads((base / "report" / "chat_sft.json").read_text(encoding="utf-8"))
    assert section["train_loss"] == "NaN" and section["stage"] == "chat_sft"


def test_two_machines_are_both_shown(base):
    write_all()
    path = base / "report" / "base_train.json"
    section = json.loads(path.read_text(encoding="utf-8"))
    section["machine"]["GPU"] = "8 x H100"
    path.write_text(json.dumps(section), encoding="utf-8")
    card = report.build()
    assert "8 x H100" in card and "base_train\n\n| machine" in card


def test_nothing_to_report_changes_nothing(base):
    with pytest.raises(UserError, match="no stage has left a section"):
        report.build()
    assert not list(base.iterdir())


def test_a_section_is_written_without_torch(base):
    code = "import sys, nanochat.report.sections as r; r.write_section('tok_train', {}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_damaged_section_is_named(base):
    report.write_section("base_eval", {"val_bpb": 1.0})
    (base / "report" / "base_eval.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"base_eval\.json cannot be read .*; delete it and run base_eval again"):
        report.build()


def test_the_commit_is_that_of_the_code():
    here = Path(report.__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here)
    assert report.git_commit().removesuffix("-dirty") == (found.stdout.strip() if found.returncode == 0 else "unknown")


# ---------------------------------------------------------------- curves


def log(source: str, lines: list[dict], tag: str = "d4", cut: str = "", config: dict | None = None) -> None:
    """What a training stage logs beside its checkpoints."""
    folder = paths.checkpoints_dir(source) / tag
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + cut
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")


def trained(stage: str, source: str, **more) -> None:
    report.write_section(stage, {"source": source, "tag": "d4", "seconds": 60.0, **more})


def steps(n: int, **more: float) -> list[dict]:
    return [{"step": i, "loss": 4 / i, "lr": 1 - i / n, "tok_per_second": 1000.0 + i, **more} for i in range(1, n + 1)]


def test_every_training_stage_has_its_curves(base):
    for stage, source in (("base_train", "base"), ("mid_train", "mid"), ("chat_sft", "sft")):
        trained(stage, source)
        log(source, [*steps(40), {"step": 40, "val_bpb": 1.25}])
    trained("chat_rl", "rl")
    log("rl", [*steps(5, reward=0.5), {"step": 5, "pass@1/spelling": 0.75, "pass@1/counting": 0.5}])
    card = report.build()
    files = {path.name for path in (base / "report").glob("*.svg")}
    assert files == {
        *(f"{stage}_{curve}.svg" for stage in ("base_train", "mid_train", "chat_sft")
          for curve in ("loss", "bpb", "lr", "speed")),
        "chat_rl_reward.svg", "chat_rl_pass.svg", "chat_rl_lr.svg", "chat_rl_speed.svg",
    }  # fmt: skip
    assert all(f"]({name})" in card for name in files)
    assert "![training loss, nats per token: from 4 at step 1 to 0.1 at step 40, lowest 0.1, highest 4.]" in card
    page = (base / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == len(files) and page.count("validation, bits per byte: 1.25 at step 40.") == 3
    assert "spelling 0.75 at step 5; counting 0.5 at step 5." in page


def test_metrics_that_were_cut_short_are_shown_as_far_as_they_go(base):
    trained("base_train", "base")
    log("base", [*steps(3), {"step": 4, "loss": "NaN"}, {"loss": 9}], cut='\x00{"step": 5, "lo')
    assert "from 4 at step 1 to 1.333 at step 3" in report.build()


def test_curves_of_stages_that_are_gone_go_too(base):
    trained("base_train", "base")
    log("base", steps(3))
    report.build()
    (base / "report" / "mine.svg").write_text("<svg/>", encoding="utf-8")
    (base / "base_checkpoints" / "d4" / "metrics.jsonl").unlink()
    assert "Curves" not in report.build()
    assert [path.name for path in (base / "report").glob("*.svg")] == ["mine.svg"]


def test_many_tasks_are_one_mean(base):
    trained("chat_sft", "sft")
    log("sft", [{"step": step, **{f"accuracy/{i}": i / 10 for i in range(8)}} for step in (100, 200)])
    assert "from 0.35 at step 100 to 0.35 at step 200" in report.build()
    assert "mean of 8 tasks" in (base / "report" / "report.html").read_text(encoding="utf-8")


def test_what_a_stage_settled_on(base):
    trained("base_train", "base", flags={"depth": 4})
    trained("mid_train", "mid", flags={})
    shape = {"n_layer": 4, "window_pattern": "SSSL"}
    settled = {"matrix_lr": 0.02, "total_batch_size": 524288}
    log("base", steps(1), config={"model_config": shape, "user_config": settled})
    log("mid", steps(1), config={"model_config": shape, "user_config": {"matrix_lr": 0.01}})
    rows = cells(report.build(), "Configuration")
    assert ["settled on", "base_train", "mid_train"] in rows and ["mid_train", "defaults"] in rows
    assert ["window_pattern", "SSSL", "SSSL"] in rows and ["n_layer", "4", "4"] in rows
    assert ["matrix_lr", "0.02", "0.01"] in rows and ["total_batch_size", "524288", ""] in rows


# ---------------------------------------------------------------- scores


def test_chatcore_and_reinforcement_learning():
    report.write_section("chat_eval_sft", {"tasks": {"GSM8K": {"n": 8, "correct": 2.5}}, "chatcore": 0.25})
    report.write_section("chat_eval_rl", {"tasks": {"GSM8K": {"n": 8, "correct": 4}}, "chatcore": None})
    scores = {"scores": {"pass@1/GSM8K": 0.5, "pass@8/GSM8K": 0.75}, "before": {"pass@1/GSM8K": 0.25}}
    report.write_section("chat_rl", {**scores, "questions": {"GSM8K": 400}})
    card = report.build()
    assert cells(card, "Accuracy")[1:] == [["GSM8K", "31.2 % (8)", "50.0 % (8)"], ["**ChatCORE**", "25.0 %", ""]]
    assert cells(card, "Reinforcement learning")[1:] == [
        ["pass@1/GSM8K", "25.0 %", "50.0 %", "400"], ["pass@8/GSM8K", "", "75.0 %", "400"]
    ]  # fmt: skip


def test_the_scores_that_others_publish_stand_at_the_top():
    report.write_section("base_eval", {"val_bpb": 0.81234, "core": {"core": 0.2219, "tasks": {}}})
    report.write_section("chat_eval_sft", {"tasks": {}, "chatcore": 0.0884})
    lead = report.build().split("## ")[0]
    assert "0.8123 bits per byte, CORE 0.2219, ChatCORE 8.8 % (SFT)" in lead
    assert not re.search("[0-9a-f]{13}", lead)  # commits are short


def test_core_and_the_harness_have_tables():
    task = {"label": "arc_easy", "kind": "multiple_choice", "shots": 10, "baseline": 0.25, "n": 500, "correct": 260,
            "too_long": 3, "accuracy": 0.52, "centered": 0.36}  # fmt: skip
    report.write_section("base_eval", {
        "core": {"core": 0.2219, "tasks": {"arc_easy": task}, "max_per_task": 500, "bundle": "ab" * 32},
        "harness": [{"task": "hellaswag", "metric": "acc", "value": 0.31, "error": 0.005, "n": 100},
                    {"task": "piqa", "metric": "acc", "value": 0.5, "error": None, "n": 10}]})  # fmt: skip
    card = report.build()
    assert cells(card, "CORE")[1:] == [["arc_easy", "10", "500", "0.5200", "0.3600"],
                                       ["**CORE**", "", "", "", "**0.2219**"]]  # fmt: skip
    assert "arc_easy: 3 too long for the context" in card and "at most 500 questions of a task" in card
    assert "bundle abababababab\n" in card
    assert cells(card, "lm-evaluation-harness")[1:] == [
        ["hellaswag", "acc", "0.3100 ± 0.0050", "100"], ["piqa", "acc", "0.5000", "10"]
    ]  # fmt: skip


# ---------------------------------------------------------------- price


def on(gpu: str, stage: str) -> None:
    path = report.folder() / f"{stage}.json"
    section = json.loads(path.read_text(encoding="utf-8"))
    section["machine"]["GPU"] = gpu
    path.write_text(json.dumps(section), encoding="utf-8")


def test_what_the_run_cost(capsys):
    report.write_section("base_train", {"seconds": 7200.0})
    report.write_section("chat_sft", {"seconds": 1800.0})
    on("8 x NVIDIA H100 80GB HBM3", "base_train")
    on("none", "chat_sft")
    script.main(["--price_per_gpu_hour=2.50"])
    card = capsys.readouterr().out
    rows = {row[0]: row[-2:] for row in cells(card, "Time")}
    assert rows["base_train"] == ["8", "$40.00"] and rows["chat_sft"] == ["1", "$1.25"]
    assert rows["**total**"] == ["", "**$41.25**"] and "in 2h30m for $41.25" in card
    assert "report.html" in card.splitlines()[-1]
    assert "cost" not in report.build()


def test_the_price_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("NANOCHAT_PRICE_PER_GPU_HOUR", "3")
    assert report.price(None) == 3 and report.price(1.5) == 1.5
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("NANOCHAT_PRICE_PER_GPU_HOUR", wrong)
        with pytest.raises(UserError, match="NANOCHAT_PRICE_PER_GPU_HOUR is .*; expected dollars"):
            report.price(None)
    with pytest.raises(UserError, match="--price_per_gpu_hour is -2"):
        report.price(-2)


# ---------------------------------------------------------------- the page


class Page(html.parser.HTMLParser):
    """The elements of a page, that they are nested well, and its text."""

    EMPTY = ("meta", "br", "hr", "wbr", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


PAGE_TAGS = set(
    "html head meta title style body main h1 h2 h3 div nav ul li a section p br table thead tbody tr th td code strong "
    "blockquote hr wbr img".split()
)
HOSTILE = '</p><script>alert(1)</script><img src=x onerror="alert(2)"> [a](javascript:x) \x00\x1b[31m\ud800 `|*'


def test_the_page_has_every_chapter_and_needs_nothing(base):
    write_all()
    card = report.build()
    text = (base / "report" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags <= PAGE_TAGS and not {name for name in page.attributes if name.startswith("on")}
    assert not re.search(r"(src|href)=\"(?!#|data:image/svg)", text) and "@import" not in text and "url(" not in text
    for chapter in re.findall(r"^## (.*)$", card, flags=re.MULTILINE):
        assert f">{chapter}</h2>" in text
    assert "<strong>Once upon a time</strong> there was a *fox*." in text
    assert "<strong>assistant</strong>: [123+456][= 579]It is 579." in text


def test_hostile_texts_stay_texts(base):
    report.write_section("base_eval", {"samples": [{"prompt": HOSTILE, "text": HOSTILE}],
                                       "core": {"core": 1, "tasks": {HOSTILE: {"n": 1, "accuracy": 1}}}})  # fmt: skip
    said = [{"messages": [{"role": HOSTILE, "content": HOSTILE}]}]
    tasks = {HOSTILE: {"n": 1, "correct": 1}}
    report.write_section("chat_eval_sft", {"tasks": tasks, "flags": {HOSTILE: HOSTILE}, "samples": said})
    trained("chat_rl", "rl", scores={HOSTILE: 1})
    log("rl", [{"step": 1, f"pass@1/{HOSTILE}": 0.5}])
    card = report.build()
    page = Page((base / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.tags <= PAGE_TAGS and "onerror" not in page.attributes
    assert sum("<script>alert(1)</script>" in text for text in page.text) >= 6
    assert "\x1b" not in card and "\x00" not in card
    for line in card.splitlines():
        assert not re.search(r"(?<!\\)<(script|img|/p)", re.sub(r"`[^`]*`", "", line))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width, look", [(390, "dark"), (1200, "light")])
def test_the_page_in_a_browser(base, width, look):
    """It fetches nothing, does not scroll sideways, and axe-core finds nothing in it; pictures have names."""
    write_all()
    trained("mid_train", "mid", flags={"a_flag": "x" * 80})
    log("mid", [*steps(200), {"step": 100, "val_bpb": 1.25}, {"step": 200, "val_bpb": 1.0}])
    report.build(price=2.5)
    fetched = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        viewport: ViewportSize = {"width": width, "height": 800}
        page = browser.new_page(color_scheme=look, viewport=viewport, bypass_csp=True)  # axe is a script
        page.on("request", lambda request: fetched.append(request.url))
        page.goto((base / "report" / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.get_by_role("img", name="validation, bits per byte: from 1.25 at step 100 to 1 at").count() == 1
        assert Axe().run(page).response["violations"] == []
        browser.close()
    assert len(fetched) == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["NaN", "Infinity", "rl", "base", "d4", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=4) | st.sampled_from(
            ["n", "correct", "interval", "prompt", "text", "messages", "role", "content", "type", "core", "tasks",
             "value", "error", "GPU", "tokens", "bytes", "step", "loss", "val_bpb", "accuracy/a"]
        ), inner, max_size=4,
    ), max_leaves=12,
)  # fmt: skip
KEYS = ("tasks", "samples", "core", "harness", "machine", "flags", "seconds", "tokens", "compression", "scores", "tag",
        "source", "parameters", "chatcore", "before", "questions", "commit", "steps", "train_loss", "val_bpb",
        "vocab_size")  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(report.STAGES), st.dictionaries(st.sampled_from(KEYS), anything, max_size=8),
                       min_size=1), st.lists(anything, max_size=4))  # fmt: skip
def test_any_sections_and_any_metrics_make_a_card(sections, lines):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("NANOCHAT_BASE_DIR", folder)
        for stage, section in sections.items():
            paths.write_text(report.folder() / f"{stage}.json", json.dumps(section))
        for name in paths.SOURCES.values():
            log_folder = Path(folder) / name / "d4"
            log_folder.mkdir(parents=True)
            (log_folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
            (log_folder / "config.json").write_text(json.dumps(lines[:1]), encoding="utf-8")
        assert report.build(price=2.0).startswith("# Report card\n")
        assert Page((report.folder() / "report.html").read_text(encoding="utf-8")).tags <= PAGE_TAGS
