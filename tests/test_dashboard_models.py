"""The dashboard's models: what is listed of real checkpoints, and that deleting takes nothing else and nobody's."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from watching import places, serving

from extras.dashboard.models import HasChildren, InUse, Models, parameters
from extras.dashboard.runs import Runs
from nanochat.checkpoint import manager
from nanochat.config import parse
from nanochat.errors import UserError
from nanochat.gpt import count_parameters
from nanochat.log import MetricsLog
from nanochat.paths import alone_in, checkpoints_dir
from nanochat.report import sections
from scripts import export


@pytest.fixture
def models(worlds, base) -> Models:
    """base:d1, mid:d1 trained from it, and base:other."""
    shutil.copytree(worlds["sft"], base)
    shutil.copytree(checkpoints_dir("base") / "d1", checkpoints_dir("base") / "other")
    return Models(Runs(base))


def test_the_list_shows_what_a_model_is_and_where_it_came_from(models, base):
    tasks = {"identity": {"n": 4, "correct": 3.0, "interval": [0.3, 0.9]}, "none": {"n": 0, "correct": 0.0}}
    sections.write_section("chat_eval_mid", {"tag": "d1", "source": "mid", "step": 6, "tasks": tasks, "chatcore": 0.5})
    listed = {model["id"]: model for model in models.summaries()}
    assert listed.keys() == {"base:d1", "base:other", "mid:d1"}
    mid, whole = listed["mid:d1"], listed["base:d1"]
    assert (mid["parent"], whole["parent"], whole["children"], mid["children"]) == ("base:d1", None, ["mid:d1"], [])
    assert mid["scores"] == {"identity": 0.75, "ChatCORE": 0.5} and listed["base:other"]["scores"] == {}
    folder = checkpoints_dir("mid") / "d1"
    assert mid["steps"] == manager.steps(folder) and mid["step"] == mid["steps"][-1]
    assert mid["val_bpb"] == manager.read_meta(folder, mid["step"])["val_bpb"]
    assert mid["parameters"] == count_parameters(manager.load_step(folder, "d1", mid["step"]).model)
    assert mid["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    (folder / f"model_{mid['step']:06d}.pt").unlink()  # it is noticed
    assert {model["id"]: model for model in models.summaries()}["mid:d1"]["steps"] == mid["steps"][:-1]


def test_a_damaged_meta_file_does_not_hide_the_others(models):
    folder = checkpoints_dir("mid") / "d1"
    (folder / f"meta_{manager.steps(folder)[-1]:06d}.json").write_text('{"model_config": {', encoding="utf-8")
    listed = {model["id"]: model for model in models.summaries()}
    assert listed.keys() == {"base:d1", "base:other", "mid:d1"}
    assert listed["mid:d1"]["parameters"] == listed["base:d1"]["parameters"]  # by its config.json
    for odd in ({"n_layer": 10**9}, {"n_layer": 1e99}, {"n_head": 0}, {"more": 1}, {"vocab_size": "x"}):
        assert parameters(json.dumps({"rope_base": 1.0, **odd})) is None


def test_a_ckpt_of_an_out_folder_is_a_model(models, tmp_path, base):
    out = tmp_path / "out"
    MetricsLog(out, "dummy", {"settings": {"init_from": "base:other"}}).log(3, {"loss": 1.0})
    torch.save({"model": {}, "model_args": {}, "iter_num": 3, "config": {}}, out / "ckpt.pt")
    mine = Models(Runs(base, lambda: [out]))
    listed = {model["id"]: model for model in mine.summaries()}
    assert listed["out:out"]["parent"] == "base:other" and listed["base:other"]["children"] == ["out:out"]
    assert mine.export_command("out:out", "x")[2] == f"--source={out}"
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(HasChildren, match="out:out"):
        mine.delete("base:other")
    mine.delete("out:out")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    mine.delete("base:other")


def test_children_hold_their_parent_until_they_may_go_too(models, base):
    size = sum(path.stat().st_size for name in ("base", "mid") for path in (checkpoints_dir(name) / "d1").rglob("*")
               if path.is_file())  # fmt: skip
    with pytest.raises(HasChildren, match="mid:d1 started from base:d1"):
        models.delete("base:d1")
    assert manager.steps(checkpoints_dir("base") / "d1")
    assert models.delete("base:d1", with_children=True) == size
    assert not (checkpoints_dir("base") / "d1").exists() and not (checkpoints_dir("mid") / "d1").exists()
    assert manager.steps(checkpoints_dir("base") / "other") and (base / "tokenizer").is_dir()


def test_what_is_in_use_stays(models, base, tmp_path):
    mid = checkpoints_dir("mid") / "d1"
    with alone_in(mid), pytest.raises(InUse, match="mid:d1 is training"):
        models.delete("base:d1", with_children=True)
    young = checkpoints_dir("sft") / "young"  # it has not saved anything yet
    MetricsLog(young, "dummy", {"parent": {"source": "mid", "tag": "d1"}}).log(1, {"loss": 1.0})
    with alone_in(young), pytest.raises(InUse, match="sft:young is training and needs mid:d1"):
        models.delete("mid:d1")
    with pytest.raises(InUse, match="being served"):
        Models(models.runs, lambda: ["mid:d1"]).delete("base:d1", with_children=True)
    shutil.move(checkpoints_dir("base") / "other", tmp_path / "elsewhere")
    (checkpoints_dir("base") / "other").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InUse, match="link"):
        models.delete("base:other")
    assert manager.steps(mid) and manager.steps(tmp_path / "elsewhere")
    models.delete("sft:young")  # a run without a model
    assert not young.exists()


@pytest.mark.parametrize("id", ["", "base", "base:", "base:..", "base:../mid_checkpoints/d1", "mid:/etc", "out:d1"])
def test_only_the_listed_can_be_deleted(id, models):
    for change in (lambda: models.delete(id, with_children=True), lambda: models.export_command(id, "x")):
        with pytest.raises(UserError, match="there is no model"):
            change()
    assert len(models.summaries()) == 3


def test_the_command_of_an_export_is_one_that_works(models, base):
    words = models.export_command("mid:d1", "mine")
    flags = parse(export.Flags, words[2:])
    assert words[:2] == ["-m", "scripts.export"] and flags.out == base / "exports" / "mine"
    assert str(flags.find()).startswith("mid d1, step 6")
    for name in ("../mine", "", ".hidden"):
        with pytest.raises(UserError, match="cannot be the name of one folder"):
            models.export_command("mid:d1", name)


@pytest.fixture
def live(models, base) -> Iterator[httpx.Client]:
    with serving(places(base)) as client:
        yield client


def test_deleting_over_http_asks_and_tells_why_not(live, base):
    assert {model["id"] for model in live.get("/models").json()["models"]} == {"base:d1", "base:other", "mid:d1"}
    asked = live.delete("/models/base:d1")
    assert asked.status_code == 400 and asked.json()["error"]["code"] == "not_confirmed"
    held = live.delete("/models/base:d1?confirm=base:d1")
    assert held.status_code == 409 and held.json()["error"]["dependents"] == ["mid:d1"]
    assert live.delete("/models/base:none?confirm=base:none").status_code == 404
    gone = live.delete("/models/base:d1?confirm=base:d1&with_children=1")
    assert gone.status_code == 200 and gone.json()["freed"] > 1000
    assert [model["id"] for model in live.get("/models").json()["models"]] == ["base:other"]
    with serving(places(base, training=False)) as reading:
        off = reading.delete("/models/base:other?confirm=base:other")
        assert off.status_code == 403 and "--allow_training" in off.json()["error"]["message"]
    assert (Path(base) / "base_checkpoints" / "other").exists() and json.dumps(gone.json())
