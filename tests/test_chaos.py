"""A short form of dev/chaos.py: a fault of each sort, over all stages, on one process and on several ranks."""

from pathlib import Path

import pytest

from dev import chaos
from nanochat.checkpoint import manager
from tests.chaoscase import EQUAL, LOST, STOPPED, Templates
from tests.chaosruns import Way


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize(
    "kind, stage, ranks",
    [
        *((chaos.kill_9, stage, 1) for stage in chaos.STAGES),
        *((chaos.kill_9_beside_a_save, stage, 1) for stage in ("sft", "train")),
        (chaos.kill_9_in_a_save, "base", 1),
        (chaos.kill_9_in_a_save, "train", 1),
        (chaos.terminated, "base", 1),
        (chaos.ctrl_c, "base", 1),
        (chaos.terminated, "rl", 1),
        (chaos.terminated, "train", 1),
        (chaos.two_ctrl_c, "sft", 1),
        (chaos.a_second_run, "mid", 2),
        (chaos.a_second_run, "train", 1),
        (chaos.refused_writes, "sft", 1),
        (chaos.flipped_bit, "base", 1),
        (chaos.deleted_file, "base", 1),
        (chaos.a_pipe, "base", 1),
        (chaos.damaged_older_meta, "base", 1),
        (chaos.newer_format, "sft", 1),
        (chaos.missing_parent, "sft", 1),
        (chaos.changed_under_a_run, "sft", 1),
        (chaos.unreadable, "train", 2),
        (chaos.learning_rate_nan, "base", 1),
    ],
)
def test_nothing_is_lost(kind, stage: str, ranks: int, templates: Templates, tmp_path: Path) -> None:
    assert chaos.inject(kind, stage, Way(ranks), "1", templates, tmp_path / "case") in (EQUAL, STOPPED)


@pytest.mark.parametrize(
    "kind, ranks, mode",
    [
        (chaos.kill_9_beside_a_save, 2, "shard"),
        (chaos.kill_9_in_a_save, 4, "hybrid"),
        (chaos.full_disk, 2, "shard"),
        (chaos.moved_to_other_ranks, 4, "hybrid"),
    ],
)
def test_nothing_is_lost_of_a_model_in_parts(kind, ranks: int, mode: str, templates: Templates, tmp_path: Path) -> None:
    assert chaos.inject(kind, "base", Way(ranks, mode), "1", templates, tmp_path / "case") in (EQUAL, STOPPED)


def test_a_missing_guard_is_a_loss(templates: Templates, tmp_path: Path) -> None:
    """Wrong weights that nothing notices, as where checksums are not compared: the last column counts them."""

    def unnoticed(c: chaos.Case) -> str:
        c.interrupted()
        step = manager.steps(c.folder)[-1]
        meta = manager.read_meta(c.folder, step)
        meta["loop_state"]["cursor"] = manager.read_meta(c.folder, manager.steps(c.folder)[0])["loop_state"]["cursor"]
        manager.write_meta(c.folder / f"meta_{step:06d}.json", meta)  # with a checksum that is right
        return c.equal()

    found = chaos.inject(unnoticed, "base", Way(), "1", templates, tmp_path / "case")
    assert found.startswith(f"{LOST}: other results")
    assert (tmp_path / "case" / "lost.txt").exists()
    counts = {"kill_9": {EQUAL: 2}, "flipped_bit": {EQUAL: 1, LOST: 1}}
    assert chaos.table(counts).splitlines()[-2:] == ["| flipped bit | 2 | 1 | 0 | 1 |", "| all | 4 | 3 | 0 | 1 |"]
