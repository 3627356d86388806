"""Compiled training, which is the default, on two threads, whose atomic additions come in another order each time."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TEXT
from stages import saved_state, tensors

from nanochat import runtime
from nanochat.checkpoint import manager
from nanochat.data.shards import write_shards
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from nanochat.runtime import can_compile
from nanochat.tokenizer import Tokenizer
from scripts import base_train

FLAGS = [
    "--device_type=cpu", "--compile", "--dataset=tiny", "--depth=1", "--aspect_ratio=64", "--head_dim=32",
    "--max_seq_len=128", "--device_batch_size=8", "--total_batch_size=1024", "--warmup_steps=2", "--eval_every=-1",
    "--eval_tokens=1024", "--sample_every=-1", "--num_iterations=8", "--save_every=4", "--keep_last=0",
]  # fmt: skip


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_that_was_resumed_is_the_same_to_the_bit(two_threads, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tokenizer_dir())
    write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(300)), dataset_dir("tiny"))
    folder = checkpoints_dir("base") / "d1"
    base_train.main(FLAGS)
    shutil.copytree(folder, whole := tmp_path / "whole")
    manager.delete(folder, [8])
    torch.compiler.reset()  # as in a new process
    base_train.main(FLAGS)
    for one, other in ((tensors(whole, 8), tensors(folder, 8)), (saved_state(whole, 8), saved_state(folder, 8))):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_repeatable_leaves_pytorch_as_it_was():
    import torch._inductor.config as inductor

    fills = torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(KeyError), runtime.repeatable(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled() and inductor.deterministic
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled() and not inductor.deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory == fills
    with runtime.repeatable(torch.device("cuda")):
        assert not torch.are_deterministic_algorithms_enabled()
