"""What `dev.gpu_check` measures: steps, attention, decoding, and a short training.

Each function returns a dictionary of numbers, and raises NotHere where this machine cannot measure it. Random token ids
are all the data there is.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dev.original_step import as_original, original_step
from nanochat import attention, fp8, scaling
from nanochat.data.batch import Batch
from nanochat.engine.cpu_weights import pack
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan import cost, gpus
from nanochat.runtime import Runtime
from nanochat.train.loop import Stage, TrainState, train
from nanochat.train.objective import loss_of
from tests.gpuchecks import NotHere

RATES = (0.3, 0.008, 0.02, 0.5, 0.28)  # base_train's
NOT_IN_TORCH = ("context and workspaces", "gaps")  # parts of plan's prediction that torch's allocator does not count


@dataclass(frozen=True)
class Scale:
    """How large the measured things are."""

    depths: tuple[int, ...]  # the first has the goals
    length: int  # of a row, in tokens
    rows: int  # of a micro-batch
    vocab_size: int
    steps: int  # measured ones, after the first few
    compiled: bool
    heads: tuple[int, int]  # of the measured attention: how many, and their size
    batches: tuple[int, ...]  # replies at a time
    prompt: int  # tokens
    reply: int  # tokens
    reply_depth: int
    training: tuple[int, int]  # rows and length of the short training


ON_GPU = Scale((20, 12), 2048, 32, 32768, 8, True, (10, 128), (1, 8, 64), 512, 128, 20, (8, 256))
MINIATURE = Scale((2, 1), 64, 2, 512, 2, False, (2, 32), (1, 2, 4), 24, 12, 1, (4, 32))


@dataclass(frozen=True)
class Machine:
    """The runtime, and what plan knows of its device: None for a GPU that it does not know."""

    rt: Runtime
    name: str
    accelerator: gpus.Accelerator | None


def config_of(depth: int, scale: Scale) -> GPTConfig:
    return scaling.config_from_depth(depth, scale.vocab_size, scale.length)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median time of `work`, after two calls that compile and warm up."""
    times = []
    for _ in range(repeats + 2):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


@contextmanager
def counted_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Fills in the most that torch had allocated and reserved on a GPU, in bytes; nothing on a CPU."""
    peaks: dict[str, float] = {}
    if device.type == "cuda":
        torch._dynamo.reset()  # compiled functions hold models of the measurement before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peaks
    if device.type == "cuda":
        peaks["allocated"] = torch.cuda.max_memory_allocated(device)
        peaks["reserved"] = torch.cuda.max_memory_reserved(device)


# ---------------------------------------------------------------- steps


def batches(config: GPTConfig, rows: int, length: int, seed: int = 0) -> Iterator[Batch]:
    """Batches of ids drawn with numpy: each next one is one of four successors of the one before, so they can learn."""
    draw = np.random.default_rng(seed)
    successors = np.random.default_rng(0).integers(0, config.vocab_size, (config.vocab_size, 4))
    weights = torch.ones(rows, length)
    while True:
        ids = np.empty((rows, length + 1), dtype=np.int64)
        ids[:, 0] = draw.integers(0, config.vocab_size, rows)
        choices = draw.integers(0, 4, (rows, length))
        for t in range(length):
            ids[:, t + 1] = successors[ids[:, t], choices[:, t]]
        whole = torch.from_numpy(ids)
        yield Batch(whole[:, :-1].contiguous(), whole[:, 1:].contiguous(), weights, 0.0, {})


def trained_with(
    model: GPT, rt: Runtime, stream: Iterator[Batch], steps: int, compiled: bool
) -> tuple[list[dict[str, float]], Optimizer]:
    """The lines that the real loop logs for so many steps, and the optimizer it used."""
    optimizer = Optimizer(*parameter_groups(model, *RATES), compiled=compiled)
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsLog(Path(folder), "dummy", {})
        stage = Stage(
            name="check",
            model=model,
            loss=loss_of(model, compiled, rt),
            optimizer=optimizer,
            stream=stream,
            accumulation=1,
            rates=lambda step, progress: Rates(),
            save=lambda state, passing: None,
            scored=lambda state, scores: None,
            num_iterations=steps,
            log_every=steps,
        )
        train(stage, TrainState(), rt, log)
        log.close()
        return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()], optimizer


def speed(seconds: float, config: GPTConfig, scale: Scale, machine: Machine) -> dict[str, float]:
    tokens = scale.rows * scale.length / seconds
    measured = {"seconds": seconds, "tok_per_second": tokens}
    if machine.accelerator is not None:
        measured["mfu"] = tokens * cost.flops_per_token(config) / machine.accelerator.peak
    return measured


def our_step(depth: int, scale: Scale, machine: Machine, float8: bool = False) -> dict[str, float]:
    """A step of the loop: time, share of the peak, memory beside plan's, and the optimizer's own time."""
    rt, config = machine.rt, config_of(depth, scale)
    predicted = cost.training_memory(config, scale.rows, scale.length, compiled=scale.compiled)
    with counted_memory(rt.device) as peaks:
        torch.manual_seed(0)
        with rt.device:
            model = GPT(config, rt.dtype)
        if float8:
            try:
                fp8.convert(model, rt.device, emulate=rt.device.type == "cpu")
            except UserError as error:
                raise NotHere(str(error)) from None
        began = time.perf_counter()
        drawn = list(itertools.islice(batches(config, scale.rows, scale.length), 2))
        stream = itertools.cycle([batch.pinned() for batch in drawn] if rt.device.type == "cuda" else drawn)
        lines, optimizer = trained_with(model, rt, stream, scale.steps + 4, scale.compiled)
        took = time.perf_counter() - began
    seconds = [line["seconds"] for line in lines]
    measured = speed(statistics.median(seconds[4:]), config, scale, machine)
    measured |= {"first_steps_seconds": took - sum(seconds[4:]), "last_loss": lines[-1]["loss"], **peaks}
    measured["predicted"] = sum(value for part, value in predicted.items() if part not in NOT_IN_TORCH)
    measured["optimizer_seconds"] = optimizer_seconds(model, optimizer, rt.device)
    return measured


def optimizer_seconds(model: GPT, optimizer: Optimizer, device: torch.device) -> float:
    """The time that `reduce` and `step` take on the device when gradients are there; the median of five."""
    times = []
    for _ in range(6):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        if device.type == "cuda":  # events, because the host starts the kernels while gradients are still being drawn
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        began = time.perf_counter()
        norm = optimizer.reduce()
        optimizer.step(Rates(), 1 / norm.clamp_min(1), ~norm.isfinite())
        optimizer.zero_grad()
        seconds = time.perf_counter() - began
        if device.type == "cuda":
            end.record()
            wait(device)
            seconds = start.elapsed_time(end) / 1e3
        times.append(seconds)
    return statistics.median(times[1:])


def their_step(depth: int, scale: Scale, machine: Machine) -> dict[str, float]:
    """The straight implementation of the original's step, on the same ids and from the same weights."""
    rt, config = machine.rt, as_original(config_of(depth, scale))
    with counted_memory(rt.device) as peaks:
        torch.manual_seed(0)
        with rt.device:
            model = GPT(config, rt.dtype)
        step, trained = original_step(model, scale.compiled)
        del model  # the copy has the weights now
        drawn = [batch.to(rt.device) for batch in itertools.islice(batches(config, scale.rows, scale.length), 2)]
        times, losses, began = [], [], time.perf_counter()
        for number in range(scale.steps + 4):
            batch = drawn[number % 2]
            start = time.perf_counter()
            losses.append(step([(batch.inputs, batch.targets)]))  # which waits for the loss
            wait(rt.device)
            times.append(time.perf_counter() - start)
        took = time.perf_counter() - began
        del step, trained
    measured = speed(statistics.median(times[4:]), config, scale, machine)
    return {**measured, "first_steps_seconds": took - sum(times[4:]), "last_loss": losses[-1], **peaks}


# ---------------------------------------------------------------- attention


BACKENDS = {"varlen": "varlen", "flex": "flex", "blocks": "sdpa"}  # our ways and their names in attention.py


def masked(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """As the original does where it has no FlashAttention 3: a mask of T x T for windows."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if not window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    positions = torch.arange(q.size(2), device=q.device)
    mask = attention.visible(positions, positions, window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def attention_time(way: str, window: int, scale: Scale, machine: Machine) -> dict[str, float]:
    """Forward and backward of one layer's attention over a quarter of a micro-batch, in seconds.

    `way` is "chosen", one of BACKENDS, or "masked".
    """
    device, dtype, (H, d) = machine.rt.device, machine.rt.dtype, scale.heads
    if way == "varlen" and attention.backend_for(device, dtype, d) != "varlen":
        raise NotHere("varlen_attn needs CUDA in 16 bits, and a torch whose varlen_attn has windows")
    if way == "flex" and device.type == "cpu":
        raise NotHere("FlexAttention has no backward pass on a CPU")
    shape = (max(1, scale.rows // 4), scale.length, H, d)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3))
    call, above = masked if way == "masked" else attention.attend, torch.randn(shape, device=device, dtype=dtype)
    with ExitStack() as stack:
        if way in BACKENDS:
            stack.enter_context(mock.patch.object(attention, "backend_for", lambda *_: BACKENDS[way]))
        return {"seconds": seconds_of(lambda: torch.autograd.grad(call(q, k, v, window), (q, k, v), above), device, 5)}


# ---------------------------------------------------------------- decoding


def decoding(batch: int, scale: Scale, machine: Machine, compiled: bool = False) -> dict[str, float]:
    """Tokens per second of `batch` replies at a time, the time to the first token, and the bandwidth's limit.

    compiled: the passes that decode, as with chat_web --compile.
    """
    rt, config = machine.rt, config_of(scale.reply_depth, scale)
    torch.manual_seed(0)
    with rt.device:
        model = GPT(config, rt.dtype)
    model.to(rt.dtype)
    if rt.device.type != "cpu":  # where packed weights are of no use to passes of fixed shapes
        pack(model)
    backend = ("inductor" if scale.compiled else "eager") if compiled else ""
    engine = Engine(model, slots=batch, max_len=scale.length, paged=True, compile=backend)
    draw = np.random.default_rng(batch)
    firsts, times = [], []
    for _ in range(3):  # the first time kernels are chosen and graphs recorded
        prompts = draw.integers(0, config.vocab_size, (batch, scale.prompt)).tolist()
        first, each = one_round(engine, [Request(p, scale.reply, 1.0, seed=1) for p in prompts], rt.device)
        firsts.append(first)
        times.append(each)
    seconds = min(times[1:])
    measured = {"first_token_seconds": min(firsts[1:]), "step_seconds": seconds, "tok_per_second": batch / seconds}
    if machine.accelerator is not None and rt.device.type == "cuda":
        limit = bytes_per_step(config, batch, scale.prompt + scale.reply // 2) / machine.accelerator.bandwidth
        measured["of_limit"] = limit / seconds
    return measured


def one_round(engine: Engine, requests: list[Request], device: torch.device) -> tuple[float, float]:
    """Seconds until all requests have their first token, and per token and reply from then on."""
    began = time.perf_counter()
    missing = {engine.submit(request) for request in requests}
    first, tokens = 0.0, 0
    while engine.busy:
        for event in engine.step():
            tokens += bool(first) and event.token is not None
            missing.discard(event.request_id)
        if not missing and not first:
            first = time.perf_counter()
    wait(device)
    return first - began, (time.perf_counter() - first) / (tokens / len(requests))


def bytes_per_step(config: GPTConfig, batch: int, length: int) -> float:
    """What a decoding step must read in 16 bits: the matrices and the output layer, and `batch` caches of `length`."""
    size = cost.sizes(config)
    seen = sum(min(config.window(layer) or length, length) for layer in range(config.n_layer))
    return 2.0 * (size.matrices + size.rest) + batch * 4.0 * seen * config.n_kv_head * config.head_size


# ---------------------------------------------------------------- a short training


def falling(scale: Scale, machine: Machine) -> dict[str, float]:
    """The loss of 60 steps from the same weights and on the same ids, here and in float32 on the CPU, not compiled."""
    rows, length = scale.training
    config = scaling.config_from_depth(2, 512, length)
    cpu = Runtime(torch.device("cpu"), torch.float32, 0, 1, 0)
    measured: dict[str, float] = {}
    for name, rt, compiled in (("here", machine.rt, scale.compiled), ("cpu", cpu, False)):
        torch.manual_seed(0)
        model = GPT(config, rt.dtype).to(rt.device)
        lines, _ = trained_with(model, rt, batches(config, rows, length), 60, compiled)
        losses = [line["loss"] for line in lines]
        measured |= {f"first_{name}": losses[0], f"last_{name}": statistics.mean(losses[-10:])}
    fallen = measured["first_cpu"] - measured["last_cpu"]
    measured["fallen"] = fallen / measured["first_cpu"]
    measured["off"] = abs(measured["last_here"] - measured["last_cpu"]) / fallen
    return measured
