"""Evaluate a model as a model of text: bits per byte, samples, CORE, and the tasks of lm-evaluation-harness."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from nanochat.checkpoint.flags import ModelName, ServingFlags
from nanochat.config import alias, changes, parse
from nanochat.data import urls
from nanochat.errors import UserError, run
from tasks import core_bundle as bundles

if TYPE_CHECKING:
    from extras.harness import Measured
    from nanochat.checkpoint.manager import Loaded
    from nanochat.engine.engine import Engine
    from nanochat.eval.core import TaskScore
    from nanochat.runtime import Runtime

PARTS = ("core", "bpb", "sample")
BPB = ("dataset", "train_bpb", "val_bpb")
RESULTS = (*BPB, "core", "harness", "samples")  # keys of the report's section, which several runs may fill
PROMPTS = (
    "Once upon a time",
    "The capital of",
    "There was a little fox who",
    "The opposite of hot is",
    "If yesterday was Friday, then tomorrow will be",
    "7 plus 5 is",
)


@dataclass
class Flags(ServingFlags):
    """Measure a model's bits per byte on the dataset it was trained on, its CORE score, and show samples."""

    source: ModelName = "base"
    eval: str = "bpb,sample"
    """what to do, joined by commas: core, bpb, sample"""
    device_batch_size: int = 32
    """rows per forward pass and device"""
    dataset: str | None = None
    """dataset to evaluate on; default: the one that the checkpoint was trained on"""
    split: Literal["both", "train", "val"] = "both"
    """split of the dataset to evaluate on"""
    eval_tokens: int = 10_485_760
    """tokens of each split to evaluate on; a smaller split is read once"""
    max_per_task: int = 500
    """questions to ask per CORE task; 0: all"""
    bundle: Path | None = None
    """folder or zip file with CORE's questions; default: the one in the base folder, downloaded if missing"""
    bundle_url: str = bundles.URL
    """URL to download the bundle from; only the default's checksum is known and verified"""
    max_bytes: int = urls.MAX_BYTES
    """largest bundle to download, in bytes"""
    allow_private_urls: bool = False
    """allow downloads from this machine and from private networks"""
    harness: str | None = None
    """lm-evaluation-harness tasks to run as well, joined by commas; the package must be installed"""
    harness_limit: int | None = None
    """questions to ask per harness task; default: all"""
    harness_chat: bool = False
    """ask harness tasks as a chat, with the text before each answer as the user's turn"""
    harness_include_path: Path | None = None
    """load more harness tasks from the YAML files in this folder"""
    prompts: tuple[str, ...] = PROMPTS
    """prompts to continue"""
    num_samples: int = 3
    """samples to draw without a prompt"""
    max_new_tokens: int = 96
    """maximum tokens per sample"""
    temperature: Annotated[float, alias("-t")] = 0.7
    """temperature of the samples"""
    top_k: Annotated[int, alias("-k")] = 50
    """sample from the k most likely tokens; 0: from all"""
    seed: int = 42
    """seed of the samples"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    parts = _check(flags)
    from nanochat.checkpoint.manager import LoadAs
    from nanochat.engine.engine import Engine
    from nanochat.report import sections
    from nanochat.runtime import start
    from scripts._samples import write_samples

    with start(flags.device_type, flags.dtype, flags.seed) as runtime:
        started = time.monotonic()
        before = sections.read_sections().get("base_eval", {})
        bundle = _bundle(flags, runtime) if "core" in parts else None
        found = flags.find()
        loaded = found.load(LoadAs(runtime.device, runtime.dtype))
        runtime.print(f"{found.short_name}, {loaded}, in {runtime.dtype}")
        results: dict = {}
        if "bpb" in parts:
            results |= _bits_per_byte(flags, loaded, runtime)
        if bundle is not None or flags.harness:
            # Prompts are read in one piece: no other request is waiting for its next token.
            engine = Engine(loaded.model, flags.device_batch_size, prefill_chunk=loaded.model.config.sequence_len)
            if bundle is not None:
                results["core"] = _core(flags, bundle, engine, loaded, runtime)
            if flags.harness:
                results["harness"] = _harness(flags, engine, loaded, runtime)
            del engine
        if not runtime.is_main:
            return
        if "sample" in parts:
            results["samples"] = write_samples(
                loaded.model, loaded.tokenizer, [""] * flags.num_samples + list(flags.prompts), flags.max_new_tokens,
                flags.temperature, flags.top_k, flags.seed,
            )  # fmt: skip
        if found.of_stage and found.source == "base":
            sections.write_section("base_eval", _section(flags, loaded, results, time.monotonic() - started, before))


def _check(flags: Flags) -> set[str]:
    """The parts that --eval names. Raises UserError for flags that are out of range."""
    if flags.device_batch_size < 1 or flags.eval_tokens < 1:
        raise UserError("--device_batch_size and --eval_tokens must be 1 or more")
    if flags.harness_limit is not None and flags.harness_limit < 1:
        raise UserError(f"--harness_limit is {flags.harness_limit}; expected 1 or more")
    parts = set(_names(flags.eval))
    if unknown := sorted(parts - {*PARTS}):
        raise UserError(f"--eval knows no {unknown[0]!r}; expected some of {', '.join(PARTS)}, joined by commas")
    if flags.harness is not None:
        if not _names(flags.harness):
            raise UserError("--harness names no task; expected such as hellaswag,arc_easy")
        from extras import harness

        harness.check()
    if not parts and flags.harness is None:
        raise UserError(f"there is nothing to do: --eval is empty; expected some of {', '.join(PARTS)}")
    return parts


def _names(joined: str) -> list[str]:
    return [name.strip() for name in joined.split(",") if name.strip()]


def _bundle(flags: Flags, runtime: "Runtime") -> bundles.Bundle:
    """The questions of CORE, downloaded by the first rank if they are missing."""
    if flags.bundle is None and not bundles.is_here():
        if runtime.is_main:
            print(f"fetching the questions of CORE from {flags.bundle_url}", flush=True)
            known = bundles.SHA256 if flags.bundle_url == bundles.URL else None
            bundles.fetch(flags.bundle_url, known, flags.max_bytes, flags.allow_private_urls)
        runtime.wait()
    return bundles.read(flags.bundle or bundles.folder())


def _dataset(flags: Flags, meta: dict, runtime: "Runtime") -> str:
    """The dataset to evaluate on; printed where no flag names it."""
    from nanochat.data.shards import DEFAULT_DATASET

    if flags.dataset:
        return flags.dataset
    name = meta.get("dataset") or (meta.get("user_config") or {}).get("dataset")
    if name:
        runtime.print(f"--dataset {name}, which the checkpoint was trained on")
        return name
    runtime.print(f"--dataset {DEFAULT_DATASET}, as the checkpoint does not say what it was trained on")
    return DEFAULT_DATASET


def _bits_per_byte(flags: Flags, loaded: "Loaded", runtime: "Runtime") -> dict:
    from nanochat.data import streams, texts
    from nanochat.eval.bpb import bits_per_byte

    datasets = _dataset(flags, loaded.meta, runtime).split()
    results: dict = {"dataset": " ".join(datasets)}
    for split in ("train", "val") if flags.split == "both" else (flags.split,):
        source = texts.text_source(datasets, split, loaded.tokenizer)
        T = loaded.model.config.sequence_len
        with closing(streams.batches_for(runtime, source, flags.device_batch_size, T)) as stream:
            batches = streams.one_pass(stream, flags.eval_tokens, runtime.world)
            on_device = (batch.to(runtime.device) for batch in batches)
            bpb = bits_per_byte(loaded.model, on_device, loaded.tokenizer.token_bytes)
        results[f"{split}_bpb"] = bpb
        runtime.print(f"{split}: {bpb:.4f} bits per byte")
    return results


def _core(flags: Flags, bundle: bundles.Bundle, engine: "Engine", loaded: "Loaded", runtime: "Runtime") -> dict:
    from nanochat.eval import core

    limit = max(0, flags.max_per_task)
    scores = [core.evaluate(engine, loaded.tokenizer, task, limit) for task in bundle.tasks]
    mean = core.core_metric(scores)
    runtime.print(f"\n{_core_table(scores, mean)}\non the bundle {bundle.sha256[:12]}")
    tasks = {score.label: {**asdict(score), "accuracy": score.accuracy, "centered": score.centered} for score in scores}
    return {"core": mean, "tasks": tasks, "max_per_task": limit, "bundle": bundle.sha256}


def _core_table(scores: "Sequence[TaskScore]", mean: float) -> str:
    """One line per task: examples, questions, accuracy, and accuracy above guessing; the last line is CORE."""
    width = max(len(score.label) for score in scores)
    lines = [f"{'task':{width}}  shots      n  accuracy  centered"]
    for score in scores:
        figures = f"{score.shots:5}  {score.n:5}  {score.accuracy:8.4f}  {score.centered:8.4f}"
        cut = f"  ({score.too_long} too long for the context)" if score.too_long else ""
        lines.append(f"{score.label:{width}}  {figures}{cut}")
    return "\n".join([*lines, f"{'CORE':{width}}  {'':5}  {'':5}  {'':8}  {mean:8.4f}"])


def _harness(flags: Flags, engine: "Engine", loaded: "Loaded", runtime: "Runtime") -> list[dict]:
    from extras import harness

    measured = harness.evaluate(
        engine, loaded.tokenizer, _names(flags.harness or ""), flags.harness_limit, flags.harness_include_path,
        flags.harness_chat, flags.seed,
    )  # fmt: skip
    if measured:
        runtime.print(f"\n{_harness_table(measured)}")
    return [one._asdict() for one in measured]


def _harness_table(measured: "Sequence[Measured]") -> str:
    """One line per metric: its value, with the standard error if there is one."""
    tasks = max(len("task"), *(len(one.task) for one in measured))
    metrics = max(len("metric"), *(len(one.metric) for one in measured))
    lines = [f"{'task':{tasks}}  {'metric':{metrics}}      n     value"]
    for one in measured:
        error = "" if one.error is None else f" ± {one.error:.4f}"
        lines.append(f"{one.task:{tasks}}  {one.metric:{metrics}}  {one.n:5}  {one.value:8.4f}{error}")
    return "\n".join(lines)


def _section(flags: Flags, loaded: "Loaded", results: dict, seconds: float, before: dict) -> dict:
    """The report's section. Results of an earlier run on the same weights stay unless this run has measured them."""
    from nanochat.checkpoint.manager import record_of

    record = {**record_of(loaded.meta, "base", loaded.tag, loaded.step), "flags": changes(flags)}
    if record["sha256"] is not None and before.get("sha256") == record["sha256"]:
        kept = {name: before[name] for name in RESULTS if name in before}
        if results.get("dataset", kept.get("dataset")) != kept.get("dataset"):
            kept = {name: value for name, value in kept.items() if name not in BPB}
        if not kept.keys() & results.keys():
            seconds += before.get("seconds", 0)
            record["flags"] = {**before.get("flags", {}), **record["flags"]}
        results = {**kept, **results}
    return {**record, **results, "seconds": seconds}


if __name__ == "__main__":
    run(main)
