"""A script's flags are a dataclass; this file turns it into a command line.

A field's docstring is its help text, so a flag is described once, beside its default.
`--model_tag` and `--model-tag` are the same flag; a boolean takes `--x`, `--no-x` and `--x=False`; a list takes
`--x a b` and `--x a --x b`.
"""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import typing
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

Flags = TypeVar("Flags")

positional = tyro.conf.Positional  # Annotated[list[Path], positional]: an argument without a flag's name


def alias(short: str) -> object:
    """A short name for a flag, as in `Annotated[int | None, alias("-s")]`."""
    return tyro.conf.arg(aliases=[short])


class UserError(Exception):
    """Something the user can put right. Its one sentence is all that is printed; the exit code is 2."""


def parse(flags: type[Flags], argv: Sequence[str] | None = None) -> Flags:
    """Build the dataclass `flags` from command-line arguments (`sys.argv[1:]` when `argv` is None).

    Raises UserError for an unknown flag, a value of the wrong type, or one outside the choices.
    """
    args = _gathered(flags, _boolean_values(flags, list(sys.argv[1:] if argv is None else argv)))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(flags, args=args, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            raise
        raise UserError(_one_sentence(complaint.getvalue())) from None
    if unknown:
        raise UserError(_unknown(flags, unknown[0]))
    return parsed


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


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` as a program: a UserError becomes one line on stderr and exit code 2."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


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
    known = [f"--{field.name}" for field in dataclasses.fields(flags)]
    near = difflib.get_close_matches(arg.split("=")[0].replace("-", "_").replace("__", "--", 1), known, 1)
    return f"unknown flag {arg.split('=')[0]}; " + (f"did you mean {near[0]}?" if near else "--help lists the flags")


def _one_sentence(box: str) -> str:
    """tyro frames its complaints; keep what stands before the first rule inside the frame."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()[1:]]
    said = []
    for line in lines:
        if set(line) <= {"─"}:
            break
        said.append(line)
    return re.sub(r"\s+", " ", " ".join(said)).rstrip(".") + "; --help lists the flags"
