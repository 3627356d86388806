"""The recipes, and the code that runs them: `bash speedrun.sh` sets up and starts this script.

A recipe is a list of stages, each a command and the files it leaves. A finished stage whose files are there is skipped;
see `scripts._marks`. The planner (`scripts.plan`) reads the same lists.
"""

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import IO, Any, ClassVar

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import base_dir, dataset_dir, write_text
from scripts import _screen as screen
from scripts._clock import Clock, left, rounded
from scripts._marks import Marks, last_step
from scripts._typed import typed
from tasks import littleworld

# What the environment may change, and its default with PRESET=full, smoke and long. None follows from the rest.
PRESETS = ("full", "smoke", "long")
TINY: dict[str, tuple[Any, Any, Any]] = {
    "TINY_DOCUMENTS": (60_000, 2_000, 150_000),
    "TINY_VOCAB": (2048, 512, 2048),  # few: words fall into pieces that others share, and are spelled better
    "TINY_CONTEXT": (256, 128, 256),
    "TINY_DEPTH": (3, 1, 4),  # few layers: twice as many steps in the same time, and more is learned (dev/LOG.md)
    "TINY_ROWS": (16, 4, 16),  # rows per forward pass
    "TINY_BASE_STEPS": (1000, 6, 2000),
    "TINY_MID_STEPS": (0, 4, 0),  # 0 leaves mid-training out: starting and measuring it costs more than a minute
    "TINY_SFT_STEPS": (1550, 4, 3600),
    "TINY_SEED": (None, None, None),  # of the initial weights and the order of the data
    "TINY_SAVE_EVERY": (250, 2, 500),
    "TINY_EVAL_TOKENS": (65_536, 2_048, 65_536),
    "TINY_PROBLEMS": (1000, 2, 1000),  # per task of chat_eval
}
REAL: dict[str, tuple[Any, Any]] = {
    "DEPTH": (20, 1),
    "RL": ("", ""),
    "IDENTITY": ("nanochat", "nanochat"),
    "CORE_BUNDLE": ("", ""),
    "REAL_DATASET": ("climbmix", "climbmix"),
    "REAL_SHARDS": (170, 2),
    "REAL_VOCAB": (32_768, 512),
    "REAL_CONTEXT": (2048, 256),
    "REAL_ROWS": (None, 4),  # rows per forward pass
    "REAL_STEPS": (None, 4),  # of every training stage
    "REAL_SAVE_EVERY": (250, 2),
    "REAL_EVAL_TOKENS": (None, 2_048),
    "REAL_PROBLEMS": (None, 4),  # per task of CORE and chat_eval
    "REAL_MAX_NEW_TOKENS": (512, 32),
}
PUBLISHED = ("climbmix", "fineweb-edu")  # as shards, on the hub
TOKENIZER = "tokenizer/tokenizer.json"
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
OWN_IDENTITY = "identity_conversations.jsonl"


@dataclass(frozen=True)
class Stage:
    """A command of a recipe, and the files it leaves. Paths are below the base folder."""

    name: str
    module: str
    flags: Mapping[str, Any]
    """True is --flag, False is --no-flag, and None leaves the flag out"""
    leaves: str = ""
    """pattern of its files"""
    reports: bool = True
    """whether it leaves a section of the report"""
    parent: str = ""
    """the stage whose checkpoint it reads"""
    processes: int = 1
    """this many, started by torchrun if more than one"""
    rows: int | None = None
    """--device_batch_size; a run resumes with another one, and with another number of processes"""
    ahead_from: str = ""
    """the stage after which its command already starts in the background"""
    version: int | None = None
    """of what its command makes; with another one it runs again, and so does all after it"""

    @property
    def command(self) -> list[str]:
        """The words after `python`, without what may change between two starts."""
        return ["-m", self.module, *(_flag(name, value) for name, value in self.flags.items() if value is not None)]

    @property
    def launched(self) -> list[str]:
        """The words after `python`."""
        words = self.command + ([f"--device_batch_size={self.rows}"] if self.rows else [])
        if self.processes < 2:
            return words
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        return [*torchrun, *words[:2], "--", *words[2:]]

    @property
    def patterns(self) -> list[str]:
        """A pattern for each kind of file that is there when the stage is done."""
        return [pattern for pattern in (self.leaves, self.section if self.reports else "") if pattern]

    @property
    def section(self) -> str:
        return f"report/{self.name}.json"

    @property
    def trains(self) -> bool:
        return "_checkpoints/" in self.leaves


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


# ---------------------------------------------------------------- the recipes


def tiny(s: SimpleNamespace) -> list[Stage]:
    """The little world, on any machine."""
    tag = f"d{s.depth}"
    train = {
        "seed": s.seed, "compile": s.compile, "save_every": s.save_every, "eval_every": 500,
        "eval_tokens": s.eval_tokens, "document_mask": True,
    }  # fmt: skip
    base = {
        "depth": s.depth, "head_dim": 64, "max_seq_len": s.context, "device_batch_size": s.rows,
        "total_batch_size": s.rows * s.context, "matrix_lr": 0.16, "embedding_lr": 1.7, "unembedding_lr": 0.06,
        "warmup_steps": 10, "warmdown_ratio": 0.3, "num_iterations": s.base_steps,
    }  # fmt: skip
    evaluate = {"model_tag": tag, "device_batch_size": s.rows, "eval_tokens": s.eval_tokens}
    mid = {
        "model_tag": tag, "text_share": 0.2, "warmdown_ratio": 0.3, "final_lr_frac": 0.5, "num_iterations": s.mid_steps,
    }  # fmt: skip
    sft = {
        "source": None if s.mid_steps else "base", "model_tag": tag, "target_examples_per_step": s.rows,
        "init_lr_frac": 1.0, "eval_metrics_every": -1, "num_iterations": s.sft_steps,
    }  # fmt: skip
    score = {"model_tag": tag, "batch_size": 64, "max_problems": s.problems}
    stages = [
        Stage("data", "tasks.littleworld", {"num_documents": s.documents}, "base_data_tinyworld/*.parquet",
              reports=False, version=littleworld.VERSION),
        Stage("tok_train", "scripts.tok_train", {"vocab_size": s.vocab}, TOKENIZER),
        Stage("tok_eval", "scripts.tok_eval", {}),
        Stage("base_train", "scripts.base_train", base | train, _checkpoints("base", tag)),
        Stage("base_eval", "scripts.base_eval", evaluate, parent="base_train"),
        Stage("mid_train", "scripts.mid_train", mid | train, _checkpoints("mid", tag), parent="base_train"),
        Stage("chat_sft", "scripts.chat_sft", sft | train, _checkpoints("chatsft", tag),
              parent="mid_train" if s.mid_steps else "base_train"),
        Stage("chat_eval_mid", "scripts.chat_eval", {"source": "mid"} | score, parent="mid_train"),
        Stage("chat_eval_sft", "scripts.chat_eval", {"source": "sft"} | score, parent="chat_sft"),
    ]  # fmt: skip
    return [stage for stage in stages if s.mid_steps or stage.name not in ("mid_train", "chat_eval_mid")]


def real(s: SimpleNamespace, gpus: int) -> list[Stage]:
    """Web text, public conversations and exams: modern nanochat's pretraining, classic nanochat's mid-training and SFT.

    """
    tag, (name, data) = f"d{s.depth}", text_stages(s)
    text = {"dataset": name}
    rows = s.rows or (32 if s.depth <= 14 else 16 if s.depth <= 20 else 8 if s.depth <= 26 else 4)  # fit 80 GB
    on = {"processes": gpus, "rows": rows}
    train = {
        "save_every": s.save_every, "num_iterations": s.steps, "compile": None if s.steps is None else False,
        "eval_tokens": s.eval_tokens,
    }  # fmt: skip
    base = text | {"depth": s.depth, "max_seq_len": s.context} | train
    evaluate = {
        "model_tag": tag, "eval": "core,bpb,sample", "eval_tokens": s.eval_tokens, "max_per_task": s.problems,
        "bundle": s.core_bundle or None,
    }  # fmt: skip
    mid = {"model_tag": tag, "conversations": "real", "text_share": 0} | train
    sft = {"model_tag": tag, "conversations": "real", "target_examples_per_step": 32} | train
    few = 16 if s.problems is None else 2
    rl = {
        "model_tag": tag, "task": "GSM8K", "init_lr_frac": 0.05, "warmdown_ratio": 1, "top_k": 50,
        "save_every": s.save_every, "num_iterations": s.steps or -1, "max_new_tokens": s.max_new_tokens,
        "examples_per_step": few, "num_samples": few, "eval_examples": s.problems,
    }  # fmt: skip
    score = {"model_tag": tag, "batch_size": 32, "max_new_tokens": s.max_new_tokens, "max_problems": s.problems}
    stages = [
        *data[:1],
        Stage("tok_train", "scripts.tok_train", text | {"vocab_size": s.vocab, "max_chars": 2_000_000_000}, TOKENIZER),
        Stage("tok_eval", "scripts.tok_eval", text),
        *data[1:],
        Stage("base_train", "scripts.base_train", base, _checkpoints("base", tag), **on),
        Stage("base_eval", "scripts.base_eval", evaluate, parent="base_train", **on),
        Stage("identity", "scripts.make_identity", {"name": s.identity, "overwrite": True}, OWN_IDENTITY,
              reports=False),
        Stage("mid_train", "scripts.mid_train", mid, _checkpoints("mid", tag), parent="base_train", **on),
        Stage("chat_sft", "scripts.chat_sft", sft, _checkpoints("chatsft", tag), parent="mid_train", processes=gpus,
              rows=min(rows, 4)),
        Stage("chat_eval_mid", "scripts.chat_eval", {"source": "mid"} | score, parent="mid_train", processes=gpus),
        Stage("chat_eval_sft", "scripts.chat_eval", {"source": "sft"} | score, parent="chat_sft", processes=gpus),
    ]  # fmt: skip
    if s.rl:
        stages += [
            Stage("chat_rl", "scripts.chat_rl", rl, _checkpoints("chatrl", tag), parent="chat_sft", **on),
            Stage("chat_eval_rl", "scripts.chat_eval", {"source": "rl"} | score, parent="chat_rl", processes=gpus),
        ]
    return stages


def text_stages(s: SimpleNamespace) -> tuple[str, list[Stage]]:
    """The name of the text's dataset, and the stages that fetch it, the first of them before the tokenizer.

    That reads eight shards of 250 million characters. The others are fetched while it trains, and one before, so that
    it never depends on how far they are. Other datasets of the hub are fetched at once, and those that are here not.
    Raises UserError for a name that is neither.
    """
    if s.dataset not in PUBLISHED and "/" not in s.dataset:
        if s.is_here:
            return s.dataset, []
        raise UserError(
            f"REAL_DATASET is {s.dataset}; expected {', '.join(PUBLISHED)}, ORG/NAME on the hub, or the name of a "
            "dataset here, which python -m scripts.add_data makes of your own text"
        )
    name = s.dataset
    if "/" in name:
        from scripts._hub_text import dataset_name  # slow to import, and seldom needed

        name = dataset_name(s.dataset)

    def fetch(stage: str, count: int, **more: Any) -> Stage:
        flags = {"dataset": s.dataset, "num_shards": count}
        leaves = f"{dataset_dir(name).name}/shard_*.parquet"
        return Stage(stage, "nanochat.data.shards", flags, leaves, reports=False, **more)

    if name != s.dataset:
        return name, [fetch("data", s.shards)]
    return name, [fetch("data", min(s.shards, 9)), fetch("more_data", s.shards, ahead_from="data")]


def _checkpoints(source: str, tag: str) -> str:
    return f"{source}_checkpoints/{tag}/meta_*.json"


# ---------------------------------------------------------------- what the environment says


@dataclass(frozen=True)
class Recipe:
    """The stages for this machine and environment. started: the recipe of the base folder, if it has one."""

    name: str
    stages: list[Stage]
    gpus: int
    gpus_here: int
    started: str


def recipe_for(environment: Mapping[str, str], marks: Marks) -> Recipe:
    """Choose the recipe and read its settings. Raises UserError for a value that it does not know."""
    preset = environment.get("PRESET") or "full"
    if preset not in PRESETS:
        raise UserError(f"PRESET is {preset}; expected {', '.join(PRESETS[:-1])} or {PRESETS[-1]}")
    memories = _gpu_memories(environment)
    here = len(memories)
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:  # numbers, or names such as GPU-… and MIG-…
        here = sum(bool(re.match(" *[0-9GM]", name)) for name in visible.split(","))
    gpus = here if not environment.get("GPUS") else _number("GPUS", environment["GPUS"], zero=True)
    started = marks.text("recipe").strip()
    name = environment.get("RECIPE") or "auto"
    if name == "auto":  # a recipe that was started resumes, also while the hub is out of reach
        can = not started and here > 0 and min(memories, default=0) >= 40_000
        name = started or ("real" if can and _hub_answers(environment) else "tiny")
    if name not in ("tiny", "real"):
        raise UserError(f"RECIPE is {name}; expected auto, tiny or real")
    if name == "tiny":
        settings = _settings(TINY, environment, preset)
        return Recipe(name, tiny(settings), gpus, here, started)
    if preset == "long":
        raise UserError("PRESET=long belongs to RECIPE=tiny; set DEPTH to a larger number for more of the real recipe")
    settings = _settings(REAL, environment, preset)
    settings.is_here = (marks.base / dataset_dir(settings.dataset).name).is_dir()
    return Recipe(name, real(settings, gpus), gpus, here, started)


def _settings(table: Mapping[str, tuple[Any, ...]], environment: Mapping[str, str], preset: str) -> SimpleNamespace:
    """The values of a table of variables, by their names in lower case without TINY_ or REAL_."""
    settings = SimpleNamespace(compile=False if preset == "smoke" else None)
    for name, defaults in table.items():
        default, value = defaults[PRESETS.index(preset)], environment.get(name)
        if value and not isinstance(default, str):
            value = _number(name, value)
        setattr(settings, re.sub("^(TINY|REAL)_", "", name).lower(), value or default)
    return settings


def _number(name: str, value: str, zero: bool = False) -> int:
    """A variable as a number of at most eight digits; -1, for all there is, where it counts steps or problems."""
    if zero and value == "0" or value == "-1" and name.endswith(("_STEPS", "_PROBLEMS")):
        return int(value)
    if not re.fullmatch("[1-9][0-9]{0,7}", value):
        raise UserError(f"{name} is {value}; expected a number, such as 8")
    return int(value)


def _gpu_memories(environment: Mapping[str, str]) -> list[int]:
    """MiB of each GPU here."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [int(line) for line in done.stdout.splitlines() if line.strip().isdigit()]


def _hub_answers(environment: Mapping[str, str]) -> bool:
    import httpx2  # only where the answer matters

    try:
        address = environment.get("HF_ENDPOINT") or "https://huggingface.co"
        return httpx2.head(address, follow_redirects=True, timeout=5).is_success
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return False


def walk(stages: Sequence[Stage], marks: Marks) -> Iterator[tuple[Stage, list[str], str]]:
    """Each stage with the recipe's commands up to its own, and its state: done, resumes or to do.

    Who the model is comes from the user's own conversations, if there are any, and these are never touched.
    """
    history: list[str] = []
    for stage in stages:
        if stage.name == "identity" and (own := _own_identity(marks)):
            history.append(f"{OWN_IDENTITY} {own}")
            continue
        history.append(" ".join(["python", *stage.command]) + (f" (version {stage.version})" if stage.version else ""))
        yield stage, list(history), state_of(stage, marks, history)


def state_of(stage: Stage, marks: Marks, history: Sequence[str]) -> str:
    done = marks.holds(stage.name, "done", history) and all(map(marks.files, stage.patterns))
    if done and stage.name == "tok_train":  # somebody may have trained another one since
        noted = marks.notes(stage.name, "done")
        if noted and noted != marks.checksums(stage.leaves):
            return "resumes"
    return "done" if done else "resumes" if marks.holds(stage.name, "started", history) else "to do"


def _identity(marks: Marks) -> str:
    """Checksum and size of the identity conversations; empty if there are none."""
    return " ".join("".join(marks.checksums(OWN_IDENTITY)).split()[:2])


def _own_identity(marks: Marks) -> str:
    """The same, if they are the user's own and not made by this script."""
    found = _identity(marks)
    return found if found != marks.text("identity.sum").strip() else ""


# ---------------------------------------------------------------- running


class Runner:
    """Runs the stages of a recipe. A signal tells the running one to save and end, and ends the run after it."""

    def __init__(self, marks: Marks, python: str, environment: Mapping[str, str], clock: Clock) -> None:
        self.marks, self.python, self.environment, self.clock = marks, python, environment, clock
        self.lock = _locked(marks.folder)
        self.stage_process: subprocess.Popen | None = None
        self.download: subprocess.Popen | None = None
        self.exit_code = 0  # once there was a signal
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                signal.signal(number, self._on_signal)

    def run(self, stages: Sequence[Stage]) -> None:
        """Run what is not done yet. Raises SystemExit with the code of the stage that fails, or of a signal."""
        total = len([*walk(stages, self.marks)])
        for number, (stage, history, state) in enumerate(walk(stages, self.marks), 1):
            if state == "done":
                print(f"[{number}/{total}] {stage.name} is done", flush=True)
            else:
                times = self.times(stages)
                time_left = left(times[stage.name], times.values())
                self._run(stage, history, state, (number, total, time_left))
            for later in stages:
                if later.ahead_from == stage.name and not self.marks.exists(later.name, "done"):
                    with open(self.marks.folder / f"{later.name}.log", "wb") as log:
                        self.download = self._start(later.launched, log)

    def times(self, stages: Sequence[Stage]) -> dict[str, float | None]:
        """The seconds that each stage still takes; None where they are not known."""
        return {stage.name: self.clock.seconds(stage.name, state, stage.leaves)
                for stage, _, state in walk(stages, self.marks)}  # fmt: skip

    def finish(self, command: list[str]) -> None:
        """Run a final command that is not a stage. What it prints is shown only if it fails."""
        with open(self.marks.folder / "report.log", "w+b") as log:
            if code := self._wait(command, log) or self.exit_code:
                log.seek(0)
                print(log.read().decode("utf-8", "replace"), file=sys.stderr)
                self._end(self.exit_code or code)

    def _run(self, stage: Stage, history: list[str], state: str, place: tuple[int, int, str]) -> None:
        """place: the stage's number, that of the last one, and the time that is left."""
        marks, extra = self.marks, []
        found = marks.checksums(stage.leaves) if stage.trains else []
        own = marks.own_files(stage.name, found)
        if stage.trains:
            extra = marks.begin_training(stage.name, found, history)
            command = [*stage.launched, *extra, f"--run={self.environment.get('WANDB_RUN') or 'dummy'}"]
        else:
            command = stage.launched
            if state == "to do":
                marks.write(stage.name, "started", history)
        if stage.ahead_from and self.download:
            log = marks.folder / f"{stage.name}.log"
            print(f"waiting for the rest of the data; {log} shows its progress", flush=True)
            self.download.wait()  # what failed is tried again below, and shown
            self.download = None
        number, total, time_left = place
        print(screen.header(number, total, stage.name, time_left, shlex.join(stage.launched)), flush=True)
        marks.remove(stage.name, "done")
        if "--resume=auto" not in extra:
            (marks.base / stage.section).unlink(missing_ok=True)
        code = self._wait(command)
        if stage.trains and own and (left := marks.checksums(stage.leaves)) != found:
            marks.write(stage.name, "left", history, left)
        if self.exit_code:
            self._end(self.exit_code)
        if code:
            self._fail(stage, history, code, can_prove=own or "--resume=never" not in extra)
        marks.remove(stage.name, "failed")
        if stage.name == "identity":
            write_text(marks.folder / "identity.sum", _identity(marks) + "\n")
        marks.write(stage.name, "done", history, marks.checksums(TOKENIZER) if stage.name == "tok_train" else ())

    def _fail(self, stage: Stage, history: list[str], code: int, can_prove: bool) -> None:
        """Print what helps, and end with the code."""
        marks, name = self.marks, stage.name
        if code == 2 and stage.parent:
            # Its checkpoint may be damaged. A finished stage that is started again ends at once, or falls back.
            marks.remove(stage.parent, "done")
        now = [*history, f"exit code {code}", *marks.checksums("*_checkpoints/*/meta_*.json")]
        again = marks.holds(name, "failed", now)
        marks.write(name, "failed", now)
        ended = f"{name} ended with code {code}"
        if code in (129, 130, 143):
            message = f"{name} was stopped; start speedrun.sh again to resume"
        elif again:
            message = f"{ended}, as it did the last time; resolve the error above before starting speedrun.sh again"
        elif code == 2 and not can_prove:
            message = (
                f"{ended}, because this script cannot prove that it wrote {Path(stage.leaves).parent}: move that "
                "folder away, or run the command above with --overwrite, then start speedrun.sh again"
            )
        elif code == 2:
            message = f"{ended}; resolve the error above, then start speedrun.sh again to resume from here"
        else:
            message = f"{ended}; start speedrun.sh again to resume from here"
        print(message, file=sys.stderr)
        self._end(code)

    def _wait(self, command: list[str], output: IO[bytes] | None = None) -> int:
        """Run python with these words in the foreground; its exit code, as a shell has it."""
        self.stage_process = self._start(command, output)
        code = self.stage_process.wait()
        self.stage_process = None
        return _as_in_a_shell(code)

    def _start(self, command: list[str], output: IO[bytes] | None = None) -> subprocess.Popen:
        """Start python with these words. It inherits the lock, so one that outlives this script still holds it."""
        if self.exit_code:
            self._end(self.exit_code)
        process = subprocess.Popen(
            [self.python, *command], env=self.environment, stdout=output, stderr=subprocess.STDOUT if output else None,
            pass_fds=[self.lock], preexec_fn=_ignore_the_terminal,
        )  # fmt: skip
        if self.exit_code:  # a signal came before there was a process to end
            process.terminate()
        return process

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        self.exit_code = 128 + number
        for process in (self.stage_process, self.download):
            if process:
                process.terminate()

    def _end(self, code: int) -> None:
        if self.download:
            self.download.terminate()
            self.download.wait()
        raise SystemExit(code)


def _ignore_the_terminal() -> None:
    """A terminal sends Ctrl-C and its own end to all processes in it; a stage gets one signal, from this script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _locked(folder: Path) -> int:
    """Wait until no other speedrun is at work in the folder, and keep others out for as long as this process lives."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the speedrun that is running in {folder.parent}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(f"the file system of {folder} cannot lock files ({error.strerror}); use a local disk") from None
    return lock


# ---------------------------------------------------------------- the script


@dataclass
class Flags:
    """From text to a chat model with one command. Use `bash speedrun.sh`; its --help lists the variables it reads."""

    EXAMPLE: ClassVar = "--dry_run"

    dry_run: bool = False
    """print the plan and stop"""
    list: bool = False
    """print name, state and command of each stage, separated by tabs, and stop"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    marks = Marks(base_dir())
    recipe = recipe_for(os.environ, marks)
    if flags.list:
        for stage, _, state in walk(recipe.stages, marks):
            print(f"{stage.name}\t{state}\tpython {' '.join(stage.launched)}")
        return
    for name in ("DEPTH", "RL", "IDENTITY", "CORE_BUNDLE") if recipe.name == "tiny" else ():
        if os.environ.get(name):
            print(f"{name}={os.environ[name]} belongs to RECIPE=real; this is the tiny recipe", file=sys.stderr)
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(marks.base)}
    python = os.environ.get("NANOCHAT_PYTHON") or sys.executable
    planner = [python, "-m", "scripts.plan", f"--recipe={recipe.name}"]
    planner += [f"--gpu={os.environ['GPU']}"] if os.environ.get("GPU") else []
    planner += [f"--gpus={recipe.gpus}"] if os.environ.get("GPUS") and recipe.gpus else []
    if flags.dry_run or os.environ.get("DRY_RUN"):
        _check_call(planner, environment)
        return
    with tempfile.TemporaryDirectory() as folder:  # nothing is written elsewhere before all was checked
        file = Path(folder) / "seconds.json"
        _check_call([*planner, "--brief", f"--seconds_file={file}"], environment)
        clock = Clock.read(marks, file)
    _check(recipe, marks, python, environment)

    # malloc keeps its pages and asks for huge ones: training on a CPU is faster by a sixth (dev/LOG.md).
    malloc = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.hugetlb=1"
    environment["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES") or malloc
    # What one stage compiled is there for the next, and after a kill.
    environment["TORCHINDUCTOR_CACHE_DIR"] = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(marks.base / "compiled")
    runner = Runner(marks, python, environment, clock)
    write_text(marks.folder / "recipe", recipe.name + "\n")
    if known := [seconds for seconds in runner.times(recipe.stages).values() if seconds]:
        print(f"about {rounded(sum(known))} in all; Ctrl-C stops it, the same command resumes it", flush=True)
    runner.run(recipe.stages)
    runner.finish(["-m", "scripts.report"])
    sft = next(stage for stage in recipe.stages if stage.name == "chat_sft")
    tag, step = str(sft.flags["model_tag"]), last_step(marks.files(sft.leaves))
    model = "--source=sft", f"--model_tag={tag}", f"--step={step}"
    commands = {"talk to it": typed("scripts.chat_cli", *model), "or on a page": typed("scripts.chat_web", *model)}
    print("\n" + screen.closing(marks, recipe.name, tag, [stage.name for stage in recipe.stages], commands))


def _check(recipe: Recipe, marks: Marks, python: str, environment: Mapping[str, str]) -> None:
    """Raise UserError, or SystemExit, for what would fail later, before anything is written or fetched."""
    if 0 < recipe.gpus_here < recipe.gpus:
        raise UserError(f"GPUS is {recipe.gpus}, but this machine has {recipe.gpus_here}")
    if recipe.started and recipe.started != recipe.name:
        raise UserError(
            f"{marks.base} holds a run of the {recipe.started} recipe, whose tokenizer and models the {recipe.name} "
            "recipe would replace; set NANOCHAT_BASE_DIR to another folder"
        )
    for stage, _, state in walk(recipe.stages, marks):
        if stage.name == "tok_train" and state != "done":  # other models may need the tokenizer that it would replace
            _check_call([python, *stage.command, "--check"], environment)


def _check_call(command: list[str], environment: Mapping[str, str]) -> None:
    """Run a command in the foreground; end with its exit code if that is not 0."""
    if code := _as_in_a_shell(subprocess.run(command, env=environment).returncode):
        raise SystemExit(code)


def _as_in_a_shell(code: int) -> int:
    """128 + the number of the signal that ended a process, where subprocess has it negative."""
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    run(main)
