"""What a window saves on a CPU: forward and backward of a layer's attention, as a multiple of full causal attention.

    python dev/bench_attention.py                     T = 1024 and 2048, windows of T/4
    python dev/bench_attention.py --lengths 512 4096

Both are measured by turns, and the minimum counts, so that another program on the machine does little harm. On a GPU
`python -m dev.gpu_check --parts attention` compares the kernels.
"""

import json
import time
from dataclasses import dataclass, field

import torch

from nanochat import runtime
from nanochat.attention import attend
from nanochat.config import parse
from nanochat.errors import run


@dataclass
class Flags:
    """Measure windows; the last line is JSON."""

    lengths: list[int] = field(default_factory=lambda: [1024, 2048])
    """positions of a row"""
    tokens: int = 4096
    """positions of all rows"""
    heads: int = 4
    """heads"""
    head_size: int = 64
    """channels of a head"""
    repeats: int = 7
    """how often each is measured"""
    dtype: str = "auto"
    """compute type"""


def main(argv: list[str] | None = None) -> None:
    flags = parse(Flags, argv)
    ratios = {}
    with runtime.start("cpu", flags.dtype, seed=0) as rt:
        compiled = torch.compile(attend, dynamic=False) if runtime.can_compile(rt.device) else None
        for T in flags.lengths:
            shape = max(1, flags.tokens // T), T, flags.heads, flags.head_size
            q, k, v = (torch.randn(shape, dtype=rt.dtype).requires_grad_() for _ in range(3))
            for name, function in {"eager": attend, "compiled": compiled}.items():
                if function is None:
                    continue
                best = {0: float("inf"), T // 4: float("inf")}
                for turn in range(flags.repeats + 1):  # the first compiles
                    for window in best:
                        seconds = _seconds(function, (q, k, v), window)
                        best[window] = min(best[window], seconds) if turn else float("inf")
                full, windowed = best[0], best[T // 4]
                ratios[f"{T} {name}"] = windowed / full
                print(f"T {T:5} {name:9} full {full * 1e3:8.2f} ms, window {T // 4:4} {windowed * 1e3:8.2f} ms,"
                      f" {windowed / full:.2f} of it", flush=True)  # fmt: skip
    print(json.dumps(ratios))


def _seconds(function, inputs: tuple[torch.Tensor, ...], window: int) -> float:
    began = time.perf_counter()
    torch.autograd.grad(function(*inputs, window).sum(), inputs)
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main)
