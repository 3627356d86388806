"""Flags from files: YAML, JSON, and the plain assignments of nanoGPT's config files, which are read and never run."""

import ast
import contextlib
import dataclasses
import difflib
import json
import operator
import re
import time
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from nanochat.errors import BITS, UserError, shown

CONFIG_FILES = (".py", ".yaml", ".yml", ".json")
LONGEST_SUM = 10_000  # characters of texts added together
MOST_KEYS = 10_000  # of one mapping


def unfolded(read: dict[str, tuple[Any, str]], fields: dict[str, str]) -> dict[str, tuple[Any, str]]:
    """Keys with those of sections, as in `model: {n_layer: 4}`, moved to the top and named section.key."""
    flat: dict[str, tuple[Any, str]] = {}
    for name, (value, place) in read.items():
        if isinstance(value, dict) and name not in fields:
            flat |= {f"{name}.{str(key).replace('-', '_')}": (inner, place) for key, inner in value.items()}
        else:
            flat[name] = value, place
    return flat


def read(path: Path) -> dict[str, tuple[Any, str]]:
    """The keys of a config file, each with its value and its place (file and, where it is known, line)."""
    if path.suffix not in CONFIG_FILES:
        raise UserError(f"{path} is not a config file; expected a name that ends in {', '.join(CONFIG_FILES)}")
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
    """YAML in which 1e-3 is a number; YAML 1.1 takes it for a string, for want of a dot."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Apply merge keys (<<), which repeated often enough would make a few lines fill the memory."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            raise yaml.constructor.ConstructorError(None, None, "too many keys are merged", node.start_mark)


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _assigned(text: str, path: Path) -> dict[str, tuple[Any, str]]:
    """The names that a file in nanoGPT's style assigns, without those that begin with an underscore."""
    names: dict[str, tuple[Any, str]] = {}
    for statement in ast.parse(text).body:
        place = f"{path}:{statement.lineno}"
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = _value(value, names, place), place
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names[name] = _value(value, names, place), place
            case ast.Expr(value=ast.Constant(value=str())) | ast.Import(names=[ast.alias(name="time", asname=None)]):
                pass  # nanoGPT's finetune_shakespeare.py imports time for the name of its run
            case _:
                raise _not_plain(statement, place)
    return {name: found for name, found in names.items() if not name.startswith("_")}


def _value(node: ast.expr, names: dict[str, tuple[Any, str]], place: str) -> Any:
    """The value of an expression: literals, names assigned before, lists, arithmetic, and str(time.time())."""
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
            are_texts = isinstance(a, str) and isinstance(b, str) and isinstance(operation, ast.Add)
            if are_texts and len(a) + len(b) <= LONGEST_SUM:  # a = a + a, line after line, would fill the memory
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
    """Computed in floats first, which overflow at once, because 9**9**9 in whole numbers would take forever."""
    rough = operation(float(a), float(b))
    if isinstance(rough, complex) or (isinstance(a, int) and isinstance(b, int) and abs(rough) > 2**63):
        raise ArithmeticError
    return operation(a, b)


def _not_plain(node: ast.AST, place: str) -> UserError:
    source = ast.unparse(node).splitlines()[0]
    return UserError(
        f"{place}: {source[:60]!r} is not a plain value or arithmetic; config files are read, not run"
    )


def fitted(value: Any, hint: Any) -> Any:
    """A config file's value as the type of its field. Raises TypeError if it does not fit."""
    kinds = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            for kind in kinds:
                with contextlib.suppress(TypeError):
                    return fitted(value, kind)
        case typing.Literal:
            if value in kinds:
                return value
        case origin if origin is list:  # or a single item
            return [fitted(item, kinds[0]) for item in (value if isinstance(value, (list, tuple)) else [value])]
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


def as_typed(hint: Any, value: Any, where: str) -> Any:
    """`fitted`, but raises UserError, which names the place."""
    try:
        return fitted(value, hint)
    except TypeError:
        raise UserError(f"{where} is {shown(value)}; expected {spelled(hint)}") from None


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A file's mapping with its names as texts. Raises UserError for anything else."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {shown(value)}; expected names with their values")
    return {str(key): item for key, item in value.items()}


def built(kind: Any, keys: Mapping[str, Any], where: str, done: Collection[str] = ()) -> Any:
    """A dataclass of a file's keys; the values of `done` have their types already.

    Raises UserError for a key that it does not have, lacks, or of another type.
    """
    hints, made = typing.get_type_hints(kind), {}
    if unknown := [key for key in keys if key not in hints]:
        near = difflib.get_close_matches(unknown[0], hints, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(hints)}"
        raise UserError(f"{where}: unknown key {shown(unknown[0])}; {hint}")
    for key, value in keys.items():
        made[key] = value if key in done else as_typed(hints[key], value, f"{where}: {key}")
    missing = [entry.name for entry in dataclasses.fields(kind) if entry.name not in made
               and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING]  # fmt: skip
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")
    return kind(**made)


def spelled(hint: Any) -> str:
    """A type as a message names it."""
    kinds = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            return " or ".join(spelled(kind) for kind in kinds)
        case typing.Literal:
            return " or ".join(map(repr, kinds))
        case None:
            return "None" if hint is types.NoneType else "a path" if hint is Path else hint.__name__
        case _:
            return f"a list of {spelled(kinds[0])}"
