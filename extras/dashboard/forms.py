"""A form for each stage, made from the dataclass of its flags; and the command that a filled form comes to.

What a form accepts, the command line accepts: values become words, which the stage's own parser and checks read.
"""

import contextlib
import dataclasses
import math
import re
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from extras.dashboard import reach
from extras.dashboard.flags import Places
from extras.dashboard.jobs import device_of, devices
from nanochat.config import default, groups, helps, parse, positional
from nanochat.errors import BITS, UserError, shown
from nanochat.paths import SOURCES

# The fields that a page shows first; the others are those of whoever knows what they do.
FRONT = frozenset("""depth dataset source init_from teacher data_path val_data_path pairs conversations task paths name
model_tag out_tag out_dir num_iterations num_epochs minutes max_iters device_batch_size total_batch_size batch_size
max_seq_len block_size n_layer n_head n_embd learning_rate init_lr_frac text_share eval_interval lora_rank vocab_size
device device_type""".split())
DTYPES = ("auto", "float32", "bfloat16", "float16")
MOST_ITEMS = 1000  # of a list
MOST_SHOWN = 200  # models, files or datasets to choose from

Type = Literal["int", "float", "bool", "text", "choice", "list", "file", "model"]
_FLAG = re.compile(r"--(\w+)")


class Wrong(UserError):
    """A form that cannot be started: a sentence for each field that is wrong, "" standing for the form as a whole."""

    def __init__(self, errors: Mapping[str, str]):
        super().__init__(next(iter(errors.values())))
        self.errors = dict(errors)


@dataclass(frozen=True)
class Stage:
    """A stage that the page can start: its module and the dataclass of its flags.

    check raises UserError for flags that the stage would refuse before it loads anything.
    """

    name: str
    title: str
    flags: type
    check: Callable[[Any], object] = lambda flags: None

    @property
    def module(self) -> str:
        return f"scripts.{self.name}"


@dataclass(frozen=True)
class Command:
    """What a filled form comes to: the flags, the words after `python -m`, and the device that it takes."""

    stage: Stage
    flags: Any
    argv: list[str]
    values: dict[str, Any]
    device: str

    def __str__(self) -> str:
        return f"python -m {shlex.join(self.argv)}"


# ---------------------------------------------------------------- what a form shows


def form(stage: Stage, places: Places) -> dict[str, Any]:
    """A form as the page gets it."""
    texts, grouped = helps(stage.flags), groups(stage.flags)
    hints = typing.get_type_hints(stage.flags, include_extras=True)
    fields = []
    for entry in dataclasses.fields(stage.flags):
        kind, choices = _type(stage, entry.name, hints[entry.name], places)
        standard = _plain(default(entry))
        fields.append({
            "name": entry.name, "help": " ".join(texts.get(entry.name, "").split()),
            "group": (grouped[entry.name] or "this stage").capitalize(),
            "type": kind, "many": _inner(hints[entry.name]) is not None,
            "default": str(standard) if choices and isinstance(standard, bool) else standard,
            "choices": choices, "front": entry.name in FRONT,
        })  # fmt: skip
    about = " ".join((stage.flags.__doc__ or "").split())
    return {"stage": stage.name, "title": stage.title, "about": about, "fields": fields}


def _type(stage: Stage, name: str, hint: Any, places: Places) -> tuple[Type, list[Any] | None]:
    """How a field is filled in, and what there is to choose from."""
    kinds = _kinds(hint)
    words = [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
    if words:
        others = ["True", "False"] if bool in kinds else []
        return ("text", None) if int in kinds else ("choice", [*others, *words])
    if bool in kinds:
        return "bool", None
    inner = _inner(hint)
    if {inner, *kinds} & {Path, str}:
        named = reach.kind_of(stage.name, name, Path in (inner, *kinds))
        if named in ("file", "text"):
            return "file", uploads(places)
        if named == "model":
            return "model", [*(["scratch"] if name == "init_from" else []), *models(places), *reach.PUBLISHED]
        if name in ("device", "device_type"):
            return "choice", ["", *devices()]
        if name == "dtype":
            return "choice", list(DTYPES)
    if inner is not None:
        return "list", None
    return ("float" if float in kinds else "int" if int in kinds else "text"), None


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have, without None."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part) if kind is not types.NoneType)
    return (hint,)


def _inner(hint: Any) -> Any:
    """The type of a list's items; None for what is not a list."""
    return next((typing.get_args(kind)[0] for kind in _kinds(hint) if typing.get_origin(kind) is list), None)


def _plain(value: Any) -> Any:
    """A default as JSON."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def uploads(places: Places) -> list[str]:
    """What was uploaded, by name."""
    if not places.uploads.is_dir():
        return []
    return sorted(path.name for path in places.uploads.iterdir() if path.is_file() and path.name[0] != ".")[:MOST_SHOWN]


def models(places: Places) -> list[str]:
    """The models to start from: checkpoints of the stages, the newest first, and runs of scripts.train."""
    found: list[tuple[float, str]] = []
    folders = [(source, places.base / folder, "*/meta_*.json") for source, folder in SOURCES.items()]
    folders += [("out", root, pattern) for root in places.watched for pattern in ("ckpt.pt", "*/ckpt.pt")]
    for source, folder, pattern in folders:
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # a run has deleted its older checkpoint just now
                found.append((path.stat().st_mtime, f"{source}:{path.parent.name}"))
    return list(dict.fromkeys(name for _, name in sorted(found, reverse=True)))[:MOST_SHOWN]


# ---------------------------------------------------------------- what a filled form comes to


def command(stage: Stage, values: Mapping[str, Any], places: Places) -> Command:
    """The command of a filled form. Raises Wrong, with a sentence for each field that is wrong.

    What is not in `values`, or null or empty there, is not passed.
    """
    hints = typing.get_type_hints(stage.flags, include_extras=True)
    known = {entry.name for entry in dataclasses.fields(stage.flags)}
    wrong: dict[str, str] = {}
    words: list[str] = []
    arguments: list[str] = []  # those that stand alone, without a flag's name
    used: dict[str, Any] = {}
    filled = {name: value for name, value in values.items() if value not in (None, "", [])}
    for name, value in {**reach.DEFAULTS.get(stage.name, {}), **filled}.items():
        if name not in known:
            wrong[""] = f"{stage.title} has no field {shown(name)}; GET /dashboard/forms lists them"
        else:
            try:
                used[name] = value = _allowed(stage, name, value, hints[name], places)
                alone = positional in getattr(hints[name], "__metadata__", ())
                (arguments if alone else words).extend(_words(name, value, alone))
            except UserError as error:
                wrong[name] = str(error)
    if wrong:
        raise Wrong(wrong)
    try:
        flags = parse(stage.flags, words + arguments)
        _check_same(stage, flags, used)
        stage.check(flags)
        device = device_of(getattr(flags, "device_type", getattr(flags, "device", "cpu")))
    except UserError as error:
        raise Wrong(placed(stage, error)) from None
    return Command(stage, flags, [stage.module, *words, *arguments], used, device)


def placed(stage: Stage, error: UserError) -> dict[str, str]:
    """An error by the field that it names first; "" where it names none."""
    named = _FLAG.search(str(error))
    known = {entry.name for entry in dataclasses.fields(stage.flags)}
    return {named[1] if named and named[1] in known else "": str(error)}


def _allowed(stage: Stage, name: str, value: Any, hint: Any, places: Places) -> Any:
    """A value that may be passed: numbers as they are, texts as `reach` allows them. Raises UserError for others."""
    if value is True and (why := reach.REFUSED.get((stage.name, name))):
        raise UserError(f"--{name} {why}; use the command line on the server for it")
    inner = _inner(hint)
    if inner is not None:
        items = value if isinstance(value, list) else [value]
        if len(items) > MOST_ITEMS:
            raise UserError(f"--{name} has {len(items)} items; expected {MOST_ITEMS} at most")
        return [_item(stage, name, item, [inner], places) for item in items]
    return _item(stage, name, value, _kinds(hint), places)


def _item(stage: Stage, name: str, value: Any, kinds: Sequence[Any], places: Places) -> Any:
    """A value that is no list."""
    if isinstance(value, bool):
        if bool in kinds:
            return value
    elif isinstance(value, (int, float)):
        if isinstance(value, int) and value.bit_length() > BITS:
            raise UserError(f"--{name} is {shown(value)}; expected {BITS} bits at most")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} is {value}; expected a finite number")
        value = repr(value)
    if isinstance(value, str) and {str, Path} & {*kinds}:
        return reach.checked(stage.name, name, value, reach.kind_of(stage.name, name, Path in kinds), places)
    words = [word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
    if isinstance(value, str) and (value in words or words and bool in kinds and value in ("True", "False")):
        return value
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and (int in kinds or float in kinds):
            float(value)  # a number, which may begin with a minus; whether it fits is for the parser to say
            return value.strip()
    raise UserError(f"--{name} is {shown(value)}; expected {_expected(kinds, words)}")


def _expected(kinds: Sequence[Any], words: Sequence[str]) -> str:
    names = {bool: "a switch", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return " or ".join([names[kind] for kind in kinds if kind in names] + [repr(word) for word in words])


def _words(name: str, value: Any, alone: bool) -> list[str]:
    """A value as words of a command line. Each is bound to its flag by =, so that it cannot be another flag."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [item if alone else f"--{name}={item}" for item in value]
    return [f"--{name}={value}"]


def _check_same(stage: Stage, flags: Any, used: Mapping[str, Any]) -> None:
    """Raise UserError if the parsed flags are not what the form said, whatever the reason.

    Texts have to come out as they went in ("None" would not), and what was not passed has to be at its default.
    """
    for entry in dataclasses.fields(stage.flags):
        value, now = used.get(entry.name), getattr(flags, entry.name)
        if entry.name not in used:
            if now != default(entry) and value is None:
                raise UserError(f"--{entry.name} would be {shown(now)}, which the form does not say")
        elif isinstance(now, str) and now != value or now is None:
            raise UserError(f"--{entry.name} cannot be {shown(value)}; give another name")
        elif isinstance(now, list) and [*map(str, now)] != value and not {float, int} & {*map(type, now)}:
            raise UserError(f"--{entry.name} cannot be {shown(value)}; give other names")
