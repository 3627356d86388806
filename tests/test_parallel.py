"""--parallel: a model in parts takes the steps of one rank, on any number of ranks, in every mode."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stages import ROAD, STEPS, assert_nearly_same_state, flags, lines, on_ranks, train, travel

from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir
from nanochat.runtime import Runtime
from nanochat.train import parallel
from nanochat.train.parallel import layout_for

FIGURES = ("loss", "grad_norm", "val_bpb")


def figures(folder: Path) -> dict[tuple[int, str], float]:
    return {(line["step"], name): line[name] for line in lines(folder) for name in FIGURES if name in line}


def assert_equal(one: Path, other: Path, step: int) -> None:
    """Up to rounding: every loss and validation, and the state at a step."""
    assert figures(one) == {key: pytest.approx(value, rel=2e-4) for key, value in figures(other).items()}
    assert_nearly_same_state(one, other, step)
    assert manager.read_meta(one, step)["model_config"] == manager.read_meta(other, step)["model_config"]


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_one_run_on_many_machines_is_the_run_of_one_rank(
    stage: str, world: Callable[[str], Path], base: Path
) -> None:
    """A validation and a step in all modes; eight rows in micro-batches of two are shared by up to four ranks."""
    world(stage)
    n = len(ROAD)
    more = [f"--num_iterations={n}", "--total_batch_size=256", "--grad_clip=0.5", "--document_mask", "--eval_every=1",
            "--eval_tokens=256"]  # fmt: skip
    argv = flags(stage, base, *more, *(["--depth=2"] if stage == "base" else []))
    tag = "--model_tag" if stage == "base" else "--out_tag"
    train(stage, [*argv, f"{tag}=alone"])
    travel(base, stage, [*argv, f"{tag}=road"])
    folder = checkpoints_dir(stage)
    assert_equal(folder / "road", folder / "alone", n)


def test_a_model_in_parts_keeps_its_adapters(world: Callable[[str], Path], base: Path) -> None:
    world("sft")
    argv = [flag for flag in flags("sft", base, "--lora_rank=2", "--lora_lr=0.02") if "init_lr" not in flag]
    train("sft", [*argv, "--out_tag=alone"])
    on_ranks(base, "sft", [*argv, "--out_tag=parts", "--parallel=shard"])
    folder = checkpoints_dir("sft")
    assert_equal(folder / "parts", folder / "alone", STEPS)


# ---------------------------------------------------------------- the choice


def predicted(parts: int) -> float:
    return 100e9 / parts


@pytest.mark.parametrize(
    ("gigabytes", "here", "mode", "parts"),
    [(200, 4, "replicate", 1), (40, 4, "hybrid", 4), (40, 8, "shard", 8), (20, 4, "shard", 8), (5, 8, "shard", 8)],
)
def test_auto_takes_the_least_traffic_that_fits(
    gigabytes: int, here: int, mode: str, parts: int, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    monkeypatch.setattr(parallel, "memory_of", lambda device: gigabytes * 1e9)
    rt = Runtime(torch.device("cpu"), torch.float32, 0, 8, 0)
    assert layout_for("auto", rt, predicted) == (mode, parts)
    printed = capsys.readouterr().out
    assert printed == "" if mode == "replicate" else f"parallel={mode}: the whole model takes 100 of" in printed


@pytest.mark.parametrize(("whole", "parts", "mode"), [(64e9, 7e9, "hybrid"), (12e9, 7e9, "replicate")])
def test_auto_sends_no_padding(whole: float, parts: float, mode: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr(parallel, "memory_of", lambda device: 200e9)
    rt = Runtime(torch.device("cpu"), torch.float32, 0, 512, 0)
    found = layout_for("auto", rt, predicted, lambda layout: whole if layout.parts == 1 else parts)
    assert found.mode == mode
    said = "parallel=hybrid: the whole model fits, but 512 ranks are many for its matrices: each would send 64.0 GB"
    assert (said in capsys.readouterr().out) == (mode == "hybrid")


def test_one_node_is_no_hybrid(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    rt = Runtime(torch.device("cpu"), torch.float32, 0, 2, 0)
    with pytest.raises(UserError, match="needs several nodes .* pass --parallel shard"):
        layout_for("hybrid", rt, predicted)
    assert layout_for("shard", rt, predicted) == ("shard", 2)
    alone = Runtime(torch.device("cpu"), torch.float32, 0, 1, 0)
    assert layout_for("shard", alone, predicted) == ("replicate", 1)


def test_a_part_takes_less_memory() -> None:
    from nanochat.gpt import GPTConfig
    from nanochat.plan.cost import training_memory

    whole, part = (training_memory(GPTConfig(n_layer=32, n_embd=2048), 1, 2048, ranks=64, parts=n) for n in (1, 64))
    assert part["weights"] == whole["weights"] / 64 and part["gradients"] == whole["gradients"] / 64
    assert sum(part.values()) < 0.6 * sum(whole.values())
    assert json.dumps(part)
