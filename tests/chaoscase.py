"""A world for each fault: a run that has not begun or was interrupted, and what is right once it is started again."""

import contextlib
import functools
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.chaosruns import (
    STAGES,
    STEPS,
    Ended,
    Hook,
    Lost,
    Running,
    Stage,
    Way,
    contents,
    dies_after,
    differences,
    saved,
    slow,
    trained,
    worlds,
)  # fmt: skip

EQUAL, STOPPED, LOST = "continued bit-equal", "stopped with a sentence", "lost"
GONE = r"error: (another rank|rank \d on \S+) ended without an error message; start the run again to resume\n"


class Templates:
    """Worlds in which a stage has not begun, was interrupted, or was finished by nobody's disturbance; made once."""

    def __init__(self, root: Path):
        self.root = root
        self.fresh = worlds(root / "fresh")

    def interrupted(self, stage: Stage, way: Way, step: int) -> Path:
        """A run that was killed after a step."""
        return self._made(stage, way, f"{step}", functools.partial(dies_after, step))

    def whole(self, stage: Stage, way: Way) -> Path:
        """The folder of a finished run."""
        return self._made(stage, way, "whole", None) / stage.folder

    def _made(self, stage: Stage, way: Way, name: str, hook: Hook | None) -> Path:
        stage = STAGES[stage.name]  # by its own command
        world = self.root / f"{stage.name}{way.ranks}{way.mode}_{name}" / "world"
        if not world.exists():
            shutil.copytree(self.fresh[stage.name], world)
            ended = Running(world, stage, way=way, hook=hook).wait()
            assert "Traceback" not in ended.errors and (ended.code == 0) == (hook is None), ended
        return world


@dataclass
class Case:
    """A fault's own world. `before`: what lies in it outside of the run's folder, which no run may change."""

    root: Path
    stage: Stage
    way: Way
    chance: random.Random
    templates: Templates
    world: Path = field(init=False)
    before: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.world = self.root / "world"

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.world / self.stage.folder

    @property
    def base(self) -> Path:
        return self.world / "base"

    @property
    def whole(self) -> Path:
        """The folder of the same run, undisturbed."""
        return self.templates.whole(self.stage, self.way)

    def fresh(self) -> None:
        self._copy(self.templates.fresh[self.stage.name])

    def interrupted(self, *steps: int) -> None:
        """The world of a run that was killed, by default after some step, with two checkpoints or more."""
        step = self.chance.choice(steps or (8, 9, 10, 11))
        self._copy(self.templates.interrupted(self.stage, self.way, step))

    def _copy(self, template: Path) -> None:
        shutil.copytree(template, self.world)
        self.accept()

    def fresh_or_interrupted(self) -> None:
        self.chance.choice([self.fresh, self.interrupted])()

    @contextlib.contextmanager
    def put_back(self, path: Path) -> Iterator[None]:
        """Undo at the end what is done to a file or folder meanwhile."""
        kept = self.root / "kept"
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, kept)
        yield
        if kept.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        shutil.move(kept, path)

    def accept(self) -> None:
        """What lies outside of the run's folder now is right."""
        self.before = self.outside()

    def outside(self) -> dict[str, str]:
        return contents(self.world, without=(self.stage.folder, "base/report"))

    def start(self, *more: str, hook: Hook | None = None) -> Running:
        return Running(self.world, self.stage, more, self.way, hook)

    @contextlib.contextmanager
    def instead(self, *flags: str, without: Sequence[str] = ()) -> Iterator[None]:
        """Another command for a while: these flags in the place of their own values."""
        stage, names = self.stage, tuple(flag.partition("=")[0] for flag in (*flags, *without))
        argv = tuple(arg for arg in stage.argv if arg.partition("=")[0] not in names)
        self.stage = replace(stage, argv=(*argv, *flags))
        yield
        self.stage = stage

    def midway(self, *more: str) -> Running:
        """A run that has trained for some steps, at a random moment."""
        running, seen = self.start(*more, hook=functools.partial(slow, 0.03)), self.chance.randint(1, STEPS - 4)
        while running.process.is_alive() and trained(self.folder) < seen:
            time.sleep(0.002)
        time.sleep(self.chance.random() * 0.1)
        if not running.process.is_alive():
            raise Lost(f"the run ended before its fault: {running.wait()}")
        return running

    def equal(self, *more: str, says: str = "", hook: Hook | None = None, besides: tuple[str, ...] = ()) -> str:
        """Start the run, again or for the first time: it must finish, equal to an undisturbed one."""
        ended = self.start(*more, hook=hook).wait()
        if ended.code != 0 or ended.errors:
            raise Lost(f"started again it ended with {ended}")
        if says not in ended.said:
            raise Lost(f"it should have said {says!r}: {ended}")
        if different := differences(self.folder, self.whole, besides):
            raise Lost(f"other results: {different[:5]} {ended}")
        if (outside := self.outside()) != self.before:
            changed = [name for name in {**outside, **self.before} if outside.get(name) != self.before.get(name)]
            raise Lost(f"files outside of the run's folder were changed: {changed[:5]}")
        if leftover := [path.name for path in self.folder.glob(".*.tmp")]:
            raise Lost(f"temporary files are left: {leftover}")
        return EQUAL

    def equal_after_a_stop(self, code: int | None = 2) -> str:
        """`equal`, after the fault ended a run with this exit code."""
        self.equal()
        return STOPPED if code else EQUAL

    def refused(self, says: str, *more: str) -> None:
        """Start the run, which must end with a sentence, code 2, and all files as they are."""
        there = contents(self.world)
        sentence(self.start(*more).wait(), says)
        if (now := contents(self.world)) != there:
            raise Lost(f"it changed {[name for name in {**there, **now} if there.get(name) != now.get(name)][:5]}")

    def nothing_lost(self) -> None:
        """What was trained is saved."""
        if trained(self.folder) != saved(self.folder) or not saved(self.folder):
            raise Lost(f"step {trained(self.folder)} was trained and {saved(self.folder)} is saved")

    def data(self) -> list[Path]:
        """The files that the stage learns from."""
        if self.stage.name == "train":
            return [self.world / "data" / "cats" / "train.bin"]
        shards = sorted((self.base / "base_data_tiny").glob("*.parquet"))
        talk = [self.base / "talk.jsonl"]
        return {"base": shards, "mid": shards + talk, "sft": talk}[self.stage.name]


def sentence(ended: Ended, says: str = "") -> str:
    """Exactly one sentence, and its exit code."""
    lines = [line for line in ended.errors.splitlines() if line]
    if ended.code != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or not re.search(says, lines[0]):
        raise Lost(f"one sentence with {says!r} and code 2 expected: {ended}")
    return lines[0]


def died(ended: Ended, codes: tuple[int, ...], way: Way) -> None:
    """After kill -9 of one process; on several ranks another one may say that it is gone, and none may hang."""
    is_right = ended.errors == "" or way.ranks > 1 and re.fullmatch(GONE, ended.errors)
    if ended.code not in codes or not is_right:
        raise Lost(f"killed, it ended with {ended}")


@contextlib.contextmanager
def mounted(c: Case, megabytes: int) -> Iterator[None]:
    """The case's folder as a file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", c.root], check=True)
    try:
        yield
    except Lost as lost:
        raise Lost(f"{lost} (its file system is gone)") from None
    finally:
        subprocess.run(["umount", "--lazy", c.root], check=True)
