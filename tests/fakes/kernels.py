"""The kernels that torch.compile writes for an H100, generated and assembled on a machine without a GPU.

Triton and its assembler need no device: the code is machine code for sm_90 in the end. Not shown is that the kernels
compute the right numbers (those of the CPU do, from the same graphs) nor how fast they are; matrix products and
attention are cuBLAS's and FlashAttention's, called with the shapes that are checked here.
"""

from importlib.util import find_spec

import pytest
import torch
from fakecuda import Memory, Training, fake_cuda, on_cuda
from steps import counted_part

from nanochat.engine.passes import Passes
from nanochat.engine.request import Request
from nanochat.engine.sampling import Row, settings_of
from nanochat.gpt import GPTConfig
from nanochat.paged_cache import PagedCache
from nanochat.plan import cost

pytestmark = pytest.mark.skipif(not find_spec("triton"), reason="Triton comes with torch for CUDA on Linux")


def check(made) -> None:
    """All kernels are machine code for Hopper."""
    assert made.names and made.code.keys() == made.names.keys()
    for code in made.code.values():
        assert ".target sm_90" in code["ptx"] and code["cubin"].startswith(b"\x7fELF")


def test_a_compiled_training_step_is_assembled_and_takes_the_memory_of_the_plan():
    """Trunk forward and backward, the loss of a chunk, and Muon's step, in their generated wrapper."""
    from fakekernels import kernels

    config = GPTConfig(1024, 2048, 1, 4, 4, 512, short_window=256, long_window=1024)
    with fake_cuda(), kernels() as made, Memory() as memory:
        training = Training(on_cuda(config), 16, 1024, compiled=True, accumulation=2)
        training.step()
        memory.peak = memory.bytes
        figures = training.step()
        assert figures.device.type == "cuda"
    check(made)
    names = " ".join(made.names.values())
    for part in ("rms_norm", "rms_norm_backward", "sigmoid", "embedding", "lerp"):
        assert part in names
    assert counted_part(cost.training_memory(config, 16, 1024)) == pytest.approx(memory.peak, rel=0.03)


@torch.no_grad()
def test_a_compiled_decoding_pass_is_assembled():
    from fakekernels import kernels

    config = GPTConfig(512, 1000, 2, 4, 2, 256, short_window=128, long_window=512)
    with fake_cuda(), kernels() as made:
        model = on_cuda(config, weights=torch.bfloat16)
        passes = Passes(
            model, PagedCache(config, 8, 512, "cuda", torch.bfloat16), 128, compile="inductor", record=False
        )
        kind = settings_of([Row(Request([1], temperature=1.0, top_k=50), 0.5)], config.vocab_size).kind
        passes._make_decoding(1, kind)[1]()
    check(made)
