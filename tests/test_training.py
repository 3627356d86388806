"""The training scripts as a user runs them: interrupted, resumed, on two ranks, and with every mistake."""

import json
import math
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch
from stages import (
    BASE,
    SCRIPTS,
    STEPS,
    assert_same_run,
    flags,
    lines,
    listing,
    losses,
    on_ranks,
    refused,
    saved_state,
    scores,
    tensors,
    train,
)  # fmt: skip

from nanochat import chat, config, errors
from nanochat.checkpoint import door, manager
from nanochat.errors import UserError
from nanochat.log import MetricsLog
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from nanochat.runtime import Runtime, can_compile
from nanochat.tokenizer import Tokenizer
from nanochat.train.start import open_run
from scripts import base_train

# ---------------------------------------------------------------- what a run leaves


def test_the_run_folder_tells_the_run(world, monkeypatch, tokenizer, capsys):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    folder = world("base")
    train("base", flags("base", folder, "--seed=7"))
    assert "wandb" not in sys.modules
    meta = manager.read_meta(folder, STEPS)
    assert (meta["seed"], meta["tokenizer_hash"], meta["dataset"]) == (7, tokenizer.hash, "tiny")
    assert {"git_commit", "user_config", "data", "val_bpb"} <= meta.keys()
    assert meta["user_config"]["grad_clip"] == 0.0 and meta["user_config"]["depth"] == 1
    assert meta["changed_flags"]["depth"] == 1 and "grad_clip" not in meta["changed_flags"]
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert written["user_config"]["seed"] == 7 and written["model_config"]["n_embd"] == 32
    assert [n for n, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]
    assert list(scores(folder)) == [3, 6] and scores(folder)[6] == meta["val_bpb"]
    perplexities = [line["val_perplexity"] for line in lines(folder) if "val_perplexity" in line]
    # The tokens that count are those with bytes: nats per token and per byte differ by the bytes per token.
    bits = [math.log2(perplexity) for perplexity in perplexities]
    ratios = [each / scores(folder)[step] for each, step in zip(bits, (3, 6), strict=True)]
    assert ratios[0] == pytest.approx(ratios[1]) and 1 < ratios[0] < 9
    assert perplexities[1] == meta["val_perplexity"]
    # Step 4 and 6 are the newest; the validation of step 3 belongs to no checkpoint.
    assert manager.steps(folder) == [4, 6]
    said = capsys.readouterr().out
    assert "6 steps of 128 tokens" in said
    assert re.search(rf"step 6  val_bpb {meta['val_bpb']:.4f}  val_perplexity {meta['val_perplexity']:.1f}\n", said)
    section = json.loads((folder.parents[1] / "report" / "base_train.json").read_text(encoding="utf-8"))
    assert (section["steps"], section["tokens"], section["seed"]) == (6, 768, 7)
    assert section["val_perplexity"] == meta["val_perplexity"]


def test_a_seed_decides_everything(worlds, world, base):
    folder = world("base")
    train("base", flags("base", base, "--model_tag=d1"))
    train("base", flags("base", base, "--model_tag=other", "--seed=43"))
    assert losses(folder) == losses(worlds["mid"] / "base_checkpoints" / "d1")
    assert losses(folder) != losses(folder.parent / "other")


@pytest.mark.parametrize("stage", SCRIPTS)
def test_training_lowers_the_loss(stage, world, base):
    """With rates for a run of 30 steps; those of the scaling rules are for long ones."""
    folder = world(stage)
    rates = ["--embedding_lr=9", "--unembedding_lr=0.3", "--matrix_lr=0.6", "--weight_decay=0"]
    faster = rates if stage == "base" else ["--init_lr_frac=30"]
    train(stage, flags(stage, base, "--num_iterations=30", "--save_every=-1", "--eval_every=15", *faster))
    found = [loss for _, loss in losses(folder)]
    assert sum(found[-5:]) / 5 < found[0] - 0.5
    assert scores(folder)[30] < scores(folder)[15]


def test_a_later_stage_inherits_and_prints_it(world, base, capsys):
    folder = world("mid")
    argv = [f for f in flags("mid", base) if not f.startswith(("--device_batch_size", "--total_batch_size"))]
    train("mid", argv)
    said = capsys.readouterr().out
    for text in ("starting from step 6", "inherited", "device_batch_size=2", "total_batch_size=128", "max_seq_len=32"):
        assert text in said
    meta = manager.read_meta(folder, STEPS)
    assert (meta["device_batch_size"], meta["total_batch_size"], meta["dataset"]) == (2, 128, "tiny")
    base_meta = manager.read_meta(checkpoints_dir("base") / "d1", STEPS)
    assert meta["parent"]["sha256"] == base_meta["files"]["model_000006.pt"]["sha256"]
    assert meta["model_config"] == base_meta["model_config"]
    assert meta["user_config"]["matrix_lr"] == base_meta["user_config"]["matrix_lr"]


def test_fine_tuning_counts_epochs(world, base):
    folder = world("mid")
    train("sft", flags("sft", base, "--source=base", "--num_iterations=-1", "--num_epochs=2", "--save_every=-1"))
    folder = checkpoints_dir("sft") / "d1"
    (step,) = manager.steps(folder)
    state = manager.read_meta(folder, step)["loop_state"]
    assert state["progress"] == 1.0 and state["cursor"]["document"] >= 38  # the second reading; two are held out
    shares = [line["progress"] for line in lines(folder) if "progress" in line]
    assert shares == sorted(shares) and shares[-2] < 1 == shares[-1]


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("stage", SCRIPTS)
def test_resuming_equals_never_having_stopped(stage, world, base, tmp_path):
    folder = world(stage)
    argv = flags(stage, base, "--keep_last=0")
    train(stage, argv)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    assert manager.steps(folder) == [2, 4, 6]
    manager.delete(folder, [4, 6])
    train(stage, argv)
    assert_same_run(folder, whole)
    train(stage, argv)  # and once more, when there is nothing left to do
    assert_same_run(folder, whole)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_of_an_earlier_version_is_resumed(ranks, world, base, tmp_path):
    """It kept its state in one file, whole."""
    folder = world("base")
    argv = flags("base", base, "--keep_last=0", "--total_batch_size=128")
    train("base", argv)
    shutil.copytree(folder, whole := tmp_path / "whole")
    manager.delete(folder, [4, 6])
    state = saved_state(folder, 2)
    steps, random = int(state.pop("steps")), state.pop("rng")
    buffers: dict[str, dict] = {}
    for name, buffer in state.items():
        buffers.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = buffer
    old = {"optimizer": {"steps": steps, "state": buffers}, "rng": random}
    torch.save(old, folder / "optim_000002_rank0.pt")
    shutil.rmtree(folder / "optim_000002")
    files = {"model_000002.pt": manager.read_meta(folder, 2)["files"]["model_000002.pt"]}
    manager.update_meta(folder, 2, {"files": files})
    if ranks == 1:
        train("base", argv)
        assert_same_run(folder, whole)
    else:
        on_ranks(base, "base", [*argv, "--parallel=shard"], 2)
        assert dict(losses(folder)) == {step: pytest.approx(loss, rel=2e-4) for step, loss in losses(whole)}


def test_training_goes_on_while_a_checkpoint_is_written(world, base, tmp_path, monkeypatch, capsys):
    """Step 2 is written only once step 3 was taken, and holds the weights and momenta of step 2."""
    folder = world("base")
    argv = flags("base", base, "--keep_last=0")
    train("base", argv)
    shutil.copytree(folder, whole := tmp_path / "whole")
    manager.delete(folder, [2, 4, 6])
    capsys.readouterr()
    was_taken, save, log = threading.Event(), manager.save, MetricsLog.log

    def late(folder: Path, step: int, *rest: object) -> None:
        assert step != 2 or was_taken.wait(60)
        save(folder, step, *rest)

    def logged(self: MetricsLog, step: int, metrics: dict) -> None:
        log(self, step, metrics)
        if step == 3:
            was_taken.set()

    monkeypatch.setattr(manager, "save", late)
    monkeypatch.setattr(MetricsLog, "log", logged)
    train("base", [*argv, "--eval_every=-1"])
    first, second = tensors(folder, 2), tensors(whole, 2)
    assert all(torch.equal(first[name], second[name]) for name in second)
    first, second = saved_state(folder, 2), saved_state(whole, 2)
    assert all(torch.equal(first[name], second[name]) for name in second)
    saved = r"base_train: step (\d) saved in [\d.]+s; training waited [\d.]+s for it"
    assert re.findall(saved, capsys.readouterr().out) == ["2", "4", "6"]


def test_resuming_an_explicit_step_drops_later_ones(world, base, tmp_path):
    folder = world("base")
    argv = flags("base", base, "--save_every=1", "--eval_every=1")
    train("base", [*argv, "--keep_last=0"])
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    train("base", [*argv, "--resume=2"])  # keeps two, so what is saved next must not be the first to go
    assert_same_run(folder, whole)
    assert {5, 6} <= set(manager.steps(folder))


def test_what_cannot_fit_into_memory_is_refused_before_it_starts(world, base):
    world("base")
    rows = ["--device_batch_size=2000000", "--max_seq_len=64", "--total_batch_size=128000000"]
    with pytest.raises(UserError, match=r"about \d+ GB, but only \d+ GB are available; --device_batch_size=\d+ fits"):
        train("base", flags("base", base, "--model_tag=large", *rows))
    assert not (base / "base_checkpoints" / "large").exists()


def test_more_steps_resume_a_finished_run(world, base):
    folder = world("base")
    train("base", flags("base", base))
    train("base", flags("base", base, "--num_iterations=8"))
    assert manager.steps(folder)[-1] == 8
    assert [n for n, _ in losses(folder)] == list(range(1, 9))


def test_overwrite_starts_over_and_clears_the_old_run_away(world, base, worlds, capsys):
    world("mid")  # holds steps of a finished base run
    folder = checkpoints_dir("base") / "d1"
    anew = flags("base", base, "--resume=never", "--num_iterations=3", "--save_every=-1")
    said = refused("base", anew, capsys)
    assert "holds the checkpoints of step 4, 6" in said and "--model_tag NAME" in said and "--overwrite" in said
    train("base", [*anew, "--overwrite"])
    assert manager.steps(folder) == [3]
    assert [n for n, _ in losses(folder)] == [1, 2, 3]
    first = losses(worlds["mid"] / "base_checkpoints" / "d1")[0]
    assert losses(folder)[0] == first
    assert not [path for path in folder.iterdir() if "000006" in path.name]


# ---------------------------------------------------------------- two ranks


def assert_close_runs(one: Path, other: Path) -> None:
    """To float tolerance. Muon's products round to bfloat16 where that is fast, which carries a last bit far."""
    assert [n for n, _ in losses(one)] == [n for n, _ in losses(other)]
    assert [loss for _, loss in losses(one)] == pytest.approx([loss for _, loss in losses(other)], rel=2e-3)
    assert losses(one)[0][1] == pytest.approx(losses(other)[0][1], rel=1e-6)
    assert scores(one) == pytest.approx(scores(other), rel=5e-3)
    a, b = tensors(one), tensors(other)
    for name in a:
        assert (a[name] - b[name]).norm() <= 0.05 * b[name].norm() + 1e-3, name
    cursors = [manager.read_meta(folder, STEPS)["dataloader_state_dict"] for folder in (one, other)]
    assert cursors[0] == cursors[1]


def test_two_ranks_equal_one_that_accumulates(world, base, tmp_path):
    """torchrun itself starts such ranks in tests/test_speedrun_real.py, test_ranks.py and test_guides.py."""
    folder = world("base")
    argv = flags("base", base)
    train("base", argv)
    alone = tmp_path / "alone"
    shutil.move(folder, alone)
    on_ranks(base, "base", argv)
    assert_close_runs(folder, alone)


def test_fine_tuning_resumes_on_ranks(world, base, tmp_path):
    """Conversations give the ranks different numbers of supervised tokens, and the first steps were one rank's."""
    folder = world("sft")
    argv = flags("sft", base, "--keep_last=0")
    train("sft", argv)
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    manager.delete(folder, [4, 6])
    on_ranks(base, "sft", argv)
    assert losses(folder)[:2] == losses(alone)[:2]
    assert_close_runs(folder, alone)


def test_a_base_run_resumes_with_its_batch_on_ranks(world, base, tmp_path):
    folder = world("base")
    argv = flags("base", base, "--keep_last=0", "--device_batch_size=4")
    train("base", argv)
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    manager.delete(folder, [4, 6])
    on_ranks(base, "base", [*argv, "--total_batch_size=-1"])
    meta = manager.read_meta(folder, STEPS)
    assert (meta["total_batch_size"], meta["device_batch_size"]) == (128, 2)
    assert_close_runs(folder, alone)


def test_ranks_that_cannot_share_the_batch_of_a_run_are_refused(world, monkeypatch):
    monkeypatch.setattr(Runtime, "wait", lambda rt: None)  # the other ranks are not here
    world("mid")  # with a finished base run of 128 tokens a step

    def shared(ranks: int, *more: str) -> tuple[int, int]:
        asked = config.parse(base_train.Flags, ["--max_seq_len=32", "--device_batch_size=2", *more])
        rt = Runtime(torch.device("cpu"), torch.float32, 0, ranks, 0)
        with open_run("base", asked, rt, "d1") as start:
            return base_train.batch_of(start.flags, start, base_train.config_of(start.flags, 300))

    assert shared(4, "--total_batch_size=-1") == (128, 1)
    with pytest.raises(UserError, match=r"128 tokens 3 ranks cannot .* divides 4, or with --total_batch_size=96 "):
        shared(3, "--total_batch_size=-1")
    assert shared(3, "--total_batch_size=192") == (192, 2)
    assert shared(3, "--resume=never", "--overwrite") == (-1, 2)


# ---------------------------------------------------------------- memory

AUTO = "--device_batch_size=auto"


@pytest.mark.parametrize("stage", SCRIPTS)
def test_as_many_rows_as_fit(stage, world, base, worlds, capsys):
    """Here the step has 128 tokens, so that 4 rows of 32 are all. The same run resumes with them to the bit."""
    folder = world(stage)
    train(stage, flags(stage, base, AUTO))
    meta = manager.read_meta(folder, STEPS)
    assert (meta["device_batch_size"], meta["total_batch_size"]) == (4, 128)
    assert meta["changed_flags"]["device_batch_size"] == "auto"
    assert "device_batch_size=auto: 256 rows of 32 tokens at a time, which take about" in capsys.readouterr().out
    whole = folder.parent / "whole"
    shutil.copytree(folder, whole)
    manager.delete(folder, [6])
    # auto is the run's own
    train(stage, [flag for flag in flags(stage, base) if not flag.startswith("--device_batch_size")])
    assert_same_run(folder, whole)


def test_as_many_rows_as_fit_on_ranks(world, base):
    folder = world("base")
    on_ranks(base, "base", flags("base", base, AUTO))
    assert manager.read_meta(folder, STEPS)["device_batch_size"] == 2


def test_rows_that_fit_share_a_batch_that_is_passed(world, base, capsys):
    world("base")
    assert "192 is" in refused("base", flags("base", base, AUTO, "--total_batch_size=200"), capsys)
    train("base", flags("base", base, AUTO, "--total_batch_size=192"))
    assert manager.read_meta(base / "base_checkpoints" / "d1", STEPS)["device_batch_size"] == 6


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_documents_may_be_kept_apart(stage, world, base):
    """The run's config has it, and it makes another model out of the same batches."""
    folder = world(stage)
    train(stage, flags(stage, base, "--model_tag=d1", "--document_mask"))
    assert manager.read_meta(folder, STEPS)["user_config"]["document_mask"] is True
    apart = losses(folder)
    shutil.rmtree(folder)
    train(stage, flags(stage, base, "--model_tag=d1"))
    assert apart != losses(folder)


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_recomputing_changes_no_bit(stage, world, base, worlds):
    folder = world(stage)
    train(stage, flags(stage, base, "--model_tag=d1", "--recompute"))
    assert manager.read_meta(folder, STEPS)["user_config"]["recompute"] is True
    again = folder.parent / "with"
    shutil.copytree(folder, again)
    shutil.rmtree(folder)
    train(stage, flags(stage, base, "--model_tag=d1"))
    assert_same_run(folder, again)


def test_float8_is_refused_where_it_cannot_be(world, base, capsys):
    folder = world("base")
    assert "--fp8 needs a CUDA GPU" in refused("base", flags("base", base, "--fp8"), capsys)
    assert manager.steps(folder) == []


# ---------------------------------------------------------------- torch.compile


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="torch.compile needs a C++ compiler")
def test_compiled_training_computes_the_same(world, base, worlds):
    folder = world("base")
    argv = [*flags("base", base, "--num_iterations=2", "--eval_every=-1"), "--compile"]
    train("base", argv)
    plain = losses(worlds["mid"] / "base_checkpoints" / "d1")
    assert losses(folder)[0][1] == pytest.approx(plain[0][1], rel=1e-5)
    saved = tensors(folder, 2)  # under the names of the model that was not compiled
    assert all(not name.startswith("_orig_mod") for name in saved)
    assert door.open("base").step == 2


def test_no_compiler_is_a_line_of_output(world, base, monkeypatch, capsys):
    folder = world("base")
    monkeypatch.setenv("PATH", str(base))
    monkeypatch.delenv("CXX", raising=False)
    train("base", [*flags("base", base, "--num_iterations=1"), "--compile"])
    assert "no C++ compiler" in capsys.readouterr().out
    assert manager.steps(folder) == [1]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "more, said",
    [
        (["--dataset=nowhere"], ["base_data_nowhere", "does not exist", "add_data"]),
        (["--total_batch_size=100"], ["100", "multiple of 64", "--device_batch_size 2", "64 is"]),
        (["--total_batch_size=32"], ["32", "64 is"]),
        (["--device_batch_size=0"], ["--device_batch_size"]),
        (["--max_seq_len=0"], ["--max_seq_len"]),
        (["--total_batch_sise=64"], ["unknown flag", "--total_batch_size"]),
        (["--depth=none"], ["none"]),
        (["--resume=999"], ["step 999", "4, 6"]),
        (["--resume=maybe"], ["maybe", "auto, never"]),
        (["--depth=2", "--model_tag=d1"], ["n_layer 1 (now 2)", "--overwrite"]),
        (["--model_tag=a/b"], ["--model_tag 'a/b'", "one folder"]),
        (["--model_tag=../x"], ["--model_tag '../x'"]),
        (["--model_tag="], ["--model_tag ''"]),
        (["--model_tag=" + 300 * "x"], ["--model_tag 'xxx", "200 bytes"]),
        (["--seed=43"], ["seed is 42, not 43", "--model_tag NAME", "--overwrite"]),
        (["--window_pattern=X"], ["--window_pattern"]),
        (["--device_type=tpu"], ["tpu", "cpu"]),
        (["--dtype=float8"], ["float8", "bfloat16"]),
        (["--num_iterations=-1", "--target_param_data_ratio=-1", "--model_tag=new"], ["--num_iterations"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_mistakes_of_base_training(more, said, world, base, capsys):
    world("mid")  # with a finished base run
    sentence = refused("base", flags("base", base, *more), capsys)
    for words in said:
        assert words in sentence


def test_a_data_folder_without_training_text(world, base, capsys):
    world("base")
    shards = sorted(dataset_dir("tiny").iterdir())
    shards[0].unlink()
    assert "last shard is for validation" in refused("base", BASE, capsys)
    for shard in shards[1:]:
        shard.unlink()
    assert "no data in" in refused("base", BASE, capsys)
    (tokenizer_dir() / "tokenizer.json").unlink()
    assert "tok_train" in refused("base", BASE, capsys)


@pytest.mark.parametrize("stage, command", [("mid", "scripts.base_train"), ("sft", "scripts.mid_train")])
def test_a_stage_without_the_one_before(stage, command, world, base, capsys):
    world("base")
    assert f"python -m {command}" in refused(stage, flags(stage, base), capsys)


@pytest.mark.parametrize(
    "more, said",
    [
        (["--model_tag=d9"], ["d9", "there are: d1"]),
        (["--model_step=5"], ["step 5", "4, 6"]),
        (["--max_seq_len=64"], ["--max_seq_len 64", "32"]),
        (["--total_batch_size=96"], ["multiple of 64"]),
        (["--resume=7"], ["no sft checkpoint"]),
        (["--conversations=wikipedia"], ["wikipedia", "none"]),
        (["--data_path=/nowhere/x.jsonl"], ["/nowhere/x.jsonl"]),
        (["--source=rl"], ["no rl checkpoint"]),
        (["--source=nothing"], ["there is no model 'nothing'", "user/name"]),
        (["--out_tag=a/b"], ["--out_tag 'a/b'"]),
        (["--conversations=none", "--total_batch_size=64", "--target_examples_per_step=2"], ["set the same thing"]),
        (["--max_seq_len=8", "--total_batch_size=64"], ["not even with its first exchange", "shorten them"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_mistakes_of_fine_tuning(more, said, world, base, capsys):
    world("mid")
    if more == ["--max_seq_len=8", "--total_batch_size=64"]:
        question = {"role": "user", "content": "a question that is longer than eight tokens"}
        content = json.dumps([question, {"role": "assistant", "content": "yes"}])
        (base / "talk.jsonl").write_text(content, encoding="utf-8")
    sentence = refused("sft", flags("sft", base, "--source=base", *more), capsys)
    for words in said:
        assert words in sentence


def test_a_bad_line_of_conversations(world, base, capsys):
    world("mid")
    with open(base / "talk.jsonl", "a", encoding="utf-8") as file:
        file.write('[{"role": "user", "content": "and?"}]\n')
    assert "talk.jsonl:41: the last message must be the assistant's" in refused("mid", flags("mid", base), capsys)


def test_another_tokenizer(world, base, capsys):
    world("mid")
    Tokenizer.train(iter(["another text altogether " * 9] * 3), 268, chat.SPECIALS).save(tokenizer_dir())
    assert "was trained with the tokenizer" in refused("mid", flags("mid", base), capsys)
    assert "was trained with the tokenizer" in refused("base", BASE, capsys)


def test_a_run_that_started_from_another_checkpoint(world, base, capsys):
    world("sft")
    said = refused("mid", flags("mid", base, "--model_step=4"), capsys)
    assert "base d1 step 6" in said and "base d1 step 4" in said and "--out_tag NAME" in said and "--overwrite" in said


@pytest.mark.parametrize("saves", [0, 1])
def test_a_full_disk_leaves_no_trace_of_what_was_not_saved(saves, worlds, small_disk, monkeypatch, capsys):
    shutil.copytree(worlds["base"], base := small_disk / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    if saves:
        train("base", flags("base", base, "--num_iterations=2"))
    before = [(path, size) for path, size, _ in listing(base)]
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - 8 * 4096))  # room for the metrics, not for a checkpoint
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: train("base", flags("base", base)))
    assert stop.value.code == 2
    assert "the disk is full" in capsys.readouterr().err
    assert [(path, size) for path, size, _ in listing(base)] == before


def test_a_run_that_blows_up_leaves_the_good_checkpoints(world, base):
    """The step that makes the weights overflow has a finite loss itself; the checkpoints before it must survive."""
    folder = world("base")
    argv = flags("base", base, "--save_every=1", "--eval_every=-1", "--num_iterations=20", "--keep_last=0")
    train("base", argv)
    manager.delete(folder, range(4, 21))
    before = tensors(folder, 3)
    argv += ["--matrix_lr=1e30", "--keep_last=2"]
    with pytest.raises(UserError, match="without saving: the norm of its weights is not finite"):
        train("base", argv)
    assert manager.steps(folder)[-1] == 3
    assert 3 in manager.steps(folder)
    after = tensors(folder, 3)
    assert all(torch.equal(before[name], after[name]) for name in before)
