"""Measure the Engine: time to first token, tokens/s by batch size, and the fraction of memory bandwidth it uses.

python -m scripts.infer_bench                            the newest SFT model
python -m scripts.infer_bench --init_from gpt2-medium    any other model
python -m scripts.infer_bench --depth 12                 random weights, about GPT-2's size
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import parse
from nanochat.errors import UserError, run

if TYPE_CHECKING:
    import torch

    from nanochat.engine.engine import Engine
    from nanochat.gpt import GPT
    from nanochat.runtime import Runtime


@dataclass
class Flags(ServingFlags):
    """Measure how fast a model answers; the last line is JSON."""

    EXAMPLE: ClassVar = "--source sft:d3 --batch_sizes 1 8"

    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16])
    """numbers of concurrent requests to measure"""
    prompt_tokens: int = 32
    """length of every prompt in tokens"""
    tokens: int = 64
    """length of every answer in tokens"""
    repeats: int = 3
    """measurements per batch size; the median is reported"""
    depth: int = 0
    """measure random weights of this depth instead of a checkpoint; 12 is GPT-2's smallest size"""
    compile: bool = False
    """on a GPU: compile decoding"""
    vocab_size: int = 50304
    """vocabulary size to give random weights"""
    max_seq_len: int = 1024
    """context length to give random weights"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    smallest = {"prompt_tokens": 1, "tokens": 2, "repeats": 1, "vocab_size": 251, "max_seq_len": 3}
    for name, least in smallest.items():
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected {least} or more")
    if not flags.batch_sizes or min(flags.batch_sizes) < 1:
        raise UserError("--batch_sizes needs one or more positive numbers")
    from nanochat import runtime
    from nanochat.engine.engine import Engine

    with runtime.start(flags.device_type, seed=0) as rt:
        model, description, dtype = _model(flags, rt)
        context = model.config.sequence_len
        if flags.prompt_tokens + flags.tokens > context:
            raise UserError(
                f"--prompt_tokens {flags.prompt_tokens} and --tokens {flags.tokens} exceed the context of {context}"
            )
        bandwidth, weights = memory_bandwidth(rt.device), bytes_read(model)
        print(description)
        print(f"memory bandwidth {bandwidth / 1e9:.1f} GB/s; {weights / 1e6:.0f} MB of weights per step", flush=True)
        rows = []
        for size in flags.batch_sizes:
            engine = Engine(model, slots=size, compile="inductor" if flags.compile else "")
            answer = partial(generate, engine, tokens=flags.tokens)
            first, speed = measure(flags, size, answer, model.config.vocab_size)
            rows.append({"batch": size, "first_token_ms": first * 1e3, "tok_per_second": speed,
                         "of_bandwidth": speed / size * weights / bandwidth})  # fmt: skip
        _print_table(rows)
        print(json.dumps({"dtype": dtype, "device": str(rt.device), "bandwidth_gb_per_second": bandwidth / 1e9,
                          "weights_mb": weights / 1e6, "rows": rows}))  # fmt: skip


def _print_table(rows: list[dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("batch size", "first token", "tokens/s", "of the bandwidth")
    for row in rows:
        table.add_row(str(row["batch"]), f"{row['first_token_ms']:.1f} ms", f"{row['tok_per_second']:.1f}",
                      f"{row['of_bandwidth']:.0%}")  # fmt: skip
    Console().print(table)


def measure(
    flags: Flags, size: int, generate: Callable[[list[list[int]]], list[list[float]]], vocab_size: int = 251
) -> tuple[float, float]:
    """Seconds until all of `size` requests have their first token, and tokens per second after that; medians.

    generate(prompts) answers every prompt with flags.tokens tokens and returns the time at which each was generated.
    """
    firsts, speeds = [], []
    for repeat in range(flags.repeats + 1):
        # No two prompts begin alike, so the prefix cache has nothing to offer.
        heads = [7 * repeat + size + 13 * row for row in range(size)]
        prompts = [[(head + 3 * i) % min(vocab_size, 251) for i in range(flags.prompt_tokens)] for head in heads]
        started = time.perf_counter()
        times = generate(prompts)
        first = max(row[0] for row in times)
        later = [moment for row in times for moment in row if moment > first]
        if repeat:  # the first is a warm-up
            firsts.append(first - started)
            speeds.append(len(later) / (max(later) - first))
    return statistics.median(firsts), statistics.median(speeds)


def memory_bandwidth(device: "torch.device") -> float:
    """Bytes per second at which the device reads a tensor much larger than its caches."""
    import torch

    tensor = torch.ones(1 << (28 if device.type == "cuda" else 26), device=device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        float(tensor.sum())
        best = min(best, time.perf_counter() - started)
    return tensor.numel() * 4 / best


def bytes_read(model: "GPT") -> int:
    """Bytes of matrices that a step of decoding reads, packed or not: all but the embeddings."""
    from nanochat.engine.cpu_weights import BlockedLinear, Int8Linear
    from nanochat.gpt import Linear

    total = 0
    if model.lm_head is None:
        total += model.transformer.wte.weight.numel() * model.transformer.wte.weight.element_size()
    for module in model.modules():
        if isinstance(module, BlockedLinear | Int8Linear):
            total += module.outputs * module.inputs * (1 if isinstance(module, Int8Linear) else model.dtype.itemsize)
        elif isinstance(module, Linear):
            total += module.weight.numel() * module.weight.element_size()
    return total


def _model(flags: Flags, rt: "Runtime") -> "tuple[GPT, str, str]":
    """The model, laid out for generating, its description, and its dtype's name."""
    from nanochat.engine import serving
    from nanochat.engine.cpu_weights import pack
    from nanochat.engine.engine import Engine
    from nanochat.gpt import GPT
    from nanochat.scaling import config_from_depth

    if not flags.depth:
        served = serving.serve_model(flags.find(), rt.device, flags.dtype, 1, flags.compile)
        return served.engine.model, str(served), served.dtype_name
    dtype = serving.dtype_for(flags.dtype, rt.device)
    config = config_from_depth(flags.depth, flags.vocab_size, flags.max_seq_len)
    with rt.device:
        model = GPT(config, dtype.compute).to(dtype.compute)
    pack(model, dtype.int8)
    way = Engine(model, slots=1, max_len=1).way
    description = f"random weights of depth {flags.depth}, width {config.n_embd}, in {dtype.name} on {rt.device}{way}"
    return model, description, dtype.name


def generate(engine: "Engine", prompts: list[list[int]], tokens: int) -> list[list[float]]:
    """Answer prompts with so many tokens each; the time at which each token was generated."""
    from nanochat.engine.request import Request

    times: list[list[float]] = [[] for _ in prompts]
    for row, event in engine.stream([Request(prompt, tokens, temperature=0) for prompt in prompts]):
        if event.token is not None:
            times[row].append(time.perf_counter())
    return times


if __name__ == "__main__":
    run(main)
