"""Texts to token files: nanoGPT's split of one text, documents by their hash, every tokenizer, and every mistake."""

import gzip
import json
import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fakehub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TEXT
from gpt2s import END, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import prepare as preparing
from nanochat.data import tokens
from nanochat.data.prepare import prepare
from nanochat.errors import UserError
from nanochat.paths import tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts.prepare import main

ROOT = Path(__file__).parent.parent
BOOK = "".join(f"Chapter {n}.\n\nIt was  day {n * 7}; {TEXT}\n" for n in range(30))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a folder data, as nanoGPT has it, and a book."""
    folder = tmp_path / "here"
    (folder / "data").mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("book.txt").write_text(BOOK, encoding="utf-8")
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A tokenizer of GPT-2's kind."""
    write_tokenizer(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def ids(folder: Path, split: str) -> list[int]:
    return np.fromfile(folder / f"{split}.bin", np.uint16).tolist()


def rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


# ---------------------------------------------------------------- one text


def test_shakespeare_char_as_nanogpt_does_it(here, capsys):
    """Sorted characters, the first nine tenths for training, a meta.pkl that nanoGPT reads; and the next command."""
    folder = here / "data" / "shakespeare_char"
    folder.mkdir()
    (folder / "input.txt").write_text(BOOK, encoding="utf-8", newline="\r\n")
    main(["shakespeare_char"])
    chars = sorted(set(BOOK))
    border = int(len(BOOK) * 0.9)
    assert ids(folder, "train") == [chars.index(c) for c in BOOK[:border]]
    assert ids(folder, "val") == [chars.index(c) for c in BOOK[border:]]
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == len(chars) and meta["itos"] == dict(enumerate(chars))
    assert meta["stoi"] == {char: id for id, char in enumerate(chars)} and len(meta) == 3
    assert Tokenizer.load(folder).decode(ids(folder, "val")) == BOOK[border:]
    assert json.loads((folder / "meta.json").read_bytes()) == {"dtype": "uint16", "vocab_size": len(chars)}
    said = capsys.readouterr().out
    assert f"train  {border:,} tokens" in said and f"vocabulary of {len(chars)} characters" in said
    assert said.endswith("  python -m scripts.train config/train_shakespeare_char.py\n")
    assert (folder / "input.txt").exists()


def test_shakespeare_takes_gpt2s_tokenizer_from_the_hub(here, gpt2, tmp_path, monkeypatch, capsys):
    folder = here / "data" / "shakespeare"
    folder.mkdir()
    (folder / "input.txt").write_text(BOOK, encoding="utf-8")
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as hub:
        hub.add("openai-community/gpt2", gpt2)
        main(["shakespeare"])
    expected = Tokenizer.load(gpt2)
    border = int(len(BOOK) * 0.9)
    assert ids(folder, "train") == expected.encode(BOOK[:border])
    assert ids(folder, "val") == expected.encode(BOOK[border:])
    assert Tokenizer.load(folder).hash == expected.hash
    assert not (folder / "meta.pkl").exists()
    assert capsys.readouterr().out.endswith("  python -m scripts.train config/finetune_shakespeare.py\n")


def test_without_a_network_it_says_where_to_lay_the_text(here, monkeypatch):
    """And takes it there, next time."""
    monkeypatch.setattr(preparing, "SHAKESPEARE", "http://127.0.0.1:1/input.txt")
    with pytest.raises(UserError, match=r"; or save that text as data/shakespeare_char/input\.txt and start again$"):
        main(["shakespeare_char"])
    Path("data/shakespeare_char").mkdir()
    Path("data/shakespeare_char/input.txt").write_text(BOOK, encoding="utf-8")
    main(["shakespeare_char"])
    assert Path("data/shakespeare_char/train.bin").exists()


spaced = st.text(st.sampled_from("aé 中.\n\t1'"), max_size=300)


@given(text=spaced, fraction=st.floats(0.05, 0.95), own=st.booleans(), size=st.integers(1, 50))
@settings(max_examples=60)
def test_pieces_give_the_ids_of_the_whole(text, fraction, own, size, tokenizer, tmp_path_factory):
    """Whatever the pieces in which a text is read, and for both kinds of split patterns."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "x.txt").write_text(text, encoding="utf-8", newline="")
    known = tokenizer if own else Tokenizer({bytes([n]): n for n in range(256)} | {b" a": 256, b"\n\n": 257}, ["end"],
                                            r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")  # fmt: skip
    text = text.replace("\r\n", "\n")
    border = int(len(text) * (1 - fraction))
    got: dict[str, list[int]] = {"train": [], "val": []}
    with pytest.MonkeyPatch.context() as patch:
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        patch.setattr(preparing, "decoded", lambda path: iter(pieces))
        for split, part in preparing._contiguous(folder / "x.txt", fraction):
            got[split] += known.encode(part)
    assert got == {"train": known.encode(text[:border]), "val": known.encode(text[border:])}


def test_a_text_without_spaces_is_cut_somewhere(monkeypatch, tokenizer, here):
    monkeypatch.setattr(preparing, "SPACELESS", 100)
    Path("chinese.txt").write_text("中文" * 900_000, encoding="utf-8")
    tokenizer.save(tokenizer_dir())
    made = prepare("chinese.txt", tokenizer="base")
    assert tokenizer.decode(ids(made.folder, "val")) == "中文" * 90_000


# ---------------------------------------------------------------- documents


def test_documents_fall_on_their_sides_and_are_told_apart(here, gpt2, tokenizer, base):
    texts = [f"The cat {n}" for n in range(200)]
    rows(Path("rows.jsonl"), texts)
    pq.write_table(pa.table({"body": texts}), "rows.parquet")
    Path("files").mkdir()
    for n, text in enumerate(texts):
        Path("files", f"{n:03}.txt").write_text(text, encoding="utf-8")
    Path("files/image.png").write_bytes(b"\x89PNG\0\0")
    jsonl = prepare("rows.jsonl", tokenizer=str(gpt2), val_fraction=0.3)
    parquet = prepare("rows.parquet", Path("elsewhere"), column="body", tokenizer=str(gpt2), val_fraction=0.3)
    files = prepare("files", tokenizer=str(gpt2), val_fraction=0.3)
    known = Tokenizer.load(gpt2)
    for split in ("train", "val"):
        assert ids(jsonl.folder, split) == ids(parquet.folder, split) == ids(files.folder, split)
    both = ids(jsonl.folder, "train") + ids(jsonl.folder, "val")
    found = known.decode(both).split(END)
    assert found.pop() == "" and sorted(found) == sorted(texts)  # each ends with the token
    assert 30 < ids(jsonl.folder, "val").count(known.bos) < 90
    assert (parquet.folder, files.left_out) == (Path("elsewhere"), [(Path("files/image.png"), "a binary file")])
    # nanochat's tokenizers have a token that begins a document.
    tokenizer.save(tokenizer_dir())
    ours = prepare("rows.jsonl", Path("ours"), tokenizer="base")
    starts = [id for id in ids(ours.folder, "train") if id == tokenizer.bos]
    assert ids(ours.folder, "train")[0] == tokenizer.bos and ids(ours.folder, "train")[-1] != tokenizer.bos
    assert len(starts) > 150
    chars = prepare("rows.jsonl", Path("chars"), tokenizer="char")
    text = chars.tokenizer.decode(ids(chars.folder, "val"))
    assert set(text.splitlines()) <= set(texts) and text.endswith("\n")


def test_compressed_and_json_sources_give_what_the_plain_ones_do(here, tokenizer):
    tokenizer.save(tokenizer_dir())
    Path("same.txt.GZ").write_bytes(gzip.compress(BOOK.encode()))
    Path("data.json").write_text(json.dumps([f"The cat {n}" for n in range(99)], indent=1), encoding="utf-8")
    rows(Path("data.jsonl"), [f"The cat {n}" for n in range(99)])
    for plain, other, name in (("book.txt", "same.txt.GZ", "same"), ("data.jsonl", "data.json", "data")):
        made = prepare(plain, Path("out"), tokenizer="base", overwrite=True)
        assert prepare(other, tokenizer="base").folder == Path("data", name)
        for split in ("train", "val"):
            assert ids(Path("data", name), split) == ids(made.folder, split) != []


def test_a_large_vocabulary_takes_four_bytes(here):
    alphabet = "".join(chr(n) for n in range(32, 0x11000) if not 0xD800 <= n < 0xE000)
    Path("all.txt").write_text(alphabet, encoding="utf-8")
    made = prepare("all.txt", tokenizer="char")
    assert made.tokenizer.vocab_size == len(alphabet) > 65536
    val = tokens.read(made.folder, "val", made.tokenizer.vocab_size, 5)
    ids = val.take(0, val.count)
    assert ids.dtype == np.uint32
    assert made.tokenizer.decode(ids.tolist()) == alphabet[int(len(alphabet) * 0.9) :]


# ---------------------------------------------------------------- openwebtext, URLs, commands


@pytest.fixture
def served(here: Path):
    """The URL of the current folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(here))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url(served, here, gpt2):
    rows(Path("rows.jsonl"), [f"{n} {TEXT}" for n in range(50)])
    made = prepare(f"{served}/book.txt", tokenizer="char", allow_private_urls=True)
    assert made.folder == Path("data/book")
    assert made.tokenizer.decode(ids(made.folder, "train") + ids(made.folder, "val")) == BOOK
    made = prepare(f"{served}/rows.jsonl?raw=1", tokenizer=str(gpt2), allow_private_urls=True)
    assert made.folder == Path("data/rows") and made.train_tokens > made.val_tokens > 0
    Path("packed.jsonl.gz").write_bytes(gzip.compress(Path("rows.jsonl").read_bytes()))
    again = prepare(f"{served}/packed.jsonl.gz", tokenizer=str(gpt2), allow_private_urls=True)
    assert again.folder == Path("data/packed") and again.train_tokens == made.train_tokens
    for more, said in ({}, "--allow_private_urls"), ({"allow_private_urls": True, "max_bytes": 99}, "--max_bytes"):
        with pytest.raises(UserError, match=said):
            prepare(f"{served}/book.txt", Path("no"), tokenizer="char", **more)
    assert not Path("no").exists()


def test_openwebtext_comes_from_the_hub(here, gpt2, tmp_path, monkeypatch, capsys):
    texts = [f"Page {n} of the web.\n" * (1 + n % 5) for n in range(3000)]
    for part in (0, 1):
        table = pa.table({"text": texts[part::2]})
        (tmp_path / "owt" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "owt" / "data" / f"train-0000{part}-of-00002.parquet")
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as hub:
        hub.add("datasets/Skylion007/openwebtext", tmp_path / "owt")
        main(["openwebtext", f"--tokenizer={gpt2}"])
        fetched = len(hub.sent("parquet"))
        main(["openwebtext", f"--tokenizer={gpt2}", "--overwrite"])
        assert len(hub.sent("parquet")) == fetched  # the hub's cache has it
    known = Tokenizer.load(gpt2)
    documents = {split: ids(Path("data/openwebtext"), split).count(known.bos) for split in ("train", "val")}
    assert documents["train"] + documents["val"] == 3000 and 1 <= documents["val"] < 10
    assert capsys.readouterr().out.endswith("  python -m scripts.train config/train_gpt2.py\n")


def test_as_a_command(here, base):
    command = [sys.executable, "-m", "scripts.prepare", "book.txt", "--tokenizer=char"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NANOCHAT_BASE_DIR": str(base)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    recipe = "config/train_shakespeare_char.py --dataset=book --out_dir=out-book"
    assert done.stdout.endswith(f"written to data/book; train on it with\n  python -m scripts.train {recipe}\n")
    with pytest.raises(UserError, match="data/book already holds token files; replace them with --overwrite"):
        main(command[3:])
    main([*command[3:], "--overwrite"])


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "a name, a folder, a URL, or a text, .jsonl"),
        (["book.txt", "book.txt"], "unexpected argument 'book.txt'"),
        (["shakespear"], "shakespear does not exist; expected a path, a URL or one of shakespeare_char"),
        (["book.txt", "--val_fraction=1.5"], "--val_fraction must lie between 0 and 1, not 1.5"),
        (["book.txt", "--tokenizer=gpt4"], "--tokenizer gpt4 is neither gpt2, char or base nor an existing folder"),
        (["book.txt", "--tokenizer=data"], "there is no tokenizer at data"),
        (["book.txt", "--tokenizer=base"], "there is no tokenizer at "),
        (["empty.txt", "--tokenizer=char"], "there is no text to prepare"),
        (["short.txt", "--tokenizer=char"], "too little text: the val split would have 1 tokens"),
        (["latin.txt", "--tokenizer=char"], "latin.txt is not UTF-8 at byte 1"),
        (["pipe", "--tokenizer=char"], "pipe is a named pipe; write its content into a file first"),
        (["bad.jsonl", "--tokenizer=char"], "bad.jsonl:1 has no text in 'text'"),
        (["http://127.0.0.1:1/x"], "which is not public"),  # before GPT-2's tokenizer is asked for
        (["book.txt", "--max_byte=3"], "unknown flag --max_byte; did you mean --max_bytes?"),
    ],
)
def test_mistakes_are_a_sentence_and_change_nothing(here, base, argv, said):
    for name, content in {"empty.txt": b"", "short.txt": b"ten bytes!", "latin.txt": b"a\xe9",
                          "bad.jsonl": b'{"a": 1}'}.items():  # fmt: skip
        Path(name).write_bytes(content)
    os.mkfifo("pipe")
    with pytest.raises(UserError) as error:
        main(argv)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(Path("data").iterdir()) and not base.exists()
