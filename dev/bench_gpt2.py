"""GPT-2 here and in transformers, with the same weights in the same run: `python dev/bench_gpt2.py`.

The weights are random, in the shape of one of GPT-2's sizes, written by transformers and loaded as a user's folder is.
Compared are the logits, 32 greedy tokens and the speed of generating and of a training step, as ratios to ours.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nanochat import runtime
from nanochat.checkpoint import door
from nanochat.config import parse
from nanochat.engine import serving
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.errors import UserError, run
from nanochat.tokenizer import Tokenizer

SHAPES = {"gpt2": (12, 768, 12), "gpt2-medium": (24, 1024, 16), "gpt2-large": (36, 1280, 20), "gpt2-xl": (48, 1600, 25)}
TOKENS = 50257
AGREED = 1e-3  # of a logit, in float32


@dataclass
class Flags:
    """Compare a GPT-2 loaded here with transformers' own; the last line is JSON."""

    size: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] = "gpt2"
    """whose shape to take"""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8])
    """sequences at once"""
    prompt_tokens: int = 64
    """of each sequence"""
    tokens: int = 32
    """generated of each"""
    repeats: int = 3
    """number of measurements; the fastest counts"""
    device_type: str = ""
    """cuda, mps or cpu; default: the best there is"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, seed=0) as rt, tempfile.TemporaryDirectory() as folder:
        theirs = _random_gpt2(flags.size, Path(folder))
        found: dict[str, Any] = {"size": flags.size, **_agreement(theirs, folder)}
        print(f"{flags.size}: largest difference of a logit {found['logits']:.2e}; 32 greedy tokens "
              f"{'equal' if found['greedy'] else 'DIFFER'}")  # fmt: skip
        if found["logits"] > AGREED or not found["greedy"]:
            raise UserError(f"{flags.size} here does not agree with transformers")
        found["generating"] = _generating(flags, theirs, folder, rt)
        found["training"] = _training(flags, theirs, folder, rt)
    print(json.dumps(found))


def _random_gpt2(size: str, folder: Path) -> Any:
    layers, width, heads = SHAPES[size]
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=TOKENS, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, bos_token_id=TOKENS - 1, eos_token_id=TOKENS - 1)  # fmt: skip
    model: Any = GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    single = {bytes([byte]): byte for byte in range(256)}
    filler = {f"{n:05d}".encode(): n for n in range(256, TOKENS - 1)}  # no text is encoded here
    Tokenizer({**single, **filler}, ["end"]).save(folder / "tokenizer")
    return model


@torch.no_grad()
def _agreement(theirs: Any, folder: str) -> dict[str, Any]:
    ours = door.open(folder).model.eval()
    ids = torch.randint(TOKENS, (1, 256))
    difference = float((ours(ids) - theirs(ids).logits).abs().max())
    engine = serving.serve_model(door.find(folder), "cpu", "float32", slots=1).engine
    (reply,) = engine.generate([Request(ids[0, :64].tolist(), 32, temperature=0)])
    expected = theirs.generate(ids[:, :64], attention_mask=torch.ones(1, 64), max_new_tokens=32, min_new_tokens=32,
                               do_sample=False, pad_token_id=0)  # fmt: skip
    return {"logits": difference, "greedy": reply.tokens == expected[0, 64:].tolist()}


def _generating(flags: Flags, theirs: Any, folder: str, rt: runtime.Runtime) -> list[dict]:
    rows = []
    print(f"{'generating':28}{'at once':>8}{'tokens/s':>10}{'ratio':>7}")
    theirs = theirs.to(rt.device, rt.dtype)
    kinds = [str(rt.dtype).removeprefix("torch."), *(["int8"] if rt.device.type == "cpu" else [])]
    for size in flags.batch_sizes:
        def prompts(size: int = size) -> torch.Tensor:
            return torch.randint(TOKENS, (size, flags.prompt_tokens))  # new ones, or the Engine need not read them

        def answer(engine: Engine) -> None:
            engine.generate([Request(row, flags.tokens, temperature=0) for row in prompts().tolist()])

        def their_answer() -> None:
            ids = prompts().to(rt.device)
            theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=flags.tokens,
                            min_new_tokens=flags.tokens, do_sample=False, pad_token_id=0)  # fmt: skip

        made = size * flags.tokens
        speeds = {}
        for kind in kinds:
            engine = serving.serve_model(door.find(folder), rt.device, kind, slots=size).engine
            speeds[f"nanochat {kind}"] = made / _fastest(flags.repeats, lambda e=engine: answer(e))
        speeds[f"transformers {kinds[0]}"] = made / _fastest(flags.repeats, their_answer)
        for name, speed in speeds.items():
            ratio = speed / speeds[f"nanochat {kinds[0]}"]
            print(f"{name:28}{size:>8}{speed:>10.1f}{ratio:>7.2f}", flush=True)
            rows.append({"who": name, "batch": size, "tok_per_second": speed, "ratio": ratio})
    return rows


def _training(flags: Flags, theirs: Any, folder: str, rt: runtime.Runtime) -> list[dict]:
    """Forward and backward of two rows of 256 tokens, compiled, in autocast or as we cast."""
    ids = torch.randint(TOKENS, (2, 257), device=rt.device)
    ours = door.open(folder, door.LoadAs(rt.device, rt.dtype)).model
    theirs = theirs.float().train()
    compiled = runtime.can_compile(rt.device)
    forward, peer = (torch.compile(model) if compiled else model for model in (ours, theirs))

    def step() -> None:
        forward(ids[:, :-1], ids[:, 1:]).mean().backward()

    def their_step() -> None:
        with torch.autocast(rt.device.type, rt.dtype, enabled=rt.dtype != torch.float32):
            logits = peer(ids[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()

    print(f"{'training step':28}{'':>8}{'tokens/s':>10}{'ratio':>7}")
    speeds = {name: 512 / _fastest(flags.repeats, work) for name, work in
              (("nanochat", step), ("transformers", their_step))}  # fmt: skip
    for name, speed in speeds.items():
        print(f"{name:28}{'':>8}{speed:>10.1f}{speed / speeds['nanochat']:>7.2f}", flush=True)
    return [{"who": name, "tok_per_second": speed} for name, speed in speeds.items()]


def _fastest(repeats: int, work: Callable[[], object]) -> float:
    """Seconds, after one run to warm up."""
    work()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run(main)
