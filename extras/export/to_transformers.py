"""Our architectures and tensors in transformers' terms: the way back from `gpt2.from_hf` and `hf.read`."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nanochat.checkpoint.gpt2 import ACTIVATIONS, join, turned
from nanochat.checkpoint.gpt2 import FIXED as GPT2_FIXED
from nanochat.checkpoint.hf import CLASSIC, FIXED, NAMES, PORT, SHAPE, by_token, renamed
from nanochat.gpt import GPTConfig


def to_gpt2(config: GPTConfig, state: Mapping[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """GPT-2's architecture: the content of config.json, and the tensors as transformers saves them.

    Padding rows are left out. transformers always has biases; those of a model without are zeros.
    """
    theirs = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": config.sequence_len,
        **{name: getattr(config, name) for name in ("n_embd", "n_layer", "n_head", "vocab_size")},
        "activation_function": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        **GPT2_FIXED,
    }
    joined = join(state)
    joined["transformer.wte.weight"] = joined["transformer.wte.weight"][: config.vocab_size].clone()
    if not config.bias:
        for name in [name for name in joined if not re.search(r"wte|wpe", name)]:
            joined[name.replace(".weight", ".bias")] = joined[name].new_zeros(joined[name].size(0))
    return theirs, {name: turned(name, tensor).contiguous() for name, tensor in joined.items()}


def in_port(config: GPTConfig) -> bool:
    """Whether the port implements an architecture. A window as long as the context counts as none."""
    widest = [config.window(layer) for layer in range(config.n_layer)]
    windows = any(0 < window < config.sequence_len - 1 for window in widest)
    return not windows and all(getattr(config, name) == value for name, value in CLASSIC.items())


def to_port(config: GPTConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The port's: the content of config.json, and the tensors under its names without padding rows."""
    theirs = {
        "model_type": PORT,
        "architectures": ["NanoChatForCausalLM"],
        **{name: getattr(config, ours) for ours, name in SHAPE.items()},
        "num_key_value_heads": config.n_kv_head,
        "intermediate_size": 4 * config.n_embd,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "rms_norm_eps": config.norm_eps,
        "final_logit_softcapping": config.softcap or None,
        "hidden_act": FIXED["hidden_act"],
        "attention_bias": False,
        "tie_word_embeddings": False,
    }
    return theirs, renamed(cut(config, state), NAMES)


def cut(config: GPTConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without padding rows."""
    V = config.vocab_size
    return {name: tensor[:V].clone() if by_token(name) else tensor for name, tensor in state.items()}
