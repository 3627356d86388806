import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import shards
from nanochat.data.shards import TextReader, iterate, iterate_file, list_shards, write_shards
from nanochat.errors import UserError
from nanochat.paths import write_text


def some_texts(count: int) -> list[str]:
    random.seed(count)
    return [f"document {n}\n" + "grüße " * random.randrange(40) for n in range(count)]


def both(folder: Path) -> tuple[list[str], list[str]]:
    return list(iterate(folder, "train")), list(iterate(folder, "val"))


def everything(folder: Path) -> list[str]:
    train, val = both(folder)
    return sorted(train + val)


def parquet(path: Path, columns: dict, **options) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


# -- writing


def test_layout(tmp_path):
    written = write_shards(some_texts(500), tmp_path / "data", docs_per_group=16, shard_bytes=8_000)
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == [f"shard_{n:05d}.parquet" for n in range(written.files)] and written.files > 4
    assert [path.name for path in list_shards(tmp_path / "data", "val")] == names[-1:]
    assert [path.name for path in list_shards(tmp_path / "data", "train")] == names[:-1]
    for path in list_shards(tmp_path / "data", "train"):
        file = pq.ParquetFile(path)
        assert file.schema_arrow == pa.schema([("text", pa.string())])
        assert all(0 < file.metadata.row_group(n).num_rows <= 16 for n in range(file.num_row_groups))
        assert sum(len(text.encode()) for text in iterate_file(path)) <= 8_000


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=2, max_size=60),
    st.integers(1, 7),
    st.integers(1, 60),
    st.integers(1, 150),
)
@settings(max_examples=60)
def test_every_document_is_there_once_and_in_order(texts, docs_per_group, group_bytes, shard_bytes):
    kept = [text for text in texts if text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder, "data")
        sizes = {"docs_per_group": docs_per_group, "group_bytes": group_bytes, "shard_bytes": shard_bytes}
        if len(kept) < 2:
            with pytest.raises(UserError):
                write_shards(texts, folder, val_fraction=0.3, **sizes)
            assert not folder.exists()
            return
        written = write_shards(texts, folder, val_fraction=0.3, **sizes)
        train, val = both(folder)
    assert train and val and sorted(train + val) == sorted(kept)
    for split in train, val:
        rest = iter(kept)
        assert all(text in rest for text in split)  # a subsequence of what came in
    assert written[:4] == (len(train), sum(map(len, train)), len(val), sum(map(len, val)))


def test_the_split_follows_the_content_alone(tmp_path):
    texts = some_texts(2000)
    write_shards(texts, tmp_path / "a")
    write_shards(reversed(texts), tmp_path / "b", docs_per_group=7)
    write_shards(texts[:1000] + texts[:1000], tmp_path / "twice")
    val = list(iterate(tmp_path / "a", "val"))
    assert 0.08 < len(val) / 2000 < 0.12
    assert set(val) == set(iterate(tmp_path / "b", "val"))
    assert set(iterate(tmp_path / "twice", "val")) <= set(val)
    assert not set(iterate(tmp_path / "twice", "train")) & set(val)


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_split_is_ever_empty(tmp_path, fraction):
    write_shards(["one", "two", "three"], tmp_path / "data", val_fraction=fraction)
    train, val = both(tmp_path / "data")
    assert (train, val) == ((["one", "two"], ["three"]) if fraction < 0.5 else (["three"], ["one", "two"]))


@pytest.mark.parametrize(
    "text, held_out",
    [
        ("a paragraph of words. " * 40 + "\n\n" + "the last paragraph. " * 5, "the last paragraph. " * 5),
        ("a line of verse here\n" * 50, "a line of verse here\n" * 5),
        ("ü" * 1000, "ü" * 100),
    ],
)
def test_one_document_is_cut_at_a_boundary_near_the_end(tmp_path, text, held_out):
    write_shards([text], tmp_path / "data")
    train, val = both(tmp_path / "data")
    assert "".join(train + val) == text.strip() and val == [held_out.strip()]


def test_given_validation_texts_are_the_validation_split(tmp_path):
    train, val = some_texts(100), ["held out", " ", "also held out"]
    write_shards(train, tmp_path / "data", val_texts=val)
    assert both(tmp_path / "data") == (train, ["held out", "also held out"])
    with pytest.raises(UserError, match="no documents for the val split"):
        write_shards(train, tmp_path / "other", val_texts=[" "])


@pytest.mark.parametrize(
    "texts, sentence",
    [
        ([], "no text to write"),
        ([" \n", ""], "no text to write"),
        (["one short line\n"], "one document of 14 characters, too short"),
        (["x" * 150 + " " * 100 + "\n" * 100], "one document of 150 characters, too short"),
    ],
)
def test_too_little_text_is_a_sentence_and_changes_nothing(tmp_path, texts, sentence):
    with pytest.raises(UserError, match=sentence):
        write_shards(texts, tmp_path / "base" / "data")
    assert list(tmp_path.iterdir()) == []


def test_existing_data_is_replaced_only_when_asked(tmp_path):
    """And with it what `beside` has put there."""
    folder = tmp_path / "data"
    write_shards(["old one", "old two"], folder, beside=lambda draft: write_text(draft / ".note", "old"))
    with pytest.raises(UserError, match="already holds data.*--overwrite"):
        write_shards(["new one", "new two"], folder)
    assert (folder / ".note").exists() and everything(folder) == ["old one", "old two"]
    write_shards(["new one", "new two"], folder, overwrite=True)
    assert not (folder / ".note").exists() and everything(folder) == ["new one", "new two"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match=r"will not replace .*thesis\.tex"):
        write_shards(["a", "b"], tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_source_that_fails_midway_leaves_what_was_there(tmp_path):
    write_shards(["old one", "old two"], tmp_path / "data")

    def failing():
        yield from some_texts(3000)
        raise UserError("line 3001 is bad")

    for name in "data", "fresh":
        with pytest.raises(UserError, match="line 3001"):
            write_shards(failing(), tmp_path / name, overwrite=True)
    assert everything(tmp_path / "data") == ["old one", "old two"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


WRITER = """
    import sys, time
    from pathlib import Path
    from nanochat.data.shards import write_shards

    def endless():
        for n in range(10**9):
            if n == 5000:
                print("under way", flush=True)
            if n > 5000:
                time.sleep(0.01)
            yield f"document {n}"

    write_shards(endless(), Path(sys.argv[1]), shard_bytes=10_000)
"""


def test_a_killed_writer_leaves_nothing_that_stands_in_the_way(tmp_path):
    root = Path(__file__).parent.parent
    folder = tmp_path / "data"
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)], stdout=subprocess.PIPE, cwd=root
    )
    assert writer.stdout is not None and writer.stdout.readline() == b"under way\n"
    with pytest.raises(UserError, match="another process is writing"):
        write_shards(["a", "b"], folder)
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert not folder.exists()
    write_shards(["a", "b"], folder)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert sorted(path.name for path in folder.iterdir()) == ["shard_00000.parquet", "shard_00001.parquet"]


# -- reading


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A dataset of many small and some empty shards and row groups, and its training documents."""
    folder = tmp_path_factory.mktemp("shelf")
    texts = some_texts(97)
    taken = 0
    for n, size in enumerate([10, 0, 1, 33, 0, 53, 0]):
        column = pa.array(texts[taken : taken + size], pa.string())
        parquet(folder / f"shard_{n:05d}.parquet", {"text": column}, row_group_size=n % 4 + 1)
        taken += size
    parquet(folder / "shard_00007.parquet", {"text": ["held out"]})
    return folder, texts


@given(st.lists(st.tuples(st.integers(0, 110), st.integers(0, 110)), max_size=12))
@settings(max_examples=60)
def test_reading_anywhere_equals_slicing(shelf, reads):
    folder, texts = shelf
    reader = TextReader(folder, "train")
    assert reader.num_documents == len(texts)
    for position, count in reads:
        assert reader.read(position, count) == texts[position : position + count]


def test_reading_forward_decodes_each_row_group_once(tmp_path, monkeypatch):
    write_shards(some_texts(300), tmp_path / "data", docs_per_group=10, shard_bytes=4_000)
    groups = sum(pq.ParquetFile(path).num_row_groups for path in list_shards(tmp_path / "data", "train"))
    decoded = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, n, **k: decoded.append(k) or iter_batches(self, n, **k)
    )
    reader = TextReader(tmp_path / "data", "train")
    texts = [text for position in range(0, reader.num_documents, 3) for text in reader.read(position, 3)]
    assert len(texts) == reader.num_documents and len(decoded) == groups


def test_files_of_other_tools(tmp_path):
    """Other columns beside the text, 64-bit offsets, nulls, dictionaries, another compression."""
    texts = pa.array(["one", None, "three"], pa.large_string())
    parquet(tmp_path / "data" / "a.parquet", {"id": [1, 2, 3], "text": texts}, compression="gzip")
    parquet(tmp_path / "data" / "b.parquet", {"text": ["val"], "score": [0.5]})
    assert both(tmp_path / "data") == (["one", "", "three"], ["val"])


@pytest.mark.parametrize(
    "contents, split, sentence",
    [
        (None, "train", "no data in .*data: the folder does not exist; run python -m scripts.add_data"),
        ([], "val", r"no data in .*data: expected shard_00000\.parquet.* bash speedrun\.sh"),
        ([["a single line"]], "train", r"shard_00000\.parquet only, .* nothing is left to train on"),
        ([["a single line"]], "val", r"shard_00000\.parquet only"),
        ([[], ["val"]], "train", "the train split of .* has no documents"),
        ([["train"], []], "val", "the val split of .* has no documents"),
    ],
)
def test_missing_data_is_a_sentence(tmp_path, contents, split, sentence):
    if contents is not None:
        (tmp_path / "data").mkdir()
    for n, texts in enumerate(contents or []):
        parquet(tmp_path / "data" / f"shard_{n:05d}.parquet", {"text": pa.array(texts, pa.string())})
    with pytest.raises(UserError, match=sentence):
        TextReader(tmp_path / "data", split)


@pytest.mark.parametrize(
    "columns, found",
    [({"content": ["x"], "id": [1]}, r"has content \(string\), id \(int64\)"), ({"text": [1]}, r"has text \(int64\)")],
)
def test_a_shard_without_text_is_a_sentence(tmp_path, columns, found):
    for n in range(2):
        parquet(tmp_path / f"shard_{n:05d}.parquet", columns)
    with pytest.raises(UserError, match=r"shard_00000\.parquet needs a string column named text, but " + found):
        TextReader(tmp_path, "train")


def test_damaged_shards_are_named(tmp_path):
    write_shards(some_texts(3000), tmp_path / "data")
    shard = tmp_path / "data" / "shard_00000.parquet"
    whole = shard.read_bytes()
    for damaged in (b"", b"no parquet at all", whole[: len(whole) // 2], whole[:-1] + b"x"):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"shard_00000\.parquet is damaged"):
            TextReader(tmp_path / "data", "train")
    middle = len(whole) // 3
    shard.write_bytes(whole[:middle] + b"\xff" * 500 + whole[middle + 500 :])  # sound at its end, not inside
    for texts in (iterate(tmp_path / "data", "train"), iterate_file(shard)):
        with pytest.raises(UserError, match=r"shard_00000\.parquet is damaged"):
            list(texts)


def test_a_single_flipped_bit_is_noticed(tmp_path):
    write_shards(some_texts(3000), tmp_path / "data")
    shard = tmp_path / "data" / "shard_00000.parquet"
    whole = shard.read_bytes()
    texts = list(iterate(tmp_path / "data", "train"))
    for place in range(200, len(whole) - 200, len(whole) // 40):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert list(iterate(tmp_path / "data", "train")) == texts  # of a page's head some bits mean nothing
        except UserError as error:
            assert "shard_00000.parquet is damaged" in str(error)


# -- files that hold more than they weigh


def bomb(path: Path, size: int, rows: int) -> Path:
    """One string of so many bytes, which so many rows repeat."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))
    parquet(path, {"text": text}, compression="zstd", store_schema=False, write_statistics=False)
    return path


READ = """
import resource, sys
from pathlib import Path
from nanochat.errors import UserError
from nanochat.data import shards

shards.MAX_GROUP = int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(sum(1 for _ in shards.iterate_file(Path(sys.argv[1]))))
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_decompression_bomb_takes_no_memory(tmp_path):
    """Its rows are 4 GB of text, out of some hundred bytes."""
    path = bomb(tmp_path / "a.parquet", 4 << 20, 1024)
    assert path.stat().st_size < 1000
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", READ, path, str(100 << 20)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    said, kilobytes = done.stdout.splitlines()
    assert said.startswith(f"{path} has ") and "unpacks to more than 104,857,600 bytes of text" in said
    assert int(kilobytes) < 500_000


def test_limits_are_named(tmp_path, monkeypatch):
    path = bomb(tmp_path / "a.parquet", 2000, 40)
    assert len(list(iterate_file(path))) == 40
    monkeypatch.setattr(shards, "MAX_DOCUMENT", 1999)
    with pytest.raises(UserError, match=r"a\.parquet has a document of 2,000 bytes in its row group 0.* have 1,999"):
        list(iterate_file(path))
    monkeypatch.setattr(shards, "MAX_DOCUMENT", 2000)
    monkeypatch.setattr(shards, "MAX_GROUP", 20_000)
    assert len(list(iterate_file(path))) == 40  # not a thousand times its size
    monkeypatch.setattr(shards, "MAX_RATIO", 2)
    with pytest.raises(UserError, match=r"a\.parquet has \d+ bytes and unpacks to more than 20,000 bytes of text"):
        list(iterate_file(path))
    parquet(tmp_path / "b.parquet", {"text": ["val"]})
    with pytest.raises(UserError, match=r"a\.parquet has a row group of more than 20,000 bytes.*scripts\.add_data"):
        TextReader(tmp_path, "train").read(0, 1)


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=40),
       st.integers(1, 30), st.booleans(), st.sampled_from([pa.string(), pa.large_string()]),
       st.sampled_from([40, 90, 1 << 20]))  # fmt: skip
@settings(max_examples=40)
def test_small_batches_hold_what_the_file_holds(texts, group, dictionary, kind, batch):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "a.parquet")
        parquet(path, {"id": range(len(texts)), "text": pa.array(texts, kind)}, row_group_size=group,
                use_dictionary=dictionary)  # fmt: skip
        patch.setattr(shards, "MAX_DOCUMENT", batch)
        assert list(iterate_file(path)) == [text or "" for text in texts]
