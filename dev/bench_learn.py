"""How much is learned per minute: our recipe beside the original's, on the same text, machine and time.

    python -m dev.bench_learn                         all runs, one after the other, each on all cores
    python -m dev.bench_learn --pairs --clock=cpu     two at a time, each on a core of its own (Linux)
    python -m dev.bench_learn --arms                  only the table, of the runs that are done

Two texts, the little world's and the docstrings of Python's standard library, each with a tokenizer that all arms
share; validation counts the same held-out tokens for all, each model with the context that it learned with. A run has a
time, not a number of steps: schedules follow the elapsed share of it. The clock stands still during validation and for
compiling: the first step, which compiles, counts as much as the second. One line of JSON is kept per run, and a run
that is there is not repeated, so a killed bench continues when it is started again.
"""

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from dev.learn_arms import ARMS, TEXTS, Run
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import base_dir, dataset_dir, tokenizer_dir

ROOT = Path(__file__).resolve().parent.parent

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 %, for 2 to 10 seeds


@dataclass
class Flags:
    """Compare bits per byte over time with the original's recipe."""

    arms: list[str] = field(default_factory=lambda: ["original", "original-bf16", "ours"])
    """of original, original-bf16, original-defaults, original-tuned and ours; none: only print the table"""
    texts: list[str] = field(default_factory=lambda: list(TEXTS))
    """of littleworld and docstrings"""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """one run of every arm for each"""
    minutes: float = 5.0
    """time of a run of the original"""
    ours: list[float] = field(default_factory=lambda: [5.0, 2.0])
    """times of our runs in minutes: as long as the original, and the one in which it is to get as far"""
    depth: int = 4
    """layers, 64 channels wide each"""
    clock: Literal["wall", "cpu"] = "wall"
    """wall, or cpu: seconds of the processor, which other programs do not lengthen; then on one thread"""
    threads: int | None = None
    """threads of a run; default: all, with --clock=cpu or --pairs 1"""
    pairs: bool = False
    """run two at a time, each pinned to a core of its own"""
    eval_tokens: int = 32768
    """validate on documents with about so many tokens"""
    eval_seconds: float = 20.0
    """time between validations"""
    out: Path | None = None
    """JSON lines of the runs; default: bench_learn.jsonl in the base directory"""
    compile: bool = True
    """use torch.compile in all arms, as both do by default"""
    set: list[str] = field(default_factory=list)
    """try other flags of base_train in ours, as in matrix_lr=0.1; its runs are kept apart"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for name, known in (("texts", TEXTS), ("arms", ARMS)):
        if unknown := [given for given in getattr(flags, name) if given not in known]:
            raise UserError(f"--{name} has {unknown[0]!r}; expected {', '.join(known)}")
    out = flags.out or base_dir() / "bench_learn.jsonl"
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    done = [json.loads(line) for line in lines]
    wanted = [each for each in runs(flags) if asdict(each) not in [result["run"] for result in done]]
    for text in {each.text: None for each in wanted}:
        prepare(text)
    cores: SimpleQueue[int | None] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:2] if flags.pairs else [None]:
        cores.put(core)
    with ThreadPoolExecutor(cores.qsize()) as pool, out.open("a", encoding="utf-8") as kept:
        waiting = [pool.submit(measured_in_a_process, each, cores) for each in wanted]
        try:
            for finished in as_completed(waiting):
                result = finished.result()
                kept.write(json.dumps(result) + "\n")
                kept.flush()
                done.append(result)
                print(f"{label(result['run'])}: {result['curve'][-1]['bpb']:.4f}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # if one failed
    print("\n".join(report(done, flags)))


def runs(flags: Flags) -> list[Run]:
    """Every arm and seed, ours beside an original one, so that what else the machine does hits both."""
    threads = flags.threads or (1 if flags.pairs or flags.clock == "cpu" else os.cpu_count() or 1)
    theirs = [(arm, flags.minutes) for arm in flags.arms if arm != "ours"]
    ours = [("ours", minutes) for minutes in flags.ours if "ours" in flags.arms]
    timed = [item for pair in itertools.zip_longest(theirs, ours) for item in pair if item]
    return [
        Run(text, arm, minutes, seed, flags.depth, flags.clock, threads, flags.eval_tokens, flags.eval_seconds,
            flags.compile, flags.set if arm == "ours" else [])
        for text in flags.texts for seed in flags.seeds for arm, minutes in timed
    ]  # fmt: skip


def label(run: dict) -> str:
    more = " ".join(["", *run["set"]])
    return f"{run['text']} {run['arm']} {run['minutes']:g} min seed {run['seed']}{more}"


def folder_of(text: str) -> Path:
    return base_dir() / TEXTS[text][1]


def prepare(text: str) -> None:
    """Make the text and its tokenizer, unless they are there."""
    dataset, own = TEXTS[text]
    commands = []
    if not (folder_of(text) / dataset_dir(dataset).name).exists():
        commands.append([str(ROOT / "dev" / "docstrings.py"), "--no-train"] if own else ["-m", "tasks.littleworld"])
    if not (folder_of(text) / tokenizer_dir().name).exists():
        commands.append(["-m", "scripts.tok_train", f"--dataset={dataset}", "--vocab_size=4096"])
    for command in commands:
        base = base_dir() if command[0] != "-m" else folder_of(text)
        subprocess.run([sys.executable, *command], cwd=ROOT, env=environment(base), check=True)


def environment(base: Path) -> dict[str, str]:
    # The allocator's settings are those of our recipe; the original, which sets none, gets them too.
    malloc = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.hugetlb=1"
    return {**os.environ, "PYTHONPATH": str(ROOT), "NANOCHAT_BASE_DIR": str(base), "GLIBC_TUNABLES": malloc}


def measured_in_a_process(run: Run, cores: "SimpleQueue[int | None]") -> dict:
    """The run's result; on a core of its own if there are any."""
    core = cores.get()
    command = [sys.executable, "-m", "dev.learn_run", json.dumps(asdict(run))]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    env = {**environment(folder_of(run.text)), "OMP_NUM_THREADS": str(run.threads)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    finally:
        cores.put(core)
    if done.returncode:
        raise UserError(f"{label(asdict(run))} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- the report


def at(curve: Sequence[dict], seconds: float) -> float:
    """Bits per byte at a time, between two measurements in proportion; nan before the first and after the last."""
    for before, after in itertools.pairwise(curve):
        if before["seconds"] <= seconds <= after["seconds"]:
            share = (seconds - before["seconds"]) / (after["seconds"] - before["seconds"])
            return before["bpb"] + share * (after["bpb"] - before["bpb"])
    return math.nan


def reached(curve: Sequence[dict], target: float) -> float:
    """Seconds at which a curve first gets down to `target`, between two measurements in proportion; inf if never.

    A rise is taken for noise: the curve is made monotone. Below its first measurement nothing is known of it.
    """
    best = curve[0]
    for point in curve:
        if point["bpb"] <= target:
            if point is best:
                return point["seconds"]
            share = (best["bpb"] - target) / (best["bpb"] - point["bpb"])
            return best["seconds"] + share * (point["seconds"] - best["seconds"])
        best = min(best, point, key=lambda each: each["bpb"])
    return math.inf


def interval(values: Sequence[float], digits: int) -> str:
    """Mean and half the width of its 95 % interval (Student's t)."""
    if not values or not all(map(math.isfinite, values)):
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


def report(done: Sequence[dict], flags: Flags) -> list[str]:
    """Markdown: for each text bits per byte over time, and when ours has reached what the original has at its end."""
    lines = []
    for text in flags.texts:
        arms: dict[str, dict[int, dict]] = {}  # runs by arm and seed
        for result in sorted(done, key=lambda each: (each["run"]["minutes"], each["run"]["arm"])):
            run = result["run"]
            if (run["text"], run["depth"], run["clock"]) == (text, flags.depth, flags.clock):
                name = " ".join([f"{run['arm']}, {run['minutes']:g} min", *run["set"]])
                arms.setdefault(name, {})[run["seed"]] = result
        if arms:
            lines += ["", f"**{text}**, bits per byte", "", *over_time(arms), "", *crossings(arms)]
    return lines


def over_time(arms: dict[str, dict[int, dict]]) -> list[str]:
    longest = max(result["run"]["minutes"] for runs in arms.values() for result in runs.values())
    times = [60 * longest * share for share in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)]
    lines = ["| arm | seeds | tokens/s | tokens a step | steps |" + "".join(f" {s:.0f} s |" for s in times) + " end |"]
    lines += ["|---" * (6 + len(times)) + "|"]
    for name, runs in arms.items():
        curves = [result["curve"] for result in runs.values()]
        first = next(iter(runs.values()))
        speed = statistics.mean(result["tok_per_second"] for result in runs.values())
        steps = statistics.mean(curve[-1]["steps"] for curve in curves)
        cells = [name, str(len(runs)), f"{speed:.0f}", str(first["batch"]), f"{steps:.0f}"]
        cells += [interval([at(curve, seconds) for curve in curves], 3) for seconds in times]
        lines.append("| " + " | ".join([*cells, interval([curve[-1]["bpb"] for curve in curves], 4)]) + " |")
    return lines


def crossings(arms: dict[str, dict[int, dict]]) -> list[str]:
    """Seed by seed: the seconds that ours takes to the last value of the original's run with the same seed."""
    lines = ["| ours | reaches the end of | seconds, by seed | mean | times as fast |", "|---" * 5 + "|"]
    for name, runs in arms.items():
        for other, theirs in arms.items():
            seeds = sorted(runs.keys() & theirs.keys())
            if name.startswith("ours") and not other.startswith("ours") and seeds:
                taken = [reached(runs[seed]["curve"], theirs[seed]["curve"][-1]["bpb"]) for seed in seeds]
                ends = [theirs[seed]["curve"][-1]["seconds"] for seed in seeds]
                ratios = [end / seconds for end, seconds in zip(ends, taken, strict=True)]
                by_seed = ", ".join(f"{seconds:.0f}" if math.isfinite(seconds) else "never" for seconds in taken)
                means = interval(taken, 0), interval(ratios if math.inf not in taken else [], 1)
                lines.append("| " + " | ".join([name, other, by_seed, *means]) + " |")
    return lines


if __name__ == "__main__":
    run(main)
