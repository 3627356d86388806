"""The Engine beside transformers' generate, at one shape and in one run: `python dev/bench_infer.py`.

Both have random weights at the depth that is asked for; transformers runs its GPT-2. --previous measures another
checkout of nanochat as well, in a process of its own. The ratios are to nanochat as it is.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, StoppingCriteriaList

from nanochat import runtime, scaling
from nanochat.config import parse
from nanochat.engine.serving import dtype_for
from nanochat.errors import run
from scripts import infer_bench


@dataclass
class Flags(infer_bench.Flags):
    """Compare the Engine with transformers; the last line is JSON."""

    depth: int = 12
    """layers of random weights; 12 has the shape of GPT-2's smallest"""
    previous: Path | None = None
    """another checkout to compare with"""


def main(argv: list[str] | None = None) -> None:
    flags = parse(Flags, argv)
    here = Path(__file__).resolve().parents[1]
    folders = {"nanochat": here} | ({"previous": flags.previous.resolve()} if flags.previous else {})
    engines = {name: _nanochat(flags, folder) for name, folder in folders.items()}
    engines["transformers"] = _transformers(flags)
    print(f"{'':14}{'at once':>8}{'first token':>14}{'tokens/s':>10}{'ratio':>7}")
    for name, rows in engines.items():
        for row, ours in zip(rows, engines["nanochat"], strict=True):
            ratio = row["tok_per_second"] / ours["tok_per_second"]
            first, speed = row["first_token_ms"], row["tok_per_second"]
            print(f"{name:14}{row['batch']:>8}{first:>11.1f} ms{speed:>10.1f}{ratio:>7.2f}")
    print(json.dumps(engines))


def _nanochat(flags: Flags, folder: Path) -> list[dict]:
    """What infer_bench of the code in `folder` measures."""
    settings = ("depth", "vocab_size", "max_seq_len", "dtype", "device_type", "prompt_tokens", "tokens", "repeats")
    more = [f"--{name}={getattr(flags, name)}" for name in settings]
    command = [sys.executable, "-m", "scripts.infer_bench", *more, "--batch_sizes", *map(str, flags.batch_sizes)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stdout=subprocess.PIPE,
                          text=True, check=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])["rows"]


def _transformers(flags: Flags) -> list[dict]:
    """Greedy, with transformers' own cache."""
    with runtime.start(flags.device_type, seed=0) as rt:
        dtype = dtype_for(flags.dtype, rt.device).compute
        width = scaling.config_from_depth(flags.depth, flags.vocab_size, flags.max_seq_len).n_embd
        shape = GPT2Config(vocab_size=flags.vocab_size, n_positions=flags.max_seq_len, n_embd=width,
                           n_layer=flags.depth, n_head=width // 64, bos_token_id=0, eos_token_id=0)  # fmt: skip
        peer: Any = GPT2LMHeadModel(shape)
        peer.to(rt.device, dtype).eval()
        rows = []
        for size in flags.batch_sizes:
            first, speed = infer_bench.measure(flags, size, _generator(peer, flags.tokens))
            rows.append({"batch": size, "first_token_ms": first * 1e3, "tok_per_second": speed})
        return rows


def _generator(peer: Any, tokens: int) -> Callable[[list[list[int]]], list[list[float]]]:
    def generate(prompts: list[list[int]]) -> list[list[float]]:
        ids = torch.tensor(prompts, device=peer.device)
        times: list[float] = []

        def note(said: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
            times.append(time.perf_counter())  # called once a step
            return torch.zeros(len(said), dtype=torch.bool, device=said.device)

        peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                      do_sample=False, pad_token_id=0, stopping_criteria=StoppingCriteriaList([note]))  # fmt: skip
        return [times] * len(prompts)

    return generate


if __name__ == "__main__":
    run(main)
