"""Sections of the report card: every stage writes one, <base>/report/<stage>.json.

A section is a dict of what the stage has; every key is optional, and so is every section.

stages   tok_train, tok_eval, base_train, base_eval, mid_train, chat_sft, chat_dpo, chat_rl,
         chat_eval_base, chat_eval_mid, chat_eval_sft, chat_eval_dpo, chat_eval_rl
all      flags {name: value} that differ from the defaults, seconds, tag, step, source
tok_*    vocab_size, documents, characters, bytes, tokens
         compression {text: {"bytes": int, "tokens": {tokenizer: int}}}
*_train, chat_sft
         parameters, tokens, steps, tokens_per_second, flops, train_loss, val_bpb, val_perplexity,
         seed, times {part: seconds}, with more than the steps that `seconds` counts
chat_dpo parameters, tokens, steps, tokens_per_second, flops, seed, times, preference_loss, pairs (held out),
         before and scores {"val_loss", "val_margin", "val_accuracy", "val_chosen_logp", "val_rejected_logp",
         "val_drift": means over those pairs, log-probabilities in nats}
chat_rl  parameters, tokens (sampled), steps, tokens_per_second, seed, times, scores {"pass@1/<task>": fraction}
base_eval
         sha256 (of the weights), dataset, train_bpb, val_bpb, train_perplexity, val_perplexity,
         samples [{"prompt": str, "text": str}],
         core {"core": float, "tasks": {label: {"n": int, "accuracy": fraction, "centered": float, "shots": int,
         "too_long": int}}, "max_per_task": int, "bundle": sha256},
         harness [{"task": str, "metric": str, "value": float, "error": float or None, "n": int}]
chat_eval_*
         sha256 (of the weights),
         tasks {name: {"n": int, "correct": float, "interval": [low, high], "asks": str}} with fractions, chatcore,
         samples [{"task": str, "messages": [{"role": str, "content": str or parts}], "right": bool,
         "expected": str or parts}], the first question of each task, with the model's own answer at the end,
         examples [{"task": str, "questions": [str]}], of each task one that was answered right

`seconds` is the time the stage took, over all its starts if it was interrupted.
"""

import contextlib
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from nanochat import paths
from nanochat.errors import UserError
from nanochat.log import strict_json

STAGES = (
    "tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft", "chat_dpo", "chat_rl",
    "chat_eval_base", "chat_eval_mid", "chat_eval_sft", "chat_eval_dpo", "chat_eval_rl",
)  # fmt: skip
PRICE = "NANOCHAT_PRICE_PER_GPU_HOUR"


def folder() -> Path:
    return paths.base_dir() / "report"


def write_section(stage: str, data: dict) -> Path:
    """Write the section of `stage` (one of STAGES), with the machine and the commit it ran on, atomically."""
    assert stage in STAGES, stage
    section = {"stage": stage, **data, "written": round(time.time()), "commit": git_commit(), "machine": machine()}
    path = folder() / f"{stage}.json"
    text = strict_json(section, indent=2).encode("utf-8", "replace")  # somebody's JSON may hold half a character
    paths.write_text(path, text.decode("utf-8") + "\n")
    return path


def read_sections() -> dict[str, dict]:
    """The existing sections, in the order of STAGES. Raises UserError for a file that is not a JSON object."""
    files = {stage: folder() / f"{stage}.json" for stage in STAGES}
    return {
        stage: paths.read_json(path, f"delete it and run {stage} again")
        for stage, path in files.items() if path.exists()
    }  # fmt: skip


def questions(messages: Sequence[Mapping]) -> list[str]:
    """What the user asks in a conversation; [] for one with a system message, which changes their meaning."""
    if any(message["role"] == "system" for message in messages):
        return []
    return [str(message["content"]) for message in messages if message["role"] == "user"]


def price(flag: float | None) -> float | None:
    """Dollars per GPU-hour, from --price_per_gpu_hour or else the environment. Raises UserError for anything else."""
    name, value = (PRICE, os.environ.get(PRICE)) if flag is None else ("--price_per_gpu_hour", flag)
    if value is None or value == "":
        return None
    with contextlib.suppress(ValueError):
        if 0 <= float(value) < math.inf:
            return float(value)
    raise UserError(f"{name} is {value}; expected dollars for an hour of one GPU, such as 2.99")


def git_commit() -> str:
    """The commit of the code, with "-dirty" appended if tracked files differ; "unknown" outside a repository."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _output(*git, "rev-parse", "HEAD")
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit or "unknown"


def machine() -> dict[str, str | int | float]:
    """The hardware and software that decide how fast a run is. Does not import torch, which takes seconds."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    info = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = info.get("flags", "").split()
    matrix = [name for name, flag in (("AMX", "amx_bf16"), ("AVX512-BF16", "avx512_bf16")) if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return {
        "CPU": info.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory": f"{memory / 2**30:.0f} GiB",
        "bfloat16 in hardware": ", ".join(matrix) or "no",
        "GPU": ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": version("torch"),
    }


def _output(*command: str) -> str:
    """What a command prints; nothing where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", errors="replace")
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
