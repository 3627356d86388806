"""Commands that messages give to be typed: names and paths in them pass through a shell as they are."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import served

from nanochat.checkpoint import manager
from nanochat.data import documents, shards, tokens
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir
from nanochat.tokenizer import Tokenizer
from nanochat.web.errors import ApiError
from scripts import prepare
from scripts.export import server

NAME = "it's; $(touch evil)"


def lone_shard(folder: Path) -> str:
    folder.mkdir()
    (folder / "a.parquet").touch()
    shards.list_shards(folder, "train")
    return str(folder / "a.parquet")


def conversation(folder: Path) -> str:
    path = folder.with_suffix(".jsonl")
    path.write_text('{"messages": []}', encoding="utf-8")
    list(documents.documents([path], "text", []))
    return str(path)


def missing_tokens(folder: Path) -> str:
    tokens.find(folder.name)
    return folder.name


@pytest.mark.parametrize("complain", [lone_shard, conversation, missing_tokens])
def test_what_a_complaint_offers_can_be_typed(complain: Callable[[Path], str], base: Path, tmp_path: Path) -> None:
    with pytest.raises((UserError, ApiError)) as complaint:
        complain(tmp_path / NAME)
    said = str(complaint.value)
    command = said[re.search(r"python -m|--data_path", said).start() :]  # type: ignore[union-attr]
    assert any(NAME in word for word in shlex.split(command))


def test_what_follows_prepare_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("abc " * 100, encoding="utf-8")
    prepare.main(["a.txt", "--tokenizer=char", f"--out_dir={NAME}"])
    command = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(command)[4:] == [f"--dataset={NAME}", "--out_dir=out-a"]


def test_what_follows_an_export_can_be_typed(base: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = checkpoints_dir("sft") / NAME
    manager.save(folder, 5, served.random_model(tokenizer), None, {})
    manager.keep_tokenizer(folder, tokenizer)
    loaded = manager.load_step(folder, NAME, 5)
    assert f"--model_tag={NAME}" in shlex.split(server("out", replace(loaded, source="sft")))
