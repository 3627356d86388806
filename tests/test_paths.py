import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nanochat import errors, paths
from nanochat.data import shards
from nanochat.errors import UserError
from nanochat.log import MetricsLog


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


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of 100 kB at most, as by ulimit -f."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("tensors", [1, 100])
def test_a_checkpoint_that_is_larger_than_files_may_be(tensors, small_files, tmp_path):
    paths.write_text(tmp_path / "model.pt", "old")
    state = {str(n): torch.zeros(100_000 // tensors) for n in range(tensors)}
    with pytest.raises(UserError, match=r"cannot write .*model.pt: files may not be that large here; .*ulimit -f"):
        paths.write_atomically(tmp_path / "model.pt", lambda file: torch.save(state, file))
    assert (tmp_path / "model.pt").read_text(encoding="utf-8") == "old"
    assert files(tmp_path) == ["model.pt"]


def test_metrics_that_are_larger_than_files_may_be(small_files, tmp_path):
    log = MetricsLog(tmp_path, "dummy", {})
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: files may not be that large"):
        for step in range(1000):
            log.log(step, {"loss": 1.0, "note" * 200: 0.0})
    assert 50 < step < 1000
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n") and text.count("\n") == step  # the line that did not fit is gone


@pytest.fixture
def read_only(small_disk) -> Iterator[Callable[[], object]]:
    """A function that makes the small disk read-only."""
    yield lambda: subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)


def test_a_file_system_that_became_read_only(small_disk, read_only, capsys):
    log = MetricsLog(small_disk / "run", "dummy", {})
    log.log(1, {"loss": 1.0})
    paths.write_text(small_disk / "file", "old")
    read_only()
    said = r"cannot write .*{}: the file system is mounted read-only; give another place"
    with pytest.raises(UserError, match=said.format("file")):
        paths.write_text(small_disk / "file", "new")
    another = MetricsLog(small_disk / "run", "dummy", {})
    for write in (lambda: log.log(2, {"loss": 1.0}), lambda: log.resume(0), lambda: another.log(3, {"loss": 1.0})):
        with pytest.raises(UserError, match=said.format("run/.*")):
            write()
    with pytest.raises(SystemExit, match="2"):
        errors.run(lambda: (small_disk / "file").unlink())
    assert capsys.readouterr().err.startswith(f"error: {small_disk}/file: the file system is mounted read-only")


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
