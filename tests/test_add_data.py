import gzip
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev import docstrings
from nanochat.data import documents as documents_module
from nanochat.data import shards
from nanochat.data.documents import DOCUMENT_CHARS, documents
from nanochat.data.files import LeftOut
from nanochat.data.shards import iterate, write_shards
from nanochat.errors import UserError
from nanochat.paths import dataset_dir
from scripts import add_data

ROOT = Path(__file__).parent.parent


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def read(*paths: Path, column: str = "text", longest: int = DOCUMENT_CHARS) -> list[str]:
    return list(documents(paths, column, [], longest))


def test_everything_together_becomes_a_dataset(tmp_path, capsys):
    put(tmp_path / "in" / "b.txt", "bee")
    put(tmp_path / "in" / "a" / "z.md", "# zed")
    put(tmp_path / "in" / "a" / "rows.jsonl", '{"text": "row one"}\n\n{"text": "row two", "id": 2}\n')
    put(tmp_path / "in" / ".hidden", "no")
    put(tmp_path / "in" / ".git" / "config", "no")
    put(tmp_path / "in" / "image.png", b"\x89PNG\r\n\0\0\0")
    pq.write_table(pa.table({"text": ["from parquet"]}), tmp_path / "extra.parquet")
    assert read(tmp_path / "in", tmp_path / "extra.parquet") == [
        "bee", "row one", "row two", "# zed", "from parquet"
    ]  # fmt: skip

    add_data.main([str(tmp_path / "in"), str(tmp_path / "extra.parquet"), "--name", "mine", "--val-fraction=0.4"])
    folder = dataset_dir("mine")
    train, val = list(iterate(folder, "train")), list(iterate(folder, "val"))
    assert train and val and sorted(train + val) == ["# zed", "bee", "from parquet", "row one", "row two"]
    said = capsys.readouterr().out
    assert "5 documents, 34 characters" in said and str(folder) in said
    assert f"train       {len(train)} documents" in said and f"validation  {len(val)} documents" in said
    assert "python -m scripts.tok_train --dataset mine" in said
    assert "python -m scripts.tok_train --dataset mine --vocab_size 4096\n" in said
    assert "python -m scripts.base_train config/chat_base.yaml --dataset mine\n" in said
    assert "--dataset mine --depth 12" in shards.how_to_train("mine", 2_000_000_000)
    assert f"left out 1: a binary file\n  {tmp_path / 'in' / 'image.png'}\n" in said


def test_the_same_files_give_the_same_bytes(tmp_path, monkeypatch):
    put(tmp_path / "in" / "book.txt", "\n\n".join(f"Paragraph {n}. " + "Words follow. " * 30 for n in range(200)))
    hashes = []
    for base in "one", "two":
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / base))
        add_data.main([str(tmp_path / "in")])
        hashes.append([path.read_bytes() for path in sorted(dataset_dir("in").iterdir())])
    assert hashes[0] == hashes[1] and len(hashes[0]) == 2


def test_a_book_becomes_documents_that_end_with_paragraphs(tmp_path):
    paragraphs = [f"Paragraph {n}. " + "Words follow. " * 30 for n in range(100)]
    texts = read(put(tmp_path / "book.txt", "\r\n\r\n".join(paragraphs)))
    assert "\n\n".join(texts) == "\n\n".join(paragraphs)
    assert all(text.startswith("Paragraph") and len(text) <= DOCUMENT_CHARS for text in texts)
    assert 10 < len(texts) < 30
    assert read(put(tmp_path / "note.txt", "\ufeffone\r\n\r\ntwo\rthree\n")) == ["one\n\ntwo\nthree"]  # a short one


@given(st.text(st.sampled_from("aé€😀 \n"), max_size=400), st.integers(1, 40))
@settings(max_examples=100)
def test_no_character_is_lost(tmp_path_factory, text, limit):
    path = put(tmp_path_factory.mktemp("text") / "file.txt", text)
    texts = read(path, longest=limit)
    assert all(len(part) <= limit for part in texts)
    assert "".join(texts).replace("\n", "") == text.replace("\n", "")


def test_characters_are_whole_where_a_large_file_is_read_in_pieces(tmp_path):
    text = "x" + "€" * 1_000_000  # 3 bytes each, so no piece of 1 MiB ends with one
    assert "".join(read(put(tmp_path / "file.txt", text))) == text


@pytest.mark.parametrize("before", [0, 10, (1 << 20) - 1, (1 << 20) + 5])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe2\x82", b"\xc3("])
def test_bytes_that_are_not_utf8_are_named_by_offset(tmp_path, before, bad):
    path = put(tmp_path / "latin.txt", b"x" * before + bad)
    with pytest.raises(UserError, match=rf"latin\.txt is not UTF-8 at byte {before};"):
        read(path)


@pytest.mark.parametrize(
    "line, sentence",
    [
        ('{"text": "x"', r"rows\.jsonl:3 is not JSON"),
        (b'{"text": "\xff"}', r"rows\.jsonl is not UTF-8 at byte 28;"),
        ('"text"', r"rows\.jsonl:3 has no text in 'text' \(found: str\)"),
        ('{"content": "x", "id": 1}', r"rows\.jsonl:3 has no text in 'text' \(found: content, id\).*--column"),
        ('{"text": null}', r"rows\.jsonl:3 has no text in 'text'"),
        ('{"text": "\\ud83d"}', r"rows\.jsonl:3 holds half a character \(\\ud83d\)"),
        ('{"messages": []}', r"rows\.jsonl:3 is a conversation; .*--data_path=.*rows\.jsonl$"),
        ('[{"role": "user", "content": "x"}]', r"rows\.jsonl:3 is a conversation"),
        ("[" * 100_000, r"rows\.jsonl:3 is not JSON"),
    ],
)
def test_bad_jsonl_lines_are_named(tmp_path, line, sentence):
    path = put(tmp_path / "rows.jsonl", b'{"text": "fine"}\n\n' + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(UserError, match=sentence):
        read(path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    path = put(tmp_path / "rows.jsonl", '{"text": "fine"}\n{"text": "' + "x" * 100 + '"}\n')
    monkeypatch.setattr(shards, "MAX_DOCUMENT", 113)
    assert read(path) == ["fine", "x" * 100]
    monkeypatch.setattr(shards, "MAX_DOCUMENT", 112)
    with pytest.raises(UserError, match=r"rows\.jsonl:2 is longer than 112 bytes; divide the text"):
        read(path)


def test_another_column(tmp_path):
    path = put(tmp_path / "rows.jsonl", '\ufeff{"body": "one", "messages": 3}\n')
    pq.write_table(pa.table({"body": ["two"]}), tmp_path / "rows.parquet")
    assert read(path, tmp_path / "rows.parquet", column="body") == ["one", "two"]
    with pytest.raises(UserError, match=r"rows\.parquet needs a string column named text, but has body \(string\)"):
        read(tmp_path / "rows.parquet")


def packed(path: Path, content: bytes) -> Path:
    """A file compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gz":
        return put(path, gzip.compress(content))
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(content)
    return path


def left_out(*paths: Path, column: str = "text") -> tuple[list[str], dict[str, str]]:
    """The documents, and the names of what gives none with the reasons."""
    found: list[LeftOut] = []
    texts = list(documents(paths, column, found))
    return texts, {path.name: reason for path, reason in found}


def test_files_are_known_by_their_suffix_in_any_case_and_unpacked(tmp_path):
    row = '\ufeff{"text": "row"}\n'.encode()
    put(tmp_path / "1.JSONL", row)
    put(tmp_path / "2.ndjson", row)
    pq.write_table(pa.table({"text": ["row"]}), tmp_path / "3.Parquet")
    for n, name in enumerate(["jsonl.gz", "JSONL.GZ", "ndjson.zst", "json.gz", "jsonl.zst"], 4):
        packed(tmp_path / f"{n}.{name}", row)
    assert left_out(tmp_path) == (["row"] * 8, {})
    book = "\ufeffA line of prose, and é.\r\n" * 60_000  # more than is read at once
    for name in ("a.txt.gz", "b.gz", "c.md.zst", "d.TXT.ZST"):
        assert "".join(read(packed(tmp_path / "more" / name, book.encode()), longest=10**9)) == (
            book.replace("\r\n", "\n").strip("\ufeff\n")
        )
    two = packed(tmp_path / "two.txt.zst", b"one ").read_bytes() + packed(tmp_path / "two.txt.zst", b"two").read_bytes()
    assert read(put(tmp_path / "two.txt.zst", two)) == ["one two"]
    add_data.main([str(packed(tmp_path / "My.Rows.jsonl.gz", b'{"text": "a"}\n{"text": "b"}\n'))])
    assert (dataset_dir("My.Rows")).is_dir()


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.txt.gz", "x.txt.zst"])
def test_damaged_and_endless_compressed_files_are_refused(tmp_path, name, monkeypatch):
    path = packed(tmp_path / name, b'{"text": "%s"}\n' % os.urandom(9999).hex().encode() * 3)
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"text that is not compressed", whole + b"garbage"):
        with pytest.raises(UserError, match=rf"{name} is damaged, or not compressed as its name says .*; get it again"):
            read(put(path, damaged))
    monkeypatch.setattr(shards, "MAX_GROUP", 1 << 20)
    monkeypatch.setattr(shards, "MAX_RATIO", 100)
    bomb = packed(path, b'{"text": "a"}\n' * 500_000)
    with pytest.raises(UserError, match=r"unpacks to more than .* which no real text does"):
        read(bomb)


def test_json_is_read_as_json(tmp_path):
    for content in (
        '["one", "two"]', '[{"text": "one", "id": 1},\n {"text": "two"}]', '\ufeff[\n"one",\n"two"\n]\n',
        '{"text": "one"}\n{"text": "two"}\n',  # JSON lines, as many such files hold
    ):  # fmt: skip
        assert read(put(tmp_path / "rows.json", content)) == ["one", "two"]
    assert read(put(tmp_path / "rows.json", '{\n  "text": "one"\n}')) == ["one"]
    assert read(put(tmp_path / "rows.json", '{"body": ["x"], "content": "one"}'), column="content") == ["one"]


@pytest.mark.parametrize(
    "content, sentence",
    [
        ('{"text": "x"', r"rows\.json is not JSON; repair it \(Expecting.*\), or name it \.txt"),
        ("", r"rows\.json is not JSON"),
        ("[]", r"rows\.json is JSON without text in 'text'; name the right field with --column \(found: NoneType\)"),
        ('{"body": "x", "id": 1}', r"rows\.json is JSON without text in 'text'; .*--column \(found: body, id\)"),
        ('[{"body": "x"}]', r"rows\.json is JSON without text in 'text'; .* \(found: body\)"),
        ('[{"text": "x"}, {"body": "x"}]', r"rows\.json \(item 2\) has no text in 'text' \(found: body\)"),
        ('["x", 5]', r"rows\.json \(item 2\) has no text in 'text' \(found: int\)"),
        ('["\\ud83d"]', r"rows\.json \(item 1\) holds half a character"),
        ('[{"messages": []}]', r"rows\.json \(item 1\) is a conversation; .*--data_path='.*rows\.json'$"),
        ('[[{"role": "user", "content": "x"}]]', r"rows\.json \(item 1\) is a conversation"),
        ('[{"role": "user", "content": "x"}]', r"rows\.json is a conversation"),
        ("[" * 100_000, r"rows\.json is not JSON"),
        (b'["\xff"]', r"rows\.json is not UTF-8 at byte 2"),
        (b"\x1f\x8b[]", r"rows\.json is compressed by gzip under another name; let its name end in \.gz"),
    ],
)
def test_json_that_is_no_text_is_refused_and_never_trained_on(tmp_path, content, sentence):
    path = put(tmp_path / "my files" / "rows.json", content)
    with pytest.raises(UserError, match=sentence):
        read(path)


def test_json_too_large_to_be_read_as_a_whole(tmp_path, monkeypatch):
    path = put(tmp_path / "rows.json", json.dumps(["x" * 100, "y" * 100], indent=1))
    monkeypatch.setattr(documents_module, "MOST_JSON", 100)
    with pytest.raises(UserError, match=r"rows\.json is JSON of more than 100 bytes; write it as JSON lines"):
        read(path)


def test_what_gives_no_text_is_left_out_and_listed(tmp_path, capsys):
    folder = tmp_path / "in"
    put(folder / "text.txt", "prose " * 99)
    put(folder / "package.json", '{"name": "x"}')
    put(folder / "broken.json", "{")
    put(folder / "photo.png", b"\x89PNG\r\n\0\0\0")
    put(folder / "wide.txt", "\ufefftext".encode("utf-16"))
    put(folder / "paper.pdf", b"%PDF-1.4\n%\xe2\xe3")
    put(folder / "all.ZIP", "PK")
    put(folder / "all.tar.gz", "x")
    put(folder / "rows.parquet.zst", "x")
    put(folder / "log", b"\x1f\x8bx")
    for n in range(7):
        put(folder / f"{n}" / ".DS_Store", "x")
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    (folder / "self").symlink_to(folder / "self")
    texts, reasons = left_out(folder)
    assert texts == ["prose " * 99]
    assert reasons == {
        "package.json": "JSON without text in 'text'",
        "broken.json": "not JSON",
        "photo.png": "a binary file",
        "wide.txt": "text in UTF-16",
        "paper.pdf": "a PDF file",
        "all.ZIP": "packed as .zip, which is not read",
        "all.tar.gz": "packed as .tar.gz, which is not read",
        "rows.parquet.zst": "packed as .parquet.zst, which is not read",
        "log": "compressed by gzip under another name",
        ".DS_Store": "hidden (its name begins with a dot)",
        "pipe": "a named pipe",
        "zero": "a device",
        "lost": "a link that leads nowhere",
        "self": "a link that leads nowhere",
    }
    add_data.main([str(folder)])
    said = capsys.readouterr().out.splitlines()
    start = said.index("left out 7: hidden (its name begins with a dot)")
    assert said[start + 1 : start + 7] == [*(f"  {folder / str(n) / '.DS_Store'}" for n in range(5)), "  and 2 more"]
    assert f"  {folder / 'pipe'}" in said
    for name in ("package.json", "photo.png", "all.tar.gz", "pipe", "zero"):  # named themselves, they are refused
        with pytest.raises(UserError, match=f"{name} is {re.escape(reasons[name])}; "):
            read(folder / name)
    with pytest.raises(UserError, match="lost does not exist"):
        read(folder / "lost")


def test_what_cannot_be_read_is_left_out_and_listed(tmp_path, monkeypatch):
    for name in ("a.txt", "b.parquet", "c/d.txt", "e.txt"):
        put(tmp_path / name, "fine")
    locked = [str(tmp_path / name) for name in ("a.txt", "b.parquet", "c")]

    def guarded(call):
        def refusing(path, *args, **options):
            if str(path) in locked:
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *args, **options)

        return refusing

    monkeypatch.setattr("builtins.open", guarded(open))  # whoever runs the tests may be allowed to read everything
    monkeypatch.setattr(os, "scandir", guarded(os.scandir))
    texts, reasons = left_out(tmp_path)
    assert texts == ["fine"]
    assert reasons == dict.fromkeys(["a.txt", "b.parquet", "c"], "not readable (Permission denied)")
    with pytest.raises(UserError, match=r"a\.txt is not readable \(Permission denied\); change its permissions"):
        read(tmp_path / "a.txt")


def test_links_are_followed_but_nothing_is_read_twice(tmp_path):
    put(tmp_path / "elsewhere" / "far.txt", "far")
    put(tmp_path / "elsewhere" / "deep" / "deeper.txt", "deeper")
    put(tmp_path / "one.txt", "one")
    put(tmp_path / "in" / "near.txt", "near")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "file.txt").symlink_to(tmp_path / "one.txt")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "in")  # a loop
    (tmp_path / "in" / "here").symlink_to(".")
    (tmp_path / "in" / "old name.txt").symlink_to("near.txt")
    texts, reasons = left_out(tmp_path / "in")
    assert texts == ["one", "near", "far", "deeper"]
    assert reasons == {
        "up": "a folder that is read under another name",
        "here": "a folder that is read under another name",
        "old name.txt": "a file that is read under another name",
    }
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert read(tmp_path / "link") == texts
    assert read(tmp_path / "one.txt", tmp_path / "one.txt") == ["one", "one"]  # as it was asked for


def run(*args: object, base: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.add_data", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NANOCHAT_BASE_DIR": str(base)}, capture_output=True, text=True
    )


def test_as_a_command(tmp_path, base):
    good = put(tmp_path / "my notes.txt", "A line of prose.\n" * 100)
    done = run(good, base=base)
    assert done.returncode == 0 and "--dataset my-notes" in done.stdout, done.stderr
    assert sum(len(list(iterate(dataset_dir("my-notes"), split))) for split in ("train", "val")) == 2
    again = run(good, base=base)
    assert again.returncode == 2 and again.stdout == ""
    assert again.stderr.startswith("error: ") and "already holds data" in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content, args, sentence",
    [
        (None, [], "in.txt does not exist"),
        (b"", [], "no text to write"),
        (b"one line\n", [], "one document of 8 characters, too short"),
        (b"prose\n" * 99, ["--name", "../up"], "cannot be a dataset's name"),
        (b"prose\n" * 99, ["--name", "tinyworld"], "the little world's dataset"),
        (b"prose\n" * 99, ["--val_fraction", "2"], "val_fraction must lie between 0 and 1"),
        (b"prose\n" * 99, ["--nmae", "x"], "unknown flag --nmae"),
        (b"prose\n" * 99, ["-w", "0"], "--workers is 0; expected 1 or more"),
    ],
)
def test_mistakes_are_a_sentence_and_change_nothing(tmp_path, base, content, args, sentence):
    path = tmp_path / "in.txt"
    if content is not None:
        put(path, content)
    with pytest.raises(UserError, match=sentence):
        add_data.main([str(path), *args])
    assert not base.exists()


def test_no_path_at_all_and_an_empty_folder(tmp_path, base):
    with pytest.raises(UserError, match="no data given"):
        add_data.main([])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="no text to write"):
        add_data.main([str(tmp_path / "nothing")])
    assert not base.exists()


def test_a_dataset_can_be_added_again_under_another_name(tmp_path):
    """What the error about a single shard advises."""
    write_shards([f"document {n}" for n in range(100)], tmp_path / "data")
    add_data.main([str(tmp_path / "data"), "--name", "copy"])
    assert set(iterate(dataset_dir("copy"), "val")) == set(iterate(tmp_path / "data", "val"))


# -- the standard library's docstrings


def test_docstrings_of_a_library(tmp_path):
    put(tmp_path / "b.py", '"""Module b."""\nclass C:\n    """A class."""\n    def f(self):\n        """Deep."""\n')
    put(tmp_path / "a" / "__init__.py", '"""Package a."""\nif True:\n    async def g():\n        "Half \\ud800 one."\n')
    put(tmp_path / "a" / "again.py", '"""Module b."""\n')
    put(tmp_path / "bad.py", "this is no program")
    put(tmp_path / "test" / "x.py", '"""A test."""')
    assert list(docstrings.module_docstrings(tmp_path)) == [
        "b\n\nModule b.\n\nb.C\n\nA class.\n\nb.C.f\n\nDeep.\n",
        "a\n\nPackage a.\n\na.g\n\nHalf \ufffd one.\n",
    ]
    texts = ["the same words " * 50, json.dumps(list(range(200)))]
    (tmp_path / "texts").write_text("".join(texts), encoding="utf-8")
    program = subprocess.run(["gzip", "-9", "-n", "-c", tmp_path / "texts"], capture_output=True, check=True)
    size = (tmp_path / "texts").stat().st_size
    assert docstrings.gzip_bits_per_byte(texts) == pytest.approx(8 * len(program.stdout) / size, rel=0.01)


def test_docstrings_become_a_dataset(base, monkeypatch, capsys):
    library = Path(sysconfig.get_path("stdlib")) / "email"
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(library))
    docstrings.main(["--no-train"])
    first = capsys.readouterr().out
    own = base / "docstrings"  # its tokenizer is not that of the base directory
    assert (own / "docstrings.jsonl").exists() and list(iterate(own / "base_data_docstrings", "val"))
    docstrings.main(["--no-train"])
    second = capsys.readouterr().out
    assert "is there already" in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert first.splitlines()[-1].startswith("gzip -9  ")
