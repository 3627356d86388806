"""GPT-2's architecture as transformers and as nanoGPT store it, to ours and back.

Both keep queries, keys and values in one matrix (c_attn), which here are three. transformers stores matrices (in, out),
nanoGPT (out, in) as we do. The output layer is the embedding; nanoGPT stores it twice.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint import reading
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig

PAD = 64  # programs round the rows of a vocabulary up to a multiple of it
SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
PARTS = ("c_q", "c_k", "c_v")  # of c_attn, in this order
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}  # transformers' names: ours
# Settings of a config.json that our forward pass implements with one value only.
FIXED = {
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
    "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip
_TRANSPOSED = re.compile(r"(?:transformer\.)?h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
# Buffers of old files, not to be mistaken for c_attn.bias.
MASKS = re.compile(r"(_orig_mod\.)?(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")


def published(name: str) -> GPTConfig:
    """The architecture of gpt2, gpt2-medium, gpt2-large or gpt2-xl, without its files."""
    layers, heads, width = SIZES[name]
    return _config(heads, sequence_len=1024, vocab_size=50257, n_layer=layers, n_embd=width, activation="gelu_tanh")


def is_gpt2(config: GPTConfig) -> bool:
    """Whether nanoGPT and transformers' GPT-2 have this architecture, so that it can be written for them."""
    free = ("n_layer", "n_head", "n_embd", "sequence_len", "vocab_size", "pad_vocab_to", "dropout", "activation",
            "bias", "norm_eps")  # fmt: skip
    return config == _config(**{name: getattr(config, name) for name in free})


def from_hf(config: Mapping, state: Mapping[str, Tensor], path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """transformers' config.json and tensors -> the architecture and the tensors under our names.

    Raises UserError, naming path, for a configuration that the forward pass does not implement.
    """
    reading.check_fixed(config, {**FIXED, "n_inner": 4 * config["n_embd"]}, path)
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"{path}: activation_function is {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    ours = _config(
        sequence_len=config["n_positions"],
        **{name: config[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd")},
        activation=ACTIVATIONS[activation],
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        dropout=config.get("resid_pdrop", 0.0),
    )
    # Files on the hub have names without "transformer.".
    named = {f"transformer.{name.removeprefix('transformer.')}": turned(name, w) for name, w in state.items()}
    return ours, _ours(named, path)


def from_nanogpt(args: Mapping, state: Mapping[str, Tensor], path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """A ckpt.pt's model_args and model -> the architecture and the tensors under our names. Raises as `from_hf`."""
    ours = _config(
        sequence_len=args["block_size"],
        vocab_size=args.get("vocab_size") or 50304,
        **{name: args[name] for name in ("n_layer", "n_head", "n_embd")},
        bias=bool(args.get("bias", True)),  # files from before this option have biases
        activation="gelu",
        dropout=float(args.get("dropout", 0.0)),
    )
    named = reading.weights(state, path, MASKS)
    return ours, _ours({name.removeprefix("_orig_mod."): tensor for name, tensor in named.items()}, path)


def with_tokenizer(config: GPTConfig, vocab_size: int) -> GPTConfig:
    """The architecture with the rows beyond its tokenizer's tokens as padding, which is never sampled.

    nanoGPT rounds GPT-2's 50257 tokens up to 50304 and does not record how many of them there are.
    """
    rows = config.padded_vocab
    pad = PAD if -(-vocab_size // PAD) * PAD == rows else rows
    return replace(config, vocab_size=vocab_size, pad_vocab_to=1 if vocab_size == rows else pad)


def _config(n_head: int, **values: Any) -> GPTConfig:
    """What all GPT-2s have in common, and this one's own values."""
    plain: dict[str, Any] = {
        "bias": True, "norm_eps": 1e-5, "pad_vocab_to": 1, "window_pattern": "L", "rope_base": 0.0, "qk_scale": 1.0,
        "softcap": 0.0, "lambdas": False, "value_embeds": False, "smear": False, "backout": False,
        "learned_positions": True, "layer_norm": True, "qk_norm": False, "embed_norm": False, "tied": True,
    }  # fmt: skip
    return GPTConfig(**{**plain, "n_head": n_head, "n_kv_head": n_head, **values})


def _ours(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """nanoGPT's tensors -> ours: without masks, and without the output layer, which must be the embedding."""
    head = state.pop("lm_head.weight", state.pop("transformer.lm_head.weight", None))
    embedding = state.get("transformer.wte.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise UserError(f"{path}: lm_head.weight differs from the embedding; only models that tie the two are known")
    return split({name: tensor for name, tensor in state.items() if not MASKS.fullmatch(name)})


def turned(name: str, tensor: Tensor) -> Tensor:
    """transformers' (in, out) matrices <-> (out, in)."""
    return tensor.T if _TRANSPOSED.fullmatch(name) else tensor


def split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """c_attn (3 D, D) or (3 D,) -> c_q, c_k and c_v of a third each, in memory of their own."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".c_attn." in name:
            for part, third in zip(PARTS, tensor.chunk(3), strict=True):
                ours[name.replace("c_attn", part)] = third.contiguous()
        else:
            ours[name] = tensor.contiguous()
    return ours


def join(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`split` back."""
    joined: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".c_q." in name:
            joined[name.replace("c_q", "c_attn")] = torch.cat([state[name.replace("c_q", part)] for part in PARTS])
        elif ".c_k." not in name and ".c_v." not in name:
            joined[name] = tensor
    return joined
