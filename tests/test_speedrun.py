"""The whole road, scaled down: speedrun.sh is killed, copied, damaged, terminated, and at last comes to its end.

One base folder carries the tests that need a run; they stand in the order of its life. Which flags a training stage
gets when somebody changes something is tested with a stand-in for Python that notes its arguments.
"""

import contextlib
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from nanochat.errors import UserError
from nanochat.paths import dataset_dir
from scripts import _screen as screen
from scripts import speedrun
from scripts._clock import Clock, left
from scripts._marks import Marks
from tasks import littleworld

SPEEDRUN = Path(__file__).parent.parent / "speedrun.sh"
STAGES = [
    "data", "tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft",
    "chat_eval_mid", "chat_eval_sft",
]  # fmt: skip
STEPS = 60  # of base and mid-training: long enough to be caught in the middle


def environment(base: Path, **changed: str) -> dict[str, str]:
    ours = ("TINY_", "REAL_", "RECIPE", "PRESET", "DRY_RUN", "WANDB_RUN", "GPU", "DEPTH", "RL", "IDENTITY",
            "CUDA_VISIBLE_DEVICES", "COLUMNS")  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    sizes = {"TINY_BASE_STEPS": str(STEPS), "TINY_MID_STEPS": str(STEPS), "OMP_NUM_THREADS": "1"}
    setup = {"NANOCHAT_BASE_DIR": str(base), "NANOCHAT_PYTHON": sys.executable, "RECIPE": "tiny", "PRESET": "smoke"}
    return {**clean, **sizes, **setup, **changed}


def run(base: Path, *options: str, **changed: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SPEEDRUN), *options]
    return subprocess.run(command, env=environment(base, **changed), capture_output=True, text=True)


def states(base: Path, **changed: str) -> dict[str, str]:
    """What `speedrun.sh --list` prints as the states of the stages."""
    stages = speedrun.recipe_for(environment(base, **changed), Marks(base)).stages
    return {stage.name: state for stage, _, state in speedrun.walk(stages, Marks(base))}


def interrupted(base: Path, pattern: str, end, **changed: str) -> tuple[int, str]:
    """Start a speedrun and call end(process) when a file that matches has appeared; exit code and output."""
    output = base / "output.txt"
    with open(output, "w", encoding="utf-8") as file:
        command = ["bash", str(SPEEDRUN)]
        process = subprocess.Popen(
            command, env=environment(base, **changed), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None and not list(base.glob(pattern)):
            time.sleep(0.02)
        assert process.poll() is None, output.read_text(encoding="utf-8")
        end(process)
        code = process.wait()
    return code, output.read_text(encoding="utf-8")


def steps_logged(base: Path, folder: str) -> list[int]:
    lines = (base / folder / "d1" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["step"] for line in map(json.loads, lines) if "loss" in line]


def metas(base: Path, folder: str) -> list[Path]:
    return sorted((base / folder / "d1").glob("meta_*.json"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> str:
    """A Python that leaves out what takes long beside the training: the plan, the evaluations, and the report."""
    program = tmp_path_factory.mktemp("tools") / "python"
    program.write_text(
        f"""#!/usr/bin/env bash
        case $* in
            *scripts.plan* | *scripts.report*) ;;
            *scripts.chat_eval*) echo "{{}}" | tee "$NANOCHAT_BASE_DIR"/report/chat_eval_{{base,mid,sft}}.json ;;
            *) exec {shlex.quote(sys.executable)} "$@" ;;
        esac
        """,
        encoding="utf-8",
    )
    program.chmod(0o755)
    return str(program)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base with a space")


@pytest.fixture(scope="module")
def moved(base: Path) -> Path:
    """A copy of the base folder without times, on a machine whose clock was set back in between."""
    folder = base.with_name("another place")
    shutil.copytree(base, folder, copy_function=shutil.copyfile)
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9) if "checkpoints" in str(path) else (3e9, 3e9))
    return folder


def test_killed_in_base_training(base, quick):
    code, output = interrupted(
        base, "base_checkpoints/d1/meta_00000[4-9].json", lambda process: os.killpg(process.pid, signal.SIGKILL),
        NANOCHAT_PYTHON=quick,
    )  # fmt: skip
    assert code == -signal.SIGKILL, output
    assert list(states(base).items())[:5] == [
        ("data", "done"), ("tok_train", "done"), ("tok_eval", "done"), ("base_train", "resumes"), ("base_eval", "to do")
    ]  # fmt: skip


def test_resumes_elsewhere_though_times_lie_and_the_newest_checkpoint_is_damaged(moved, quick):
    newest = max((moved / "base_checkpoints" / "d1").glob("model_*.pt"))
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    code, output = interrupted(
        moved, "mid_checkpoints/d1/meta_*.json", lambda process: process.send_signal(signal.SIGTERM),
        NANOCHAT_PYTHON=quick,
    )  # fmt: skip
    assert code == 128 + signal.SIGTERM, output
    assert "[1/9] data is done\n[2/9] tok_train is done\n[3/9] tok_eval is done\n" in output
    trained = output.split("[4/9] base_train: ")[1].split("[5/9] base_eval: ")[0]
    assert newest.name in trained and "is damaged" in trained
    assert f"resuming from step {int(newest.stem.split('_')[1]) - 2}" in trained
    assert steps_logged(moved, "base_checkpoints") == list(range(1, STEPS + 1))
    assert "mid_train: terminated; step" in output  # the signal reached the stage, which saved
    *_, last = re.findall(r"^base_train: step \d+  val_bpb (\S+)", trained, re.MULTILINE)
    # the same text, read in the same way: documents see no others
    assert f"tinyworld, val: {last} bits per byte" in output.split("[5/9] base_eval: ")[1]
    assert states(moved)["base_eval"] == "done" and states(moved)["mid_train"] == "resumes"


def test_comes_to_its_end(moved):
    done = run(moved)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[5/9] base_eval is done" in done.stdout and "resuming from step" in done.stdout
    assert steps_logged(moved, "mid_checkpoints") == list(range(1, STEPS + 1))
    assert set(states(moved).values()) == {"done"}
    assert "\n## Accuracy\n" in (moved / "report" / "report.md").read_text(encoding="utf-8")
    assert "[7/9] chat_sft: learns to answer; only the assistant's words are trained on · about " in done.stdout
    assert "\x1b" not in done.stdout and "\r" not in done.stdout  # a file gets plain lines
    # A deeper model beside it is not the one that was trained; and what is printed can be typed.
    *_, ready, last = done.stdout.rstrip().partition("\nd1 is ready, ")
    screen = (ready + last).splitlines()
    assert len(screen) == 11 and screen[0] == "" and f"{moved}/report/report.html" in done.stdout
    assert re.search(r"^facts +[ █▉-▏]{5} +\d+%  ", last, re.MULTILINE), last
    talk, page = (re.search(f"^{words} +(NANOCHAT.*)$", last, re.MULTILINE) for words in ("talk to it", "or on a page"))
    assert talk and page and page[1] == talk[1].replace("chat_cli", "chat_web")
    chat = f"{sys.executable} -m scripts.chat_cli --source=sft --model_tag=d1 --step=4"
    assert shlex.split(talk[1]) == [f"NANOCHAT_BASE_DIR={moved}", *chat.split()]
    told = [line for line in done.stdout.splitlines() if line.startswith("You can talk to it already: ")]
    assert [shlex.split(line)[-2] for line in told] == ["--source=mid", "--source=sft"]


def test_a_changed_command_replaces_what_this_script_has_trained(moved, quick):
    changed = states(moved, TINY_MID_STEPS=str(STEPS + 1))
    at = STAGES.index("mid_train")
    assert [changed[name] for name in STAGES] == ["done"] * at + ["to do"] * (len(STAGES) - at)
    done = run(moved, NANOCHAT_PYTHON=quick, TINY_SFT_STEPS="3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mid_train is done" in done.stdout and "--step=3" in done.stdout
    assert [path.name for path in metas(moved, "chatsft_checkpoints")] == ["meta_000002.json", "meta_000003.json"]
    assert steps_logged(moved, "chatsft_checkpoints") == [1, 2, 3]


def test_checkpoints_that_a_kill_left_unproven_are_not_replaced(moved, quick):
    """Base training was killed without a chance to note what it left; the rest of that run could be anybody's."""
    there = {path: path.read_bytes() for path in (moved / "base_checkpoints").rglob("*") if path.is_file()}
    refused = run(moved, NANOCHAT_PYTHON=quick, TINY_BASE_STEPS="7")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "--overwrite" in refused.stderr and "cannot prove that it wrote base_checkpoints/d1" in refused.stderr
    assert {path: path.read_bytes() for path in (moved / "base_checkpoints").rglob("*") if path.is_file()} == there
    assert set(list(states(moved).values())[:3]) == {"done"}


def test_a_lost_result_is_made_again(moved):
    (moved / "report" / "tok_eval.json").unlink()
    for meta in metas(moved, "mid_checkpoints"):
        meta.unlink()
    found = states(moved)
    assert (found["tok_eval"], found["mid_train"], found["tok_train"]) == ("resumes", "resumes", "done")
    with open(moved / "tokenizer" / "tokenizer.json", "a", encoding="utf-8") as file:
        file.write(" ")  # somebody has trained another one
    assert states(moved)["tok_train"] == "resumes"


def test_the_tokenizer_of_other_models_stays(tmp_path, quick):
    """The original keeps its models in the same folder, with a tokenizer that is not named in them."""
    classic = Path(__file__).parents[2] / "shared" / "fixtures" / "classic"
    shutil.copytree(classic, tmp_path / "base")
    there = {path: path.is_file() and path.read_bytes() for path in (tmp_path / "base").rglob("*")}
    refused = run(tmp_path / "base", NANOCHAT_PYTHON=quick)
    assert refused.returncode == 2 and "base d2 (records no tokenizer hash); set NANOCHAT_BASE_DIR" in refused.stderr
    assert {path: path.is_file() and path.read_bytes() for path in (tmp_path / "base").rglob("*")} == there


class StandIn:
    """A speedrun with a stand-in for Python: base_train notes its flags and runs $BASE_TRAIN, base_eval fails."""

    def __init__(self, folder: Path):
        self.base, self.calls, self.program = folder / "base", folder / "calls", folder / "python"
        self.d1 = self.base / "base_checkpoints" / "d1"
        self.program.write_text(
            f"""#!/usr/bin/env bash
            case $* in *scripts.speedrun*) exec {shlex.quote(sys.executable)} "$@" ;; esac
            cd "$NANOCHAT_BASE_DIR" 2>/dev/null && mkdir -p report tokenizer base_data_tinyworld base_checkpoints/d1
            case $* in
                *scripts.plan* | *--check*) ;;
                *littleworld*) echo >base_data_tinyworld/shard.parquet ;;
                *tok_train*) echo "{{}}" | tee tokenizer/tokenizer.json >report/tok_train.json ;;
                *tok_eval*) echo "{{}}" >report/tok_eval.json ;;
                *base_train*)
                    grep -o -e "--resume=.*" <<<"$*" >>../calls
                    eval "$BASE_TRAIN"
                    echo "{{}}" >report/base_train.json
                    ;;
                *base_eval*) exit 2 ;;
            esac
            """,
            encoding="utf-8",
        )
        self.program.chmod(0o755)

    def __call__(self, does: str, **changed: str) -> tuple[str, int, str]:
        """The flags of base_train, with what code speedrun.sh ended, and its complaint."""
        for number, path in enumerate(sorted(self.base.rglob("*"))):
            os.utime(path, (1e9 + number * 997 % 1000, 1e9 + number * 997 % 1000))  # times tell nothing
        done = run(self.base, NANOCHAT_PYTHON=str(self.program), BASE_TRAIN=does, **changed)
        flags = self.calls.read_text(encoding="utf-8").splitlines()[-1].removesuffix(" --run=dummy")
        return flags, done.returncode, done.stderr


SAVE = "for step in {}; do echo $RANDOM >base_checkpoints/d1/meta_00000$step.json; done; "
CLEAR = "rm base_checkpoints/d1/meta_*; "


def test_only_checkpoints_proven_its_own_are_replaced(tmp_path):
    base_train = StandIn(tmp_path)
    longer, shorter = {"TINY_BASE_STEPS": "9"}, {"TINY_BASE_STEPS": "5"}
    auto, anew, never = "--resume=auto", "--resume=never --overwrite", "--resume=never"
    assert base_train(SAVE.format("2 4") + "exit 143")[:2] == (auto, 143)
    assert base_train("exit 143")[:2] == (auto, 143)
    assert base_train("exit 137", **longer)[:2] == (anew, 137)
    assert base_train("kill -9 $PPID", **longer)[:2] == (anew, -9)  # it has saved nothing yet
    assert base_train("exit 143")[:2] == (auto, 143)  # as at first, so what that left is of use
    assert base_train(CLEAR + SAVE.format("1") + "exit 1", **longer)[:2] == (anew, 1)
    assert base_train("exit 1", **longer)[:2] == (auto, 1)
    assert base_train(SAVE.format("0") + "kill -9 $PPID", **shorter)[:2] == (anew, -9)
    assert base_train("exit 1", **shorter)[:2] == ("--resume=0", 1)  # step 1 is still the one of before
    assert base_train(CLEAR + SAVE.format("3") + "exit 1", **shorter)[:2] == ("--resume=0", 1)
    flags, code, message = base_train("exit 2", **longer)  # nobody noted what the killed one left
    assert (flags, code) == (never, 2) and "move that folder away" in message
    shutil.rmtree(base_train.d1)
    assert base_train(SAVE.format("6") + "exit 1", **longer)[:2] == (auto, 1)
    (base_train.d1 / "meta_000008.json").write_text("of somebody else", encoding="utf-8")
    assert base_train("exit 2", **shorter)[:2] == (never, 2)
    shutil.rmtree(base_train.base / "speedrun")
    assert base_train("exit 2", **shorter)[:2] == (auto, 2)  # the stage itself knows whether it is the same run


def test_a_failure_that_repeats_is_not_met_with_the_same_advice(tmp_path):
    base_train = StandIn(tmp_path)
    hope = "start speedrun.sh again to resume from here"
    assert hope in base_train(SAVE.format("2") + "exit 1")[2]
    assert "ended with code 1, as it did the last time; resolve the error above before" in base_train("exit 1")[2]
    assert hope in base_train("exit 2")[2] and hope in base_train(SAVE.format("4") + "exit 2")[2]
    message = base_train("exit 2")[2]
    assert hope not in message and "resolve the error above before starting speedrun.sh again" in message
    assert "base_train was stopped; start speedrun.sh again to resume" in base_train("exit 143")[2]


def test_a_finished_stage_is_asked_again_when_the_next_one_cannot_use_it(tmp_path):
    """Its newest checkpoint may be damaged, and only the stage itself can fall back to the one before."""
    base_train = StandIn(tmp_path)
    assert "base_eval ended with code 2" in base_train(SAVE.format("2 4") + "true")[2]
    assert states(base_train.base)["base_train"] == "resumes"
    assert base_train("true")[:2] == ("--resume=auto", 2)
    assert base_train.calls.read_text(encoding="utf-8").count("\n") == 2


def test_a_closed_terminal_ends_the_run_unless_it_is_ignored(tmp_path):
    base_train = StandIn(tmp_path)
    assert base_train("kill -HUP $PPID; exec sleep 60")[1] == 128 + signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
    try:
        assert "base_eval ended with code 2" in base_train(SAVE.format("2") + "kill -HUP $PPID")[2]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stage_that_fails_stops_the_run(tmp_path, quick):
    (tmp_path / "base_data_tinyworld").mkdir()
    (tmp_path / "base_data_tinyworld" / "notes.txt").write_text("mine", encoding="utf-8")
    failed = run(tmp_path, NANOCHAT_PYTHON=quick)
    assert failed.returncode == 2 and "data ended with code 2" in failed.stderr
    assert states(tmp_path)["data"] == "resumes"
    assert [path.name for path in (tmp_path / "base_data_tinyworld").iterdir()] == ["notes.txt"]


def test_named_gpus_are_planned_for_where_there_are_none(tmp_path):
    planned = run(tmp_path / "base", "--dry_run", RECIPE="real", PRESET="full", GPUS="4", GPU="a100", DEPTH="26")
    assert planned.returncode == 0, planned.stderr
    assert "--nproc_per_node=4" in planned.stdout and "--depth=26" in planned.stdout
    assert "on 4 x A100 80 GB" in planned.stdout and "do not fit" not in planned.stdout
    assert not (tmp_path / "base").exists()


def test_another_number_of_gpus_or_rows_changes_no_stage(tmp_path):
    """What is done stays done, and a stage that was started resumes."""
    marks = Marks(tmp_path)
    stages = speedrun.recipe_for(environment(tmp_path, RECIPE="real", GPUS="1"), marks).stages
    history = next(history for stage, history, _ in speedrun.walk(stages, marks) if stage.name == "base_train")
    marks.write("base_train", "started", history)
    for changed in ({"GPUS": "8"}, {"GPUS": "2", "REAL_ROWS": "1"}, {"IDENTITY": "Ada"}, {"RL": "1"}):
        assert states(tmp_path, RECIPE="real", **changed)["base_train"] == "resumes"
    assert states(tmp_path, RECIPE="real", DEPTH="2")["base_train"] == "to do"


def test_another_version_of_the_corpus_is_made_anew(tmp_path, monkeypatch):
    """And all after it, although no command has changed."""
    marks, changed = Marks(tmp_path), environment(tmp_path, PRESET="full")

    def found() -> list[str]:
        return [state for _, _, state in speedrun.walk(speedrun.recipe_for(changed, marks).stages, marks)]

    for stage, history, _ in speedrun.walk(speedrun.recipe_for(changed, marks).stages, marks):
        marks.write(stage.name, "started", history)
    assert set(found()) == {"resumes"}
    monkeypatch.setattr(littleworld, "VERSION", littleworld.VERSION + 1)
    assert set(found()) == {"to do"}


def test_the_users_own_conversations_are_not_replaced(tmp_path):
    own, marks = tmp_path / "identity_conversations.jsonl", tmp_path / "speedrun"
    assert "identity" in states(tmp_path, RECIPE="real")
    own.write_text("{}\n", encoding="utf-8")
    assert "identity" not in states(tmp_path, RECIPE="real")
    marks.mkdir()
    summed = subprocess.run(["cksum"], input=b"{}\n", capture_output=True, check=True).stdout
    (marks / "identity.sum").write_bytes(summed)  # as it is when speedrun.sh has made them
    assert "identity" in states(tmp_path, RECIPE="real")
    own.write_text("{ }\n", encoding="utf-8")
    assert "identity" not in states(tmp_path, RECIPE="real")


def test_the_recipe_follows_from_gpus_and_a_hub(tmp_path):
    gpus, small, none = (path_with_gpus(tmp_path / str(mb), 2 if mb else 0, mb) for mb in (81559, 8192, 0))

    def is_real(**changed: str) -> bool:
        return "more_data" in states(tmp_path, RECIPE="auto", **changed)

    with hub(tmp_path) as address:
        assert is_real(PATH=gpus, HF_ENDPOINT=address)
        assert not is_real(PATH=gpus, HF_ENDPOINT="http://127.0.0.1:9")
        assert not is_real(PATH=none, HF_ENDPOINT=address) and not is_real(PATH=small, HF_ENDPOINT=address)
        assert not is_real(PATH=gpus, HF_ENDPOINT=address, CUDA_VISIBLE_DEVICES="")
        one = run(tmp_path, "--list", RECIPE="auto", PATH=gpus, HF_ENDPOINT=address, CUDA_VISIBLE_DEVICES="1")
        assert "base_train\tto do\tpython -m scripts.base_train" in one.stdout
    (tmp_path / "speedrun").mkdir()
    (tmp_path / "speedrun" / "recipe").write_text("real\n", encoding="utf-8")
    assert is_real(PATH=gpus, HF_ENDPOINT="http://127.0.0.1:9")


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"RECIPE": "tiny"}, "holds a run of the real recipe, whose tokenizer"),
        ({"RECIPE": "real", "GPUS": "4", "GPU": "h100"}, "GPUS is 4, but this machine has 2"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(tmp_path, quick, changed, sentence):
    base = tmp_path / "base"
    (base / "speedrun").mkdir(parents=True)
    (base / "speedrun" / "recipe").write_text("real\n", encoding="utf-8")
    refused = run(base, PATH=path_with_gpus(tmp_path, 2), NANOCHAT_PYTHON=quick, **changed)
    assert refused.returncode == 2 and sentence in refused.stderr
    assert [path.name for path in base.rglob("*")] == ["speedrun", "recipe"]


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"RECIPE": "huge"}, "RECIPE is huge; expected auto, tiny or real"),
        ({"PRESET": "fast"}, "PRESET is fast; expected full, smoke or long"),
        ({"GPUS": "all"}, "GPUS is all; expected a number, such as 8"),
        ({"TINY_ROWS": "1.5"}, "TINY_ROWS is 1.5; expected a number, such as 8"),
        ({"RECIPE": "real", "DEPTH": "d20"}, "DEPTH is d20; expected a number, such as 8"),
        ({"RECIPE": "real", "DEPTH": "08"}, "DEPTH is 08; expected a number, such as 8"),
        ({"RECIPE": "real", "REAL_SHARDS": "1+1"}, "REAL_SHARDS is 1+1; expected a number, such as 8"),
        ({"RECIPE": "real", "REAL_DATASET": "c4"}, "REAL_DATASET is c4; expected climbmix, fineweb-edu, ORG/NAME on "
         "the hub, or the name of a dataset here, which python -m scripts.add_data makes of your own text"),
    ],
)
def test_unknown_values_are_refused(tmp_path, changed, sentence):
    with pytest.raises(UserError) as refused:
        states(tmp_path, **changed)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "dataset, name, fetches",
    [("climbmix", "climbmix", {"data": 9, "more_data": 170}),
     ("fineweb-edu", "fineweb-edu", {"data": 9, "more_data": 170}),
     ("somebody/climbmix", "somebody-climbmix", {"data": 170}), ("HuggingFaceFW/fineweb", "fineweb", {"data": 170}),
     ("mine", "mine", {})],
)  # fmt: skip
def test_the_real_recipe_trains_on_any_dataset(tmp_path, dataset, name, fetches):
    (tmp_path / "base_data_mine").mkdir()
    stages = speedrun.recipe_for({"RECIPE": "real", "GPUS": "1", "REAL_DATASET": dataset}, Marks(tmp_path)).stages
    text = {stage.name: stage for stage in stages if stage.module == "nanochat.data.shards"}
    assert {stage.name: stage.flags["num_shards"] for stage in text.values()} == fetches
    assert all(stage.leaves == f"{dataset_dir(name).name}/shard_*.parquet" for stage in text.values())
    assert all(stage.flags["dataset"] == dataset for stage in text.values())
    used = [stage.flags["dataset"] for stage in stages if stage.name in ("tok_train", "tok_eval", "base_train")]
    assert used == [name] * 3


@pytest.mark.parametrize("options, sentence", [(["--dry-ran"], "unknown flag --dry-ran"), ([], "PRESET is fast")])
def test_it_refuses_before_anything_is_written(tmp_path, options, sentence):
    refused = run(tmp_path / "base", *options, PRESET="fast")
    assert refused.returncode == 2 and sentence in refused.stderr and refused.stdout == ""
    assert not (tmp_path / "base").exists()


def test_the_time_left_is_corrected_by_what_training_took(tmp_path):
    marks = Marks(tmp_path)
    clock = Clock(marks, {"base_train": {"seconds": 600, "steps": 400}, "chat_sft": {"seconds": 900, "steps": 600},
                          "chat_eval_sft": {"seconds": 60}})  # fmt: skip
    assert left(clock.seconds("base_train", "to do"), [600, 900, 60]) == " · about 10m of 26m left"
    assert left(None, [None, 60]) == "" and left(60, [60, None]) == " · about 60s of at least 60s left"
    saved = "base_checkpoints/d1/meta_*.json"
    (tmp_path / "base_checkpoints" / "d1").mkdir(parents=True)
    (tmp_path / "base_checkpoints" / "d1" / "meta_000300.json").touch()
    assert clock.seconds("base_train", "resumes", saved) == 150
    marks.write("base_train", "done", [])
    (tmp_path / "report").mkdir()
    took = {"seconds": 1, "times": {"forward": 1000, "data": 200}}
    (tmp_path / "report" / "base_train.json").write_text(json.dumps(took), encoding="utf-8")
    assert clock.seconds("base_train", "done") == 0
    assert (clock.seconds("chat_sft", "to do"), clock.seconds("chat_eval_sft", "to do")) == (1800, 120)
    assert clock.seconds("tok_eval", "to do") is None


def test_every_stage_of_a_recipe_is_explained():
    all_stages = {"RL": "1", "GPUS": "1", "TINY_MID_STEPS": "4"}
    recipes = [speedrun.recipe_for({"RECIPE": name, **all_stages}, Marks(Path("/none"))) for name in ("tiny", "real")]
    assert all(screen.about(stage.name) for recipe in recipes for stage in recipe.stages)


def test_setting_up_is_quiet_unless_it_fails(tmp_path):
    (tmp_path / "dev").mkdir()
    shutil.copy(SPEEDRUN.parent / "dev" / "setup.sh", tmp_path / "dev")
    uv = tmp_path / "tools" / "uv"
    uv.parent.mkdir()
    program = '#!/bin/sh\n[ "$1" = version ] && echo "nanochat 0.1" && exit\necho " + torch"\nexit $CODE\n'
    uv.write_text(program, encoding="utf-8")
    uv.chmod(0o755)
    command, path = ["bash", "-euo", "pipefail", "-c", "source dev/setup.sh; echo next"], os.environ["PATH"]
    found = [subprocess.run(command, cwd=tmp_path, text=True, capture_output=True,
                            env={"PATH": f"{uv.parent}:{path}", "CODE": code}) for code in "03"]  # fmt: skip
    assert [(done.returncode, done.stdout) for done in found] == [(0, "next\n"), (2, "")]
    assert found[0].stderr == "" and " + torch\nerror: uv could not install" in found[1].stderr
    assert (tmp_path / ".cache" / "setup.log").read_text(encoding="utf-8") == " + torch\n"


def test_help_lists_the_variables():
    helped = subprocess.run(["bash", str(SPEEDRUN), "--help"], capture_output=True, text=True, check=True, env={})
    assert "RECIPE=auto" in helped.stdout and "NANOCHAT_PYTHON=x" in helped.stdout and "set -e" not in helped.stdout


def path_with_gpus(folder: Path, count: int, memory: int = 81559) -> str:
    """A PATH on which nvidia-smi knows this many GPUs, of so many MiB each."""
    tools = folder / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    program = f"#!/bin/sh\ncase $* in *memory*) answer={memory} ;; *) answer='NVIDIA H100 80GB HBM3' ;; esac\n"
    (tools / "nvidia-smi").write_text(program + 'echo "$answer"\n' * count, encoding="utf-8")
    (tools / "nvidia-smi").chmod(0o755)
    return f"{tools}{os.pathsep}{os.environ['PATH']}"


@contextlib.contextmanager
def hub(folder: Path):
    """A server that answers like a hub's front page."""
    page = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.HTTPServer(("127.0.0.1", 0), page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
