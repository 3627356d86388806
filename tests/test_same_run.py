"""A run is resumed only as itself, is alone in its folder, and nothing that it did not write is ever replaced."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from stages import BASE, STEPS, assert_same_run, flags, listing, losses, refused, tensors, train

from nanochat.checkpoint import door, manager
from nanochat.errors import UserError
from nanochat.paths import alone_in, check_tag, checkpoints_dir, dataset_dir

SHORT = ("--num_iterations=2", "--eval_every=-1", "--save_every=-1")


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- the same data


def test_edited_conversations_are_another_run(world, base, capsys):
    world("mid")
    argv = flags("sft", base, "--source=base", *SHORT)
    train("sft", argv)
    talk, content = base / "talk.jsonl", (base / "talk.jsonl").read_text(encoding="utf-8")
    for edited in (content.replace("It is", "It was"), content + content.splitlines()[0].replace("0", "99") + "\n"):
        talk.write_text(edited, encoding="utf-8")
        said = refused("sft", argv, capsys)
        assert "talk.jsonl has other contents" in said and "--out_tag NAME" in said and "--overwrite" in said
    talk.unlink()
    (base / "moved.jsonl").write_text(content, encoding="utf-8")
    capsys.readouterr()
    moved = [flag.replace("talk.jsonl", "moved.jsonl") for flag in argv]
    train("sft", moved)  # what counts is the content
    assert "already finished at step 2" in capsys.readouterr().out
    assert manager.steps(checkpoints_dir("sft") / "d1") == [2]


def test_shards_that_were_removed_put_between_replaced_or_appended(world, base, capsys):
    world("base")
    dataset_dir("many").mkdir()
    for n in range(4):
        texts = [f"shard {n}, text {m} of the town and its river" for m in range(30)]
        pq.write_table(pa.table({"text": texts}), dataset_dir("many") / f"shard_{n:05d}.parquet", row_group_size=10)
    argv = flags("base", base, "--dataset=many")
    folder = checkpoints_dir("base") / "d1"
    train("base", [*argv, "--num_iterations=4"])
    shards = sorted(dataset_dir("many").iterdir())
    kept = shards[1].read_bytes()
    longer = [*argv, "--num_iterations=6"]
    shards[1].unlink()
    assert "shard_00001.parquet is missing" in refused("base", longer, capsys)
    shards[1].write_bytes(shards[0].read_bytes())
    assert "shard_00001.parquet is not the shard that this run read there" in refused("base", longer, capsys)
    shards[1].write_bytes(kept)
    between = shards[0].with_name("shard_00000a.parquet")
    shutil.copy(shards[2], between)
    assert "shard_00000a.parquet" in refused("base", longer, capsys)
    between.unlink()
    dataset_dir("many").rename(dataset_dir("moved"))  # what counts is the content
    train("base", flags("base", base, "--dataset=moved", "--num_iterations=6"))
    assert manager.steps(folder)[-1] == 6


# ---------------------------------------------------------------- the same flags


def test_flags_not_passed_are_the_runs_own_and_changes_are_named(world, base, capsys):
    world("base")
    argv = flags("base", base, "--matrix_lr=0.05")
    train("base", argv)
    folder, whole = checkpoints_dir("base") / "d1", base.parent / "whole"
    shutil.copytree(folder, whole)
    manager.delete(folder, [6])
    capsys.readouterr()
    train("base", ["--depth=1"])
    said = capsys.readouterr().out
    assert "as the run was started: " in said and "matrix_lr=0.05" in said and "max_seq_len=32" in said
    assert_same_run(folder, whole)
    train("base", [*argv, "--matrix_lr=0.02", "--num_iterations=7"])
    said = capsys.readouterr().out
    assert "changed from here on: --matrix_lr 0.05 -> 0.02, --num_iterations 6 -> 7" in said
    assert manager.read_meta(folder, 7)["user_config"]["matrix_lr"] == 0.02
    train("base", ["--depth=1"])
    said = capsys.readouterr().out
    assert "already finished at step 7, best val_bpb" in said and "--num_iterations above 7" in said


# ---------------------------------------------------------------- the parent, and where a run writes


def test_two_fine_tunings_of_one_model_and_one_of_a_fine_tuned_one(world, base, capsys):
    world("mid")
    argv = flags("sft", base, "--source=base", *SHORT)
    train("sft", argv)
    said = refused("sft", [*argv, "--init_lr_frac=0.5", "--seed=1"], capsys)
    assert "seed is 42, not 1" in said and "--out_tag NAME" in said
    train("sft", [*argv, "--seed=1", "--out_tag=second"])
    assert "starts from" in refused("sft", flags("sft", base, "--source=sft", "--model_tag=d1", *SHORT), capsys)
    train("sft", flags("sft", base, "--source=sft:d1:2", "--out_tag=third", *SHORT))
    root = checkpoints_dir("sft")
    assert names(root) == ["d1", "second", "third"]
    parent = manager.read_meta(root / "third", 2)["parent"]
    assert (parent["source"], parent["tag"], parent["step"]) == ("sft", "d1", 2)
    assert not torch.equal(*(tensors(root / tag, 2)["lm_head.weight"] for tag in ("d1", "second")))
    with pytest.raises(UserError, match="no sft checkpoint is tagged 'fourth' .*there are: d1, second, third"):
        door.open("sft", tag="fourth")


def test_overwriting_happens_at_the_first_save_and_only_if_asked(world, base, capsys):
    world("mid")
    folder = checkpoints_dir("base") / "d1"
    before = listing(folder)
    other = flags("base", base, "--seed=7")
    assert "seed is 42, not 7" in refused("base", other, capsys)
    with pytest.raises(UserError, match="not finite"):
        train("base", [*other, "--overwrite", "--matrix_lr=1e30", "--embedding_lr=1e30", "--save_every=-1"])
    assert listing(folder) == before
    train("base", [*other, "--overwrite", "--num_iterations=3", "--save_every=-1"])
    assert manager.steps(folder) == [3] and [step for step, _ in losses(folder)] == [1, 2, 3]
    again = losses(folder)
    train("base", [*other, "--overwrite", "--num_iterations=3", "--save_every=-1"])  # the same run by now
    assert losses(folder) == again and "already finished" in capsys.readouterr().out


def test_pretraining_on_other_text_is_mid_training_without_conversations(world, base):
    world("mid")
    for more in (["--conversations=none"], []):
        argv = [flag for flag in flags("mid", base, *SHORT) if not flag.startswith(("--data_path", "--text_share"))]
        argv = [flag for flag in argv if not flag.startswith("--conversations")]
        train("mid", [*argv, "--text_share=1", f"--out_tag=text{len(more)}", *more])
    first, second = (checkpoints_dir("mid") / tag for tag in ("text0", "text1"))
    assert losses(first) == losses(second) and len(losses(first)) == 2
    assert manager.read_meta(first, 2)["conversations"] == "none"


def test_the_recipe_follows_the_model_and_missing_data_is_named_before_training(world, base, monkeypatch, capsys):
    """This base model was not trained on the little world, so it gets the real recipe, which needs a hub."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(base.parent / "cache"))
    world("mid")
    argv = [flag for flag in flags("mid", base, *SHORT) if not flag.startswith(("--conv", "--data_path", "--text"))]
    said = refused("mid", argv, capsys)
    for words in ("the real recipe's data cannot be fetched", "HF_ENDPOINT", "--data_path FILE", "littleworld"):
        assert words in said
    train("mid", [*argv, "--conversations=littleworld"])
    assert manager.read_meta(checkpoints_dir("mid") / "d1", 2)["conversations"] == "littleworld"
    capsys.readouterr()
    train("sft", [*SHORT, "--no-compile", "--eval_metrics_every=-1", "--device_batch_size=4"])
    said = capsys.readouterr().out
    assert "conversations: the little world, because the model descends from the little world" in said
    meta = manager.read_meta(checkpoints_dir("sft") / "d1", 2)
    assert meta["conversations"] == "littleworld" and meta["total_batch_size"] == 32 * 32  # rows of 32 tokens


def test_what_is_whole_is_never_passed_over(world, base, capsys):
    """Neither a checkpoint of a newer version nor one without an optimizer is damaged: an older one does not do."""
    world("mid")
    folder = checkpoints_dir("base") / "d1"
    meta = manager.read_meta(folder, 6)
    manager.write_meta(folder / "meta_000006.json", {**meta, "format": manager.FORMAT + 1})
    assert "use the newer one to read it" in refused("base", flags("base", base), capsys)
    manager.write_meta(folder / "meta_000006.json", {**meta, "files": {}})
    shutil.rmtree(folder / "optim_000006")
    assert "optim_000006_rank0.pt is missing" in refused("base", flags("base", base), capsys)
    asked = flags("base", base, "--seed=9", "--resume=4", "--overwrite")  # a step that is asked for is that step
    assert "seed is 42, not 9" in refused("base", asked, capsys)


def test_a_flag_that_is_passed_beats_the_runs_own_form_of_it(world, base, capsys):
    world("mid")
    argv = [flag for flag in flags("sft", base, "--source=base") if not flag.startswith(("--total", "--num_it"))]
    train("sft", [*argv, "--target_examples_per_step=4", "--num_iterations=2"])
    capsys.readouterr()
    train("sft", [*argv, "--total_batch_size=64", "--num_epochs=3"])
    meta = manager.read_meta(checkpoints_dir("sft") / "d1", manager.steps(checkpoints_dir("sft") / "d1")[-1])
    assert meta["total_batch_size"] == 64 and meta["step"] > 4 and meta["loop_state"]["epochs"] >= 3
    assert "--num_epochs 1.0 -> 3.0" in capsys.readouterr().out
    both = [*argv, "--total_batch_size=64", "--target_examples_per_step=2", "--out_tag=both"]
    assert "set the same thing; pass only one of them" in refused("sft", both, capsys)


def test_a_parent_that_was_a_folder_may_be_gone_as_well(world, base, tmp_path):
    world("mid")
    shutil.copytree(checkpoints_dir("base") / "d1", tmp_path / "parent")
    argv = flags("sft", base, f"--source={tmp_path / 'parent'}", "--out_tag=mine")
    train("sft", [*argv, "--num_iterations=2"])
    shutil.rmtree(tmp_path / "parent")
    train("sft", [*argv, "--num_iterations=4"])
    assert manager.steps(checkpoints_dir("sft") / "mine")[-1] == 4
    with pytest.raises(UserError, match="there is no model"):
        train("sft", flags("sft", base, f"--source={tmp_path / 'other'}", "--out_tag=mine"))


def test_own_conversations_bring_no_text_that_the_model_does_not_know(world, base, capsys):
    """A model that does not record its text, as the original's, is trained on what its user gave, and nothing else."""
    world("mid")
    folder = checkpoints_dir("base") / "d1"
    meta = {key: value for key, value in manager.read_meta(folder, 6).items() if key != "dataset"}
    automatic = {"total_batch_size": -1, "matrix_lr": "auto"}  # as the original records flags that it settles itself
    manager.write_meta(folder / "meta_000006.json", {**meta, "user_config": automatic})
    own = ["--conversations=none", f"--data_path={base / 'talk.jsonl'}", "--device_batch_size=2", *SHORT]
    train("mid", [*own, "--no-compile"])
    said = manager.read_meta(checkpoints_dir("mid") / "d1", 2)
    assert said["text_share"] == 0 and said["dataset"] is None and not dataset_dir("tinyworld").exists()
    assert said["total_batch_size"] == 128 and said["user_config"]["matrix_lr"] == 0.02
    assert "name one with --dataset" in refused("mid", [*own, "--text_share=0.5", "--out_tag=x"], capsys)
    assert "leaves no room for conversations" in refused("mid", [*own, "--text_share=1", "--out_tag=x"], capsys)


# ---------------------------------------------------------------- damage


# ---------------------------------------------------------------- alone


@pytest.mark.parametrize("flag", ["--matrix_lr=nan", "--embedding_lr=inf", "--warmdown_ratio=nan", "--scalar_lr=-1"])
def test_numbers_that_no_run_can_have(flag, world, base, capsys):
    world("base")
    assert flag.partition("=")[0] in refused("base", flags("base", base, flag), capsys)


def test_a_lock_leaves_no_folder_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path / "stage" / "tag"):
        raise ZeroDivisionError
    assert not (tmp_path / "stage").exists()
    (tmp_path / "stage" / "mine").mkdir(parents=True)
    mine = tmp_path / "stage" / "mine"
    with alone_in(mine), pytest.raises(UserError, match="is in use by process"), alone_in(mine):
        pass
    assert names(tmp_path / "stage" / "mine") == []


# ---------------------------------------------------------------- signals, float16, time


def test_float16_is_resumed_to_the_bit(world, base, tmp_path):
    """With rates at which gradients overflow now and then, so that the scale has moved when the run is resumed."""
    folder = world("base")
    argv = flags("base", base, "--dtype=float16", "--depth=2", "--model_tag=d1", "--max_seq_len=4", "--eval_every=0",
                 "--device_batch_size=1", "--total_batch_size=4", "--num_iterations=60", "--save_every=30",
                 "--keep_last=0", "--embedding_lr=2", "--unembedding_lr=5", "--sample_every=-1")  # fmt: skip
    train("base", argv)
    shutil.copytree(folder, tmp_path / "whole")
    assert manager.read_meta(folder, 30)["loop_state"]["loss_scale"] < 2**16
    manager.delete(folder, [60])
    train("base", argv)
    assert_same_run(folder, tmp_path / "whole", 60)


def test_checkpoints_for_their_time_make_way_for_those_that_are_due(world, base):
    folder = world("base")
    train("base", flags("base", base, "--save_minutes=0.0000001", "--save_every=3", "--keep_last=0", "--eval_every=-1"))
    assert manager.steps(folder) == [3, 6]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("tag", ["", ".", "..", "a/b", "../x", "/x", "a\\b", "a\nb", "a:b", ".hidden", 300 * "x"])
def test_a_tag_is_one_folder_name(tag):
    with pytest.raises(UserError, match="--out_tag .* cannot be the name of one folder"):
        check_tag("out_tag", tag)
    check_tag("out_tag", "d20-mine_2.1 größer")


def test_a_run_that_an_older_version_wrote(world, base, capsys):
    world("mid")
    folder = checkpoints_dir("base") / "d1"
    for step in manager.steps(folder):
        meta = {key: value for key, value in manager.read_meta(folder, step).items() if key != "data"}
        (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta), encoding="utf-8")
    assert "did not record its data" in refused("base", BASE, capsys)
    assert STEPS in manager.steps(folder)
