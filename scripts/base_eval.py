"""Evaluate models as models of text: bits per byte, perplexity, samples, CORE, and lm-evaluation-harness.

python -m scripts.base_eval                                                            the newest base model
python -m scripts.base_eval -i gpt2 -i gpt2-medium --text book.txt --text news.jsonl   a table: models by texts
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from nanochat.checkpoint.flags import check_dtype
from nanochat.config import alias, changes, parse
from nanochat.data import urls
from nanochat.errors import UserError, run
from tasks import core_bundle as bundles

if TYPE_CHECKING:
    from extras.harness import Measured
    from nanochat.checkpoint.door import Found
    from nanochat.checkpoint.manager import Loaded
    from nanochat.engine.engine import Engine
    from nanochat.eval.bpb import TextLoss
    from nanochat.eval.core import TaskScore
    from nanochat.runtime import Runtime

PARTS = ("core", "bpb", "sample")
BPB = ("dataset", "train_bpb", "val_bpb", "train_perplexity", "val_perplexity")
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
class Flags:
    """Measure models' bits per byte and perplexity on texts, their CORE scores, and show samples."""

    EXAMPLE: ClassVar = "--source gpt2 --text notes.txt --eval bpb"

    # --- model
    source: Annotated[list[str], alias("-i", "--init-from")] = field(default_factory=lambda: ["base"])
    """base, mid, sft, dpo, rl, base:d3:700, gpt2 ... gpt2-xl, a folder, a ckpt.pt, user/name; repeat for several"""
    model_tag: Annotated[str | None, alias("-g", "--tag")] = None
    """tag of the model; default: the deepest d<number>"""
    step: Annotated[int | None, alias("-s")] = None
    """step of the model; default: the last"""

    # --- evaluation
    eval: str = "bpb,sample"
    """what to do, joined by commas: core, bpb (with perplexity), sample"""
    eval_tokens: int = 10_485_760
    """tokens of each split or text to evaluate on; a smaller one is read once"""
    split: Literal["both", "train", "val"] = "both"
    """split of the dataset to evaluate on"""
    device_batch_size: int = 32
    """rows per forward pass and device"""
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

    # --- data
    dataset: list[str] = field(default_factory=list)
    """dataset to evaluate on; repeat for several; default without --text: the one that the checkpoint was trained on"""
    text: list[Path] = field(default_factory=list)
    """text file or folder to evaluate on (.txt, .jsonl, .json, .parquet); repeat for several"""
    column: str = "text"
    """field or column that holds the text in .jsonl, .json and .parquet files"""

    # --- generation
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

    # --- machine
    device_type: Annotated[str, alias("--device")] = ""
    """cuda, cuda:1, mps or cpu; default: the best available"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    parts = _check(flags)
    from nanochat.checkpoint import door
    from nanochat.runtime import start

    with start(flags.device_type, flags.dtype, flags.seed) as runtime:
        bundle = _bundle(flags, runtime) if "core" in parts else None
        models = [door.find(name, flags.model_tag, flags.step) for name in flags.source]
        rows: list[Row] = []
        for found in models:
            rows += _evaluate(flags, parts, found, bundle, runtime)
        if len(rows) > 1:
            runtime.print(f"\n{_text_table(rows)}")


class Row(NamedTuple):
    """A model's loss on a text, or on a split of a dataset."""

    model: str
    text: str
    loss: "TextLoss"

    def __str__(self) -> str:
        return f"{self.text}: {self.loss.bits_per_byte:.4f} bits per byte, perplexity {_short(self.loss.perplexity)}"


def _evaluate(
    flags: Flags, parts: set[str], found: "Found", bundle: bundles.Bundle | None, runtime: "Runtime"
) -> list[Row]:
    """Do everything with one model, and write the report's section if it is a base model of the base folder."""
    from nanochat.checkpoint.manager import LoadAs
    from nanochat.engine.engine import Engine
    from nanochat.eval.bpb import file_losses, total
    from nanochat.report import sections
    from scripts._samples import write_samples

    started = time.monotonic()
    before = sections.read_sections().get("base_eval", {})
    loaded = found.load(LoadAs(runtime.device, runtime.dtype))
    runtime.print(f"{found.short_name}, {loaded}, in {runtime.dtype}")
    results: dict = {}
    rows: list[Row] = []
    if "bpb" in parts:
        for dataset in _datasets(flags, loaded.meta, runtime):
            rows += _dataset_rows(flags, found.short_name, dataset, loaded, runtime)
            results = results or _recorded(dataset, rows)
    if bundle is not None or flags.harness or flags.text:
        # Prompts are read in one piece: no other request is waiting for its next token.
        engine = Engine(loaded.model, flags.device_batch_size, prefill_chunk=loaded.model.config.sequence_len)
        for path in flags.text if "bpb" in parts else ():
            losses = file_losses(engine, loaded.tokenizer, path, flags.column, flags.eval_tokens)
            rows.append(Row(found.short_name, path.name, total(losses)))
            runtime.print(rows[-1])
        if bundle is not None:
            results["core"] = _core(flags, bundle, engine, loaded, runtime)
        if flags.harness:
            results["harness"] = _harness(flags, engine, loaded, runtime)
        del engine
    if runtime.is_main and "sample" in parts:
        results["samples"] = write_samples(
            loaded.model, loaded.tokenizer, [""] * flags.num_samples + list(flags.prompts), flags.max_new_tokens,
            flags.temperature, flags.top_k, flags.seed,
        )  # fmt: skip
    if runtime.is_main and found.of_stage and found.source == "base":
        sections.write_section("base_eval", _section(flags, loaded, results, time.monotonic() - started, before))
    return rows


def _check(flags: Flags) -> set[str]:
    """The parts that --eval names. Raises UserError for flags that are out of range."""
    check_dtype(flags.dtype)
    if flags.device_batch_size < 1 or flags.eval_tokens < 1:
        raise UserError("--device_batch_size and --eval_tokens must be 1 or more")
    if flags.harness_limit is not None and flags.harness_limit < 1:
        raise UserError(f"--harness_limit is {flags.harness_limit}; expected 1 or more")
    parts = set(_names(flags.eval))
    if unknown := sorted(parts - {*PARTS}):
        raise UserError(f"--eval {unknown[0]!r} is unknown; expected some of {', '.join(PARTS)}, joined by commas")
    if flags.harness is not None:
        if not _names(flags.harness):
            raise UserError("--harness names no task; expected names such as hellaswag,arc_easy")
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


def _datasets(flags: Flags, meta: dict, runtime: "Runtime") -> list[str]:
    """The datasets to evaluate on; printed where no flag names one."""
    from nanochat.data.shards import DEFAULT_DATASET

    if flags.dataset or flags.text:
        return flags.dataset
    name = meta.get("dataset") or (meta.get("user_config") or {}).get("dataset")
    if name:
        runtime.print(f"--dataset {name}, which the checkpoint was trained on")
        return [name]
    runtime.print(f"--dataset {DEFAULT_DATASET}, as the checkpoint does not say what it was trained on")
    return [DEFAULT_DATASET]


def _dataset_rows(flags: Flags, name: str, dataset: str, loaded: "Loaded", runtime: "Runtime") -> list[Row]:
    """The losses on the splits of a dataset, or of several that are mixed by weight, as in training."""
    from nanochat.data import streams, texts
    from nanochat.eval.bpb import text_loss

    masked = (loaded.meta.get("user_config") or {}).get("document_mask")
    # Rows are read as in training: a model whose documents never saw others is worse at text that follows others.
    loaded.model.document_bos = loaded.tokenizer.bos if masked else None
    rows: list[Row] = []
    for split in ("train", "val") if flags.split == "both" else (flags.split,):
        source = texts.text_source(dataset.split(), split, loaded.tokenizer)
        T = loaded.model.config.sequence_len
        with closing(streams.batches_for(runtime, source, flags.device_batch_size, T)) as stream:
            batches = streams.one_pass(stream, flags.eval_tokens, runtime.world)
            on_device = (batch.to(runtime.device) for batch in batches)
            loss = text_loss(loaded.model, on_device, loaded.tokenizer.token_bytes)
        rows.append(Row(name, f"{dataset}, {split}", loss))
        runtime.print(rows[-1])
    return rows


def _recorded(dataset: str, rows: Sequence[Row]) -> dict:
    """What the report shows of the losses on a dataset."""
    losses = {row.text.rpartition(" ")[2]: row.loss for row in rows}
    bpb = {f"{split}_bpb": loss.bits_per_byte for split, loss in losses.items()}
    return {"dataset": dataset, **bpb, **{f"{split}_perplexity": loss.perplexity for split, loss in losses.items()}}


def _text_table(rows: Sequence[Row]) -> str:
    """One line per text and model, a text's models below each other."""
    from nanochat.terminal import columns

    cells = [("text", "model", "tokens", "perplexity", "bits per byte")]
    for text in dict.fromkeys(row.text for row in rows):
        for row in rows:
            if row.text == text:
                figures = str(row.loss.tokens), _short(row.loss.perplexity), f"{row.loss.bits_per_byte:.4f}"
                cells.append((text, row.model, *figures))
    return columns(cells, left=2)


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1e5 else f"{perplexity:.3g}"


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
