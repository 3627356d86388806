"""Where the client libraries of the tests live: not in the project's environment, whose pins some of them contradict.

Each environment is made once, of exact versions, in .cache/clients. `frameworks` has what goes with the newest openai,
`older` what wants openai 2; node's is made by npm. Refresh the versions by

    uv pip compile --universal --python-version 3.10 --no-header --no-annotate -o tests/clients/older.txt - <<< \\
        "instructor llama-index-llms-openai-like"
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "clients"  # git ignores it
# What uv and npm write where the registry cannot be reached.
NO_NETWORK = ("dns error", "error sending request", "failed to lookup", "connect", "timed out", "network", "ENOTFOUND",
              "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT")  # fmt: skip


def python(name: str) -> Path:
    """The Python of an environment with the packages of <name>.txt."""
    return _made(HERE / f"{name}.txt", _python_packages) / "bin" / "python"


def node() -> Path:
    """A folder with the packages of node/package.json and the scripts beside it, which node finds them from."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = _made(HERE / "node" / "package.json", _node_packages)
    for script in (HERE / "node").glob("*.js"):
        shutil.copy(script, folder)
    return folder


@functools.cache
def _attempt(wanted: Path, install) -> Path | BaseException:
    """The folder with the packages that a file lists, or why it could not be made; tried once for all tests."""
    try:
        return _folder(wanted, install)
    except (pytest.skip.Exception, AssertionError) as problem:
        return problem


def _made(wanted: Path, install) -> Path:
    found = _attempt(wanted, install)
    if isinstance(found, BaseException):
        raise found
    return found


def _folder(wanted: Path, install) -> Path:
    """Made under another name until it is whole."""
    stamp = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{wanted.stem}-{stamp}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as begun:
            install(Path(begun) / "new", wanted)
            if not folder.exists():
                os.rename(Path(begun) / "new", folder)
    return folder


def _python_packages(folder: Path, wanted: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")  # where dev/setup.sh puts it
    if not Path(uv).exists():
        pytest.skip("uv is not installed")
    _run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--no-deps", "--python", str(folder / "bin" / "python"), "-r", str(wanted)])


def _node_packages(folder: Path, wanted: Path) -> None:
    folder.mkdir()
    shutil.copy(wanted, folder)
    _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)])


def _run(command: list[str]) -> None:
    """Skips where there is no network; other failures are the tests'."""
    elsewhere = tempfile.gettempdir()  # in the project's folder uv would apply the project's pins
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, encoding="utf-8")
    if done.returncode and any(sign in done.stderr for sign in NO_NETWORK):
        pytest.skip(f"the client libraries cannot be fetched here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
