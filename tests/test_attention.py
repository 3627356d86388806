"""Every backend against attention written out in float64, gradients included."""

import functools
import inspect
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat import attention
from nanochat.attention import (
    PAGE,
    Documents,
    attend,
    attend_cached,
    attend_paged,
    backend_for,
    documents_in,
    visible,
    whole_rows,
)
from nanochat.gpt import GPT, GPTConfig
from nanochat.kv_cache import KVCache
from nanochat.runtime import multiplies_bfloat16

CPU = torch.device("cpu")


def written_out(q: Tensor, k: Tensor, v: Tensor, window: int, number: Tensor | None = None) -> Tensor:
    """What `attend` is to compute, in float64 and with all T * T scores."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.size(2) // x.size(2), dim=2) for x in (k, v))
    positions = torch.arange(q.size(1))
    distance = positions[:, None] - positions
    sees = (distance >= 0) & ((distance <= window) | (window == 0))
    if number is not None:
        sees = (sees & (number[:, :, None] == number[:, None, :]))[:, None]
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.size(3) ** 0.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~sees, -torch.inf).softmax(-1), v)


def heads(T: int, H: int = 4, K: int = 2, B: int = 2, d: int = 8, seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(B, T, n, d, generator=source, requires_grad=True) for n in (H, K, K)]


def check(qkv: list[Tensor], window: int, documents: Documents | None = None, function=attend) -> None:
    y = function(*qkv, window, 0.0, documents)
    right = written_out(*qkv, window, None if documents is None else documents.number)
    torch.testing.assert_close(y, right.float(), atol=3e-6, rtol=0)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.autograd.grad(y, qkv, upstream), torch.autograd.grad(right, qkv, upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


LENGTHS = [1, 2, 3, 64, 65, 127, 200, 257]


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("grouped", [False, True])
def test_windows(T, grouped):
    """Of every kind: none, the next position only, as wide as a block, one narrower than the row, wider than it."""
    for window in sorted({0, 1, 31, 64, 65, 130, T // 4, T // 2, max(T - 2, 0), T - 1, T + 3}):
        check(heads(T, K=2 if grouped else 4), window)


@pytest.mark.parametrize("T", [65, 257])
@pytest.mark.parametrize("window", [0, 1, 64, 130])
@pytest.mark.parametrize("packed", [False, True])
def test_in_bfloat16_a_cpu_learns_by_products_as_exactly_as_by_the_kernel(T, window, packed, monkeypatch):
    documents = documents_in(torch.randint(0, 40, (2, T), generator=torch.Generator().manual_seed(2)), 0)
    number = documents.number if packed else None
    qkv = [x.detach().bfloat16().requires_grad_() for x in heads(T, K=4)]
    right = written_out(*qkv, window, number)
    upstream = torch.randn(right.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = [right.detach(), *torch.autograd.grad(right, qkv, upstream.double())]
    errors = {}
    for most in (attention.MOST_SCORES, 0):
        monkeypatch.setattr(attention, "MOST_SCORES", most)
        y = attend(*qkv, window, 0.0, documents if packed else None)
        assert ("_Products" in names_of(y)) == (most > 0)
        found = [y.detach(), *torch.autograd.grad(y, qkv, upstream)]
        pairs = zip(found, expected, strict=True)
        errors[most] = [float((one.double() - other).norm() / other.norm()) for one, other in pairs]
    for ours, kernels in zip(*errors.values(), strict=True):
        assert ours < 1.3 * kernels + 1e-3
    with torch.no_grad():
        assert "_Products" not in names_of(attend(*qkv, window, 0.0, None))


def names_of(y: Tensor) -> str:
    """The names of what computed y, as autograd remembers it."""
    names, left = "", [y.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            names += f" {node.name()}"
            left += [before for before, _ in node.next_functions]
    return names


@pytest.mark.parametrize("window", [0, 1, 50, 64, 99])
def test_documents(window):
    """A position sees its own document only, as if each were in a row of its own."""
    T = 300
    ids = torch.randint(0, 40, (2, T), generator=torch.Generator().manual_seed(2))
    ids[1] = 1  # one document that fills a row, and does not begin with the separator
    documents = documents_in(ids, separator=0)
    assert len(documents.number[0].unique()) > 4 and documents.number[1].max() == 0
    check(heads(T), window, documents)

    q, k, v = heads(T)
    y = attend(q, k, v, window, 0.0, documents)
    ends = [*(documents.number[0].diff().nonzero().flatten() + 1).tolist(), T]
    begin = 0
    for end in ends:
        alone = attend(q[:1, begin:end], k[:1, begin:end], v[:1, begin:end], window)
        torch.testing.assert_close(y[:1, begin:end], alone, atol=3e-6, rtol=0)
        begin = end


def test_a_window_makes_no_mask_of_all_pairs():
    """The largest tensor of a windowed forward and backward pass is much smaller than T * T."""
    T, window = 1024, 64
    qkv = heads(T, H=1, K=1, B=1)
    largest = 0

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for each in result if isinstance(result, (tuple, list)) else [result]:
                largest = max(largest, each.numel() if isinstance(each, Tensor) else 0)
            return result

    with Watching():
        attend(*qkv, window).sum().backward()
    assert 0 < largest < T * T / 16


def test_dropout_drops_weights_at_random_in_blocks_too():
    q, k, _ = heads(500)
    ones = torch.ones_like(k)
    y = attend(q, k, ones, 100, dropout=0.5)
    assert y.std() > 0.01 and abs(y.mean() - 1) < 0.05  # the weights that are left are doubled
    assert torch.equal(attend(q, k, ones, 100).round(decimals=5), torch.ones_like(q))


def test_compiled():
    documents = documents_in(torch.randint(0, 30, (2, 130), generator=torch.Generator().manual_seed(3)), 0)
    check(heads(130), 40, documents, torch.compile(attend, dynamic=False, fullgraph=True))


@pytest.mark.parametrize("window", [0, 1, 77])
@pytest.mark.parametrize("T", [129, 256])
def test_flex(T, window):
    """FlexAttention's block masks, on a CPU, which has its forward pass only."""
    documents = documents_in(torch.randint(0, 30, (2, T), generator=torch.Generator().manual_seed(4)), 0)
    qkv = [x.detach() for x in heads(T, d=16)]
    for each in (None, documents):
        y = attention._by_flex(*qkv, window, each)
        right = written_out(*qkv, window, None if each is None else each.number)
        torch.testing.assert_close(y, right.float(), atol=3e-6, rtol=0)
    assert attention._block_mask(T, window, CPU) is attention._block_mask(T, window, CPU)  # made once


# ---------------------------------------------------------------- documents


def test_where_documents_begin():
    ids = torch.tensor([[7, 1, 2, 7, 3, 7, 7, 4], [5, 5, 7, 5, 5, 5, 5, 5]])
    documents = documents_in(ids, separator=7)
    assert documents.number.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3], [0, 0, 1, 1, 1, 1, 1, 1]]
    starts = documents.starts.tolist()
    assert starts[:4] == [0, 3, 5, 6] and starts[4:16] == [8] * 12  # empty ones at the row's end
    assert starts[16:18] == [8, 10] and starts[18:] == [16] * 15
    assert documents.starts.dtype == documents.number.dtype == torch.int32


def test_more_documents_than_a_row_may_have():
    """The last that is counted holds the rest of the row; the next row begins one in any case."""
    documents = documents_in(torch.full((2, 40), 7), separator=7)
    assert documents.number[0].tolist() == [*range(16), *[15] * 24]
    assert documents.starts.tolist() == [*range(16), *range(40, 56), 80]


def test_documents_need_no_value_on_the_host():
    """With fake tensors, which hold no values, shapes come out all the same."""
    with FakeTensorMode():
        documents = documents_in(torch.zeros(3, 64, dtype=torch.int64), 1)
    assert documents.number.shape == (3, 64) and documents.starts.shape == (3 * 16 + 1,)


BOS = 3


def small_model() -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=64, n_layer=4, n_head=2, n_kv_head=1, n_embd=32, sequence_len=64, short_window=5, bigram_rows=331,
        key_offset=True,
    )
    model = GPT(config)
    for parameter in model.parameters():  # zeros at the start would hide what a document sees
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("recompute", [False, True])
def test_packed_documents_are_as_if_alone(recompute):
    """The whole model, smear, pairs and key_offset included, gradients included, once it has a `document_bos`."""
    model = small_model()
    ids = torch.randint(BOS + 1, 64, (1, 40), generator=torch.Generator().manual_seed(6))
    ids[0, [0, 1, 17]] = BOS
    alone = [model.hidden(ids[:, begin:end]) for begin, end in ((0, 1), (1, 17), (17, 40))]
    upstream = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(7))
    expected = torch.autograd.grad(torch.cat(alone, dim=1), list(model.parameters()), upstream, allow_unused=True)

    seeing = model.hidden(ids)
    assert not torch.allclose(seeing[:, 17:], alone[2], atol=1e-2)
    model.document_bos, model.recompute = BOS, recompute
    apart = model.hidden(ids)
    torch.testing.assert_close(apart, torch.cat(alone, dim=1), atol=2e-5, rtol=0)
    found = torch.autograd.grad(apart, list(model.parameters()), upstream, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_a_model_that_keeps_documents_apart_decodes_as_before():
    """A cache holds one conversation, so there is nothing to keep apart."""
    model = small_model()
    model.document_bos = BOS
    ids = torch.tensor([[BOS, 9, 8, 7]])
    cache = KVCache(model.config, slots=1, max_len=64, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        logits = model(ids, cache=cache.rows([0]))
        torch.testing.assert_close(logits, model(ids), atol=2e-5, rtol=0)


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("window", [0, 5, 300])
def test_pages(window):
    """Prompts of different lengths, a sequence that only waits, and pages in any order: as `attend_cached` has it."""
    counts, seen = [3, 1, 0, 200], [3, 400, 10, 500]
    source = torch.Generator().manual_seed(5)
    keys, values = (torch.randn(12, PAGE, 2, 8, generator=source) for _ in range(2))
    table = torch.tensor([[4, 0], [9, 2], [1, 0], [3, 11]], dtype=torch.int32)
    first = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
    q = torch.randn(sum(counts), 4, 8, generator=source)
    y = attend_paged(q, first, 256, keys, values, table, torch.tensor(seen, dtype=torch.int32), window)
    assert y.shape == q.shape
    for row, (count, length) in enumerate(zip(counts, seen, strict=True)):
        k, v = (pages[table[row].long()].flatten(0, 1)[None, :length] for pages in (keys, values))
        sees = visible(torch.arange(length - count, length), torch.arange(length), window)[None]
        mask = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)
        own = slice(int(first[row]), int(first[row]) + count)
        torch.testing.assert_close(y[own], attend_cached(q[None, own], k, v, mask)[0], atol=3e-6, rtol=0)


def test_pages_without_a_value_on_the_host():
    with FakeTensorMode():
        table, seen = torch.zeros(3, 2, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
        first, pages = torch.zeros(4, dtype=torch.int32), torch.zeros(7, PAGE, 2, 8)
        assert attend_paged(torch.zeros(3, 4, 8), first, 1, pages, pages, table, seen, 9).shape == (3, 4, 8)


# ---------------------------------------------------------------- CUDA, without a GPU


def fake(*shape: int, dtype: torch.dtype = torch.bfloat16, **options) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda", **options)


def called(monkeypatch, run) -> dict:
    """The arguments by which `run` calls varlen_attn, on fake CUDA tensors. Its own checks of them pass."""
    import torch.nn.attention.varlen as varlen

    real, calls = varlen.varlen_attn, []

    @functools.wraps(real)
    def noting(*args, **kwargs):
        calls.append(inspect.signature(real).bind(*args, **kwargs).arguments)
        return real(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", noting)
    with FakeTensorMode():
        run()
    assert len(calls) == 1
    return calls[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves run there")
@pytest.mark.parametrize("window,sides", [(0, (-1, 0)), (5, (5, 0)), (62, (62, 0)), (63, (-1, 0))])
def test_varlen_in_training(monkeypatch, window, sides):
    def run():
        y = attend(fake(2, 64, 4, 16), fake(2, 64, 2, 16), fake(2, 64, 2, 16), window)
        assert y.shape == (2, 64, 4, 16) and y.device.type == "cuda" and y.dtype == torch.bfloat16

    call = called(monkeypatch, run)
    assert call["query"].shape == (128, 4, 16) and call["key"].shape == call["value"].shape == (128, 2, 16)
    assert call["window_size"] == sides and call["enable_gqa"] is True
    assert call["max_q"] == call["max_k"] == 64
    assert call["cu_seq_q"].shape == call["cu_seq_k"].shape == (3,) and call["cu_seq_q"].dtype == torch.int32
    assert whole_rows(2, 64, CPU).tolist() == [0, 64, 128]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves run there")
def test_varlen_with_documents(monkeypatch):
    def run():
        attend(*(fake(2, 64, 4, 16) for _ in range(3)), 0, 0.0, documents_in(fake(2, 64, dtype=torch.int64), 1))

    call = called(monkeypatch, run)
    assert call["cu_seq_q"].shape == call["cu_seq_k"].shape == (2 * 16 + 1,)
    assert call["cu_seq_q"].dtype == torch.int32 and call["max_q"] == 64 and call["enable_gqa"] is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves run there")
def test_varlen_in_decoding(monkeypatch):
    def run():
        table, seen = fake(3, 2, dtype=torch.int32), fake(3, dtype=torch.int32)
        pages, first = fake(7, PAGE, 2, 16), fake(4, dtype=torch.int32)
        assert attend_paged(fake(3, 4, 16), first, 1, pages, pages, table, seen, 9).shape == (3, 4, 16)

    call = called(monkeypatch, run)
    assert call["num_splits"] == 1  # so a reply does not depend on what else is decoded
    assert call["window_size"] == (9, 0) and call["enable_gqa"] is True
    assert call["max_q"] == 1 and call["max_k"] == 2 * PAGE
    assert call["block_table"].shape == (3, 2) and call["seqused_k"].shape == (3,)
    assert call["cu_seq_k"].shape == (4,) and call["cu_seq_k"].dtype == torch.int32


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves run there")
def test_dropout_where_a_newer_flash_attention_is_switched_on(monkeypatch):
    """It has no dropout, and would be what PyTorch takes."""
    cuda, kernels = torch.device("cuda"), []
    monkeypatch.setattr(attention, "flash_in_use", lambda device: "FA3")
    assert attention._backend(cuda, torch.bfloat16, 16) == "varlen"
    assert attention.backend_in_words(cuda, torch.bfloat16, 16) == "FlashAttention 3 (varlen_attn)"
    monkeypatch.setattr(attention, "_in_blocks", lambda *args: kernels.append(torch.backends.cuda.flash_sdp_enabled()))
    with FakeTensorMode():
        attend(*(fake(2, 64, 4, 16) for _ in range(3)), 0, dropout=0.1)
    assert kernels == [False] and torch.backends.cuda.flash_sdp_enabled()


def test_sums_of_lengths():
    sums = attention.lengths_for_flash(torch.tensor([3, 0, 5], dtype=torch.int32), CPU)
    assert sums is not None and sums.tolist() == [0, 3, 3, 8] and sums.dtype == torch.int32


def test_which_backend(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(attention, "_capability", lambda device: (9, 0))
    choices = [
        (CPU, torch.bfloat16, 64, "sdpa"),
        (torch.device("mps"), torch.float16, 64, "sdpa"),
        (cuda, torch.bfloat16, 64, "varlen"),
        (cuda, torch.float16, 128, "varlen"),
        (cuda, torch.float32, 64, "sdpa"),  # FlashAttention has no float32
        (cuda, torch.bfloat16, 20, "sdpa"),  # not a multiple of 8
        (cuda, torch.bfloat16, 512, "sdpa"),
    ]
    for device, dtype, head_size, backend in choices:
        assert backend_for.__wrapped__(device, dtype, head_size) == backend
    monkeypatch.setattr(attention, "_capability", lambda device: (7, 5))
    assert backend_for.__wrapped__(cuda, torch.float16, 64) == "sdpa"


def test_a_varlen_attn_without_windows(monkeypatch):
    """As in PyTorch 2.11: then FlexAttention trains, and pages are gathered."""
    monkeypatch.setattr(attention, "_varlen_takes", lambda *arguments: False)
    monkeypatch.setattr(attention, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "backend_for", backend_for.__wrapped__)
    cuda = torch.device("cuda")
    assert attention.backend_for(cuda, torch.bfloat16, 64) == "flex"
    assert "FlexAttention" in attention.backend_in_words(cuda, torch.bfloat16, 64)
    assert attention._backend(cuda, torch.bfloat16, 64, paged=True) != "varlen"
    assert not attention.pages_in_place(cuda, torch.bfloat16, 64)


WITHOUT_COMPILER = """
import sys, torch, nanochat.web.app, nanochat.train.stage
from nanochat.runtime import repeatable

with repeatable(torch.device("cpu")):
    assert torch.are_deterministic_algorithms_enabled()
assert not {"torch._dynamo", "torch._inductor"} & {*sys.modules}
"""


def test_importing_a_program_imports_no_compiler():
    """Nor does training: it takes seconds. torch.compile asks for the backend all the same, not looking inside."""
    assert subprocess.run([sys.executable, "-c", WITHOUT_COMPILER]).returncode == 0
    from torch._dynamo import assume_constant_result

    marked = assume_constant_result(lambda: None).__dict__
    assert marked == attention._backend.__dict__ == attention.flash_in_use.__dict__ == multiplies_bfloat16.__dict__


def test_the_backend_in_words():
    assert attention.backend_in_words(CPU, torch.float32, 64) == "scaled_dot_product_attention, windows in blocks"
    if not torch.cuda.is_available():
        assert attention.backend_in_words(torch.device("cuda"), torch.bfloat16, 64) == "FlashAttention 2 (varlen_attn)"
