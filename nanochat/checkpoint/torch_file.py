"""Files of torch.save, read without running what they might run."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from nanochat.errors import UserError
from nanochat.paths import check_regular


@contextmanager
def sensible(path: Path) -> Iterator[None]:
    """A file may say anything; where that makes no model, this is one UserError that names it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not describe a model that can be built ({said}); get it again") from error


def read(path: Path, advice: str = "", lazily: bool = False) -> Any:
    """Tensors and plain values of a file, on the CPU; lazily: tensors are read from the disk where they are used.

    Raises UserError, with `advice` at its end, for a file that is missing, damaged, or would run code if it could.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings():  # of a bare pickle torch says something about pickle's protocols
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise UserError(f"{path} cannot be read as a torch file{advice}") from error
        raise UserError(
            f"{path} was not read: it uses {refused[1]}, which could run any code, where weights are expected; "
            f"get the file from a source you trust{advice}"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a torch file{advice}") from error


def check_layers(n_layer: object, state: Mapping[str, object], path: Path) -> None:
    """Raise UserError where as many layers are claimed as the tensors do not have, before they are built."""
    there = {int(match[1]) for name in state if (match := re.search(r"(?:^|\.)(?:h|layers)\.(\d{1,9})\.", name))}
    if n_layer is not None and n_layer != len(there):
        raise UserError(f"{path} claims {n_layer!r} layers, but holds {len(there)}; get it again")


def weights(content: object, path: Path, ignored: re.Pattern | None = None) -> dict[str, Tensor]:
    """What was read from path, if it is named tensors of floating point numbers; what `ignored` matches may be others.

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
