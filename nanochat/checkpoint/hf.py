"""Folders of transformers (GPT-2, its NanoChat port, exports of ours): their weights in any layout, under our names.

The port is the classic architecture with every matrix unchanged; only names differ. An export of ours records the whole
architecture in config.json under the key "nanochat", which is used rather than the port's values.

One number differs: the port computes cos and sin of the rotary positions in the activations' precision, where classic
nanochat rounds them to bfloat16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nanochat.checkpoint import gpt2, reading
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
# Settings of the port's config.json that our forward pass implements with one value only.
FIXED = {"hidden_act": "relu2", "attention_bias": False, "tie_word_embeddings": False, "rope_scaling": None}
ROPE_FIXED = {"rope_type": "default", "partial_rotary_factor": 1.0}
# Our features for which the port has no setting, with the values that it implements.
CLASSIC = {
    "qk_scale": 1.0, "lambdas": False, "value_embeds": False, "smear": False, "backout": False, "bigram_rows": 0,
    "key_offset": False, "learned_positions": False, "layer_norm": False, "bias": False, "activation": "relu2",
    "qk_norm": True, "embed_norm": True, "tied": False,
}  # fmt: skip


def read(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The architecture of a model in a folder, and its tensors under our names.

    Raises UserError for another model, and for a configuration that the forward pass does not implement.
    """
    path, config = folder / "config.json", read_config(folder)
    with reading.sensible(path):
        if config.get("model_type") == "gpt2":
            ours, state = gpt2.from_hf(config, tensors(folder), path)
        elif config.get("model_type") in (PORT, OWN):
            ours = _recorded(config, path) if config.get(RECORD) is not None else from_port(config, path)
            ours_named = renamed(tensors(folder), {theirs: name for name, theirs in NAMES.items()})
            state = {name: _padded(name, tensor, ours) for name, tensor in ours_named.items()}
        else:
            raise UserError(f"{path} is of a model_type {config.get('model_type')!r}; expected 'gpt2' or {PORT!r}")
        reading.check_shape(ours)
    return ours, state


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json, {} if it is missing. Raises UserError if it is not a JSON object."""
    path = folder / "config.json"
    return read_json(path) if path.exists() else {}


def record(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an export of ours recorded in config.json: model_config, source, tag, step, tokenizer_hash; else {}."""
    found = config.get(RECORD)
    return found if isinstance(found, dict) else {}


def from_port(config: Mapping[str, Any], path: Path) -> GPTConfig:
    """The port's config.json -> the architecture. Raises UserError for settings that are not implemented."""
    if config["model_type"] == OWN:
        raise UserError(f"{path} has lost its key {RECORD!r}, which describes the model; export it again")
    rope = config.get("rope_parameters") or {}
    reading.check_fixed(rope, ROPE_FIXED, path)
    D, H = config["hidden_size"], config["num_attention_heads"]
    reading.check_fixed(config, {**FIXED, "intermediate_size": 4 * D, "head_dim": D // H}, path)
    return GPTConfig(
        **{ours: config[theirs] for ours, theirs in SHAPE.items()},
        **CLASSIC,
        n_kv_head=config.get("num_key_value_heads") or H,
        window_pattern="L",
        rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        softcap=float(config.get("final_logit_softcapping", 15.0) or 0.0),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        pad_vocab_to=1,
    )


def tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's weights, on the CPU: safetensors or else .bin, in one file or several.

    Raises UserError, naming the file, for one that is missing, damaged, or a .bin that would run code.
    """
    for single, index in LAYOUTS:
        if (folder / single).exists():
            return read_file(folder / single)
        if (folder / index).exists():
            return _read_several(folder / index)
    raise UserError(f"{folder} has no weights; expected one of {', '.join(name for pair in LAYOUTS for name in pair)}")


def _read_several(index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} has no weight_map; expected the list of a model's files")
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is not a file beside it")
        if not (index.parent / name).exists():
            raise UserError(f"{index.parent / name} is missing; get it from where the rest came from")
        found |= read_file(index.parent / name)
    if missing := sorted(places.keys() - found.keys()):
        raise UserError(f"{index} lists {missing[0]}, which {places[missing[0]]} does not hold; get the files again")
    return found


def read_file(path: Path) -> dict[str, Tensor]:
    check_regular(path)
    if path.suffix != ".safetensors":
        return reading.weights(reading.torch_file(path), path, gpt2.MASKS)
    try:
        return reading.weights(load_file(path), path, gpt2.MASKS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}; get it again") from None


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with parts of their names replaced."""
    named = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        named[name] = tensor
    return named


def by_token(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    return name in ("transformer.wte.weight", "lm_head.weight") or name.startswith("value_embeds.")


def _padded(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    """The tensor with as many rows as the architecture has, padding included; new rows are zero."""
    missing = config.padded_vocab - tensor.size(0) if by_token(name) and tensor.size(0) == config.vocab_size else 0
    return torch.cat([tensor, tensor.new_zeros(missing, tensor.size(1))]) if missing else tensor


def _recorded(config: Mapping[str, Any], path: Path) -> GPTConfig:
    """The architecture as an export of ours recorded it."""
    values = record(config).get("model_config")
    known = GPTConfig.__dataclass_fields__.keys()
    if (
        not isinstance(values, dict)
        or not values.keys() <= known
        or not 1 <= values.get("pad_vocab_to", 1) <= MOST_PADDING
    ):
        raise UserError(f"{path}: its key {RECORD!r} is of another version; delete the key, or export the model again")
    return GPTConfig(**values)
