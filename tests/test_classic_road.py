"""Somebody comes with a checkpoint of the original nanochat: it is trained on, fine-tuned and served under its tag."""

from pathlib import Path

import fakehub
import pytest
import realsets
import reference
import served

from nanochat.checkpoint import door, manager
from nanochat.engine import serving
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from scripts import base_eval, base_train, chat_sft, mid_train
from tasks.littleworld import corpus

QUICK = ["--num_iterations=2", "--device_type=cpu", "--no-compile", "--eval_every=-1"]


@pytest.fixture
def d34(base: Path) -> reference.Weights:
    """A stand-in for the published d34, as it lies on disk after the original's own instructions."""
    folder = checkpoints_dir("base") / "d34"
    c = reference.Nanochat(context=64, layers=2, heads=2, kv_heads=1, width=32)
    weights = {name: 0.1 * tensor for name, tensor in reference.draw_nanochat(c).items()}
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].bfloat16()  # as training on CUDA leaves it
    reference.write_nanochat(folder, c, weights, step=169150)
    tokenizer_dir().mkdir()
    for name in ("tokenizer.pkl", "token_bytes.pt"):
        (folder / name).rename(tokenizer_dir() / name)
    return weights


def test_the_guides_road_from_a_loaded_checkpoint_to_a_served_one(
    d34: reference.Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The commands of a guide as they are typed, but for the number of steps: they train on the real recipe."""
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    (base / "words.txt").write_text("".join(f"{a}{b}rk\n" for a in "abcdefghij" for b in "aeiou"), encoding="utf-8")
    with fakehub.running(tmp_path / "home", monkeypatch) as hub:
        realsets.add_all(hub)
        mid_train.main(["--model_tag=d34", "--model_step=169150", "--device_batch_size=4", *QUICK])
        said = capsys.readouterr().out
        tune = ["--source=mid", "--model_tag=d34", "--eval_metrics_every=-1", *QUICK]
        chat_sft.main(tune)
        tuned = capsys.readouterr().out
        chat_sft.main([*tune, "--out_tag=mine", "--seed=1"])
    assert "the real recipe (SmolTalk, MMLU, GSM8K and spelling), because the model does not descend" in said
    assert "the real recipe (ARC, GSM8K, SmolTalk and spelling)" in tuned
    assert "pass --conversations littleworld or none to change that" in said and "scripts.make_identity" in said
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in checkpoints_dir("sft").iterdir()) == ["d34", "mine"]
    first = manager.read_meta(checkpoints_dir("sft") / "d34", 2)
    assert (first["total_batch_size"], first["device_batch_size"]) == (32 * 64, 4)  # 32 rows of 64 tokens a step
    assert (first["conversations"], first["dataset"]) == ("real", None)
    assert "starting from step 169150 of" in said
    assert "total_batch_size=512, whole rounds of 256 tokens" in said  # 500 was recorded, and nobody typed it
    mid = door.open("mid", tag="d34")
    assert (mid.step, mid.meta["parent"]["step"]) == (2, 169150)
    assert mid.model.config.rope_base == 10000.0 and not mid.model.config.smear
    moved = (mid.model.state_dict()["transformer.wte.weight"].float() - d34["transformer.wte.weight"].float()).abs()
    assert 0 < moved.max() < 1
    answers = serving.serve_model(door.find("sft", tag="d34", step=2), "cpu")
    with served.served([answers]) as live:
        question = {"model": "sft:d34", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        reply = live.post("/v1/chat/completions", question)
        assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] > 0


def test_the_little_world_is_written_for_who_has_no_text(
    d34: reference.Weights, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    small = corpus.write
    monkeypatch.setattr(corpus, "write", lambda folder: small(folder, num_documents=100))  # 60000 take a minute
    mid_train.main(["--model_tag=d34", "--device_batch_size=4", "--conversations=littleworld", *QUICK])
    assert "writing the text of the little world" in capsys.readouterr().out
    assert door.open("mid").step == 2


def test_it_is_evaluated_with_its_own_lengths(d34: reference.Weights, capsys) -> None:
    corpus.write(dataset_dir("tinyworld"), num_documents=100)
    base_eval.main(["--eval_tokens=2000", "--device_type=cpu", "--num_samples=1", "--max_new_tokens=4", "--split=val"])
    assert "bits per byte" in capsys.readouterr().out
    loaded = door.open("base")
    halves = [i for i, token in enumerate(loaded.tokenizer.tokens) if len(token) == 1 and token[0] >= 0x80]
    assert {loaded.tokenizer.token_bytes[i] for i in halves} == {3}  # the original counted U+FFFD


def test_its_own_run_is_not_resumed_by_chance(d34: reference.Weights) -> None:
    corpus.write(dataset_dir("tinyworld"), num_documents=100)
    before = sorted(path.name for path in (checkpoints_dir("base") / "d34").iterdir())
    with pytest.raises(UserError, match="was trained by the original nanochat, whose run cannot be resumed here"):
        base_train.main(["--model_tag=d34", "--depth=1", "--max_seq_len=64", "--device_batch_size=2", *QUICK])
    assert sorted(path.name for path in (checkpoints_dir("base") / "d34").iterdir()) == before
