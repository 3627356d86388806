"""The report card shows what the stages wrote, and only that."""

import html.parser
import json
import math
import re
import shutil
import struct
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
from nanochat.report.card import build
from nanochat.report.sections import STAGES, folder, git_commit, price, write_section
from scripts import report as script

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def write_all() -> None:
    write_section("tok_train", {"flags": {"vocab_size": 4096}, "vocab_size": 4096, "bytes": 5e6, "seconds": 9.0})
    write_section("tok_eval", {"compression": {"val": {"bytes": 9000, "tokens": {"ours": 2000, "gpt2": 2500}}}})
    training = {"parameters": 4_600_000, "steps": 900, "tokens_per_second": 12_345.0, "flags": {"depth": 4}}
    write_section("base_train", {**training, "tokens": 3_000_000, "seconds": 240.0, "val_bpb": 0.91})
    write_section("base_eval", {"train_bpb": 0.88, "val_bpb": 0.9, "val_perplexity": 21.5, "samples": [
        {"prompt": "Once upon a time", "text": " there was a *fox*.\n\nIt ran."}]})  # fmt: skip
    write_section("chat_sft", {**training, "tokens": 500_000, "seconds": 35.0, "train_loss": math.nan, "flags": {}})
    for source, correct in (("base", 4), ("sft", 196)):
        write_section(f"chat_eval_{source}", {
            "tasks": {"facts": {"n": 200, "correct": correct, "interval": [0.95, 0.99]}, "spelling": {"n": 0}},
            "samples": [{"messages": [
                {"role": "user", "content": "What is 123 + 456?"},
                {"role": "assistant", "content": [
                    {"type": "python", "text": "123+456"}, {"type": "python_output", "text": "579"},
                    {"type": "text", "text": "It is 579."}]}]}] * 2})  # fmt: skip


def cells(text: str, chapter: str) -> list[list[str]]:
    """The rows of a chapter's tables, the head first."""
    body = text.split(f"## {chapter}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for i, row in enumerate(rows) if i != 1]


def top(text: str) -> dict[str, str]:
    """The row of figures before the first chapter."""
    head, _, row = (line for line in text.split("\n## ")[0].splitlines() if line.startswith("|"))
    return dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (head, row)), strict=True))


def edit(stage: str, **changes) -> None:
    path = folder() / f"{stage}.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def report_html() -> str:
    return (folder() / "report.html").read_text(encoding="utf-8")


def test_card_of_a_run(base):
    write_all()
    text = build()
    assert (base / "report" / "report.md").read_text(encoding="utf-8") == text
    assert cells(text, "Accuracy") == [
        ["correct (95 % interval, n)", "base", "SFT"],  # no mid section, no mid column
        ["facts", "2.0 % (95–99, 200)", "98.0 % (95–99, 200)"],
        ["spelling", "", ""],
    ]
    assert cells(text, "Bits per byte")[1:] == [
        ["base_train", "", "", "0.9100", ""], ["base_eval", "", "0.8800", "0.9000", "21.50"],
        ["chat_sft", "nan", "", "", ""]
    ]  # fmt: skip
    assert "vocabulary 4096, 5.0M bytes" in text
    assert cells(text, "Tokenizer") == [["bytes per token", "bytes", "ours", "gpt2"], ["val", "9000", "4.50", "3.60"]]
    times = {row[0]: row[1:] for row in cells(text, "Time")}
    assert times["base_train"] == ["4m00s", "900", "3.0M", "12k"] and times["**total**"][0] == "**4m44s**"
    assert "    base_train     --depth=4\n" in text and "    chat_sft       defaults\n" in text
    machine = dict(row[:2] for row in cells(text, "Machine"))
    assert machine["torch"] and int(machine["cores"]) >= 1 and machine["CPU"]
    assert top(text) == {
        "parameters": "4.6M", "tokens trained on": "3.5M", "time": "4m44s", "cost": "no price was given",
        "mean score": "98 %",
    }  # fmt: skip
    assert "> **Once upon a time** there was a \\*fox\\*.\n>\n> It ran." in text
    assert text.count("> **assistant**: \\[123+456\\]\\[= 579\\]It is 579.") == 2 and "## Conversations (SFT)" in text


def test_where_the_time_of_the_stages_went():
    write_section("base_train", {"seconds": 90.0, "times": {"compile": 10.0, "forward": 60.0, "backward": 30.0}})
    write_section("chat_sft", {"seconds": 8.0, "times": {"data": 2.0, "forward": 6.0}})
    rows = cells(build(), "Time")
    assert rows[rows.index(["where the time went", "base_train", "chat_sft"]) + 2 :] == [
        ["compile", "10.0 s (10%)", ""],
        ["forward", "60.0 s (60%)", "6.0 s (75%)"],
        ["backward", "30.0 s (30%)", ""],
        ["data", "", "2.0 s (25%)"],
        ["**the whole stage**", "**100.0 s**", "**8.0 s**"],
    ]


def test_a_section_is_strict_json_and_needs_no_heavy_import(base):
    code = "import sys, nanochat.report.sections as s; s.write_section('chat_sft', {'train_loss': float('nan')})"
    check = "print({'torch', 'matplotlib', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
    section = json.loads((base / "report" / "chat_sft.json").read_text(encoding="utf-8"))
    assert section["train_loss"] == "NaN" and section["stage"] == "chat_sft"


def test_stages_that_did_not_run_are_absent():
    write_section("tok_train", {"seconds": 3.0})
    assert re.findall("^## .*", build(), flags=re.MULTILINE) == ["## Time", "## Machine"]


def test_stages_on_two_machines():
    write_section("base_train", {})
    write_section("chat_sft", {})
    edit("base_train", machine={"GPU": "8 x H100"})
    assert cells(build(), "Machine") == [["machine", "base_train", "chat_sft"], ["GPU", "8 x H100", "none"]]


def test_without_a_section_nothing_is_written(base):
    with pytest.raises(UserError, match="no stage has written a section"):
        build()
    assert not list(base.iterdir())


def test_a_damaged_section_is_named(base):
    write_section("base_eval", {"val_bpb": 1.0})
    (base / "report" / "base_eval.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"base_eval\.json cannot be read .*; delete it and run base_eval again"):
        build()


def test_a_section_of_another_version_loses_only_its_chapters():
    write_all()
    edit("base_eval", core=0.25)
    text = build()
    assert "Another version wrote a section of these: Summary, CORE." in text and "## Bits per byte" in text
    assert "Left out, as another version wrote a section: the heading." in report_html()
    assert "<h2>Accuracy</h2>" in report_html()


def test_the_commit_is_that_of_the_code():
    here = Path(script.__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here)
    assert git_commit().removesuffix("-dirty") == (found.stdout.strip() if found.returncode == 0 else "unknown")


# ---------------------------------------------------------------- what training logged


def log(source: str, lines: list[dict], cut: str = "", config: dict | None = None) -> None:
    """What a training stage logs beside its checkpoints."""
    where = paths.checkpoints_dir(source) / "d4"
    where.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines) + cut
    (where / "metrics.jsonl").write_text(text, encoding="utf-8")
    (where / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")


def trained(stage: str, source: str, **more) -> None:
    write_section(stage, {"source": source, "tag": "d4", "seconds": 60.0, **more})


def steps(n: int, **more: float) -> list[dict]:
    return [
        {"step": i, "loss": 4 / i, "lr": 1 - i / n, "seconds": 3.0, "tok_per_second": 1000.0 + i, **more}
        for i in range(1, n + 1)
    ]


def test_every_training_stage_has_curves(base):
    for stage, source in (("base_train", "base"), ("mid_train", "mid"), ("chat_sft", "sft")):
        trained(stage, source)
        log(source, [{"step": 0, "val_bpb": 2.5}, *steps(40), {"step": 40, "val_bpb": 1.25}])
    trained("chat_rl", "rl")
    log("rl", [*steps(5, reward=0.5), {"step": 5, "pass@1/spelling": 0.75, "pass@1/counting": 0.5, "val_bpb": 9}])
    text = build()
    files = {path.name for path in (base / "report").glob("*.svg")}
    assert files == {
        *(f"{stage}_{curve}.svg" for stage in ("base_train", "mid_train", "chat_sft")
          for curve in ("loss", "bpb", "lr", "speed")),
        "chat_rl_reward.svg", "chat_rl_lr.svg", "chat_rl_speed.svg", "loss.svg",
    }  # fmt: skip
    assert all(f"]({name})" in text for name in files)
    assert "![training loss, nats per token: from 4 at step 1 to 0.1 at step 40, lowest 0.1, highest 4.]" in text
    assert report_html().count('<img src="data:image/svg') == len(files)
    assert report_html().count("validation, bits per byte: from 2.5 at step 0 to 1.25 at step 40, ") == 3
    assert "spelling 0.75" not in report_html()  # one dot is no curve
    [whole] = re.findall(r"training loss, nats per token: (base_train .*?)\"", report_html())
    assert whole == (
        "base_train from 4 at minute of training 0.05 to 0.1 at minute of training 2, lowest 0.1, highest 4; "
        "mid_train from 4 at minute of training 2.05 to 0.1 at minute of training 4, lowest 0.1, highest 4; "
        "chat_sft from 4 at minute of training 4.05 to 0.1 at minute of training 6, lowest 0.1, highest 4."
    )  # one after the other; the loss of RL is none


def test_truncated_metrics_are_shown_up_to_the_damage():
    trained("base_train", "base")
    log("base", [*steps(3), {"step": 4, "loss": "NaN"}, {"loss": 9}], cut='\x00{"step": 5, "lo')
    assert "from 4 at step 1 to 1.333 at step 3" in build()


def test_resolved_settings():
    trained("base_train", "base")
    trained("mid_train", "mid")
    model = {"n_layer": 4, "window_pattern": "SSSL"}
    user = {"matrix_lr": 0.02, "total_batch_size": 524288, "window_pattern": "L", "grad_clip": None}
    log("base", steps(1), config={"model_config": model, "user_config": user})
    log("mid", steps(1), config={"model_config": model, "user_config": {"matrix_lr": 0.1 + 0.2}})
    assert cells(build(), "Configuration") == [
        ["resolved", "base_train", "mid_train"], ["n_layer", "4", "4"], ["window_pattern", "SSSL", "SSSL"],
        ["total_batch_size", "524288", ""], ["matrix_lr", "0.02", "0.3"],
    ]  # fmt: skip


# ---------------------------------------------------------------- scores and price


def test_chatcore_and_reinforcement_learning():
    write_section("chat_eval_sft", {"tasks": {"GSM8K": {"n": 8, "correct": 2.5}}, "chatcore": 0.25})
    write_section("chat_eval_rl", {"tasks": {"GSM8K": {"n": 8, "correct": 4}}, "chatcore": None})
    scores = {"scores": {"pass@1/GSM8K": 0.5, "pass@8/GSM8K": 0.75}, "before": {"pass@1/GSM8K": 0.25}}
    write_section("chat_rl", {**scores, "questions": {"GSM8K": 400}})
    text = build()
    assert cells(text, "Accuracy")[1:] == [["GSM8K", "31.2 % (8)", "50.0 % (8)"], ["**ChatCORE**", "**25.0 %**", ""]]
    assert cells(text, "Reinforcement learning")[1:] == [
        ["pass@1/GSM8K", "25.0 %", "50.0 %", "400"], ["pass@8/GSM8K", "", "75.0 %", "400"]
    ]  # fmt: skip


def test_core_the_harness_and_the_summary():
    task = {"label": "arc_easy", "kind": "multiple_choice", "shots": 10, "baseline": 0.25, "n": 500, "correct": 260,
            "too_long": 3, "accuracy": 0.52, "centered": 0.36}  # fmt: skip
    write_section("base_eval", {
        "val_bpb": 0.81234,
        "core": {"core": 0.2219, "tasks": {"arc_easy": task}, "max_per_task": 500, "bundle": "ab" * 32},
        "harness": [{"task": "hellaswag", "metric": "acc", "value": 0.31, "error": 0.005, "n": 100},
                    {"task": "piqa", "metric": "acc", "value": 0.5, "error": None, "n": 10}]})  # fmt: skip
    write_section("chat_eval_sft", {"tasks": {}, "chatcore": 0.0884})
    write_section("chat_sft", {"own_conversations": {
        "conversations": 9, "tokens": 900, "max_seq_len": 512, "cut": 1, "left_out": 2, "passes": 1.5}})  # fmt: skip
    text = build()
    assert cells(text, "CORE") == [["task", "shots", "n", "too long, so wrong", "accuracy", "centered"],
                                   ["arc_easy", "10", "500", "3", "0.5200", "0.3600"],
                                   ["**CORE**", "", "", "", "", "**0.2219**"]]  # fmt: skip
    assert "at most 500 questions per task  \nbundle abababababab\n" in text
    assert cells(text, "lm-evaluation-harness")[1:] == [
        ["hellaswag", "acc", "0.3100", "0.0050", "100"], ["piqa", "acc", "0.5000", "", "10"]
    ]  # fmt: skip
    assert cells(text, "Your conversations")[1:] == [["chat_sft", "9", "900", "512", "1", "2", "1.50"]]
    summary = text.split("## ")[0]
    assert "0.8123 bits per byte, CORE 0.2219, ChatCORE 8.8 % (SFT)" in summary
    assert not re.search("[0-9a-f]{13}", summary)  # commits are short


def test_what_the_run_cost(capsys):
    write_section("base_train", {"seconds": 7200.0})
    write_section("chat_sft", {"seconds": 1800.0})
    edit("base_train", machine={"GPU": "8 x NVIDIA H100 80GB HBM3"})
    script.main(["--price_per_gpu_hour=2.50"])
    text = capsys.readouterr().out
    rows = {row[0]: row[-2:] for row in cells(text, "Time")}
    assert rows["base_train"] == ["8", "$40.00"] and rows["chat_sft"] == ["1", "$1.25"]
    assert rows["**total**"] == ["", "**$41.25**"] and top(text)["cost"] == "$41.25" and top(text)["time"] == "2h30m"
    assert "at $2.50 an hour" in report_html()
    assert "report.html" in text.splitlines()[-1]
    assert top(build())["cost"] == "no price was given"


def test_price_from_the_environment(monkeypatch):
    assert price(None) is None and price(0) == 0
    monkeypatch.setenv("NANOCHAT_PRICE_PER_GPU_HOUR", "3")
    assert price(None) == 3 and price(1.5) == 1.5
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("NANOCHAT_PRICE_PER_GPU_HOUR", wrong)
        with pytest.raises(UserError, match="NANOCHAT_PRICE_PER_GPU_HOUR is .*; expected dollars"):
            price(None)
    with pytest.raises(UserError, match="--price_per_gpu_hour is -2"):
        price(-2)


# ---------------------------------------------------------------- the page


class Page(html.parser.HTMLParser):
    """The elements of a page, checked to be nested well, and its text."""

    TAGS = frozenset(
        "html head meta title style body main header h1 h2 h3 div section article details summary dl dt dd p br span i "
        "q time small table caption thead tbody tr th td pre code strong blockquote hr img".split()
    )

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), set(), []
        self.feed(report_html())
        self.close()
        assert self.open == [] and self.tags <= self.TAGS
        assert not {name for name in self.attributes if name.startswith("on")}

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br", "hr", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("br", "hr", "img"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_has_every_chapter_and_loads_nothing():
    write_all()
    text = build()
    Page()
    page = report_html()
    assert not re.search(r"(src|href)=\"(?!#|data:image/svg)", page) and "@import" not in page and "url(" not in page
    for chapter in re.findall(r"^## (.*)$", text, flags=re.MULTILINE):
        assert f"<h3>{chapter}</h3></summary>" in page
    assert "<strong>Once upon a time</strong> there was a *fox*." in page
    assert "<strong>assistant</strong>: [123+456][= 579]It is 579." in page


HOSTILE = (
    '</p><script>alert(1)</script><img src=x onerror="alert(2)"> [a](javascript:x) ![b](https://evil.example/x) '
    "<https://evil.example> &lt; **c** ~~d~~ \x00\x1b[31m\ud800 `|*"
)
BLOCKS = (
    "# a\n\n- b\n+ c\n\n1. d\n2) e\n\n    f\n\n---\n===\n> g\n\n|h|\n|--|\n\n```\ni\n\n[j]: https://evil.example\n:--"
)


def test_hostile_text_is_shown_as_text():
    core = {"core": 1, "tasks": {HOSTILE: {"n": 1, "accuracy": 1, "too_long": 1}}}
    write_section("base_eval", {"samples": [{"prompt": HOSTILE, "text": HOSTILE}], "core": core})
    chat = [{"messages": [{"role": HOSTILE, "content": HOSTILE}, {"role": "user", "content": BLOCKS}]}]
    chat[0] |= {"task": HOSTILE, "right": False, "expected": HOSTILE}
    flags = {HOSTILE: f"{HOSTILE}\n\n# {HOSTILE}"}
    task = {"n": 1, "correct": 1, "asks": HOSTILE}
    write_section("chat_eval_sft", {"tasks": {HOSTILE: task}, "flags": flags, "samples": chat, "tag": HOSTILE})
    write_section("chat_sft", {"tag": HOSTILE, "commit": HOSTILE, "machine": {"GPU": HOSTILE}})
    trained("chat_rl", "rl", scores={HOSTILE: 1})
    log("rl", [{"step": 1, f"pass@1/{HOSTILE}": 0.5}])
    text = build()
    page = Page()
    assert "onerror" not in page.attributes and not {"ul", "h3", "ol"} & set(page.open)
    shown = "".join(page.text)
    assert shown.count("<script>alert(1)</script>") >= 7 and shown.count("![b](https://evil.example/x)") >= 7
    assert shown.count("&lt; **c** ~~d~~") >= 7
    links = re.findall(r'(?:href|src)="([^"]*)"', report_html())
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert "\x1b" not in text and "\x00" not in text
    quote = report_html().split("<strong>user</strong>")[1].split("</blockquote>")[0]
    assert set(re.findall(r"<(\w+)", quote)) == {"p", "br"}  # no list, heading, table, rule or code block


def front() -> str:
    """The page without what is folded."""
    return re.sub(r"<details>.*?</details>", "", report_html(), flags=re.DOTALL)


def graded(**tasks: tuple[int, int]) -> dict:
    return {name: {"n": n, "correct": right, "interval": [0.25, 0.75], "asks": f"What {name} asks."}
            for name, (right, n) in tasks.items()}  # fmt: skip


def said(*texts: str | list[dict]) -> dict:
    return {"messages": [{"role": "user" if i % 2 == 0 else "assistant", "content": text}
                         for i, text in enumerate(texts)]}  # fmt: skip


def test_the_front_has_bars_of_every_stage_conversations_and_what_is_asked():
    sums = [{"type": "python", "text": "1+2"}, {"type": "python_output", "text": "3"}, {"type": "text", "text": "3."}]
    trained("base_train", "base", parameters=13e6, tokens=4e6, step=420)
    trained("mid_train", "mid")
    trained("chat_sft", "sft", step=580)
    write_section("chat_eval_base", {"tasks": graded(facts=(1, 10))})
    tasks = graded(facts=(9, 10), names=(2, 10), sums=(5, 10), then=(8, 10))
    write_section("chat_eval_sft", {"tasks": tasks, "samples": [
        {"task": "facts", "right": False, "expected": "Mira is a farmer.", **said("Her job?", "Baker.")},
        {"task": "names", "right": True, "expected": "Ada", **said("Who?", "Ada.")},
        {"task": "sums", "right": True, "expected": "3", **said("1 + 2?", sums)},
        {"task": "then", "right": True, "expected": "So", **said("Why?", "So.", "And then?", "So.")}]})  # fmt: skip
    build()
    Page()
    page = front()
    assert "<h1>d4 · SFT</h1>" in page and "step 580" in page and "Not graded: mid." in page
    assert "A language model of 13M parameters, trained and measured in 3m00s on " in page
    assert (
        "; it answers 60 % of held-out questions correctly, averaged over 4 tasks: "
        "from 20 % in names to 90 % in facts.</p>"
    ) in page
    assert '<dt>cost</dt><dd class="value">–</dd><dd>no price was given</dd>' in page  # not measured, not invented
    bars = re.findall(r'class="filled (\w+)" style="width:([\d.]+)%"></i>(<i class="whisker" style="[^"]*">)?', page)
    whisker = '<i class="whisker" style="left:25.00%;width:50.00%">'
    assert bars == [("base", "10.00", whisker), ("SFT", "90.00", whisker), ("SFT", "20.00", whisker),
                    ("SFT", "50.00", whisker), ("SFT", "80.00", whisker), ("SFT", "60.00", "")]  # fmt: skip
    talks = re.findall(r'<article class="talk"><h3>(\w+)<span class="verdict (\w+)">', page)
    assert talks == [("facts", "wrong"), ("sums", "right"), ("then", "right")]  # with a sum and a follow-up
    assert "expected: Mira is a farmer." in page
    assert '<span class="tool"><small>calculator </small><code>1+2</code></span>' in page
    assert [f"What {task} asks." in page for task in ("facts", "names", "sums", "then")] == [True] * 4
    assert "Why?" in page and "<h2>Loss</h2>" not in page  # nothing was logged


def test_sections_of_before_tasks_had_names_have_theirs_by_order():
    samples = [said("Who?", "Ada."), said("What?", "A cat.")]
    write_section("chat_eval_sft", {"tasks": graded(people=(1, 2), animals=(1, 2)), "samples": samples})
    build()
    page = front().split("</style>")[1]
    assert "<h3>people</h3>" in page and "<h3>animals</h3>" in page and "verdict" not in page


def test_a_picture_and_tags_for_sharing(base):
    write_all()
    write_section("chat_sft", {"tag": 'd4" onload="x', "seconds": 1.0})
    build(price=2.5)
    data = (base / "report" / "report.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", data[16:24]) == (1200, 630)
    told = dict(re.findall(r'<meta property="([^"]*)" content="([^"]*)">', report_html()))
    assert told["og:image"] == "report.png" and told["og:image:width"] == "1200"
    assert told["og:title"] == "d4&quot; onload=&quot;x · SFT: nanochat report card"
    assert "it answers 98 % of held-out questions correctly." in told["og:description"]
    before = data
    write_section("chat_eval_sft", {"tasks": graded(facts=(1, 10))})
    build(price=2.5)
    assert (base / "report" / "report.png").read_bytes() != before  # it shows the scores


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width, look", [(390, "dark"), (1200, "light")])
def test_the_page_in_a_browser(base, width, look):
    """It fetches nothing, does not scroll sideways, and axe-core finds nothing in it; pictures have names."""
    write_all()
    trained("mid_train", "mid", flags={"a_flag": "x" * 80})
    log("mid", [*steps(200), {"step": 100, "val_bpb": 1.25}, {"step": 200, "val_bpb": 1.0}])
    build(price=2.5)
    fetched = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        viewport: ViewportSize = {"width": width, "height": 800}
        page = browser.new_page(color_scheme=look, viewport=viewport, bypass_csp=True)  # axe is a script
        page.on("request", lambda request: fetched.append(request.url))
        page.goto((base / "report" / "report.html").as_uri())
        curve = page.get_by_role("img", name="validation, bits per byte: from 1.25 at step 100 to 1 at")
        assert curve.count() == 0 and page.get_by_role("img", name="training loss, nats per token").count() == 1
        assert Axe().run(page).response["violations"] == []
        for summary in page.locator("summary").all():
            summary.click()
        assert curve.count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert Axe().run(page).response["violations"] == []
        page.emulate_media(media="print")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 254, 252)"  # also at night
        browser.close()
    assert [url for url in fetched if not url.startswith("data:")] == [(base / "report" / "report.html").as_uri()]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["NaN", "Infinity", "rl", "base", "d4", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=4) | st.sampled_from(
            ["n", "correct", "interval", "prompt", "text", "messages", "role", "content", "type", "core", "tasks",
             "value", "error", "GPU", "tokens", "bytes", "step", "loss", "val_bpb", "accuracy/a", "seconds", "task",
             "right", "expected", "asks", "cores"]
        ), inner, max_size=4,
    ), max_leaves=12,
)  # fmt: skip
KEYS = ("tasks", "samples", "core", "harness", "machine", "flags", "seconds", "tokens", "compression", "scores", "tag",
        "source", "parameters", "chatcore", "before", "questions", "commit", "steps", "train_loss", "val_bpb",
        "vocab_size", "written", "step")  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(STAGES), st.dictionaries(st.sampled_from(KEYS), anything, max_size=8),
                       min_size=1), st.lists(anything, max_size=4))  # fmt: skip
def test_any_sections_and_any_metrics_make_a_card(written, lines):
    with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patched:
        patched.setenv("NANOCHAT_BASE_DIR", base)
        for stage, section in written.items():
            paths.write_text(folder() / f"{stage}.json", json.dumps(section))
        for name in paths.SOURCES.values():
            logs = Path(base) / name / "d4"
            logs.mkdir(parents=True)
            (logs / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
            (logs / "config.json").write_text(json.dumps(lines[:1]), encoding="utf-8")
        assert build(price=2.0).startswith("# Report card\n")
        Page()
