"""Reading models from files of unknown origin: no code in them runs, and every mistake in them is one UserError."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.paths import check_regular

ACTIVATIONS = ("relu2", "gelu", "gelu_tanh")
ODD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # what odd values may raise


def torch_file(path: Path, remedy: str = "get it again", lazily: bool = False) -> Any:
    """Tensors and plain values of a file of torch.save, on the CPU; lazily: tensors are memory-mapped.

    Raises UserError, ending in `remedy`, for a file that is missing, damaged, or would run code if it could.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings():  # torch warns about pickle protocols
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except (UnpicklingError, OSError, EOFError, *ODD) as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} was not read: it uses {refused[1]}, which could run any code, where weights are expected; "
                "get the file from a source you trust"
            ) from None
        raise UserError(f"{path} cannot be read as a torch file; {remedy}") from error


@contextmanager
def sensible(path: Path) -> Iterator[None]:
    """Turn the errors of a file whose values make no model into one UserError that names it."""
    try:
        yield
    except ODD as error:
        reason = " ".join(str(error).split())[:200] + (" is missing" if isinstance(error, KeyError) else "")
        raise UserError(f"{path} does not describe a model that can be built ({reason}); get it again") from error


def check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any], path: Path) -> None:
    """Raise UserError where a configuration differs from the only values that our forward pass implements."""
    for name, known in fixed.items():
        if config.get(name) not in (None, known):
            raise UserError(f"{path}: {name} is {config[name]!r}; only models with {known!r} are known")


def check_shape(config: GPTConfig) -> None:
    """Raise ValueError for values that no model can have."""
    for field in fields(config):
        value, kind = getattr(config, field.name), type(field.default)
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise ValueError(f"{field.name} is {value!r}, expected a value such as {field.default!r}")
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"activation is {config.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    for name in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "pad_vocab_to"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)!r}, expected a whole number from 1 on")
    for whole, part in (("n_embd", "n_head"), ("n_head", "n_kv_head")):
        if getattr(config, whole) % getattr(config, part):
            raise ValueError(f"{part} {getattr(config, part)} does not divide {whole} {getattr(config, whole)}")
    if not config.window_pattern or set(config.window_pattern.upper()) - set("SL"):
        raise ValueError(f"window_pattern is {config.window_pattern!r}, expected letters S and L")
    for name in ("norm_eps", "softcap", "rope_base", "dropout", "bigram_rows"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name} is {getattr(config, name)!r}, expected a number from 0 on")


def check_layers(n_layer: object, state: Mapping[str, object], path: Path) -> None:
    """Raise UserError, before layers are built, unless the tensors have as many as claimed."""
    found = {int(match[1]) for name in state if (match := re.search(r"(?:^|\.)(?:h|layers)\.(\d{1,9})\.", name))}
    if n_layer != len(found):
        raise UserError(f"{path} claims {n_layer!r} layers, but holds {len(found)}; get it again")


def weights(content: object, path: Path, ignored: re.Pattern | None = None) -> dict[str, Tensor]:
    """What was read from path, if it is floating point tensors by name; names that match `ignored` may be others.

    Raises UserError, naming path and what it holds instead.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}; expected the weights of a model, tensors by name")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(
                f"{path} is not a list of named tensors: {str(name)[:80]!r} is a {type(tensor).__name__}; "
                "expected the weights of a model"
            )
        if not tensor.is_floating_point() and not (ignored and ignored.fullmatch(name)):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name[:80]} is of {kind}; expected weights in floating point")
    return dict(content)
