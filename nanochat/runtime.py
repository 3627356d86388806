"""Device, compute dtype, threads, ranks and seeds of a process, as one context manager."""

import ctypes
import logging
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanochat.config import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where a run computes. rank and world are 0 and 1 unless torchrun started the process."""

    device: torch.device
    dtype: torch.dtype
    rank: int
    world: int
    seed: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def print(self, *words: object) -> None:
        """print on rank 0 only, flushed, so that a log is read in order."""
        if self.is_main:
            print(*words, flush=True)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def start(device_type: str = "", dtype: str = "auto", seed: int | None = None) -> Iterator[Runtime]:
    """Set up the process: ranks of torchrun (NCCL for what is on CUDA, else Gloo), device, compute dtype, random seeds.

    device_type "" takes cuda, then mps, then cpu. dtype "auto" asks $NANOCHAT_DTYPE, then takes what the device
    multiplies fastest. seed None draws one; it is in `seed`. Raises UserError for a device or dtype that is not there.
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
        # torch.compile warns of a CUDA toolkit without a GPU, which is no news to somebody who trains on a CPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    started_here = world > 1 and not dist.is_initialized()
    if started_here:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    if seed is None:
        seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(seed)
    try:
        yield Runtime(device, compute, rank, world, seed)
    finally:
        if started_here:
            dist.destroy_process_group()


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AMX or AVX512-BF16); emulation is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler on a CPU, Triton (shipped with torch) on CUDA."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return device.type == "cuda"


def pick_device(name: str = "", local_rank: int = 0) -> torch.device:
    """The device of that name: cuda (this rank's), cuda:1, mps or cpu; "" takes the first of these that is there.

    Raises UserError for one that is not.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind, _, number = (name or next(each for each, there in available.items() if there)).partition(":")
    numbers = [str(n) for n in range(torch.cuda.device_count())] if kind == "cuda" else []
    if not available.get(kind, False) or (number and number not in numbers):
        there = ", ".join(each for each, is_there in available.items() if is_there)
        raise UserError(f"--device_type {name} is not to be had on this machine; available: {there}")
    return torch.device(kind, int(number or local_rank)) if kind == "cuda" else torch.device(kind)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """What `name` means on this device; "auto" is $NANOCHAT_DTYPE, else what the device multiplies fastest.

    Raises UserError for a name that is none of DTYPES.
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
    """Tell glibc's malloc to keep big blocks instead of returning them to the system after every step.

    Faulting the pages in again took a seventh of a training step on 2 cores (dev/LOG.md). GLIBC_TUNABLES, which
    speedrun.sh sets, does the same and huge pages besides, but only before the process starts.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another libc (musl), which has no such knob
        return
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has in all; 0 where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else 0
