"""Walks through a guide: its commands, typed in a clean clone by somebody whose home is empty.

    @walks(BOT, "python train.py config/train_shakespeare_char.py")
    def test_it_trains(walk): ...

says which rows of a guide's table a test holds; a count at the end shows that no row is left out. A row whose command
is another one here is held by `documented`, which looks for the words in the documents.
"""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, TypeVar, cast

import fakehub
import pytest
from children import processes

from nanochat import errors

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {name: (module, function) for name, module, function in re.findall(
    r'^(gpt-\w+) = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)}  # fmt: skip
PATIENCE = 180.0  # seconds after which a command counts as hanging
COVERED: dict[str, list[str]] = defaultdict(list)  # the rows of each guide that have a test

Test = TypeVar("Test", bound=Callable[..., object])


def walks(guide: str, *rows: str) -> Callable[[Test], Test]:
    """Note that a test holds these rows of a guide."""

    def note(test: Test) -> Test:
        COVERED[guide] += rows
        return test

    return note


def documented(page: str, *words: str) -> None:
    """Each of these words stands in a page of docs/, whatever its line breaks."""
    text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
    missing = [each for each in words if each not in text]
    assert missing == [], page


class Done(NamedTuple):
    """A command that has ended; `said` is what it printed, on both streams."""

    code: int
    said: str

    @property
    def sentence(self) -> str:
        """What a command printed that a mistake has ended: one line, without a traceback."""
        assert self.code == 2, self.said
        *_, last = self.said.splitlines()
        assert last.startswith("error: ") and "Traceback" not in self.said
        return last


class Walk:
    """A clone of this repository in a folder of its own, an empty home, and a hub on this machine."""

    def __init__(self, folder: Path, hub: fakehub.FakeHub) -> None:
        self.folder, self.home, self.hub = folder / "clone", folder / "home", hub
        self.home.mkdir()
        clone(self.folder)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("NANO", "HF_", "WANDB"))},
            **fakehub.environment(hub, self.home / ".cache" / "huggingface"),
            "HOME": str(self.home), "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def type(self, line: str, stdin: str = "", **environment: str) -> Done:
        """Run a line as typed in the clone's folder, in a child that has imported torch already."""
        with self.start(line, stdin, **environment) as (process, output):
            process.join(PATIENCE)
            assert process.exitcode is not None, output.read_text(encoding="utf-8")
            return Done(process.exitcode, output.read_text(encoding="utf-8"))

    @contextlib.contextmanager
    def start(self, line: str, stdin: str = "", **environment: str) -> Iterator[tuple]:
        """Start such a line: its process, and the file with what it prints. It is killed at the end."""
        paths = [self.home.parent / f"{name}-{time.monotonic_ns()}" for name in ("stdin", "stdout")]
        paths[0].write_text(stdin, encoding="utf-8")
        paths[1].touch()
        everything = {**self.environment, **environment}
        process = processes.Process(target=in_child, args=(line, str(self.folder), everything, *map(str, paths)))
        process.start()
        try:
            yield process, paths[1]
        finally:
            process.kill()
            process.join()

    @contextlib.contextmanager
    def serving(self, line: str, **environment: str) -> Iterator[tuple[str, str]]:
        """Start a server by a line: its address, and what it printed until it was ready. Ctrl-C ends it."""
        with self.start(f"{line} --port=0", **environment) as (process, output):
            deadline = time.monotonic() + PATIENCE
            while "Ctrl-C" not in (said := output.read_text(encoding="utf-8")):
                assert process.is_alive() and time.monotonic() < deadline, said
                time.sleep(0.02)
            address = re.search(r"http://[\w.]+:\d+", said)
            assert address, said
            yield address[0].replace("0.0.0.0", "127.0.0.1"), said
            os.kill(process.pid, signal.SIGINT)
            process.join(PATIENCE)
            assert process.exitcode == 0, output.read_text(encoding="utf-8")

    def shell(self, line: str, **environment: str) -> Done:
        """Run a line in bash, with nothing prepared: where it matters how Python finds its files."""
        done = subprocess.run(["bash", "-c", line], cwd=self.folder, env={**self.environment, **environment}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        return Done(done.returncode, done.stdout)

    def write(self, name: str, text: str) -> Path:
        """Lay a file into the clone's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


def clone(folder: Path) -> None:
    """What `git clone` would bring, with the changes that are not committed yet."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def in_child(line: str, folder: str, environment: dict[str, str], stdin: str, output: str) -> None:
    """Be the program that the line starts. It has the code of this checkout, which the clone's is a copy of."""
    for number, path, flags in ((0, stdin, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(path, flags), number)
    os.dup2(1, 2)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, encoding="utf-8", closefd=False, buffering=1)
                                         for number, mode in ((0, "r"), (1, "w"), (2, "w")))  # fmt: skip
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hub = cast(fakehub.FakeHub, SimpleNamespace(url=environment["HF_ENDPOINT"]))
    fakehub.connect(hub, Path(environment["HF_HOME"]), pytest.MonkeyPatch())  # the library may be imported already
    words = shlex.split(line)
    sys.argv = words if words[0] in PROGRAMS else words[2:] if words[1] == "-m" else words[1:]
    if words[0] in PROGRAMS:
        module, function = PROGRAMS[words[0]]
        getattr(import_module(module), function)()
    elif words[1] == "-m":
        errors.run(import_module(words[2]).main)
    else:
        runpy.run_path(words[1], run_name="__main__")


@contextlib.contextmanager
def walking(folder: Path, sizes: Path) -> Iterator[Walk]:
    """A walk whose hub has the GPT-2 in the folder `sizes` as gpt2 and under the names of its larger sizes."""
    hub = fakehub.FakeHub()
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        hub.add(f"openai-community/{name}", sizes)
    try:
        yield Walk(folder, hub)
    finally:
        hub.vanish()


def find_uv() -> str:
    """A uv, as dev/setup.sh finds or installs it."""
    found = shutil.which("uv") or shutil.which(ROOT / ".uv" / "bin" / "uv")
    if found is None:
        pytest.skip("uv is not installed")
    return found
