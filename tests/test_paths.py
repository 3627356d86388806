import os
from pathlib import Path

import pytest
import torch

from nanochat import paths
from nanochat.config import UserError
from nanochat.data import shards


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_base_dir_follows_the_environment_and_is_not_created(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "there"))
    assert paths.base_dir() == tmp_path / "there"
    assert paths.dataset_dir("mine") == tmp_path / "there" / "base_data_mine"
    assert paths.checkpoints_dir("sft") == tmp_path / "there" / "chatsft_checkpoints"
    assert not (tmp_path / "there").exists()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "")
    assert paths.base_dir() == Path.home() / ".cache" / "nanochat"


def test_write_makes_the_folder_and_returns_the_hash(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    digest = paths.write_text(path, "prune – Zwetschge\n")
    assert path.read_bytes() == "prune – Zwetschge\n".encode()
    assert digest == paths.sha256(path)
    assert files(path.parent) == ["file.txt"]


@pytest.mark.parametrize("crash", [ValueError, KeyboardInterrupt, OSError])
def test_a_writer_that_crashes_leaves_the_old_file(tmp_path, crash):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new, but only ha")
        raise crash

    with pytest.raises(crash):
        paths.write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write .*file: permission denied"):
        paths.write_text(tmp_path / "file", "x")


def test_a_file_where_a_folder_should_be_is_a_sentence(tmp_path):
    (tmp_path / "base").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="base"):
        paths.write_text(tmp_path / "base" / "file", "x")


def test_bytes_on_a_full_disk(small_disk):
    path = small_disk / "file"
    paths.write_text(path, "old")
    with pytest.raises(UserError, match=r"cannot write .*file: the disk is full"):
        paths.write_atomically(path, lambda file: file.write(b"x" * (8 << 20)))
    assert path.read_text(encoding="utf-8") == "old"
    assert files(small_disk) == ["file"]


@pytest.mark.parametrize("tensors", [1, 1000])
def test_a_checkpoint_on_a_full_disk(small_disk, tensors):
    path = small_disk / "model.pt"
    state = {str(n): torch.zeros((8 << 20) // 4 // tensors) for n in range(tensors)}
    paths.write_text(path, "old")
    with pytest.raises(UserError, match=r"cannot write .*model.pt: the disk is full"):
        paths.write_atomically(path, lambda file: torch.save(state, file))
    assert path.read_text(encoding="utf-8") == "old"
    assert files(small_disk) == ["model.pt"]


def test_a_dataset_on_a_full_disk(small_disk):
    noise = (os.urandom(20_000).hex() for _ in range(1000))
    with pytest.raises(UserError, match=r"cannot write .*data: the disk is full"):
        shards.write_shards(noise, small_disk / "data", group_bytes=1 << 20)
    assert files(small_disk) == []
    assert shards.write_shards(["a", "b"], small_disk / "data").files == 2
