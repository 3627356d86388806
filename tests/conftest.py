"""What every test stands on: a base folder of its own, one thread, and a small tokenizer."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

from nanochat import chat
from nanochat.paths import checkpoints_dir
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# One thread makes sums independent of the machine, and two ranks fit on two cores. The variable is for child processes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Examples are the same in every run of CI, so that it never fails by chance; elsewhere they are new each time.
hypothesis.settings.register_profile("nanochat", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("nanochat")

TEXT = """Ada the baker lives in Rome and owns a grey cat. The cat sleeps on the warm oven, for the winter is long.
"What is 12 + 30?" asked Tom. "It is 42," she said, and wrote it down: 12 + 30 = 42.
Naïve café owners order seven crêpes; the bill of €7.50 is paid, and nobody counts the letters in "strawberry".
"""

# Files that take long come first, so that no worker is left with one of them at the end.
LONG = tuple(f"test_{name}.py" for name in """
    speedrun_real fake_gpu speedrun train_script page docs training experiment experiment_agent guides guides_d34 chaos
""".split())
# --fast: model, optimizer, loop, engine, tokens, data and checkpoints; no servers, browsers, ranks or whole runs.
FAST = {f"test_{name}.py" for name in """
    accuracy bpb chat checkpoint config config_files contents cpu_weights customjson engine gpt log loop
    optim parity paths plan report scaling shards streams text texts tokenizer tokens tools typed
""".split()}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="run the fast subset, which takes about a minute")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--fast") and collection_path.suffix and collection_path.name not in FAST else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's NANOCHAT_BASE_DIR, which does not exist yet."""
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount program here")
    if mount.returncode:
        pytest.skip(f"mounting is not permitted here: {mount.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a traceback may still hold a file of it


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 320 tokens with all special tokens, trained on TEXT."""
    return Tokenizer.train(iter([TEXT] * 8), 320, chat.SPECIALS)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    """Base folders to copy: "base" has what base_train needs, "mid" a base model besides, "sft" a mid-trained one."""
    import stages

    return stages.worlds(tmp_path_factory.mktemp("worlds"), tokenizer)


@pytest.fixture(scope="session")
def littleworld_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder, to read only, with base:d2 and sft:d2 of the little world: trained once for all workers."""
    import stages

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # each worker has a folder of its own there
    with open(root / "littleworld.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made := root / "littleworld").exists():
            stages.little_world(root / "littleworld in the making")
            (root / "littleworld in the making").rename(made)
    return made


@pytest.fixture
def world(worlds: dict[str, Path], base: Path) -> Callable[[str], Path]:
    """A function that makes this test's base folder ready for a stage and returns where that will write."""

    def prepare(stage: str) -> Path:
        shutil.copytree(worlds[stage], base)
        return checkpoints_dir(stage) / "d1"

    return prepare


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from tests.browsing import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def picture(tmp_path: Path) -> Callable[["Page", str], None]:
    """Takes a picture of a page by a name."""
    from tests.browsing import pictures

    return pictures(tmp_path)
