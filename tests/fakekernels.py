"""Inductor and Triton for an H100 on a machine without one: kernels are generated and compiled, and never started."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._inductor.config as inductor
from fakecuda import H100
from torch._dynamo import device_interface
from torch._inductor import async_compile
from torch._inductor.runtime import triton_helpers


@dataclass
class Kernels:
    """What was generated: the name of each source and, where `assembled`, its code in every stage, by source."""

    assembled: bool
    names: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)

    def triton(self, name: str, source: str, device_str: str = "cuda") -> Any:
        """In place of AsyncCompile.triton, which would load the machine code into the device."""
        if self.assembled and source not in self.names:  # graphs may share a kernel
            kernel = async_compile._load_triton_kernel_from_source(name, source)
            kernel.configs = kernel.configs[:1]  # of the sizes that a GPU would choose from by trying them
            kernel.precompile(warm_cache_only=True)
            self.code[source] = kernel.compile_results[0].kernel.asm
        self.names[source] = name
        return SimpleNamespace(run=lambda *_, **__: None)


@contextlib.contextmanager
def kernels(assembled: bool = True) -> Iterator[Kernels]:
    """Within it torch.compile makes kernels for an H100; what it returns runs on fake tensors, without its kernels."""
    made = Kernels(assembled)
    # Triton comes with torch where that is for CUDA.
    target = import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    driver = import_module("triton.runtime.driver").driver
    like_torch = {"get_device_properties": lambda *_: H100, "current_device": lambda: 0, "device_count": lambda: 1,
                  "set_device": lambda *_: None, "exchange_device": lambda *_: 0, "maybe_exchange_device": lambda *_: 0,
                  "get_raw_stream": lambda *_: 0, "synchronize": lambda *_: None}  # fmt: skip
    with contextlib.ExitStack() as stack:
        patch = lambda *args: stack.enter_context(mock.patch.object(*args))  # noqa: E731
        for name, function in like_torch.items():
            patch(device_interface.CudaInterface, name, staticmethod(function))
        patch(async_compile.AsyncCompile, "triton", made.triton)
        patch(driver, "_active", SimpleNamespace(get_current_target=lambda: target, is_active=lambda: True))
        patch(triton_helpers, "set_driver_to_gpu", lambda: None)
        patch(torch._C._dynamo.guards, "_empty_strided_cuda", _empty)
        patch(torch._C._dynamo.guards, "_reinterpret_tensor", torch.as_strided)  # which is faster, but not for fakes
        patch(torch._C, "_cuda_getCurrentRawStream", lambda _: 0)
        # Both compute or measure on the device while compiling.
        stack.enter_context(inductor.patch(
            joint_graph_constant_folding=False, shape_padding=False, compile_threads=1, fx_graph_cache=False,
            assume_aligned_inputs=True, use_static_triton_launcher=False,
        ))  # fmt: skip
        torch._dynamo.reset()
        yield made
        torch._dynamo.reset()


def _empty(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")
