"""What the documents say about the code, taken from the code: `uv run python dev/flags.py --write`.

That is every flag, in docs/flags.md, from the scripts' own dataclasses, and the line counts in the README's reading
list. Without `--write` the flags are printed. Tests compare both with the documents.
"""

import dataclasses
import importlib
import re
import sys
import typing
from pathlib import Path

from nanochat import config

ROOT = Path(__file__).resolve().parent.parent
README, PAGE = ROOT / "README.md", ROOT / "docs" / "flags.md"
BEGIN, END = "<!-- flags: written by dev/flags.py -->", "<!-- end of flags -->"
COUNTED = re.compile(r"(?<=\| )\[`([\w/.]+)`\]\(\1\) \| *(\d+)")  # a row of the reading list: file and lines
ORDER = [
    "speedrun", "plan", "tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft", "chat_dpo",
    "chat_rl", "chat_eval", "report", "chat_cli", "chat_web", "dashboard", "infer_bench", "measure", "look", "add_data",
    "download_data", "clean_data", "show_data", "make_identity", "make_pairs", "pull", "push", "export", "merge",
    "prepare", "train", "sample", "inference_server", "download_weights", "verify_weights",
]  # the stages in turn, then the others


def tables() -> str:
    """One section a script, in markdown: what it does, then a row a flag."""
    names = [path.stem for path in (ROOT / "scripts").glob("*.py") if not path.stem.startswith("_")]
    return "\n".join(section(name) for name in sorted(names, key=_place))


def section(script: str) -> str:
    """The section of scripts/<script>.py."""
    flags = importlib.import_module(f"scripts.{script}").Flags
    hints, helps = typing.get_type_hints(flags, include_extras=True), config.helps(flags)
    lines = [f"## {script}", "", " ".join((flags.__doc__ or "").split()), ""]
    fields = dataclasses.fields(flags)
    if fields:
        lines += ["| flag | default | |", "|---|---|---|"]
    for field in fields:
        marks = getattr(hints[field.name], "__metadata__", ())
        short = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        spelled = next((given for mark in marks if (given := getattr(mark, "name", None))), field.name)
        name = field.name.upper() if config.positional in marks else ", ".join([*short, f"--{spelled}"])
        cells = [f"`{name}`", _default(field), " ".join(helps.get(field.name, "").split())]
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


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    value = config.default(field)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(f"`{item}`" for item in value)
    return "" if value in (None, "") else f"`{value}`".replace("\n", "\\n")


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replace(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
        README.write_text(recount(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tables())
