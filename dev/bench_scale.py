"""What several ranks cost: bytes and time of communication, saving and loading; measured here, and predicted for H100s.

    python dev/bench_scale.py                    all of it
    python dev/bench_scale.py --what traffic     bytes and time of a step by --parallel, on 2 and 4 ranks
    python dev/bench_scale.py --what saving      what a save takes of a step
    python dev/bench_scale.py --what loading     memory while ranks resume
    python dev/bench_scale.py --what predicted   d20, d34 and d48 on 8, 64 and 512 H100s

Ranks are processes of this machine that talk by Gloo, a thread each; `hybrid` takes two of them for a node. Bytes are
counted at torch.distributed's operators, as a ring sends them, and stand beside what `plan` counts. Time on two cores
shows what a step waits for, not what a network can do. Needs Linux for memory. Tables are Markdown.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds the packages beside it

from dev.scale_rank import Size
from nanochat import chat
from nanochat.config import parse
from nanochat.data.shards import write_shards
from nanochat.errors import UserError, run
from nanochat.log import short
from nanochat.plan import cost, scale
from nanochat.plan.gpus import GPUS
from nanochat.plan.scale import NETWORK, Layout
from nanochat.scaling import config_from_depth
from nanochat.tokenizer import Tokenizer
from scripts._forecast import Setting, forecast, resolve

ROOT = Path(__file__).resolve().parent.parent
SAVE_EVERY = 6  # steps, so that one is over before the next
WAYS = [(2, 2, "replicate"), (2, 2, "shard"), (4, 4, "replicate"), (4, 2, "hybrid"), (4, 4, "shard")]
DEPTHS, CLUSTERS = (20, 34, 48), (8, 64, 512)
Table = list[list[str]]


@dataclass
class Flags:
    """Measure communication, saves and loads of several ranks, and predict those of H100s; the last line is JSON."""

    what: Literal["all", "traffic", "saving", "loading", "predicted"] = "all"
    """part to measure"""
    depth: int = 4
    """layers of the model whose steps are measured"""
    vocab_size: int = 4096
    """tokens in its vocabulary"""
    max_seq_len: int = 128
    """tokens in a row"""
    device_batch_size: int = 2
    """rows in a micro-batch"""
    accumulation: int = 1
    """micro-batches in a step"""
    steps: int = 5
    """measured steps"""
    ranks: int = 4
    """ranks that resume; saves are measured on 2"""
    state_depth: int = 12
    """layers of the model that is saved and loaded; at 12 four copies of weights and optimizer fit into 24 GB"""
    parts: bool = False
    """show forward, backward and optimizer of a step, too"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    found = {}
    for name, (work, title) in {
        "traffic": (traffic, "A step"), "saving": (saving, "A save"), "loading": (loading, "Resuming"),
        "predicted": (predicted, "Predicted"),
    }.items():  # fmt: skip
        if flags.what in ("all", name):
            table, found[name] = work(flags)
            print(f"### {title}\n\n{markdown(table)}\n", flush=True)
    print(json.dumps(found))


def markdown(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---------------------------------------------------------------- communication


def traffic(flags: Flags) -> tuple[Table, list[dict]]:
    """A row for each number of ranks and mode: megabytes by kind, counted and as `plan` says, and milliseconds."""
    size = Size(flags.depth, flags.vocab_size, flags.device_batch_size, flags.max_seq_len, flags.accumulation)
    kinds, parts = ("weights", "gradients", "sums", "muon"), ["forward", "backward", "optimizer"] * flags.parts
    table = [["ranks", "mode", *(f"{kind}, MB (plan)" for kind in kinds), "calls", "in all, MB (plan)",
              "communication, ms", *(f"{part}, ms" for part in parts), "step, ms"]]  # fmt: skip
    results = []
    for ranks, here, mode in WAYS:
        layout = scale.layouts(ranks, here)[mode]
        found = on_ranks(ranks, here, {"size": asdict(size), "layout": layout, "steps": flags.steps})
        found |= {"ranks": ranks, "mode": mode, "planned": planned(size, ranks, layout)}
        counted, there = found["bytes"], found["planned"]
        cells = [f"{counted.get(kind, 0) / 1e6:.2f} ({there[kind] / 1e6:.2f})" for kind in kinds]
        whole = f"{sum(counted.values()) / 1e6:.2f} ({sum(there.values()) / 1e6:.2f})"
        times = [f"{1e3 * found[each]:.0f}" for each in ("communication", *parts, "seconds")]
        table.append([str(ranks), mode, *cells, str(sum(found["calls"].values())), whole, *times])
        results.append(found)
    return table, results


def planned(size: Size, ranks: int, layout: Layout) -> dict[str, float]:
    """Bytes by kind that a rank sends in float32 over Gloo, which sums replicated gradients by all-reduce."""
    kinds = scale.traffic(size.config, size.accumulation, ranks, layout, itemsize=4)
    if layout.parts == 1:
        return {"weights": kinds["weights"], "gradients": 0, "sums": 2 * kinds["gradients"], "muon": 0}
    return {kind: kinds[kind] for kind in ("weights", "gradients", "sums", "muon")}


def on_ranks(ranks: int, here: int, asked: dict) -> dict:
    """What rank 0 of so many processes measures, `here` of which are a node. Raises UserError if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(here),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
              "KINETO_LOG_LEVEL": "99", "BENCH_SCALE": json.dumps(asked)}  # fmt: skip
    processes = [
        subprocess.Popen([sys.executable, "-m", "dev.scale_rank"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                         env={**common, "RANK": str(n), "LOCAL_RANK": str(n % here)})
        for n in range(ranks)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise UserError("a rank of the measurement failed; what it wrote is above")
    return json.loads(outputs[0].splitlines()[-1])


# ---------------------------------------------------------------- checkpoints


def saving(flags: Flags) -> tuple[Table, list[dict]]:
    """A row for each number of ranks and mode: how long a save takes, and training waits for it, in a short training.

    The last save is left out, which a run waits for.
    """
    table = [["ranks", "mode", "checkpoint, MB", "step, s", "save, s", "training waits, s", "of the save"]]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        base = world(Path(folder))
        for ranks, mode in ((1, "replicate"), (2, "replicate"), (2, "shard")):
            tag, every = f"save-{mode}-{ranks}", SAVE_EVERY
            more = [f"--num_iterations={4 * every}", f"--save_every={every}"]
            finish(train(base, ranks, tag, mode, flags.state_depth, more), folder)
            found = {"ranks": ranks, "mode": mode, "bytes": checkpoint_bytes(base, tag), **times(base, tag)}
            share = f"{found['waits'] / found['save']:.1%}"
            table.append([str(ranks), mode, f"{found['bytes'] / 1e6:.0f}", f"{found['step']:.2f}",
                          f"{found['save']:.2f}", f"{found['waits']:.2f}", share])  # fmt: skip
            results.append(found)
    return table, results


def loading(flags: Flags) -> tuple[Table, list[dict]]:
    """A row for each mode: the most memory of all ranks together while they resume, beside what a checkpoint takes.

    A finished run is resumed, which loads everything and trains nothing; what the same takes with a model of one layer
    is subtracted. PSS counts a page that processes share once.
    """
    table = [["ranks", "mode", "checkpoint, MB", "memory of all ranks, MB", "copies", "seconds"]]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        base = world(Path(folder))
        for tag, depth in (("small", 1), ("large", flags.state_depth)):
            finish(train(base, 1, tag, "replicate", depth, ["--num_iterations=1"]), folder)
        size = checkpoint_bytes(base, "large") - checkpoint_bytes(base, "small")
        for mode in ("replicate", "shard"):
            peaks, began = [], time.perf_counter()
            for tag, depth in (("small", 1), ("large", flags.state_depth)):
                began = time.perf_counter()
                peaks.append(peak_of(train(base, flags.ranks, tag, mode, depth, ["--num_iterations=1"]), folder))
            found = {"ranks": flags.ranks, "mode": mode, "bytes": size, "memory": peaks[1] - peaks[0],
                     "seconds": time.perf_counter() - began}  # fmt: skip
            copies = f"{found['memory'] / size:.2f}"
            table.append([str(flags.ranks), mode, f"{size / 1e6:.0f}", f"{found['memory'] / 1e6:.0f}", copies,
                          f"{found['seconds']:.0f}"])  # fmt: skip
            results.append(found)
    return table, results


def world(base: Path) -> Path:
    """A base folder with a small tokenizer and some text."""
    texts = [f"{n} cats see {n + 1} dogs, and none of them sees {n * n} birds." for n in range(400)]
    Tokenizer.train(iter(texts), 300, chat.SPECIALS).save(base / "tokenizer")
    write_shards(iter(texts), base / "base_data_bench")
    return base


def train(base: Path, ranks: int, tag: str, mode: str, depth: int, more: list[str]) -> subprocess.Popen:
    """base_train on so many ranks, which resumes where it can; its output goes to a file of the base folder."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m",
        "scripts.base_train", "--", "--dataset=bench", "--device_type=cpu", "--dtype=float32", "--no-compile",
        "--device_batch_size=1", f"--total_batch_size={64 * 4}", "--max_seq_len=64", "--eval_every=-1",
        "--sample_every=-1", f"--depth={depth}", f"--model_tag={tag}", f"--parallel={mode}", *more,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NANOCHAT_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"}
    with open(base / "output", "w", encoding="utf-8") as output:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, folder: str) -> None:
    if process.wait():
        output = Path(folder, "output").read_text(encoding="utf-8", errors="replace")
        raise UserError(f"training failed: {(output.strip().splitlines() or ['it printed nothing'])[-1]}")


def peak_of(process: subprocess.Popen, folder: str) -> int:
    """The most bytes that a process and those it started have had together, sampled until it ends."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(proportional, family(process.pid))))
        time.sleep(0.02)
    finish(process, folder)
    return peak


def family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:  # it has ended
        return
    for child in children.split():
        yield from family(int(child))


def proportional(pid: int) -> int:
    """A process's memory in bytes, a page that n processes share counted as a n-th (PSS)."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8"), re.M)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0


def checkpoint_bytes(base: Path, tag: str) -> int:
    """The bytes of the newest checkpoint's files."""
    folder = base / "base_checkpoints" / tag
    newest = max(re.findall(r"meta_(\d+)", " ".join(path.name for path in folder.glob("meta_*.json"))))
    paths = [path for path in folder.rglob("*") if newest in path.relative_to(folder).as_posix() and path.is_file()]
    return sum(path.stat().st_size for path in paths)


def times(base: Path, tag: str) -> dict[str, float]:
    """The medians of what a run has logged: a step, a save, and how long training waited for it, without the last."""
    folder = base / "base_checkpoints" / tag
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    said = r"saved in ([\d.]+)s; training waited ([\d.]+)s"
    saves = re.findall(said, (base / "output").read_text(encoding="utf-8"))[:-1]
    save, waits = (statistics.median(map(float, each)) for each in zip(*saves, strict=True))
    return {"step": statistics.median(seconds), "save": save, "waits": waits}


# ---------------------------------------------------------------- predictions


def predicted(flags: Flags) -> tuple[Table, list[dict]]:
    """A row for each depth, number of H100s and mode that fits; a star is what --parallel auto takes."""
    on = GPUS["h100"]
    print(f"Assumed: {NETWORK.in_words(on)}.\n")
    table = [["model", "GPUs", "mode", "rows", "tokens per step", "GB", "step, ms", "sent, GB", "hidden, ms",
              "exposed, ms", "tokens/s", "MFU", "checkpoint, GB", "copied, s", "written, s", "read, s"]]  # fmt: skip
    results = []
    for depth in DEPTHS:
        config = config_from_depth(depth, 32768, 2048)
        for ranks in CLUSTERS:
            auto = resolve("base_train", {}, Setting(config, on, ranks, parallel="auto"))
            taken = auto.layout("base_train", 1).mode
            for mode, layout in scale.layouts(ranks, min(ranks, NETWORK.per_node)).items():
                found = _predicted(replace(auto, parallel=mode), layout)
                if not found:
                    continue
                found |= {"depth": depth, "gpus": ranks, "mode": mode, "auto": mode == taken}
                results.append(found)
                table.append(_row(found))
    return table, results


def _predicted(setting: Setting, layout: Layout) -> dict:
    """The figures of base training with as many rows as fit; none where not even one does."""
    rows = setting.largest_rows("base_train")
    if not rows:
        return {}
    made = forecast("base_train", {}, replace(setting, rows=min(rows, 32)))
    s, on = made.setting, made.setting.on
    tokens, per_second = s.rows * s.config.sequence_len, s.total_batch / made.step
    accumulation = max(1, s.total_batch // (tokens * s.gpus))
    step = scale.step(s.config, on, tokens, accumulation, s.gpus, layout)
    saved = scale.saving(s.config, s.gpus, layout)
    return {
        "rows": s.rows, "accumulation": accumulation, "total_batch": s.total_batch, "memory": sum(made.memory.values()),
        **step._asdict(), "seconds": step.seconds, "hidden": step.hidden, "tok_per_second": per_second,
        "mfu": per_second * cost.flops_per_token(s.config) / (on.peak * s.gpus), "checkpoint": saved._asdict(),
    }  # fmt: skip


def _row(found: dict) -> list[str]:
    rows = f"{found['accumulation']} x {found['rows']}" if found["accumulation"] > 1 else str(found["rows"])
    ms = [f"{1e3 * found[name]:.0f}" for name in ("hidden", "exposed")]
    saved = found["checkpoint"]
    return [
        f"d{found['depth']}", str(found["gpus"]), found["mode"] + " *" * found["auto"], rows,
        short(found["total_batch"]), f"{found['memory'] / 1e9:.0f}", f"{1e3 * found['seconds']:.0f}",
        f"{found['sent'] / 1e9:.1f}", *ms, short(found["tok_per_second"]), f"{found['mfu']:.0%}",
        f"{saved['size'] / 1e9:.0f}", *(f"{saved[name]:.2g}" for name in ("copy", "write", "load")),
    ]  # fmt: skip


if __name__ == "__main__":
    run(main)
