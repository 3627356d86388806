"""A checkpoint ready to generate: loaded, in its compute dtype, in an Engine whose cache fits this machine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from nanochat import chat
from nanochat.attention import backend_in_words
from nanochat.checkpoint import door
from nanochat.checkpoint.flags import check_dtype
from nanochat.checkpoint.manager import LoadAs
from nanochat.engine.cpu_weights import pack
from nanochat.engine.engine import Engine
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig, count_parameters
from nanochat.runtime import DTYPES, compute_dtype, multiplies_bfloat16
from nanochat.tokenizer import Tokenizer

MOST_SLOTS = 64


@dataclass(frozen=True)
class Serving:
    """A checkpoint in an Engine. dtype_name is float32, bfloat16, float16 or int8."""

    engine: Engine
    tokenizer: Tokenizer
    meta: dict
    source: str
    tag: str
    step: int
    folder: Path
    dtype_name: str
    device: torch.device
    parameters: int
    note: str = ""
    stage_is_known: bool = True
    """whether its files name its stage; else source is assumed"""

    def __str__(self) -> str:
        place = f"from {self.folder}, in {self.dtype_name} on {self.device}" + (f" ({self.note})" if self.note else "")
        return f"{self.source} {self.tag}, step {self.step}, {place}{self.engine.way}"

    def check_chat(self) -> None:
        """Raise UserError for a model that only continues texts."""
        if self.source == "base":
            raise UserError(
                f"{self.tag}, from {self.folder}, is a base model, which continues texts and has not learned to chat; "
                "continue a text with python -m scripts.sample, or choose another model"
            )


def serve_model(
    found: door.Found, device: torch.device | str, dtype: str = "auto", slots: int = 0, compile: bool = False
) -> Serving:
    """Load a model for generating.

    dtype "auto" is the device's compute dtype, or int8 on a CPU that does not multiply bfloat16 in hardware: there
    reading four bytes per weight would dominate the time. slots 0 takes as many as fit into a quarter of the free
    memory, at most MOST_SLOTS. A model whose tokenizer has no chat tokens counts as base; any other of unknown stage
    as sft, with a note. compile: decoding, on a GPU. Raises what `Found.load` raises, and UserError for int8 on a
    device other than a CPU and for a device where compile has no effect.
    """
    if slots < 0:
        raise UserError(f"--slots is {slots}; expected 1 or more, or 0 for as many as fit")
    device = torch.device(device)
    chosen = dtype_for(dtype, device)
    loaded = found.load(LoadAs(device, chosen.compute, keep_float32=False))
    source, note = loaded.source, loaded.note
    if not chat.can_chat(loaded.tokenizer):
        source = "base"
    elif not source:
        assumed = "its stage is not recorded; its tokenizer has chat tokens, so it is assumed to be sft"
        source, note = "sft", "; ".join(filter(None, [note, assumed]))
    if device.type == "cuda":
        kernel = backend_in_words(device, loaded.model.dtype, loaded.model.config.head_size)
        note = "; ".join(filter(None, [note, f"attention: {kernel}"]))
    parameters = count_parameters(loaded.model)  # before they are packed
    pack(loaded.model, chosen.int8)
    fit = slots or slots_that_fit(loaded.model.config, chosen.compute, device)
    engine = Engine(loaded.model, fit, compile="inductor" if compile else "")
    return Serving(
        engine, loaded.tokenizer, loaded.meta, source, loaded.tag, loaded.step, loaded.folder, chosen.name, device,
        parameters, note, bool(loaded.source),
    )  # fmt: skip


class ServedDtype(NamedTuple):
    """The dtype a model is served in: its name, the dtype it computes in, and whether its weights are int8."""

    name: str
    compute: torch.dtype
    int8: bool


def dtype_for(name: str, device: torch.device) -> ServedDtype:
    """What --dtype `name` means on a device; see `serve_model`. Raises UserError for an unknown name."""
    name = check_dtype(name)
    if name == "auto" and device.type == "cpu" and not multiplies_bfloat16():
        name = "int8"
    if name == "int8":
        return ServedDtype(name, torch.bfloat16 if multiplies_bfloat16() else torch.float32, True)
    compute = compute_dtype(name, device)
    return ServedDtype(next(known for known, dtype in DTYPES.items() if dtype == compute), compute, False)


def slots_that_fit(config: GPTConfig, dtype: torch.dtype, device: torch.device) -> int:
    """How many sequences of full length a quarter of the free memory holds, from 1 to MOST_SLOTS."""
    size = 2 * config.n_layer * config.sequence_len * config.n_kv_head * config.head_size * dtype.itemsize
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free = 8 << 30
    return max(1, min(MOST_SLOTS, free // 4 // size))
