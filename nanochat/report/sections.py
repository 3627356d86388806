"""The report card: every stage leaves a section under <base>/report/, and `build` makes one page of them.

A section is a dict of what the stage has; every key is optional, and so is every section.

stages   tok_train, tok_eval, base_train, base_eval, mid_train, chat_sft, chat_rl,
         chat_eval_base, chat_eval_mid, chat_eval_sft, chat_eval_rl
all      flags {name: value} that differ from the defaults, seconds, tag, step, source
tok_*    vocab_size, documents, characters, bytes, tokens
         compression {text: {"bytes": int, "tokens": {tokenizer: int}}}
*_train, chat_sft
         parameters, tokens, steps, tokens_per_second, flops, train_loss, val_bpb, seed
chat_rl  parameters, tokens (sampled), steps, tokens_per_second, seed, scores {"pass@1/<task>": share}
base_eval
         sha256 (of the weights), dataset, train_bpb, val_bpb, samples [{"prompt": str, "text": str}],
         core {"core": float, "tasks": {label: {"n": int, "accuracy": share, "centered": float, "shots": int,
         "too_long": int}}, "max_per_task": int, "bundle": sha256},
         harness [{"task": str, "metric": str, "value": float, "error": float or None, "n": int}]
chat_eval_*
         tasks {name: {"n": int, "correct": float, "interval": [low, high]}} with shares of 1, chatcore, samples
         [conversation], a conversation being {"messages": [{"role": str, "content": str or parts}]}
         or {"prompt": str, "text": str}

`seconds` is the time the stage took, over all its starts if it was interrupted. What a training stage logged
(metrics.jsonl and config.json beside its checkpoints) is read for curves and settings.
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from nanochat import paths
from nanochat.errors import UserError
from nanochat.log import strict_json
from nanochat.report import card, curves, pages

STAGES = (
    "tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft", "chat_rl",
    "chat_eval_base", "chat_eval_mid", "chat_eval_sft", "chat_eval_rl",
)  # fmt: skip
Section = dict
TITLE = "Report card"
PRICE = "NANOCHAT_PRICE_PER_GPU_HOUR"
printable = curves.clean  # a model's output without what a terminal would obey


def write_section(stage: str, data: dict) -> Path:
    """Write the section of `stage` (one of STAGES), with the machine and the commit it ran on, atomically."""
    assert stage in STAGES, stage
    section = {"stage": stage, **data, "written": round(time.time()), "commit": git_commit(), "machine": machine()}
    path = folder() / f"{stage}.json"
    text = strict_json(section, indent=2).encode("utf-8", "replace")  # somebody's JSON may hold half a character
    paths.write_text(path, text.decode("utf-8") + "\n")
    return path


def folder() -> Path:
    return paths.base_dir() / "report"


def sections() -> dict[str, Section]:
    """The sections there are, in the order of STAGES. Raises UserError for a file that is not a JSON object."""
    there = {stage: folder() / f"{stage}.json" for stage in STAGES}
    return {
        stage: paths.read_json(path, f"delete it and run {stage} again")
        for stage, path in there.items() if path.exists()
    }  # fmt: skip


def build(price: float | None = None) -> str:
    """The report card as Markdown. It is written to <base>/report as report.md with its pictures, and as report.html.

    `price` is that of an hour of one GPU. Raises UserError when there is no section yet.
    """
    found = sections()
    if not found:
        raise UserError(f"no stage has left a section in {folder()}; run speedrun.sh or a stage first")
    logged = {stage: _logged(found[stage]) for stage in card.TRAINING if stage in found}
    lead, chapters = card.chapters(found, logged, price)
    blocks = [block for chapter in chapters for block in chapter.blocks]
    pictures = [picture for block in blocks if isinstance(block, pages.Pictures) for picture in block.pictures]
    for picture in pictures:
        paths.write_text(folder() / f"{picture.name}.svg", picture.svg())
    text = pages.markdown(TITLE, lead, chapters)
    paths.write_text(folder() / "report.md", text)
    paths.write_text(folder() / "report.html", pages.html(TITLE, lead, chapters))
    kept = {f"{picture.name}.svg" for picture in pictures}
    for path in folder().glob("*.svg"):  # of stages that are no longer part of the card
        if path.name not in kept and path.name.startswith(STAGES):
            path.unlink(missing_ok=True)
    return text


def _logged(section: Section) -> card.Logged:
    """What a training stage logged beside its checkpoints; nothing where there is nothing to be read."""
    source, tag = section.get("source"), section.get("tag")
    if not isinstance(source, str) or source not in paths.SOURCES or not isinstance(tag, str):
        return card.Logged()
    logs = paths.checkpoints_dir(source) / Path(tag).name
    try:
        config = json.loads((logs / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = {}
    return card.Logged(read_metrics(logs / "metrics.jsonl"), config if isinstance(config, dict) else {})


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without what a kill or a full disk cut short; none where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def price(told: float | None) -> float | None:
    """Dollars per GPU-hour, from the flag or else the environment. Raises UserError where that is no price."""
    said, value = f"--price_per_gpu_hour is {told}", told
    if told is None and os.environ.get(PRICE):
        said = f"{PRICE} is {os.environ[PRICE]!r}"
        try:
            value = float(os.environ[PRICE])
        except ValueError:
            value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{said}; expected dollars for an hour of one GPU, such as 2.99")
    return value


def git_commit() -> str:
    """The commit of the code, "-dirty" behind it when files differ from it; "unknown" outside a repository."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _output(*git, "rev-parse", "HEAD")
    changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit or "unknown"


def machine() -> dict[str, str | int | float]:
    """What this machine has that makes a run fast or slow. torch is not asked: its import takes seconds."""
    cpu, flags = _cpu()
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    matrix = [name for name, flag in (("AMX", "amx_bf16"), ("AVX512-BF16", "avx512_bf16")) if flag in flags]
    return {
        "CPU": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
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


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and its feature flags; no flags where there is no /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name") or platform.processor() or platform.machine(), set(fields.get("flags", "").split())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
