"""Accelerators that one can rent, as numbers to plan with; and the processor at hand, measured.

Memory is what CUDA reports of the card (torch's total_memory), peaks and bandwidths are those of NVIDIA's data sheets:
dense, 16 bits with float32 sums. Prices are typical ones on demand at the end of 2025, rounded; pass your own with
--price_per_gpu_hour. Those of T4, A10G and L4 are AWS's for g4dn.xlarge, g5.xlarge and g6.xlarge, which have one,
written from memory; those of V100 and RTX 3090 are estimates.
"""

import os
import re
import time
from dataclasses import dataclass

import torch

from nanochat.errors import UserError
from nanochat.runtime import multiplies_bfloat16


@dataclass(frozen=True)
class Accelerator:
    """memory in bytes; peak in operations, bandwidth and link (to the other GPUs) in bytes per second; price in $/h.

    mfu is the fraction of the peak that a compiled training step of a large model is assumed to reach, counted as in
    cost.flops_per_token. dtype is what runs at that peak; cards before Ampere have no bfloat16.
    """

    name: str
    memory: float
    peak: float
    bandwidth: float
    link: float
    price: float
    mfu: float
    dtype: str = "bfloat16"


GiB = 2**30
# Published runs on H100s reach 36 % (d24 on one), 47 % (d34 on 8, 4 rows) and 48 % (d20 on 8, 32 rows); 5.5 hours for
# mid-training d34 on one are 31 %. 40 % lies between them and is assumed for other cards too, with these exceptions: a
# d20 run on one RTX 4090 was published at 133 TFLOP/s (karpathy/nanochat#157), and the peak of RTX 3090 is counted in
# the same way; on Blackwell these kernels are not tuned; T4 and V100 have no FlashAttention; 70 W limit T4 and L4.
GPUS = {
    "h100": Accelerator("H100 80 GB", 79.2 * GiB, 989e12, 3.35e12, 350e9, 3.00, 0.40),
    "h200": Accelerator("H200 141 GB", 139.8 * GiB, 989e12, 4.80e12, 350e9, 3.80, 0.40),
    "a100": Accelerator("A100 80 GB", 79.3 * GiB, 312e12, 2.04e12, 230e9, 1.80, 0.40),
    "a100-40": Accelerator("A100 40 GB", 39.5 * GiB, 312e12, 1.56e12, 230e9, 1.30, 0.40),
    "l40s": Accelerator("L40S", 44.5 * GiB, 362e12, 0.86e12, 20e9, 1.00, 0.40),
    "rtx4090": Accelerator("RTX 4090", 23.5 * GiB, 165e12, 1.01e12, 15e9, 0.50, 0.65),
    "l4": Accelerator("L4", 22.0 * GiB, 121e12, 0.30e12, 15e9, 0.80, 0.35),
    "a10g": Accelerator("A10G", 22.0 * GiB, 70e12, 0.60e12, 15e9, 1.00, 0.40),
    "t4": Accelerator("T4", 14.6 * GiB, 65e12, 0.32e12, 8e9, 0.53, 0.30, "float16"),
    "v100": Accelerator("V100 16 GB", 15.8 * GiB, 125e12, 0.90e12, 120e9, 0.60, 0.30, "float16"),
    "v100-32": Accelerator("V100 32 GB", 31.7 * GiB, 125e12, 0.90e12, 120e9, 0.90, 0.30, "float16"),
    "rtx3090": Accelerator("RTX 3090", 23.6 * GiB, 71e12, 0.94e12, 15e9, 0.30, 0.60),
    "b200": Accelerator("B200", 178.4 * GiB, 2250e12, 7.70e12, 700e9, 5.00, 0.35),
}
CPU_MFU = 0.42  # d4 of the little world trains with 185 GFLOP/s where the product below runs at 440 (2 cores of Zen 4)


def known(described: str) -> str | None:
    """The key in GPUS of what nvidia-smi calls a GPU, such as "NVIDIA H100 80GB HBM3"; None if it is not there."""
    words = re.sub(r"[^a-z0-9]+", " ", described.lower()).replace("rtx ", "rtx").split()
    name = next((name for name in GPUS if name in words), None)
    variant = {"a100": ("a100-40", "40gb"), "v100": ("v100-32", "32gb")}.get(name or "")
    return variant[0] if variant and variant[1] in words else name


def peak_of(device: torch.device) -> float:
    """The peak of a GPU, in operations per second; 0 if it is not one of GPUS."""
    name = known(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return GPUS[name].peak if name else 0.0


def accelerator(name: str) -> Accelerator:
    """One of GPUS, or "cpu", which is measured. Raises UserError for another name."""
    if name == "cpu":
        return measured_cpu()
    if name not in GPUS:
        raise UserError(f"--gpu {name!r} is not known; there are: {', '.join([*GPUS, 'cpu'])}")
    return GPUS[name]


def measured_cpu(size: int = 1024, seconds: float = 0.2) -> Accelerator:
    """This machine's processor: its memory, and its speed at multiplying two matrices."""
    matrix = torch.ones(size, size, dtype=torch.bfloat16 if multiplies_bfloat16() else torch.float32)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - began)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * GiB
    return Accelerator("CPU", memory, 2 * size**3 / best, 20e9, 20e9, 0.0, CPU_MFU)
