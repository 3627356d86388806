"""What the documents say about the code, taken from the code: `uv run python dev/flags.py --write`.

That is every flag, in docs/flags.md, from the scripts' own dataclasses, and the line counts in the README's reading
list. Without `--write` the flags are printed. Tests compare both with the documents.
"""

import importlib
import re
import sys
from pathlib import Path

from nanochat import flag_help
from scripts.__main__ import COMMANDS, script_of

ROOT = Path(__file__).resolve().parent.parent
README, PAGE = ROOT / "README.md", ROOT / "docs" / "flags.md"
BEGIN, END = "<!-- flags: written by dev/flags.py -->", "<!-- end of flags -->"
COUNTED = re.compile(r"(?<=\| )\[`([\w/.]+)`\]\(\1\) \| *(\d+)")  # a row of the reading list: file and lines


def tables() -> str:
    """One section a script, in markdown: what it does, then a row a flag."""
    return "\n".join(section(script_of(name)) for group in COMMANDS.values() for name in group)


def section(script: str) -> str:
    """The section of scripts/<script>.py."""
    flags = importlib.import_module(f"scripts.{script}").Flags
    lines = [f"## {script}", "", " ".join((flags.__doc__ or "").split()), ""]
    if example := getattr(flags, "EXAMPLE", None):
        lines += [f"Example: `python -m scripts.{script} {example}`", ""]
    listed = flag_help.described(flags)
    if listed:
        lines += ["| flag | default | |", "|---|---|---|"]
    group = ""
    for flag in listed:
        if flag.group != group:
            group = flag.group
            lines.append(f"| **{group}** | | |")
        default = flag.default if flag.default in ("yes", "no", "required", "") else f"`{flag.default}`"
        cells = [f"`{', '.join(flag.names)}`", default, flag.help]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def replace(page: str, new: str) -> str:
    """The page's text with the part between the two markers replaced."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{new}\n{END}{rest.split(END)[1]}"


def lines_of(file: str) -> int:
    """The lines of a file, rounded to tens."""
    return round(len((ROOT / file).read_text(encoding="utf-8").splitlines()), -1)


def recount(readme: str) -> str:
    """The README's text with the line counts of the reading list renewed."""
    return COUNTED.sub(lambda row: f"[`{row[1]}`]({row[1]}) | {lines_of(row[1])}", readme)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replace(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
        README.write_text(recount(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tables())
