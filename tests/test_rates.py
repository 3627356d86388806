"""Every step's rates are those of the formula of the flags, in the log and in what the optimizer was given.

The formulas are written out again here, from the rules in the README and in papers, with no help of nanochat.schedule.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TEXT

from nanochat import scaling
from nanochat.data.shards import write_shards
from nanochat.optim import Optimizer, Rates
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from nanochat.scaling import config_from_depth, horizon
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Stage, train
from scripts import base_train, chat_rl, chat_sft, mid_train

MAINS = {"base": base_train.main, "mid": mid_train.main, "sft": chat_sft.main, "rl": chat_rl.main}
D = 32  # width of the model
COMMON = [
    "--device_type=cpu", "--dtype=float32", "--no-compile", "--eval_every=-1", "--num_iterations=3",
    "--embedding_lr=0.3", "--unembedding_lr=0.008", "--matrix_lr=0.02", "--scalar_lr=0.5", "--seed=3",
]  # fmt: skip
ROWS = ["--device_batch_size=2", "--total_batch_size=256", "--eval_tokens=256"]
"""256 tokens a step are 2^-11 of the reference's 2^19, so that the rates are its root of what the flags say"""
TALK = ["--conversations=none", "--data_path={base}/talk.jsonl"]
FLAGS = {
    "base": [
        *ROWS, "--dataset=tiny", "--depth=1", f"--aspect_ratio={D}", "--head_dim=32", "--max_seq_len=128",
        "--sample_every=-1", "--weight_decay=0.28", "--warmup_steps=1", "--warmdown_ratio=0.5", "--final_lr_frac=0.1",
    ],
    "mid": [
        *ROWS, *TALK, "--text_share=0.4", "--init_lr_frac=0.7", "--weight_decay=0.2", "--warmup_ratio=0.5",
        "--warmdown_ratio=0.4", "--final_lr_frac=0.2",
    ],
    "sft": [
        *ROWS, *TALK, "--eval_metrics_every=-1", "--init_lr_frac=0.5", "--weight_decay=0.1", "--warmup_steps=2",
        "--warmdown_ratio=1", "--final_lr_frac=0",
    ],
    "rl": [
        "--task=counting", "--device_batch_size=2", "--examples_per_step=1", "--num_samples=2", "--max_new_tokens=4",
        "--init_lr_frac=0.1", "--weight_decay=0.3", "--warmup_steps=1", "--warmdown_ratio=0.5", "--final_lr_frac=0.3",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer
) -> dict[str, tuple[list[dict], list, Callable[[int, float], Rates]]]:
    """Of each stage the lines of metrics.jsonl, what its optimizer was given at every step, and its rates."""
    base, found = tmp_path_factory.mktemp("rates"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        tokenizer.save(tokenizer_dir())
        write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(60)), dataset_dir("tiny"))
        with open(base / "talk.jsonl", "w", encoding="utf-8") as file:
            for n in range(40):
                talk = [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": str(n + 1)}]
                file.write(json.dumps(talk) + "\n")
        # The rule gives less than 1 only in runs that are too long for a test; its formula is tested below.
        patch.setattr(scaling, "horizon", lambda *args: replace(horizon(*args), weight_decay_scale=0.25))
        trained: list[Stage] = []
        patch.setattr("nanochat.train.stage.train", lambda stage, *rest: trained.append(stage) or train(stage, *rest))
        for stage, main in MAINS.items():
            steps = found_steps(patch)
            main([*COMMON, *(flag.format(base=base) for flag in FLAGS[stage])])
            found[stage] = lines(checkpoints_dir(stage) / "d1"), steps, trained[-1].rates
    return found


def found_steps(patch: pytest.MonkeyPatch) -> list[tuple[Optimizer, Rates]]:
    steps: list[tuple[Optimizer, Rates]] = []
    step: Callable = STEP

    def listen(optimizer: Optimizer, rates: Rates, *more: object) -> None:
        steps.append((optimizer, rates))
        step(optimizer, rates, *more)

    patch.setattr(Optimizer, "step", listen)
    return steps


STEP = Optimizer.step


def lines(folder: Path) -> list[dict]:
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in read if "loss" in line]


def momentum(step: int, left: float, warmdown: float) -> float:
    rising = min(0.97, 0.85 + (0.97 - 0.85) * step / 400)
    return min(rising, 0.90 + (0.97 - 0.90) * left / warmdown) if left < warmdown else rising


# Steps 0, 1 and 2 of 3, of which 1, 2/3 and 1/3 are left.
LEFT = [1, 2 / 3, 1 / 3]
RATES = {
    "base": [1 / 2, 1, 2 / 3 + 1 / 3 * 0.1],  # warm-up of 1 step; 2/3 of the way down from the last half on
    "mid": [0.01, 2 / 3, 5 / 6 + 1 / 6 * 0.2],  # warm-up over a half, from a hundredth; down in the last 0.4
    "sft": [1 / 3, 2 / 3 * 2 / 3, 1 / 3],  # warm-up of 2 steps; down from the first step on
    "rl": [1 / 2, 1, 2 / 3 + 1 / 3 * 0.3],
}
WARMDOWN = {"base": 0.5, "mid": 0.4, "sft": 1, "rl": 0.5}
INITIAL = {"base": 1, "mid": 0.7, "sft": 0.5, "rl": 0.1}
BATCH = (256 / 2**19) ** 0.5  # also in RL, whose batches have no size of their own


DECAY = {"base": 0.28 * 0.25, "mid": 0.2, "sft": 0.1, "rl": 0.3}


@pytest.mark.parametrize("stage", MAINS)
def test_the_rates_of_three_steps(stage, seen):
    logged, given, _ = seen[stage]
    momenta = [momentum(step, left, WARMDOWN[stage]) for step, left in enumerate(LEFT)]
    assert [line["step"] for line in logged] == [1, 2, 3]
    for name, expected in (("lr", RATES[stage]), ("momentum", momenta), ("weight_decay", LEFT)):
        assert [line[name] for line in logged] == pytest.approx(expected), name
        assert [getattr(rates, name) for _, rates in given] == pytest.approx(expected), name
    # With these the optimizer moves by rates.lr * lr, and decays by rates.weight_decay * weight_decay (test_optim).
    factor = BATCH * INITIAL[stage]
    width = math.sqrt(768 / D)
    groups = {name: group for group in (*given[0][0].adamw, *given[0][0].muon) for name in group.parameters}
    expected = {
        "transformer.wte.weight": (0.3 * factor * width, 0.001), "lm_head.weight": (0.008 * factor * width, 0.01),
        "value_embeds.0.weight": (0.15 * factor * width, 0.01), "resid_lambdas": (0.005 * factor, 0.05),
        "x0_lambdas": (0.5 * factor, 0), "smear_gate.weight": (0.2, 0),
        "bigram.weight": (0.075 * factor * width, 0.01),
        "transformer.h.0.attn.c_q.weight": (0.02 * factor, DECAY[stage]),
        "transformer.h.0.mlp.c_fc.weight": (0.02 * factor, DECAY[stage]),
    }  # fmt: skip
    if stage == "rl":  # which leaves it as it is
        del expected["smear_gate.weight"]
        assert "smear_gate.weight" not in groups
    for name, (lr, weight_decay) in expected.items():
        assert (groups[name].lr, groups[name].weight_decay) == pytest.approx((lr, weight_decay)), name


@pytest.mark.parametrize("stage", MAINS)
def test_the_rates_of_a_long_run(stage, seen):
    """The momentum's warm-up takes 400 steps, and its fall shows only once it is high."""
    for step, progress in [(100, 0.1), (399, 0.3), (5000, 0.4), (5000, 0.7), (9000, 0.95)]:
        rates = seen[stage][2](step, progress)
        assert rates.momentum == pytest.approx(momentum(step, 1 - progress, WARMDOWN[stage]))
        assert rates.weight_decay == pytest.approx(1 - progress)


@pytest.mark.parametrize(
    "depth, batch, steps", [(20, 2**20, 5000), (12, 2**18, 9000), (26, 2**21, 12_000), (4, 2**19, 9)]
)
def test_the_scale_of_base_trainings_decay(depth, batch, steps):
    """Its time scale in tokens is that of the tuned run: depth 12 at 12 tokens a parameter, and never above 1."""
    block, gates, D, V = 12 * 768 * 768, 12 * 6, 768, 32768
    tuned = 12 * (12 * block + 6 * gates + V * D)  # tokens; the gates are in every second layer
    got = horizon(config_from_depth(depth, V, 2048), total_batch_size=batch, num_iterations=steps)
    assert got.weight_decay_scale == pytest.approx(min(1, (batch / 2**19) ** 0.5 * tuned / (batch * steps)))
    assert got.lr_scale == pytest.approx((batch / 2**19) ** 0.5)
