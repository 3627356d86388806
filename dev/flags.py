"""The README's tables of flags, from the scripts' own dataclasses: `uv run python dev/flags.py --write`.

Without `--write` the tables are printed. A test compares them with the README.
"""

import ast
import dataclasses
import importlib
import inspect
import sys
import textwrap
import typing
from pathlib import Path

from nanochat import config

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- flags: written by dev/flags.py -->", "<!-- end of flags -->"
ORDER = ["plan", "tok_train", "tok_eval", "base_train", "base_eval", "mid_train", "chat_sft", "chat_rl", "chat_eval",
         "report", "chat_cli", "chat_web", "infer_bench", "add_data", "clean_data", "show_data", "make_identity",
         "pull", "push", "export", "prepare", "train", "sample", "inference_server", "download_weights",
         "verify_weights"]  # the stages in turn, then the others


def tables() -> str:
    """One section a script, in markdown: what it does, then a row a flag."""
    names = [path.stem for path in (ROOT / "scripts").glob("*.py") if not path.stem.startswith("_")]
    return "\n".join(section(name) for name in sorted(names, key=_place))


def section(script: str) -> str:
    """The section of scripts/<script>.py."""
    flags = importlib.import_module(f"scripts.{script}").Flags
    hints, helps = typing.get_type_hints(flags, include_extras=True), descriptions(flags)
    lines = [f"#### {script}", "", " ".join((flags.__doc__ or "").split()), ""]
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


def descriptions(flags: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, those of its parents included, as {field: text}."""
    found = {}
    for cls in reversed(flags.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[field.target.id] = str(below.value.value)
    return found


def replace(readme: str, new: str) -> str:
    """The README's text with the part between the two markers replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{new}\n{END}{rest.split(END)[1]}"


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
    text = tables()
    if "--write" in sys.argv[1:]:
        path = ROOT / "README.md"
        path.write_text(replace(path.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)
