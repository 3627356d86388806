"""What a GPU would do, without one: tests/fakes, in processes of their own.

Torch finds out once in a process whether there is a GPU, and a Triton for it; the fakes have to be there before. Only
the kernels need that Triton.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("parts", [("steps", "ranks"), ("kernels",)], ids=" ".join)
def test_on_fake_gpus(parts: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    files = [f"tests/fakes/{part}.py" for part in parts]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
