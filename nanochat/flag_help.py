"""What a dataclass says about a script's flags, and the page that --help makes of it.

A flag is a field: its help is the docstring below it, and a comment such as `# --- optimization` begins a group of
flags. Groups stand in the order of GROUPS, whatever classes they come from; flags without a group come first. An
example may stand in the class, as in `EXAMPLE: ClassVar = "--depth 4"`: what follows the command.
"""

import ast
import dataclasses
import functools
import inspect
import re
import shlex
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from nanochat.terminal import BOLD, styled

GROUPS = (
    "", "server", "model", "data", "batch and length", "optimization", "adapters (LoRA)", "teacher (distillation)",
    "generation", "evaluation", "output", "dashboard", "recipe", "agent", "machine",
)  # fmt: skip
HEADING = re.compile(r" *# --- (.+)")
PLAIN = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
WIDEST, LEFT = 110, 30  # columns of the page, and of its left side


@dataclass(frozen=True)
class Flag:
    """A flag as people see it."""

    field: str
    names: tuple[str, ...]
    """short names, other names, then its own; a positional argument has one, in capitals"""
    takes: str
    """the value in plain words, such as N or auto|never; "" for a switch, in brackets if it may be left out"""
    default: str
    help: str
    group: str

    @property
    def is_positional(self) -> bool:
        return not self.names[-1].startswith("-")


def described(flags: type) -> list[Flag]:
    """The flags of a dataclass, in the order of their groups."""
    hints, texts, headings = typing.get_type_hints(flags, include_extras=True), helps(flags), groups(flags)
    found = []
    for entry in dataclasses.fields(flags):
        marks = getattr(hints[entry.name], "__metadata__", ())
        others = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        spelled = next((name for mark in marks if (name := getattr(mark, "name", None))), entry.name)
        names = (*others, f"--{spelled}")
        if tyro.conf.Positional in marks:
            names = (entry.name.upper(),)
        help_text = " ".join(texts.get(entry.name, "").split())
        found.append(
            Flag(entry.name, names, _takes(hints[entry.name]), _spelled(entry), help_text, headings[entry.name])
        )
    return sorted(found, key=lambda flag: GROUPS.index(flag.group))


def default(field: dataclasses.Field) -> object:
    """The default of a dataclass field; None if the field has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


@functools.cache
def _source(kind: type) -> str:
    return textwrap.dedent(inspect.getsource(kind))


def helps(flags: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, those of its parents included, as {field: text}."""
    found = {}
    for each in reversed(flags.__mro__[:-1]):
        body = ast.parse(_source(each)).body[0]
        assert isinstance(body, ast.ClassDef)
        for entry, below in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[entry.target.id] = str(below.value.value)
    return found


def groups(flags: type) -> dict[str, str]:
    """The group of each field: of the first class that puts it into one, else ""."""
    found: dict[str, str] = {}
    for each in reversed(flags.__mro__[:-1]):
        heading = ""
        for line in _source(each).splitlines():
            if title := HEADING.fullmatch(line):
                heading = title[1]
                assert heading in GROUPS, f"{each.__qualname__}: {heading} is not in GROUPS"
            elif heading and (name := re.match(r" +(\w+): ", line)):
                found.setdefault(name[1], heading)
    return {entry.name: found.get(entry.name, "") for entry in dataclasses.fields(flags)}


def page(flags: type, command: str) -> str:
    """The text of --help. command: what was typed, without its flags."""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns)
    listed = described(flags)
    usage = " ".join([command, *(_argument(flag) for flag in listed if flag.is_positional), "[flags]"])
    parts = [f"usage: {usage}", textwrap.fill(" ".join((flags.__doc__ or "").split()), width)]
    if example := getattr(flags, "EXAMPLE", None):
        parts.append(f"example: {command} {example}")
    for group in dict.fromkeys(flag.group for flag in listed):
        rows = "\n".join(_row(flag, width) for flag in listed if flag.group == group)
        parts.append(f"{styled(group or 'flags', BOLD)}\n{rows}")
    return "\n\n".join(parts)


def _row(flag: Flag, width: int) -> str:
    """A flag's lines: its names and value on the left, what it does on the right, with its default."""
    left = f"  {_invocation(flag)}"
    about = flag.help
    longer = [name for name in flag.names[:-1] if name.startswith("--")]
    if flag.default not in ("", "no", "required"):
        about += f" (default: {flag.default})"
    if longer:
        about += f"; also {', '.join(longer)}"
    lines = textwrap.wrap(about, width - LEFT, break_long_words=False, break_on_hyphens=False) or [""]
    if len(left) > LEFT - 2:
        return "\n".join([styled(left, BOLD), *(" " * LEFT + line for line in lines)])
    head = styled(left, BOLD) + " " * (LEFT - len(left)) + lines[0]
    return "\n".join([head.rstrip(), *(" " * LEFT + line for line in lines[1:])])


def _argument(flag: Flag) -> str:
    """A positional argument in the line of the usage."""
    name = flag.names[0] + " ..." * flag.takes.endswith("...")
    return name if flag.default == "required" else f"[{name}]"


def _invocation(flag: Flag) -> str:
    """How a flag is typed: -t, --temperature X."""
    shown = [name for name in flag.names[:-1] if not name.startswith("--")] + [flag.names[-1]]
    if not flag.is_positional:
        shown[-1] = f"{shown[-1]} {flag.takes}".rstrip()
    if flag.default == "yes":
        shown.append(f"--no-{flag.field}")
    return ", ".join(shown)


def _takes(hint: object) -> str:
    """What a flag takes, in plain words; "" for a switch."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    kinds = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            words = "|".join(_unique(_takes(kind) for kind in kinds if kind is not types.NoneType))
            return f"[{words}]" if bool in kinds and words else words
        case typing.Literal:
            return "|".join(map(str, kinds))
        case origin if origin in (list, tuple):
            return f"{_takes(kinds[0])} ..."
    return PLAIN.get(typing.cast(type, hint), "")


def _unique(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]


def _spelled(field: dataclasses.Field) -> str:
    """A default in words."""
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    value = default(field)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return shlex.join(map(str, value))
    return "" if value in (None, "") else str(value).replace("\n", "\\n")
