"""GPT-2's architecture in two spellings, that of transformers and that of nanoGPT, to ours and back.

Both keep queries, keys and values in one matrix (c_attn), which here are three. transformers stores matrices (in, out),
nanoGPT (out, in) as we do. The output layer is the embedding; nanoGPT stores it twice.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.checkpoint import torch_file
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig

PAD = 64  # programs round the rows of a vocabulary up to a multiple of it
PARTS = ("c_q", "c_k", "c_v")  # of c_attn, in this order
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}  # transformers' names: ours
NANOGPT_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
# What a config.json may say otherwise and the forward does not know, with the value that it does.
FIXED = {
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
    "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip
_TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
# Buffers of old files, not to be taken for c_attn.bias.
MASKS = re.compile(r"(_orig_mod\.)?(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")


def is_gpt2(config: GPTConfig) -> bool:
    """Whether an architecture is one that nanoGPT and transformers' GPT-2 know, so that it can be written for them."""
    shape = {"n_layer", "n_head", "n_kv_head", "n_embd", "sequence_len", "vocab_size", "pad_vocab_to", "dropout"}
    free = shape | {"activation", "bias", "norm_eps"}
    plain = _config(**{name: getattr(config, name) for name in free})
    return config == plain and config.n_kv_head == config.n_head


def from_hf(config: Mapping, state: Mapping[str, Tensor], path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The content of transformers' config.json and its tensors -> the architecture and the tensors under our names.

    path is named in errors. Raises UserError for a configuration that the forward does not know, and missing keys.
    """
    for name, known in FIXED.items():
        if config.get(name, known) != known:
            raise UserError(f"{path}: {name} is {config[name]!r}; only GPT-2 models with {known!r} are known")
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"{path}: activation_function is {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    missing = [name for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size") if name not in config]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; expected the config.json of a GPT-2")
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise UserError(f"{path}: n_inner is {config['n_inner']}; expected {4 * config['n_embd']}, four times n_embd")
    ours = _config(
        sequence_len=config["n_positions"],
        vocab_size=config["vocab_size"],
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        n_kv_head=config["n_head"],
        n_embd=config["n_embd"],
        bias=True,
        activation=ACTIVATIONS[activation],
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        dropout=config.get("resid_pdrop", 0.0),
    )
    named = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    plain = {
        f"transformer.{name}": tensor.T if _TRANSPOSED.fullmatch(name) else tensor
        for name, tensor in named.items()
        if not MASKS.fullmatch(name)
    }
    return ours, split(_without_head(plain, path))


def to_hf(config: GPTConfig, state: Mapping[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """`from_hf` back: what goes into config.json, and the tensors as transformers saves them.

    Padding rows are left out. transformers always has biases; those of a model without are zeros.
    """
    assert is_gpt2(config)
    theirs = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": config.sequence_len,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "vocab_size": config.vocab_size,
        "activation_function": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        **FIXED,
    }
    joined = join(state)
    joined["transformer.wte.weight"] = joined["transformer.wte.weight"][: config.vocab_size]
    if not config.bias:
        for name in [name for name in joined if not re.search(r"wte|wpe", name)]:
            joined[name.replace(".weight", ".bias")] = joined[name].new_zeros(joined[name].size(0))
    short = {name: name.removeprefix("transformer.") for name in joined}
    return theirs, {
        name: (tensor.T if _TRANSPOSED.fullmatch(short[name]) else tensor).contiguous()
        for name, tensor in joined.items()
    }


def from_nanogpt(args: Mapping, state: Mapping[str, Tensor], path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """model_args and model of a ckpt.pt -> the architecture and the tensors under our names. Raises as `from_hf`."""
    missing = [name for name in NANOGPT_ARGS[:4] if name not in args]
    if missing:
        raise UserError(f"{path}: its model_args lack {', '.join(missing)}; expected a checkpoint of nanoGPT")
    ours = _config(
        sequence_len=args["block_size"],
        vocab_size=args.get("vocab_size") or 50304,
        n_layer=args["n_layer"],
        n_head=args["n_head"],
        n_kv_head=args["n_head"],
        n_embd=args["n_embd"],
        bias=bool(args.get("bias", True)),  # files from before the option have biases
        activation="gelu",
        norm_eps=1e-5,
        dropout=float(args.get("dropout", 0.0)),
    )
    named = torch_file.weights(state, path, MASKS)
    plain = {name.removeprefix("_orig_mod."): tensor for name, tensor in named.items()}
    plain = {name: tensor for name, tensor in plain.items() if not MASKS.fullmatch(name)}
    return ours, split(_without_head(plain, path))


def to_nanogpt(config: GPTConfig, state: Mapping[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """`from_nanogpt` back, padding rows included: model_args, and the tensors in the order of nanoGPT's own files."""
    assert is_gpt2(config)
    args = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.sequence_len,
        "bias": config.bias,
        "vocab_size": config.padded_vocab,
        "dropout": config.dropout,
    }
    joined = join(state)
    names = ["transformer.wte", "transformer.wpe"]
    for layer in range(config.n_layer):
        parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        names += [f"transformer.h.{layer}.{part}" for part in parts]
    names.append("transformer.ln_f")
    keys = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    theirs = {key: joined[key] for key in keys if key in joined}
    return args, {**theirs, "lm_head.weight": joined["transformer.wte.weight"]}


def with_tokenizer(config: GPTConfig, vocab_size: int) -> GPTConfig:
    """The architecture with the rows that no token has as padding, which is never sampled.

    nanoGPT rounds GPT-2's 50257 tokens up to 50304 and does not write down how many of them there are.
    """
    rows = config.padded_vocab
    pad = 64 if -(-vocab_size // 64) * 64 == rows else rows
    return GPTConfig(**{**vars(config), "vocab_size": vocab_size, "pad_vocab_to": 1 if vocab_size == rows else pad})


def _config(**shape: Any) -> GPTConfig:
    """What all GPT-2s have in common, and this one's shape."""
    return GPTConfig(
        window_pattern="L",
        rope_base=0.0,
        qk_scale=1.0,
        softcap=0.0,
        lambdas=False,
        value_embeds=False,
        smear=False,
        backout=False,
        learned_positions=True,
        layer_norm=True,
        qk_norm=False,
        embed_norm=False,
        tied=True,
        **{"pad_vocab_to": 1, **shape},
    )


def _without_head(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The output layer must be the embedding, where it is stored at all."""
    head = state.pop("lm_head.weight", state.pop("transformer.lm_head.weight", None))
    embedding = state.get("transformer.wte.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise UserError(f"{path}: lm_head.weight differs from the embedding; only models that tie the two are known")
    return state


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
    return {
        name.replace("c_q", "c_attn"): torch.cat([state[name.replace("c_q", part)] for part in PARTS])
        if ".c_q." in name
        else tensor
        for name, tensor in state.items()
        if not re.search(r"\.(c_k|c_v)\.", name)
    }
