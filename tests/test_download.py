"""Pretraining text from the hub: downloads are complete, and errors are one sentence and lose nothing."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fakehub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakehub import FakeHub

from nanochat import hub
from nanochat.data.shards import TextReader, iterate, write_shards
from nanochat.errors import UserError
from nanochat.paths import dataset_dir
from scripts import _hub_text as hub_text
from scripts import add_data
from scripts import download_data as download

ROOT = Path(__file__).resolve().parent.parent
REPO = "tester/text-shuffle"
PUBLISHED = 6


def parquet(texts: list[str], column: str = "text") -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), column: pa.array(texts, pa.string())}), out)
    return out.getvalue()


def texts_of(n: int) -> list[str]:
    """Of a shard: ten documents that do not compress, 60 kB."""
    noise = random.Random(n)
    return [f"{n}.{each} " + "".join(chr(noise.randrange(33, 127)) for _ in range(6000)) for each in range(10)]


SHARDS = {f"shard_{n:05d}.parquet": parquet(texts_of(n)) for n in range(PUBLISHED)}
LAST = max(SHARDS)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub, "PAUSE", 0.01)
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        fake.add(f"datasets/{REPO}", {"README.md": b"# Text\n", **SHARDS})
        yield fake


def fetch(*flags: str) -> Path:
    """Run the program; returns the folder it fills. The threads of one that failed would end with its process."""
    try:
        download.main(["--dataset", REPO, *flags])
    finally:
        for thread in threading.enumerate():
            if thread.name.endswith("(worker)"):
                thread.join(60)
    return dataset_dir("text-shuffle")


def contents(folder: Path) -> dict[str, bytes]:
    """A folder's files but the record of where they are from."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != download.RECORD}


def asked_for(fake: FakeHub) -> list[str]:
    """The files that were asked for since the last time, in order."""
    paths = [each.path.rpartition("/")[2] for each in fake.sent("/resolve/")]
    fake.asked.clear()
    return paths


# ---------------------------------------------------------------- shards as they are


def test_some_shards_and_the_validation_shard(fake, capsys):
    folder = fetch("-n", "2")
    assert contents(folder) == {name: SHARDS[name] for name in ("shard_00000.parquet", "shard_00001.parquet", LAST)}
    message = capsys.readouterr().out
    assert "2 shards to train on and shard_00005.parquet for validation" in message and "MB/s" in message
    assert "python -m scripts.base_train --dataset text-shuffle" in message
    assert list(iterate(folder, "train")) == texts_of(0) + texts_of(1) and list(iterate(folder, "val")) == texts_of(5)
    validation = TextReader(folder, "val").contents()
    asked_for(fake)
    fetch("-n", "4")
    assert sorted(asked_for(fake)) == ["shard_00002.parquet", "shard_00003.parquet"]  # only what is missing
    assert TextReader(folder, "train").num_documents == 40 and TextReader(folder, "val").contents() == validation
    fetch()
    assert contents(folder) == SHARDS


def test_known_datasets_have_their_own_folders(fake, base):
    for name, repo in hub_text.REPOSITORIES.items():
        fake.add(f"datasets/{repo}", SHARDS)
        download.main([f"--dataset={name}", "-n1"])
    assert sorted(path.name for path in base.iterdir()) == ["base_data", "base_data_climbmix"]
    assert hub_text.dataset_name("else/fineweb-edu") == "else-fineweb-edu"  # not among the shards of another


def test_a_dry_run_shows_the_size_and_fetches_nothing(fake, base, capsys):
    fetch("-n", "3", "--dry_run")
    message = capsys.readouterr().out
    size = sum(len(SHARDS[name]) for name in [*sorted(SHARDS)[:3], LAST])
    assert f"3 of 5 shards and the validation shard, {hub.in_bytes(size)}" in message and "free " in message
    assert not base.exists() and asked_for(fake) == []
    fetch("-n", "1")
    fetch("-n", "3", "--dry_run")
    assert f"to fetch  {hub.in_bytes(size - len(SHARDS[LAST]) - len(SHARDS[min(SHARDS)]))}" in capsys.readouterr().out


def test_several_workers(fake):
    fake.fail("resolve-cache.*shard", times=3, meet=threading.Barrier(3))
    assert contents(fetch("-w", "3")) == SHARDS


def test_validation_comes_first_and_the_others_in_order(fake):
    """So that a folder that is being filled can be trained on, and its documents keep their numbers."""
    fake.fail("resolve/.*shard_00001", times=6, status=503)
    fake.fail("resolve/.*shard_00004", times=6, status=503)
    with pytest.raises(UserError, match="answers 503"):
        fetch("-w", "2")
    folder = dataset_dir("text-shuffle")
    assert LAST in asked_for(fake)[:4]  # the first to be taken, by one of two threads
    there = contents(folder)
    assert {name for name in there if name.endswith(".parquet")} == {"shard_00000.parquet", LAST}
    assert list(iterate(folder, "train")) == texts_of(0)
    waiting = {name[:19] for name in there if name.endswith(".incomplete") and there[name] == SHARDS[name[:19]]}
    assert waiting  # have come, and wait for those before them
    fake.faults.clear()
    assert contents(fetch()) == SHARDS
    assert waiting.isdisjoint(asked_for(fake))
    for path in folder.iterdir():
        path.unlink()
    assert fetch("-w", "1") and asked_for(fake) == [LAST, *sorted(SHARDS)[:-1]]


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1000], lambda whole: whole[:-1] + b"x", lambda _: b""])
def test_a_shard_that_is_cut_short_or_changed_is_fetched_again(fake, damage):
    folder = fetch()
    path = folder / "shard_00003.parquet"
    path.write_bytes(damage(SHARDS[path.name]))
    asked_for(fake)
    with pytest.raises(UserError, match=r"shard_00003\.parquet is damaged"):
        TextReader(folder, "train")
    assert contents(fetch()) == SHARDS and asked_for(fake) == [path.name]


def test_a_disk_that_fills_up_keeps_complete_shards(fake, small_disk, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk / "base"))
    filler = small_disk / "filler"
    monkeypatch.setattr(
        hub, "check_space", lambda *_: filler.exists() or filler.write_bytes(bytes(hub.free(small_disk) - 150_000))
    )
    with pytest.raises(UserError, match="cannot write .*the disk is full"):
        fetch("-w", "1")
    assert contents(dataset_dir("text-shuffle"))[LAST] == SHARDS[LAST]
    filler.unlink()
    monkeypatch.undo()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk / "base"))
    fakehub.connect(fake, small_disk / "huggingface", monkeypatch)
    assert contents(fetch()) == SHARDS


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dataset=wikipedia"], "'wikipedia' is unknown; expected fineweb-edu, climbmix, or ORG/NAME"),
        (["--dataset=tester/nothing"], "has no tester/nothing, or it is private"),
        (["-n", "6"], "--num_shards is 6, but tester/text-shuffle has 5 shards to train on"),
        (["-n", "0"], "--num_shards is 0; expected 1 or more, or -1"),
        (["-w", "0"], "--workers is 0; expected 1 or more"),
    ],
)
def test_mistakes_are_explained(fake, base, flags, message):
    with pytest.raises(UserError, match=message):
        fetch(*flags)
    assert not base.exists()


def program(fake: FakeHub, tmp_path: Path, base: Path, *flags: str) -> subprocess.Popen[str]:
    env = {**os.environ, **fakehub.environment(fake, tmp_path / "huggingface"), "NANOCHAT_BASE_DIR": str(base)}
    command = [sys.executable, "-m", "nanochat.data.shards", "--dataset", REPO, *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite that runs in a shell's background ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_a_killed_command_resumes(fake, tmp_path, base):
    fake.fail("resolve/.*shard_00002", times=1, status=429, headers={"Retry-After": "200"})
    run = program(fake, tmp_path, base, "-w", "1")
    assert run.stdout is not None
    assert any("waiting 3m20s" in line for line in iter(run.stdout.readline, ""))
    run.kill()
    run.communicate()
    there = {name: content for name, content in contents(dataset_dir("text-shuffle")).items() if content}
    assert there == {name: SHARDS[name] for name in ("shard_00000.parquet", "shard_00001.parquet", LAST)}
    again = program(fake, tmp_path, base, "-w", "2")
    out, complaints = again.communicate()
    assert again.returncode == 0 and complaints == "" and "5 shards to train on" in out
    assert contents(dataset_dir("text-shuffle")) == SHARDS
    fake.vanish()
    gone = program(fake, tmp_path, base)
    _, complaints = gone.communicate()
    assert gone.returncode == 2 and complaints.startswith("error: ") and complaints.count("\n") == 1


# ---------------------------------------------------------------- whose shards they are


def test_your_own_shards_are_never_replaced(fake, capsys):
    write_shards(texts_of(9), dataset_dir("text-shuffle"))
    mine = contents(dataset_dir("text-shuffle"))
    for flags in ([], ["-n1"], ["--dry_run"]):
        with pytest.raises(
            UserError, match=f"base_data_text-shuffle holds shard_00000.parquet, .*not from {REPO}; move"
        ):
            fetch(*flags)
        assert contents(dataset_dir("text-shuffle")) == mine and asked_for(fake) == []
    shutil.rmtree(dataset_dir("text-shuffle"))
    assert contents(fetch()) == SHARDS
    add_data.add(texts_of(9), "text-shuffle", overwrite=True)  # what was known of the old ones goes with them
    with pytest.raises(UserError, match="which is not from"):
        fetch()
    assert contents(dataset_dir("text-shuffle")) == mine


def test_owners_with_the_same_repository_name_do_not_mix(fake):
    other = {f"shard_{n:05d}.parquet": parquet(texts_of(n + 10)) for n in range(8)}
    fake.add("datasets/else/text-shuffle", other)
    folder = fetch("-n2")
    there = contents(folder)
    asked_for(fake)
    for flags in ([], ["-n1"], ["--dry_run"]):
        with pytest.raises(UserError, match=f"{folder} holds .* made earlier from {REPO}, .*else/text-shuffle would"):
            download.main(["--dataset=else/text-shuffle", *flags])
        assert contents(folder) == there and asked_for(fake) == []
    assert contents(fetch()) == SHARDS


@pytest.mark.parametrize("there", [[], [LAST], ["shard_00001.parquet"], [LAST, *sorted(SHARDS)[:2]], sorted(SHARDS)])
def test_shards_downloaded_by_other_programs_are_adopted(fake, there):
    folder = dataset_dir("text-shuffle")
    folder.mkdir(parents=True)
    for name in there:
        (folder / name).write_bytes(SHARDS[name])
    (folder / "README.md").write_bytes(b"# Text\n")
    fetch("-n1", "--dry_run")
    assert not (folder / download.RECORD).exists()
    fetch("-n3")
    assert sorted(asked_for(fake)) == sorted({LAST, *sorted(SHARDS)[:3]} - {*there})
    (folder / "README.md").unlink()
    (folder / "shard_00000.parquet").write_bytes(b"cut short")  # and those recorded are repaired
    assert contents(fetch()) == SHARDS


@pytest.mark.parametrize("name, content", [("shard_00007.parquet", SHARDS[LAST]), (LAST, SHARDS[LAST][:-1] + b"x")])
def test_a_single_foreign_shard_is_refused(fake, name, content):
    folder = dataset_dir("text-shuffle")
    folder.mkdir(parents=True)
    (folder / "shard_00000.parquet").write_bytes(SHARDS["shard_00000.parquet"])
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{folder} holds {name}, which is not from"):
        fetch()
    assert asked_for(fake) == [] and (folder / name).read_bytes() == content


def test_the_source_is_recorded_before_the_first_shard(fake):
    fake.fail("resolve/.*shard", times=99, status=404)
    with pytest.raises(UserError):
        fetch()
    folder = dataset_dir("text-shuffle")
    assert not list(folder.glob("*.parquet"))
    assert json.loads((folder / download.RECORD).read_text(encoding="utf-8")) == {"repository": REPO}
    fake.faults.clear()
    fake.add("datasets/else/text-shuffle", SHARDS)
    download.main(["--dataset=else/text-shuffle", "-n1"])  # nothing had come of the other
    (folder / download.RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="source.json cannot be read .*; delete it"):
        fetch()


def test_a_finished_conversion_is_not_repeated(fake, capsys):
    files = {f"data/train-{n:05d}-of-00003.parquet": parquet(texts_of(n)) for n in range(3)}
    fake.add("datasets/tester/web", files)
    fake.add("datasets/else/web", files)
    download.main(["--dataset=tester/web", "-n2"])
    there = contents(dataset_dir("web"))
    asked_for(fake)
    capsys.readouterr()
    download.main(["--dataset=tester/web", "-n2"])
    message = capsys.readouterr().out
    assert "the text of these 2 files is in" in message and "python -m scripts.tok_train --dataset web" in message
    for flags, repo in ((["--dataset=else/web", "-n2"], "2 files of else/web"),
                        (["--dataset=tester/web"], "3 files of tester/web")):  # fmt: skip
        with pytest.raises(UserError, match=f"already holds data; it is not made of these {repo}, so move it") as error:
            download.main(flags)
        assert "--" not in str(error.value)
    fake.add("datasets/tester/web", SHARDS)  # which are not those that were made here of its text
    with pytest.raises(UserError, match="holds shards made earlier from tester/web, and those of tester/web"):
        download.main(["--dataset=tester/web"])
    assert contents(dataset_dir("web")) == there and asked_for(fake) == []
    fake.add("datasets/tester/web", files)
    for path in dataset_dir("web").glob("*.parquet"):
        path.unlink()
    download.main(["--dataset=tester/web", "-n2"])
    assert contents(dataset_dir("web")) == there


# ---------------------------------------------------------------- text in other layouts


def test_any_dataset_of_the_hub_becomes_shards(fake, capsys):
    files = {f"data/train-{n:05d}-of-00003.parquet": parquet(texts_of(n)) for n in range(3)}
    fake.add("datasets/tester/web", {**files, "data/test-00000-of-00001.parquet": parquet(["not this"])})
    download.main(["--dataset=tester/web", "-n2"])
    folder = dataset_dir("web")
    assert sorted([*iterate(folder, "train"), *iterate(folder, "val")]) == sorted(texts_of(0) + texts_of(1))
    assert "20 documents" in capsys.readouterr().out
    asked_for(fake)
    add_data.main(["tester/web", "--name=all"])
    assert sum(TextReader(dataset_dir("all"), split).num_documents for split in ("train", "val")) == 30
    assert len(asked_for(fake)) == 1  # the other two were in the cache
    download.main(["--dataset=tester/web", "--dry_run"])
    assert "3 files" in capsys.readouterr().out.splitlines()[-4]


def test_a_dataset_and_a_file_together(fake, tmp_path):
    lines = [json.dumps({"body": text}) + "\n" for text in texts_of(1)]
    fake.add("datasets/tester/lines", {"train.jsonl": "".join(lines).encode(), "README.md": b"no card"})
    (tmp_path / "own.jsonl").write_text(json.dumps({"body": "own words"}) + "\n", encoding="utf-8")
    add_data.main(["tester/lines", str(tmp_path / "own.jsonl"), "--column=body"])
    folder = dataset_dir("lines")
    assert sorted([*iterate(folder, "train"), *iterate(folder, "val")]) == sorted(["own words", *texts_of(1)])


def test_a_dataset_without_the_column_costs_one_file(fake, base):
    files = {f"train-{n}.parquet": parquet(texts_of(n), "content") for n in range(3)}
    fake.add("datasets/tester/web", files)
    for argv in (["tester/web"], ["tester/web", "--column=txt"]):
        with pytest.raises(UserError, match=r"train-0\.parquet needs a string column named t.*, but has id .*content"):
            add_data.main(argv)
    assert asked_for(fake) == ["train-0.parquet"] and not base.exists()
    add_data.main(["tester/web", "--column=content"])
    assert TextReader(dataset_dir("web"), "val").num_documents > 0


CARD = """---
configs:
- config_name: full
  data_files:
  - split: train
    path: [data/*/*]
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
  - split: held
    path: ./sample/held.parquet
- config_name: lone
  data_files: extra/one.parquet
---
# Text
"""
CARDED = ["data/CC-1/0.parquet", "data/CC-2/1.parquet", "sample/10BT/0.parquet", "sample/held.parquet",
          "extra/one.parquet"]  # fmt: skip
PLAIN = ["en/train-0.parquet", "en/train-1.parquet", "en/validation-0.parquet", "de/train-0.parquet"]
NAMELESS = ["b.parquet", "a.parquet", "test.parquet", "notes.txt"]


@pytest.mark.parametrize(
    "card, paths, config, split, expected",
    [
        (CARD, CARDED, "sample-10BT", "train", ["sample/10BT/0.parquet"]),
        (CARD, CARDED, "sample-10BT", "held", ["sample/held.parquet"]),
        (CARD, CARDED, "full", "train", ["data/CC-1/0.parquet", "data/CC-2/1.parquet"]),
        (CARD, CARDED, "lone", "train", ["extra/one.parquet"]),
        (CARD, CARDED, None, "train", "several configurations; choose one with --config: full, sample-10BT, lone"),
        (CARD.replace("lone", "default"), CARDED, None, "train", ["extra/one.parquet"]),
        (CARD, CARDED, "nine", "train", "has no configuration 'nine'; it has full, sample-10BT, lone"),
        (CARD, CARDED, "full", "test", "has no split 'test'; choose one with --split: train"),
        ("---\nconfigs: [odd, {config_name: x, data_files: [{}]}]\n---\n", PLAIN, "en", "train", PLAIN[:2]),
        ("", PLAIN, "en", "train", ["en/train-0.parquet", "en/train-1.parquet"]),
        ("", PLAIN, "en", "validation", ["en/validation-0.parquet"]),
        ("", PLAIN, None, "train", ["de/train-0.parquet", "en/train-0.parquet", "en/train-1.parquet"]),
        ("", PLAIN, "fr", "train", "has no configuration 'fr'; it has de, en"),
        ("", PLAIN, "de", "test", "has no files of the split 'test'; it has de/train-0.parquet"),
        ("", NAMELESS, None, "train", ["a.parquet", "b.parquet"]),
        ("", ["notes.txt", "LICENSE"], None, "train", ["notes.txt"]),
        ("", ["a.zip"], None, "train", "holds no .parquet, .jsonl, .txt and the hub no copy .*; it holds README"),
    ],
)  # fmt: skip
def test_which_files_are_selected(fake, card, paths, config, split, expected):
    fake.add("datasets/tester/web", {"README.md": card.encode(), **dict.fromkeys(paths, b"bytes")})
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            hub_text.select(hub_text.look("tester/web"), config, split)
    else:
        files = hub_text.select(hub_text.look("tester/web"), config, split).files
        assert [file.path for file in files] == expected


def test_the_hubs_own_copy_of_a_dataset_in_other_files(fake):
    fake.add("datasets/tester/zipped", {"en.json.gz": b"zipped", "README.md": b"# Text"})
    copy = {f"en/partial-train/{n:04d}.parquet": parquet(texts_of(n)) for n in range(2)}
    copy |= {"en/validation/0000.parquet": parquet(["held"]), "de/train/0000.parquet": parquet(["deutsch"])}
    fake.add(f"datasets/tester/zipped@{hub_text.CONVERTED}", copy)
    with pytest.raises(UserError, match="choose one with --config: en, de"):
        add_data.main(["tester/zipped"])
    add_data.main(["tester/zipped", "--config=en"])
    folder = dataset_dir("zipped")
    assert sorted([*iterate(folder, "train"), *iterate(folder, "val")]) == sorted(texts_of(0) + texts_of(1))


def test_datasets_and_paths_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    assert hub_text.is_repository("roneneldan/TinyStories")
    for path in ("texts/novel", "book.txt", "my/book.txt", "./book", "/tmp/book", "a/b/c", "../up"):
        assert not hub_text.is_repository(path)
    with pytest.raises(UserError, match="my/book.txt does not exist"):
        add_data.main(["my/book.txt"])


def test_a_conversion_that_fills_the_disk_leaves_nothing(fake, small_disk, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk))
    noise = random.Random(0)
    fake.add("datasets/tester/web", {"train.parquet": parquet([noise.randbytes(50_000).hex() for _ in range(100)])})
    for convert in (lambda: download.main(["--dataset=tester/web"]), lambda: add_data.main(["tester/web"])):
        with pytest.raises(UserError, match="cannot write .*base_data_web: the disk is full"):
            convert()
        assert list(small_disk.iterdir()) == []
    assert asked_for(fake) == ["train.parquet"]  # stays in the cache


def test_ctrl_c_ends_all_workers_at_once(fake, tmp_path, base):
    """A process that is told to wait for minutes ends at once."""
    fake.fail("resolve/.*shard", times=9, status=429, headers={"Retry-After": "200"})
    run = program(fake, tmp_path, base, "-w", "3")
    assert run.stdout is not None
    assert any("waiting 3m20s" in line for line in iter(run.stdout.readline, ""))
    run.send_signal(2)
    run.communicate(timeout=60)
    assert run.returncode == 130
