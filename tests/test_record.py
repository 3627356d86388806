"""nanochat/web/record.py: what /v1/models tells about a model is what its files have, and nothing else."""

import dataclasses
import json
from pathlib import Path

import httpx
import pytest

from nanochat.checkpoint import manager
from nanochat.engine.engine import Engine
from nanochat.engine.serving import Serving
from nanochat.gpt import GPT
from nanochat.paths import checkpoints_dir
from nanochat.report import sections
from nanochat.tokenizer import Tokenizer
from nanochat.web import record
from nanochat.web.state import ServedModel
from tests.served import loaded, random_model, served

LITTLE = {"dataset": "tinyworld", "total_batch_size": 4096, "user_config": {}}
TASKS = {"facts": {"n": 100, "correct": 80, "interval": [0.7, 0.9]}, "followup": {"n": 10, "correct": 5}}
ASKED = [{"task": "followup", "questions": ["Where does Mira live?", "And her job?"]}]


@pytest.fixture(scope="module")
def gpt(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer)


def save(gpt: GPT, source: str, step: int, **meta: object) -> dict:
    """A checkpoint d4 of a stage in the base folder; its meta file."""
    folder = checkpoints_dir(source) / "d4"
    manager.save(folder, step, gpt, None, {"tokenizer_hash": "x", "loop_state": {"seconds": 60.0}, **meta})
    return manager.read_meta(folder, step)


def trained(gpt: GPT, **more: object) -> dict:
    """The meta file of sft:d4, made from base:d4; more: what is in it besides."""
    parent = manager.record_of(save(gpt, "base", 420, **LITTLE), "base", "d4", 420)
    return save(gpt, "sft", 1400, **LITTLE, parent=parent, conversations="littleworld", val_bpb=0.12, **more)


def serving(
    gpt: GPT, tokenizer: Tokenizer, meta: dict, source: str = "sft", step: int = 1400, folder: Path | None = None
) -> Serving:
    plain = loaded(Engine(gpt, slots=1), tokenizer, source, "d4")
    folder = folder or checkpoints_dir(source) / "d4"
    return dataclasses.replace(plain, meta=meta, step=step, folder=folder)


def described(given: Serving, id: str = "") -> dict:
    return record.describe(ServedModel(id or f"{given.source}:{given.tag}", [given]))


def evaluated(meta: dict | None, **more: object) -> None:
    """A section of the report about sft:d4 with the weights of this meta file, or of an older version, without."""
    of = manager.record_of(meta or {}, "sft", "d4", 1400)
    sections.write_section("chat_eval_sft", {**of, "tasks": TASKS, "samples": [], **more})


def test_a_model_says_what_it_is(gpt: GPT, tokenizer: Tokenizer) -> None:
    meta = trained(gpt)
    evaluated(meta, examples=ASKED)
    sections.write_section("base_eval", {
        **manager.record_of(manager.read_meta(checkpoints_dir("base") / "d4", 420), "base", "d4", 420),
        "val_bpb": 0.9, "samples": [{"prompt": "Once", "text": "…"}, {"prompt": "", "text": "…"}],
    })  # fmt: skip
    with served([serving(gpt, tokenizer, meta)]) as live:
        (card,) = live.get("/v1/models").json()["data"]
        assert card == live.get("/v1/models/sft:d4").json()
    assert card["display_name"] == "d4 · SFT, step 1,400"
    assert card["about"] == (
        "d4 knows the little world: its people, towns and animals, sums, spelling and stories."
    )  # fmt: skip
    assert card["examples"] == ASKED
    made = card["trained"]
    assert [(each["model"], each["step"], each["tokens"], each["seconds"]) for each in made["stages"]] == [
        ("base:d4", 420, 420 * 4096, 60), ("sft:d4", 1400, 1400 * 4096, 60)]  # fmt: skip
    assert made["parent"] == "base:d4" and made["val_bpb"] == 0.12
    assert made["scores"]["tasks"]["facts"] == {"n": 100, "correct": 0.8, "interval": [0.7, 0.9]}
    assert made["parent_scores"] == {"val_bpb": 0.9}
    base = described(serving(gpt, tokenizer, manager.read_meta(checkpoints_dir("base") / "d4", 420), "base", 420))
    assert (base["display_name"], base["about"]) == (
        "d4 · base, step 420", "d4 continues texts about the little world.")  # fmt: skip
    assert base["examples"] == [{"task": None, "questions": ["Once"]}]


def test_scores_of_other_weights_are_not_its_own(gpt: GPT, tokenizer: Tokenizer) -> None:
    meta = trained(gpt)
    given = serving(gpt, tokenizer, meta)
    other = {**meta, "files": {"model_001400.pt": {"size": 1, "sha256": "another"}}}
    evaluated(other, examples=ASKED)  # the same name and step, trained anew
    assert (described(given)["examples"], described(given)["trained"]["scores"]) == ([], {})
    evaluated(None, examples=ASKED)  # of a version that recorded no sum
    assert described(given)["examples"] == ASKED
    evaluated(meta, examples=ASKED, step=700)
    assert described(given)["examples"] == []


def test_what_an_older_or_damaged_report_has_is_shown(gpt: GPT, tokenizer: Tokenizer) -> None:
    given = serving(gpt, tokenizer, trained(gpt))
    brief = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Mira?"}]
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}, brief[1]]
    evaluated(None, samples=[{"messages": brief}, {"messages": turns}])
    assert described(given)["examples"] == [{"task": "followup", "questions": ["Where?", "Mira?"]}]
    evaluated(None, tasks={"facts": "many"})
    assert described(given)["trained"]["scores"] == {}
    (sections.folder() / "chat_eval_sft.json").write_text("{", encoding="utf-8")
    assert described(given)["trained"]["scores"] == {}


def test_nothing_is_made_up_where_nothing_is_recorded(gpt: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    meta = trained(gpt)
    evaluated(meta, examples=ASKED)
    foreign = serving(gpt, tokenizer, {"model_config": {}}, step=0, folder=tmp_path)
    assert described(dataclasses.replace(foreign, stage_is_known=False), "user/talker") == {
        "display_name": "user/talker · chat", "about": "user/talker answers questions.",
        "examples": [], "trained": None,
    }  # fmt: skip
    gpt2 = described(dataclasses.replace(foreign, source="base", stage_is_known=False), "gpt2")
    assert (gpt2["display_name"], gpt2["about"], gpt2["trained"]) == ("gpt2 · base", "gpt2 continues texts.", None)
    elsewhere = described(serving(gpt, tokenizer, meta, folder=tmp_path))  # a copy: the report may be about another
    assert (elsewhere["examples"], elsewhere["trained"]["scores"]) == ([], {})
    own = {**meta, "conversations": "none", "dataset": None, "data_path": ["/home/ada/my.jsonl"], "parent": None}
    told = described(serving(gpt, tokenizer, own))
    assert told["about"] == "d4 has learned from my.jsonl."
    assert [each["model"] for each in told["trained"]["stages"]] == ["sft:d4"] and told["trained"]["parent"] is None


def test_a_parent_that_was_trained_anew_is_not_the_parent(gpt: GPT, tokenizer: Tokenizer) -> None:
    meta = trained(gpt)
    parent = {**meta["parent"], "sha256": "another"}
    made = described(serving(gpt, tokenizer, {**meta, "parent": parent}))["trained"]
    assert [each["model"] for each in made["stages"]] == ["sft:d4"] and made["parent"] == "base:d4"


def test_the_curve_ends_where_the_model_does_and_stays_small(gpt: GPT, tokenizer: Tokenizer) -> None:
    meta = trained(gpt)
    rows = [{"step": step, "loss": 1000 - step} for step in range(1, 1001)] + [{"step": 1000, "val_bpb": 0.5}]
    rows += [{"step": 1500, "loss": 9}, {"step": 3, "loss": "NaN"}]
    lines = [json.dumps(row) for row in rows] + ["{ half a li"]
    (checkpoints_dir("sft") / "d4" / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with served([serving(gpt, tokenizer, meta)], [serving(gpt, tokenizer, meta, "base", 420)]) as live:
        drawn = live.get("/training", params={"model": "sft:d4"}).json()
        none = live.get("/training", params={"model": "base:d4"}).json()
        assert httpx.get(f"{live.url}/training?model=x").status_code == 404
    assert len(drawn["loss"]) == 200 and drawn["loss"][0] == [3, 997] and drawn["loss"][-1] == [998, 2]
    assert drawn["val_bpb"] == [[1000, 0.5]]
    assert none == {"model": "base:d4", "loss": [], "reward": [], "val_bpb": []}
