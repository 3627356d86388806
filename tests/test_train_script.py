"""scripts.train as nanoGPT's users know it: from scratch, fine-tuned, resumed to the bit, and with every mistake."""

import contextlib
import copy
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import asdict
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from children import processes
from conftest import TEXT
from hypothesis import given
from hypothesis import strategies as st
from stages import on_ranks, travel

from extras.nanogpt import ckpt as writing
from extras.nanogpt.settings import OF_ONE_START, Settings
from extras.nanogpt.training import cosine, learning_rate
from nanochat import errors
from nanochat.checkpoint import door, manager, nanogpt
from nanochat.config import parse
from nanochat.data.prepare import prepare
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import Optimizer, Rates, adamw_groups
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import base_train, chat_sft, inference_server, mid_train, sample, speedrun
from scripts._marks import Marks
from scripts.train import Flags, main

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT.parent / "shared" / "fixtures" / "nanogpt"

STEPS = 12
SMALL = [
    "--device=cpu", "--dtype=float32", "--compile=False", "--dataset=cats", "--n_layer=1", "--n_head=2", "--n_embd=32",
    "--block_size=16", "--batch_size=2", "--gradient_accumulation_steps=2", f"--max_iters={STEPS}", "--dropout=0.1",
    "--learning_rate=1e-2", "--warmup_iters=2", f"--lr_decay_iters={STEPS}", "--min_lr=1e-3", "--eval_interval=4",
    "--eval_iters=3", "--log_interval=1000",
]  # fmt: skip
CATS = "".join(f"{n} cats. {TEXT[n % 50 : 150 + n]}\n" for n in range(60))


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and its token files of characters in data/cats."""
    folder = tmp_path_factory.mktemp("cats") / "here"
    folder.mkdir()
    (folder / "cats.txt").write_text(CATS, encoding="utf-8")
    prepare(str(folder / "cats.txt"), folder / "data" / "cats", tokenizer="char")
    return folder


@pytest.fixture(autouse=True)
def here(cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `cats` as the current folder."""
    folder = shutil.copytree(cats, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def whole(cats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out_dir of a run of SMALL that nobody interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shutil.copytree(cats, tmp_path_factory.mktemp("whole") / "here"))
        main([*SMALL, "--out_dir=whole"])
        return Path("whole").absolute()


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
    measured = {"seconds": 0, "timed": 0, "times": {}}
    assert first["loop_state"] | measured == second["loop_state"] | measured
    assert losses(one) == losses(other) and [n for n, _ in losses(one)] == list(range(1, steps + 1))
    assert scores(one) == scores(other) and [n for n, *_ in scores(one)] == list(range(0, steps + 1, 4))


# ---------------------------------------------------------------- from scratch


def test_a_run_from_scratch_and_what_it_leaves(here, capsys):
    chars = len(set(CATS))
    main([*SMALL, "--max_iters=60", "--lr_decay_iters=60", "--eval_interval=20"])
    said = capsys.readouterr().out
    (_, _, first), *_, (_, _, last) = scores("out")
    assert first == pytest.approx(math.log(chars), rel=0.02) and last < first - 0.6
    assert "train: step 0  train_loss" in said and "64 per step" in said and "scripts.sample --out_dir=out" in said
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "ckpt.pt", "ckpt.pt.sha256", "ckpt_best.pt", "ckpt_best.pt.sha256", "config.json", "meta.pkl",
        "metrics.jsonl", "token_bytes.json", "tokenizer.json"
    ]  # fmt: skip
    saved = ckpt("out/ckpt.pt")
    assert saved["model_args"] == {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 16, "bias": False,
                                   "vocab_size": chars, "dropout": 0.1}  # fmt: skip
    assert (saved["iter_num"], saved["config"]["dataset"]) == (60, "cats")
    assert saved["best_val_loss"] == min(val for _, _, val in scores("out"))
    of_one_start = {"eval_only", "overwrite", "parallel", "collective_minutes"}
    assert saved["config"].keys() == set(Settings.__dataclass_fields__) - of_one_start
    assert set(OF_ONE_START) & set(Settings.__dataclass_fields__) == {*of_one_start, "out_dir", "init_from"}
    subprocess.run(["sha256sum", "--check", "--strict", "ckpt.pt.sha256", "ckpt_best.pt.sha256"], cwd="out", check=True)
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
    commands = {}
    for settings in ({"TINY_MID_STEPS": "120"}, {}):  # mid-training is not part of the recipe as it is
        stages = speedrun.recipe_for({"RECIPE": "tiny", **settings}, Marks(Path("nowhere"))).stages
        commands |= {stage.name: stage.command[2:] for stage in stages}
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
    monkeypatch.setattr("nanochat.data.prepare.prepare", by_characters)
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


def test_a_vocabulary_is_padded(here, capsys):
    """As nanoLLM_gpt's vocab_size does it; a trained model keeps its own."""
    chars = len(set(CATS))
    main([*SMALL, "--max_iters=1", "--vocab-size=200"])
    assert ckpt("out/ckpt.pt")["model_args"]["vocab_size"] == 200
    loaded = door.open("resume")
    assert loaded.model.config.vocab_size == chars and loaded.model.config.padded_vocab == 200
    capsys.readouterr()
    main(["--init_from=resume", "--max_iters=2"])
    assert "vocab_size" not in capsys.readouterr().out
    main(["--init_from=resume", "--max_iters=3", "--vocab_size=320"])
    assert "--vocab_size 320 has no effect on a trained model; this one has 200" in capsys.readouterr().out
    for size, said in ((5, f"--vocab_size is 5; expected {chars} or more"), (0, "--vocab_size is 0; expected 1 to")):
        with pytest.raises(UserError, match=said):
            main([*SMALL, "--out_dir=other", f"--vocab_size={size}"])


def test_a_run_records_how_it_was_started(here):
    main([*SMALL, "--max_iters=2"])
    main(["--init_from=resume", "--max_iters=4", "--learning_rate=1e-3"])
    main(["--init_from=resume"])  # it is finished
    first, second = (line for line in lines("out") if "start" in line)
    assert (first["step"], second["step"]) == (0, 2)
    begun = first["start"]["changed_settings"]
    assert begun["learning_rate"] == 1e-2 and "bias" not in begun
    assert second["start"]["resumed_with"] == ["max_iters 2 -> 4", "learning_rate 0.01 -> 0.001"]
    assert second["start"]["changed_settings"]["batch_size"] == 2
    config = json.loads(Path("out/config.json").read_bytes())
    assert config["changed_settings"] == {**second["start"]["changed_settings"]}
    assert config["git_commit"] == second["start"]["git_commit"]


def test_a_text_is_named_by_data_path(here, monkeypatch):
    """Token files are taken as they are; a name beside it is the name of the data; missing files are reported."""
    main([*SMALL, "--max_iters=1", "--data-path=data/cats", "--out_dir=a"])
    assert ckpt("a/ckpt.pt")["config"]["dataset"] == "data/cats"
    for path, said in (("no.txt", "--data_path no.txt does not exist; expected"), ("base", "has no train.bin")):
        Path("base").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=said):
            main([*SMALL, f"--data-path={path}", "--out_dir=b"])
    by_characters = partial(prepare, tokenizer="char")
    monkeypatch.setattr("nanochat.data.prepare.prepare", by_characters)
    main([*SMALL, "--max_iters=1", "--dataset=pets", "--data-path=cats.txt", "--train-val-split=0.3", "--out_dir=c"])
    (folder,) = Path("data").glob("pets-*-0.3")
    train, val = ((folder / f"{split}.bin").stat().st_size for split in ("train", "val"))
    assert val / (train + val) == pytest.approx(0.3, abs=0.01)
    assert ckpt("c/ckpt.pt")["config"]["dataset"] == folder.name and "data_path" not in ckpt("c/ckpt.pt")["config"]
    main(["--init_from=resume", "--out_dir=c", "--max_iters=2"])  # which needs the text no more


def test_generating_and_serving_by_their_flags(here, capsys):
    Path("sea.txt").write_text(f"{CATS}\u2028", encoding="utf-8")
    prepare("sea.txt", tokenizer="char")
    main([*SMALL, "--max_iters=4", "--dataset=sea"])
    Path("prompts.txt").write_text("1 cats.\u2028cats\r\n\n2 cats.\n", encoding="utf-8")
    sample.main(["--checkpoint", "out/ckpt.pt", "--prompt-file", "prompts.txt", "--max-tokens", "3", "--device=cpu",
                 "--output=said.jsonl", "--num-samples=1"])  # fmt: skip
    said = [json.loads(line) for line in Path("said.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [line["prompt"] for line in said] == ["1 cats.\u2028cats", "2 cats."]
    assert parse(sample.Flags, ["--model", "gpt2"]).source == "gpt2"
    Path("server.yaml").write_text("port: 8080\nmodel_type: gpt2\ncheckpoint_path: null\n", encoding="utf-8")
    served = parse(inference_server.Flags, ["--config", "server.yaml"])
    assert (served.source, served.port) == ("gpt2", 8080)
    for name in ("--model-type", "--checkpoint", "--model_type"):
        assert parse(inference_server.Flags, [f"{name}=x"]).source == "x"
    for argv, words in (["--slots=1000000000"], "--slots is 1000000000; expected 1 to 4096"), (
        ["--checkpoint", "a" * 300], "aaaaaaaaaaaaaaaaaaaa... is not a path"
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
    # The run resumes with a shorter context: positions and their moments are cut.
    main(["--init_from=resume", "--max_iters=41", "--block_size=10"])
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
    main(["--init_from=resume", f"--max_iters={STEPS}"])
    a, b = (torch.load(Path(out, f"model_{STEPS:06}.pt"), weights_only=True) for out in ("whole", "out"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert losses("out") == losses("whole") and scores("out") == scores("whole")


# ---------------------------------------------------------------- resuming


def in_child(folder: str, base: str, argv: list[str], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment, NANOCHAT_BASE_DIR=base)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in a shell's background ignores it
    torch.set_num_threads(1)
    with open("said.txt", "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        errors.run(lambda: main(argv))


def in_child_until(place: str, folder: str, base: str, argv: list[str]) -> None:
    """A run that is killed where it writes a checkpoint of that name."""
    write = writing.write

    def killed(path: Path, *more) -> None:
        if path.name == place:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *more)

    writing.write = killed
    in_child(folder, base, argv, {})


def start(here: Path, argv: list[str], **environment: str) -> BaseProcess:
    child = processes.Process(target=in_child, args=(str(here), str(here / "base"), argv, environment))
    child.start()
    return child


def test_resuming_equals_never_having_stopped(here, whole):
    main([*SMALL, "--max_iters=8"])  # its schedule ends where that of the whole run does
    main([*SMALL, "--init_from=resume"])
    assert_same_run("out", whole)
    main([*SMALL, "--init_from=resume"])  # and once more, when there is nothing left to do
    assert_same_run("out", whole)


def test_latest_and_best_keep_their_names_however_a_run_is_resumed(here):
    """With --always_save_checkpoint ckpt.pt is the latest, without it the best; a run may change its mind."""
    worse = ["--learning_rate=3", "--min_lr=3"]
    main([*SMALL, "--max_iters=8"])
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_best.pt")["iter_num"]) == (8, 8)
    main([*SMALL, "--max_iters=12", "--init_from=resume", "--always_save_checkpoint=False", *worse])
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_last.pt")["iter_num"]) == (8, 12)
    assert not Path("out/ckpt_best.pt").exists()
    assert door.open("resume").step == 8
    main([*SMALL, "--max_iters=16", "--init_from=resume", "--always_save_checkpoint", *worse])
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_best.pt")["iter_num"]) == (16, 8)
    assert not Path("out/ckpt_last.pt").exists()
    main([*SMALL, "--max_iters=4", "--always_save_checkpoint=False", "--overwrite"])  # which has no use for them
    assert (ckpt("out/ckpt.pt")["iter_num"], ckpt("out/ckpt_last.pt")["iter_num"]) == (4, 4)
    assert sorted(path.name for path in Path("out").glob("ckpt*")) == [
        "ckpt.pt", "ckpt.pt.sha256", "ckpt_last.pt", "ckpt_last.pt.sha256"
    ]  # fmt: skip
    assert [n for n, _ in losses("out")] == [1, 2, 3, 4]


@pytest.mark.parametrize("always, then", [(True, True), (True, False), (False, True)])
def test_the_best_is_not_lost_when_a_kill_comes_before_it_is_kept(here, always, then):
    """The latest checkpoint is written, and it is the best, but the best one's name is still to be given."""
    first = ["--max_iters=4", f"--always_save_checkpoint={always}"]
    more = ["--init_from=resume", f"--always_save_checkpoint={then}"]
    place = "ckpt_best.pt" if always else "ckpt.pt"
    child = processes.Process(target=in_child_until, args=(place, str(here), str(here / "base"), [*SMALL, *first]))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert [path.name for path in Path("out").glob("ckpt*.pt")] == ["ckpt.pt" if always else "ckpt_last.pt"]
    Path("out/.ckpt.pt.123.tmp").write_bytes(b"half of a checkpoint that another kill left")
    main([*SMALL, *first, *more])  # nothing is left to be learned or saved
    assert not list(Path("out").glob(".*"))
    best, latest = ("ckpt_best.pt", "ckpt.pt") if then else ("ckpt.pt", "ckpt_last.pt")
    if not (always and not then):  # there ckpt.pt, which is both, has its name already
        assert ckpt(f"out/{latest}")["nanochat"]["best_step"] == 4
    worse = ["--learning_rate=3", "--min_lr=3", "--max_iters=8"]
    main([*SMALL, *worse, *more])
    assert (ckpt(f"out/{best}")["iter_num"], ckpt(f"out/{latest}")["iter_num"]) == (4, 8)


def test_a_run_without_optimizer_state_resumes(here):
    """As somebody leaves it who makes a ckpt.pt smaller; its validation is due at once."""
    main([*SMALL, "--max_iters=8"])
    bare = {name: value for name, value in ckpt("out/ckpt.pt").items() if name not in ("optimizer", "nanochat")}
    torch.save(bare, "out/ckpt.pt")  # its checksum is that of another file, as where nanoGPT has trained on
    main([*SMALL, "--init_from=resume"])
    assert ckpt("out/ckpt.pt")["iter_num"] == STEPS and len(ckpt("out/ckpt.pt")["optimizer"]["state"]) > 5
    assert [n for n, *_ in scores("out")][-2:] == [8, STEPS]


def test_a_run_resumes_with_its_own_tokenizer_only(here):
    main([*SMALL, "--max_iters=4"])
    assert ckpt("out/ckpt.pt")["nanochat"]["tokenizer_hash"] == Tokenizer.load(Path("data/cats")).hash
    Path("dogs.txt").write_text(CATS.replace("e", "é"), encoding="utf-8")  # as many characters, other ones
    prepare("dogs.txt", tokenizer="char")
    for name in ("meta.pkl", "tokenizer.json", "token_bytes.json"):
        shutil.copyfile(f"data/dogs/{name}", f"out/{name}")
    with pytest.raises(UserError, match=r"out/ckpt.pt was trained with the tokenizer \w{12}, not with \w{12}") as error:
        main([*SMALL, "--dataset=dogs", "--init_from=resume"])
    assert "\n" not in str(error.value)


def test_wandb_without_a_login_is_one_sentence(here, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(here))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody is asked
    with pytest.raises(UserError, match=r"wandb refused the run gpt2 \(.*\); log in with wandb login") as error:
        main([*SMALL, "--wandb_log=True"])
    assert "\n" not in str(error.value)


def test_a_new_run_replaces_nothing_of_another(here, capsys):
    """A ckpt.pt, a model in our format, what transformers wrote, a tokenizer: nothing without --overwrite."""
    main([*SMALL, "--max_iters=8", "--always_save_checkpoint=False"])
    before = {path: path.read_bytes() for path in here.rglob("[!.]*") if path.is_file()}
    with pytest.raises(UserError, match="out holds ckpt.pt, ckpt_last.pt of another run; resume it .* --overwrite"):
        main([*SMALL, "--max_iters=8"])
    assert {path: path.read_bytes() for path in before} == before
    main([*SMALL, "--eval_only"])  # which writes nothing
    for files, said in (
        ({"config.json": '{"model_type": "gpt2"}'}, "other/config.json does not belong to a run of scripts.train"),
        ({"tokenizer.json": Path("out/tokenizer.json").read_text(encoding="utf-8").replace("7", "8")}, "a tokenizer"),
        ({"meta_000007.json": "{}", "model_000007.pt": ""}, "other holds step 7 of another run;"),
    ):
        Path("other").mkdir()
        for name, text in files.items():
            Path("other", name).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            main([*SMALL, "--out_dir=other"])
        assert {path.name for path in Path("other").iterdir()} == {*files}
        shutil.rmtree("other")
    main([*SMALL, "--max_iters=4", "--overwrite"])
    assert ckpt("out/ckpt.pt")["iter_num"] == 4 and not Path("out/ckpt_last.pt").exists()


def test_a_run_keeps_its_settings(here, whole, capsys):
    """A resumed run needs no flags; one that differs is named and applied, or refused."""
    main([*SMALL, "--max_iters=8"])
    said = capsys.readouterr().out
    assert "settings" not in said
    Path("same.py").write_text("batch_size = 2\nmax_iters = 12\nbias = False\n", encoding="utf-8")
    main(["--init_from=resume", "same.py"])
    assert "resumed with other settings: max_iters 8 -> 12\n" in capsys.readouterr().out
    assert_same_run("out", whole)
    saved = ckpt("out/ckpt.pt")["config"]
    assert saved == {**ckpt(whole / "ckpt.pt")["config"], "out_dir": "out"} and saved["init_from"] == "scratch"
    Path("more.py").write_text("dropout = 0.0\nbatch_size = 12\n", encoding="utf-8")  # the defaults
    main(["--init_from=resume", "more.py", "--max_iters=16", "--learning_rate=6e-4"])
    changes = "dropout 0.1 -> 0.0, batch_size 2 -> 12, max_iters 12 -> 16, learning_rate 0.01 -> 0.0006\n"
    assert f"resumed with other settings: {changes}" in capsys.readouterr().out
    assert ckpt("out/ckpt.pt")["config"]["batch_size"] == 12 and ckpt("out/ckpt.pt")["model_args"]["dropout"] == 0
    before = Path("out/ckpt.pt").read_bytes()
    for flag, own in ("--n_layer=12", 1), ("--bias", "False"), ("--n_head=1", 2):
        with pytest.raises(UserError, match=rf"{flag.partition('=')[0]} \w+ does not fit the model in out, .* {own};"):
            main(["--init_from=resume", flag])
    with pytest.raises(UserError, match="--block_size 64 is longer than the model's context of 16 tokens"):
        main(["--init_from=resume", "--block_size=64"])
    assert Path("out/ckpt.pt").read_bytes() == before
    capsys.readouterr()
    main(["--init_from=resume"])
    said = capsys.readouterr().out
    assert "the run in out is finished: step 16 of 16, best val_loss" in said
    assert "python -m scripts.train --init_from=resume --max_iters=32" in said
    assert Path("out/ckpt.pt").read_bytes() == before


def test_settings_of_another_type_are_named(here, capsys):
    """nanoGPT's own settings may be whole numbers of the other type, but nothing else."""
    main([*SMALL, "--max_iters=4"])
    changed = ckpt("out/ckpt.pt")
    changed["config"].update(learning_rate=1, max_iters=5.0)
    del changed["nanochat"]
    torch.save(changed, "out/ckpt.pt")
    main(["--init_from=resume", "--eval_only", "--eval_iters=1"])
    assert "settings: eval_iters 3 -> 1\n" in capsys.readouterr().out
    changed["config"].update(batch_size="many")
    torch.save(changed, "out/ckpt.pt")
    with pytest.raises(UserError, match="the run recorded batch_size='many', which is not a value of that flag"):
        main(["--init_from=resume"])


def test_other_tokens_are_not_trained_on(here, capsys):
    main([*SMALL, "--max_iters=4"])
    shutil.copytree("data/cats", "elsewhere")
    main(["--init_from=resume", "--dataset=elsewhere", "--max_iters=8"])  # the same, in another place
    assert "dataset cats -> elsewhere" in capsys.readouterr().out
    whole = {split: Path("elsewhere", f"{split}.bin").read_bytes() for split in ("train", "val")}
    before = Path("out/ckpt.pt").read_bytes()
    for split, content in (
        ("train", whole["train"][: len(whole["train"]) // 4 * 2]),
        ("val", whole["val"][2:] + whole["val"][:2]),
    ):
        Path("elsewhere", f"{split}.bin").write_bytes(content)
        said = f"elsewhere/{split}.bin holds other tokens than the run in out was trained with; .* --init_from=out and"
        with pytest.raises(UserError, match=said):
            main(["--init_from=resume", "--max_iters=12"])
        main(["--init_from=resume", "--eval_only"])
        Path("elsewhere", f"{split}.bin").write_bytes(whole[split])
    assert Path("out/ckpt.pt").read_bytes() == before
    Path("elsewhere/train.bin").write_bytes(whole["train"][:400])
    main([*SMALL, "--init_from=out", "--dataset=elsewhere", "--out_dir=new", "--max_iters=1"])  # as it was advised


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def trained(cats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out_dir of a run whose best step is 4 and whose latest is 8."""
    folder = shutil.copytree(cats, tmp_path_factory.mktemp("trained") / "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([*SMALL, "--max_iters=4"])
        main(["--init_from=resume", "--max_iters=8", "--learning_rate=3", "--min_lr=3"])
    return folder / "out"


def test_every_flipped_bit_is_noticed(trained, tmp_path):
    """By the checksum beside the file; without it, by those that torch puts into it, wherever it matters."""
    whole = (trained / "ckpt.pt").read_bytes()
    good = nanogpt.read(trained / "ckpt.pt")
    shutil.copyfile(trained / "ckpt.pt.sha256", tmp_path / "ckpt.pt.sha256")
    chance = random.Random(3)
    read = 0
    for _ in range(40):
        place = chance.randrange(8 * len(whole))
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        (tmp_path / "ckpt.pt").write_bytes(broken)
        with pytest.raises(UserError, match=r"ckpt\.pt"):
            nanogpt.read(tmp_path / "ckpt.pt")
        (tmp_path / "bare.pt").write_bytes(broken)
        try:
            found = nanogpt.read(tmp_path / "bare.pt")
        except UserError:
            continue
        read += 1
        assert found.settings == good.settings and found.ours == good.ours
        assert all(torch.equal(tensor, good.state[name]) for name, tensor in found.state.items())
    assert read < 20


def test_a_damaged_checkpoint_is_replaced_by_the_best(here, trained, capsys):
    shutil.copytree(trained, "out")
    whole = Path("out/ckpt.pt").read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    Path("out/ckpt.pt").write_bytes(broken)
    with pytest.raises(UserError, match=r"out/ckpt.pt is damaged: .*; beside it lies out/ckpt_best.pt$"):
        door.open("resume")
    assert door.open("out/ckpt_best.pt").step == 4
    main(["--init_from=resume", "--max_iters=12"])
    said = "train: out/ckpt.pt is damaged: its checksum is wrong; resuming from out/ckpt_best.pt instead, at step 4\n"
    assert said in capsys.readouterr().out
    assert ckpt("out/ckpt.pt")["iter_num"] == 12 and [n for n, _ in losses("out")] == list(range(1, 13))
    for name in ("ckpt.pt", "ckpt_best.pt"):
        Path("out", name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="out/ckpt.pt .*no checkpoint in out can be resumed, start anew in ano"):
        main(["--init_from=resume"])


def test_a_checkpoint_without_or_with_another_checksum(here, trained):
    """Of another whole file it says how to go on; one that was being written allows the old and the new."""
    shutil.copytree(trained, "out")
    sums = Path("out/ckpt.pt.sha256")
    said = sums.read_text(encoding="utf-8")
    shutil.copyfile("out/ckpt_best.pt", "out/ckpt.pt")
    with pytest.raises(UserError, match=r"ckpt.pt does not match ckpt.pt.sha256.* delete out/"):
        nanogpt.read(Path("out/ckpt.pt"))
    sums.unlink()
    assert nanogpt.read(Path("out/ckpt.pt")).iter_num == 4
    best = Path("out/ckpt_best.pt.sha256").read_text(encoding="utf-8")
    sums.write_text(said + best.replace("_best", ""), encoding="utf-8")
    os.utime("out/ckpt.pt", (1, 1))
    assert nanogpt.read(Path("out/ckpt.pt")).iter_num == 4
    assert Path("out/ckpt.pt").stat().st_ino != Path("out/ckpt_best.pt").stat().st_ino
    assert Path(trained, "ckpt_best.pt").stat().st_nlink == 1


def killed_at(call: int, model: GPT, read: nanogpt.Checkpoint, optimizer: dict) -> None:
    """Writes out/ckpt.pt again and moves it, and dies before the rename with that number."""
    replace = os.replace

    def counted(source: Path, target: Path) -> None:
        nonlocal call
        if call == 0:
            os._exit(9)
        call -= 1
        replace(source, target)

    os.replace = counted  # type: ignore[assignment]
    Path.replace = counted  # type: ignore[assignment,method-assign]
    writing.write(Path("out/ckpt.pt"), model, optimizer, read.settings, 5, 1.0, read.ours)
    writing.move(Path("out/ckpt.pt"), Path("out/ckpt_best.pt"))
    os._exit(0)


@pytest.mark.parametrize("with_sums", [True, False])
def test_a_kill_between_a_file_and_its_checksum(here, trained, with_sums):
    read = nanogpt.read(trained / "ckpt.pt")
    optimizer = writing.optimizer_of(read, trained) or {}
    model = manager.build(read.config, read.state, trained)
    for call in range(7):
        shutil.rmtree("out", ignore_errors=True)
        shutil.copytree(trained, "out")
        if not with_sums:
            for path in Path("out").glob("*.sha256"):
                path.unlink()
        child = os.fork()
        if child == 0:
            killed_at(call, model, read, optimizer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if call < 6 else 0)
        there = {name: Path("out", name) for name in ("ckpt.pt", "ckpt_best.pt")}
        found = {name: nanogpt.read(path, tensors=False).iter_num for name, path in there.items() if path.exists()}
        expected = [{"ckpt.pt": 8, "ckpt_best.pt": 4}] * 2 + [{"ckpt.pt": 5, "ckpt_best.pt": 4}] * 3
        assert found == [*expected, {"ckpt_best.pt": 5}, {"ckpt_best.pt": 5}][call]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"nanochat": {"loop_state": {"step": 8, "seconds": "long"}}}, "the seconds of its run is 'long', not a num"),
        ({"nanochat": {"loop_state": {"step": 8, "unheard": 1}}}, "does not hold the state of a run that this version"),
        ({"nanochat": {"loop_state": {"step": 8, "cursor": {"row": 1}}}}, "does not record where its data resumes"),
        ({"nanochat": "x"}, "what it records of its run cannot be read"),
        ({"nanochat": {"tokenizer_hash": 3}}, "what it records of its run cannot be read"),
        ({"nanochat": {"data": {"train": torch.zeros(2)}}}, "what it records of its run cannot be read"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, "the state of its optimizer does not fit"),
        ({"optimizer": {"state": {0: {"step": -1}}}}, "the state of its optimizer does not fit"),
        ({"config": {"batch_size": torch.zeros(2)}}, "its batch_size is tensor"),
        ({"model_args": {"block_size": "x"}}, "sequence_len is 'x', expected a value such as"),
    ],
    ids=str,
)
def test_what_cannot_be_resumed(here, trained, change, said):
    shutil.copytree(trained, "out")
    saved = ckpt("out/ckpt.pt")
    put_in(saved, change)
    torch.save(saved, "out/ckpt.pt")
    Path("out/ckpt.pt.sha256").unlink()
    Path("out/ckpt_best.pt").unlink()
    with pytest.raises(UserError, match=rf"out/ckpt\.pt.*{said}"):
        main(["--init_from=resume", "--max_iters=9"])


def put_in(old: dict, new: dict) -> None:
    """Replace single values in nested dictionaries, but a loop_state as a whole."""
    for name, value in new.items():
        if isinstance(value, dict) and name != "loop_state":
            put_in(old[name], value)
        else:
            old[name] = value


# ---------------------------------------------------------------- what a run says


def test_a_line_of_progress_shows_the_loss_of_its_step(here, capsys):
    main([*SMALL, "--log_interval=1"])
    shown = re.findall(r"^train +(\d+)/12 steps .* loss (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert shown == [(str(step), f"{loss:.4g}") for step, loss in losses("out")]


def test_a_validation_is_added_beside_the_training(here, monkeypatch):
    """On the thread that writes, from the copies that the save of its step has made."""
    write, state_dict, threads, copied = writing.write, Optimizer.state_dict, [], []

    def written(path: Path, *more) -> None:
        threads.append((path.name, threading.current_thread().name.partition("_")[0]))
        write(path, *more)

    monkeypatch.setattr(writing, "write", written)
    monkeypatch.setattr(Optimizer, "state_dict", lambda self: copied.append(1) or state_dict(self))
    main([*SMALL, "--max_iters=8"])
    each = ("ckpt.pt", "ckpt.pt", "ckpt_best.pt")
    assert threads == [(name, "checkpoint") for name in (*each, *each)]
    assert len(copied) == 3  # at the start, and of two steps


def test_ctrl_c_says_where_the_run_stands(here):
    child = start(here, [*SMALL, "--max_iters=400000", "--eval_interval=400000", "--out_dir=out {x}"])
    while child.is_alive() and (not Path("out {x}", "metrics.jsonl").exists() or len(losses("out {x}")) < 6):
        child.join(0.01)
    os.kill(child.pid or 0, signal.SIGINT)
    child.join(300)
    assert child.exitcode == 130
    step = losses("out {x}")[-1][0]
    said = f"train: interrupted; step {step} is saved, resume with --init_from=resume --out_dir='out {{x}}'\n"
    assert said in Path("said.txt").read_text(encoding="utf-8")
    assert ckpt("out {x}/ckpt.pt")["iter_num"] == step


def test_minutes_are_enough_for_a_checkpoint(here):
    """Between validations, too: ckpt.pt is the latest, and no best one is made of what was not validated."""
    child = start(here, [*SMALL, "--max_iters=3000", "--eval_interval=3000", "--save_minutes=1e-6"])
    while child.is_alive() and not Path("out/ckpt.pt").exists():
        child.join(0.01)
    child.kill()
    child.join(300)
    assert ckpt("out/ckpt.pt")["iter_num"] > 0 and not Path("out/ckpt_best.pt").exists()
    assert ckpt("out/ckpt.pt")["config"]["save_minutes"] == 1e-6


@pytest.mark.skipif(not FIXTURE.exists(), reason="needs the fixtures that the original programs made")
def test_a_run_of_the_original_resumes(here):
    """Its ckpt.pt has no place in the data and no random state, but iterations, optimizer and best loss."""
    Path("out").mkdir()
    shutil.copyfile(FIXTURE / "ckpt.pt", "out/ckpt.pt")
    theirs = ckpt("out/ckpt.pt")
    ids = np.random.default_rng(0).integers(0, 512, 4000, dtype=np.uint16)
    Path("data/random").mkdir()
    for split in ("train", "val"):
        ids.tofile(f"data/random/{split}.bin")
    begun = theirs["iter_num"]
    argv = ["--dataset=random", "--init_from=resume", f"--max_iters={begun + 4}", "--dropout=0.0", "--compile=False",
            "--block_size=64", "--warmup_iters=0", f"--lr_decay_iters={begun + 4}", "--batch_size=2",
            "--learning_rate=1e-2", "--eval_iters=3", "--gradient_accumulation_steps=2"]  # fmt: skip
    with pytest.raises(UserError, match="--n_layer 1 does not fit the model in out, which has"):
        main([*argv, "--n_layer=1"])
    main(argv)
    assert [n for n, _ in losses("out")] == list(range(begun + 1, begun + 5))
    ours = ckpt("out/ckpt.pt")
    assert ours["model_args"] == theirs["model_args"] and ours["iter_num"] == begun + 4
    assert ours["model"].keys() == theirs["model"].keys()
    before = theirs["optimizer"]["state"]
    for i, state in ours["optimizer"]["state"].items():
        assert state["step"] == before[i]["step"] + 4 and state["exp_avg"].shape == before[i]["exp_avg"].shape
    assert losses("out")[-1][1] < losses("out")[0][1] + 1


# ---------------------------------------------------------------- several ranks


def test_one_run_on_many_machines_is_the_run_of_one_rank(here):
    """In every mode, stopped and resumed on each. Without dropout, which each rank draws for itself."""
    argv = [*SMALL, "--dropout=0.0", "--gradient_accumulation_steps=4", "--eval_interval=1"]
    main([*argv, "--out_dir=alone"])
    travel(here / "base", "train", argv, ["--init_from=resume"])
    assert [n for n, _ in losses("out")] == list(range(1, STEPS + 1))
    assert [loss for _, loss in losses("out")] == pytest.approx([loss for _, loss in losses("alone")], rel=1e-4)
    assert np.array(scores("out")) == pytest.approx(np.array(scores("alone")), rel=1e-4)
    a, b = ckpt("out/ckpt.pt"), ckpt("alone/ckpt.pt")
    ours, theirs = a["nanochat"], b["nanochat"]
    assert ours["loop_state"]["cursor"] == theirs["loop_state"]["cursor"]
    assert all(ours[name] == theirs[name] for name in ("tokenizer_hash", "data"))
    for name in b["model"]:
        assert torch.allclose(a["model"][name], b["model"][name], atol=1e-4), name
    first, second = (each["optimizer"]["state"] for each in (a, b))
    assert first.keys() == second.keys()
    for n, state in second.items():
        assert all(torch.allclose(first[n][key], value, rtol=0.05, atol=1e-4) for key, value in state.items()), n


def test_the_best_checkpoint_of_a_model_in_parts_is_written_after_a_kill(here):
    """The kill came between the latest and the best; each rank has some rows of the weights only."""
    argv = [*SMALL, "--dropout=0.0", "--max_iters=4"]
    main(argv)
    best = ckpt("out/ckpt_best.pt")["model"]
    Path("out/ckpt_best.pt").unlink()
    on_ranks(here / "base", "train", [*argv, "--init_from=resume", "--parallel=shard"])
    again = ckpt("out/ckpt_best.pt")["model"]
    assert again.keys() == best.keys() and all(torch.equal(again[name], best[name]) for name in best)


def test_two_ranks_with_dropout_resume_exactly(here):
    """Each rank draws what it drops from the step and its own number."""
    on_ranks(here / "base", "train", [*SMALL, "--out_dir=whole"])
    on_ranks(here / "base", "train", [*SMALL, "--max_iters=8"])
    on_ranks(here / "base", "train", ["--init_from=resume", f"--max_iters={STEPS}"])
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
    saved = copy.deepcopy(optimizer.state_dict())
    again = Optimizer(adamw_groups(ours, 1.0, (0.9, 0.95), 0.1), [])
    again.load_state_dict(saved)
    assert again.state.keys() == optimizer.state.keys() and not saved["state"]  # so that nothing is in memory twice


@given(st.integers(0, 50), st.integers(0, 20), st.integers(0, 40), st.floats(1e-5, 1), st.floats(0, 1e-5))
def test_the_cosine_is_nanogpts(step, warmup, more, peak, lowest):
    decay = warmup + more
    got = cosine(step, peak, warmup, decay, lowest)
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
    main([*SMALL, "--eval_interval=100", "--decay_lr=False", "--out_dir=flat"])
    assert {line["lr"] for line in lines("flat") if "lr" in line} == {1e-2}


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "more, message",
    [
        (["--dataset=dogs"], "no token files of a dataset 'dogs'"),
        (["--dataset=dogs"], "make them with python -m scripts.prepare TEXT --out_dir=data/dogs"),
        (["--dataset=shakespeare"], "make them with python -m scripts.prepare shakespeare"),
        (["--dataset=cat"], "did you mean cats?"),
        (["--dataset=/proc/none"], "no token files of a dataset '/proc/none'"),
        (["--dataset=" + "a" * 300], "--dataset aaaaaaaaaaaaaaaaaaaa... is not a path"),
        (["--init_from=" + "a" * 300], "--init_from aaaaaaaaaaaaaaaaaaaa... is not a path"),
        (["--out_dir=x/" + "ä" * 200], "is not a path: a name in it is longer than 255 bytes"),
        (["--out_dir=/proc/none"], "cannot write /proc/none/.lock: no such file or directory; give another"),
        (["--out_dir=cats.txt/out"], "cats.txt/out is not a folder; give another place to write to"),
        (["--learning_rate=-1"], "--learning_rate is -1.0; expected 0 or more"),
        (["--min_lr=inf"], "--min_lr is inf; expected 0 or more"),
        (["--overwrite", "--init_from=resume"], "--overwrite starts a new run, --init_from=resume resumes the one in"),
        (["--grad_clip=-1"], "--grad_clip is -1.0; expected 0 or more"),
        (["--lr_decay_iters=-1"], "--lr_decay_iters is -1; expected 0 or more"),
        (["--beta1=1"], "--beta1 is 1.0; expected a number from 0 to below 1"),
        (["--n_embd=1000000"], "training on 2 rows of 16 tokens at a time takes about 346,003 GB, but only"),
        (["--n_layer=1000000"], "--n_layer is 1000000; expected 1000 at most"),
        (["--seed=12345678901234567890123"], "--seed is a number of 74 bits; expected 63 bits at most"),
        (["--config=mistake.py"], "mistake.py:1: unknown key max_iter; did you mean max_iters?"),
        (["--config=cats.txt"], "cats.txt is not a config file; expected a name that ends in .py, .yaml, .yml, .json"),
        (["--config"], "--config names no file"),
        (["--init_from=resume"], "out has no ckpt.pt to resume from; check --out_dir"),
        (["--init_from=gpt5"], "there is no model 'gpt5'"),
        (["--batch_size=0"], "--batch_size is 0; expected 1 or more"),
        (["--max_iters=0"], "--max_iters is 0; expected 1 or more"),
        (["--dropout=1"], "--dropout is 1.0; expected a number from 0 to below 1"),
        (["--n_head=5"], "--n_embd 32 is not a multiple of --n_head 5"),
        (["--block_size=5000"], "val.bin holds"),
        (["--device=tpu"], "tpu is not available on this machine"),
        (["--dtype=float8"], "float8"),
        (["--max_itres=5"], "unknown flag --max_itres; did you mean --max_iters?"),
        (["--max_iters=many"], "many"),
        (["mistake.py"], "mistake.py:1: unknown key max_iter; did you mean max_iters?"),
    ],
)
def test_mistakes(here, more, message):
    Path("mistake.py").write_text("max_iter = 3", encoding="utf-8")
    before = sorted(here.rglob("*"))
    with pytest.raises(UserError) as error:
        main([*SMALL, *more])
    assert message in str(error.value) and "\n" not in str(error.value)
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
    from extras.nanogpt.training import train_as_nanogpt
    from nanochat.runtime import Runtime

    three = Runtime(torch.device("cpu"), torch.float32, 0, 3, 0)
    with pytest.raises(UserError, match="--gradient_accumulation_steps 40 counts .* not a multiple of their number, 3"):
        train_as_nanogpt(Settings(), three)
