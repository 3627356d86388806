"""Tiny runs of every stage, alone or on some ranks, that can be killed, starved of disk, and compared to the bit."""

import builtins
import errno
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from nanochat import chat, errors
from nanochat.checkpoint import manager
from nanochat.checkpoint.nanogpt import CKPT
from nanochat.data.prepare import prepare
from nanochat.data.shards import write_shards
from nanochat.log import MetricsLog
from nanochat.paths import SOURCES, sha256
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import TrainState
from nanochat.train.writer import CheckpointWriter
from tests.children import processes
from tests.scripted import scripted

STEPS = 12
TIMEOUT = 180.0  # seconds after which a run counts as hanging
TIMES = ("seconds", "time", "timed", "times", "tok_per_second", "tflop_per_second", "memory_bytes")
Hook = Callable[[int], None]  # called in each process of a run before it starts, with its rank

COMMON = (
    "--device_type=cpu", "--dtype=float32", "--no-compile", f"--num_iterations={STEPS}", "--save_every=2",
)  # fmt: skip
TEXT = (*COMMON, "--device_batch_size=2", "--total_batch_size=256", "--warmup_steps=2", "--eval_every=3",
        "--eval_tokens=256")  # fmt: skip
TALK = (*TEXT, "--conversations=none", "--data_path=base/talk.jsonl", "--init_lr_frac=1", "--model_tag=d1")


class Way(NamedTuple):
    """How a run is started: on so many ranks, with --parallel."""

    ranks: int = 1
    mode: str = "replicate"

    @property
    def here(self) -> int:
        """Ranks of a node; for hybrid two nodes share this machine."""
        return self.ranks // 2 if self.mode == "hybrid" else self.ranks


ALONE = Way()


@dataclass(frozen=True)
class Stage:
    """A stage by its command; `folder` is that of its run, in a world (see `worlds`)."""

    name: str
    script: str
    argv: tuple[str, ...]
    folder: str

    def command(self, world: Path) -> list[str]:
        """What a person types to start the run, or to start it again."""
        is_resumed = self.name == "train" and any((world / self.folder).glob("ckpt*.pt"))
        return [*self.argv, *(["--init_from=resume"] if is_resumed else [])]


STAGES = {
    stage.name: stage
    for stage in (
        Stage("base", "scripts.base_train", (
            *TEXT, "--dataset=tiny", "--depth=1", "--aspect_ratio=32", "--head_dim=32", "--max_seq_len=32",
            "--sample_every=-1"), "base/base_checkpoints/d1"),
        Stage("mid", "scripts.mid_train", (*TALK, "--text_share=0.4"), "base/mid_checkpoints/d1"),
        Stage("sft", "scripts.chat_sft", (*TALK, "--eval_metrics_every=-1"), "base/chatsft_checkpoints/d1"),
        Stage("rl", "scripts.chat_rl", (
            *COMMON, "--model_tag=d1", "--task=refusal", "--examples_per_step=4", "--num_samples=4",
            "--max_new_tokens=12", "--device_batch_size=4", "--eval_every=4", "--eval_examples=2", "--eval_samples=2",
            "--init_lr_frac=0.1", "--matrix_lr=0.001", "--embedding_lr=0.01", "--unembedding_lr=0.05"),
            "base/chatrl_checkpoints/d1"),
        Stage("train", "scripts.train", (
            "--device=cpu", "--dtype=float32", "--compile=False", "--dataset=cats", "--n_layer=1", "--n_head=2",
            "--n_embd=32", "--block_size=16", "--batch_size=2", "--gradient_accumulation_steps=4", "--dropout=0.1",
            f"--max_iters={STEPS}", "--learning_rate=1e-2", "--warmup_iters=2", f"--lr_decay_iters={STEPS}",
            "--min_lr=1e-3", "--eval_interval=4", "--eval_iters=3"), "out"),
    )
}  # fmt: skip


# ---------------------------------------------------------------- processes


@dataclass
class Ended:
    """What became of a run: the exit code of its first rank that failed, and what all of them said."""

    code: int | None
    said: str
    errors: str


class Lost(Exception):
    """A fault that ended in something else than what is right."""


class Running:
    """A run that was started: one process, or a launcher with some ranks."""

    def __init__(
        self, world: Path, stage: Stage, more: tuple[str, ...] = (), way: Way = ALONE, hook: Hook | None = None
    ):  # fmt: skip
        self.heard = world.parent / f"said{time.monotonic_ns()}"
        self.heard.mkdir()
        argv = [*stage.command(world), *more, f"--parallel={way.mode}"]
        self.process = processes.Process(target=_launched, args=(str(world), stage, argv, way, hook, str(self.heard)))
        self.process.start()
        assert self.process.pid
        self.pid = self.process.pid
        while not (self.heard / "pids").exists() and self.process.is_alive():
            time.sleep(0.002)

    @property
    def pids(self) -> list[int]:
        """The processes that train."""
        return json.loads((self.heard / "pids").read_text(encoding="utf-8"))

    def wait(self) -> Ended:
        """Until it has ended. One that hangs is killed, and has no exit code."""
        self.process.join(TIMEOUT)
        code = self.process.exitcode
        if code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.join()
        said, errors = (
            "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(self.heard.glob(f"{kind}*")))
            for kind in ("out", "err")
        )
        # torch's own complaint of a slow name service, on a loaded machine
        errors = re.sub(r"^\[W.*\[c10d\] The hostname of the client socket cannot .*\n", "", errors, flags=re.M)
        return Ended(code, said, errors)

    def must_finish(self) -> None:
        ended = self.wait()
        if ended.code != 0 or ended.errors:
            raise Lost(f"it ended with {ended}")

    def orphans_end(self) -> bool:
        """Whether the ranks of a launcher that was killed end by themselves."""
        until = time.monotonic() + TIMEOUT / 3
        while time.monotonic() < until:
            if not any(_is_alive(pid) for pid in self.pids):
                return True
            time.sleep(0.05)
        os.killpg(self.pid, signal.SIGKILL)
        return False


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped; one may have to finish a system call first."""
    threads = (path.read_text(encoding="utf-8") for path in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(stat.rpartition(")")[2].split()[0] in "Tt" for stat in threads)


def _launched(world: str, stage: Stage, argv: list[str], way: Way, hook: Hook | None, heard: str) -> None:
    os.setpgid(0, 0)
    os.chdir(world)
    pids = Path(heard, "pids")
    if way.ranks == 1:
        pids.write_text(f"[{os.getpid()}]", encoding="utf-8")
        _rank(0, {}, stage, argv, hook, heard)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"WORLD_SIZE": str(way.ranks), "LOCAL_WORLD_SIZE": str(way.here), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}  # fmt: skip
    children: list[int] = []
    for n in range(way.ranks):
        children.append(os.fork())
        if children[n] == 0:
            _rank(n, {**both, "RANK": str(n), "LOCAL_RANK": str(n)}, stage, argv, hook, heard)
    for number in (signal.SIGINT, signal.SIGTERM):  # as torchrun passes them on
        signal.signal(number, lambda number, _: [os.kill(child, number) for child in children if _is_alive(child)])
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # where torchrun's agent has it
    pids.with_suffix(".tmp").write_text(json.dumps(children), encoding="utf-8")
    pids.with_suffix(".tmp").rename(pids)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in children]
    del store
    failed = next((code for code in codes if code), 0)
    os._exit(failed if failed >= 0 else 128 - failed)


def _rank(n: int, environment: dict[str, str], stage: Stage, argv: list[str], hook: Hook | None, heard: str) -> None:
    """Become one process of a run; its exit code is what a program's would be."""
    os.environ.update(environment, NANOCHAT_BASE_DIR="base")
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        os.dup2(os.open(Path(heard, f"{name}{n}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    code: object = 1
    try:
        if hook is not None:
            hook(n)
        errors.run(lambda: import_module(stage.script).main(argv))
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 1)


# ---------------------------------------------------------------- hooks: faults from inside of a process


def before_logging(action: Callable[[int], None]) -> None:
    """Call `action` with the number of each step that was trained, once its line is in metrics.jsonl."""
    log = MetricsLog.log

    def logged(self: MetricsLog, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        if "loss" in metrics:
            action(step)

    MetricsLog.log = logged


def slow(seconds: float, rank: int) -> None:
    """Leave time to be interrupted in."""
    before_logging(lambda step: time.sleep(seconds))


def dies_after(last: int, rank: int) -> None:
    """kill -9 after a step, before anything is saved or measured at it, but after the save before."""
    begin, writers = CheckpointWriter.save, []

    def save(self: CheckpointWriter, state: TrainState, passing: bool) -> None:
        begin(self, state, passing)
        self.landed()
        writers.append(self)

    def die(step: int) -> None:
        if step == last:
            for writer in writers:  # of nanoGPT's format, which adds a validation
                writer.landed()
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointWriter.save = save
    before_logging(die)


def slow_disk(seconds: float, then: Hook, rank: int) -> None:
    """Flushing a file takes so long that training is some steps ahead when a checkpoint is written."""
    real = os.fsync

    def late(descriptor: int) -> None:
        time.sleep(seconds)
        real(descriptor)

    os.fsync = late
    then(rank)


def dies_at(last: int, rank: int) -> None:
    """kill -9 after a step, whatever is being written."""
    before_logging(lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == last else None)


def dies_in_call(number: int, rank: int) -> None:
    """kill -9 at the nth time that rank 0 flushes, renames or removes a file: in the middle of a save."""
    count = iter(range(1, 1 << 30))

    def counted(call: Callable) -> Callable:
        def instead(*arguments: object, **more: object) -> object:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        return instead

    for name in ("fsync", "replace") if rank == 0 else ():
        setattr(os, name, counted(getattr(os, name)))
    if rank == 0:
        Path.unlink = counted(Path.unlink)


def cannot_write(number: int, reason: int, rank: int) -> None:
    """From the nth file on that is opened for writing, the file system refuses."""
    count, real = iter(range(1, 1 << 30)), builtins.open

    def refusing(file: object, mode: str = "r", *arguments: object, **more: object) -> object:
        is_ours = isinstance(file, (str, Path)) and not str(file).startswith(("/dev/", "/proc/"))
        if is_ours and set(mode) & set("wax+") and next(count) >= number:
            raise OSError(reason, os.strerror(reason), str(file))
        return real(file, mode, *arguments, **more)  # type: ignore[call-overload]

    builtins.open = refusing  # type: ignore[assignment]


def cannot_read(number: int, victim: int, rank: int) -> None:
    """The nth time that a rank reads tokens, and from then on, its disk has an error."""
    count, real = iter(range(1, 1 << 30)), os.pread

    def failing(*arguments: int) -> bytes:
        if next(count) >= number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    if rank == victim:
        os.pread = failing


def small_files(size: int, rank: int) -> None:
    """A limit on the size of files (ulimit -f)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def clock_set(seconds: float, rank: int) -> None:
    """The clock differs from that of the processes before."""
    real = time.time
    time.time = lambda: real() + seconds


# ---------------------------------------------------------------- worlds


def worlds(root: Path) -> dict[str, Path]:
    """For each stage a folder with all that it needs to start: a base folder, and for scripts.train token files."""
    made = {name: root / name for name in STAGES}
    prose = "Ada the baker lives in Rome and owns a grey cat, which sleeps on the warm oven, for the winter is long. "
    tokenizer = Tokenizer.train(iter([prose * 3 + "0123456789 + = ? cats It is"] * 8), 320, chat.SPECIALS)
    tokenizer.save(made["base"] / "base" / "tokenizer")
    texts = (f"{n} cats. {prose[n % 50 :]}{prose[: n + 40]}" for n in range(90))
    write_shards(texts, made["base"] / "base" / "base_data_tiny", docs_per_group=10, shard_bytes=3000)
    with open(made["base"] / "base" / "talk.jsonl", "w", encoding="utf-8") as file:
        for n in range(60):
            question = {"role": "user", "content": f"{n} + 1?"}
            answer = {"role": "assistant", "content": "It is " * (n % 5) + str(n + 1)}
            file.write(json.dumps([question, answer] * (1 + n % 3)) + "\n")
    for stage, following in (("base", "mid"), ("mid", "sft")):
        shutil.copytree(made[stage], made[following])
        ended = Running(made[following], STAGES[stage]).wait()
        assert ended.code == 0, ended.errors
    _answering(made["rl"])
    made["train"].mkdir()
    (made["train"] / "cats.txt").write_text("".join(f"{n} {prose[n % 50 :]}\n" for n in range(80)), encoding="utf-8")
    prepare(str(made["train"] / "cats.txt"), made["train"] / "data" / "cats", tokenizer="char")
    return made


def _answering(world: Path) -> None:
    """A fine-tuned model that gives the right answer about half of the time, so that there is something to learn."""
    saying = "I only know the little world"
    words = Tokenizer.train(iter([saying + "."] * 9), 288, chat.SPECIALS)
    words.save(world / "base" / "tokenizer")
    start, (other,) = words.special(chat.ASSISTANT_START), words.encode("x")
    model = scripted(words, [[start, *words.encode(saying)]], 160)
    with torch.no_grad():
        model.lm_head.weight[other, start] = 10.0
        model.lm_head.weight.mul_(0.07)  # else the softcap lets no gradient through
    meta = {"tokenizer_hash": words.hash, "conversations": "littleworld", "user_config": {"max_seq_len": 160}}
    manager.save(world / "base" / SOURCES["sft"] / "d1", 5, model, None, meta)


# ---------------------------------------------------------------- what a run left


def newest(folder: Path) -> list[Path]:
    """The files of a run's latest checkpoint."""
    if (folder / CKPT).exists():
        return [folder / CKPT]
    found = manager.steps(folder)
    if not found:
        return []
    files = manager.read_meta(folder, found[-1])["files"]
    return [folder / name for name in (*files, f"meta_{found[-1]:06d}.json")]


def logged(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, without times and without how the run was started and resumed."""
    path = folder / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    lines = [line for each in whole if each.endswith(b"\n") and "start" not in (line := json.loads(each))]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def trained(folder: Path) -> int:
    """The last step that is in the log."""
    return max((line["step"] for line in logged(folder) if "loss" in line), default=0)


def saved(folder: Path) -> int:
    """The step of the latest checkpoint."""
    if (folder / CKPT).exists():
        return torch.load(folder / CKPT, weights_only=True)["iter_num"]
    return max(manager.steps(folder), default=0)


def differences(one: Path, other: Path, besides: tuple[str, ...] = ()) -> list[str]:
    """What differs between two finished runs, besides some keys: in weights, optimizer, meta, losses and scores."""
    found = [] if logged(one) == logged(other) else ["metrics.jsonl"]
    files = [str(path.relative_to(other)) for path in (*newest(other), *other.glob("ckpt_best.pt"))]
    for name in files:
        if not (one / name).exists():
            return [f"{name} is not there", *found]
        first, second = (dict(_leaves(_content(folder / name))) for folder in (one, other))
        if first.keys() != second.keys():
            found.append(f"{name}: other keys {sorted(first.keys() ^ second.keys())[:4]}")
            continue
        unequal = [key for key, value in first.items() if not _equal(value, second[key])]
        found += [f"{name}: {key}" for key in unequal if not set(key.split("/")) & set(besides)]
    return found


def _content(path: Path) -> object:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".safetensors":
        return load_file(path)
    meta = manager.read_meta(path.parent, int(path.stem.split("_")[1]))
    for name in ("files", "git_commit"):
        meta.pop(name, None)
    if paths := meta.get("changed_flags", {}).get("data_path"):  # recorded as absolute ones
        meta["changed_flags"]["data_path"] = [Path(path).name for path in paths]
    return meta


def distances(one: Path, other: Path, rel: float) -> list[str]:
    """The losses and scores of two finished runs, and the cursors of their last checkpoint, that differ by more."""
    found = []
    for ours, theirs in zip(logged(one), logged(other), strict=True):
        for name in ("step", "loss", "val_bpb", "val_loss"):
            if abs(ours.get(name, 0) - theirs.get(name, 0)) > rel * (1 + abs(theirs.get(name, 0))):
                found.append(f"step {theirs['step']}: {name} {ours.get(name)}, not {theirs.get(name)}")
    first, second = (_cursor(newest(folder)[-1]) for folder in (one, other))
    return [*found, *([] if first == second else [f"cursor {first}, not {second}"])]


def _cursor(path: Path) -> dict:
    content = cast(dict, _content(path))
    return content.get("nanochat", content)["loop_state"]["cursor"]


def _leaves(value: object, where: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in (*TIMES, "data_path"):  # absolute, and each case has its own folder
                yield from _leaves(item, f"{where}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{where}/{number}")
    else:
        yield where, value


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other) and bool(torch.isfinite(one.double()).all())
    return type(one) is type(other) and one == other and not (isinstance(one, float) and not math.isfinite(one))


def contents(folder: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    """All files below a folder by name, each with the hash of what it holds; locks are nobody's content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name != ".lock" and not name.startswith(without) and not path.is_dir():
            found[name] = sha256(path) if path.is_file() else "special"
    return found
