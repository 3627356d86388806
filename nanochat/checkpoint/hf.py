"""Folders of transformers: reading their weights in any layout, and its NanoChat port to ours and back.

The port is the classic architecture with every matrix as it is; only names differ. What an export of ours knows
besides stands in config.json under the key "nanochat", and is believed rather than the port's values.

One thing differs in the numbers: the port keeps cos and sin of the rotary positions as precise as the activations,
where classic nanochat rounds them to bfloat16.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nanochat.checkpoint import gpt2, torch_file
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.paths import check_regular, read_json

PORT, OWN = "nanochat", "nanochat_gpt"  # model_type of the port, and of the modelling file that exports carry
RECORD = "nanochat"  # the key of config.json
# Weights, the safe format first; the second of each pair lists the files of a model in several.
LAYOUTS = [
    ("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json"),
]  # fmt: skip
MOST_PADDING = 1 << 20  # rows that a damaged file may make us add
NAMES = {
    "transformer.wte.": "model.embed_tokens.", "transformer.h.": "model.layers.", ".attn.c_q.": ".self_attn.q_proj.",
    ".attn.c_k.": ".self_attn.k_proj.", ".attn.c_v.": ".self_attn.v_proj.", ".attn.c_proj.": ".self_attn.o_proj.",
    ".mlp.c_fc.": ".mlp.fc1.", ".mlp.c_proj.": ".mlp.fc2.",
}  # fmt: skip
SHAPE = {
    "vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads", "sequence_len": "max_position_embeddings",
}  # fmt: skip
# What a config.json of the port may say otherwise and the forward does not know, with the value that it does.
FIXED = {"hidden_act": "relu2", "attention_bias": False, "tie_word_embeddings": False, "rope_scaling": None}
ROPE_FIXED = {"rope_type": "default", "partial_rotary_factor": 1.0}
# The features of ours that the port has no word for, as it has them.
CLASSIC = {
    "qk_scale": 1.0, "lambdas": False, "value_embeds": False, "smear": False, "backout": False,
    "learned_positions": False, "layer_norm": False, "bias": False, "activation": "relu2", "qk_norm": True,
    "embed_norm": True, "tied": False,
}  # fmt: skip


def tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's weights, on the CPU: safetensors or else .bin, in one file or several.

    Raises UserError, naming the file, for one that is missing, damaged, or a .bin that would run code.
    """
    for single, index in LAYOUTS:
        if (folder / single).exists():
            return _read(folder / single)
        if (folder / index).exists():
            return _read_several(folder / index)
    raise UserError(f"{folder} has no weights; expected one of {', '.join(name for pair in LAYOUTS for name in pair)}")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json, {} if it is missing. Raises UserError if it is not a JSON object."""
    path = folder / "config.json"
    return read_json(path) if path.exists() else {}


def read(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """A folder of the port, or an export of ours -> the architecture and the tensors under our names.

    Raises UserError for another model, and for a configuration that the forward does not know.
    """
    path, config = folder / "config.json", read_config(folder)
    kind = config.get("model_type")
    if kind not in (PORT, OWN):
        raise UserError(f"{path} is of a model_type {kind!r}; expected {PORT!r}")
    if config.get(RECORD) is None and kind == OWN:
        raise UserError(f"{path} has lost its key {RECORD!r}, which says what the model is; export it again")
    ours = from_port(config, path) if config.get(RECORD) is None else _recorded(config[RECORD], path)
    return ours, {name: _padded(name, tensor, ours) for name, tensor in _renamed(tensors(folder)).items()}


def record(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an export of ours wrote of its origin into config.json: source, tag, step, tokenizer_hash; else nothing."""
    said = config.get(RECORD)
    return said if isinstance(said, dict) else {}


def from_port(config: Mapping[str, Any], path: Path) -> GPTConfig:
    """The content of the port's config.json -> the architecture. Raises UserError, naming path and what is wrong."""
    for name, known in FIXED.items():
        if config.get(name, known) != known:
            raise UserError(f"{path}: {name} is {config[name]!r}; only NanoChat models with {known!r} are known")
    rope = config.get("rope_parameters") or {}
    for name, known in ROPE_FIXED.items():
        if rope.get(name, known) != known:
            raise UserError(f"{path}: {name} is {rope[name]!r}; only rotary positions with {known!r} are known")
    shape = {ours: _count(config, theirs, path) for ours, theirs in SHAPE.items()}
    shape["n_kv_head"] = shape["n_head"]
    if config.get("num_key_value_heads") is not None:
        shape["n_kv_head"] = _count(config, "num_key_value_heads", path)
    D, H, K = shape["n_embd"], shape["n_head"], shape["n_kv_head"]
    if D % H or H % K:
        raise UserError(f"{path}: {H} heads and {K} of keys and values do not divide a hidden_size of {D}")
    for name, known in {"intermediate_size": 4 * D, "head_dim": D // H}.items():
        if config.get(name) not in (None, known):
            raise UserError(f"{path}: {name} is {config[name]!r}; with a hidden_size of {D} only {known} is known")
    return GPTConfig(
        **shape,
        **CLASSIC,
        window_pattern="L",
        rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        softcap=float(config.get("final_logit_softcapping", 15.0) or 0.0),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        pad_vocab_to=1,
    )


def in_port(config: GPTConfig) -> bool:
    """Whether an architecture is one that the port knows. A window that no position looks beyond is none."""
    widest = [config.window(layer) for layer in range(config.n_layer)]
    windows = any(0 < window < config.sequence_len - 1 for window in widest)
    return not windows and all(getattr(config, name) == value for name, value in CLASSIC.items())


def to_port(config: GPTConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`read` back: what goes into config.json, and the tensors under the port's names without padding rows."""
    assert in_port(config)
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
    named = {}
    for name, tensor in cut(config, state).items():
        for ours, port in NAMES.items():
            name = name.replace(ours, port)
        named[name] = tensor
    return theirs, named


def cut(config: GPTConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the padding rows of those that have a row for each token."""
    return {name: tensor[: config.vocab_size] if _by_token(name) else tensor for name, tensor in state.items()}


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, tensor in state.items():
        for ours, port in NAMES.items():
            name = name.replace(port, ours)
        named[name] = tensor
    return named


def _by_token(name: str) -> bool:
    return name in ("transformer.wte.weight", "lm_head.weight") or name.startswith("value_embeds.")


def _padded(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    """`cut` back: with as many rows as the architecture has, the new ones zero."""
    missing = config.padded_vocab - tensor.size(0) if _by_token(name) and tensor.size(0) == config.vocab_size else 0
    return torch.cat([tensor, tensor.new_zeros(missing, tensor.size(1))]) if missing else tensor


def _recorded(record: object, path: Path) -> GPTConfig:
    """The architecture as an export of ours wrote it down."""
    said = record.get("model_config") if isinstance(record, dict) else None
    known = {field.name for field in fields(GPTConfig)}
    if not isinstance(said, dict) or not said.keys() <= known or not 1 <= said.get("pad_vocab_to", 1) <= MOST_PADDING:
        raise UserError(f"{path}: its key {RECORD!r} is of another version; delete the key, or export the model again")
    return GPTConfig(**said)


def _read_several(index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} has no weight_map; expected the list of a model's files")
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is no file beside it")
        found |= _read(index.parent / name)
    if missing := sorted(places.keys() - found.keys()):
        raise UserError(f"{index} lists {missing[0]}, which {places[missing[0]]} does not hold; get the files again")
    return found


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise UserError(f"{path} is missing; get it from where the rest came from")
    check_regular(path)
    if path.suffix == ".safetensors":
        try:
            return torch_file.weights(load_file(path), path, gpt2.MASKS)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged: {error}; get it again") from None
    return torch_file.weights(torch_file.read(path), path, gpt2.MASKS)


def _count(config: Mapping[str, Any], name: str, path: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{path}: {name} is {value!r}; expected a number of 1 or more")
    return value
