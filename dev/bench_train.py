"""How fast a training step is: tokens/s and FLOP/s of THE loop, beside what the machine's matrix product reaches.

    python dev/bench_train.py                        the shape that the figures in dev/LOG.md use
    python dev/bench_train.py --previous ../old      the same with another checkout of nanochat, in the same run
    python dev/bench_train.py --no-peer              without transformers' NanoChat port trained by torch's AdamW
    python dev/bench_train.py --parts                a step's parts, each by itself: CPU time, share and FLOP/s

Every contestant runs in a process of its own, one after the other; the ratio is to the first row.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nanochat import runtime, scaling
from nanochat.config import parse
from nanochat.data.batch import Batch
from nanochat.errors import run
from nanochat.gpt import GPT
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan import cost
from nanochat.runtime import Runtime
from nanochat.train.loop import Stage, TrainState, train


@dataclass
class Flags:
    """Measure training speed; the last line is JSON."""

    depth: int = 4
    """layers"""
    vocab_size: int = 8192
    """tokens in the vocabulary"""
    max_seq_len: int = 512
    """context"""
    device_batch_size: int = 32
    """rows per step"""
    steps: int = 10
    """measured steps; the median counts"""
    compile: bool = True
    """use torch.compile"""
    dtype: str = "auto"
    """compute type"""
    peer: bool = True
    """measure transformers' port of nanochat too"""
    previous: Path | None = None
    """another checkout to compare with"""
    parts: bool = False
    """measure the parts of a step instead, on a CPU"""
    only: str = ""
    """measure one contestant in this process and print its step times (used by the script itself)"""


def main(argv: list[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.only:
        seconds = {"nanochat": _nanochat, "transformers": _transformers}[flags.only](flags)
        print(json.dumps(seconds))
        return
    if flags.parts:
        _print_parts(flags)
        return
    here = Path(__file__).resolve().parents[1]
    contestants = [("nanochat", "nanochat", here)]
    contestants += [("previous", "nanochat", flags.previous.resolve())] if flags.previous else []
    contestants += [("transformers", "transformers", here)] if flags.peer else []
    config = _config(flags)
    tokens = flags.device_batch_size * flags.max_seq_len
    peak = _matmul_rate(flags)
    print(f"{cost.flops_per_token(config) / 1e6:.1f} MFLOP/token, matrix product {peak / 1e9:.0f} GFLOP/s")
    rows = {}
    for name, kind, folder in contestants:
        seconds = sorted(_measure(kind, folder))[flags.steps // 2]
        speed = tokens / seconds
        rows[name] = {"tok_per_second": speed, "of_peak": speed * cost.flops_per_token(config) / peak}
    first = rows["nanochat"]["tok_per_second"]
    print(f"{'':14}{'tok/s':>9}{'of matmul':>11}{'ratio':>8}")
    for name, row in rows.items():
        print(f"{name:14}{row['tok_per_second']:>9.0f}{row['of_peak']:>11.0%}{row['tok_per_second'] / first:>8.2f}")
    print(json.dumps({"matmul_gflops": peak / 1e9, **rows}))


def _measure(kind: str, folder: Path) -> list[float]:
    """Step times of a contestant, in a process that sees the code in `folder`."""
    command = [sys.executable, __file__, "--only", kind, *sys.argv[1:]]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _config(flags: Flags):
    return scaling.config_from_depth(flags.depth, flags.vocab_size, flags.max_seq_len)


def _random_batches(flags: Flags) -> Iterator[Batch]:
    ids = torch.randint(0, flags.vocab_size, (flags.device_batch_size, flags.max_seq_len + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    while True:
        yield Batch(inputs, targets, torch.ones(inputs.shape), 0.0, {})


def _nanochat(flags: Flags) -> list[float]:
    """Steps of the real loop, without the first three, in which it compiles and warms up."""
    with runtime.start(dtype=flags.dtype, seed=0) as rt, tempfile.TemporaryDirectory() as folder:
        model = GPT(_config(flags), rt.dtype)
        model.to(rt.device)
        log = MetricsLog(Path(folder), "dummy", {})
        stage = Stage(
            name="bench",
            model=model,
            **_loss(model, flags.compile, rt),
            optimizer=Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1)),
            stream=_random_batches(flags),
            accumulation=1,
            rates=lambda step, progress: Rates(),
            save=lambda state, passing: None,
            scored=lambda state, scores: None,
            num_iterations=flags.steps + 3,
        )
        train(stage, TrainState(), replace(rt, rank=1), log)  # rank 1 prints nothing
        log_lines = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
        return [line["seconds"] for line in log_lines[3:]]


def _loss(model: GPT, compiled: bool, rt: Runtime) -> dict[str, Any]:
    """The stage's loss; for an older checkout (--previous) its forward pass."""
    if "forward" in Stage.__dataclass_fields__:
        return {"forward": torch.compile(model, dynamic=False) if compiled else model}
    from nanochat.train.objective import loss_of

    return {"loss": loss_of(model, compiled, rt)}


def _transformers(flags: Flags) -> list[float]:
    """The same shape in transformers (classic architecture), autocast to the same dtype, torch's fused AdamW."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    c = _config(flags)
    with runtime.start(dtype=flags.dtype, seed=0) as rt:
        shape = NanoChatConfig(
            vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=4 * c.n_embd,
            num_hidden_layers=c.n_layer, num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head,
            max_position_embeddings=c.sequence_len,
        )  # fmt: skip
        with rt.device:
            model = NanoChatForCausalLM(shape)
        forward = torch.compile(model, dynamic=False) if flags.compile else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        stream, seconds = _random_batches(flags), []
        for _ in range(flags.steps + 3):
            batch = next(stream).to(rt.device)
            started = time.perf_counter()
            with torch.autocast(rt.device.type, rt.dtype, enabled=rt.dtype != torch.float32):
                logits = forward(batch.inputs).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - started)
        return seconds[3:]


def _print_parts(flags: Flags) -> None:
    """A row per part, forward and backward, over all layers. CPU time, which other load on the machine does not change
    much; what compiling a whole block saves at the seams is not seen."""
    with runtime.start("cpu", flags.dtype, seed=0) as rt, runtime.repeatable(torch.device("cpu")):
        model = GPT(_config(flags), rt.dtype)
        N, c = flags.device_batch_size * flags.max_seq_len, model.config
        x, w = torch.randn(N, c.n_embd, dtype=rt.dtype), torch.randn(4 * c.n_embd, c.n_embd, dtype=rt.dtype)
        peak = 2 * N * w.numel() / _cpu_seconds(lambda: torch.nn.functional.linear(x, w), flags.steps)
        measured = {name: (_cpu_seconds(run, flags.steps), flops) for name, run, flops in _parts(model, flags, rt)}
    total = sum(seconds for seconds, _ in measured.values())
    measured["all"] = total, sum(flops for _, flops in measured.values())
    print(f"matrix product {peak / 1e9:.0f} GFLOP/s of CPU time")
    print(f"{'':24}{'ms':>9}{'share':>8}{'GFLOP/s':>9}{'of matmul':>11}")
    for name, (seconds, flops) in measured.items():
        rate = f"{flops / seconds / 1e9:>9.0f}{flops / seconds / peak:>11.0%}" if flops else ""
        print(f"{name:24}{1e3 * seconds:>9.1f}{seconds / total:>8.0%}{rate}")


def _parts(model: GPT, flags: Flags, rt: Runtime) -> Iterator[tuple[str, Callable[[], object], float]]:
    """Each part of a step: its name, what computes it, and its floating-point operations without the optimizer's."""
    from nanochat.attention import rotary_for
    from nanochat.gpt import Beside
    from nanochat.loss import loss_of_rows

    def compiled(function: Callable) -> Callable:
        return torch.compile(function, dynamic=False) if flags.compile else function

    c, batch, blocks = model.config, next(_random_batches(flags)), model.transformer.blocks
    B, T, D = flags.device_batch_size, flags.max_seq_len, c.n_embd
    x = torch.randn(B, T, D, dtype=rt.dtype, requires_grad=True)
    beside = Beside(batch.inputs, x.detach(), rotary_for(c, torch.arange(T)[None], rt.dtype), None)
    attention = compiled(lambda block, x: x + block.attn(block.ln_1(x), None, beside))
    mlp = compiled(lambda block, x: x + block.mlp(block.ln_2(x)))
    enter = compiled(GPT._enter)
    table = compiled(lambda weight: torch.nn.functional.embedding(batch.inputs, weight).to(rt.dtype))
    optimizer = Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1))

    def both(y: torch.Tensor) -> None:
        y.backward(torch.ones_like(y))

    def step() -> None:
        optimizer.step(Rates(), None, ~optimizer.reduce().isfinite())

    whole, head = cost.flops_per_token(c) * B * T, 6 * B * T * D * c.padded_vocab
    products = 6 * B * T * sum(matrix.numel() for block in blocks for matrix in block.mlp.parameters())
    yield "embeddings", lambda: both(enter(model, batch.inputs, None)[0]), 0
    if c.value_embeds:
        yield "value embeddings", lambda: [both(table(each.weight)) for each in model.value_embeds.values()], 0
    yield "attention", lambda: [both(attention(block, x)) for block in blocks], whole - head - products
    yield "MLP", lambda: [both(mlp(block, x)) for block in blocks], products
    rows = compiled(loss_of_rows)
    yield "output layer, loss", lambda: both(model.loss(x, batch.targets, batch.weights, None, rows)), head
    yield "optimizer", step, 0


def _cpu_seconds(run: Callable[[], object], times: int) -> float:
    """The median of the CPU seconds of all threads, without the first two calls."""
    taken = []
    for _ in range(times + 2):
        started = time.process_time()
        run()
        taken.append(time.process_time() - started)
    return sorted(taken[2:])[times // 2]


def _matmul_rate(flags: Flags) -> float:
    """FLOP/s of the matrix products of an MLP at this shape, the largest of a block, in the compute dtype."""
    c = _config(flags)
    with runtime.start(dtype=flags.dtype, seed=0) as rt:
        x = torch.randn(flags.device_batch_size * flags.max_seq_len, c.n_embd, device=rt.device, dtype=rt.dtype)
        w = torch.randn(4 * c.n_embd, c.n_embd, device=rt.device, dtype=rt.dtype)
        times = []
        for _ in range(20):
            started = time.perf_counter()
            float(torch.nn.functional.linear(x, w)[0, 0])
            times.append(time.perf_counter() - started)
        return 2 * x.size(0) * w.numel() / sorted(times)[10]


if __name__ == "__main__":
    run(main)
