"""A script's flags are a dataclass; this file turns it into a command line.

A field's docstring is its help text, so a flag is described once, beside its default.
`--model_tag` and `--model-tag` are the same flag; a boolean takes `--x`, `--no-x` and `--x=False`, and where it may
also be a word (`bool | Literal["word"]`), `--x=word` and `--x word`; a list takes `--x a b` and `--x a --x b`.

Values may also come from files, named anywhere among the arguments, with or without `--config`: `config/x.py` as in
nanoGPT (assignments, which are read and never run), YAML or JSON, whose keys may be grouped in sections. Later files
override earlier ones, and flags override files.

Keys and flags of another program that mean nothing here may be listed in the class, as in
`NO_EFFECT: ClassVar = {"debug": "what to do instead"}`: they are read, and a line on stderr names each.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from nanochat.config_files import CONFIG_FILES as CONFIG_FILES
from nanochat.config_files import fitted, read, spelled, unfolded
from nanochat.errors import LONGEST_SHOWN, UserError, shown
from nanochat.flag_help import default as default
from nanochat.flag_help import groups as groups
from nanochat.flag_help import helps as helps
from nanochat.flag_help import page

Flags = TypeVar("Flags")

positional = tyro.conf.Positional  # Annotated[list[Path], positional]: an argument without a flag's name
_GIVEN = "fields that were given"  # an attribute of parsed flags; no field can have this name
_NEGATIVE = re.compile(r"-\.?\d")  # a number, which is the value of the flag before it


def alias(*names: str) -> object:
    """More names for a flag, as in `Annotated[int | None, alias("-s")]`; config files may use the long ones, too."""
    return tyro.conf.arg(aliases=names)


def named(name: str) -> object:
    """A flag's name where the field cannot have it, as in `Annotated[str, named("as")]`."""
    return tyro.conf.arg(name=name)


def parse(flags: type[Flags], argv: Sequence[str] | None = None) -> Flags:
    """Build the dataclass `flags` from command-line arguments (`sys.argv[1:]` when `argv` is None).

    Raises UserError for an unknown flag, a value of the wrong type or outside the choices, and for the same mistakes in
    a config file, naming the file. Prints a page of help and exits for --help.
    """
    words = _with_effect(flags, sys.argv[1:] if argv is None else argv)
    if not {"-h", "--help"}.isdisjoint(words):
        print(page(flags, command()))
        sys.exit(0)
    args, files, given = _sorted(flags, words)
    defaults, in_files = _from_files(flags, files)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(flags, prog=command(), args=args, default=defaults, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):  # tyro has written a shell's completion
            raise
        raise UserError(_one_sentence(complaint.getvalue())) from None
    if unknown:
        raise UserError(_unknown(flags, unknown[0]))
    vars(parsed)[_GIVEN] = given | in_files
    return parsed


def command() -> str:
    """What was typed to start this program, without its arguments: `python -m scripts.chat_cli`, `nanochat chat`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and os.path.isabs(sys.argv[0]):
        return f"python -m {spec.name.removesuffix('.__main__')}"
    name = os.path.basename(sys.argv[0])
    return f"python {name}" if name.endswith(".py") else name


def write_completion(commands: Mapping[str, type], program: str, words: Sequence[str]) -> None:
    """Write what a shell needs to complete commands, each with its flags; words are tyro's: its flag and the shell."""
    tyro.extras.subcommand_cli_from_dict({**commands}, prog=program, args=words, use_underscores=True)


def given(flags: object) -> frozenset[str]:
    """The fields that were set on the command line or in a config file, even to their default."""
    return frozenset(vars(flags).get(_GIVEN, changes(flags)))


def as_field(flags: type, name: str, value: Any) -> Any:
    """A JSON value as the type of a field. Raises TypeError if it does not fit."""
    return fitted(value, typing.get_type_hints(flags)[name])


def changes(flags: object) -> dict:
    """The fields of a dataclass instance that differ from their defaults, as {name: value}."""
    return {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(flags)  # type: ignore[arg-type]
        if getattr(flags, field.name) != default(field)
    }


def _spellings(flags: type) -> dict[str, str]:
    """Every name of a flag, such as --model_tag, --tag and -g, with its field."""
    spellings = {}
    for field, hint in typing.get_type_hints(flags, include_extras=True).items():
        spellings[f"--{field}"] = field
        for extra in getattr(hint, "__metadata__", ()):
            spellings |= {_underscored(name): field for name in getattr(extra, "aliases", None) or ()}
    return spellings


def _underscored(flag: str) -> str:
    return "--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag


def _with_effect(flags: type, argv: Sequence[str]) -> list[str]:
    """The arguments without the flags that have no effect here, and without their values."""
    kept: list[str] = []
    words = [*argv]
    while words:
        name, equals, _ = (word := words.pop(0)).partition("=")
        key = _underscored(name)[2:] if name.startswith("--") else ""
        instead = getattr(flags, "NO_EFFECT", {}).get(key)
        if instead is None:
            kept.append(word)
            continue
        _note(name, instead)
        if words and not equals and not words[0].startswith("-"):
            words.pop(0)
    return kept


def _note(name: str, instead: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one of several ranks is enough
        print(f"{name} has no effect here; {instead}", file=sys.stderr)


def _sorted(flags: type, argv: list[str]) -> tuple[list[str], list[Path], set[str]]:
    """The arguments as tyro reads them, the config files among them, and the fields that they set.

    A script with positional arguments takes config files by --config only.
    """
    hints = typing.get_type_hints(flags)
    spellings = _spellings(flags)
    extras = typing.get_type_hints(flags, include_extras=True).values()
    has_positional = any(positional in typing.get_args(hint) for hint in extras)
    args: list[str] = []
    files: list[Path] = []
    lists: dict[str, list[str]] = {}  # the values of list flags, which may be given several times
    used: dict[str, str] = {}  # the long name that each field was given by
    given: set[str] = set()
    current: list[str] | None = None  # the list that the next words belong to
    takes_value = False  # whether the next word is the value of the flag before it
    choices: dict[str, str] = {}  # what the next word may be, as an argument, if the flag before it also stands alone
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or _NEGATIVE.match(word):
            if current is not None:
                current.append(word)
            elif word in choices:
                args[-1] = choices[word]
            elif word.endswith(CONFIG_FILES) and not takes_value and not has_positional:
                files.append(Path(word))
            else:
                args.append(word)
            takes_value, choices = False, {}
            continue
        name, equals, value = word.partition("=")
        flag = _underscored(name)
        field = spellings.get(flag, spellings.get(flag.replace("--no_", "--", 1)))
        current, takes_value, choices = None, False, {}
        if flag == "--config" and field is None:
            file = value or next(words, "")
            if not file:
                raise UserError(f"--config names no file; expected one that ends in {', '.join(CONFIG_FILES)}")
            files.append(Path(file))
            continue
        if field is not None:
            given.add(field)
            if flag in spellings and flag.startswith("--") and used.setdefault(field, flag) != flag:
                raise UserError(f"{used[field]} and {name} are the same flag; pass only one")
        hint = hints.get(field or "")
        if hint is bool or bool in typing.get_args(hint):
            args.append(_switched(word, str(field), hint, is_on := flag in spellings))
            if is_on and not equals:
                choices = {each: f"--{field}={each}" for each in _words_of(hint)}
        elif field is not None and typing.get_origin(hint) is list:
            current = lists.setdefault(field, [])
            if equals:
                current.append(value)
                current = None
        else:
            args.append(word)
            takes_value = not equals
    return args + [word for field, values in lists.items() for word in (f"--{field}", *values)], files, given


def _switched(word: str, field: str, hint: Any, is_on: bool) -> str:
    """A switch (is_on for --x, not for --no-x) as tyro reads it; nanoGPT's users type --compile=False."""
    value = word.partition("=")[2]
    if hint is bool:
        is_value = value.lower() in ("true", "false")
        return f"--{'no-' * (value.lower() == 'false')}{field}" if is_value else word
    spelled_out = {"": str(is_on), "true": str(is_on), "false": str(not is_on)}
    return f"--{field}={spelled_out.get(value.lower(), value)}"


def _words_of(hint: Any) -> list[str]:
    """The words that a flag of this type takes."""
    return [word for kind in typing.get_args(hint) if typing.get_origin(kind) is typing.Literal
            for word in typing.get_args(kind)]  # fmt: skip


def _from_files(flags: type[Flags], files: Sequence[Path]) -> tuple[Flags, set[str]]:
    """The flags with the values of config files as their defaults, and the fields that these set."""
    hints = typing.get_type_hints(flags)
    fields = {name[2:]: field for name, field in _spellings(flags).items() if name.startswith("--")}
    without_effect = getattr(flags, "NO_EFFECT", {})
    in_files: set[str] = set()
    values: dict[str, Any] = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(flags)  # type: ignore[arg-type]
        if field.default is field.default_factory is dataclasses.MISSING
    }
    for path in files:
        found = unfolded(read(path), fields)
        for name in [name for name in found if name.rpartition(".")[2] in without_effect]:
            _note(f"{found.pop(name)[1]}: {name}", without_effect[name.rpartition(".")[2]])
        if unknown := [name for name in found if name.rpartition(".")[2] not in fields]:
            near = difflib.get_close_matches(unknown[0].rpartition(".")[2][:100], fields, 1)
            hint = f"did you mean {near[0]}?" if near else "--help lists them"
            keys = f"key{'s' * (len(unknown) > 1)} {', '.join(unknown)[:LONGEST_SHOWN]}"
            raise UserError(f"{found[unknown[0]][1]}: unknown {keys}; {hint}")
        used: dict[str, str] = {}
        for name, (value, place) in found.items():
            field = fields[key := name.rpartition(".")[2]]
            if value is None and key != field:  # another program's name, for something that is not set
                continue
            if field in used:
                raise UserError(f"{place}: {used[field]} and {name} are the same flag; give only one")
            used[field] = name
            try:
                values[field] = fitted(value, hints[field])
            except TypeError:
                raise UserError(f"{place}: {name} is {shown(value)}; expected {spelled(hints[field])}") from None
        in_files |= used.keys()
    return flags(**values), in_files


def _unknown(flags: type, arg: str) -> str:
    if not arg.startswith("-"):
        return f"unexpected argument {arg!r}; every option starts with --, see --help"
    flag = arg.split("=")[0]
    near = difflib.get_close_matches(_underscored(flag), list(_spellings(flags)), 1)
    return f"unknown flag {flag}; " + (f"did you mean {near[0]}?" if near else "--help lists the flags")


def _one_sentence(box: str) -> str:
    """tyro's complaint without its frame, up to the first rule in it."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()[1:]]
    end = next((number for number, line in enumerate(lines) if set(line) <= {"─"}), len(lines))
    return re.sub(r"\s+", " ", " ".join(lines[:end])).rstrip(".") + "; --help lists the flags"
