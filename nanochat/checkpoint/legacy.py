"""Checkpoints of the original nanochat, translated at the edge: names of tensors, and numbers its files do not record.

Two generations are known, told apart by their tensors: "classic" (the published d32 and d34, January 2026) has
nothing but plain blocks; "modern" (since March 2026) has smear, backout, lambdas and value embeddings.
"""

from dataclasses import fields
from pathlib import Path

from torch import Tensor

from nanochat.config import UserError
from nanochat.gpt import GPTConfig
from nanochat.scaling import short_window


def translate(model_config: dict, state: dict[str, Tensor], path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The architecture and the state dict under our names. Our own files pass through unchanged.

    Raises UserError for a generation that is not known, naming the tensors that tell.
    """
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    known = {field.name for field in fields(GPTConfig)}
    if unknown := sorted(model_config.keys() - known):
        raise UserError(f"{path}: its configuration has {', '.join(unknown)}, which this version does not know")
    if "rope_base" in model_config:
        return GPTConfig(**model_config), state
    T, L = model_config["sequence_len"], model_config["n_layer"]
    # Old files have V rows where V is already a multiple of 64; the tensors say how many there are.
    padded = state["transformer.wte.weight"].size(0) if "transformer.wte.weight" in state else 0
    pad = 64 if padded != model_config["vocab_size"] else 1
    if "smear_lambda" in state:
        for name, neutral in (("resid_lambdas", 1.0), ("x0_lambdas", 0.0)):
            state.setdefault(name, state["smear_lambda"].new_full((L,), neutral))
        config = GPTConfig(
            **{"window_pattern": "L", **model_config}, short_window=short_window(T), long_window=T, pad_vocab_to=pad
        )
        return config, state
    extra = sorted(name for name in state if "lambda" in name or "value_embed" in name or "gate" in name)
    if extra:
        raise UserError(
            f"{path} is of a generation between classic and modern nanochat, told by {extra[0]}; only those two load"
        )
    config = GPTConfig(
        **{"window_pattern": "L", **model_config},
        rope_base=10000.0,
        rope_in_bfloat16=True,
        qk_scale=1.0,
        lambdas=False,
        value_embeds=False,
        smear=False,
        backout=False,
        pad_vocab_to=pad,
    )
    return config, state
