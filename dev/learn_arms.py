"""What `dev/bench_learn.py` compares: the arms, the texts, and what describes one run."""

from dataclasses import dataclass, field
from typing import Any

TEXTS = {"littleworld": ("tinyworld", ""), "docstrings": ("docstrings", "docstrings")}  # dataset, folder of its base

# The original's arms are flags of its pretraining: those that its script for CPUs passes (runs/runcpu.sh), or its
# defaults. It computes in float32 on a CPU, unless NANOCHAT_DTYPE says bfloat16.
_CPU = {"head_dim": 64, "window_pattern": "L", "max_seq_len": 512, "device_batch_size": 32, "total_batch_size": 16384}
ORIGINAL: dict[str, dict[str, Any]] = {
    "original": {**_CPU, "dtype": "float32"},
    "original-bf16": {**_CPU, "dtype": "bfloat16"},
    # 8 rows and not 32, which do not fit into memory; that changes nothing in a step.
    "original-defaults": {
        "head_dim": 128, "window_pattern": "SSSL", "max_seq_len": 2048, "device_batch_size": 8, "total_batch_size": -1,
        "dtype": "float32",
    },
    # What its code does with rates, batch and context like ours: the rest is speed, and what our steps do otherwise.
    "original-tuned": {
        **_CPU, "max_seq_len": 256, "device_batch_size": 16, "total_batch_size": 4096, "rates": 7.0, "dtype": "bfloat16"
    },
}  # fmt: skip
# Ours: the base stage of the little world's recipe, but for what other stages follow it for there.
OURS: dict[str, Any] = {"warmdown_ratio": 0.6}
ARMS = [*ORIGINAL, "ours"]


@dataclass(frozen=True)
class Run:
    """One training run, and what it is measured with. set: other flags of base_train for ours, name=value."""

    text: str
    arm: str
    minutes: float
    seed: int
    depth: int
    clock: str
    threads: int
    eval_tokens: int
    eval_seconds: float
    compile: bool = True
    set: list[str] = field(default_factory=list)
