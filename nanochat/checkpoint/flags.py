"""The flags that name a model, without anything heavy: a script parses its command line before it imports torch."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from nanochat.config import alias
from nanochat.errors import UserError

if TYPE_CHECKING:
    from nanochat.checkpoint.door import Found

Style = Literal["hf", "nanogpt", "nanochat", "peft"]  # of an export
SERVED_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")

ModelName = Annotated[str, alias("-i", "--init-from")]


@dataclass
class ModelFlags:
    """The flags that name a model, the same in every script."""

    # --- model
    source: ModelName = "sft"
    """base, mid, sft, dpo or rl, or sft:d3, sft:d3:700, gpt2 ... gpt2-xl, a folder, a ckpt.pt, user/name, resume"""
    model_tag: Annotated[str | None, alias("-g", "--tag")] = None
    """tag of the model; default: the deepest d<number>"""
    step: Annotated[int | None, alias("-s")] = None
    """step of the model; default: the last"""

    def find(self, out_dir: Path | str = "out") -> "Found":
        """The model these flags name, its weights unread; see `door.find`."""
        from nanochat.checkpoint import door

        return door.find(self.source, self.model_tag, self.step, out_dir)


@dataclass
class ServingFlags(ModelFlags):
    """The flags of scripts that load a model to generate with it."""

    # --- machine
    device_type: Annotated[str, alias("--device")] = ""
    """cuda, cuda:1, mps or cpu; default: the best available"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """compute dtype: auto, float32, bfloat16, float16, or int8 for the weights (on a CPU)"""

    def find(self, out_dir: Path | str = "out") -> "Found":
        check_dtype(self.dtype)  # before anything is downloaded
        return super().find(out_dir)


def check_dtype(name: str) -> str:
    """The name of the dtype to serve in: `name`, or where that is "auto" $NANOCHAT_DTYPE.

    Raises UserError for an unknown name.
    """
    if name == "auto":
        name = os.environ.get("NANOCHAT_DTYPE") or "auto"
    if name not in SERVED_DTYPES:
        raise UserError(f"dtype {name!r} is unknown; expected one of {', '.join(SERVED_DTYPES)}")
    return name
