"""Packing loses nothing, and a stream goes on from any point as if it had never stopped."""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from conftest import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.config import UserError
from nanochat.data import streams
from nanochat.data.batch import Batch
from nanochat.data.packing import Document, pack
from nanochat.data.shards import TextReader, write_shards
from nanochat.data.streams import ConversationSource, MixedSource, TextSource, batches

BOS = 0
document = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1)), max_size=30).map(
    lambda pairs: ([BOS, *(id for id, _ in pairs)], [1, *(weight for _, weight in pairs)])
)
documents = st.lists(document, max_size=12)

# ---------------------------------------------------------------- packing


@given(documents, st.integers(2, 12), st.booleans())
def test_packing_loses_nothing_and_fills_whole_rows(given_documents, row_len, cut):
    rows = pack(given_documents, row_len, cut)
    kept: Counter[tuple[int, int]] = Counter()
    for row in rows:
        assert len(row.ids) == len(row.weights) == row_len
        assert row.ids[0] == BOS
        kept.update((id, weight) for id, weight in zip(row.ids, row.weights, strict=True) if id != BOS)
        assert any(id != BOS for id in row.ids)  # no row is padding only
    whole = Counter(pair for ids, weights in given_documents for pair in zip(ids[1:], weights[1:], strict=True))
    assert kept == whole


@given(documents, st.integers(2, 12))
def test_cut_rows_are_full(given_documents, row_len):
    rows = pack(given_documents, row_len, cut=True)
    for row in rows[:-1]:  # only the end of the last row may be padding
        assert row.ids[-1] != BOS or row.weights[-1] == 1
        assert not any(a == b == BOS for a, b in itertools.pairwise(row.ids))


def pieces_of(ids: list[int], weights: list[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    starts = [n for n, id in enumerate(ids) if id == BOS]
    spans = zip(starts, [*starts[1:], len(ids)], strict=True)
    return [(tuple(ids[start:end]), tuple(weights[start:end])) for start, end in spans if end > start + 1]


@given(documents, st.integers(2, 40))
def test_without_cutting_documents_stay_whole(given_documents, row_len):
    fitting: list[Document] = [(ids, weights) for ids, weights in given_documents if 1 < len(ids) <= row_len]
    rows = pack(fitting, row_len, cut=False)
    found = Counter(piece for row in rows for piece in pieces_of(row.ids, row.weights))
    assert found == Counter((tuple(ids), tuple(weights)) for ids, weights in fitting)
    for row in rows:  # padding has no weight
        end = max(n for n, id in enumerate(row.ids) if id != BOS)
        assert row.weights[end + 1 :] == [0] * (row_len - end - 1)


def test_best_fit():
    """Rows of 10: 6 + 4 and 5 + 5, where the order given would waste 4 + 5 and 6."""
    lengths = [4, 5, 6, 5]
    rows = pack([([BOS, *[length] * (length - 1)], [1] * length) for length in lengths], 10, cut=False)
    assert [row.ids for row in rows] == [[0, 6, 6, 6, 6, 6, 0, 4, 4, 4], [0, 5, 5, 5, 5, 0, 5, 5, 5, 5]]
    assert pack([], 5, cut=True) == []


# ---------------------------------------------------------------- streams


class Numbers:
    """Document n of an epoch of `size` is bos and its own number, `lengths[n]` times."""

    def __init__(self, lengths: list[int], cut: bool):
        self.lengths = lengths
        self.size = len(lengths)
        self.cut = cut

    def read(self, position: int, count: int) -> list[Document]:
        numbers = [n % self.size for n in range(position, position + count)]
        return [([BOS] + [n + 1] * self.lengths[n], [1] * (self.lengths[n] + 1)) for n in numbers]


sources = st.builds(Numbers, st.lists(st.integers(1, 15), min_size=1, max_size=9), st.booleans())


def same(one: Batch, other: Batch) -> bool:
    tensors = zip((one.inputs, one.targets, one.weights), (other.inputs, other.targets, other.weights), strict=True)
    return all(torch.equal(a, b) for a, b in tensors) and (one.progress, one.cursor) == (other.progress, other.cursor)


def take(stream: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(stream, count))


@given(sources, st.integers(1, 3), st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=50)
def test_a_stream_resumed_at_any_cursor_goes_on_the_same(source, rows, T, seed):
    whole = take(batches(source, rows, T, seed=seed), 9)
    for stop in range(8):
        rest = take(batches(source, rows, T, cursor=whole[stop].cursor, seed=seed), 8 - stop)
        assert all(same(one, other) for one, other in zip(rest, whole[stop + 1 :], strict=True))


@given(sources, st.integers(1, 2), st.integers(1, 8), st.integers(2, 4))
@settings(max_examples=50)
def test_many_ranks_see_together_what_one_sees(source, rows, T, world):
    one = take(batches(source, rows, T), 3 * world)
    ranks = [take(batches(source, rows, T, rank, world), 3) for rank in range(world)]
    for turn in range(3):
        mine = one[turn * world : (turn + 1) * world]
        for rank in range(world):
            got = ranks[rank][turn]
            assert torch.equal(got.inputs, mine[rank].inputs) and torch.equal(got.targets, mine[rank].targets)
            # Progress and cursor are those of the whole round, alike on every rank.
            assert (got.progress, got.cursor) == (mine[-1].progress, mine[-1].cursor)
    after = take(batches(source, rows, T, cursor=ranks[0][1].cursor), world)  # on another number of ranks
    assert all(same(a, b) for a, b in zip(after, one[2 * world :], strict=True))


@given(sources, st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=50)
def test_progress_rises_and_counts_epochs(source, rows, T):
    got = take(batches(source, rows, T), 20)
    progress = [batch.progress for batch in got]
    assert progress == sorted(progress) and progress[0] > 0
    rows_per_epoch = len(pack(source.read(0, source.size), T + 1, source.cut))
    assert progress == pytest.approx([(n + 1) * rows / rows_per_epoch for n in range(20)])


def test_batches_are_shifted_rows():
    (batch,) = take(batches(Numbers([3, 4, 2], cut=True), 2, 5), 1)
    assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == (2, 5)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64 and batch.weights.dtype == torch.float32
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert (batch.inputs[:, 0] == BOS).all()


def epochs_of(source: streams.Source, T: int, seed: int, count: int) -> list[list[tuple[int, ...]]]:
    rows = len(pack(source.read(0, source.size), T + 1, source.cut))
    got = take(batches(source, 1, T, seed=seed), count * rows)
    flat = [tuple(batch.inputs[0].tolist()) for batch in got]
    return [flat[n * rows : (n + 1) * rows] for n in range(count)]


def test_every_epoch_has_all_rows_in_another_order():
    source = Numbers([4] * 40, cut=False)
    first, second, third = epochs_of(source, 4, seed=0, count=3)
    assert sorted(first) == sorted(second) == sorted(third)
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert epochs_of(source, 4, seed=1, count=1) != [first]
    assert epochs_of(source, 4, seed=-1, count=1) != epochs_of(source, 4, seed=1, count=1)


def test_more_documents_than_a_chunk_holds():
    source = Numbers([3] * (streams.CHUNK + 70), cut=False)
    (epoch,) = epochs_of(source, 3, seed=0, count=1)
    assert Counter(row[1] for row in epoch) == Counter(range(1, streams.CHUNK + 71))
    whole = take(batches(source, 40, 3), 40)
    rest = take(batches(source, 40, 3, cursor=whole[27].cursor), 12)
    assert all(same(a, b) for a, b in zip(rest, whole[28:], strict=True))


# ---------------------------------------------------------------- sources


def text_source(tokenizer, tmp_path, count: int = 30) -> TextSource:
    write_shards([f"{n}. {TEXT[n % 40 : 60 + n]}" for n in range(count)], tmp_path / "data", docs_per_group=7)
    return TextSource(TextReader(tmp_path / "data", "train"), tokenizer)


def test_texts_begin_with_bos_and_come_round(tokenizer, tmp_path):
    source = text_source(tokenizer, tmp_path)
    twice = source.read(0, 2 * source.size)
    assert twice[: source.size] == twice[source.size :]
    assert source.read(source.size - 1, 3) == twice[source.size - 1 : source.size + 2]
    reader = source.reader
    for (ids, weights), text in zip(twice, reader.read(0, reader.num_documents), strict=False):
        assert ids[0] == tokenizer.bos and tokenizer.bos not in ids[1:] and weights == [1] * len(ids)
        assert tokenizer.decode(ids[1:]) == text
    rows = len(pack(source.read(0, source.size), 25, cut=True))
    padded = [batch for batch in take(batches(source, 1, 24), 2 * rows) if (batch.weights == 0).any()]
    assert len(padded) <= 2  # one row an epoch at most


def talk(n: int, words: int = 3) -> dict:
    question, answer = f"What is {n}?", f"{n} " * words
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_only_the_assistant_has_weight(tokenizer):
    conversations = [talk(n) for n in range(20)]
    masked = ConversationSource(conversations, tokenizer, 65, masked=True)
    plain = ConversationSource(conversations, tokenizer, 65, masked=False)
    for (ids, weights), (same_ids, ones) in zip(masked.read(0, 20), plain.read(0, 20), strict=True):
        assert ids == same_ids and ones == [1] * len(ids)
        said = [id for id, weight in zip(ids, weights, strict=True) if weight]
        question = tokenizer.decode(ids).split("What is ")[1].split("?")[0]
        assert tokenizer.decode(said) == f"{question} " * 3 + chat.ASSISTANT_END
    for batch in take(batches(masked, 2, 64), 5):
        padding = (batch.targets == tokenizer.bos).flatten()
        assert 0 < batch.weights.sum() < batch.weights.numel() / 2
        assert (batch.weights.flatten()[padding] == 0).all()
        assert (batch.targets[batch.weights == 0] != tokenizer.special(chat.ASSISTANT_END)).all()


def test_conversations_are_shuffled_anew_each_epoch(tokenizer):
    source = ConversationSource([talk(n) for n in range(20)], tokenizer, 65, masked=True)
    first, second = source.read(0, 20), source.read(20, 20)
    assert first != second and sorted(first) == sorted(second)
    assert source.read(13, 20) == first[13:] + second[:13]


def test_conversations_too_long_for_a_row(tokenizer):
    """They lose turns, or are left out; they never stay behind in the packer and never give rows of padding."""
    long = {"messages": talk(1)["messages"] + talk(2, words=200)["messages"]}
    source = ConversationSource([long, talk(3, words=200)], tokenizer, 41, masked=True)
    found = source.read(0, 2)
    assert len(found) == 1 and found[0][0][-1] == tokenizer.special(chat.ASSISTANT_END)
    for batch in take(batches(source, 1, 40), 5):
        assert batch.weights.sum() > 0
    hopeless = ConversationSource([talk(3, words=200)] * 5, tokenizer, 41, masked=True)
    with pytest.raises(UserError, match="--max_seq_len"):
        next(batches(hopeless, 1, 40))


def test_no_conversations_at_all(tokenizer):
    with pytest.raises(UserError, match="--data_path"):
        ConversationSource([], tokenizer, 41, masked=True)


@given(st.floats(0.01, 0.99), st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 9), max_size=30))
@settings(max_examples=50)
def test_a_mixture_deals_every_source_its_share(share, first, second, counts):
    a, b = Numbers([1] * first, cut=True), Numbers([2] * second, cut=False)
    mixed = MixedSource([(a, 3 * share), (b, 3 * (1 - share))])
    assert not mixed.cut
    position, from_a = 0, 0
    for count in counts:
        from_a += sum(len(ids) == 2 for ids, _ in mixed.read(position, count))
        position += count
        assert abs(from_a - position * share) <= 1
    whole = mixed.read(0, position)
    assert sum(len(ids) == 2 for ids, _ in whole) == from_a
    epoch = mixed.read(0, mixed.size + 1)  # each document of both at least once
    assert len({ids[1] for ids, _ in epoch if len(ids) == 2}) == first
    assert len({ids[1] for ids, _ in epoch if len(ids) == 3}) == second


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_mixture_may_leave_a_source_out(share):
    a, b = Numbers([1] * 5, cut=True), Numbers([2] * 5, cut=False)
    mixed = MixedSource([(a, share), (b, 1 - share)])
    assert {len(ids) for ids, _ in mixed.read(0, 10)} == ({2} if share else {3})


def test_a_mixture_resumes(tokenizer, tmp_path):
    text = text_source(tokenizer, tmp_path)
    talks = ConversationSource([talk(n) for n in range(9)], tokenizer, 33, masked=False)
    mixed = MixedSource([(text, 0.3), (talks, 0.7)])
    whole = take(batches(mixed, 2, 32), 14)
    for stop in (0, 5, 12):
        rest = take(batches(mixed, 2, 32, cursor=whole[stop].cursor), 13 - stop)
        assert all(same(a, b) for a, b in zip(rest, whole[stop + 1 :], strict=True))
