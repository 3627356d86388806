"""Checkpoints of the original nanochat, translated: names of tensors, and numbers that its files do not record.

Which features a file has follows from its tensors, the numbers from the generation of the code that wrote it:

    classic  until 10 Jan 2026      none of the extra tensors (the published d32 and d34)
    early    11 Jan - 8 Mar 2026    resid_lambdas and x0_lambdas; from 16 Jan on value_embeds with gates of 32 channels
    late     9 - 13 Mar 2026        gates of 12 channels, no smear
    modern   since 14 Mar 2026      smear_lambda and backout_lambda

Nothing tells an early file of February from one of March, which caps its logits at 20 instead of 15. Once known, the
number is recorded in the meta file as the softcap of its model_config.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nanochat.errors import UserError
from nanochat.gpt import GPTConfig

Generation = Literal["classic", "early", "late", "modern"]
PLAIN = {"lambdas": False, "value_embeds": False, "smear": False, "backout": False}
EARLY_GATE = 32  # channels; 12 in later generations


def generation(state: Mapping[str, Tensor]) -> Generation:
    """The generation of the code that wrote these tensors."""
    gates = [tensor for name, tensor in state.items() if name.endswith("ve_gate.weight")]
    if "smear_lambda" in state or "smear_gate.weight" in state:
        return "modern"
    if gates and gates[0].size(-1) != EARLY_GATE:
        return "late"
    return "early" if "resid_lambdas" in state or "x0_lambdas" in state or gates else "classic"


def translate(model_config: Mapping, state: Mapping[str, Tensor], path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The architecture and the state dict under our names. Our own files pass through unchanged.

    Raises UserError, naming path, for unknown settings.
    """
    plain = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    known = {field.name for field in fields(GPTConfig)}
    if unknown := sorted(model_config.keys() - known):
        raise UserError(f"{path}: its configuration has {', '.join(unknown)}, which this version does not know")
    if is_ours(model_config):
        return GPTConfig(**model_config), plain
    needed = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_embd")
    if missing := [name for name in needed if name not in model_config]:
        raise UserError(f"{path}: its configuration lacks {', '.join(missing)}; expected the meta file of a nanochat")
    return _of_generation(generation(plain), model_config, plain)


def is_ours(model_config: Mapping) -> bool:
    """Whether a configuration records every number, as ours do, or leaves some to the generation of the code."""
    return "rope_base" in model_config


def doubtful_softcap(model_config: Mapping, state: Mapping[str, Tensor]) -> bool:
    """Whether the model's softcap may be 15 or 20, and its code did not record which."""
    return not is_ours(model_config) and generation(state) == "early" and any("ve_gate" in name for name in state)


def _of_generation(
    which: Generation, model_config: Mapping, state: dict[str, Tensor]
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """What the generation's code took for granted, added to what its files record."""
    T, L = model_config["sequence_len"], model_config["n_layer"]
    embedding = state.get("transformer.wte.weight", torch.empty(0))
    # Old files have V rows, not padded to a multiple of 64.
    pad = 1 if embedding.size(0) == model_config["vocab_size"] else 64
    shape = {"n_kv_head": model_config["n_head"], "window_pattern": "L", **model_config, "pad_vocab_to": pad}
    old_rope = {"rope_base": 10000.0, "rope_in_bfloat16": True, "qk_scale": 1.0}
    if which == "classic":
        return GPTConfig(**{**shape, **PLAIN}, **old_rope), state
    for name, neutral in (("resid_lambdas", 1.0), ("x0_lambdas", 0.0)):  # files of a few days lack one
        state.setdefault(name, embedding.new_full((L,), neutral))
    value_embeds = any(name.startswith("value_embeds.") for name in state)
    if which == "early":
        # Windows came with the pattern; a short one is half of the context.
        windows = {"short_window": T // 2, "long_window": T} if "window_pattern" in model_config else {}
        features = {**PLAIN, "lambdas": True, "value_embeds": value_embeds}
        gates = {"ve_gate_channels": EARLY_GATE, "ve_gate_range": 2.0}
        return GPTConfig(**{**shape, **features}, **windows, **old_rope, **gates), state
    fraction, scale, extras = (3, 1.15, False) if which == "late" else (4, 1.2, True)
    config = GPTConfig(
        **shape,
        short_window=128 * -(-T // (fraction * 128)),
        long_window=T,
        qk_scale=scale,
        value_embeds=value_embeds,
        smear=extras,
        backout=extras,
    )
    return config, state
