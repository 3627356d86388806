"""Object stores: shards that are read in ranges, each by one rank, and checkpoints that go there and come back."""

import itertools
import json
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import fakehub
import pytest
import served
import torch
from conftest import TEXT

from nanochat.checkpoint import door, manager
from nanochat.data import order, stores, streams, texts
from nanochat.data.shards import TextReader, write_shards
from nanochat.data.stores import Remote
from nanochat.data.streams import MixedSource, TextSource, batches
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, sha256, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import pull, push
from tests.test_streams import on_ranks, same, take

DATA = "s3://lab/data"


@pytest.fixture(scope="module")
def running():
    fakestore = pytest.importorskip("fakestore")
    with fakestore.running() as store:
        yield store


@pytest.fixture
def store(running, monkeypatch):
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    running.asked.clear()
    running.faults.clear()
    yield running
    running.faults.clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A dataset of 15 row groups in 3 shards."""
    folder = tmp_path_factory.mktemp("here") / "data"
    documents = [f"{n}. {TEXT[n % 40 : 60 + n % 50]}" for n in range(300)]
    write_shards(documents, folder, val_texts=["held out", "also"], docs_per_group=20, shard_bytes=11_000)
    return folder


@pytest.fixture(scope="module")
def there(running, local) -> Remote:
    """The same dataset in the store."""
    for path in sorted(local.iterdir()):
        (Remote(DATA) / path.name).upload(path)
    return Remote(DATA)


def groups_read(store) -> Counter[tuple[str, str]]:
    """How often each row group was fetched; footers are asked for by a range without a beginning."""
    asked = [each for each in store.got(r"^GET data/shard") if not each.range.startswith("bytes=-")]
    assert all(each.range.startswith("bytes=") for each in asked)
    return Counter((each.path, each.range) for each in asked)


def source_of(folder: Path | Remote, tokenizer: Tokenizer, seed: int | None = 1) -> TextSource:
    return TextSource(TextReader(folder, "train"), tokenizer, seed)


@pytest.fixture
def small_windows(monkeypatch) -> None:
    monkeypatch.setattr(order, "WINDOW_BYTES", 5000)
    monkeypatch.setattr(streams, "CHUNK", 16)


def test_a_dataset_in_a_store_is_the_one_on_disk(store, there, local, tokenizer, small_windows):
    """Equal by content, so a run resumes from either; only footers and the row groups that are needed are fetched."""
    here, reader = TextReader(local, "train"), TextReader(there, "train")
    assert {**here.contents(), "what": ""} == {**reader.contents(), "what": ""}
    assert len(store.got("^GET data/shard")) == len(reader.paths) and not groups_read(store)
    assert reader.read(45, 10) == here.read(45, 10)
    assert len(groups_read(store)) == 1
    whole = take(batches(source_of(local, tokenizer), 2, 24), 300)
    again = take(batches(source_of(there, tokenizer), 2, 24), 300)
    assert whole[-1].progress > 1 and all(same(a, b) for a, b in zip(whole, again, strict=True))
    cursor = json.loads(json.dumps(whole[20].cursor))
    moved = take(batches(source_of(there, tokenizer), 2, 24, cursor), 39)
    assert all(same(a, b) for a, b in zip(moved, whole[21:60], strict=True))
    (source,) = [texts.text_source([f"{DATA}:0.3"], "val", tokenizer)]
    assert isinstance(source, TextSource) and source.reader.read(0, 2) == ["held out", "also"]
    assert texts.mixture([f"{DATA}:3", "mine:1"]) == "0.75:0.25"
    assert list(texts.weights([DATA])) == [DATA]


@pytest.mark.parametrize("world", [2, 3])
def test_each_row_group_is_fetched_by_one_rank(world, store, there, tokenizer, small_windows):
    """In an epoch; and what all see is what one sees, in its order, from any cursor, on any number of ranks."""
    alone = take(batches(source_of(there, tokenizer), 2, 24), 300)
    epoch = next(n for n, batch in enumerate(alone) if batch.progress >= 1)
    groups = len(TextReader(there, "train").groups)
    store.asked.clear()

    def work(rank: int, group) -> list:
        return take(batches(source_of(there, tokenizer), 2, 24, group=group), epoch // world)

    rounds = list(zip(*on_ranks(world, work), strict=True))
    flat = list(itertools.chain(*rounds))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(flat, alone, strict=False))
    read = groups_read(store)
    assert len(read) == groups and sum(read.values()) < 1.4 * groups  # with the first window of the next epoch
    stop = epoch // world // 2 * world
    cursor = json.loads(json.dumps(flat[stop - 1].cursor))
    rest = take(batches(source_of(there, tokenizer), 2, 24, cursor), 9)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(rest, alone[stop:], strict=False))


def test_a_run_that_an_older_version_began_keeps_its_order(local, tokenizer, small_windows):
    """Its chunks span windows; on several ranks, too."""
    older = TextSource(TextReader(local, "train"), tokenizer, 1, aligned=False)
    whole = take(batches(older, 2, 24), 70)
    assert "aligned" not in whole[0].cursor["of"]
    now = take(batches(source_of(local, tokenizer), 2, 24), 70)
    assert not all(same(a, b) for a, b in zip(now, whole, strict=True))

    def work(rank: int, group) -> list:
        resumed = batches(source_of(local, tokenizer), 2, 24, whole[9].cursor, group=group, ahead=1)
        with closing(resumed) as stream:
            return take(stream, 20)

    flat = list(itertools.chain(*zip(*on_ranks(3, work), strict=True)))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(flat, whole[10:], strict=False))


def test_a_mixture_is_the_same_on_several_ranks(local, tokenizer, small_windows):
    def mixture() -> MixedSource:
        return MixedSource([(source_of(local, tokenizer), 0.7), (source_of(local, tokenizer, 5), 0.3)])

    whole = take(batches(mixture(), 2, 24), 60)

    def work(rank: int, group) -> list:
        with closing(batches(mixture(), 2, 24, group=group, ahead=1)) as stream:
            return take(stream, 20)

    flat = list(itertools.chain(*zip(*on_ranks(3, work), strict=True)))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(flat, whole, strict=True))


def test_a_store_that_fails_is_asked_again_and_named_in_the_end(store, there, tokenizer, capsys, monkeypatch):
    reader = TextReader(there, "train")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    store.fail("GET data/shard_00000", times=2, status=500)
    assert reader.read(0, 1)
    assert store.faults[0][1] == 0
    store.fail("GET data/shard_00001", times=10_000, status=403)
    with pytest.raises(UserError, match=r"s3://lab/data/shard_00001.parquet cannot be reached: .*; check the URL,"):
        reader.read(reader.ends[0], 1)


def test_what_is_missing_or_changed_is_named(store, local, tokenizer, monkeypatch):
    place = Remote("s3://lab/changing")
    for path in sorted(local.iterdir()):
        (place / path.name).upload(path)
    reader = TextReader(place, "train")
    (place / "shard_00000.parquet").upload(local / "shard_00001.parquet")
    with pytest.raises(UserError, match="changing/shard_00000.parquet changed while this run was reading it; put"):
        reader.read(0, 300)
    import s3fs

    s3fs.S3FileSystem().rm("lab/changing/shard_00000.parquet")
    with pytest.raises(UserError, match="changing/shard_00000.parquet was removed while this run was reading it"):
        TextReader.load(reader, reader.groups[2])
    with pytest.raises(UserError, match="no data in s3://lab/none: expected parquet files; check the URL"):
        TextReader(Remote("s3://lab/none"), "train")
    with pytest.raises(UserError, match=r"xyz://a/b cannot be opened .*; expected a URL such as s3://bucket/folder"):
        TextReader(Remote("xyz://a/b"), "train")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://a/b needs a package that is not installed .*`uv sync --extra stores`"):
        TextReader(Remote("gs://a/b"), "train")


def test_a_dataset_of_the_hub_is_read_in_place(local, tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat.data.shards.TAIL", 64)  # so that no read is of a whole file
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        fake.add("datasets/tester/words", local)
        reader = TextReader(Remote("hf://datasets/tester/words"), "train")
        assert reader.read(45, 10) == TextReader(local, "train").read(45, 10)
        asked = fake.sent("resolve/main")
        assert asked and all(each.range for each in asked)


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tokenizer: Tokenizer) -> manager.Loaded:
    tokenizer.save(tokenizer_dir())
    meta = {"tokenizer_hash": tokenizer.hash, "data": [{"what": "mine", "sha256": "0" * 64}], "val_bpb": 0.5}
    state = {"rng": torch.get_rng_state()}
    manager.save(checkpoints_dir("base") / "d4", 700, served.random_model(tokenizer), state, meta)
    return door.open("base", tag="d4", step=700)


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "theirs"))
    return checkpoints_dir("base") / "d4"


def test_a_checkpoint_goes_to_a_store_and_comes_back_whole(store, checkpoint, tmp_path, monkeypatch, capsys):
    url = "s3://lab/models/d4"
    push.main(["base", url, "--with_optimizer"])
    assert f"base d4, step 700 is at {url}; others get it with" in capsys.readouterr().out
    writes = [each.path for each in store.got("^(PUT|POST) models")]
    assert writes[-1].endswith("meta_000700.json")
    sums = Remote(f"{url}/SHA256SUMS").read().decode().split()
    model = checkpoint.folder / "model_000700.pt"
    assert sums[sums.index("model_000700.pt") - 1] == sha256(model)
    store.asked.clear()
    push.main(["base", url, "--with_optimizer"])  # all of it is there
    assert "model_000700.pt (is there)" in capsys.readouterr().out
    assert {each.path.rpartition("/")[2] for each in store.got("^(PUT|POST) models")} <= {"README.md", "SHA256SUMS"}
    folder = elsewhere(tmp_path, monkeypatch)
    pull.main([url, "--with_optimizer"])
    for name in ("model_000700.pt", *manager.state_files(700, checkpoint.meta)):
        assert (folder / name).read_bytes() == (checkpoint.folder / name).read_bytes()
    assert manager.load_step(folder, "d4", 700, with_optimizer=True).meta["data"] == checkpoint.meta["data"]
    assert Tokenizer.load(tokenizer_dir()).hash == checkpoint.tokenizer.hash  # where base_train looks for it
    pull.main([url])
    assert "is already in" in capsys.readouterr().out


def test_an_interrupted_push_leaves_no_checkpoint_and_resumes(store, checkpoint, tmp_path, monkeypatch, capsys):
    url = "s3://lab/cut/d4"
    store.fail("PUT cut/d4/tokenizer/tokenizer.json", times=10_000, status=403)
    with pytest.raises(UserError, match=r"s3://lab/cut/d4/tokenizer/tokenizer.json cannot be reached"):
        push.main(["base", url])
    names = Remote(url).sizes(deep=True)
    assert "model_000700.pt" in names and "meta_000700.json" not in names
    store.faults.clear()
    push.main(["base", url])
    assert len(store.got(r"^(PUT|POST) cut/d4/model")) == 1
    manager.save(checkpoint.folder, 700, served.random_model(checkpoint.tokenizer, seed=1), None, checkpoint.meta)
    with pytest.raises(UserError, match=r"s3://lab/cut/d4 holds another (meta_000700.json|model_000700.pt)"):
        push.main(["base", url])


def test_an_interrupted_pull_resumes_and_what_is_damaged_is_not_placed(store, checkpoint, tmp_path, monkeypatch):
    url = "s3://lab/pulled/d4"
    push.main(["base", url])
    folder = elsewhere(tmp_path, monkeypatch)
    monkeypatch.setattr("scripts._store.BLOCK", 50_000)
    read, left = Remote.read, iter(range(3))

    def cut(self: Remote, start: int | None = None, end: int | None = None) -> bytes:
        if self.name == "model_000700.pt" and next(left, None) is None:
            raise KeyboardInterrupt
        return read(self, start, end)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Remote, "read", cut)
        pull.main([url])
    store.asked.clear()
    pull.main([url])
    assert next(each for each in store.got("GET pulled/d4/model")).range.startswith("bytes=150000-")
    assert sha256(folder / "model_000700.pt") == sha256(checkpoint.folder / "model_000700.pt")
    content = bytearray((folder / "model_000700.pt").read_bytes())
    content[1000] ^= 1
    Remote(f"{url}/model_000700.pt").write(bytes(content))
    with pytest.raises(UserError, match="d4/model_000700.pt arrived twice with another checksum than SHA256SUMS"):
        pull.main([url, "--tag", "other"])
    assert not (checkpoints_dir("base") / "other").exists()


def test_flags_of_the_other_kind_of_place_are_refused(checkpoint, tokenizer):
    with pytest.raises(UserError, match="--private is for the hub"):
        push.main(["base", "s3://lab/x", "--private"])
    with pytest.raises(UserError, match="expected user/name, or a URL"):
        push.main(["base", "lab"])
    with pytest.raises(UserError, match="--revision is for the hub"):
        pull.main(["s3://lab/x", "--revision", "main"])
