"""Device, compute dtype, threads, ranks and seeds of a process, as one context manager."""

import ctypes
import logging
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from nanochat import nodes, peers
from nanochat.errors import UserError

Answer = TypeVar("Answer", bound=Callable)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where a run computes. rank and world are 0 and 1 unless torchrun started the process."""

    device: torch.device
    dtype: torch.dtype
    rank: int
    world: int
    seed: int
    began: float = field(default_factory=time.perf_counter, compare=False)  # when it was set up

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def print(self, *words: object) -> None:
        """print on rank 0 only, flushed, so that a log is read in order."""
        if self.is_main:
            print(*words, flush=True)

    def wait(self) -> None:
        """Block until all ranks get here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def start(
    device_type: str = "", dtype: str = "auto", seed: int | None = None, collective_minutes: float = 30.0
) -> Iterator[Runtime]:
    """Set up the process: ranks of torchrun (NCCL for CUDA tensors, else Gloo), device, compute dtype, random seeds.

    device_type "" takes cuda, then mps, then cpu. dtype "auto" takes $NANOCHAT_DTYPE, else the dtype that the device
    multiplies fastest. seed None draws one. Raises UserError for a device or dtype that is not available.

    An error ends all ranks with one message, and so does a collective that takes more than collective_minutes; a rank
    whose launcher died gets a SIGTERM (`peers`).
    """
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(device_type, local)
    compute = compute_dtype(dtype, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    elif device.type == "cpu":
        _keep_freed_memory()
        # torch.compile warns about a CUDA toolkit without a GPU, which is noise when training on a CPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    if seed is None:
        seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(seed)
    runtime = Runtime(device, compute, rank, world, seed)
    if "RANK" not in os.environ:
        yield runtime
        return
    with peers.with_parent() if "TORCHELASTIC_RUN_ID" in os.environ else nullcontext():
        if world == 1 or dist.is_initialized():
            yield runtime
            return
        nodes.use_interface()
        store = nodes.store()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        longest = timedelta(minutes=collective_minutes)
        dist.init_process_group(backend, timeout=longest, store=store, rank=rank, world_size=world)
        try:
            with peers.Peers(dist.PrefixStore("nanochat", store), rank, world, longest).reported():
                yield runtime
        finally:
            dist.destroy_process_group()


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Make training steps deterministic on a CPU, compiled or not, on any number of threads.

    Inductor accumulates an embedding's gradient with atomic adds, in whatever order the threads arrive; PyTorch's
    deterministic kernels use a fixed order, at no measurable cost (dev/LOG.md). On a GPU nothing changes: cuBLAS needs
    an environment variable from before the process starts, and some kernels would be refused or slow, so runs on CUDA
    agree only up to rounding.
    """
    if device.type != "cpu":
        yield
        return
    mode = torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    _set_deterministic(2)
    # Filling every new tensor with NaN only serves to find reads of uninitialized memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _set_deterministic(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def _set_deterministic(mode: int) -> None:
    """Set PyTorch's mode: 0 off, 1 warns, 2 raises where an operation has no deterministic kernel.

    `use_deterministic_algorithms` tells Inductor too, and for that imports it, which takes a process that compiles
    nothing longer than torch itself. One that compiles has imported it before its first step.
    """
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
    else:
        torch.set_deterministic_debug_mode(mode)


def asked_once(function: Answer) -> Answer:
    """torch.compile calls this function, once, instead of looking inside.

    As torch.compiler.assume_constant_result does, which imports the compiler: 4 seconds in every command.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function


@asked_once
def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AMX or AVX512-BF16); emulation is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler on a CPU, Triton (shipped with torch) on CUDA."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return device.type == "cuda"


def pick_device(name: str = "", local_rank: int = 0) -> torch.device:
    """The device of that name: cuda (this rank's), cuda:1, mps or cpu; "" takes the first one available.

    Raises UserError for one that is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind, _, number = (name or next(each for each, there in available.items() if there)).partition(":")
    numbers = [str(n) for n in range(torch.cuda.device_count())] if kind == "cuda" else []
    if not available.get(kind, False) or (number and number not in numbers):
        there = ", ".join(each for each, is_there in available.items() if is_there)
        raise UserError(f"--device_type {name} is not available on this machine (available: {there})")
    return torch.device(kind, int(number or local_rank)) if kind == "cuda" else torch.device(kind)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`; "auto" is $NANOCHAT_DTYPE, else the one that the device multiplies fastest.

    Raises UserError for a name that is not in DTYPES.
    """
    if name == "auto":
        name = os.environ.get("NANOCHAT_DTYPE", "") or "auto"
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is unknown; expected auto, {', '.join(DTYPES)} (--dtype or NANOCHAT_DTYPE)")
    return DTYPES[name]


def _keep_freed_memory() -> None:
    """Make glibc's malloc keep large blocks instead of returning them to the system after every step.

    Faulting the pages back in took a seventh of a training step on 2 cores (dev/LOG.md). GLIBC_TUNABLES, which
    the speedrun sets, does the same plus huge pages, but only takes effect at process start.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def memory_used(device: torch.device) -> int:
    """The most memory that this process has held so far: of the GPU by its tensors, else of the machine; in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of(device: torch.device) -> int:
    """Total memory of a device, in bytes; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else 0
