"""The GPU recipe, scaled down: all training but RL on two processes, data from a hub on loopback."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.data import shards
from scripts import speedrun
from scripts._marks import Marks
from tasks.littleworld.documents import documents
from tests import realsets
from tests.corebundle import small_bundle
from tests.fakehub import FakeHub, environment

SPEEDRUN = Path(__file__).parent.parent / "speedrun.sh"
STEPS = "12"  # of every training stage: enough to be caught in the middle
TEXT = "datasets/karpathy/climbmix-400b-shuffle"
STAGES = [
    "data", "tok_train", "tok_eval", "more_data", "base_train", "base_eval", "identity", "mid_train", "chat_sft",
    "chat_eval_mid", "chat_eval_sft", "chat_rl", "chat_eval_rl",
]  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """Text in eleven shards, and the conversations and exams of the recipe."""
    hub = FakeHub()
    realsets.add_all(hub)
    folder = tmp_path_factory.mktemp("text") / "shards"
    texts = documents("train", count=600)
    shards.write_shards(texts, folder, docs_per_group=8, shard_bytes=16_000)
    assert len(list(folder.glob("*.parquet"))) == 11
    hub.add(TEXT, folder)
    yield hub
    hub.vanish()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base with a space")
    small_bundle(base.parent / "bundle of core")
    python = base.parent / "python"  # without the plan, which is tested elsewhere
    python.write_text(
        f'#!/bin/sh\ncase $* in *scripts.plan*) ;; *) exec {shlex.quote(sys.executable)} "$@" ;; esac\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    return base


def environment_of(hub: FakeHub, base: Path, **changed: str) -> dict[str, str]:
    ours = ("TINY_", "REAL_", "RECIPE", "PRESET", "DRY_RUN", "WANDB_RUN", "HF_", "GPU", "DEPTH", "RL", "IDENTITY")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    setup = {
        "NANOCHAT_BASE_DIR": str(base), "NANOCHAT_PYTHON": str(base.parent / "python"), "RECIPE": "real",
        "PRESET": "smoke", "GPUS": "2", "RL": "1", "REAL_SHARDS": "10", "REAL_STEPS": STEPS, "REAL_PROBLEMS": "2",
        "CORE_BUNDLE": str(base.parent / "bundle of core"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return {**clean, **environment(hub, base.parent / "hub cache"), **setup, **changed}


def started(hub: FakeHub, base: Path, **changed: str) -> subprocess.Popen[str]:
    given = environment_of(hub, base, **changed)
    return subprocess.Popen(["bash", str(SPEEDRUN)], env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, encoding="utf-8", start_new_session=True)  # fmt: skip


def states(hub: FakeHub, base: Path, **changed: str) -> dict[str, str]:
    stages = speedrun.recipe_for(environment_of(hub, base, **changed), Marks(base)).stages
    return {stage.name: state for stage, _, state in speedrun.walk(stages, Marks(base))}


def wait_for(process: subprocess.Popen[str], base: Path, pattern: str) -> None:
    while process.poll() is None and not list(base.glob(pattern)):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[0]


def test_killed_while_one_process_trains(hub: FakeHub, base: Path) -> None:
    assert list(states(hub, base)) == STAGES
    process = started(hub, base, GPUS="1")
    wait_for(process, base, "base_checkpoints/d1/meta_*.json")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(list((base / "base_data_climbmix").glob("shard_*.parquet"))) == 11


def test_two_processes_resume_and_one_comes_to_the_end(hub: FakeHub, base: Path) -> None:
    found = states(hub, base)
    assert [found[name] for name in STAGES[:6]] == ["done"] * 4 + ["resumes", "to do"]
    process = started(hub, base)
    wait_for(process, base, "speedrun/chat_eval_mid.done")
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, output
    trained = output.split("] base_train: ")[1].split("] base_eval: ")[0]
    assert trained.count("resuming from step") == 1  # one of the two speaks
    steps = [line["step"] for line in metrics(base, "base_checkpoints") if "loss" in line]
    assert steps == list(range(1, int(STEPS) + 1))
    upto = STAGES.index("chat_eval_sft")
    found = states(hub, base, GPUS="1")
    assert [found[name] for name in STAGES[:upto]] == ["done"] * upto
    process = started(hub, base, GPUS="1")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "--source=sft --model_tag=d1 --step=" + STEPS in output
    assert states(hub, base) == dict.fromkeys(STAGES, "done")


def metrics(base: Path, folder: str) -> list[dict]:
    lines = (base / folder / "d1" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_report_has_all_tables_and_pictures(base: Path) -> None:
    card = (base / "report" / "report.md").read_text(encoding="utf-8")
    chapters = re.split(r"^## ", card, flags=re.MULTILINE)
    tables = {text.partition("\n")[0]: text for text in chapters}
    rows = [line.split("|")[1:-1] for line in tables["Accuracy"].splitlines() if "|" in line]
    accuracy = [[cell.strip() for cell in row] for row in rows]
    assert accuracy[0][1:] == ["mid", "SFT", "RL"]
    names = {row[0] for row in accuracy}
    assert {"ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee", "**ChatCORE**"} <= names
    assert all(cell for row in accuracy[2:] for cell in row)
    asked = set(re.findall(r"^\| (\w+)", tables["CORE"], flags=re.MULTILINE))
    assert {"easy", "hard", "wino", "grad", "lambada", "jeopardy"} <= asked
    assert "**CORE**" in tables["CORE"] and re.search(r"base_eval +\| +\| [\d.]+ +\| [\d.]+ ", tables["Bits per byte"])
    for stage in ("tok_train", "base_train", "base_eval", "mid_train", "chat_sft", "chat_rl", "chat_eval_rl"):
        assert f"| {stage} " in tables["Time"]
    assert {"Tokenizer", "Reinforcement learning", "Conversations (RL)", "Samples of the base model", "Machine",
            "Configuration"} <= tables.keys()  # fmt: skip
    pictures = {path.stem for path in (base / "report").glob("*.svg")}
    for stage in ("base_train", "mid_train", "chat_sft"):
        assert {f"{stage}_{curve}" for curve in ("loss", "lr", "speed")} <= pictures
    assert {"chat_rl_reward", "chat_rl_lr", "chat_rl_speed", "loss"} <= pictures
    assert (base / "report" / "report.html").read_text(encoding="utf-8").count("<img ") == len(pictures)


def test_checkpoints_name_the_shards(base: Path) -> None:
    last = max((base / "base_checkpoints" / "d1").glob("meta_*.json"))
    meta = json.loads(last.read_text(encoding="utf-8"))
    train, val = meta["data"]
    *before, validation = sorted(path.name for path in (base / "base_data_climbmix").glob("shard_*.parquet"))
    assert (sorted(train["shards"]), list(val["shards"])) == (before, [validation]) and len(before) == 10
