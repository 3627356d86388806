"""Evaluate a model as a model of text: bits per byte, samples, CORE, and the tasks of lm-evaluation-harness."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from nanochat.checkpoint import manager
from nanochat.checkpoint.flags import ModelName, ServingFlags
from nanochat.config import alias, changes, parse
from nanochat.data import shards, streams, texts, urls
from nanochat.engine.engine import Engine
from nanochat.errors import UserError, run
from nanochat.eval import bundle as bundles
from nanochat.eval import core, harness
from nanochat.eval.bpb import bits_per_byte
from nanochat.eval.samples import write_samples
from nanochat.report import sections as report
from nanochat.runtime import Runtime, start

PARTS = ("core", "bpb", "sample")
BPB = ("dataset", "train_bpb", "val_bpb")
RESULTS = (*BPB, "core", "harness", "samples")  # keys of the section that another run may add to
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
    """Bits per byte of a model on the dataset it was trained on, samples of what it writes, CORE, and other scores."""

    eval: str = "bpb,sample"
    """what to do, joined by commas: core, bpb, sample"""
    source: ModelName = "base"
    dtype: Annotated[str, alias("-d")] = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    dataset: str | None = None
    """dataset to evaluate on; default: the one that the checkpoint was trained on"""
    split: Literal["both", "train", "val"] = "both"
    """split of the dataset"""
    device_batch_size: int = 32
    """rows per forward pass and device"""
    eval_tokens: int = 10_485_760
    """tokens of each split to evaluate on; a smaller split is read once"""
    max_per_task: int = 500
    """questions of each of CORE's tasks; 0: all"""
    bundle: Path | None = None
    """CORE's questions, a folder or a zip file; default: the bundle in the base folder, fetched if missing"""
    bundle_url: str = bundles.URL
    """where to fetch it; the checksum is known of the default's only"""
    max_bytes: int = urls.MAX_BYTES
    """largest bundle to fetch"""
    allow_private_urls: bool = False
    """fetch it also from addresses of this machine and of private networks"""
    harness: str | None = None
    """tasks of lm-evaluation-harness (must be installed) to run as well, joined by commas"""
    harness_limit: int | None = None
    """questions per harness task; default: all"""
    harness_chat: bool = False
    """ask harness tasks as a chat: what precedes an answer is the user's turn"""
    harness_include_path: Path | None = None
    """folder with more harness tasks, as YAML files"""
    prompts: tuple[str, ...] = PROMPTS
    """prompts to continue"""
    num_samples: int = 3
    """samples without a prompt"""
    max_new_tokens: int = 96
    """maximum tokens per sample"""
    temperature: Annotated[float, alias("-t")] = 0.7
    """of the samples"""
    top_k: Annotated[int, alias("-k")] = 50
    """of the samples"""
    seed: int = 42
    """of the samples"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    parts = _check(flags)
    with start(flags.device_type, flags.dtype, flags.seed) as runtime:
        began = time.monotonic()
        before = report.sections().get("base_eval", {})
        questions = _bundle(flags, runtime) if "core" in parts else None
        found = flags.find()
        loaded = found.load(manager.LoadAs(runtime.device, runtime.dtype))
        runtime.print(f"{found.short_name}, {loaded}, in {runtime.dtype}")
        results: dict = {}
        if "bpb" in parts:
            results |= _bits_per_byte(flags, loaded, runtime)
        if questions is not None or flags.harness:
            # Prompts are read whole: nobody waits for the next token of another request meanwhile.
            engine = Engine(loaded.model, flags.device_batch_size, prefill_chunk=loaded.model.config.sequence_len)
            if questions is not None:
                results["core"] = _core(flags, questions, engine, loaded, runtime)
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
            _record(flags, loaded, results, time.monotonic() - began, before)


def dataset(flags: Flags, meta: dict, runtime: Runtime) -> str:
    """The dataset to evaluate on, said where it was not told."""
    if flags.dataset:
        return flags.dataset
    name = meta.get("dataset") or (meta.get("user_config") or {}).get("dataset")
    if name:
        runtime.print(f"--dataset {name}, which the checkpoint was trained on")
        return name
    runtime.print(f"--dataset {shards.DEFAULT_DATASET}, as the checkpoint does not say what it was trained on")
    return shards.DEFAULT_DATASET


def core_table(scores: Sequence[core.TaskScore]) -> str:
    """A line a task: its examples, n, accuracy, and that without what guessing scores; at last CORE."""
    width = max(len(score.label) for score in scores)
    lines = [f"{'task':{width}}  shots      n  accuracy  centered"]
    for score in scores:
        figures = f"{score.shots:5}  {score.n:5}  {score.accuracy:8.4f}  {score.centered:8.4f}"
        cut = f"  ({score.too_long} too long for the context)" if score.too_long else ""
        lines.append(f"{score.label:{width}}  {figures}{cut}")
    lines.append(f"{'CORE':{width}}  {'':5}  {'':5}  {'':8}  {core.core_metric(scores):8.4f}")
    return "\n".join(lines)


def harness_table(measured: Sequence[harness.Measured]) -> str:
    """A line a metric: its value, with the standard error where there is one."""
    tasks = max(len("task"), *(len(one.task) for one in measured))
    metrics = max(len("metric"), *(len(one.metric) for one in measured))
    lines = [f"{'task':{tasks}}  {'metric':{metrics}}      n     value"]
    for one in measured:
        error = "" if one.error is None else f" ± {one.error:.4f}"
        lines.append(f"{one.task:{tasks}}  {one.metric:{metrics}}  {one.n:5}  {one.value:8.4f}{error}")
    return "\n".join(lines)


def _check(flags: Flags) -> set[str]:
    """What --eval asks for. Raises UserError for values that cannot be."""
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
        harness.check()
    if not parts and flags.harness is None:
        raise UserError(f"there is nothing to do: --eval is empty; expected some of {', '.join(PARTS)}")
    return parts


def _names(joined: str) -> list[str]:
    return [name.strip() for name in joined.split(",") if name.strip()]


def _bundle(flags: Flags, runtime: Runtime) -> bundles.Bundle:
    if flags.bundle is None and not bundles.is_here():
        if runtime.is_main:
            print(f"fetching the questions of CORE from {flags.bundle_url}", flush=True)
            known = bundles.SHA256 if flags.bundle_url == bundles.URL else None
            bundles.fetch(flags.bundle_url, known, flags.max_bytes, flags.allow_private_urls)
        runtime.wait()
    return bundles.read(flags.bundle or bundles.folder())


def _bits_per_byte(flags: Flags, loaded: manager.Loaded, runtime: Runtime) -> dict:
    datasets = dataset(flags, loaded.meta, runtime).split()
    results: dict = {"dataset": " ".join(datasets)}
    for split in ("train", "val") if flags.split == "both" else (flags.split,):
        source = texts.text_source(datasets, split, loaded.tokenizer)
        T = loaded.model.config.sequence_len
        with closing(streams.batches_for(runtime, source, flags.device_batch_size, T)) as stream:
            measured = streams.one_pass(stream, flags.eval_tokens, runtime.world)
            on_device = (batch.to(runtime.device) for batch in measured)
            bpb = bits_per_byte(loaded.model, on_device, loaded.tokenizer.token_bytes)
        results[f"{split}_bpb"] = bpb
        runtime.print(f"{split}: {bpb:.4f} bits per byte")
    return results


def _core(flags: Flags, questions: bundles.Bundle, engine: Engine, loaded: manager.Loaded, runtime: Runtime) -> dict:
    most = max(0, flags.max_per_task)
    scores = [core.evaluate(engine, loaded.tokenizer, task, most) for task in questions.tasks]
    runtime.print(f"\n{core_table(scores)}\non the bundle {questions.sha256[:12]}")
    told = {score.label: {**asdict(score), "accuracy": score.accuracy, "centered": score.centered} for score in scores}
    return {"core": core.core_metric(scores), "tasks": told, "max_per_task": most, "bundle": questions.sha256}


def _harness(flags: Flags, engine: Engine, loaded: manager.Loaded, runtime: Runtime) -> list[dict]:
    measured = harness.evaluate(
        engine, loaded.tokenizer, _names(flags.harness or ""), flags.harness_limit, flags.harness_include_path,
        flags.harness_chat, flags.seed,
    )  # fmt: skip
    if measured:
        runtime.print(f"\n{harness_table(measured)}")
    return [one._asdict() for one in measured]


def _record(flags: Flags, loaded: manager.Loaded, results: dict, seconds: float, before: dict) -> None:
    """Write the section, with what the section before has of the very same weights and this run did not look for."""
    told = {**manager.record_of(loaded.meta, "base", loaded.tag, loaded.step), "flags": changes(flags)}
    if told["sha256"] is not None and before.get("sha256") == told["sha256"]:
        found = {name: before[name] for name in RESULTS if name in before}
        if results.get("dataset", found.get("dataset")) != found.get("dataset"):
            found = {name: value for name, value in found.items() if name not in BPB}
        if not found.keys() & results.keys():
            seconds += before.get("seconds", 0)
            told["flags"] = {**before.get("flags", {}), **told["flags"]}
        results = {**found, **results}
    report.write_section("base_eval", {**told, **results, "seconds": seconds})


if __name__ == "__main__":
    run(main)
