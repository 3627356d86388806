"""Commands as they can be typed in the terminal that a script was started from."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from nanochat.paths import base_dir


def typed(module: str, *words: str) -> str:
    """The command that runs a module on the present base folder, as typed in this folder."""
    where = ""
    if base_dir() != Path.home() / ".cache" / "nanochat":
        where = f"NANOCHAT_BASE_DIR={shlex.quote(str(base_dir()))} "
    return where + shlex.join([*_python(), "-m", module, *words])


def _python() -> list[str]:
    """The words that start Python with the packages of this one."""
    if own := os.environ.get("NANOCHAT_PYTHON"):
        return [own]
    if uv := os.environ.get("UV"):  # set by speedrun.sh, and by uv itself
        return [".uv/bin/uv" if Path(uv) == Path.cwd() / ".uv" / "bin" / "uv" else "uv", "run", "python"]
    return ["python" if shutil.which("python") == sys.executable else sys.executable]
