"""Training stages as tests run them: tiny ones, in this process or one of its own, and what they leave."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from children import processes
from conftest import TEXT

from nanochat import errors
from nanochat.checkpoint import manager
from nanochat.data.shards import write_shards
from nanochat.paths import dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import speedrun
from scripts._marks import Marks
from tests.chaosruns import before_logging

STEPS = 6
COMMON = [
    "--device_type=cpu", "--dtype=float32", "--no-compile", "--device_batch_size=2", "--total_batch_size=128",
    f"--num_iterations={STEPS}", "--warmup_steps=2", "--save_every=2", "--eval_every=3", "--eval_tokens=128",
]  # fmt: skip
BASE = [*COMMON, "--dataset=tiny", "--depth=1", "--aspect_ratio=32", "--head_dim=32", "--max_seq_len=32"]
SCRIPTS = {"base": "scripts.base_train", "mid": "scripts.mid_train", "sft": "scripts.chat_sft"}
OTHERS = {"dpo": "scripts.chat_dpo", "rl": "scripts.chat_rl", "train": "scripts.train"}


def flags(stage: str, base: Path, *more: str) -> list[str]:
    """The command line of a stage; flags given later win."""
    if stage == "base":
        return [*BASE, *more]
    talk = [*COMMON, "--conversations=none", f"--data_path={base / 'talk.jsonl'}", "--init_lr_frac=1"]
    return [*talk, *(["--text_share=0.4"] if stage == "mid" else []), *more]


def train(stage: str, argv: list[str]) -> None:
    """Run a stage in this process, on the base folder of the environment."""
    importlib.import_module({**SCRIPTS, **OTHERS}[stage]).main(argv)


def in_child(base: str, stage: str, argv: list[str], last: int, here: str, environment: dict[str, str]) -> None:
    os.chdir(here)
    os.environ.update(environment, NANOCHAT_BASE_DIR=base)
    torch.set_num_threads(1)
    if last:
        before_logging(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == last else None)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        errors.run(lambda: train(stage, argv))


def start(base: Path, stage: str, argv: list[str], last: int = 0, **environment: str) -> BaseProcess:
    """Run a stage in a process of its own, which SIGTERM ends after the step `last`."""
    child = processes.Process(target=in_child, args=(str(base), stage, argv, last, os.getcwd(), environment))
    child.start()
    return child


def on_ranks(base: Path, stage: str, argv: list[str], world: int = 2, here: int | None = None, last: int = 0) -> None:
    """Run a stage on some ranks, as torchrun starts them; `here`: ranks of a node, all by default."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    all_have = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(here or world), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port}  # fmt: skip
    ranks = [start(base, stage, argv, last, RANK=str(n), LOCAL_RANK=str(n), **all_have) for n in range(world)]
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [143 if last else 0] * world


class Leg(NamedTuple):
    """A part of a run's way: ranks, ranks of a node, --parallel."""

    ranks: int
    here: int
    mode: str


ALONE = Leg(1, 1, "replicate")
# From one rank to two, four and back in every mode. Hybrid is for nodes of several ranks, so two ranks have none.
ROAD = [
    ALONE, Leg(2, 2, "replicate"), Leg(4, 4, "replicate"),
    ALONE, Leg(2, 2, "shard"), Leg(4, 4, "shard"),
    ALONE, Leg(2, 2, "replicate"), Leg(4, 2, "hybrid"),
    ALONE,
]  # fmt: skip


def travel(base: Path, stage: str, argv: list[str], resume: list[str] | None = None) -> None:
    """Run a stage along ROAD, a step on each leg, the last one to the end; `resume`: flags of all but the first.

    Where there is --recompute, four ranks of a model in parts have it.
    """
    for n, leg in enumerate(ROAD):
        more = [*((resume or []) if n else []), f"--parallel={leg.mode}"]
        if stage in SCRIPTS and leg == Leg(4, 4, "shard"):
            more.append("--recompute")
        on_ranks(base, stage, [*argv, *more], leg.ranks, leg.here, (n + 1) % len(ROAD))


def tensors(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"model_{step:06d}.pt", weights_only=True)


def lines(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(folder) if "loss" in line]


def scores(folder: Path, key: str = "val_bpb") -> dict[int, float]:
    return {line["step"]: line[key] for line in lines(folder) if key in line}


def saved_state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """What a checkpoint has besides its weights, whole, as torch's own reader puts it together from all its files."""
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder / f"optim_{step:06d}"))
    described = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(of.size, dtype=of.properties.dtype) for name, of in described.items()}
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def assert_near(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], share: float, floor: float) -> None:
    """Every tensor of `a` differs from that of `b` by at most a share of its norm, and a floor for those near zero."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape, name
        assert (a[name] - b[name]).norm() <= share * b[name].norm() + floor, name


def assert_nearly_same_state(one: Path, other: Path, step: int) -> None:
    """Up to rounding: weights and momenta; and exactly, where the data would resume.

    Muon's matrices are rounded to bfloat16 where the processor multiplies it: 7 % of a second moment after five steps.
    """
    assert_near(tensors(one, step), tensors(other, step), 0.02, 1e-3)
    first, second = saved_state(one, step), saved_state(other, step)
    assert torch.equal(first.pop("steps"), second.pop("steps")) and first.pop("rng").shape == second.pop("rng").shape
    assert_near(first, second, 0.1, 1e-4)
    metas = [manager.read_meta(folder, step) for folder in (one, other)]
    for name in ("dataloader_state_dict", "tokenizer_hash"):
        assert metas[0][name] == metas[1][name]


def assert_same_run(one: Path, other: Path, step: int = STEPS, key: str = "val_bpb") -> None:
    """To the bit: weights, optimizer, every loss, every validation, and where the data would go on."""
    a, b = tensors(one, step), tensors(other, step)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    first, second = saved_state(one, step), saved_state(other, step)
    assert first.keys() == second.keys() > {"steps", "rng"}
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert losses(one) == losses(other) and [n for n, _ in losses(one)] == list(range(1, step + 1))
    assert scores(one, key) == scores(other, key)
    metas = [manager.read_meta(folder, step) for folder in (one, other)]
    assert metas[0]["dataloader_state_dict"] == metas[1]["dataloader_state_dict"]
    assert metas[0][key] == metas[1][key] is not None


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """What a folder holds: names, and of files their sizes and times."""
    return sorted((str(path), *((path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)))
                  for path in folder.rglob("*"))  # fmt: skip


def refused(stage: str, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a stage as a program; it must end with exit code 2, one line, and a base folder as it was."""
    root = Path(os.environ["NANOCHAT_BASE_DIR"])
    before = listing(root)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: train(stage, argv))
    assert stop.value.code == 2
    assert listing(root) == before
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def worlds(root: Path, tokenizer: Tokenizer) -> dict[str, Path]:
    """Base folders to copy: "base" has what base_train needs, "mid" a base model besides, "sft" a mid-trained one."""
    made = {stage: root / stage / "base" for stage in SCRIPTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(made["base"]))
        tokenizer.save(tokenizer_dir())
        write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(60)), dataset_dir("tiny"))
        with open(made["base"] / "talk.jsonl", "w", encoding="utf-8") as file:
            for n in range(40):
                question = {"role": "user", "content": f"{n} + 1?"}
                answer = {"role": "assistant", "content": "It is " * (n % 5) + str(n + 1)}
                file.write(json.dumps([question, answer] * (1 + n % 3)) + "\n")
        for stage, next_stage in (("base", "mid"), ("mid", "sft")):
            shutil.copytree(made[stage], made[next_stage])
            patch.setenv("NANOCHAT_BASE_DIR", str(made[next_stage]))
            train(stage, flags(stage, made[next_stage]))
    return made


LITTLE = {"TINY_DOCUMENTS": 1500, "TINY_VOCAB": 512, "TINY_DEPTH": 2, "TINY_ROWS": 8, "TINY_BASE_STEPS": 60,
          "TINY_SFT_STEPS": 60, "TINY_EVAL_TOKENS": 2048, "TINY_PROBLEMS": 2}  # fmt: skip


def little_world(root: Path) -> None:
    """Run the tiny recipe in this process, much smaller: base:d2 and sft:d2, who know a little of the little world."""
    settings = {"RECIPE": "tiny", **{name: str(value) for name, value in LITTLE.items()}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(root))
        for stage in speedrun.recipe_for(settings, Marks(root)).stages:
            if stage.name in ("data", "tok_train", "base_train", "chat_sft", "chat_eval_sft"):
                module = stage.module if stage.name != "data" else f"{stage.module}.__main__"
                more = ["--no-compile", "--dtype=float32"] if stage.trains else []
                importlib.import_module(module).main([*stage.command[2:], *more])
