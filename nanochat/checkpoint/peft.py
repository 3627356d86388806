"""Adapters of Hugging Face's peft, adapter_config.json and adapter_model.safetensors, read onto our models.

peft names a matrix by its place in transformers' model, stores A (r, inputs) and B (outputs, r) of each, and adds
lora_alpha / r * B A. Patterns may give matrices other ranks and alphas. `extras.export.adapter` writes such folders.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint import gpt2, hf, reading
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.paths import read_json

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
# Settings with which the sum is not W + scale * B A, and ways to start that change W.
FIXED = {"peft_type": "LORA", "use_dora": False, "use_qalora": False, "bias": "none", "lora_bias": False,
         "alora_invocation_tokens": None, "layer_replication": None}  # fmt: skip
CHANGES_W = ("pissa", "olora", "loftq", "corda")
PREFIX = "base_model.model."
_NAME = re.compile(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight")


def base_name(folder: Path) -> str:
    """The name of the model that an adapter was trained on. Raises UserError if the file names none."""
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"{folder / CONFIG} has no base_model_name_or_path; write there which model it belongs to")
    return name


@torch.no_grad()
def merge(folder: Path, model: GPT) -> None:
    """Add an adapter to the matrices of the model that it was trained on, in place.

    Raises UserError, naming the file, for an adapter of another kind, and for one that does not fit the model.
    """
    for name, delta in deltas(folder):
        try:
            weight = model.get_parameter(name)
        except AttributeError:
            raise UserError(f"{folder} adapts {name}, which the model it names does not have") from None
        if hf.by_token(name):  # transformers' model has no padding
            delta = torch.nn.functional.pad(delta, (0, 0, 0, max(0, weight.size(0) - delta.size(0))))
        if delta.shape != weight.shape:
            raise UserError(
                f"{folder} adapts a {name} of {tuple(delta.shape)}, and that of the model it names is "
                f"{tuple(weight.shape)}; name the right one in {CONFIG}"
            )
        weight += delta.to(weight)


def deltas(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """What an adapter adds to each matrix, (outputs, inputs) float32, by our names."""
    path, config = folder / CONFIG, read_json(folder / CONFIG)
    reading.check_fixed(config, FIXED, path)
    if str(config.get("init_lora_weights")).startswith(CHANGES_W):
        raise UserError(f"{path}: init_lora_weights is {config['init_lora_weights']}, which changes the model besides")
    if config.get("modules_to_save"):
        raise UserError(f"{path}: it saves {config['modules_to_save']} whole; only adapters of matrices are known")
    weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), folder / WEIGHTS[0])
    if not weights.exists():
        raise UserError(f"{weights} is missing; get it from where {CONFIG} came from")
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in hf.read_file(weights).items():
        if name.endswith(".base_layer.weight"):  # a copy of the frozen output layer, which peft adds when it has one
            continue
        match = _NAME.fullmatch(name)
        if match is None or tensor.ndim != 2:
            raise UserError(f"{weights} holds {name[:80]}; only adapters of matrices are known")
        pairs.setdefault(match[1], {})[match[2]] = tensor.float()
    with reading.sensible(path):
        for place, pair in pairs.items():
            yield from _ours(place, scale_of(config, place, pair["A"].size(0)) * (pair["B"] @ pair["A"]))


def scale_of(config: Mapping[str, Any], place: str, rank: int) -> float:
    """The factor on B A of a matrix."""
    patterns = config.get("alpha_pattern") or {}
    matching = (alpha for key, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", place))
    alpha = next(matching, config["lora_alpha"])
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _ours(place: str, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A matrix of transformers' model (outputs, inputs) under our name; GPT-2's c_attn are three of ours."""
    theirs = f"transformer.{place}.weight" if place.startswith("h.") else f"{place}.weight"
    named = hf.renamed({theirs: delta}, {theirs: ours for ours, theirs in hf.NAMES.items()})
    return iter(gpt2.split(named).items())
