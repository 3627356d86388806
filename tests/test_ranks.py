"""Runs on several ranks that fail: one sentence from the rank that knows, no other traceback, no rank left behind."""

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from children import processes
from conftest import TEXT
from stages import saved_state

from nanochat import errors, peers, runtime
from nanochat.checkpoint import manager
from nanochat.data.shards import write_shards
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.optim import Optimizer
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from nanochat.train import pace

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "--device_type=cpu", "--dtype=float32", "--no-compile", "--device_batch_size=2", "--total_batch_size=256",
    "--warmup_steps=2", "--eval_every=-1", "--eval_tokens=128", "--sample_every=-1", "--dataset=tiny", "--depth=1",
    "--aspect_ratio=32", "--head_dim=32", "--max_seq_len=32", "--num_iterations=4",
]  # fmt: skip


@pytest.fixture
def world(base: Path, tokenizer: Tokenizer) -> Path:
    """The base folder with a tokenizer and text of two training shards and one for validation."""
    tokenizer.save(tokenizer_dir())
    write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(60)), dataset_dir("tiny"), group_bytes=3000)
    return base


def as_rank(folder: str, environment: dict[str, str], main: Callable[..., None], arguments: list) -> None:
    os.environ.update(environment)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        with open(Path(folder, f"{name}{environment['RANK']}"), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    errors.run(lambda: main(*arguments))


def train(argv: list[str]) -> None:
    importlib.import_module("scripts.base_train").main(argv)


def train_watched(argv: list[str], late: bool) -> None:
    """Train and print how often new weights of blocks were still on their way when a step had ended."""
    on_their_way, step = 0, Optimizer.step

    def watched(optimizer: Optimizer, *arguments: Any) -> None:
        nonlocal on_their_way
        step(optimizer, *arguments)
        on_their_way += any(bucket.work is not None for bucket in optimizer.exchange.buckets)

    patch = pytest.MonkeyPatch()  # of this process, which ends with the run
    patch.setattr(Optimizer, "step", watched)
    if not late:
        patch.setattr(Optimizer, "gather_late", lambda optimizer, blocks: None)
    train(argv)
    print(f"on their way: {on_their_way}")


@pytest.fixture(params=["torchrun's store", "rank 0's store"])
def stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the ranks' store lives."""
    if request.param == "rank 0's store":
        monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    return request.param


def start(folder: Path, main: Callable[..., None], *arguments: object, world: int = 2) -> list[BaseProcess]:
    """Ranks of a program, two a node, as torchrun starts them; the store is here unless the environment forbids it."""
    folder.mkdir(exist_ok=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    is_shared, port = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in os.environ, store.port
    if not is_shared:
        del store  # and with it its port is free
    environment = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(is_shared),
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": "2", "NANOCHAT_BASE_DIR": os.environ["NANOCHAT_BASE_DIR"],
    }  # fmt: skip
    ranks = []
    for n in range(world):
        mine = {**environment, "RANK": str(n), "LOCAL_RANK": str(n)}
        ranks.append(processes.Process(target=as_rank, args=(str(folder), mine, main, list(arguments))))
        ranks[n].start()
    for rank in ranks:
        rank.join(300)
    return ranks


def failed(
    folder: Path, main: Callable[..., None], *arguments: object, world: int = 2
) -> tuple[list[str], list[int | None]]:
    """What the ranks wrote to stderr, and their exit codes."""
    codes = [rank.exitcode for rank in start(folder, main, *arguments, world=world)]
    return [(folder / f"err{n}").read_text(encoding="utf-8") for n in range(world)], codes


def failed_to_train(folder: Path, main: Callable[..., None], argv: list[str], mode: str, *more: object) -> list[str]:
    """What the ranks of a training in this mode wrote to stderr; hybrid takes four. All must end with code 2."""
    world = 4 if mode == "hybrid" else 2
    errors, codes = failed(folder, main, [*argv, f"--parallel={mode}"], *more, world=world)
    assert codes == [2] * world
    return errors


def assert_one_sentence(errors: list[str], sentence: str) -> None:
    (line,) = "".join(errors).splitlines()
    assert line.startswith("error: ") and sentence in line


def damage(shard: Path) -> None:
    """Overwrite what a shard holds, but not the footer, which is read at the start."""
    content = bytearray(shard.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    shard.write_bytes(content)


def test_weights_that_arrive_late_are_there_in_time(world, tmp_path):
    """For the next step's blocks, for what is measured and sampled in between, and for the checkpoint."""
    every = ["--eval_every=2", "--sample_every=3", "--save_every=3"]
    flags = [*FLAGS, *every, "--depth=2", "--keep_last=2", "--recompute"]
    for tag, late in (("late", True), ("early", False)):
        ranks = start(tmp_path / tag, train_watched, [*flags, f"--model_tag={tag}"], late)
        assert [rank.exitcode for rank in ranks] == [0, 0]
        for rank in range(2):
            assert f"on their way: {4 * late}" in (tmp_path / tag / f"out{rank}").read_text(encoding="utf-8")
    folders = [checkpoints_dir("base") / tag for tag in ("late", "early")]
    for step in (3, 4):
        late, early = (manager.load_step(folder, folder.name, step, with_optimizer=True) for folder in folders)
        weights = early.model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in late.model.state_dict().items())
        names = {name.rpartition(".")[0] for name in saved_state(folders[0], step)}
        assert names == {"", *dict(early.model.named_parameters())}
    losses = [[{name: line[name] for name in line if "loss" in name or "bpb" in name} for line in
               map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())]
              for folder in folders]  # fmt: skip
    assert losses[0] == losses[1] and any("val_bpb" in line for line in losses[0])


@pytest.mark.parametrize("shard, mode", [(0, "replicate"), (1, "replicate"), (1, "shard"), (1, "hybrid")])
def test_a_damaged_shard_is_one_sentence(shard, mode, world, tmp_path):
    damage(sorted(dataset_dir("tiny").iterdir())[shard])
    errors = failed_to_train(tmp_path / "said", train, FLAGS, mode)
    assert_one_sentence(errors, f"shard_{shard:05d}.parquet")


def train_full(argv: list[str], rank: int) -> None:
    """Train with a rank whose memory runs out in the third step, for any number of rows."""
    hidden, seen = GPT.hidden, []

    def limited(model: GPT, *arguments: Any, **settings: Any) -> torch.Tensor:
        seen.append(len(seen))
        if os.environ["RANK"] == str(rank) and len(seen) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return hidden(model, *arguments, **settings)

    patch = pytest.MonkeyPatch()  # of this process, which ends with the run
    patch.setattr(GPT, "hidden", limited)
    train(argv)


@pytest.mark.parametrize("rank, mode", [(0, "replicate"), (1, "replicate"), (1, "shard"), (3, "hybrid")])
def test_memory_that_one_rank_lacks_is_one_sentence(rank, mode, world, tmp_path):
    errors = failed_to_train(tmp_path / "said", train_full, FLAGS, mode, rank)
    assert_one_sentence(errors, "base_train ran out of memory")


def fail(rank: int, error: BaseException) -> None:
    with runtime.start("cpu", "float32", 0) as rt:
        for _ in range(3):
            rt.wait()
        if rt.rank == rank:
            raise error
        works = [dist.all_reduce(torch.ones(1000), async_op=True) for _ in range(4)]
        works[-1].wait()  # type: ignore[union-attr]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_sentence_that_one_rank_has(rank, stores, tmp_path):
    errors, codes = failed(tmp_path, fail, rank, UserError("no room on this rank"))
    assert_one_sentence([errors[rank]], "no room on this rank")
    assert errors[1 - rank] == ""
    assert codes == [2, 2]


def fail_apart() -> None:
    with runtime.start("cpu", "float32", 0) as rt:
        rt.wait()
        raise UserError(f"rank {rt.rank} saw it in its own way")


def test_two_sentences_of_one_thing_are_one(tmp_path):
    errors, codes = failed(tmp_path, fail_apart)
    assert_one_sentence(errors, "saw it in its own way")
    assert codes == [2, 2]


def test_a_fault_of_the_program_has_the_traceback_of_its_rank_only(tmp_path):
    errors, codes = failed(tmp_path, fail, 1, RuntimeError("a bug"))
    assert errors[0] == ""
    assert errors[1].startswith("Traceback") and errors[1].endswith("RuntimeError: a bug\n")
    assert codes == [1, 1]


def vanish(rank: int) -> None:
    with runtime.start("cpu", "float32", 0) as rt:
        rt.wait()
        if rt.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        rt.wait()


def test_a_rank_that_was_killed_is_a_sentence_of_the_other(stores, tmp_path):
    host = socket.gethostname() if stores == "torchrun's store" else "127.0.0.1"
    errors, codes = failed(tmp_path, vanish, 0)
    if stores == "rank 0's store":  # of whose end torch's library prints a page, but for TORCH_CPP_LOG_LEVEL=ERROR
        errors = [each[each.rindex("error: ") :] for each in errors if each]
    assert_one_sentence(errors, f"rank 0 on {host} ended without an error message")
    assert codes == [-signal.SIGKILL, 1]


def vanish_apart() -> None:
    """Rank 0 waits for rank 2, which is gone, and rank 1 for rank 0."""
    peers.PATIENCE = 2.5
    with runtime.start("cpu", "float32", 0) as rt:
        pairs = [dist.new_group([0, n]) for n in (1, 2)]
        rt.wait()
        if rt.rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(1), group=pairs[rt.rank == 0])


def test_a_rank_that_waits_for_one_that_has_noticed_is_not_named(tmp_path):
    errors, codes = failed(tmp_path, vanish_apart, world=3)
    assert_one_sentence(errors, f"error: rank 2 on {socket.gethostname()} ended without an error message")
    assert codes == [1, 1, -signal.SIGKILL]


def sleep_forever(rank: int) -> None:
    with runtime.start("cpu", "float32", 0, collective_minutes=0.03) as rt:
        rt.wait()
        if rt.rank == rank:
            time.sleep(100)  # where the others are not
        rt.wait()


def test_a_collective_that_hangs_ends_with_the_place_of_each_rank(stores, tmp_path):
    errors, codes = failed(tmp_path, sleep_forever, 1)
    sentence, *stack = errors[0].splitlines()
    assert sentence.startswith("error: rank 0 waited 0.03 minutes for the others (--collective_minutes)")
    assert stack[0].startswith("rank 0 on") and "in wait" in errors[0]
    assert errors[1].startswith("rank 1 on") and "where the others are not" in errors[1]
    assert "Traceback" not in "".join(errors) and codes == [1, 1]


@pytest.mark.parametrize("flag", ["--window_pattern=X", "--depth=none"])  # found with the other ranks, and before
def test_what_all_ranks_refuse_is_printed_once(flag, world, tmp_path):
    errors, codes = failed(tmp_path / "said", train, [*FLAGS, flag])
    assert_one_sentence(errors, flag.partition("=")[0].lstrip("-"))
    assert codes == [2, 2]


@pytest.mark.parametrize("mode", ["replicate", "shard", "hybrid"])
def test_a_full_disk_is_one_sentence(mode, world, small_disk, tmp_path, monkeypatch):
    shutil.move(world, small_disk / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk / "base"))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8 * 4096))
    assert_one_sentence(failed_to_train(tmp_path / "said", train, [*FLAGS, "--save_every=1"], mode), "the disk is full")


def test_ranks_whose_torchrun_was_killed_save_and_end(world):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    endless = [*FLAGS, "--num_iterations=100000", "--save_every=-1"]
    with subprocess.Popen(
        [*launcher, "-m", "scripts.base_train", *endless], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as torchrun:  # fmt: skip
        metrics = checkpoints_dir("base") / "d1" / "metrics.jsonl"
        while torchrun.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.05)
        torchrun.kill()
        assert torchrun.stderr is not None
        said = torchrun.stderr.read().decode()  # ends when both ranks have
    assert torchrun.returncode == -signal.SIGKILL and "Traceback" not in said
    (step,) = manager.steps(checkpoints_dir("base") / "d1")
    assert step == json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["step"] < 100000


def test_torchruns_last_word_is_our_sentence(world):
    """At each of its attempts, which share a store: what the first has left there silences none that follows."""
    damage(sorted(dataset_dir("tiny").iterdir())[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=1"]
    done = subprocess.run([*launcher, "-m", "scripts.base_train", *FLAGS], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "shard_00001.parquet" in line]
    assert [line.startswith("error: ") for line in said] == [True, True, *[False] * (len(said) - 2)], done.stderr
    *_, cause, line = done.stderr.strip().splitlines()
    assert cause.strip().startswith("traceback : ") and "shard_00001.parquet" in cause, done.stderr
    assert set(line) == {"="}


# ---------------------------------------------------------------- ranks that do not keep up, or do not belong together


def train_slowly(argv: list[str], rank: int) -> None:
    """Train with a rank that takes longer for its forward passes."""
    hidden = GPT.hidden

    def slow(model: GPT, *arguments: Any, **settings: Any) -> torch.Tensor:
        time.sleep(0.3 * (os.environ["RANK"] == str(rank)))
        return hidden(model, *arguments, **settings)

    patch = pytest.MonkeyPatch()  # of this process, which ends with the run
    patch.setattr(GPT, "hidden", slow)
    patch.setattr(pace, "EVERY", 2)
    train(argv)


def test_a_slow_rank_is_named_once_a_minute(world, tmp_path):
    ranks = start(tmp_path / "said", train_slowly, [*FLAGS, "--num_iterations=8", "--parallel=replicate"], 1)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    printed = "".join((tmp_path / "said" / f"out{n}").read_text(encoding="utf-8") for n in range(2))
    (line,) = [line for line in printed.splitlines() if "held up" in line]
    found = re.fullmatch(r"base_train: step [468] is held up by rank 1 on (\S+), whose own part of a step takes "
                         r"(\S+) s; the median of the 2 ranks is (\S+) s", line)  # fmt: skip
    assert found, line
    assert found[1] == socket.gethostname() and float(found[2]) > max(0.3, 1.5 * float(found[3]))


@pytest.mark.parametrize(
    "seconds, slow",
    [([1, 1.4], []), ([1, 1.6], [1]), ([1, 1, 1.51, 9], [2, 3]), ([2, 2, 2, 3], []), ([0, 0], []), ([5, 1, 5], [])],
)
def test_stragglers_take_one_and_a_half_times_the_median(seconds, slow):
    assert pace.stragglers(seconds) == slow


def begin_apart() -> None:
    with runtime.start("cpu", "float32", 0) as rt:
        pace.check_same_step(3 * rt.rank, rt)


def test_ranks_that_see_other_checkpoints_do_not_train_together(tmp_path):
    errors, codes = failed(tmp_path, begin_apart)
    assert_one_sentence(errors, f"rank 0 starts from step 0 and rank 1 on {socket.gethostname()} from step 3")
    assert codes == [2, 2]
