"""Evaluate a model as a model of text: bits per byte on its dataset, and samples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from nanochat import paths, report
from nanochat.checkpoint import manager
from nanochat.config import UserError, alias, changes, parse, run
from nanochat.data import shards, streams
from nanochat.eval.bpb import bits_per_byte
from nanochat.eval.samples import write_samples
from nanochat.runtime import Runtime, start

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
    """Bits per byte of a checkpoint on the dataset it was trained on, and samples of what it writes."""

    source: Annotated[Literal["base", "mid", "sft", "rl"], alias("-i")] = "base"
    """the stage whose checkpoint is evaluated"""
    model_tag: Annotated[str | None, alias("-g")] = None
    """the model; default: the deepest one"""
    step: Annotated[int | None, alias("-s")] = None
    """the step; default: the last one"""
    softcap: float | None = None
    """of the original's checkpoints of early 2026, which do not tell theirs: 20 from March on; default: 15"""
    device_type: str = ""
    """cuda, mps or cpu; default: the best there is"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """what to compute in: auto, float32, bfloat16 or float16"""
    dataset: str | None = None
    """the dataset; default: the one the checkpoint was trained on"""
    split: Literal["both", "train", "val"] = "both"
    """which of its splits"""
    device_batch_size: int = 32
    """rows of a forward pass on one device"""
    eval_tokens: int = 10_485_760
    """tokens of each split to evaluate on; a smaller split is read once"""
    prompts: tuple[str, ...] = PROMPTS
    """beginnings to continue"""
    num_samples: int = 3
    """samples without a prompt"""
    max_new_tokens: int = 96
    """tokens of a sample at most"""
    temperature: Annotated[float, alias("-t")] = 0.7
    """of the samples"""
    top_k: Annotated[int, alias("-k")] = 50
    """of the samples"""
    seed: int = 42
    """of the samples"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.device_batch_size < 1 or flags.eval_tokens < 1:
        raise UserError("--device_batch_size and --eval_tokens must be 1 or more")
    with start(flags.device_type, flags.dtype, flags.seed) as runtime:
        began = time.monotonic()
        loaded = manager.load(
            flags.source, flags.model_tag, flags.step, runtime.device, runtime.dtype, softcap=flags.softcap
        )
        runtime.print(f"{flags.source} {loaded.tag}, {loaded}, in {runtime.dtype}")
        results: dict[str, float] = {}
        folder = paths.dataset_dir(dataset(flags, loaded.meta, runtime))
        for split in ("train", "val") if flags.split == "both" else (flags.split,):
            source = streams.TextSource(shards.TextReader(folder, split), loaded.tokenizer)
            T = loaded.model.config.sequence_len
            stream = streams.batches(source, flags.device_batch_size, T, runtime.rank, runtime.world)
            measured = streams.one_pass(stream, flags.eval_tokens, runtime.world)
            on_device = (batch.to(runtime.device) for batch in measured)
            bpb = bits_per_byte(loaded.model, on_device, loaded.tokenizer.token_bytes)
            results[f"{split}_bpb"] = bpb
            runtime.print(f"{split}: {bpb:.4f} bits per byte")
        if not runtime.is_main:
            return
        samples = write_samples(
            loaded.model, loaded.tokenizer, [""] * flags.num_samples + list(flags.prompts), flags.max_new_tokens,
            flags.temperature, flags.top_k, flags.seed,
        )  # fmt: skip
        if flags.source == "base":
            told = {"source": flags.source, "tag": loaded.tag, "step": loaded.step, "flags": changes(flags)}
            report.write_section(
                "base_eval", {**told, **results, "samples": samples, "seconds": time.monotonic() - began}
            )


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


if __name__ == "__main__":
    run(main)
