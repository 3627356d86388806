"""Inject faults into runs of all stages and count what became of them: python -m dev.chaos [--faults 200] [--seed 0].

Each fault is one function below, whose first line says what happens and what is right. A run that may continue is
started again by the same command until it is done, and must then equal, to the bit, one that nobody disturbed; one that
must not continue ends with exit code 2 and one sentence, leaves all files as they were, and is equal once the fault is
undone. Anything else is lost: a traceback, other weights, a hang, a missing file. Full disks and read-only file
systems are real ones, for which this has to be root on Linux.
"""

import contextlib
import errno
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from nanochat import chat
from nanochat.checkpoint import manager
from nanochat.config import parse
from nanochat.data.shards import write_shards
from nanochat.errors import run
from nanochat.paths import SOURCES
from nanochat.tokenizer import Tokenizer
from tests.chaoscase import EQUAL, LOST, STOPPED, Case, Lost, Templates, died, mounted, sentence
from tests.chaosruns import (
    STAGES,
    STEPS,
    Running,
    Way,
    cannot_read,
    cannot_write,
    clock_set,
    dies_after,
    dies_at,
    dies_in_call,
    differences,
    distances,
    is_stopped,
    logged,
    newest,
    slow_disk,
    small_files,
    trained,
)  # fmt: skip

ANYWHERE = tuple(STAGES)
LATER = ("mid", "sft", "rl")
WITH_DATA = ("base", "mid", "sft", "train")
OUR_FORMAT = ("base", "mid", "sft", "rl")

# Hybrid is two nodes of two ranks.
WAYS = (Way(), *(Way(n, mode) for n in (2, 4) for mode in ("replicate", "shard")), Way(4, "hybrid"))

Fault = Callable[[Case], str]
KINDS: dict[Fault, tuple[tuple[str, ...], tuple[int, ...]]] = {}  # and where they can be: stages, ranks


def fault(stages: tuple[str, ...] = ANYWHERE, ranks: tuple[int, ...] = (1, 2, 4)) -> Callable[[Fault], Fault]:
    """Register a function as a kind of fault."""

    def register(kind: Fault) -> Fault:
        KINDS[kind] = stages, ranks
        return kind

    return register


def damage(
    stages: tuple[str, ...] = ANYWHERE, ranks: tuple[int, ...] = (1, 2, 4), meta_only: bool = False
) -> Callable[[Callable[[Case, Path], str | None]], Fault]:
    """Make a kind of a function that damages a file of the newest checkpoint.

    The run must name the file, or what the function returns instead, resume from the checkpoint before, and be equal.
    """

    def register(change: Callable[[Case, Path], str | None]) -> Fault:
        @functools.wraps(change)
        def kind(c: Case) -> str:
            c.interrupted()
            path = newest(c.folder)[-1] if meta_only else c.chance.choice(newest(c.folder))
            named = change(c, path)
            return c.equal(says=path.name if named is None else named)

        return fault(stages, ranks)(kind)

    return register


# ---------------------------------------------------------------- a run that is interrupted


@fault()
def kill_9(c: Case) -> str:
    """kill -9 of all processes at a random moment, twice: equal."""
    c.fresh()
    for _ in range(2):
        if trained(c.folder) < STEPS - 4:
            running = c.midway()
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    return c.equal()


@fault()
def kill_9_in_a_save(c: Case) -> str:
    """kill -9 where a file is flushed, renamed or removed, by a random count: equal."""
    c.fresh_or_interrupted()
    ended = c.start(hook=partial(dies_in_call, c.chance.randint(1, 60))).wait()
    if ended.code != 0:
        died(ended, (-signal.SIGKILL, 128 + signal.SIGKILL), c.way)
    return c.equal()


@fault()
def kill_9_beside_a_save(c: Case) -> str:
    """kill -9 after a step, on a disk so slow that the checkpoint of an earlier step is still being written: equal."""
    c.fresh_or_interrupted()
    step = c.chance.randint(min(trained(c.folder) + 1, STEPS), STEPS)
    hook = partial(slow_disk, c.chance.uniform(0.01, 0.1), partial(dies_at, step))
    died(c.start(hook=hook).wait(), (-signal.SIGKILL, 128 + signal.SIGKILL), c.way)
    return c.equal()


@fault()
def terminated(c: Case) -> str:
    """SIGTERM: saves what was trained, 143, equal."""
    return _signal(c, signal.SIGTERM, 143)


@fault()
def ctrl_c(c: Case) -> str:
    """Ctrl-C: saves what was trained, 130, equal."""
    return _signal(c, signal.SIGINT, 130)


def _signal(c: Case, number: int, code: int) -> str:
    c.fresh()
    running = c.midway()
    os.kill(running.pid, number)
    ended = running.wait()
    said = ended.errors.replace("\nCtrl-C: finishing this step and saving it; Ctrl-C again ends at once\n", "", 1)
    if ended.code != code or said:
        raise Lost(f"{code} expected: {ended}")
    c.nothing_lost()
    return c.equal()


@fault()
def two_ctrl_c(c: Case) -> str:
    """Ctrl-C twice: 130 without a traceback, equal."""
    c.fresh()
    running = c.midway()
    os.kill(running.pid, signal.SIGINT)
    time.sleep(c.chance.random() * 0.03)
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGINT)
    ended = running.wait()
    if ended.code != 130 or "Traceback" in ended.errors or "error" in ended.errors:
        raise Lost(f"130 expected: {ended}")
    return c.equal()


@fault(ranks=(2, 4))
def one_rank_killed(c: Case) -> str:
    """kill -9 of one of several ranks: the others end by themselves, with at most one sentence; equal."""
    c.fresh()
    running = c.midway()
    os.kill(c.chance.choice(running.pids), signal.SIGKILL)
    died(running.wait(), (1, 137), c.way)
    return c.equal()


@fault(ranks=(2, 4))
def launcher_killed(c: Case) -> str:
    """kill -9 of what started the ranks: they save and end by themselves, and meanwhile keep the folder; equal."""
    c.fresh()
    running = c.midway()
    os.kill(running.pid, signal.SIGKILL)
    ended = running.wait()
    if not running.orphans_end():
        raise Lost("workers without their launcher train on")
    if "Traceback" in "".join(path.read_text(encoding="utf-8") for path in running.heard.glob("err*")):
        raise Lost(f"a traceback of a worker without its launcher: {ended} {running.heard}")
    return c.equal()


@fault()
def suspended(c: Case) -> str:
    """SIGSTOP and SIGCONT, as a lid does: equal, without being started again."""
    c.fresh()
    running = c.midway()
    os.killpg(running.pid, signal.SIGSTOP)
    time.sleep(0.2)
    os.killpg(running.pid, signal.SIGCONT)
    running.must_finish()
    return c.equal()


@fault()
def a_second_run(c: Case) -> str:
    """The same command while the first one runs (here: is stopped for a moment): refused; the first is equal."""
    c.fresh()
    running = c.midway()
    while not (c.folder / ".lock").exists():
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGSTOP)
    while not all(map(is_stopped, running.pids)):  # a thread may be writing a checkpoint
        time.sleep(0.01)
    try:
        more = c.chance.choice([["--seed=7"], [], ["--eval_only=False" if c.stage.name == "train" else "--overwrite"]])
        c.refused(rf"in use by process {running.pids[0]} on .* started at 20", *more)
    finally:
        os.killpg(running.pid, signal.SIGCONT)
    running.must_finish()
    return c.equal_after_a_stop()


# ---------------------------------------------------------------- the file system


@fault()
def full_disk(c: Case) -> str:
    """No room for a checkpoint, a line of the log, or both: a sentence; equal once there is room."""
    with mounted(c, 96):
        c.fresh_or_interrupted()
        kept = newest(c.folder)
        size = sum(path.stat().st_size for path in c.whole.rglob("*"))
        filler = c.world.parent / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(c.root).free - c.chance.randint(8 * 4096, max(10 * 4096, size))))
        ended = c.start().wait()
        if ended.code != 0:
            sentence(ended, "disk is full")
            if kept and not newest(c.folder):
                raise Lost("no checkpoint is left")
        filler.unlink()
        return c.equal_after_a_stop(ended.code)


@fault()
def read_only(c: Case) -> str:
    """A file system that is mounted read-only when the run is started again: refused; equal once it is writable."""
    with mounted(c, 96):
        c.fresh_or_interrupted()
        (c.root / "heard").mkdir()
        subprocess.run(["mount", "--bind", c.world, c.world], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", c.world], check=True)
        try:
            c.refused("read-only")
        finally:
            subprocess.run(["umount", c.world], check=True)
        return c.equal_after_a_stop()


@fault()
def refused_writes(c: Case) -> str:
    """From some file on the system says read-only, no quota or an error: a sentence; equal once it does not."""
    c.fresh_or_interrupted()
    reason = c.chance.choice([errno.EROFS, errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EACCES])
    ended = c.start(hook=partial(cannot_write, c.chance.randint(1, 30), reason)).wait()
    if ended.code != 0:
        sentence(ended)
    return c.equal_after_a_stop(ended.code)


@fault()
def file_size_limit(c: Case) -> str:
    """ulimit -f below the size of a checkpoint: a sentence; equal without it."""
    c.fresh_or_interrupted()
    largest = max(path.stat().st_size for path in c.whole.rglob("*"))
    sentence(c.start(hook=partial(small_files, c.chance.randint(300, largest - 1))).wait())
    return c.equal_after_a_stop()


# ---------------------------------------------------------------- damaged checkpoints


@damage()
def flipped_bit(c: Case, path: Path) -> None:
    """One bit of a file of the newest checkpoint: named, equal from the one before."""
    content = bytearray(path.read_bytes())
    content[c.chance.randrange(len(content))] ^= 1 << c.chance.randrange(8)
    path.write_bytes(content)


@damage()
def cut_short(c: Case, path: Path) -> None:
    """A file of the newest checkpoint that was truncated: named, equal from the one before."""
    os.truncate(path, c.chance.choice([0, 1, c.chance.randrange(path.stat().st_size)]))


@damage()
def zeros(c: Case, path: Path) -> None:
    """A file of the newest checkpoint whose blocks a power cut left empty: named, equal from the one before."""
    path.write_bytes(bytes(path.stat().st_size))


@damage(OUR_FORMAT, (1,))
def a_pipe(c: Case, path: Path) -> None:
    """A pipe in place of a file of the newest checkpoint, which nobody may wait for: named, equal."""
    path.unlink()
    os.mkfifo(path)


@damage()
def deleted_file(c: Case, path: Path) -> str | None:
    """A file of the newest checkpoint is gone: named (but for a meta, as where a save was killed), equal."""
    path.unlink()
    return "" if path.suffix == ".json" else None


@damage(OUR_FORMAT, meta_only=True)
def changed_digit(c: Case, path: Path) -> None:
    """A digit of the newest meta's loop_state: named, equal from the one before."""
    text = path.read_text(encoding="utf-8")
    first = text.index('"loop_state"')
    places = [match.start() for match in re.finditer(r"\d", text) if first < match.start() < text.index("}", first)]
    place = c.chance.choice(places)
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :], encoding="utf-8")


@damage(OUR_FORMAT, meta_only=True)
def renamed_key(c: Case, path: Path) -> None:
    """A key of the newest meta has another name: named, equal from the one before."""
    text = path.read_text(encoding="utf-8")
    key = c.chance.choice(["loop_state", "cursor", "files", "model_config", "sha256", "data", "smooth_loss", "seed"])
    path.write_text(text.replace(f'"{key}"', f'"{key}s"', 1), encoding="utf-8")


@fault(OUR_FORMAT, (1,))
def damaged_older_meta(c: Case) -> str:
    """An older meta is damaged, which a healthy run does not need: named, left alone, equal."""
    c.interrupted()
    path = c.folder / f"meta_{manager.steps(c.folder)[-2]:06d}.json"
    os.truncate(path, path.stat().st_size // 2)
    left = path.read_bytes()
    result = c.equal(says=path.name)
    if path.read_bytes() != left:
        raise Lost(f"{path.name} was touched")
    return result


@fault()
def all_damaged(c: Case) -> str:
    """All checkpoints are damaged: refused; equal once they are put back."""
    c.interrupted()
    with c.put_back(c.folder):
        for path in c.folder.glob("[mc]*.pt"):
            os.truncate(path, path.stat().st_size // 2)
        c.refused("damaged|cannot be read")
    return c.equal_after_a_stop()


@fault(OUR_FORMAT)
def newer_format(c: Case) -> str:
    """The newest meta is of a newer version's format: refused, and not replaced; equal once it is put back."""
    c.interrupted()
    with c.put_back(c.folder):
        step = manager.steps(c.folder)[-1]
        meta = {**manager.read_meta(c.folder, step), "format": manager.FORMAT + 1}
        manager.write_meta(newest(c.folder)[-1], meta)
        c.refused(f"has the format {manager.FORMAT + 1}")
    return c.equal_after_a_stop()


@fault(ranks=(1,))
def stale_temporaries(c: Case) -> str:
    """Files that a killed save left, and a lock of a process that is gone: equal, and they vanish."""
    c.interrupted()
    for path in newest(c.folder):
        left = c.folder / f".{path.name}.{c.chance.randint(2, 99999)}.tmp"
        left.write_bytes(path.read_bytes()[: c.chance.randint(0, 999)])
    (c.folder / ".lock").write_text("process 1 on elsewhere, which started at 2026-01-01 00:00:00\n", encoding="utf-8")
    return c.equal()


@fault()
def half_a_line(c: Case) -> str:
    """A line of metrics.jsonl that a power cut left unfinished, or full of zeros: equal."""
    c.interrupted()
    with open(c.folder / "metrics.jsonl", "ab") as file:
        file.write(c.chance.choice([b'{"step": 1', b"\0" * 100, b"\n\n", b'{"loss": 1.5}\n', b"\xff\n"]))
    return c.equal()


# ---------------------------------------------------------------- clocks and places


@fault()
def times_lie(c: Case) -> str:
    """The clock was set back or forward, and all files have other times: equal."""
    c.interrupted()
    for path in c.world.rglob("*"):
        os.utime(path, (moment := c.chance.choice([0, 1, 1e9, time.time() + 1e7]), moment))
    return c.equal(hook=partial(clock_set, c.chance.choice([-1e8, -3600, 1e6])))


@fault(ranks=(1,))
def moved(c: Case) -> str:
    """The whole folder was moved, or copied without its times: equal."""
    c.interrupted()
    copied = c.root / "a copy"
    shutil.copytree(c.world, copied, copy_function=shutil.copyfile)
    shutil.rmtree(c.world)
    c.world = copied
    return c.equal()


@fault(("mid", "sft", "train"))
def moved_data(c: Case) -> str:
    """The same data under another path: equal."""
    c.interrupted()
    if c.stage.name == "train":
        shutil.move(c.world / "data" / "cats", c.world / "dogs")
        flag, place = "dataset", "dogs"
    else:
        shutil.move(c.base / "talk.jsonl", c.world / "elsewhere.jsonl")
        flag, place = "data_path", "elsewhere.jsonl"
    c.accept()
    with c.instead(f"--{flag}={place}"):
        return c.equal(besides=(flag, "what"))  # names for people


@fault(LATER)
def missing_parent(c: Case) -> str:
    """The model that the run began with is gone: a resumed run needs its own checkpoints only; equal."""
    c.interrupted()
    for source in SOURCES.values():
        if not c.stage.folder.startswith(f"base/{source}"):
            shutil.rmtree(c.base / source, ignore_errors=True)
    c.accept()
    return c.equal()


@fault(LATER)
def missing_parent_at_first(c: Case) -> str:
    """The model to start from is not there: refused; equal once it is."""
    c.fresh()
    source = c.base / SOURCES[{"mid": "base", "sft": "mid", "rl": "sft"}[c.stage.name]]
    with c.put_back(source):
        shutil.rmtree(source)
        c.refused("no .* checkpoint")
    return c.equal_after_a_stop()


@fault(WITH_DATA)
def another_tokenizer(c: Case) -> str:
    """Another tokenizer where the run's was: refused; equal once it is put back."""
    c.interrupted()
    home = c.world / "data" / "cats" if c.stage.name == "train" else c.base / "tokenizer"
    with c.put_back(home):
        (home / "meta.pkl").unlink(missing_ok=True)
        Tokenizer.train(iter(["another text of other words, 0123456789"] * 9), 290, chat.SPECIALS).save(home)
        c.refused("tokenizer")
    return c.equal_after_a_stop()


@fault()
def moved_to_other_ranks(c: Case) -> str:
    """Killed, perhaps damaged, and resumed on other ranks or in another mode, and killed there, too, perhaps in a save:
    equal to a run that was moved and not killed again, and but for rounding to one that was never moved."""
    c.interrupted()
    if c.chance.random() < 0.5:
        path = c.chance.choice(newest(c.folder))
        os.truncate(path, path.stat().st_size // 2)
    never_moved, once = c.whole, c.root / "once"
    c.way = c.chance.choice([way for way in WAYS if way != c.way])
    shutil.copytree(c.world, once)
    Running(once, c.stage, way=c.way).must_finish()
    in_a_save, step = partial(dies_in_call, c.chance.randint(1, 40)), c.chance.randint(trained(c.folder), STEPS)
    beside_one = partial(slow_disk, c.chance.uniform(0.01, 0.1), partial(dies_at, step))
    ended = c.start(hook=c.chance.choice([in_a_save, beside_one])).wait()
    if ended.code != 0:
        died(ended, (-signal.SIGKILL, 128 + signal.SIGKILL), c.way)
    c.start().must_finish()
    if different := differences(c.folder, once / c.stage.folder):
        raise Lost(f"other results on {c.way}: {different[:5]}")
    if c.stage.name != "train" and (far := distances(c.folder, never_moved, 2e-3)):  # which drops other units there
        raise Lost(f"far from a run that was never moved, on {c.way}: {far[:5]}")
    return EQUAL


# ---------------------------------------------------------------- other data


def _change(c: Case, path: Path) -> None:
    """Change a file of data in one of many ways."""
    if path.suffix == ".parquet":
        return _change_shard(c, path)
    content = path.read_bytes()
    if path.suffix == ".bin":
        ways = [
            content[:400] + content[402:404] + content[400:402] + content[404:],
            content[: len(content) // 4 * 2],
            content + content[:64],
            content[:64] + content,
        ]
    else:
        lines = content.splitlines(keepends=True)
        n = c.chance.randrange(len(lines))
        ways = [
            content.replace(b"It is 5", b"It is 6", 1),
            b"".join(lines[:n] + lines[n + 1 :]),
            b"".join([*lines[:n], lines[0].replace(b"0", b"77"), *lines[n:]]),
            content + lines[0].replace(b"0", b"88"),
        ]
    path.write_bytes(c.chance.choice([changed for changed in ways if changed != content]))


def _change_shard(c: Case, path: Path) -> None:
    """A shard of other text, one that is gone, or one more before the others."""
    target = c.chance.choice([path, None, path.with_name("shard_-.parquet")])
    if target is None:
        path.unlink()
    else:
        shutil.copy(_shard(c, "Other text"), target)


def _shard(c: Case, text: str) -> Path:
    scratch = c.root / "scratch"
    write_shards((f"{text}, {n}." for n in range(60)), scratch, docs_per_group=10)
    return min(scratch.glob("*.parquet"))


@fault(WITH_DATA)
def changed_data(c: Case) -> str:
    """Edited, replaced, removed, inserted or appended data between two starts: refused; equal once it is put back."""
    c.interrupted()
    path = c.chance.choice(c.data()[:-1] or c.data())
    with c.put_back(path if path.suffix == ".jsonl" else path.parent):
        _change(c, path)
        c.refused("data|shard|contents|trained with|train.bin")
    return c.equal_after_a_stop()


@fault(WITH_DATA)
def changed_under_a_run(c: Case) -> str:
    """Data that changes, shrinks or vanishes while a run reads it: it saves and stops, or did not need it; equal."""
    c.fresh()
    path = c.chance.choice(c.data())
    with c.put_back(path if path.suffix == ".jsonl" else path.parent):
        running = c.midway()
        way = c.chance.choice(["change", "cut", "gone"])
        if way == "cut":
            os.truncate(path, c.chance.randrange(path.stat().st_size // 2))
        elif way == "gone":
            path.unlink()
        else:
            _change(c, path)
        ended = running.wait()
        if ended.code != 0:
            sentence(ended)
            c.nothing_lost()
    return c.equal_after_a_stop(ended.code)


@fault(("train",))
def unreadable(c: Case) -> str:
    """A disk that fails under one rank while the run reads its tokens: a sentence, nothing lost; equal afterwards."""
    c.fresh()
    rank, reads = c.chance.randrange(c.way.ranks), c.chance.randint(40 // c.way.ranks, 55 // c.way.ranks)
    sentence(c.start(hook=partial(cannot_read, reads, rank)).wait(), r"cannot read .*\.bin")
    if trained(c.folder):
        c.nothing_lost()
    return c.equal_after_a_stop()


@fault(("base", "mid"))
def grown_data(c: Case) -> str:
    """A shard is appended to those that are trained on: the run continues, and a kill changes nothing in it."""
    c.interrupted(9)
    shards = sorted((c.base / "base_data_tiny").glob("*.parquet"))
    shutil.copy(_shard(c, "Appended text"), shards[-2].with_name(shards[-2].stem + "z.parquet"))
    c.accept()
    once, folder = c.root / "once", c.stage.folder
    shutil.copytree(c.world, once)
    Running(once, c.stage, way=c.way).must_finish()
    if c.start(hook=partial(dies_after, 11)).wait().code == 0:
        raise Lost("it was not killed")
    c.start().must_finish()
    if different := differences(c.folder, once / folder):
        raise Lost(f"other results: {different[:5]}")
    whole, now = (
        [line for line in logged(where) if line["step"] <= 8]
        for where in (c.whole, c.folder)
    )
    if now != whole:
        raise Lost("the steps before are not those of the run")
    return EQUAL


# ---------------------------------------------------------------- other flags


@fault()
def other_flags(c: Case) -> str:
    """A flag that makes another run, in the folder of this one: refused; equal by its own flags."""
    c.interrupted()
    flags = {
        "base": ["--seed=7", "--depth=2", "--head_dim=16", "--max_seq_len=16", "--dataset=other"],
        "mid": ["--seed=7", "--text_share=0.9", "--conversations=littleworld", "--model_step=4"],
        "sft": ["--seed=7", "--conversations=littleworld", "--model_step=4", "--source=base"],
        "rl": ["--seed=7", "--task=spelling", "--model_step=4"],
        "train": ["--n_layer=2", "--n_embd=64", "--n_head=4", "--bias=True"],
    }[c.stage.name]
    flag = c.chance.choice(flags)
    with c.instead(flag, *(["--model_tag=d1"] if flag == "--depth=2" else [])):
        c.refused("")
    return c.equal_after_a_stop()


@fault()
def learning_rate_nan(c: Case) -> str:
    """A learning rate that is NaN or absurd: a sentence and no checkpoint; bit-equal once the rate is restored."""
    c.interrupted()
    rate, often = c.chance.choice(["nan", "1e38", "inf"]), c.chance.choice(["--save_every=1", "--save_every=2"])
    flags = ["--learning_rate", "--min_lr"] if c.stage.name == "train" else ["--matrix_lr", "--embedding_lr"]
    with c.instead(*(f"{name}={rate}" for name in flags), *([often] if c.stage.name != "train" else [])):
        sentence(c.start().wait())
    return c.equal_after_a_stop()


@fault()
def new_over_old(c: Case) -> str:
    """A new run in the folder of this one, without --overwrite: refused; equal by its own command."""
    c.interrupted()
    c.refused("--overwrite", "--init_from=scratch" if c.stage.name == "train" else "--resume=never")
    return c.equal_after_a_stop()


# ---------------------------------------------------------------- drawing, running and counting


@dataclass
class Flags:
    """Inject faults into tiny runs and print a table of what became of them; exit code 1 if anything was lost."""

    faults: int = 200
    """number of faults to inject"""
    seed: int = 0
    """seed of the drawing"""
    kinds: str = ",".join(kind.__name__ for kind in KINDS)
    """kinds of faults, joined by commas"""
    stages: str = ",".join(STAGES)
    """stages to disturb, joined by commas"""
    ranks: str = "1,2,4"
    """numbers of ranks, joined by commas"""
    modes: str = "replicate,shard,hybrid"
    """--parallel of several ranks, joined by commas; hybrid is for four, as two nodes of two"""
    folder: str = ""
    """folder to work in; default: a temporary one; lost cases are kept"""


def inject(kind: Fault, stage: str, way: Way, seed: str, templates: Templates, root: Path) -> str:
    """Inject one fault; returns its result, or LOST with the details. Nothing is left but what was lost."""
    root.mkdir()
    case = Case(root, STAGES[stage], way, random.Random(seed), templates)
    try:
        result = kind(case)
    except Lost as lost:
        (root / "lost.txt").write_text(f"{kind.__name__} {stage} {way} {seed}\n{lost}\n", encoding="utf-8")
        return f"{LOST}: {lost}"
    shutil.rmtree(root)
    return result


def drawn(flags: Flags) -> list[tuple[Fault, str, Way]]:
    """Kinds in turn, each with its stages, ranks and modes in turn from a random one on."""
    chance = random.Random(flags.seed)
    stages, ranks, modes = flags.stages.split(","), [int(n) for n in flags.ranks.split(",")], flags.modes.split(",")
    queues = {}
    for kind, (where, counts) in KINDS.items():
        places = [
            (stage, way)
            for stage in where if stage in stages
            for way in WAYS if way.ranks in counts and way.ranks in ranks and (way.ranks == 1 or way.mode in modes)
        ]  # fmt: skip
        if kind.__name__ in flags.kinds.split(",") and places:
            queues[kind] = chance.sample(places, len(places))
    chosen = []
    while len(chosen) < flags.faults:
        for kind, places in queues.items():
            chosen.append((kind, *places[0]))
            places.append(places.pop(0))
    return chosen[: flags.faults]


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse(Flags, argv)
    torch.set_num_threads(1)
    began = time.monotonic()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where flushing costs nothing
    root = Path(flags.folder or tempfile.mkdtemp(prefix="chaos", dir=memory))
    root.mkdir(exist_ok=True)
    templates = Templates(root / "templates")
    counts: dict[str, dict[str, int]] = {}
    lost: list[str] = []
    for number, (kind, stage, way) in enumerate(drawn(flags), 1):
        name = f"{number:03d}_{kind.__name__}_{stage}_{way.ranks}_{way.mode}"
        result = inject(kind, stage, way, f"{flags.seed} {name}", templates, root / name)
        print(f"{time.monotonic() - began:5.0f}s  {name}: {result[:1500]}", flush=True)
        result, _, details = result.partition(":")
        if details:
            lost.append(f"{name}:{details}")
        row = counts.setdefault(kind.__name__, {})
        row[result] = row.get(result, 0) + 1
    print(table(counts))
    print(f"{sum(sum(row.values()) for row in counts.values())} faults of {len(counts)} kinds, seed {flags.seed}, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    if not lost:
        shutil.rmtree(root)
        return 0
    print(f"lost, kept in {root}:", *lost, sep="\n\n", file=sys.stderr)
    return 1


def table(counts: dict[str, dict[str, int]]) -> str:
    """Markdown: a row for each kind, and the sums."""
    columns = (EQUAL, STOPPED, LOST)
    rows = {
        kind.replace("_", " "): [sum(row.values()), *(row.get(name, 0) for name in columns)]
        for kind, row in counts.items()
    }
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    head = f"| kind | injected | {' | '.join(columns)} |\n|---|---|---|---|---|"
    return "\n".join([head, *(f"| {kind} | {' | '.join(map(str, row))} |" for kind, row in rows.items())])


if __name__ == "__main__":
    run(main)
