"""Token files: written whole or not at all; and random windows of them, the same for any number of ranks."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import tokens
from nanochat.data.batch import Batch
from nanochat.data.tokens import Tokens, windows
from nanochat.errors import UserError
from nanochat.paths import sha256


def numbered(count: int) -> Tokens:
    """Ids that say where they stand."""
    with tempfile.TemporaryDirectory() as folder:
        np.arange(count, dtype=np.uint16).tofile(path := Path(folder, "train.bin"))
        tokens = Tokens(path, "uint16", count)
    tokens.check_unchanged = lambda: None  # type: ignore[method-assign]  # the file is open, its name is gone
    return tokens


def take(stream: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(stream, count))


# ---------------------------------------------------------------- windows


@given(count=st.integers(2, 60), rows=st.integers(1, 4), T=st.integers(1, 12), seed=st.integers(0, 9))
def test_windows_are_runs_of_the_split(count, rows, T, seed):
    T = min(T, count - 1)
    for n, batch in enumerate(take(windows(numbered(count), rows, T, seed=seed), 5)):
        assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == (rows, T)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64 and batch.weights.dtype == torch.float32
        assert torch.equal(batch.inputs + 1, batch.targets) and batch.weights.eq(1).all()
        assert torch.equal(batch.inputs, batch.inputs[:, :1] + torch.arange(T))
        assert batch.inputs.min() >= 0 and batch.targets.max() < count
        assert batch.progress == pytest.approx((n + 1) * rows * T / count)
        assert batch.cursor == {"window": (n + 1) * rows}


def test_windows_begin_everywhere_equally_often():
    starts = torch.cat([batch.inputs[:, 0] for batch in take(windows(numbered(12), 100, 4), 80)])
    counts = torch.bincount(starts)
    assert len(counts) == 8 and counts.min() > 850 and counts.max() < 1150  # of 8000 over 8 places
    other = torch.cat([batch.inputs[:, 0] for batch in take(windows(numbered(12), 100, 4, seed=1), 80)])
    assert not torch.equal(starts, other)


@given(rows=st.integers(1, 3), world=st.integers(1, 4), accumulation=st.integers(1, 3), seed=st.integers(0, 9))
def test_ranks_together_see_what_one_sees(rows, world, accumulation, seed):
    """A step of W ranks with G / W micro-batches each has the windows of one rank with G, and goes on where it does."""
    alone = take(windows(numbered(50), rows, 7, seed=seed), world * accumulation)
    ranks = [take(windows(numbered(50), rows, 7, rank, world, seed=seed), accumulation) for rank in range(world)]
    together = [ranks[n % world][n // world] for n in range(world * accumulation)]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.inputs, other.inputs)
    assert all(mine[-1].cursor == alone[-1].cursor and mine[-1].progress == alone[-1].progress for mine in ranks)


@given(before=st.integers(1, 4), rows=st.integers(1, 3), world=st.integers(1, 3), now=st.integers(1, 3))
def test_a_stream_goes_on_from_its_cursor_on_any_number_of_ranks(before, rows, world, now):
    stop = take(windows(numbered(40), rows, 5, 0, world), before)[-1].cursor
    rest = take(windows(numbered(40), rows, 5), before * world + now)[before * world :]
    resumed = [next(windows(numbered(40), rows, 5, rank, now, stop)) for rank in range(now)]
    for one, other in zip(rest, resumed, strict=True):
        assert torch.equal(one.inputs, other.inputs)


# ---------------------------------------------------------------- files


def written(folder: Path, train: list[int], val: list[int], vocab_size: int = 100, **more) -> Path:
    tokens.write(folder, [("train", train[:3]), ("val", val), ("train", train[3:])], vocab_size, **more)
    return folder


@pytest.mark.parametrize("vocab_size, dtype", [(100, "<u2"), (65536, "<u2"), (65537, "<u4"), (200_000, "<u4")])
def test_what_is_written_is_read(tmp_path, vocab_size, dtype):
    ids = [*range(5), vocab_size - 1, 0]
    folder = written(tmp_path / "new", ids, [1, 2], vocab_size)
    assert np.fromfile(folder / "train.bin", dtype).tolist() == ids
    got = tokens.read(folder, "train", vocab_size, 6)
    assert got.take(0, got.count).tolist() == ids and got.count == len(ids)
    assert tokens.vocabulary_size(folder) == vocab_size
    (batch,) = take(windows(got, 1, 6), 1)
    assert batch.targets.tolist() == [ids[1:]]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_split_larger_than_memory_costs_none(tmp_path):
    """A sparse file of 256 GiB; nothing is read but the windows. As nanoGPT makes it, without a meta file."""
    assert tokens.vocabulary_size(tmp_path) is None
    with open(tmp_path / "train.bin", "wb") as file:
        file.truncate(1 << 38)
    got = tokens.read(tmp_path, "train", 10, 1024)
    (batch,) = take(windows(got, 4, 1024), 1)
    assert batch.inputs.eq(0).all() and got.count == 1 << 37


def test_content_is_the_same_wherever_it_lies(tmp_path, monkeypatch):
    one, other = (written(tmp_path / name, [1, 2, 3, 4], [5, 6]) for name in ("one", "other"))
    content = [tokens.read(folder, "train", 100, 1).content() for folder in (one, other)]
    assert content[0] == content[1] == {"sha256": sha256(one / "train.bin"), "bytes": 8, "dtype": "uint16"}
    wide = written(tmp_path / "wide", [1, 2, 3, 4], [5, 6], 1 << 17)
    assert tokens.read(wide, "train", 100, 1).content() != content[0]
    # Of a large file blocks are looked at: here 5 of 2 bytes in 24, at 0, 5, 11, 16 and 22.
    for name, value in ("WHOLE", 16), ("BLOCK", 2), ("BLOCKS", 5):
        monkeypatch.setattr(tokens, name, value)
    large = tmp_path / "large"
    seen = set()
    for n in range(24):
        large.write_bytes(bytes(n) + b"x" + bytes(23 - n))
        seen.add(tokens.fingerprint(large))
    assert len(seen) == 10 + 1
    large.write_bytes(bytes(25))
    assert tokens.fingerprint(large) not in seen


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changes_under_a_run(tmp_path, known):
    """Cut short, which a mapped file would answer with SIGBUS, written to, replaced, gone; the same again is fine."""
    folder = written(tmp_path / "new", [*range(90)], [1, 2])
    path = folder / "train.bin"
    content = path.read_bytes()
    read = tokens.read(folder, "train", 100, 10)
    if known:
        read.content()
    stream = windows(read, 4, 10)
    next(stream)
    path.write_bytes(content[:6])
    with pytest.raises(UserError, match=r"train\.bin was cut short .* resume with --init_from=resume"):
        next(stream)
    path.write_bytes(content[:-2] + b"\1\1")
    with pytest.raises(UserError, match=r"train\.bin was changed"):
        next(windows(read, 4, 10))
    path.unlink()
    with pytest.raises(UserError, match=r"train\.bin vanished"):
        next(windows(read, 4, 10))
    path.write_bytes(content)
    if known:
        assert take(windows(read, 4, 10), 2)[1].inputs.shape == (4, 10)


def test_what_was_there_besides_stays(tmp_path):
    folder = tmp_path / "shakespeare"
    (folder / "sub").mkdir(parents=True)
    for name in ("prepare.py", "sub/file", "meta.pkl"):
        (folder / name).write_text(name, encoding="utf-8")
    written(folder, [1, 2, 3], [4, 5])
    with pytest.raises(UserError, match="already holds token files.*--overwrite"):
        written(folder, [7, 8], [9, 9])
    written(folder, [6, 6], [7, 7], overwrite=True, beside=lambda draft: (draft / "extra").write_bytes(b"x"))
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "extra", "meta.json", "prepare.py", "sub/file", "train.bin", "val.bin"
    ]  # fmt: skip
    assert (folder / "sub/file").read_text(encoding="utf-8") == "sub/file"
    assert tokens.read(folder, "train", 9, 1).take(0, 2).tolist() == [6, 6]
    assert list(tmp_path.iterdir()) == [folder]
    (tmp_path / "link").symlink_to(folder)  # to another disk, perhaps
    written(tmp_path / "link", [1, 2, 3], [4, 5], overwrite=True)
    assert (tmp_path / "link").is_symlink() and tokens.read(folder, "train", 9, 1).count == 3


def test_nothing_is_left_of_what_fails(tmp_path):
    def breaks():
        yield "train", [1] * 1000
        raise UserError("line 7 is bad")

    with pytest.raises(UserError, match="line 7"):
        tokens.write(tmp_path / "new", breaks(), 10)
    with pytest.raises(UserError, match="the val split would have 1 tokens"):
        tokens.write(tmp_path / "new", [("train", [1, 2]), ("val", [1])], 10)
    assert not list(tmp_path.iterdir())
    folder = written(tmp_path / "old", [1, 2], [3, 4])
    with pytest.raises(UserError, match="line 7"):
        tokens.write(folder, breaks(), 10, overwrite=True)
    assert tokens.read(folder, "val", 9, 1).take(0, 2).tolist() == [3, 4]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file"):
        written(tmp_path / "file", [1, 2], [3, 4])


def test_a_full_disk(small_disk):
    with pytest.raises(UserError, match="the disk is full"):
        tokens.write(small_disk / "new", (("train", [1] * 100_000) for _ in range(100)), 10)
    assert not list(small_disk.iterdir())


# ---------------------------------------------------------------- finding and refusing


def test_where_token_files_are_looked_for(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'mine': there is neither data/mine/train.bin nor .*/tokens/mine/train.bin"):
        tokens.find("mine")
    assert tokens.home("mine") == base / "tokens" / "mine"
    written(tokens.home("mine"), [1, 2], [3, 4])
    assert tokens.find("mine") == base / "tokens" / "mine"
    os.mkdir("data")
    assert tokens.home("mine") == Path("data/mine")
    written(tokens.home("mine"), [1, 2], [3, 4])
    assert tokens.find("mine") == Path("data/mine")
    written(tmp_path / "else" / "where", [1, 2], [3, 4])
    assert tokens.find("else/where") == Path("else/where")
    assert tokens.find(str(tmp_path / "else" / "where")) == tmp_path / "else" / "where"


@pytest.mark.parametrize(
    "content, meta, said",
    [
        (None, None, "val.bin is missing"),
        (b"\1\0\2\0\3", None, "val.bin is damaged: 5 bytes are not a multiple of 2"),
        (b"\1\0\2\0\3\0", {"dtype": "uint32"}, "val.bin is damaged: 6 bytes are not a multiple of 4"),
        (b"", None, "val.bin holds 0 tokens, but a window of --block_size 4 needs 5"),
        (b"\1\0" * 4, None, "val.bin holds 4 tokens, but a window of --block_size 4 needs 5"),
        (b"\1\0" * 9, {"dtype": "float"}, "meta.json: its dtype is 'float'; expected uint16 or uint32"),
        (b"\1\0" * 9, [], "meta.json is damaged: it does not hold a JSON object"),
        (b"\1\0" * 9, "{", "meta.json cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path, content, meta, said):
    if content is not None:
        (tmp_path / "val.bin").write_bytes(content)
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta if meta == "{" else json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        tokens.read(tmp_path, "val", 100, 4)
    assert str(tmp_path) in str(error.value)


@given(position=st.integers(0, 19), largest=st.integers(65, 60000))
@settings(max_examples=30)
def test_an_id_that_the_model_does_not_know(tmp_path_factory, position, largest):
    folder = tmp_path_factory.mktemp("bad")
    ids = np.arange(20, dtype=np.uint16)
    ids[position] = largest
    ids.tofile(folder / "train.bin")
    stream = windows(tokens.read(folder, "train", 65, 10), 4, 10)
    with pytest.raises(UserError, match=rf"train\.bin holds the token {largest}, but the model knows 0 to 64"):
        for _ in range(200):
            next(stream)


@pytest.mark.parametrize("at", range(1, 5))
def test_a_kill_leaves_what_else_lies_there(at: int, tmp_path: Path) -> None:
    """Killed while files are moved, at each of the moves; then the same again, to the end."""
    folder = tmp_path / "shakespeare"
    folder.mkdir()
    (folder / "prepare.py").write_text("# mine", encoding="utf-8")
    tokens.write(folder, [("train", [1, 2, 3]), ("val", [4, 5])], 10)
    child = os.fork()
    if child == 0:
        moves, move = 0, os.replace

        def killed(source: Path, target: Path) -> None:
            nonlocal moves
            moves += 1
            if moves == at:
                os._exit(9)
            move(source, target)

        os.replace = killed  # type: ignore[assignment]
        tokens.write(folder, [("train", [7, 8, 9]), ("val", [1, 1])], 10, overwrite=True)
        os._exit(0)
    os.waitpid(child, 0)
    assert (folder / "prepare.py").read_text(encoding="utf-8") == "# mine"
    tokens.write(folder, [("train", [7, 8, 9]), ("val", [1, 1])], 10, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "prepare.py", "train.bin", "val.bin"]
    assert tokens.read(folder, "train", 10, 2).take(0, 3).tolist() == [7, 8, 9]
