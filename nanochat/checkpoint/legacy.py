"""Checkpoints of the original nanochat, translated at the edge: names of tensors, and numbers its files do not record.

Which features a file has follows from its tensors, the numbers from the generation of the code that wrote it:

    classic  until 10 Jan 2026      none of the extra tensors (the published d32 and d34)
    early    11 Jan - 8 Mar 2026    resid_lambdas and x0_lambdas; from 16 Jan on value_embeds with gates of 32 channels
    late     9 - 13 Mar 2026        gates of 12 channels, no smear
    modern   since 14 Mar 2026      smear_lambda and backout_lambda

Nothing tells an early file of February from one of March, which caps its logits at 20 instead of 15. Once it is known,
it stands in the meta file as the softcap of its model_config (`with_softcap`).
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nanochat.errors import UserError
from nanochat.gpt import GPTConfig

Generation = Literal["classic", "early", "late", "modern"]
PLAIN = {"lambdas": False, "value_embeds": False, "smear": False, "backout": False}
EARLY_GATE = 32  # channels; 12 in later generations


def generation(state: Mapping[str, Tensor]) -> Generation:
    """Which code wrote these tensors."""
    gates = [tensor for name, tensor in state.items() if name.endswith("ve_gate.weight")]
    if "smear_lambda" in state or "smear_gate.weight" in state:
        return "modern"
    if gates and gates[0].size(-1) != EARLY_GATE:
        return "late"
    return "early" if "resid_lambdas" in state or "x0_lambdas" in state or gates else "classic"


def translate(
    model_config: Mapping, state: Mapping[str, Tensor], path: Path
) -> tuple[GPTConfig, dict[str, Tensor]]:  # fmt: skip
    """The architecture and the state dict under our names. Our own files pass through unchanged.

    Raises UserError for settings that are not known.
    """
    plain = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    known = {field.name for field in fields(GPTConfig)}
    if unknown := sorted(model_config.keys() - known):
        raise UserError(f"{path}: its configuration has {', '.join(unknown)}, which this version does not know")
    if is_ours(model_config):
        return GPTConfig(**model_config), plain
    needed = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_embd")
    missing = [name for name in needed if name not in model_config]
    if missing:
        raise UserError(f"{path}: its configuration lacks {', '.join(missing)}; expected the meta file of a nanochat")
    return _of_generation(generation(plain), model_config, plain)


def is_ours(model_config: Mapping) -> bool:
    """Whether the configuration says every number, as ours do, or leaves them to the generation of the code."""
    return "rope_base" in model_config


def doubtful_softcap(model_config: Mapping, state: Mapping[str, Tensor]) -> bool:
    """Whether the file may have been written with a softcap of 15 or 20, and nothing in it says which."""
    said = is_ours(model_config) or "softcap" in model_config
    return not said and generation(state) == "early" and any("ve_gate" in name for name in state)


def check_softcap(softcap: float | None) -> None:
    """Raise UserError for a --softcap that no checkpoint has."""
    if softcap not in (None, 15, 20):
        raise UserError(f"--softcap is {softcap:g}; the checkpoints that do not record theirs have 15 or 20")


def with_softcap(model_config: Mapping, state: Mapping[str, Tensor], softcap: float) -> dict[str, Any] | None:
    """The model_config of a checkpoint that does not tell its softcap, so that it does from now on.

    What was recorded so before may be changed. None where the file itself leaves no doubt.
    """
    bare = {name: value for name, value in model_config.items() if name != "softcap"}
    return {**bare, "softcap": float(softcap)} if doubtful_softcap(bare, state) else None


def _of_generation(
    which: Generation, model_config: Mapping, state: dict[str, Tensor]
) -> tuple[GPTConfig, dict[str, Tensor]]:
    T, L = model_config["sequence_len"], model_config["n_layer"]
    embedding = state.get("transformer.wte.weight", torch.empty(0))
    # Old files have V rows where V is already a multiple of 64; the tensors say how many there are.
    padded = embedding.size(0)
    shape: dict[str, Any] = {"n_kv_head": model_config["n_head"], "window_pattern": "L", **model_config}
    shape["pad_vocab_to"] = 1 if padded == model_config["vocab_size"] else 64
    if which == "classic":
        return GPTConfig(**{**shape, **PLAIN}, rope_base=10000.0, rope_in_bfloat16=True, qk_scale=1.0), state
    for name, neutral in (("resid_lambdas", 1.0), ("x0_lambdas", 0.0)):  # files of a few days lack one
        state.setdefault(name, embedding.new_full((L,), neutral))
    if which == "early":
        # Windows came with the pattern; a short one is half of the context.
        windows = {"short_window": T // 2, "long_window": T} if "window_pattern" in model_config else {}
        config = GPTConfig(
            **{**shape, **PLAIN, "lambdas": True, "value_embeds": _has(state, "value_embeds.")},
            **windows,
            rope_base=10000.0,
            rope_in_bfloat16=True,
            qk_scale=1.0,
            ve_gate_channels=EARLY_GATE,
            ve_gate_range=2.0,
        )
        return config, state
    share, scale, extras = (3, 1.15, False) if which == "late" else (4, 1.2, True)
    config = GPTConfig(
        **shape,
        short_window=128 * -(-T // (share * 128)),
        long_window=T,
        qk_scale=scale,
        value_embeds=_has(state, "value_embeds."),
        smear=extras,
        backout=extras,
    )
    return config, state


def _has(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in state)
