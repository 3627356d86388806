"""What a GPU does with this code, in one command: is it right, and how fast is it?

    python -m dev.gpu_check                       all parts; at most 8 minutes on one H200
    python -m dev.gpu_check --parts step decode   these parts
    python -m dev.gpu_check --again step/d20      measure anew what begins so
    python -m dev.gpu_check --device cpu          everything in miniature, to check this script

It needs torch 2.11 or newer and numpy, no network and no data: it draws its own token ids. --fp8's figures need torchao
besides. Each measurement is written to --out when it is done, so a run that was interrupted continues where it was.
The table is Markdown; what could not be measured is in it, with the reason. The goals are for one H200.
"""

import argparse
import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dev import gpu_parts
from dev.gpu_parts import MINIATURE, ON_GPU, Machine, Scale
from nanochat import runtime
from nanochat.errors import UserError, run
from nanochat.plan import cost, gpus
from tests import gpuchecks

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("checks", "step", "attention", "decode", "training")
WAYS = ("chosen", *gpu_parts.BACKENDS, "masked")  # to compute attention
UNKNOWN = {  # why a measurement lacks a number
    "allocated": "torch counts the memory of GPUs only",
    "mfu": "nanochat/plan/gpus.py does not have the peak of this GPU",
    "of_limit": "nanochat/plan/gpus.py has the memory bandwidth of known GPUs only",
}
Measure = Callable[[], dict[str, float]]


def main(argv: list[str] | None = None) -> int:
    flags = _flags(argv)
    with runtime.start(flags.device, seed=0) as rt:
        machine = _machine(rt)
        scale = MINIATURE if rt.device.type == "cpu" else ON_GPU
        results = Results(flags.out, machine, scale)
        measures = {name: work for name, work in _measures(scale, machine).items() if name.split("/")[0] in flags.parts}
        results.forget(flags.again)
        began = time.monotonic()
        for name, work in measures.items():
            if results.has(name):
                continue
            if time.monotonic() - began > flags.minutes * 60:
                results.note(
                    name, {"not_measured": f"the {flags.minutes:g} minutes were over; start again to continue"}
                )
                continue
            _take(name, work, results)
        print(table(results, scale, machine))
        print(f"\nall figures are in {flags.out}")
    return 1 if any("failed" in entry for entry in results.entries.values()) else 0


def _flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="", help="cuda or cpu; default: the best available")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="measure these parts only")
    parser.add_argument("--again", nargs="+", default=[], help="measure anew what begins with one of these")
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after so many minutes")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="write the figures here")
    return parser.parse_args(argv)


def _machine(rt: runtime.Runtime) -> Machine:
    if rt.device.type == "cuda":
        name = torch.cuda.get_device_name(rt.device)
        known = gpus.known(name)
        return Machine(rt, name, gpus.GPUS[known] if known else None)
    return Machine(rt, "CPU", gpus.measured_cpu(seconds=0.05))


def _measures(scale: Scale, machine: Machine) -> dict[str, Measure]:
    """Every measurement by its name, the most important of each part first."""
    device = machine.rt.device
    measures: dict[str, Measure] = {
        f"checks/{check.__name__}": partial(_passes, check, device) for check in gpuchecks.CHECKS
    }
    kind = str(machine.rt.dtype).removeprefix("torch.")
    first, *others = scale.depths
    for depth in (first, *others):
        measures[f"step/d{depth}/{kind}"] = partial(gpu_parts.our_step, depth, scale, machine)
        measures[f"step/d{depth}/original"] = partial(gpu_parts.their_step, depth, scale, machine)
        measures[f"step/d{depth}/float8"] = partial(gpu_parts.our_step, depth, scale, machine, float8=True)
    for batch in scale.batches:
        measures[f"decode/{batch}"] = partial(gpu_parts.decoding, batch, scale, machine)
        measures[f"decode/{batch}/compiled"] = partial(gpu_parts.decoding, batch, scale, machine, compiled=True)
    for window in (0, scale.length // 4):
        for way in WAYS:
            measures[f"attention/{way}/{window}"] = partial(gpu_parts.attention_time, way, window, scale, machine)
    measures["training"] = partial(gpu_parts.falling, scale, machine)
    order = ("checks", f"step/d{first}/", "decode", "training", "attention")
    return dict(sorted(measures.items(), key=lambda item: _rank(item[0], order)))


def _rank(name: str, order: tuple[str, ...]) -> int:
    return next((number for number, start in enumerate(order) if name.startswith(start)), len(order))


def _passes(check: Callable[[torch.device], None], device: torch.device) -> dict[str, float]:
    check(device)
    return {"passed": 1}


def _take(name: str, work: Measure, results: "Results") -> None:
    """Measure and record the result; an error is recorded too, and the next measurement follows."""
    began = time.monotonic()
    try:
        entry: dict = work()
    except gpuchecks.NotHere as reason:
        entry = {"not_measured": str(reason)}
    except Exception as error:
        traceback.print_exc()
        entry = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:300]}
    if torch.cuda.is_available():
        gc.collect()
        with contextlib.suppress(RuntimeError):  # after an error on the device nothing works any more, and all is noted
            torch.cuda.empty_cache()
    took = time.monotonic() - began
    results.note(name, {**entry, "took": round(took, 2)})
    words = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in entry.items()]
    print(f"{name:40}{took:7.1f} s  {', '.join(words)}", flush=True)


class Results:
    """The measurements of one machine, in a file that is whole at any time.

    Those of other code are kept and marked; those of another machine are not.
    """

    def __init__(self, path: Path, machine: Machine, scale: Scale) -> None:
        self.path = path
        self.about = {
            "device": machine.name, "dtype": str(machine.rt.dtype).removeprefix("torch."), "torch": torch.__version__,
            "scale": {key: list(value) if isinstance(value, tuple) else value for key, value in vars(scale).items()},
        }  # fmt: skip
        self.code = code_hash()
        self.entries: dict[str, dict] = {}
        if path.exists():
            try:
                saved = json.loads(path.read_text(encoding="utf-8"))
                about, entries = saved["about"], saved["entries"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} does not hold figures of this script; pass another --out") from None
            if about == self.about:
                self.entries = entries
            else:
                print(f"{path} has figures of another machine, torch or size, which are replaced")

    def has(self, name: str) -> bool:
        entry = self.entries.get(name, {})
        return bool(entry) and not {"failed", "not_measured"} & entry.keys()

    def forget(self, beginnings: list[str]) -> None:
        self.entries = {n: entry for n, entry in self.entries.items() if not n.startswith(tuple(beginnings or ["\0"]))}

    def note(self, name: str, entry: dict) -> None:
        self.entries[name] = {**entry, "code": self.code}
        text = json.dumps({"about": self.about, "entries": self.entries}, indent=1)
        beside = self.path.with_name(self.path.name + ".new")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path)


def code_hash() -> str:
    """A short hash of the code that is measured."""
    ours = [*(ROOT / "nanochat").rglob("*.py"), *(ROOT / "dev").glob("gpu_*.py"), ROOT / "dev" / "original_step.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ours))).hexdigest()[:8]


# ---------------------------------------------------------------- the table

Line = tuple[str, str, str]  # what, the figure, the goal


def table(results: Results, scale: Scale, machine: Machine) -> str:
    """All figures as a Markdown table, each beside its goal; without a figure, why."""
    figures = Figures(results)
    lines = [*_checks(figures), *_steps(figures, scale, machine), *_decoding(figures, scale), *_training(figures)]
    lines += _attention(figures, scale)
    about = results.about
    miniature = machine.rt.device.type == "cpu"
    head = f"{about['device']}, {about['dtype']}, torch {about['torch']}, code {results.code}"
    head += "; in miniature: the figures say nothing about a GPU" if miniature else ""
    lines += _eight(figures, scale, machine)
    rows = [f"| {what} | {figure} | {'' if miniature else goal} |" for what, figure, goal in lines]
    return "\n".join([f"\n{head}\n", "| what | measured | goal on one H200 |", "|---|---|---|", *rows])


class Figures:
    """Figures by name, for the table: a number, or the reason why it is missing."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def text(self, name: str, show: Callable[[dict], str]) -> str:
        entry = self.results.entries.get(name)
        if entry is None:
            return "not measured yet"
        for why in ("failed", "not_measured"):
            if why in entry:
                return f"{why.replace('_', ' ')}: {entry[why]}"
        try:
            return show(entry) + ("" if entry.get("code") == self.results.code else " (of other code)")
        except KeyError as missing:
            return f"not measured: {UNKNOWN[missing.args[0]]}"

    def ratio(self, one: str, other: str, show: Callable[[dict, dict], str]) -> str:
        """Of two measurements; what is missing of either."""
        return self.text(one, lambda a: self.text(other, lambda b: show(a, b)))


def _checks(figures: Figures) -> list[Line]:
    names = [f"checks/{check.__name__}" for check in gpuchecks.CHECKS]
    said = {name: figures.text(name, lambda _: "") for name in names}
    passed = [name for name, text in said.items() if text in ("", " (of other code)")]
    lines = [("checks that passed", f"{len(passed)} of {len(names)}", "all")]
    return lines + [(name, text, "") for name, text in said.items() if name not in passed]


def _faster(one: dict, other: dict) -> str:
    return f"{one['tok_per_second'] / other['tok_per_second']:.2f}"


def _steps(figures: Figures, scale: Scale, machine: Machine) -> list[Line]:
    lines: list[Line] = []
    kind = str(machine.rt.dtype).removeprefix("torch.")
    for depth in scale.depths:
        ours, theirs, float8 = (f"step/d{depth}/{name}" for name in (kind, "original", "float8"))
        goals = ("≥ 55 %", "≥ 1.10", "≥ 1.15", "≤ 5 %", "≤ 0.80", "±10 %") if depth == scale.depths[0] else [""] * 6
        for name in (ours, float8, theirs):
            lines.append((f"{name}: tokens/s", figures.text(name, lambda e: f"{e['tok_per_second']:,.0f}"), ""))
            goal = goals[0] if name == ours else ""
            lines.append((f"{name}: MFU", figures.text(name, lambda e: f"{e['mfu']:.1%}"), goal))
        lines += [
            (f"d{depth}: speed, ours / the original's",
             figures.ratio(ours, theirs, _faster), goals[1]),
            (f"d{depth}: speed, float8 / {kind}",
             figures.ratio(float8, ours, _faster), goals[2]),
            (f"d{depth}: the optimizer's share of a step",
             figures.text(ours, lambda e: f"{e['optimizer_seconds'] / e['seconds']:.1%}"), goals[3]),
            (f"d{depth}: peak memory",
             figures.text(ours, lambda e: f"{e['allocated'] / 1e9:.1f} GB of {e['reserved'] / 1e9:.1f} reserved"), ""),
            (f"d{depth}: peak memory, ours / the original's",
             figures.ratio(ours, theirs, lambda a, b: f"{a['allocated'] / b['allocated']:.2f}"), goals[4]),
            (f"d{depth}: peak memory, measured / plan's",
             figures.text(ours, lambda e: f"{e['allocated'] / e['predicted']:.2f}"), goals[5]),
        ]  # fmt: skip
    return lines


def _eight(figures: Figures, scale: Scale, machine: Machine) -> list[Line]:
    """What plan predicts of eight H100s that reach the MFU measured here; nothing of it is measured on eight."""

    def minutes(entry: dict) -> str:
        if machine.rt.device.type == "cpu":
            return "not predicted from a CPU"
        seconds = cost.seconds_to_gpt2(dataclasses.replace(gpus.GPUS["h100"], mfu=entry["mfu"]), ranks=8)
        return f"{seconds / 60:.0f}, predicted by plan from this MFU, not measured"

    kinds = (str(machine.rt.dtype).removeprefix("torch."), "float8")
    names = [f"step/d{scale.depths[0]}/{kind}" for kind in kinds]
    return [(f"eight H100s as fast as {name}: minutes to GPT-2's CORE", figures.text(name, minutes), "< 80")
            for name in names]  # fmt: skip


def _decoding(figures: Figures, scale: Scale) -> list[Line]:
    lines: list[Line] = []
    for batch, way in itertools.product(scale.batches, ("", "/compiled")):
        name = f"decode/{batch}{way}"
        what = f"d{scale.reply_depth}, {batch} at a time{way.replace('/', ', ')}"
        goals = {1: ("", "≥ 80 %"), 64: ("≥ 10,000", "")}.get(batch, ("", ""))
        first = figures.text(name, lambda e: f"{e['first_token_seconds'] * 1e3:.1f} ms")
        lines += [
            (f"{what}: tokens/s", figures.text(name, lambda e: f"{e['tok_per_second']:,.0f}"), goals[0]),
            (f"{what}: of the bandwidth's limit", figures.text(name, lambda e: f"{e['of_limit']:.0%}"), goals[1]),
            (f"{what}: first tokens after", first, ""),
        ]
    return lines


def _training(figures: Figures) -> list[Line]:
    def show(entry: dict) -> str:
        here, cpu = (f"{entry[f'first_{where}']:.3f} to {entry[f'last_{where}']:.3f}" for where in ("here", "cpu"))
        return f"{here}; CPU {cpu}; off by {entry['off']:.1%} of the fall"

    return [("the loss of 60 steps", figures.text("training", show), "≤ 5 % off")]


def _attention(figures: Figures, scale: Scale) -> list[Line]:
    return [
        (f"attention {way}, window {window or 'none'}",
         figures.text(f"attention/{way}/{window}", lambda e: f"{e['seconds'] * 1e3:.2f} ms"), "")
        for window in (0, scale.length // 4) for way in WAYS
    ]  # fmt: skip


if __name__ == "__main__":
    run(main)
