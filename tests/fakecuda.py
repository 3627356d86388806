"""A CUDA device that is not there: shapes, dtypes, devices and bytes of what a GPU would do, on a machine without one.

FakeTensorMode computes no numbers; its tensors say that they are on `cuda`, and an operation on tensors of two devices,
or of shapes that do not fit, fails as on a GPU. Reading a number fails, too, so that what runs here never waits for
the device. Autograd asks CUDA which devices are in use before it starts a backward, and CUDA refuses to answer where
no GPU exists: `without_contexts` answers for it.
"""

import contextlib
import ctypes
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from nanochat.data.batch import Batch
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.runtime import Runtime
from nanochat.train.loop import Stage, compute
from nanochat.train.objective import loss_of
from nanochat.train.room import Room

# What torch.cuda says of an H100.
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, total_memory=85_000_000_000, multi_processor_count=132,
    warp_size=32,
    max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536, shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472, L2_cache_size=52428800, gcnArchName="", is_integrated=0,
)  # fmt: skip


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Within it tensors are fake, `cuda` is an H100, and a backward runs."""
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_properties": H100,
               "get_device_capability": (9, 0), "get_device_name": H100.name, "is_bf16_supported": True,
               "get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None, "_exchange_device": 0,
               "_maybe_exchange_device": 0, "set_device": None, "synchronize": None}  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        stack.enter_context(mock.patch.object(torch.accelerator, "is_available", lambda: False))  # it has no streams
        # Whatever torch.cuda says, no tensor may be put on a real device.
        stack.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", property(lambda _: True)))
        stack.enter_context(without_contexts())
        # By the thread that calls it: autograd starts a thread per device once, in the first backward of a process.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        yield stack.enter_context(FakeTensorMode())


@contextlib.contextmanager
def without_contexts() -> Iterator[None]:
    """Let torch believe that no CUDA device is in use yet, where it would raise that there is no device at all.

    `hasPrimaryContext` is a virtual function of torch's CUDA hooks; within this context their table of virtual
    functions is a copy in which it answers no. Its place is counted in the header that torch ships.
    """
    root = Path(torch.__file__).parent
    hooks = ctypes.CDLL(str(root / "lib" / "libtorch_cpu.so"))._ZN2at6detail12getCUDAHooksEv
    hooks.restype = ctypes.c_void_p
    header = (root / "include" / "ATen" / "detail" / "AcceleratorHooksInterface.h").read_text(encoding="utf-8")
    names = re.findall(r"virtual [\w& ]*?(~?\w+)\(", header)
    assert names[0].startswith("~")  # a destructor takes two places
    slot = 2 + names.index("hasPrimaryContext") + 1  # and before the functions two words describe the class
    table = ctypes.c_void_p.from_address(hooks())
    before = table.value
    assert before is not None
    copy = (ctypes.c_void_p * 100)(*(ctypes.c_void_p * 100).from_address(before - 16))
    answer = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda hooks, index: False)
    copy[slot] = ctypes.cast(answer, ctypes.c_void_p).value
    table.value = ctypes.addressof(copy) + 16
    try:
        yield
    finally:
        table.value = before


class Memory(TorchDispatchMode):
    """Counts the bytes of all storages on `device` that are made within it and not yet gone; `peak` is the most."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.device = device
        self.bytes = self.peak = 0
        self.known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # what torch.compile returns is counted, not what it does to compile

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.count, made)
        return made

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.device.type == self.device and storage not in self.known:
            size = -(-storage.nbytes() // 512) * 512  # as the caching allocator rounds
            self.known[storage] = True
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self.gone, size)
        return tensor

    def gone(self, size: int) -> None:
        self.bytes -= size


# ---------------------------------------------------------------- a model and its training step


def on_cuda(config: GPTConfig, dtype: torch.dtype = torch.bfloat16, weights: torch.dtype = torch.float32) -> GPT:
    """A model whose weights are fake and on cuda; to be called within `fake_cuda`."""
    with torch.utils._python_dispatch._disable_current_modes(), torch.device("meta"):
        model = GPT(config, dtype)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = {name: torch.empty(shape, device="cuda", dtype=weights) for name, shape in shapes.items()}
    model.load_state_dict(tensors, assign=True)
    return model


@dataclass
class Training:
    """What train.loop needs for a step of a model on cuda: rows of T tokens, `share` of which are trained on."""

    model: GPT
    rows: int
    T: int
    compiled: bool = False
    accumulation: int = 1
    share: float = 1.0
    clip: float = 0.0
    world: int = 1
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        self.rt = Runtime(torch.device("cuda", 0), self.dtype, 0, self.world, 0)
        groups = parameter_groups(self.model, 0.3, 0.004, 0.02, 0.5, 0.2)
        self.optimizer = Optimizer(*groups, compiled=self.compiled)
        self.stage = Stage(
            "fake", self.model, loss_of(self.model, self.compiled, self.rt), self.optimizer, iter(()),
            self.accumulation, lambda step, progress: Rates(), lambda *_: None, lambda *_: None, grad_clip=self.clip,
        )  # fmt: skip

    def batch(self) -> Batch:
        """As the loader gives it: positions that are trained on are found on the host, where they are numbers."""
        ids = torch.zeros(self.rows, self.T, dtype=torch.int64)
        trained = None
        if self.share < 1:
            trained = torch.zeros(int(self.share * ids.numel()), dtype=torch.int64)
        return Batch(ids, ids, torch.ones(self.rows, self.T), 0.0, {}, trained=trained).to(self.rt.device)

    def begun(self, accumulated: bool = True) -> "Training":
        """As if steps had been taken before, and, if accumulated, a micro-batch of this one."""
        for accumulates in (True, accumulated):
            for parameter in self.optimizer.parameters:
                parameter.grad = torch.empty_like(parameter) if accumulates else None
            if self.optimizer.state:
                break
            self.optimizer.reduce()
            self.optimizer.step(Rates())
            self.optimizer.wait()
            self.optimizer.zero_grad()
        return self

    def step(self) -> torch.Tensor:
        """One optimizer step, as the loop takes it."""
        batches = [self.batch() for _ in range(self.accumulation)]
        counted = self.world * self.accumulation * self.rows * self.T
        return compute(self.stage, batches, counted, Rates(), self.rt, Room("fake", "--rows", self.rt))
