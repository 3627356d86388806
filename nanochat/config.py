"""A script's flags are a dataclass; this file turns it into a command line.

A field's docstring is its help text, so a flag is described once, beside its default.
`--model_tag` and `--model-tag` are the same flag; a boolean takes `--x`, `--no-x` and `--x=False`; a list takes
`--x a b` and `--x a --x b`.

Values may also stand in files, named anywhere among the arguments, with or without `--config`: `config/x.py` as nanoGPT
has it (assignments, which are read and never run), YAML or JSON, whose keys may stand in sections. Of several files the
later ones win, and flags win over files.
"""

import ast
import contextlib
import dataclasses
import difflib
import errno
import io
import json
import math
import operator
import os
import re
import reprlib
import sys
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

Flags = TypeVar("Flags")

CONFIG_FILES = (".py", ".yaml", ".yml", ".json")
LONGEST_SHOWN = 300  # characters of a value in a sentence
LONGEST = 1 << 16  # characters that texts of a config file may be put together to
ALIASED = 1 << 20  # characters that the aliases of a YAML file may stand for, all together
BITS = 63  # of a whole number; torch and numpy know no larger ones
REFUSALS = {  # why a file system does not take what is written
    errno.ENOSPC: "the disk is full; free some space and start again",
    errno.EDQUOT: "the quota on this disk is used up; free some space and start again",
    errno.EFBIG: "files may not be that large here; raise the limit (ulimit -f unlimited) and start again",
    errno.EROFS: "the file system is mounted read-only; write elsewhere, or mount it read-write",
}
EXIT_PIPE = 141  # 128 + SIGPIPE
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a process that ended on Ctrl-C

positional = tyro.conf.Positional  # Annotated[list[Path], positional]: an argument without a flag's name


def alias(*names: str) -> object:
    """Other names for a flag, as in `Annotated[int | None, alias("-s")]`; in config files the long ones do as well."""
    return tyro.conf.arg(aliases=names)


def named(name: str) -> object:
    """A flag's name where the field cannot have it, as in `Annotated[str, named("as")]`."""
    return tyro.conf.arg(name=name)


class UserError(Exception):
    """Something the user can put right. Its one sentence is all that is printed; the exit code is 2."""


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
    return _fitted(value, typing.get_type_hints(flags)[name])


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


def escape_unshowable() -> None:
    """From here on a character that the terminal's encoding does not have is printed as an escape, as in \\u4e2d."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` as a program: a UserError becomes one line on stderr and exit code 2.

    So does a write that the file system refuses. An error that all ranks share is printed once.
    """
    escape_unshowable()
    said = None
    try:
        code = main()
    except BrokenPipeError:  # whoever read the output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        code = EXIT_PIPE
    except (UserError, OSError) as error:
        if (sentence := sentence_of(error)) is None:
            raise
        said, code = f"error: {sentence}", 2
    except KeyboardInterrupt:
        said, code = "interrupted", EXIT_INTERRUPTED
    if said and os.environ.get("LOCAL_RANK", "0") == "0":
        print(said, file=sys.stderr)
    sys.exit(code)


def _check_aliases(flags: type, args: Sequence[str]) -> None:
    """Raise UserError where a flag is given under two of its names, which may say different things."""
    fields = _names(flags)
    given: dict[str, str] = {}
    for name in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
        field = fields.get(name[2:].replace("-", "_"))
        other = given.setdefault(field, name) if field else name
        if other.replace("-", "_") != name.replace("-", "_"):
            raise UserError(f"{other} and {name} are the same flag; pass only one")


def sentence_of(error: BaseException) -> str | None:
    """What to print of an error that the user can put right; None for a fault of the program, which has a traceback."""
    match error:
        case UserError():
            return str(error)
        case PermissionError(filename=str() | bytes() as name):
            return f"{os.fsdecode(name)}: permission denied"
        case OSError(errno=int() as number) if number in REFUSALS:
            return f"{os.fsdecode(error.filename or 'the output')}: {REFUSALS[number]}"
    return None


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
    said: set[str] = set()
    values: dict[str, Any] = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(flags)  # type: ignore[arg-type]
        if field.default is field.default_factory is dataclasses.MISSING
    }
    for path in files:
        read = _unfolded(_read(path), fields)
        unknown = [name for name in read if name.rpartition(".")[2] not in fields]
        if unknown:
            near = difflib.get_close_matches(unknown[0].rpartition(".")[2][:100], fields, 1)
            hint = f"did you mean {near[0]}?" if near else "--help lists them"
            keys = f"key{'s' * (len(unknown) > 1)} {', '.join(unknown)[:LONGEST_SHOWN]}"
            raise UserError(f"{read[unknown[0]][1]}: unknown {keys}; {hint}")
        given: dict[str, str] = {}
        for name, (value, place) in read.items():
            field = fields[key := name.rpartition(".")[2]]
            if value is None and key != field:  # another program's name, for something that is not there
                continue
            if field in given:
                raise UserError(f"{place}: {given[field]} and {name} say the same; give one of them")
            given[field] = name
            said.add(field)
            try:
                values[field] = _fitted(value, hints[field])
            except TypeError:
                raise UserError(f"{place}: {name} is {shown(value)}; expected {_spelled(hints[field])}") from None
    filled = flags(**values)
    vars(filled)[_GIVEN] = said
    return filled


def _names(flags: type) -> dict[str, str]:
    """The names that a config file may use, each with its field: the fields' own and their long aliases."""
    names = {name: name for name in typing.get_type_hints(flags)}
    for name, hint in typing.get_type_hints(flags, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            aliases = getattr(extra, "aliases", None) or ()
            names |= {other[2:].replace("-", "_"): name for other in aliases if other.startswith("--")}
    return names


def _unfolded(read: dict[str, tuple[Any, str]], fields: dict[str, str]) -> dict[str, tuple[Any, str]]:
    """Keys of a section, as in `model: {n_layer: 4}`, as if they stood outside; named section.key."""
    flat: dict[str, tuple[Any, str]] = {}
    for name, (value, place) in read.items():
        if isinstance(value, dict) and name not in fields:
            flat |= {f"{name}.{str(key).replace('-', '_')}": (inner, place) for key, inner in value.items()}
        else:
            flat[name] = value, place
    return flat


def _read(path: Path) -> dict[str, tuple[Any, str]]:
    """The keys of a config file, each with its value and its place (file and, where it is known, line)."""
    if path.suffix not in CONFIG_FILES:
        raise UserError(f"{path} is no config file; expected a name that ends in {', '.join(CONFIG_FILES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".py":
            return _assigned(text, path)
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, Yaml)
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from None
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else path
        raise UserError(f"{place} is not Python: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line} is not YAML: {error.problem}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno} is not JSON: {error.msg}") from None
    except (ValueError, LookupError, AttributeError, yaml.YAMLError, RecursionError, MemoryError) as error:
        # not UTF-8, a null byte, a tag that its text does not fit (!!int x), deep nesting
        raise UserError(f"the config file {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; expected keys with their values")
    return {str(name).replace("-", "_"): (value, str(path)) for name, value in content.items()}


class Yaml(yaml.SafeLoader):
    """YAML without what makes the plain loader a trap.

    YAML 1.1 takes 1e-3 for a string, for want of a dot; here it is the number that everybody means. An alias counts as
    all that it stands for, so that a few lines of aliases to aliases cannot mean billions of values.
    """

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.sizes: dict[int, int] = {}  # of nodes by their id, in characters
        self.aliased = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        node: Any = super().compose_node(parent, index)
        if alias is not None:
            self.aliased += self.sizes.get(id(node), ALIASED + 1)  # one that stands inside of itself has no size yet
            if self.aliased > ALIASED:
                problem = f"its aliases stand for more than {ALIASED} characters"
                raise yaml.MarkedYAMLError(None, None, problem, alias.start_mark)
            return node
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for each in parts for part in (each if isinstance(each, tuple) else (each,))]
        self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in flat) if flat else 1 + len(node.value)
        return node


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _assigned(text: str, path: Path) -> dict[str, tuple[Any, str]]:
    """The names that a file in nanoGPT's style assigns, but those that begin with an underscore."""
    names: dict[str, tuple[Any, str]] = {}
    for statement in ast.parse(text).body:
        place = f"{path}:{statement.lineno}"
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = _value(value, names, place), place
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names[name] = _value(value, names, place), place
            case ast.Expr(value=ast.Constant(value=str())) | ast.Import(names=[ast.alias(name="time", asname=None)]):
                pass  # nanoGPT's finetune_shakespeare.py imports time, for the name of its run
            case _:
                raise _not_plain(statement, place)
    return {name: found for name, found in names.items() if not name.startswith("_")}


def _value(node: ast.expr, names: dict[str, tuple[Any, str]], place: str) -> Any:
    """What an expression is worth: literals, names assigned before, lists, arithmetic, and str(time.time())."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Name(id=name) if name in names:
            return names[name][0]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element, names, place) for element in elements]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _value(operand, names, place)
            if isinstance(number, (int, float)):
                return -number if isinstance(sign, ast.USub) else number
        case ast.BinOp(left=left, op=operation, right=right):
            a, b = _value(left, names, place), _value(right, names, place)
            if isinstance(a, str) and isinstance(b, str) and isinstance(operation, ast.Add):
                if len(a) + len(b) > LONGEST:
                    raise UserError(f"{place}: a text of more than {LONGEST} characters; expected a shorter one")
                return a + b
            if isinstance(a, (int, float)) and isinstance(b, (int, float)) and type(operation) in _OPERATIONS:
                with contextlib.suppress(ArithmeticError):
                    return _computed(_OPERATIONS[type(operation)], a, b)
        case ast.Call(func=ast.Name(id="str"), args=[argument], keywords=[]):
            printed = _value(argument, names, place)
            if isinstance(printed, (str, int, float)):
                return str(printed)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="time"), args=[], keywords=[]):
            return time.time()
    raise _not_plain(node, place)


_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}  # fmt: skip


def _computed(operation: Callable[[Any, Any], Any], a: float, b: float) -> float:
    """In floats first, which overflow, where whole numbers as in 9**9**9 would be computed for ever."""
    rough = operation(float(a), float(b))
    if isinstance(rough, complex) or (isinstance(a, int) and isinstance(b, int) and abs(rough) > 2**63):
        raise ArithmeticError
    return operation(a, b)


def _not_plain(node: ast.AST, place: str) -> UserError:
    source = ast.unparse(node).splitlines()[0]
    return UserError(
        f"{place}: {source[:60]!r} is not a plain value or arithmetic; a config file is read, it never runs"
    )


def _fitted(value: Any, hint: Any) -> Any:
    """A value of a config file as the type of its field. Raises TypeError where it is of another."""
    kinds = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            for kind in kinds:
                with contextlib.suppress(TypeError):
                    return _fitted(value, kind)
        case typing.Literal:
            if value in kinds:
                return value
        case origin if origin is list:  # which may be a single item
            return [_fitted(item, kinds[0]) for item in (value if isinstance(value, (list, tuple)) else [value])]
        case None:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if hint is float and is_number and (isinstance(value, float) or value.bit_length() < 1024):
                return float(value)
            if hint is int and is_number and value == value // 1 and int(value).bit_length() <= BITS:
                return int(value)
            if hint is Path and isinstance(value, str):
                return Path(value)
            if hint in (bool, str, types.NoneType) and isinstance(value, hint):
                return value
    raise TypeError


def shown(value: Any) -> str:
    """A value as shown in a message, cut to a reasonable length."""
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"a number of {value.bit_length()} bits"
    brief = reprlib.Repr()
    brief.maxlevel = 3
    return brief.repr(value)[:LONGEST_SHOWN]


def _spelled(hint: Any) -> str:
    kinds = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            return " or ".join(_spelled(kind) for kind in kinds)
        case typing.Literal:
            return " or ".join(map(repr, kinds))
        case None:
            return "None" if hint is types.NoneType else "a path" if hint is Path else hint.__name__
        case _:
            return f"a list of {_spelled(kinds[0])}"


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
    said = []
    for line in lines:
        if set(line) <= {"─"}:
            break
        said.append(line)
    return re.sub(r"\s+", " ", " ".join(said)).rstrip(".") + "; --help lists the flags"
