"""How fast a training step is: tokens/s and FLOP/s of THE loop, beside what the machine's matrix product reaches.

    python dev/bench_train.py                        the shape that the figures in dev/LOG.md use
    python dev/bench_train.py --previous ../old      the same with another checkout of nanochat, in the same run
    python dev/bench_train.py --no-peer              without transformers' NanoChat port trained by torch's AdamW

Every contestant runs in a process of its own, one after the other; the ratio is to the first row.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
    only: str = ""
    """measure one contestant in this process and print its step times (used by the script itself)"""


def main(argv: list[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.only:
        seconds = {"nanochat": _nanochat, "transformers": _transformers}[flags.only](flags)
        print(json.dumps(seconds))
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
