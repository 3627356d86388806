"""The report card shows what the stages left, and nothing that they did not."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import report
from nanochat.config import UserError


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
    code = "import sys, nanochat.report as r; r.write_section('tok_train', {}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_damaged_section_is_named(base):
    report.write_section("base_eval", {"val_bpb": 1.0})
    (base / "report" / "base_eval.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"base_eval\.json is not valid JSON"):
        report.build()


def test_the_commit_is_that_of_the_code():
    here = Path(report.__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here)
    assert report.git_commit().removesuffix("-dirty") == (found.stdout.strip() if found.returncode == 0 else "unknown")
