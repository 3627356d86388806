"""Metrics survive kills and resumes as strict JSON; progress is a bar on a terminal and lines elsewhere."""

import json
import math
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import UserError
from nanochat.log import MetricsLog, Progress, duration, short


def read(folder) -> list[dict]:
    """The lines of a metrics file, by a parser that knows no NaN."""

    def refuse(literal):
        raise ValueError(f"{literal} is not JSON")

    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def write(folder, steps, **metrics) -> None:
    log = MetricsLog(folder, "dummy", {"depth": 4})
    for step in steps:
        log.log(step, {"loss": 1 / (1 + step), **metrics})
    log.close()


def test_a_line_a_call(tmp_path):
    write(tmp_path / "run", range(3))
    assert [(line["step"], line["loss"]) for line in read(tmp_path / "run")] == [(0, 1), (1, 1 / 2), (2, 1 / 3)]
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8")) == {"depth": 4}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_a_string(tmp_path, value):
    write(tmp_path, [1], norm=value)
    assert float(read(tmp_path)[0]["norm"]) == pytest.approx(value, nan_ok=True)


def test_a_line_is_on_disk_at_once(tmp_path):
    """As kill -9 sees it: no close, no exit handlers."""
    code = (
        "import os, pathlib; from nanochat.log import MetricsLog;"
        f"MetricsLog(pathlib.Path({str(tmp_path)!r}), 'dummy', {{}}).log(7, {{'loss': 2.5}}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert read(tmp_path)[0]["loss"] == 2.5


def test_resume_supersedes_what_came_after(tmp_path):
    write(tmp_path, range(10))
    log = MetricsLog(tmp_path, "dummy", {})
    log.resume(4)
    log.log(5, {"loss": -1.0})
    assert [(line["step"], line["loss"]) for line in read(tmp_path)][-2:] == [(4, 1 / 5), (5, -1.0)]
    log.resume(-1)
    assert read(tmp_path) == []


@given(cut=st.integers(1, 20))
def test_a_torn_last_line_is_dropped(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    write(folder, range(3))
    whole = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(whole[:-cut])
    write(folder, [3])
    assert [line["step"] for line in read(folder)] == [0, 1, 3]


def test_only_the_main_rank_writes(tmp_path):
    log = MetricsLog(tmp_path / "run", "some name", {}, is_main=False)
    log.log(1, {"loss": 1.0})
    log.resume(0)
    log.close()
    assert not (tmp_path / "run").exists()


def test_wandb_is_only_imported_for_a_named_run(tmp_path):
    code = (
        "import sys, pathlib; from nanochat.log import MetricsLog;"
        f"log = MetricsLog(pathlib.Path({str(tmp_path)!r}), sys.argv[1], {{'depth': 4}}); log.log(1, {{'loss': 2.0}});"
        "log.close(); print('wandb' in sys.modules)"
    )

    def imported(run: str, mode: str) -> bool:
        environment = {**os.environ, "WANDB_MODE": mode, "WANDB_SILENT": "true"}
        done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1] == "True"

    assert not imported("dummy", "online")
    assert imported("first try", "disabled")
    assert len(read(tmp_path)) == 2


# In a process of its own: wandb reads its environment once.
IN_WANDB = """
import json, sys
from pathlib import Path
from nanochat.log import MetricsLog

folder = Path(sys.argv[1])
for resumed in (False, True, False, True):
    log = MetricsLog(folder, "first try", {"depth": 4}, resumed=resumed)
    log.log(1, {"loss": 2.0})
    log.close()
    print(json.loads((folder / "wandb_run.json").read_text(encoding="utf-8"))["id"])
"""


def test_a_resumed_run_is_the_same_run_in_wandb(tmp_path):
    offline = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    ids = subprocess.check_output([sys.executable, "-c", IN_WANDB, tmp_path], env=offline, text=True).split()
    assert ids[0] == ids[1] != ids[2] == ids[3]
    folders = {path.name.split("-")[3] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert folders == {ids[0], ids[2]}
    (tmp_path / "wandb_run.json").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"wandb_run.json cannot be read .*; delete it"):
        MetricsLog(tmp_path, "first try", {}, resumed=True)


def test_progress_in_a_log(capsys):
    with Progress(900, "base_train", seconds_between_lines=math.inf) as progress:
        for done in range(0, 901, 100):
            progress.update(done, loss=2.3451, tok_per_second=6100.0, note="warm")
    first, last = capsys.readouterr().out.splitlines()
    assert first == "base_train  0/900 steps  0%  loss 2.345  6.1k tok/s  note warm"
    assert last.startswith("base_train  900/900 steps  100%")


def test_progress_says_how_long(capsys):
    with Progress(4, "tok_eval", unit="texts", seconds_between_lines=0) as progress:
        progress.update(0)
        progress.update(2, loss=math.nan, count=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["tok_eval  0/4 texts  0%", "tok_eval  2/4 texts  50%  loss nan  count 3  0s left"]


def test_progress_of_unknown_length_is_a_percentage(capsys):
    with Progress(100, "chat_sft", unit="") as progress:
        progress.update(37, step=12)
    assert capsys.readouterr().out == "chat_sft  37%  step 12\n"


def test_progress_tells_where_a_broken_run_stood(capsys):
    with pytest.raises(KeyboardInterrupt), Progress(10, "mid_train", seconds_between_lines=math.inf) as progress:
        for done in range(7):
            progress.update(done)
        raise KeyboardInterrupt
    assert capsys.readouterr().out.splitlines()[-1].startswith("mid_train  6/10 steps")


def test_progress_is_silent_on_other_ranks(capsys):
    with Progress(1, "x", is_main=False) as progress:
        progress.update(1)
    assert capsys.readouterr().out == ""


def test_progress_is_a_bar_on_a_terminal():
    code = (
        "from nanochat.log import Progress\n"
        "with Progress(50, 'base_train') as progress:\n"
        "    for done in range(51): progress.update(done, loss=2.0)\n"
        "    print('x' * 150)"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        output = b""
        while block := _read(leader):
            output += block
    os.close(leader)
    text = output.decode("utf-8")
    assert process.returncode == 0, text
    assert "━" in text and "50/50 steps" in text and "loss 2" in text
    assert "x" * 150 in text  # which can be copied as one line


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how Linux says that the other side of a terminal is gone
        return b""


@pytest.mark.parametrize(
    "number, text",
    [(0, "0"), (950, "950"), (999.6, "1.0k"), (6100, "6.1k"), (19_000, "19k"), (4_600_000, "4.6M"), (1e12, "1.0T"),
     (0.1234, "0.123"), (math.nan, "nan"), (-2500, "-2.5k")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text


@given(st.floats(1, 1e14))
def test_short_numbers_keep_two_digits(number):
    text = short(number)
    size = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1)
    assert float(text.rstrip("kMBT")) * size == pytest.approx(number, rel=0.051)


@pytest.mark.parametrize(
    "seconds, text", [(0, "0s"), (59.6, "1m00s"), (192, "3m12s"), (3725, "1h02m"), (math.inf, "inf")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_will_be_measured_again_is_forgotten(tmp_path):
    """A kill between the line of a validation and the checkpoint that knows of it."""
    log = MetricsLog(tmp_path, "dummy", {})
    for step in (1, 2):
        log.log(step, {"loss": 1.0})
        log.log(step, {"val_loss": 2.0})
    for measured, kept in ((True, [1, 1, 2, 2]), (False, [1, 1, 2])):
        log.resume(2, measured)
        text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line)["step"] for line in text.splitlines()] == kept


def test_how_a_run_was_started_stays_in_its_log(tmp_path):
    """Also when it stops again before its next step; what is measured again goes, what is of later steps too."""
    log = MetricsLog(tmp_path, "dummy", {})
    log.note(0, {"git_commit": "a"})
    log.log(1, {"loss": 1.0})
    for commit in ("b", "c"):
        log.resume(1, measured=False)
        log.note(1, {"git_commit": commit})
        log.log(1, {"val_loss": 2.0})
    log.log(2, {"loss": 1.0})
    log.resume(1, measured=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["step"], row.get("start", {}).get("git_commit")) for row in rows] == [
        (0, "a"), (1, None), (1, "b"), (1, "c")
    ]  # fmt: skip
    log.note(1, {})
    log.log(2, {"loss": 1.0})
    *_, start, _ = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert start["start"] == {"reached": 2}  # before it was resumed from step 1
    log.resume(-1)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == ""
