"""A script's flags are a dataclass; this file turns it into a command line.

A field's docstring is its help text, so a flag is described once, beside its default.
`--model_tag` and `--model-tag` are the same flag; a boolean takes `--x`, `--no-x` and `--x=False`; a list takes
`--x a b` and `--x a --x b`.

Values may also stand in files, named anywhere among the arguments, with or without `--config`: `config/x.py` as nanoGPT
has it (assignments, which are read and never run), YAML or JSON, whose keys may stand in sections. Of several files the
later ones win, and flags win over files.
"""

import contextlib
import dataclasses
import difflib
import io
import math
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from nanochat.config_files import CONFIG_FILES, LONGEST_SHOWN, fitted, read, shown, spelled, unfolded
from nanochat.errors import UserError

Flags = TypeVar("Flags")

positional = tyro.conf.Positional  # Annotated[list[Path], positional]: an argument without a flag's name


def alias(*names: str) -> object:
    """Other names for a flag, as in `Annotated[int | None, alias("-s")]`; in config files the long ones do as well."""
    return tyro.conf.arg(aliases=names)


def named(name: str) -> object:
    """A flag's name where the field cannot have it, as in `Annotated[str, named("as")]`."""
    return tyro.conf.arg(name=name)


def parse(flags: type[Flags], argv: Sequence[str] | None = None) -> Flags:
    """Build the dataclass `flags` from command-line arguments (`sys.argv[1:]` when `argv` is None).

    Raises UserError for an unknown flag, a value of the wrong type, or one outside the choices, and naming the file
    for one that stands in a config file.
    """
    files, rest = _files_among(flags, list(sys.argv[1:] if argv is None else argv))
    _check_aliases(flags, rest)
    args = _gathered(flags, _boolean_values(flags, rest))
    defaults = _filled(flags, files)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(flags, args=args, default=defaults, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            raise
        raise UserError(_one_sentence(complaint.getvalue())) from None
    if unknown:
        raise UserError(_unknown(flags, unknown[0]))
    vars(parsed)[_GIVEN] = _names_given(flags, args) | vars(defaults)[_GIVEN]
    return parsed


def given(flags: object) -> frozenset[str]:
    """The fields that were given, on the command line or in a config file, also where that is their default."""
    return frozenset(vars(flags).get(_GIVEN, changes(flags)))


def as_field(flags: type, name: str, value: Any) -> Any:
    """A value of JSON as the type of a field. Raises TypeError where it is of another."""
    return fitted(value, typing.get_type_hints(flags)[name])


def changes(flags: object) -> dict:
    """The fields of a dataclass instance that differ from their defaults, as {name: value}."""
    return {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(flags)  # type: ignore[arg-type]
        if getattr(flags, field.name) != default(field)
    }


def default(field: dataclasses.Field) -> object:
    """The default of a dataclass field; None where the field has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _check_aliases(flags: type, args: Sequence[str]) -> None:
    """Raise UserError where a flag is given under two of its names, which may say different things."""
    fields = _names(flags)
    given: dict[str, str] = {}
    for name in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
        field = fields.get(name[2:].replace("-", "_"))
        other = given.setdefault(field, name) if field else name
        if other.replace("-", "_") != name.replace("-", "_"):
            raise UserError(f"{other} and {name} are the same flag; pass only one")


# ---------------------------------------------------------------- config files


_NEGATIVE = re.compile(r"-\.?\d")  # a number, which belongs to the flag before it


def _files_among(flags: type, args: list[str]) -> tuple[list[Path], list[str]]:
    """The config files among the arguments, and the other arguments. A script that takes words by place has none."""
    if any(positional in typing.get_args(hint) for hint in typing.get_type_hints(flags, include_extras=True).values()):
        return [], args
    hints = typing.get_type_hints(flags)
    files: list[Path] = []
    rest: list[str] = []
    values = 0.0  # how many of the next words belong to a flag
    words = iter(args)
    for arg in words:
        name, equals, file = arg.partition("=")
        if name == "--config" and "config" not in hints:
            file = file if equals else next(words, "")
            if not file:
                raise UserError(f"--config names no file; expected one that ends in {', '.join(CONFIG_FILES)}")
            files.append(Path(file))
            values = 0
            continue
        if arg.startswith("-") and not _NEGATIVE.match(arg):
            name = arg.lstrip("-").replace("-", "_")
            is_switch = hints.get(name) is bool or hints.get(name.removeprefix("no_")) is bool
            is_list = typing.get_origin(hints.get(name)) is list
            values = 0 if is_switch or "=" in arg else math.inf if is_list else 1
        elif values == 0 and arg.endswith(CONFIG_FILES):
            files.append(Path(arg))
            continue
        else:
            values = max(0, values - 1)
        rest.append(arg)
    return files, rest


def _filled(flags: type[Flags], files: Sequence[Path]) -> Flags:
    """The flags with what stands in config files as their defaults."""
    hints = typing.get_type_hints(flags)
    fields = _names(flags)
    named: set[str] = set()
    values: dict[str, Any] = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(flags)  # type: ignore[arg-type]
        if field.default is field.default_factory is dataclasses.MISSING
    }
    for path in files:
        found = unfolded(read(path), fields)
        unknown = [name for name in found if name.rpartition(".")[2] not in fields]
        if unknown:
            near = difflib.get_close_matches(unknown[0].rpartition(".")[2][:100], fields, 1)
            hint = f"did you mean {near[0]}?" if near else "--help lists them"
            keys = f"key{'s' * (len(unknown) > 1)} {', '.join(unknown)[:LONGEST_SHOWN]}"
            raise UserError(f"{found[unknown[0]][1]}: unknown {keys}; {hint}")
        given: dict[str, str] = {}
        for name, (value, place) in found.items():
            field = fields[key := name.rpartition(".")[2]]
            if value is None and key != field:  # another program's name, for something that is not there
                continue
            if field in given:
                raise UserError(f"{place}: {given[field]} and {name} say the same; give one of them")
            given[field] = name
            named.add(field)
            try:
                values[field] = fitted(value, hints[field])
            except TypeError:
                raise UserError(f"{place}: {name} is {shown(value)}; expected {spelled(hints[field])}") from None
    filled = flags(**values)
    vars(filled)[_GIVEN] = named
    return filled


def _names(flags: type) -> dict[str, str]:
    """The names that a config file may use, each with its field: the fields' own and their long aliases."""
    names = {name: name for name in typing.get_type_hints(flags)}
    for name, hint in typing.get_type_hints(flags, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            aliases = getattr(extra, "aliases", None) or ()
            names |= {other[2:].replace("-", "_"): name for other in aliases if other.startswith("--")}
    return names


# ---------------------------------------------------------------- the command line

_GIVEN = "fields that were given"  # an attribute that no field can be named like


def _names_given(flags: type, args: list[str]) -> set[str]:
    """The fields that command-line arguments set."""
    names = {f"--{name}": field for name, field in _names(flags).items()}
    for name, hint in typing.get_type_hints(flags, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            names |= {short: name for short in getattr(extra, "aliases", None) or () if not short.startswith("--")}
    words = ("--" + arg[2:].replace("-", "_") if arg.startswith("--") else arg for arg in args)
    words = (word.partition("=")[0] for word in words)
    return {names[word] for arg in words if (word := arg if arg in names else arg.replace("--no_", "--", 1)) in names}


def _boolean_values(flags: type, args: list[str]) -> list[str]:
    """Rewrite `--compile=False` (as nanoGPT's users type it) to the `--no-compile` that tyro reads."""
    booleans = {field.name for field in dataclasses.fields(flags) if field.type in (bool, "bool")}
    rewritten = []
    for arg in args:
        name, _, value = arg.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if arg.startswith("--") and name in booleans and value.lower() in ("true", "false"):
            arg = f"--{name}" if value.lower() == "true" else f"--no-{name}"
        rewritten.append(arg)
    return rewritten


def _gathered(flags: type, args: list[str]) -> list[str]:
    """Rewrite `--model a --model b` to the `--model a b` that tyro reads into a list."""
    hints = typing.get_type_hints(flags, include_extras=True)
    lists = {name for name, hint in hints.items() if typing.get_origin(hint) is list}
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    current = None
    for arg in args:
        name, equals, value = arg.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if arg.startswith("--") and name in lists:
            values.setdefault(name, []).extend([value] * bool(equals))
            current = None if equals else name
        elif current and not arg.startswith("-"):
            values[current].append(arg)
        else:
            current = None
            rest.append(arg)
    return rest + [word for name, given in values.items() for word in (f"--{name}", *given)]


def _unknown(flags: type, arg: str) -> str:
    if not arg.startswith("-"):
        return f"unexpected argument {arg!r}; every option starts with --, see --help"
    known = [f"--{name}" for name in _names(flags)]
    near = difflib.get_close_matches(arg.split("=")[0].replace("-", "_").replace("__", "--", 1), known, 1)
    return f"unknown flag {arg.split('=')[0]}; " + (f"did you mean {near[0]}?" if near else "--help lists the flags")


def _one_sentence(box: str) -> str:
    """tyro frames its complaints; keep what stands before the first rule inside the frame."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()[1:]]
    named = []
    for line in lines:
        if set(line) <= {"─"}:
            break
        named.append(line)
    return re.sub(r"\s+", " ", " ".join(named)).rstrip(".") + "; --help lists the flags"
