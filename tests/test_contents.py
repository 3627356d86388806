"""A run knows its data by content: another path is no change, and every edit is named."""

import hashlib
import json
import random
import re
import shutil
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.data import contents, texts
from nanochat.data.contents import changed
from nanochat.data.shards import TextReader, write_shards
from nanochat.data.streams import ConversationSource, MixedSource, TextSource
from nanochat.errors import UserError
from nanochat.paths import base_dir, dataset_dir
from tasks.catalog import training_conversations
from tasks.littleworld import VERSION as WORLD_VERSION
from tasks.littleworld import corpus
from tasks.littleworld.conversations import KINDS, LittleWorld
from tasks.spellingbee import VERSION as SPELLING_VERSION
from tasks.spellingbee import SimpleSpelling, SpellingBee


def shard(folder: Path, number: int | str, texts: list[str] | None = None) -> Path:
    """A shard of another program, whose footer holds no hash of the text."""
    name = f"shard_{number:05d}.parquet" if isinstance(number, int) else f"shard_{number}.parquet"
    own = texts or [f"shard {number}, text {n}. " * (1 + n) for n in range(3 + len(str(number)) + hash_of(name) % 50)]
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": own}), folder / name, row_group_size=4)
    return folder / name


def hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def many(folder: Path) -> Path:
    for number in range(5):
        shard(folder, number)
    return folder


def whole(folder: Path) -> list[dict]:
    """As a checkpoint's meta file gives it back."""
    return json.loads(json.dumps([TextReader(folder, "train").contents(), TextReader(folder, "val").contents()]))


def test_the_same_text_in_another_place_is_no_change(tmp_path):
    before = whole(many(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copy)
    (tmp_path / "b" / "shard_00000.parquet").rename(tmp_path / "b" / "shard_0000.parquet")
    assert changed(before, whole(tmp_path / "b")) is None


@pytest.mark.parametrize(
    "change, said",
    [
        ("edit", r"shard_00001.parquet is not the shard that this run read there \(the train split of many\)"),
        ("remove", r"shard_00001.parquet is missing or changed .* 4 shards when this run read it, 3 now\)"),
        ("insert", r"shard_00000a.parquet was put between the shards that this run read"),
        ("swap", "the shards are in another order than when this run read them"),
        ("validation", "shard_00004.parquet is not the shard that this run read there .the val split of many"),
        ("behind", "shard_00005.parquet comes after shard_00004.parquet, which was for validation and would now be"),
        ("between", None),
    ],
)
def test_changes_of_shards_are_named(tmp_path, change, said):
    folder = many(tmp_path / "many")
    before = whole(folder)
    if change == "edit":
        shard(folder, 1, ["another text"] * 9)
    elif change == "remove":
        (folder / "shard_00001.parquet").unlink()
    elif change == "insert":
        shard(folder, "00000a")
    elif change == "swap":
        one, two = folder / "shard_00001.parquet", folder / "shard_00002.parquet"
        one.rename(folder / "x")
        two.rename(one)
        (folder / "x").rename(two)
    elif change == "validation":
        shard(folder, 4, ["another text"])
    elif change == "behind":
        shard(folder, 5)
    else:  # a growing dataset, as a download leaves it: its last shard stays the last
        shard(folder, "00003a")
    found = changed(before, whole(folder))
    if said is None:
        assert found is None
    else:
        assert found is not None and re.search(said, found), found


def test_own_shards_are_known_by_their_text_also_where_all_sizes_are_equal(tmp_path):
    letters = random.Random(0)
    rows = ["".join(letters.choices(string.ascii_letters, k=200)) for _ in range(50)]
    other = [*rows[:-1], rows[-1][::-1]]  # as many documents, characters and bytes
    for name, one in (("a", rows), ("b", other)):
        write_shards(one, tmp_path / name, val_texts=["held out"])
    assert changed(whole(tmp_path / "a"), whole(tmp_path / "b")) is not None
    assert changed(whole(tmp_path / "b"), whole(tmp_path / "b")) is None
    footers = [TextReader(tmp_path / name, "val").digests for name in "ab"]
    assert footers[0] == footers[1]


# ---------------------------------------------------------------- conversations


def talk(text: str) -> list[dict]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": f"You said {text}."}]


def write(path: Path, words: list[str]) -> Path:
    path.write_text("".join(json.dumps(talk(word)) + "\n" for word in words), encoding="utf-8")
    return path


def own(*paths: Path, recipe: str = "none") -> list[dict]:
    both = [training_conversations(recipe, paths, split).contents() for split in ("train", "val")]
    return json.loads(json.dumps(both[0] + both[1]))


def test_files_of_conversations_are_known_by_their_bytes(tmp_path):
    words = [f"word {n}" for n in range(60)]
    before = own(write(tmp_path / "my.jsonl", words))
    assert changed(before, own(shutil.copy(tmp_path / "my.jsonl", tmp_path / "moved.jsonl"))) is None
    said = changed(before, own(write(tmp_path / "my.jsonl", [*words, *(f"new {n}" for n in range(200))])))
    assert said == "my.jsonl has other contents (60 conversations then, 260 now)"
    assert changed(before, own(write(tmp_path / "my.jsonl", ["worm 0", *words[1:]]))) == "my.jsonl has other contents"
    other = write(tmp_path / "other.jsonl", words[::-1])
    assert changed(before, own(other)) == "other.jsonl replaces my.jsonl, which this run was trained on"
    write(tmp_path / "my.jsonl", words)
    more = changed(before, own(tmp_path / "my.jsonl", other))
    assert more == "this run was trained on my.jsonl, and its data is now my.jsonl, other.jsonl"


def test_what_is_held_out_belongs_to_it(tmp_path):
    path = write(tmp_path / "my.jsonl", [f"word {n}" for n in range(60)])
    whole = training_conversations("none", [path], "train", val_data_path=[path]).contents()
    assert "part" not in whole[0]
    said = changed(training_conversations("none", [path], "train").contents(), whole)
    assert said is not None and "my.jsonl" in said


def test_conversations_made_here_are_known_by_version_and_parameters(base):
    (one,) = LittleWorld("facts", "train").contents()
    assert one["made"] == ["little world", WORLD_VERSION, "facts", "train", 34_000]
    (smaller,) = LittleWorld("facts", "train", 9).contents()
    said = changed([one], [smaller])
    assert said == "facts of the little world, train differs from what this run read"
    known = own(recipe="littleworld")
    assert len(known) == 2 * len(KINDS) and changed(known, own(recipe="littleworld")) is None
    before = json.loads(json.dumps(SpellingBee("train").contents()))
    base_dir().mkdir(parents=True)
    words = "\n".join("ab" + c + d for c in string.ascii_lowercase for d in "xyzuvw")
    (base_dir() / "words.txt").write_text(words, encoding="utf-8")
    assert changed(before, SpellingBee("train").contents()) is not None


def test_who_changes_what_is_made_here_raises_the_version():
    """Where this fails, raise VERSION in tasks/littleworld or tasks/spellingbee.py, and put the new hash here."""
    digest = hashlib.sha256()
    for kind in KINDS:
        for split in ("train", "val", "test"):
            for n in range(40):
                digest.update(json.dumps(LittleWorld(kind, split)[n]).encode())
    for text in corpus.documents("train", 0, 400):
        digest.update(text.encode())
    assert (WORLD_VERSION, digest.hexdigest()[:16]) == (15, "8dfe8f9087bda82d")
    digest = hashlib.sha256()
    for task in (SpellingBee("train"), SpellingBee("test"), SimpleSpelling("train", 99)):
        for n in range(99):
            digest.update(json.dumps(task[n]).encode())
    assert (SPELLING_VERSION, digest.hexdigest()[:16]) == (2, "df8301528847f53f")


# ---------------------------------------------------------------- sources


def test_sources_hand_on_what_they_are_made_of(base, tokenizer):
    for name in ("one", "two"):
        write_shards([f"{name} {n}" for n in range(40)], dataset_dir(name))
    text = texts.text_source(["one", "two"], "train", tokenizer)
    talks = ConversationSource([{"messages": talk(str(n))} for n in range(9)], tokenizer, 33, masked=False)
    mixed = MixedSource([(text, 0.5), (talks, 0.5)])
    entries = mixed.contents()
    assert [sorted(contents._kind(entry)) for entry in entries] == [["shards"], ["shards"], ["sha256"]]
    assert isinstance(text, MixedSource) and isinstance(text.parts[0][0], TextSource)
    assert json.loads(json.dumps(entries)) == entries
    talks.conversations = [{"messages": talk(str(n + 1))} for n in range(9)]
    assert changed(entries, mixed.contents()) == "conversations has other contents"


def test_there_may_be_more_or_fewer_sources(tmp_path):
    before = whole(many(tmp_path / "many"))
    said = changed(before, before[:1])
    assert said is not None and said.startswith("this run was trained on the train split of many, the val split")
    assert said.endswith("and its data is now the train split of many")
    assert changed([], before) is not None and changed(before, []) is not None and changed([], []) is None
    with pytest.raises(UserError):
        TextReader(tmp_path / "nothing", "train")
