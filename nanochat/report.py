"""The report card: every stage leaves a section under <base>/report/, and `build` makes one page of them.

A section is a dict of what the stage has; every key is optional, and so is every section.

stages   tok_train, tok_eval, base_train, base_eval, mid_train, chat_sft, chat_eval_base, chat_eval_mid, chat_eval_sft
all      flags {name: value} that differ from the defaults, seconds, tag, step, source
tok_*    vocab_size, documents, characters, bytes, tokens
         compression {text: {"bytes": int, "tokens": {tokenizer: int}}}
*_train, chat_sft
         parameters, tokens, steps, tokens_per_second, flops, train_loss, val_bpb, seed
base_eval
         train_bpb, val_bpb, samples [{"prompt": str, "text": str}]
chat_eval_*
         tasks {name: {"n": int, "correct": int, "interval": [low, high]}} with shares of 1, samples [conversation],
         a conversation being {"messages": [{"role": str, "content": str or parts}]} or {"prompt": str, "text": str}

`seconds` is the time the stage took, over all its starts if it was interrupted.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from nanochat import paths
from nanochat.config import UserError
from nanochat.log import duration, short, strict_json

STAGES = (
    "tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft",
    "chat_eval_base", "chat_eval_mid", "chat_eval_sft",
)  # fmt: skip
Section = dict


def write_section(stage: str, data: dict) -> Path:
    """Write the section of `stage` (one of STAGES), with the machine and the commit it ran on, atomically."""
    assert stage in STAGES, stage
    section = {"stage": stage, **data, "written": round(time.time()), "commit": git_commit(), "machine": machine()}
    path = folder() / f"{stage}.json"
    paths.write_text(path, strict_json(section, indent=2) + "\n")
    return path


def folder() -> Path:
    return paths.base_dir() / "report"


def sections() -> dict[str, Section]:
    """The sections there are, in the order of STAGES. Raises UserError for a file that is not JSON."""
    found = {}
    for stage in STAGES:
        path = folder() / f"{stage}.json"
        if path.exists():
            try:
                found[stage] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} is not valid JSON ({error}); delete it and run {stage} again") from error
    return found


def build() -> str:
    """The report card as markdown, which is also written to <base>/report/report.md.

    Raises UserError when there is no section yet.
    """
    found = sections()
    if not found:
        raise UserError(f"no stage has left a section in {folder()}; run speedrun.sh or a stage first")
    chapters = [_summary, _accuracies, _bits_per_byte, _tokenizer, _times, _conversations, _samples, _machines, _flags]
    text = "\n\n".join(["# Report card", *(chapter for chapter in (write(found) for write in chapters) if chapter)])
    paths.write_text(folder() / "report.md", text + "\n")
    return text + "\n"


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


def _summary(found: dict[str, Section]) -> str:
    """One paragraph: what was made, from how much, in what time."""
    training = found.get("base_train", {})
    said = []
    if "parameters" in training:
        said.append(f"{short(training['parameters'])} parameters")
    tokens = sum(section.get("tokens", 0) for name, section in found.items() if _is_training(name))
    if tokens:
        said.append(f"trained on {short(tokens)} tokens")
    seconds = sum(section.get("seconds", 0) for section in found.values())
    if seconds:
        said.append(f"in {duration(seconds)}")
    commits = list(dict.fromkeys(section.get("commit", "unknown") for section in found.values()))
    return "  \n".join(filter(None, [" ".join(said), "commit " + ", ".join(commits)]))


def _accuracies(found: dict[str, Section]) -> str:
    """A row a task, a column a checkpoint: share correct, its 95 % interval and n."""
    columns = {name: found[stage]["tasks"] for stage, name in _CHAT_EVALS.items() if found.get(stage, {}).get("tasks")}
    names = list(dict.fromkeys(task for tasks in columns.values() for task in tasks))
    rows = [[task, *(_accuracy(tasks.get(task)) for tasks in columns.values())] for task in names]
    return _chapter("Accuracy", _table(["correct (95 % interval, n)", *columns], rows))


def _bits_per_byte(found: dict[str, Section]) -> str:
    rows = []
    for stage, section in found.items():
        if not _is_training(stage) and stage != "base_eval":
            continue
        figures = [_number(section.get(key), 4) for key in ("train_loss", "train_bpb", "val_bpb")]
        if any(figures):
            rows.append([stage, *figures])
    return _chapter("Bits per byte", _table(["stage", "train loss", "train", "val"], rows))


def _tokenizer(found: dict[str, Section]) -> str:
    facts = [
        f"{short(value)} {name.replace('_', ' ')}" if name != "vocab_size" else f"vocabulary {value}"
        for name in ("vocab_size", "documents", "characters", "bytes", "tokens")
        if (value := found.get("tok_train", {}).get(name)) is not None
    ]
    texts = found.get("tok_eval", {}).get("compression", {})
    columns = list(dict.fromkeys(name for text in texts.values() for name in text["tokens"]))
    rows = [
        [name, str(text["bytes"]), *(_ratio(text["bytes"], text["tokens"].get(column)) for column in columns)]
        for name, text in texts.items()
    ]
    return _chapter("Tokenizer", ", ".join(facts), _table(["bytes per token", "bytes", *columns], rows))


def _times(found: dict[str, Section]) -> str:
    rows = []
    for stage, section in found.items():
        counts = [short(section[key]) if key in section else "" for key in ("steps", "tokens", "tokens_per_second")]
        rows.append([stage, duration(section["seconds"]) if "seconds" in section else "", *counts])
    total = sum(section.get("seconds", 0) for section in found.values())
    rows.append(["**total**", f"**{duration(total)}**", "", "", ""])
    return _chapter("Time", _table(["stage", "time", "steps", "tokens", "tokens/s"], rows))


def _conversations(found: dict[str, Section]) -> str:
    """What the most finished checkpoint says."""
    for stage, name in reversed(_CHAT_EVALS.items()):
        samples = found.get(stage, {}).get("samples")
        if samples:
            return _chapter(f"Conversations ({name})", "\n\n---\n\n".join(_sample(sample) for sample in samples))
    return ""


def _samples(found: dict[str, Section]) -> str:
    samples = found.get("base_eval", {}).get("samples") or []
    return _chapter("Samples of the base model", "\n\n".join(_sample(sample) for sample in samples))


def _machines(found: dict[str, Section]) -> str:
    """The machine; when the stages ran on several, each with its stages."""
    stages: dict[str, list[str]] = {}
    for stage, section in found.items():
        if "machine" in section:
            stages.setdefault(json.dumps(section["machine"]), []).append(stage)
    tables = []
    for described, names in stages.items():
        rows = [[name, str(value)] for name, value in json.loads(described).items()]
        tables.append((", ".join(names) + "\n\n" if len(stages) > 1 else "") + _table(["machine", ""], rows))
    return _chapter("Machine", "\n\n".join(tables))


def _flags(found: dict[str, Section]) -> str:
    rows = [
        [stage, " ".join(f"`--{k}={v}`" for k, v in section["flags"].items() if k != "resume") or "defaults"]
        for stage, section in found.items()
        if "flags" in section
    ]
    return _chapter("Configuration", _table(["stage", "flags that differ from the defaults"], rows))


_CHAT_EVALS = {"chat_eval_base": "base", "chat_eval_mid": "mid", "chat_eval_sft": "SFT"}


def _is_training(stage: str) -> bool:
    return stage in ("base_train", "mid_train", "chat_sft")


def _accuracy(task: dict | None) -> str:
    if not task or not task.get("n"):
        return ""
    share = f"{100 * task['correct'] / task['n']:.1f} %"
    if "interval" not in task:
        return f"{share} ({task['n']})"
    low, high = task["interval"]
    return f"{share} ({100 * low:.0f}–{100 * high:.0f}, {task['n']})"


def printable(text: str) -> str:
    """A model's output without control characters, which an untrained one writes and a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def _sample(sample: dict) -> str:
    """A sample as a quotation; what the model was given is bold."""
    if "messages" not in sample:
        return _quote(f"**{_escape(sample.get('prompt', ''))}**{_escape(sample['text'])}".removeprefix("****"))
    return _quote("\n\n".join(f"**{m['role']}**: {_escape(_content(m['content']))}" for m in sample["messages"]))


def _content(content: str | list[dict]) -> str:
    """The text of a message; a call of the tool is shown as [expression][= result]."""
    if isinstance(content, str):
        return content
    shapes = {"text": "{}", "python": "[{}]", "python_output": "[= {}]"}
    return "".join(shapes[part["type"]].format(part["text"]) for part in content)


def _escape(text: str) -> str:
    """Keep a model's output from being read as markdown or HTML."""
    text = printable(text)
    for letter in "\\`*_<":
        text = text.replace(letter, "\\" + letter)
    return text


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _chapter(title: str, *parts: str) -> str:
    """A heading and its parts; nothing at all when every part is empty."""
    return "\n\n".join([f"## {title}", *filter(None, parts)]) if any(parts) else ""


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: object, digits: int) -> str:
    return "" if value is None else f"{float(value):.{digits}f}"  # type: ignore[arg-type]  # "NaN" and numbers


def _ratio(count: int, tokens: int | None) -> str:
    return f"{count / tokens:.2f}" if tokens else ""
