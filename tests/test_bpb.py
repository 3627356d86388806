"""Bits per byte against the formula in float64, and over two ranks."""

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.eval.bpb import text_loss

VOCAB = 12
BYTES = [1, 2, 3, 1, 1, 4, 7, 1, 2, 1, 0, 0]  # the last two are special tokens


class Example(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


class Bigram(torch.nn.Module):
    """The smallest language model: a table of logits, with dropout to tell training from evaluation."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(VOCAB, VOCAB)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, ids, targets):
        logits = self.dropout(self.table(ids))
        return torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")


def bigram() -> Bigram:
    torch.manual_seed(0)
    return Bigram()


def example(seed: int, rows: int = 3, time: int = 7) -> Example:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB, (rows, time + 1), generator=generator)
    weights = torch.randint(0, 2, (rows, time), generator=generator).float() * 0.5  # a weight only says yes or no
    return Example(ids[:, :-1], ids[:, 1:], weights)


def by_hand(model: Bigram, examples: list[Example]) -> float:
    """The definition, token by token in float64."""
    log_probs = model.table.weight.detach().double().log_softmax(dim=1).tolist()
    nats, count = 0.0, 0
    for one in examples:
        triples = zip(one.inputs.flatten(), one.targets.flatten(), one.weights.flatten(), strict=True)
        for before, after, weight in ((int(b), int(a), float(w)) for b, a, w in triples):
            if after >= 0 and weight and BYTES[after]:
                nats -= log_probs[before][after]
                count += BYTES[after]
    return nats / (math.log(2) * count) if count else math.inf


@settings(max_examples=30, deadline=None)
@given(seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=3))
def test_equals_the_formula(seeds):
    model = bigram()
    examples = [example(seed) for seed in seeds]
    assert text_loss(model, examples, BYTES).bits_per_byte == pytest.approx(by_hand(model, examples), rel=1e-6)


def test_sums_before_dividing():
    """A long and a short batch count by their bytes, not one half each."""
    model = bigram()
    long, short = example(1, rows=8, time=20), example(2, rows=1, time=3)
    both = text_loss(model, [long, short], torch.tensor(BYTES, dtype=torch.int32)).bits_per_byte
    mean = (text_loss(model, [long], BYTES).bits_per_byte + text_loss(model, [short], BYTES).bits_per_byte) / 2
    assert both == pytest.approx(by_hand(model, [long, short]), rel=1e-6)
    assert abs(both - mean) > 1e-3


def test_ignored_targets_add_nothing():
    model = bigram()
    one = example(3)
    without = Example(one.inputs, one.targets.masked_fill(one.weights == 0, -1), torch.ones_like(one.weights))
    assert text_loss(model, [without], BYTES).bits_per_byte == text_loss(model, [one], BYTES).bits_per_byte


def test_special_tokens_add_neither_nats_nor_bytes():
    model = bigram()
    ids, special = torch.tensor([[4, 5, 6]]), torch.tensor([[10, 11, 10]])
    mixed = Example(torch.cat([ids, ids]), torch.cat([ids, special]), torch.ones(2, 3))
    assert text_loss(model, [mixed], BYTES) == text_loss(model, [Example(ids, ids, torch.ones(1, 3))], BYTES)
    for nothing in ([Example(ids, special, torch.ones(1, 3))], []):  # no bytes at all
        loss = text_loss(model, nothing, BYTES)
        assert loss.bits_per_byte == loss.perplexity == math.inf


def test_perplexity_is_that_of_the_tokens_that_count():
    model, one = bigram(), example(4)
    nll = model.eval()(one.inputs, one.targets)
    counted = (one.weights > 0) & (torch.tensor(BYTES)[one.targets] > 0)
    assert text_loss(model, [one], BYTES).perplexity == pytest.approx(math.exp(nll[counted].mean().item()), rel=1e-6)
    with torch.no_grad():
        model.table.weight[:, 0] = 1e6
    assert text_loss(model, [example(1)], BYTES).perplexity == math.inf


def test_a_token_that_is_not_counted_may_have_any_loss():
    model = bigram()
    with torch.no_grad():
        model.table.weight[5] = math.inf  # softmax gives nan
    one = Example(torch.tensor([[5, 4]]), torch.tensor([[1, 2]]), torch.tensor([[0.0, 1.0]]))
    assert math.isfinite(text_loss(model, [one], BYTES).bits_per_byte)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_dropout_is_off(training):
    model = bigram().train(training)
    assert text_loss(model, [example(1)], BYTES).bits_per_byte == pytest.approx(by_hand(model, [example(1)]), rel=1e-6)
    assert model.training is training and model.dropout.training is training
    with torch.no_grad():
        model.table.weight[:] = math.nan
    assert math.isnan(text_loss(model, [example(1)], BYTES).bits_per_byte)  # not hidden


def test_the_mode_is_restored_after_an_error():
    def broken():
        yield example(1)
        raise RuntimeError("the data ended badly")

    model = bigram().train()
    with pytest.raises(RuntimeError, match="ended badly"):
        text_loss(model, broken(), BYTES)
    assert model.training


def two_ranks(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    examples = [example(1, rows=6), example(2)] if rank == 0 else [example(3, rows=1)]
    value = text_loss(bigram(), examples, BYTES).bits_per_byte
    Path(folder, f"{rank}.txt").write_text(repr(value), encoding="utf-8")
    dist.destroy_process_group()


def test_two_ranks_with_different_numbers_of_batches(tmp_path):
    mp.start_processes(  # type: ignore[attr-defined]
        two_ranks, (f"file://{tmp_path}/rendezvous", str(tmp_path)), nprocs=2, start_method="fork"
    )
    values = [float((tmp_path / f"{rank}.txt").read_text(encoding="utf-8")) for rank in range(2)]
    assert values[0] == values[1]
    assert values[0] == pytest.approx(by_hand(bigram(), [example(1, rows=6), example(2), example(3, rows=1)]), rel=1e-6)
