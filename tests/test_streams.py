"""Packing loses nothing, and a stream goes on from any point as if it had never stopped."""

import functools
import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from conftest import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.data import order, streams
from nanochat.data.batch import Batch
from nanochat.data.packing import Document, pack
from nanochat.data.shards import TextReader, write_shards
from nanochat.data.streams import ConversationSource, MixedSource, TextSource, batches
from nanochat.errors import UserError
from nanochat.peers import PeerFailed
from nanochat.tokenizer import Tokenizer

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
    for row in rows[:-1] if cut else []:  # only the end of the last row may be padding
        assert row.ids[-1] != BOS or row.weights[-1] == 1
        assert not any(a == b == BOS for a, b in itertools.pairwise(row.ids))


def pieces_of(ids: Sequence[int], weights: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    starts = [n for n, id in enumerate(ids) if id == BOS]
    spans = zip(starts, [*starts[1:], len(ids)], strict=True)
    return [(tuple(ids[start:end]), tuple(weights[start:end])) for start, end in spans if end > start + 1]


@given(documents, st.integers(2, 40))
def test_without_cutting_documents_stay_whole(given_documents, row_len):
    fitting: list[Document] = [(ids, weights) for ids, weights in given_documents if 1 < len(ids) <= row_len]
    rows = pack(fitting, row_len, cut=False)
    found = Counter(piece for row in rows for piece in pieces_of(row.ids.tolist(), row.weights.tolist()))
    assert found == Counter((tuple(ids), tuple(weights)) for ids, weights in fitting)
    for row in rows:  # padding has no weight
        end = max(n for n, id in enumerate(row.ids) if id != BOS)
        assert row.weights[end + 1 :].tolist() == [0] * (row_len - end - 1)


def test_best_fit():
    """Rows of 10: 6 + 4 and 5 + 5, where the order given would waste 4 + 5 and 6."""
    lengths = [4, 5, 6, 5]
    rows = pack([([BOS, *[length] * (length - 1)], [1] * length) for length in lengths], 10, cut=False)
    assert [row.ids.tolist() for row in rows] == [[0, 6, 6, 6, 6, 6, 0, 4, 4, 4], [0, 5, 5, 5, 5, 0, 5, 5, 5, 5]]
    assert pack([], 5, cut=True) == []


# ---------------------------------------------------------------- streams


class Numbers:
    """Document n of an epoch of `size` is bos and its own number, `lengths[n]` times."""

    most = None
    aligned = False

    def __init__(self, lengths: list[int], cut: bool):
        self.lengths = lengths
        self.size = len(lengths)
        self.cut = cut

    def locate(self, position: int) -> streams.Place:
        return streams.Place(*divmod(position, self.size), self.size)

    def span(self, position: int) -> tuple[int, int]:
        return position, position + 1

    def contents(self) -> list[dict]:
        return [{"what": "numbers", "made": self.lengths}]

    def state(self) -> int:
        return self.size

    def resumed(self, state: object, position: int) -> "Numbers":
        assert state in (None, self.size)
        return self

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
    rows = len(pack(source.read(0, source.locate(0).size), T + 1, source.cut))
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


def test_the_rows_are_those_that_older_checkpoints_counted():
    """Their cursors say which row comes next; this is what came when the first of them were written."""
    digests = {}
    for cut in (True, False):
        source = Numbers([1 + n * n % 37 for n in range(1500)], cut)
        digest = hashlib.sha256()
        for batch in take(batches(source, 3, 20, cursor={"document": 1024, "row": 5}, seed=7), 1500):
            for tensor in (batch.inputs, batch.targets, batch.weights):
                digest.update(tensor.long().numpy().tobytes())
            digest.update(f"{batch.cursor['document']} {batch.cursor['row']} {batch.progress:.9f}".encode())
        digests[cut] = digest.hexdigest()
    assert digests == {
        True: "c35a6496b15392a7cdf1aa77efacbd5eb81b20a551f54c79730d0ab8146861ec",
        False: "c2ec9acbe9aaabd5eb5f97eac55e474fb2c23cc9fc97234c17ed60b3454ebdee",
    }


# ---------------------------------------------------------------- in the background, and shared by ranks


@functools.cache
def groups(world: int) -> list[dist.ProcessGroup | None]:
    """What connects the ranks; these are threads, and speak to each other as processes do."""
    if world == 1:
        return [None]
    store = dist.HashStore()

    def connect(rank: int) -> dist.ProcessGroup:
        group = dist.ProcessGroup(store, rank, world)
        gloo = dist.ProcessGroupGloo(store, rank, world, timedelta(seconds=60))
        group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, gloo)
        return group

    with ThreadPoolExecutor(world) as threads:
        return list(threads.map(connect, range(world)))


def on_ranks(world: int, work: Callable[[int, dist.ProcessGroup | None], object]) -> list:
    """What `work` returns on each rank."""
    with ThreadPoolExecutor(world) as threads:
        return list(threads.map(work, range(world), groups(world)))


def shared(source: streams.Source, rows: int, T: int, world: int, count: int, cursor: dict | None = None) -> list:
    """`count` rounds of batches, as lists of one a rank, made by ranks that share the work."""

    def work(rank: int, group: dist.ProcessGroup | None) -> list[Batch]:
        with closing(batches(source, rows, T, cursor, ahead=rank, group=group)) as stream:
            return take(stream, count)

    return list(zip(*on_ranks(world, work), strict=True))


@given(sources, st.integers(1, 2), st.integers(1, 8), st.integers(2, 3), st.integers(1, 9))
@settings(max_examples=20)
def test_ranks_that_share_the_work_see_what_one_sees(source, rows, T, world, stop):
    one = take(batches(source, rows, T), 3 * world)
    rounds = shared(source, rows, T, world, 3)
    for turn, got in enumerate(rounds):
        mine = one[turn * world : (turn + 1) * world]
        for batch, other in zip(got, mine, strict=True):
            assert torch.equal(batch.inputs, other.inputs) and torch.equal(batch.weights, other.weights)
            # Progress and cursor are those of the whole round, the same on every rank.
            assert (batch.progress, batch.cursor) == (mine[-1].progress, mine[-1].cursor)
    alone = take(batches(source, rows, T), stop + world)
    (after,) = shared(source, rows, T, world, 1, alone[stop - 1].cursor)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(after, alone[stop:], strict=True))


@given(
    st.lists(st.integers(1, 15), min_size=1, max_size=40),
    st.integers(1, 2),
    st.integers(2, 9),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    st.booleans(),
)
@settings(max_examples=20)
def test_each_document_once_an_epoch_however_often_killed_and_on_whatever_ranks(lengths, rows, T, chunk, legs, cut):
    """Each leg is a run on so many ranks, which ends after so many rounds; what it has made ahead is lost."""
    source = Numbers(lengths, cut)
    cursor, seen = None, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK", chunk)
        starts = range(0, source.size, chunk)
        per_epoch = sum(len(pack(source.read(n, min(chunk, source.size - n)), T + 1, cut)) for n in starts)
        for world, count in itertools.chain(legs, itertools.repeat((2, 1 + per_epoch // (2 * rows)))):
            for batch in itertools.chain(*shared(source, rows, T, world, count, cursor)):
                cursor = batch.cursor
                whole = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
                weights = torch.cat([torch.ones(rows, 1), batch.weights], dim=1)
                seen += [row[weight != 0].tolist() for row, weight in zip(whole, weights, strict=True)]
            if len(seen) >= 2 * per_epoch:
                break
    corpus = Counter({n + 1: length for n, length in enumerate(lengths)})
    for epoch in range(2):
        found = Counter(id for row in seen[epoch * per_epoch : (epoch + 1) * per_epoch] for id in row if id != BOS)
        assert found == corpus


def test_what_is_made_ahead_is_the_same(tokenizer, tmp_path):
    source = text_source(tokenizer, tmp_path)
    with closing(batches(source, 2, 24, ahead=3)) as stream:
        assert all(same(a, b) for a, b in zip(take(stream, 30), take(batches(source, 2, 24), 30), strict=True))
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def damaged(tokenizer, folder: Path) -> TextSource:
    """Whole at its ends, and damaged inside, where it is noticed only when it is read."""
    source = text_source(tokenizer, folder, count=4000)
    content = bytearray(source.reader.paths[0].read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    source.reader.paths[0].write_bytes(content)
    return source


def test_an_error_in_the_background_ends_the_run_with_its_sentence(tokenizer, tmp_path):
    stream = batches(damaged(tokenizer, tmp_path), 2, 24, ahead=2)
    with pytest.raises(UserError, match="shard_00000.parquet is damaged"):
        take(stream, 10_000)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_an_error_on_one_rank_ends_all(tokenizer, tmp_path):
    sources = [damaged(tokenizer, tmp_path / "a"), text_source(tokenizer, tmp_path / "b", count=4000)]

    def work(rank: int, group: dist.ProcessGroup | None) -> str:
        with pytest.raises(PeerFailed if rank else UserError) as stop:
            take(batches(sources[rank], 2, 24, ahead=1, group=group), 10_000)
        return str(stop.value)

    first, second = on_ranks(2, work)
    assert "shard_00000.parquet is damaged" in first
    assert second == "rank 0 could not read its share of the data"


# ---------------------------------------------------------------- sources


def text_source(tokenizer, tmp_path, count: int = 30) -> TextSource:
    write_shards([f"{n}. {TEXT[n % 40 : 60 + n]}" for n in range(count)], tmp_path / "data", docs_per_group=7)
    return TextSource(TextReader(tmp_path / "data", "train"), tokenizer)


def lists(documents: list[Document]) -> list[tuple[list[int], list[int]]]:
    return [(np.asarray(ids).tolist(), np.asarray(weights).tolist()) for ids, weights in documents]


def test_texts_begin_with_bos_and_come_round(tokenizer, tmp_path):
    source = text_source(tokenizer, tmp_path)
    reader, size = source.reader, source.reader.num_documents
    twice = lists(source.read(0, 2 * size))
    assert twice[:size] == twice[size:]
    assert lists(source.read(size - 1, 3)) == twice[size - 1 : size + 2]
    for (ids, weights), text in zip(twice, reader.read(0, reader.num_documents), strict=False):
        assert ids[0] == tokenizer.bos and tokenizer.bos not in ids[1:] and weights == [1] * len(ids)
        assert tokenizer.decode(ids[1:]) == text
    rows = len(pack(source.read(0, size), 25, cut=True))
    padded = [batch for batch in take(batches(source, 1, 24), 2 * rows) if (batch.weights == 0).any()]
    assert len(padded) <= 2  # one row an epoch at most


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(order, "WINDOW_BYTES", 1500)


def numbered(folder: Path, counts: Sequence[int], validation: str = "zz") -> Path:
    """Shards of so many documents, in row groups of 7, that are their own numbers in a row."""
    folder.mkdir(exist_ok=True)
    n = 0
    for number, count in enumerate(counts):
        column = pa.array([f"document {n + each}" for each in range(count)], pa.string())
        pq.write_table(pa.table({"text": column}), folder / f"shard_{number:05d}.parquet", row_group_size=7)
        n += count
    pq.write_table(pa.table({"text": ["held out"]}), folder / f"shard_{validation}.parquet")
    return folder


def shuffled(folder: Path, tokenizer: Tokenizer, seed: int | None = 1) -> TextSource:
    return TextSource(TextReader(folder, "train"), tokenizer, seed)


def test_text_is_shuffled_over_all_shards_and_anew_each_epoch(tokenizer, tmp_path, small_windows):
    source = shuffled(numbered(tmp_path / "data", [50, 0, 150, 100]), tokenizer)
    inorder = [f"document {n}" for n in range(300)]
    first, second = source.texts(0, 300), source.texts(300, 300)
    assert sorted(first) == sorted(second) == sorted(inorder)
    assert len({tuple(first), tuple(second), tuple(inorder)}) == 3
    assert source._shuffled is not None
    windows = source._shuffled[1].windows
    assert len(windows) > 2 and max(sum(group.size for group in window) for window in windows) < 1500
    halves = [sum(int(text.split()[1]) < 150 for text in first[n : n + 100]) for n in (0, 100, 200)]
    assert all(20 < half < 80 for half in halves)  # each third has documents of all shards
    apart = [abs(int(a.split()[1]) - int(b.split()[1])) for a, b in itertools.pairwise(first)]
    assert sum(distance == 1 for distance in apart) < 30
    assert shuffled(tmp_path / "data", tokenizer, 2).texts(0, 600) != first
    assert shuffled(tmp_path / "data", tokenizer, -1).texts(0, 9) != source.texts(0, 9)
    assert shuffled(tmp_path / "data", tokenizer, None).texts(290, 20) == inorder[290:] + inorder[:10]


@given(st.lists(st.tuples(st.integers(0, 1300), st.integers(0, 40)), max_size=8))
@settings(max_examples=30)
def test_shuffled_text_is_the_same_from_wherever_it_is_read(tokenizer, tmp_path_factory, reads):
    folder = numbered(tmp_path_factory.mktemp("any") / "data", [100, 300, 200])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "WINDOW_BYTES", 900)
        whole = shuffled(folder, tokenizer).texts(0, 1400)
        source = shuffled(folder, tokenizer)
        for position, count in reads:
            assert source.texts(position, count) == whole[position : position + count]


def test_shuffled_text_goes_on_the_same_at_any_point_and_on_any_ranks(tokenizer, tmp_path, small_windows, monkeypatch):
    monkeypatch.setattr(streams, "CHUNK", 50)
    numbered(tmp_path / "data", [100, 120])
    source = shuffled(tmp_path / "data", tokenizer)
    whole = take(batches(source, 2, 24), 90)
    assert whole[-1].progress > 1.5
    for stop in range(0, 80, 7):
        cursor = json.loads(json.dumps(whole[stop].cursor))
        again = shuffled(tmp_path / "data", tokenizer)
        rest = take(batches(again, 2, 24, cursor=cursor), 8)
        assert all(same(one, other) for one, other in zip(rest, whole[stop + 1 :], strict=False))
        rounds = shared(again, 2, 24, 3, 2, cursor)
        flat = [batch for turn in rounds for batch in turn]
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(flat, whole[stop + 1 :], strict=False))


def test_what_is_appended_joins_with_the_next_epoch(tokenizer, tmp_path, small_windows, monkeypatch):
    monkeypatch.setattr(streams, "CHUNK", 50)
    folder = numbered(tmp_path / "data", [100, 120])
    before = shuffled(folder, tokenizer)
    alone = take(batches(before, 2, 24), 80)
    first = before.texts(0, 220)
    numbered(folder, [100, 120, 80])
    middle = next(n for n, batch in enumerate(alone) if batch.progress > 0.5)
    grown = shuffled(folder, tokenizer)
    whole = take(batches(grown, 2, 24, cursor=alone[middle].cursor), 120)
    ends = next(n for n, batch in enumerate(alone) if batch.progress >= 1)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole, alone[middle + 1 : ends], strict=False))
    assert [batch.progress for batch in whole] == sorted(batch.progress for batch in whole)
    state = whole[0].cursor["of"]
    assert state == {"seed": 1, "sizes": [[0, 220], [220, 300]], "aligned": True}
    then = grown.resumed(state, 220)
    assert then.texts(0, 220) == first
    assert sorted(then.texts(220, 300)) == sorted(f"document {n}" for n in range(300))
    assert then.locate(219) == (0, 219, 220) and then.locate(220) == (1, 0, 300) and then.locate(521) == (2, 1, 300)
    for stop in (0, 40, 100):  # and it goes on the same from there, where more and more is appended
        rest = take(batches(shuffled(folder, tokenizer), 2, 24, cursor=whole[stop].cursor), 9)
        assert all(same(a, b) for a, b in zip(rest, whole[stop + 1 :], strict=False))
    numbered(folder, [100, 120, 80, 5])
    more = take(batches(shuffled(folder, tokenizer), 2, 24, cursor=whole[90].cursor), 1)
    *sizes, (start, size) = more[0].cursor["of"]["sizes"]
    assert sizes == [[0, 220], [220, 300]] and (start - 220) % 300 == 0 and size == 305
    assert torch.equal(more[0].inputs, whole[91].inputs)


def test_other_shards_than_a_run_read_are_refused(tokenizer, tmp_path):
    folder = numbered(tmp_path / "data", [100, 120, 80])
    (batch,) = take(batches(shuffled(folder, tokenizer), 2, 24), 1)
    (folder / "shard_00001.parquet").unlink()
    with pytest.raises(UserError, match="data had 300 documents in its train split when this .* has 180 in other"):
        take(batches(shuffled(folder, tokenizer), 2, 24, cursor=batch.cursor), 1)


def test_runs_of_older_versions_go_on_in_the_order_of_the_files(tokenizer, tmp_path):
    folder = numbered(tmp_path / "data", [100, 120])
    inorder = take(batches(shuffled(folder, tokenizer, None), 2, 24), 20)
    for state in ({"of": 220}, {}):
        cursor = {"document": 0, "row": inorder[3].cursor["row"], **state}
        got = take(batches(shuffled(folder, tokenizer), 2, 24, cursor=cursor), 9)
        assert all(same(a, b) for a, b in zip(got, inorder[4:], strict=False))
    again = take(batches(shuffled(folder, tokenizer), 2, 24, cursor=got[0].cursor), 8)
    assert all(same(a, b) for a, b in zip(again, got[1:], strict=True))


def test_a_mixture_keeps_what_it_began_with(tokenizer, tmp_path, small_windows):
    folder = numbered(tmp_path / "data", [100, 120])

    def mixture(weight: float) -> MixedSource:
        talks = ConversationSource([talk(n) for n in range(9)], tokenizer, 33, masked=False)
        return MixedSource([(shuffled(folder, tokenizer), weight), (talks, 0.7)])

    whole = take(batches(mixture(0.3), 2, 32), 60)
    numbered(folder, [100, 120, 80])
    cursor = json.loads(json.dumps(whole[5].cursor))
    rest = take(batches(mixture(0.31), 2, 32, cursor=cursor), 50)  # an estimate may come out otherwise
    assert all(same(a, b) for a, b in zip(rest, whole[6:], strict=False))
    with pytest.raises(UserError, match="was started by an older version"):
        take(batches(mixture(0.3), 2, 32, cursor={"document": 0, "row": 1, "of": 229}), 1)


def test_conversations_of_another_number_are_refused(tokenizer):
    source = ConversationSource([talk(n) for n in range(9)], tokenizer, 33, masked=False)
    (batch,) = take(batches(source, 2, 32), 1)
    more = ConversationSource([talk(n) for n in range(10)], tokenizer, 33, masked=False)
    with pytest.raises(UserError, match="the data had 9 documents when this run read them and has 10 now"):
        take(batches(more, 2, 32, cursor=batch.cursor), 1)


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("change", ["replaced", "fewer", "cut", "gone"])
def test_a_shard_that_changes_while_it_is_read_is_named(tokenizer, tmp_path, small_windows, seed, change):
    source = shuffled(numbered(tmp_path / "data", [100, 120]), tokenizer, seed)
    stream = batches(source, 2, 24)
    take(stream, 1)
    shard = tmp_path / "data" / "shard_00001.parquet"
    if change == "replaced":
        pq.write_table(pa.table({"text": [f"documenta {n}" for n in range(120)]}), shard, row_group_size=7)
    elif change == "fewer":
        pq.write_table(pa.table({"text": ["one"]}), shard)
    elif change == "cut":
        shard.write_bytes(shard.read_bytes()[:700])
    else:
        shard.unlink()
    while_read = "while this run was reading it"
    said = {"cut": "is damaged", "gone": f"was removed {while_read}"}.get(change, f"changed {while_read}")
    with pytest.raises(UserError, match=f"shard_00001.parquet {said}"):
        take(stream, 300)


def test_shards_of_several_programs_are_shuffled_together(tokenizer, tmp_path):
    folder = numbered(tmp_path / "data", [30])
    large = pa.array(["one", None, "three"], pa.large_string())
    pq.write_table(pa.table({"id": [1, 2, 3], "text": large}), folder / "shard_00001.parquet", compression="gzip")
    expected = sorted([*(f"document {n}" for n in range(30)), "one", "", "three"])
    assert sorted(shuffled(folder, tokenizer).texts(0, 33)) == expected


def test_memory_is_bounded_by_a_window(tokenizer, tmp_path, monkeypatch):
    """Windows are read one at a time, whatever the order in which documents are asked for."""
    monkeypatch.setattr(order, "WINDOW_DOCUMENTS", 30)
    source = shuffled(numbered(tmp_path / "data", [100, 300]), tokenizer)
    loaded: list[int] = []
    load = TextReader.load
    monkeypatch.setattr(TextReader, "load", lambda self, group: loaded.append(group.rows) or load(self, group))
    source.texts(0, 400)
    assert sum(loaded) == 400 and source._shuffled is not None and len(source._shuffled[1]._texts) <= 30


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
    with pytest.raises(UserError, match="--data_path"):
        ConversationSource([], tokenizer, 41, masked=True)


@given(st.floats(0.01, 0.99), st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 9), max_size=30))
@settings(max_examples=50)
def test_a_mixture_deals_every_source_its_share(share, first, second, counts):
    a, b = Numbers([1] * first, cut=True), Numbers([2] * second, cut=False)
    mixed = MixedSource([(a, 3 * share), (b, 3 * (1 - share))])
    assert not mixed.cut and MixedSource([(a, 1.0), (a, 2.0)]).cut
    position, from_a = 0, 0
    for count in counts:
        from_a += sum(len(ids) == 2 for ids, _ in mixed.read(position, count))
        position += count
        assert abs(from_a - position * share) <= 1
    whole = mixed.read(0, position)
    assert sum(len(ids) == 2 for ids, _ in whole) == from_a


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 100)), min_size=1, max_size=4))
@settings(max_examples=40)
def test_an_epoch_of_a_mixture_has_all_of_each_part_and_no_more_than_that_takes(parts):
    """Ten documents of weight 0.3 need 34, in which they are all; 33 have nine of them."""
    mixed = MixedSource([(Numbers([n] * size, cut=True), weight / 100) for n, (size, weight) in enumerate(parts, 1)])

    def lacking(count: int) -> int:
        found = Counter(len(ids) - 1 for ids in {tuple(ids) for ids, _ in mixed.read(0, count)})
        return sum(found[n] < size for n, (size, _) in enumerate(parts, 1))

    assert not lacking(mixed.size) and lacking(mixed.size - 1)
    second = Counter(tuple(ids) for ids, _ in mixed.read(mixed.size, mixed.size))
    assert len(second) == sum(size for size, _ in parts)


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 9)), min_size=2, max_size=3),
    st.integers(1, 8), st.integers(0, 7),
)  # fmt: skip
@settings(max_examples=50)
def test_a_mixture_resumed_at_any_cursor_goes_on_the_same(parts, T, stop):
    mixed = MixedSource([(Numbers(lengths, cut=True), weight / 10) for lengths, weight in parts])
    whole = take(batches(mixed, 2, T), 9)
    rest = take(batches(mixed, 2, T, cursor=whole[stop].cursor), 8 - stop)
    assert all(same(one, other) for one, other in zip(rest, whole[stop + 1 :], strict=True))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_mixture_may_leave_a_source_out(share):
    a, b = Numbers([1] * 5, cut=True), Numbers([2] * 5, cut=False)
    mixed = MixedSource([(a, share), (b, 1 - share)])
    assert {len(ids) for ids, _ in mixed.read(0, 10)} == ({2} if share else {3})
