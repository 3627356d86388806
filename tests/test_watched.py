"""A run that is watched: it answers the same questions while it trains, and trains as if nobody asked."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from stages import assert_same_run, flags, train

from nanochat.checkpoint import manager
from nanochat.paths import checkpoints_dir
from scripts import _samples as samples
from scripts._typed import typed

WATCHED = ("--sample_every=1", "--keep_last=0")


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_being_asked_changes_no_bit_of_a_run_or_of_its_resumption(stage, world, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples, "MOST_OF_THE_TIME", 1e9)  # however long it takes
    folder, alone = world(stage), tmp_path / "alone"
    train(stage, flags(stage, base, "--sample_every=-1", "--keep_last=0"))
    assert "what it says" not in capsys.readouterr().out
    shutil.move(folder, alone)
    train(stage, flags(stage, base, *WATCHED))
    said = capsys.readouterr().out
    assert_same_run(folder, alone)
    manager.delete(folder, [4, 6])
    train(stage, flags(stage, base, *WATCHED))
    assert_same_run(folder, alone)
    name = {"base": "base_train", "sft": "chat_sft"}[stage]
    for step in range(2, 7):
        assert f"{name}: what it says at step {step}, and said at step {step - 1}\n" in said
    assert said.count("      now     ") == said.count("      before  ") > 0
    announced = "It can write for you already: " if stage == "base" else "You can talk to it already: "
    assert said.count(announced) == 1 and said.index(announced) < said.index("what it says at step 3")


def test_answering_takes_a_small_part_of_the_time(world, base, monkeypatch, capsys):
    world("base")
    monkeypatch.setattr(samples.Watched, "answers", lambda self: ["slowly"] * 3)
    monkeypatch.setattr(samples, "MOST_OF_THE_TIME", 1e-9)
    train("base", flags("base", base, *WATCHED))
    assert capsys.readouterr().out.count("what it says") == 1


def test_own_conversations_are_asked_and_few_steps_are_warned_of(world, base, capsys):
    world("sft")
    train("sft", flags("sft", base, "--num_iterations=-1", "--total_batch_size=1024", "--device_batch_size=32"))
    said = capsys.readouterr().out
    assert " + 1?\n" in said and "what it says at step" in said
    warned = r"warning: that is \d steps? of 32 rows, in which a model learns little; --num_iterations 40 would read"
    assert re.search(warned, said), said
    assert "chat_sft  100%  step " in said and "percent" not in said


@pytest.mark.parametrize("number, words", [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_dry_run_that_is_stopped_claims_no_saved_step(number, words, world, base, monkeypatch, capfd):
    folder = world("base")
    monkeypatch.setattr(samples.Watched, "answers", lambda self: os.kill(os.getpid(), number) or ["-"] * 3)
    with pytest.raises(SystemExit):
        train("base", flags("base", base, "--dry_run", "--sample_every=3"))
    said = capfd.readouterr()
    assert f"base_train: {words}; nothing was written (--dry_run)\n" in said.out
    assert "sav" not in said.out + said.err and "already" not in said.out
    assert not list(folder.glob("*.pt"))


def test_commands_are_shown_as_they_can_be_typed(monkeypatch):
    home = Path.home() / ".cache" / "nanochat"
    monkeypatch.delenv("NANOCHAT_PYTHON", raising=False)
    monkeypatch.setenv("UV", "/usr/bin/uv")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(home))
    assert typed("scripts.chat_cli", "--source=sft") == "uv run python -m scripts.chat_cli --source=sft"
    monkeypatch.setenv("UV", str(Path.cwd() / ".uv" / "bin" / "uv"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "/tmp/a place")
    assert typed("scripts.chat_cli", "-p", "Who?") == (
        "NANOCHAT_BASE_DIR='/tmp/a place' .uv/bin/uv run python -m scripts.chat_cli -p 'Who?'"
    )
    assert checkpoints_dir("sft").parent == Path("/tmp/a place")
