"""How fast a model trains on this machine: steps of THE loop on random tokens, and the memory that they take."""

import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from nanochat.data.batch import Batch
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.runtime import Runtime
from nanochat.train.loop import Stage, TrainState, train
from nanochat.train.objective import loss_of

WARM_UP = 3  # steps that compile, and that fill caches
PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def tokens_per_second(config: GPTConfig, rows: int, steps: int, compiled: bool, rt: Runtime) -> float:
    """The speed of a new model of this shape, in float32 weights as every stage trains them; the median step counts."""
    with rt.device:
        model = GPT(config, rt.dtype)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(_random(config, rows, rt)) as stream:
        log = MetricsLog(Path(folder), "dummy", {})
        stage = Stage(
            name="measure",
            model=model,
            loss=loss_of(model, compiled, rt),
            optimizer=Optimizer(*parameter_groups(model, 0.3, 0.004, 0.02, 0.5, 0.1)),
            stream=stream,
            accumulation=1,
            rates=lambda step, progress: Rates(),
            save=lambda state, passing: None,
            scored=lambda state, scores: None,
            num_iterations=WARM_UP + steps,
        )
        train(stage, TrainState(), replace(rt, rank=1), log)  # a rank above 0 prints nothing
        lines = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    return rows * config.sequence_len / statistics.median(line["seconds"] for line in lines[WARM_UP:])


def _random(config: GPTConfig, rows: int, rt: Runtime) -> Generator[Batch, None, None]:
    ids = torch.randint(0, config.vocab_size, (rows, config.sequence_len + 1), device=rt.device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    while True:
        yield Batch(inputs, targets, torch.ones(inputs.shape, device=rt.device), 0.0, {})


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """A function that returns the most bytes in use since the beginning: of a GPU, or of this process on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    try:
        PEAK[0].write_text("5", encoding="utf-8")  # sets the peak to what is in use now; see proc(5)
    except OSError:
        yield lambda: None
        return
    yield lambda: _kilobytes(PEAK[1].read_text(encoding="utf-8"), "VmHWM:") << 10


def _kilobytes(status: str, name: str) -> int:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))
