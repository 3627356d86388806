"""scripts.train as nanoGPT's users know it: from scratch, fine-tuned, resumed to the bit, and with every mistake."""

import contextlib
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT
from hypothesis import given
from hypothesis import strategies as st

from nanochat import config, schedule
from nanochat.checkpoint import door, manager
from nanochat.config import UserError, parse
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import Optimizer, Rates, adamw_groups
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.prepare import prepare
from nanochat.tokenizer import Tokenizer
from nanochat.train import out_dir
from nanochat.train.nanogpt import Settings, learning_rate
from scripts import base_train, chat_sft, inference_server, mid_train, sample
from scripts import train as train_script
from scripts.train import Flags, main

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT.parent / "shared" / "fixtures" / "nanogpt"

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["scripts.train"])

STEPS = 12
SMALL = [
    "--device=cpu", "--dtype=float32", "--compile=False", "--dataset=cats", "--n_layer=1", "--n_head=2", "--n_embd=32",
    "--block_size=16", "--batch_size=2", "--gradient_accumulation_steps=2", f"--max_iters={STEPS}", "--dropout=0.1",
    "--learning_rate=1e-2", "--warmup_iters=2", f"--lr_decay_iters={STEPS}", "--min_lr=1e-3", "--eval_interval=4",
    "--eval_iters=3", "--log_interval=1000",
]  # fmt: skip
CATS = "".join(f"{n} cats. {TEXT[n % 50 : 150 + n]}\n" for n in range(60))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with token files of characters in data/cats."""
    folder = tmp_path / "here"
    (folder / "data").mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("cats.txt").write_text(CATS, encoding="utf-8")
    prepare("cats.txt", tokenizer="char")
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> str:
    """A folder with a GPT-2 of toy size, as transformers writes it."""
    from gpt2s import write_gpt2  # transformers takes seconds, which child processes would spend, too

    write_gpt2(tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


def ckpt(path: Path | str) -> dict:
    return torch.load(path, weights_only=True)


def lines(out_dir: Path | str) -> list[dict]:
    path = Path(out_dir, "metrics.jsonl")
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def losses(out_dir: Path | str) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(out_dir) if "loss" in line]


def scores(out_dir: Path | str) -> list[tuple[int, float, float]]:
    return [(line["step"], line["train_loss"], line["val_loss"]) for line in lines(out_dir) if "val_loss" in line]


def assert_same_run(one: Path | str, other: Path | str, steps: int = STEPS) -> None:
    """To the bit: weights, optimizer, place in the data, every loss and every validation."""
    a, b = ckpt(Path(one, "ckpt.pt")), ckpt(Path(other, "ckpt.pt"))
    assert a["iter_num"] == b["iter_num"] == steps
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in {**a["model"], **b["model"]})
    for i, state in a["optimizer"]["state"].items():
        assert all(torch.equal(tensor, b["optimizer"]["state"][i][key]) for key, tensor in state.items())
    assert len(a["optimizer"]["state"]) == len(b["optimizer"]["state"]) > 5
    assert a["best_val_loss"] == b["best_val_loss"]
    first, second = a["nanochat"], b["nanochat"]
    assert first["best_step"] == second["best_step"] and first["tokenizer_hash"] == second["tokenizer_hash"]
    assert {**first["loop_state"], "seconds": 0} == {**second["loop_state"], "seconds": 0}
    assert losses(one) == losses(other) and [n for n, _ in losses(one)] == list(range(1, steps + 1))
    assert scores(one) == scores(other) and [n for n, *_ in scores(one)] == list(range(0, steps + 1, 4))


# ---------------------------------------------------------------- from scratch


def test_a_run_from_scratch_and_what_it_leaves(here, capsys):
    chars = len(set(CATS))
    main([*SMALL, "--max_iters=60", "--lr_decay_iters=60", "--eval_interval=20"])
    said = capsys.readouterr().out
    (_, _, first), *_, (_, _, last) = scores("out")
    assert first == pytest.approx(math.log(chars), rel=0.02) and last < first - 0.6
    assert "train: step 0  train_loss" in said and "64 a step" in said and "scripts.sample --out_dir=out" in said
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "ckpt.pt", "ckpt_best.pt", "config.json", "meta.pkl", "metrics.jsonl", "token_bytes.json", "tokenizer.json"
    ]  # fmt: skip
    saved = ckpt("out/ckpt.pt")
    assert saved["model_args"] == {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 16, "bias": False,
                                   "vocab_size": chars, "dropout": 0.1}  # fmt: skip
    assert (saved["iter_num"], saved["config"]["dataset"]) == (60, "cats")
    assert saved["best_val_loss"] == min(val for _, _, val in scores("out"))
    assert saved["config"].keys() == set(Settings.__dataclass_fields__)
    assert Path("out/meta.pkl").read_bytes() == Path("data/cats/meta.pkl").read_bytes()
    shutil.rmtree("data")  # sampling needs nothing but out_dir
    loaded = door.open("resume")
    assert loaded.step == 60 and loaded.tokenizer.decode(loaded.tokenizer.encode("cats")) == "cats"
    assert isinstance(loaded.model, GPT) and loaded.model.config.dropout == 0.1


def test_settings_come_from_nanogpts_config_files(here):
    text = "max_iters = 2 * 2\nlr_decay_iters = max_iters\nout_dir = 'out-cats'\ncompile = False\n"
    Path("config.py").write_text(text, encoding="utf-8")
    main([*(flag for flag in SMALL if not flag.startswith(("--max_iters", "--lr_decay", "--compile"))), "config.py"])
    assert [n for n, _ in losses("out-cats")] == [1, 2, 3, 4]
    assert json.loads(Path("out-cats/config.json").read_bytes())["settings"]["max_iters"] == 4


def test_evaluating_writes_nothing(here, capsys):
    main([*SMALL, "--eval_only=True", "--max_iters=100000"])
    assert not Path("out").exists()
    assert capsys.readouterr().out.count("train_loss") == 1


@pytest.mark.parametrize("recipe", sorted((ROOT / "config").glob("*.py")), ids=lambda path: path.stem)
def test_our_recipes_are_read(recipe):
    flags = parse(Flags, [str(recipe)])
    assert flags != Flags() and not flags.wandb_log
    assert flags.eval_only == recipe.stem.startswith("eval")


def test_the_chat_recipes_are_speedruns():
    listed = subprocess.run(["bash", ROOT / "speedrun.sh", "--list"], capture_output=True, text=True, check=True,
                            env={**os.environ, "RECIPE": "tiny"}).stdout  # fmt: skip
    commands = {name: command.split()[3:] for name, _, command in (line.split("\t") for line in listed.splitlines())}
    for stage, script in (("base", base_train), ("mid", mid_train), ("sft", chat_sft)):
        name = "chat_sft" if stage == "sft" else f"{stage}_train"
        recipe = str(ROOT / "config" / f"chat_{stage}.yaml")
        assert asdict(parse(script.Flags, [recipe])) == asdict(parse(script.Flags, commands[name]))


# ---------------------------------------------------------------- as nanoLLM_gpt's users type it


def test_a_config_file_with_sections_and_a_text(here, monkeypatch):
    """gpt-train --config x.yaml --data-path input.txt"""
    settings = dict(flag.removeprefix("--").split("=") for flag in SMALL)
    model = [f"  {name}: {settings.pop(name)}\n" for name in ("n_layer", "n_head", "n_embd", "block_size", "dropout")]
    rest = [f"{name}: {value}\n" for name, value in settings.items() if name not in ("dataset", "out_dir")]
    Path("x.yaml").write_text("".join(["model:\n", *model, *rest, "data_path: null\n"]), encoding="utf-8")
    by_characters = partial(prepare, tokenizer="char")  # GPT-2's own would be fetched from the hub
    monkeypatch.setattr(train_script, "prepare", by_characters)
    main(["--config", "x.yaml", "--data-path", "cats.txt", "--max-iters", "4"])
    (folder,) = Path("data").glob("cats-*")
    assert Path(folder, "train.bin").read_bytes() == Path("data/cats/train.bin").read_bytes()
    saved = ckpt("out/ckpt.pt")
    assert saved["model_args"]["n_embd"] == 32 and saved["config"]["dataset"] == folder.name
    before = folder.stat().st_mtime_ns
    main(["--config=x.yaml", "--data-path", "cats.txt", "--init-from", "resume"])  # found, not made again
    assert ckpt("out/ckpt.pt")["iter_num"] == STEPS and folder.stat().st_mtime_ns == before
    shutil.copyfile("cats.txt", "cats")
    main(["--config=x.yaml", "--dataset=cats", "--eval_only"])  # a name of token files before that of a file
    assert len(list(Path("data").iterdir())) == 2
    Path("cats.txt").write_text(CATS * 2, encoding="utf-8")  # another text has other token files
    main(["--config=x.yaml", "--data-path", "cats.txt", "--eval_only"])
    assert len(list(Path("data").glob("cats-*"))) == 2


def test_generating_and_serving_by_their_flags(here, capsys):
    Path("sea.txt").write_text(f"{CATS}\u2028", encoding="utf-8")
    prepare("sea.txt", tokenizer="char")
    main([*SMALL, "--max_iters=4", "--dataset=sea"])
    Path("prompts.txt").write_text("1 cats.\u2028cats\r\n\n2 cats.\n", encoding="utf-8")
    sample.main(["--checkpoint", "out/ckpt.pt", "--prompt-file", "prompts.txt", "--max-tokens", "3", "--device=cpu",
                 "--output=said.jsonl", "--num-samples=1"])  # fmt: skip
    said = [json.loads(line) for line in Path("said.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [line["prompt"] for line in said] == ["1 cats.\u2028cats", "2 cats."]
    assert parse(sample.Flags, ["--model", "gpt2"]).init_from == "gpt2"
    Path("server.yaml").write_text("port: 8080\nmodel_type: gpt2\ncheckpoint_path: null\n", encoding="utf-8")
    served = parse(inference_server.Flags, ["--config", "server.yaml"])
    assert (served.init_from, served.port) == ("gpt2", 8080)
    for name in ("--model-type", "--checkpoint", "--model_type"):
        assert parse(inference_server.Flags, [f"{name}=x"]).init_from == "x"
    for argv, words in (["--slots=1000000000"], "--slots is 1000000000; expected 4096 at most"), (
        ["--checkpoint", "a" * 300], "--init_from aaaaaaaaaaaaaaaaaaaa... is no path"
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            inference_server.main(argv)


# ---------------------------------------------------------------- from a GPT-2


def test_fine_tuning_a_gpt2(here, gpt2):
    """A folder that transformers wrote: its perplexity falls, and the result is nanoGPT's with biases."""
    prepare("cats.txt", Path("data/bpe"), tokenizer=gpt2)
    tuned = [*SMALL, "--dataset=bpe", f"--init_from={gpt2}", "--max_iters=40", "--lr_decay_iters=40",
             "--eval_interval=20", "--always_save_checkpoint=False", "--block_size=24"]  # fmt: skip
    main(tuned)
    (_, _, before), *_, (_, _, after) = scores("out")
    assert math.exp(after) < 0.3 * math.exp(before)
    saved = ckpt("out/ckpt.pt")
    assert saved["model_args"] == {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 24, "bias": True,
                                   "vocab_size": 265, "dropout": 0.1}  # fmt: skip
    assert saved["best_val_loss"] == after
    loaded = door.open("resume")
    assert loaded.tokenizer.hash == Tokenizer.load(Path(gpt2)).hash
    assert not Path("out/meta.pkl").exists()
    # The run goes on with a shorter context: positions and their moments are cut.
    main([*tuned, "--init_from=resume", "--max_iters=41", "--block_size=10"])
    last = ckpt("out/ckpt_last.pt")
    assert last["model_args"]["block_size"] == 10 and last["iter_num"] == 41


def test_a_model_that_gets_no_better_is_not_taken_for_the_best(here, gpt2):
    prepare("cats.txt", Path("data/bpe"), tokenizer=gpt2)
    main([*SMALL, "--dataset=bpe", f"--init_from={gpt2}", "--learning_rate=0", "--min_lr=0",
          "--always_save_checkpoint=False"])  # fmt: skip
    assert not Path("out/ckpt.pt").exists() and ckpt("out/ckpt_last.pt")["iter_num"] == STEPS


def test_a_nanochat_model_keeps_its_own_format(here, tokenizer, base):
    tokenizer.save(tokenizer_dir())
    torch.manual_seed(0)
    small = GPTConfig(sequence_len=32, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=1, n_kv_head=1, n_embd=32)
    meta = {"tokenizer_hash": tokenizer.hash}
    manager.save(checkpoints_dir("base") / "d2", 5, GPT(small), None, meta)
    prepare("cats.txt", Path("data/ours"), tokenizer="base")
    argv = [*SMALL, "--dataset=ours", "--dropout=0.0"]
    main([*argv, "--init_from=base:d2"])
    assert manager.steps(Path("out")) == [STEPS] and not Path("out/ckpt.pt").exists()
    assert scores("out")[-1][2] < scores("out")[0][2] - 0.3
    loaded = door.open("resume")
    assert loaded.model.config == small and loaded.step == STEPS
    shutil.copytree("out", "whole")
    shutil.rmtree("out")
    main([*argv, "--init_from=base:d2", "--max_iters=8"])
    main([*argv, "--init_from=resume"])
    a, b = (torch.load(Path(out, f"model_{STEPS:06}.pt"), weights_only=True) for out in ("whole", "out"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert losses("out") == losses("whole") and scores("out") == scores("whole")


# ---------------------------------------------------------------- going on


def in_child(folder: str, base: str, argv: list[str], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment, NANOCHAT_BASE_DIR=base)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in a shell's background ignores it
    torch.set_num_threads(1)
    with open("said.txt", "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        config.run(lambda: main(argv))


def in_child_until(place: str, folder: str, base: str, argv: list[str]) -> None:
    """A run that is killed where it calls a function of out_dir."""
    setattr(out_dir, place, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    in_child(folder, base, argv, {})


def start(here: Path, argv: list[str], **environment: str) -> BaseProcess:
    child = processes.Process(target=in_child, args=(str(here), str(here / "base"), argv, environment))
    child.start()
    return child


def go_on(out_dir: str) -> list[str]:
    """How a run is started that was killed at any moment: before anything was saved there is nothing to go on from."""
    saved = any(Path(out_dir, name).exists() for name in ("ckpt.pt", "ckpt_last.pt"))
    return ["--init_from=resume"] if saved else []


def test_going_on_equals_never_having_stopped(here):
    main([*SMALL, "--out_dir=whole"])
    main([*SMALL, "--max_iters=8"])  # its schedule ends where that of the whole run does
    main([*SMALL, "--init_from=resume"])
    assert_same_run("out", "whole")
    main([*SMALL, "--init_from=resume"])  # and once more, when there is nothing left to do
    assert_same_run("out", "whole")


def test_killed_again_and_again_it_ends_the_same(here):
    steps = 60
    argv = [*SMALL, f"--max_iters={steps}"]
    main([*argv, "--out_dir=whole"])
    chance = random.Random(1)
    seen = 0
    for _ in range(4):
        seen += chance.randint(2, 8)
        child = start(here, [*argv, *go_on("out")])
        while child.is_alive() and (not Path("out/metrics.jsonl").exists() or len(losses("out")) < seen):
            child.join(0.001)
        child.join(chance.random() * 0.03)  # anywhere in a step, a save or a validation
        assert child.is_alive(), "it must be killed before it is done"
        child.kill()
        child.join()
    main([*argv, *go_on("out")])
    assert_same_run("out", "whole", steps)
    assert ckpt("out/ckpt_best.pt")["iter_num"] == ckpt("whole/ckpt_best.pt")["iter_num"]


def test_a_sigterm_saves_and_ends_with_143(here):
    argv = [*SMALL, "--max_iters=4000", "--eval_interval=4000", "--always_save_checkpoint=False"]
    child = start(here, argv)
    while child.is_alive() and (not Path("out/metrics.jsonl").exists() or len(losses("out")) < 3):
        child.join(0.001)
    child.terminate()
    child.join(300)
    assert child.exitcode == 143
    step = losses("out")[-1][0]
    assert ckpt("out/ckpt_last.pt")["iter_num"] == step < 4000 and not Path("out/ckpt.pt").exists()
    short = [*SMALL, f"--max_iters={step + 4}", "--eval_interval=4000"]
    main([*short, "--init_from=resume", "--always_save_checkpoint=False"])
    main([*short, "--out_dir=whole"])
    a, b = ckpt("out/ckpt.pt"), ckpt("whole/ckpt.pt")
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in b["model"])


def test_latest_and_best_keep_their_names_whichever_way_a_run_goes_on(here):
    """With --always_save_checkpoint ckpt.pt is the latest, without it the best; a run may change its mind."""
    worse = ["--learning_rate=3", "--min_lr=3"]
    main([*SMALL, "--max_iters=8"])
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_best.pt")["iter_num"]) == (8, 8)
    main([*SMALL, "--max_iters=12", "--init_from=resume", "--always_save_checkpoint=False", *worse])
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_last.pt")["iter_num"]) == (8, 12)
    assert not Path("out/ckpt_best.pt").exists()
    assert door.open("resume").step == 8
    main([*SMALL, "--max_iters=16", "--init_from=resume", *worse])
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_best.pt")["iter_num"]) == (16, 8)
    assert not Path("out/ckpt_last.pt").exists()
    main([*SMALL, "--max_iters=4", "--always_save_checkpoint=False"])  # a new run has no use for any of them
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_last.pt")["iter_num"]) == (4, 4)
    assert not Path("out/ckpt_best.pt").exists() and [n for n, _ in losses("out")] == [1, 2, 3, 4]


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("then", [True, False])
def test_the_best_is_not_lost_when_a_kill_comes_before_it_is_kept(here, always, then):
    """The latest checkpoint is written, and it is the best, but the best one's name is still to be given."""
    first = ["--max_iters=4", f"--always_save_checkpoint={always}"]
    more = ["--init_from=resume", f"--always_save_checkpoint={then}"]
    child = processes.Process(target=in_child_until, args=("_link", str(here), str(here / "base"), [*SMALL, *first]))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert [path.name for path in Path("out").glob("ckpt*")] == ["ckpt.pt" if always else "ckpt_last.pt"]
    Path("out/.ckpt.pt.123.tmp").write_bytes(b"half of a checkpoint that another kill left")
    main([*SMALL, *first, *more])  # nothing is left to be learned or saved
    assert not list(Path("out").glob(".*"))
    best, latest = ("ckpt_best.pt", "ckpt.pt") if then else ("ckpt.pt", "ckpt_last.pt")
    if not (always and not then):  # there ckpt.pt, which is both, has its name already
        assert ckpt(f"out/{latest}")["nanochat"]["best_step"] == 4
    worse = ["--learning_rate=3", "--min_lr=3", "--max_iters=8"]
    main([*SMALL, *worse, *more])
    assert (ckpt(f"out/{best}")["iter_num"], ckpt(f"out/{latest}")["iter_num"]) == (4, 8)


def test_a_run_without_the_state_of_its_optimizer_goes_on(here):
    """As somebody leaves it who makes a ckpt.pt smaller; its validation is due at once."""
    main([*SMALL, "--max_iters=8"])
    bare = {name: value for name, value in ckpt("out/ckpt.pt").items() if name not in ("optimizer", "nanochat")}
    torch.save(bare, "out/ckpt.pt")
    main([*SMALL, "--init_from=resume"])
    assert ckpt("out/ckpt.pt")["iter_num"] == STEPS and len(ckpt("out/ckpt.pt")["optimizer"]["state"]) > 5
    assert [n for n, *_ in scores("out")][-2:] == [8, STEPS]


def test_a_run_goes_on_with_its_own_tokenizer_only(here):
    main([*SMALL, "--max_iters=4"])
    assert ckpt("out/ckpt.pt")["nanochat"]["tokenizer_hash"] == Tokenizer.load(Path("data/cats")).hash
    Path("dogs.txt").write_text(CATS.replace("e", "é"), encoding="utf-8")  # as many characters, other ones
    prepare("dogs.txt", tokenizer="char")
    for name in ("meta.pkl", "tokenizer.json", "token_bytes.json"):
        shutil.copyfile(f"data/dogs/{name}", f"out/{name}")
    with pytest.raises(UserError, match=r"out/ckpt.pt was trained with the tokenizer \w{12}, not with \w{12}") as error:
        main([*SMALL, "--dataset=dogs", "--init_from=resume"])
    assert "\n" not in str(error.value)


def deleting(folder: Path) -> None:
    """Delete step 4, and be killed when a part of it is gone."""
    unlink = Path.unlink

    def unlink_and_die(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok)
        os.kill(os.getpid(), signal.SIGKILL)

    Path.unlink = unlink_and_die
    manager.delete(folder, [4])


def test_what_a_kill_left_half_deleted_goes_with_the_next_save(tmp_path):
    small = GPT(GPTConfig(sequence_len=8, vocab_size=20, n_layer=1, n_head=1, n_kv_head=1, n_embd=8))
    folder = tmp_path / "d1"
    for step in (4, 8):
        manager.save(folder, step, small, {}, {})
    child = processes.Process(target=deleting, args=(folder,))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert manager.steps(folder) == [8] and (folder / "optim_000004_rank0.pt").exists()
    manager.save(folder, 12, small, {}, {})
    assert manager.steps(folder) == [8, 12]
    assert sorted(path.name[:7] for path in folder.iterdir()) == ["meta_00"] * 2 + ["model_0"] * 2 + ["optim_0"] * 2


def test_wandb_without_a_login_is_one_sentence(here, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(here))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody is asked
    with pytest.raises(UserError, match=r"wandb does not take the run gpt2 \(.*\); log in with wandb login") as error:
        main([*SMALL, "--wandb_log=True"])
    assert "\n" not in str(error.value)


def test_what_a_new_run_replaces_is_said(here, capsys):
    main([*SMALL, "--max_iters=4"])
    assert "earlier run" not in capsys.readouterr().out
    main([*SMALL, "--max_iters=8"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "earlier run" in line)
    assert line.startswith("train: out holds ckpt.pt, ckpt_best.pt of an earlier run, which this one replaces")
    assert "--init_from=resume goes on with it instead" in line
    main([*SMALL, "--init_from=resume"])
    assert "earlier run" not in capsys.readouterr().out


def test_a_line_of_progress_shows_the_loss_of_its_step(here, capsys):
    main([*SMALL, "--log_interval=1"])
    shown = re.findall(r"^train +(\d+)/12 steps .* loss (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert shown == [(str(step), f"{loss:.4g}") for step, loss in losses("out")]


def test_ctrl_c_says_where_the_run_stands(here):
    for interval, said in ((400000, "nothing is saved yet"), (4, r"step \d+ is saved, go on with --init_from=resume")):
        out = f"out-{interval}"
        child = start(here, [*SMALL, "--max_iters=400000", f"--eval_interval={interval}", f"--out_dir={out}"])
        while child.is_alive() and (not Path(out, "metrics.jsonl").exists() or len(losses(out)) < 6):
            child.join(0.001)
        os.kill(child.pid or 0, signal.SIGINT)
        child.join(300)
        assert child.exitcode == 130
        last = Path("said.txt").read_text(encoding="utf-8").splitlines()[-1]
        assert re.fullmatch(rf"train: interrupted at step \d+; {said}", last), last


@pytest.mark.skipif(not FIXTURE.exists(), reason="needs the fixtures that the original programs made")
def test_a_run_of_the_original_goes_on(here):
    """Its ckpt.pt has no place in the data and no random state, but iterations, optimizer and best loss."""
    Path("out").mkdir()
    shutil.copyfile(FIXTURE / "ckpt.pt", "out/ckpt.pt")
    theirs = ckpt("out/ckpt.pt")
    ids = np.random.default_rng(0).integers(0, 512, 4000, dtype=np.uint16)
    Path("data/random").mkdir()
    for split in ("train", "val"):
        ids.tofile(f"data/random/{split}.bin")
    begun = theirs["iter_num"]
    argv = [*SMALL, "--dataset=random", "--init_from=resume", f"--max_iters={begun + 4}", "--dropout=0.0",
            "--block_size=64", "--warmup_iters=0", f"--lr_decay_iters={begun + 4}"]  # fmt: skip
    main(argv)
    assert [n for n, _ in losses("out")] == list(range(begun + 1, begun + 5))
    ours = ckpt("out/ckpt.pt")
    assert ours["model_args"] == theirs["model_args"] and ours["iter_num"] == begun + 4
    assert ours["model"].keys() == theirs["model"].keys()
    before = theirs["optimizer"]["state"]
    for i, state in ours["optimizer"]["state"].items():
        assert state["step"] == before[i]["step"] + 4 and state["exp_avg"].shape == before[i]["exp_avg"].shape
    assert losses("out")[-1][1] < losses("out")[0][1] + 1


# ---------------------------------------------------------------- two ranks


def test_two_ranks_equal_one_that_accumulates(here):
    """And a run goes on on another number of ranks. Without dropout, which each rank draws for itself."""
    argv = [*SMALL, "--dropout=0.0"]
    main([*argv, "--out_dir=alone"])
    main([*argv, "--max_iters=4"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(here, [*argv, "--init_from=resume"], RANK=str(n), LOCAL_RANK=str(n), **both) for n in range(2)]
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert [n for n, _ in losses("out")] == list(range(1, STEPS + 1))
    assert [loss for _, loss in losses("out")] == pytest.approx([loss for _, loss in losses("alone")], rel=1e-4)
    assert np.array(scores("out")) == pytest.approx(np.array(scores("alone")), rel=1e-4)
    a, b = ckpt("out/ckpt.pt"), ckpt("alone/ckpt.pt")
    assert a["nanochat"]["loop_state"]["cursor"] == b["nanochat"]["loop_state"]["cursor"]
    for name in b["model"]:
        assert torch.allclose(a["model"][name], b["model"][name], atol=1e-4), name


def test_two_ranks_with_dropout_go_on_exactly(here):
    """Each rank draws what it drops from the step and its own number."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for more in (["--out_dir=whole"], ["--max_iters=8"], ["--init_from=resume"]):
        command = [*torchrun, "-m", "scripts.train", *SMALL, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
        assert done.returncode == 0, done.stderr
    assert_same_run("out", "whole")
    main([*SMALL, "--out_dir=alone"])
    assert losses("alone") != losses("whole")


# ---------------------------------------------------------------- the optimizer and the schedule


@pytest.mark.parametrize("bias", [False, True])
def test_adamw_is_torchs(bias):
    """nanoGPT's groups: what has two dimensions decays, what has one does not."""
    shape = GPTConfig(sequence_len=8, vocab_size=30, n_layer=2, n_head=2, n_kv_head=2, n_embd=16, window_pattern="L",
                      learned_positions=True, layer_norm=True, bias=bias, activation="gelu", qk_norm=False, tied=True,
                      embed_norm=False, lambdas=False, value_embeds=False, smear=False, backout=False, softcap=0.0,
                      qk_scale=1.0, pad_vocab_to=1)  # fmt: skip
    torch.manual_seed(0)
    ours, theirs = GPT(shape), GPT(shape)
    theirs.load_state_dict(ours.state_dict())
    optimizer = Optimizer(adamw_groups(ours, 1.0, (0.9, 0.95), 0.1), [])
    groups = [{"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
              {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95))
    settings = Settings(learning_rate=1e-2, warmup_iters=3, lr_decay_iters=10, min_lr=1e-3)
    for step in range(12):
        ids = torch.randint(30, (2, 9))
        for model in (ours, theirs):
            model(ids[:, :-1], ids[:, 1:]).mean().backward()
        for group in reference.param_groups:
            group["lr"] = learning_rate(settings, step)
        optimizer.step(Rates(lr=learning_rate(settings, step)))
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # What is added to all keys changes no softmax: its gradient is rounding noise, which AdamW blows up.
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-3 if name.endswith("c_k.bias") else 1e-6), name


@given(st.integers(0, 50), st.integers(0, 20), st.integers(0, 40), st.floats(1e-5, 1), st.floats(0, 1e-5))
def test_the_cosine_is_nanogpts(step, warmup, more, peak, lowest):
    decay = warmup + more
    got = schedule.cosine(step, peak, warmup, decay, lowest)
    if step < warmup:
        assert got == peak * (step + 1) / (warmup + 1)
    elif step >= decay:
        assert got == lowest
    else:
        ratio = (step - warmup) / (decay - warmup)
        assert got == pytest.approx(lowest + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (peak - lowest))


def test_the_learning_rate_is_what_was_asked_for(here):
    main([*SMALL, "--eval_interval=100"])
    settings = Settings(learning_rate=1e-2, warmup_iters=2, lr_decay_iters=STEPS, min_lr=1e-3)
    rates = [line["lr"] for line in lines("out") if "lr" in line]
    assert rates == [learning_rate(settings, step) for step in range(STEPS)]
    main([*SMALL, "--eval_interval=100", "--decay_lr=False"])
    assert {line["lr"] for line in lines("out") if "lr" in line} == {1e-2}


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "more, said",
    [
        (["--dataset=dogs"], "no token files of a dataset 'dogs'"),
        (["--dataset=cat"], "data/cat/train.bin nor"),
        (["--dataset=cat"], "did you mean cats?"),
        (["--dataset=/proc/none"], "no token files of a dataset '/proc/none'"),
        (["--dataset=" + "a" * 300], "--dataset aaaaaaaaaaaaaaaaaaaa... is no path"),
        (["--init_from=" + "a" * 300], "--init_from aaaaaaaaaaaaaaaaaaaa... is no path"),
        (["--out_dir=x/" + "ä" * 200], "is no path: a name in it is longer than 255 bytes"),
        (["--out_dir=/proc/none"], "cannot write /proc/none/config.json: no such file or directory; give another"),
        (["--out_dir=cats.txt/out"], "cats.txt/out is no folder; give another place to write to"),
        (["--learning_rate=-1"], "--learning_rate is -1.0; expected 0 or more"),
        (["--learning_rate=nan"], "--learning_rate is nan; expected 0 or more"),
        (["--min_lr=-1"], "--min_lr is -1.0; expected 0 or more"),
        (["--min_lr=inf"], "--min_lr is inf; expected 0 or more"),
        (["--weight_decay=-1"], "--weight_decay is -1.0; expected 0 or more"),
        (["--grad_clip=-1"], "--grad_clip is -1.0; expected 0 or more"),
        (["--warmup_iters=-1"], "--warmup_iters is -1; expected 0 or more"),
        (["--lr_decay_iters=-1"], "--lr_decay_iters is -1; expected 0 or more"),
        (["--beta1=1"], "--beta1 is 1.0; expected a share below 1"),
        (["--beta2=-0.1"], "--beta2 is -0.1; expected a share below 1"),
        (["--n_embd=100000000", "--n_head=100000000"], "--n_head is 100000000; expected 10000 at most"),
        (["--n_embd=100000000"], "--n_embd is 100000000; expected 1000000 at most"),
        (["--n_embd=1000000"], "12T parameters, whose training takes 192T bytes; this machine has"),
        (["--n_layer=1000000"], "--n_layer is 1000000; expected 1000 at most"),
        (["--batch_size=1000000", "--block_size=1000"], "tokens are too many for one micro-batch"),
        (["--gradient_accumulation_steps=1000000000"], "expected 1000000 at most"),
        (["--seed=12345678901234567890123"], "--seed is a number of 74 bits; expected 63 bits at most"),
        (["--seed", "-1", "mistake.py"], "mistake.py:1: unknown key max_iter; did you mean max_iters?"),
        (["--config=mistake.py"], "mistake.py:1: unknown key max_iter; did you mean max_iters?"),
        (["--config=cats.txt"], "cats.txt is no config file; expected a name that ends in .py, .yaml, .yml, .json"),
        (["--config"], "--config names no file"),
        (["--init_from=resume"], "out has no ckpt.pt to go on from; check --out_dir"),
        (["--init_from=gpt5"], "there is no model 'gpt5'"),
        (["--batch_size=0"], "--batch_size is 0; expected 1 or more"),
        (["--eval_iters=0"], "--eval_iters is 0; expected 1 or more"),
        (["--max_iters=0"], "--max_iters is 0; expected 1 or more"),
        (["--dropout=1"], "--dropout is 1.0; expected a share below 1"),
        (["--n_head=5"], "--n_embd 32 is not a multiple of --n_head 5"),
        (["--block_size=5000"], "val.bin holds"),
        (["--device=tpu"], "tpu is not to be had on this machine"),
        (["--dtype=float8"], "float8"),
        (["--max_itres=5"], "unknown flag --max_itres; did you mean --max_iters?"),
        (["--max_iters=many"], "many"),
        (["mistake.py"], "mistake.py:1: unknown key max_iter; did you mean max_iters?"),
    ],
)
def test_mistakes(here, more, said):
    Path("mistake.py").write_text("max_iter = 3", encoding="utf-8")
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError) as error:
        main([*SMALL, *more])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert sorted(here.rglob("*")) == before


def test_data_of_another_tokenizer(here, gpt2):
    with pytest.raises(UserError, match=r"the tokens in data/cats are those of another tokenizer .*--tokenizer FOLDER"):
        main([*SMALL, f"--init_from={gpt2}"])
    prepare("cats.txt", Path("data/bpe"), tokenizer=gpt2)
    with pytest.raises(UserError, match="--block_size 64 is longer than the model's context of 32 tokens"):
        main([*SMALL, "--dataset=bpe", f"--init_from={gpt2}", "--block_size=64"])
    main([*SMALL, "--max_iters=4"])
    with pytest.raises(UserError, match="those of another tokenizer"):
        main([*SMALL, "--dataset=bpe", "--init_from=resume"])


def test_more_ranks_than_micro_batches(here, monkeypatch):
    from nanochat.runtime import Runtime
    from nanochat.train.nanogpt import train_as_nanogpt

    three = Runtime(torch.device("cpu"), torch.float32, 0, 3, 0)
    with pytest.raises(UserError, match="--gradient_accumulation_steps 40 counts .* not a multiple of their number, 3"):
        train_as_nanogpt(Settings(), three)


def test_a_damaged_checkpoint(here):
    main([*SMALL, "--max_iters=4"])
    whole = Path("out/ckpt.pt").read_bytes()
    Path("out/ckpt.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="out/ckpt.pt"):
        main([*SMALL, "--init_from=resume"])


def test_a_full_disk(here, small_disk, capsys):
    out = small_disk / "out"
    argv = [*SMALL, f"--out_dir={out}"]
    main([*argv, "--max_iters=4"])
    before = {path.name: path.stat().st_size for path in out.iterdir()}
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - 8 * 4096))  # room for the metrics, not for a checkpoint
    with pytest.raises(UserError, match="the disk is full"):
        main([*argv, "--init_from=resume"])
    assert {path.name: path.stat().st_size for path in out.iterdir()} == before
    (small_disk / "filler").unlink()
    main([*argv, "--init_from=resume"])
    main([*SMALL, "--out_dir=whole"])
    assert_same_run(out, "whole")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
