"""What a GPU would do, without one: tests/fakes, each file in a process of its own.

Torch finds out once in a process whether there is a GPU, and a Triton for it; the fakes have to be there before.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("part", ["steps", "ranks", "kernels"])
def test_on_fake_gpus(part: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/fakes/{part}.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
