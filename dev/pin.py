"""Refresh the exact versions in pyproject.toml: `uv run python dev/pin.py`.

Only the version ranges in pyproject.toml are written by hand. This resolves them for every Python and platform at
once and writes what came out into `[tool.uv]`, where uv holds every later resolution to it. A lock file would do the
same, but it carries the address of the registry it was made with.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
HELD = ["python-dateutil<3"]  # with a newer one, lm-eval's tables would stand on a typepy of 2019


def write_block(text: str, name: str, lines: list[str]) -> str:
    """Replace the items of the array `name` in the text of pyproject.toml."""
    items = "".join(f'    "{line}",\n' for line in lines)
    text, found = re.subn(rf"^{name} = \[\n.*?^\]\n", lambda _: f"{name} = [\n{items}]\n", text, flags=re.M | re.S)
    assert found == 1, f"pyproject.toml has {found} arrays {name}"
    return text


def resolve(text: str) -> str:
    """The text of pyproject.toml with the newest versions that its ranges allow, runtime, dev and build."""
    free = write_block(write_block(text, "constraint-dependencies", HELD), "build-constraint-dependencies", [])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(free, encoding="utf-8")
        plain = ["--quiet", "--no-header", "--no-annotate"]
        everything = ["--no-hashes", "--no-emit-project", "--all-groups", "--all-extras"]
        tree = _uv(["export", *plain, *everything], folder)
        requires = re.findall(r'"(.+?)"', re.findall(r"^requires = (\[.*?\])", text, flags=re.M)[0])
        (Path(folder) / "build.in").write_text("\n".join(requires), encoding="utf-8")
        build = _uv(["pip", "compile", *plain, "--universal", "--python-version", "3.10", "build.in"], folder)
    return write_block(write_block(text, "constraint-dependencies", tree), "build-constraint-dependencies", build)


def _uv(args: list[str], folder: str) -> list[str]:
    uv = shutil.which("uv") or str(PYPROJECT.parent / ".uv" / "bin" / "uv")  # where dev/setup.sh puts it
    done = subprocess.run([uv, *args], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return [line for line in done.stdout.splitlines() if line]


if __name__ == "__main__":
    before = PYPROJECT.read_text(encoding="utf-8")
    after = resolve(before)
    PYPROJECT.write_text(after, encoding="utf-8")
    changed = sorted(set(after.splitlines()) - set(before.splitlines()))
    print("\n".join(line.strip() for line in changed) or "nothing newer")
