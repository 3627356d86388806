"""An independent reference: every kind of model that is loaded here, computed in float64 one plain step at a time.

Written from the description of the formats (docs), not from nanochat/gpt.py, and sharing no code with it. Tiny random
models are drawn, written in the files of the programs they stand for, and their logits computed; tests/test_parity.py
compares. All parameters are far from neutral, so that a convention got wrong moves the logits.

Shapes: T positions, D width, H query heads, K key/value heads, d head size, V tokens, R rows (V and padding).
"""

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiktoken
import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
SPECIALS = ("bos", "user_start", "user_end", "assistant_start", "assistant_end", "python_start", "python_end",
            "output_start", "output_end")  # fmt: skip
PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
           r"|\s+(?!\S)|\s+")  # fmt: skip
MERGES = ("th", "he", "in", "er", "an", " th", "re", " the")
VOCAB = 256 + len(MERGES) + len(SPECIALS)


# ---------------------------------------------------------------- nanochat, and the port of its classic generation


@dataclass(frozen=True)
class Nanochat:
    """What one generation of the code takes for granted, and the shape of the models drawn here."""

    context: int = 400  # late: S windows of 256 positions; modern: of 128
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    width: int = 48
    vocab: int = VOCAB
    pad_to: int = 64  # rows of the vocabulary are rounded up to a multiple of it
    pattern: str = ""  # S and L, one letter a layer, repeated; "": every layer sees everything
    short: int = 0  # how far back S layers see
    rope_base: float = 10000.0
    rounds_rope: bool = True  # cos and sin to bfloat16
    qk_scale: float = 1.0
    softcap: float = 15.0
    eps: float = 2.0**-23
    lambdas: bool = False
    gate_channels: int = 0  # of value embeddings; 0: the model has none
    gate_range: float = 0.0
    smear: bool = False
    backout: bool = False
    bigrams: int = 0  # rows of the table of pairs
    key_offset: bool = False  # a key's slower pairs are those of the position before

    @property
    def rows(self) -> int:
        return math.ceil(self.vocab / self.pad_to) * self.pad_to

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def has_value(self, layer: int) -> bool:
        return self.gate_channels > 0 and layer % 2 == (self.layers - 1) % 2

    def sees(self, layer: int) -> float:
        if not self.pattern:
            return math.inf
        is_last = layer == self.layers - 1
        return self.context if is_last or self.pattern[layer % len(self.pattern)] == "L" else self.short


_EARLY = Nanochat(lambdas=True)
_FEBRUARY = Nanochat(lambdas=True, gate_channels=32, gate_range=2.0, pattern="SSSL", short=200)
_LATE = Nanochat(lambdas=True, gate_channels=12, gate_range=3.0, pattern="SSSL", short=256, rope_base=100000.0,
                 rounds_rope=False, qk_scale=1.15)  # fmt: skip
GENERATIONS = {
    "classic, October 2025 to 10 January 2026": Nanochat(),
    "11 to 15 January 2026": _EARLY,
    "16 January to 2 March 2026": _FEBRUARY,
    "3 to 8 March 2026": Nanochat(**{**vars(_FEBRUARY), "softcap": 20.0}),
    "9 to 13 March 2026": _LATE,
    "modern, since 14 March 2026": Nanochat(
        **{**vars(_LATE), "short": 128, "qk_scale": 1.2, "smear": True, "backout": True}
    ),
}  # fmt: skip
PORT = Nanochat(rounds_rope=False, eps=1e-6, pad_to=1)


def nanochat_logits(c: Nanochat, weights: Weights, ids: Sequence[int]) -> Tensor:
    """The logits (T, V) of a text."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    embedded = _rms(w["transformer.wte.weight"][list(ids)], c.eps)
    x = embedded.clone()
    if c.smear:
        for t in range(1, len(ids)):
            gate = torch.sigmoid(w["smear_gate.weight"][0] @ embedded[t, :24])
            x[t] = embedded[t] + w["smear_lambda"] * gate * embedded[t - 1]
    if c.bigrams:
        for t in range(1, len(ids)):
            x[t] += w["bigram.weight"][((ids[t - 1] * 36313) ^ (ids[t] * 27191)) % c.bigrams]
    first = middle = x
    for layer in range(c.layers):
        if c.lambdas:
            x = w["resid_lambdas"][layer] * x + w["x0_lambdas"][layer] * first
        x = x + _nanochat_attention(c, w, layer, _rms(x, c.eps), ids)
        hidden = (_rms(x, c.eps) @ w[f"transformer.h.{layer}.mlp.c_fc.weight"].T).clamp(min=0) ** 2
        x = x + hidden @ w[f"transformer.h.{layer}.mlp.c_proj.weight"].T
        if layer == c.layers // 2:
            middle = x
    if c.backout:
        x = x - w["backout_lambda"] * middle
    z = (_rms(x, c.eps) @ w["lm_head.weight"].T)[:, : c.vocab]
    return c.softcap * torch.tanh(z / c.softcap)


def _nanochat_attention(c: Nanochat, w: Weights, layer: int, u: Tensor, ids: Sequence[int]) -> Tensor:
    """u (T, D), normed -> (T, D)."""
    name, T, d = f"transformer.h.{layer}.attn", len(ids), c.head_size
    q = (u @ w[f"{name}.c_q.weight"].T).view(T, c.heads, d)
    k = (u @ w[f"{name}.c_k.weight"].T).view(T, c.kv_heads, d)
    v = (u @ w[f"{name}.c_v.weight"].T).view(T, c.kv_heads, d)
    if c.has_value(layer):
        gate = c.gate_range * torch.sigmoid(u[:, : c.gate_channels] @ w[f"{name}.ve_gate.weight"].T)
        v = v + gate[:, :, None] * w[f"value_embeds.{layer}.weight"][list(ids)].view(T, c.kv_heads, d)
    q, k = (_rms(_turned(c, heads), c.eps) * c.qk_scale for heads in (q, k))
    if c.key_offset:
        slow = [j for j in range(d) if j % (d // 2) >= d // 4]
        for t in range(T - 1, -1, -1):
            k[t, :, slow] = k[t - 1][:, slow] if t else 0.0
    read = [h * c.kv_heads // c.heads for h in range(c.heads)]  # the key/value head of each query head
    heads = [_softmax_attention(q[:, h], k[:, g], v[:, g], c.sees(layer)) for h, g in enumerate(read)]
    return torch.cat(heads, dim=1) @ w[f"{name}.c_proj.weight"].T


def _turned(c: Nanochat, x: Tensor) -> Tensor:
    """x (T, heads, d): pair j is (x[j], x[j + d/2]), turned by minus position * base^(-2j/d)."""
    frequencies = 1.0 / (c.rope_base ** (torch.arange(0, c.head_size, 2, dtype=torch.float32) / c.head_size))
    angles = torch.outer(torch.arange(len(x), dtype=torch.float32), frequencies)
    cos, sin = angles.cos(), angles.sin()  # in float32, as the programs have it
    if c.rounds_rope:
        cos, sin = cos.bfloat16(), sin.bfloat16()
    cos, sin = cos.double()[:, None], sin.double()[:, None]
    a, b = x[..., : c.head_size // 2], x[..., c.head_size // 2 :]
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def draw_nanochat(c: Nanochat, seed: int = 0) -> Weights:
    """Random weights under the names of the original's files."""
    draw = _Drawer(seed)
    kv = c.kv_heads * c.head_size
    w = {"transformer.wte.weight": draw(c.rows, c.width)}
    for layer in range(c.layers):
        name = f"transformer.h.{layer}"
        w[f"{name}.attn.c_q.weight"] = draw(c.width, c.width, std=c.width**-0.5)
        w[f"{name}.attn.c_k.weight"] = draw(kv, c.width, std=c.width**-0.5)
        w[f"{name}.attn.c_v.weight"] = draw(kv, c.width, std=c.width**-0.5)
        w[f"{name}.attn.c_proj.weight"] = draw(c.width, c.width, std=c.width**-0.5)
        w[f"{name}.mlp.c_fc.weight"] = draw(4 * c.width, c.width, std=c.width**-0.5)
        w[f"{name}.mlp.c_proj.weight"] = draw(c.width, 4 * c.width, std=0.5 * c.width**-0.5)
        if c.has_value(layer):
            w[f"{name}.attn.ve_gate.weight"] = draw(c.kv_heads, c.gate_channels, std=0.5)
            w[f"value_embeds.{layer}.weight"] = draw(c.rows, kv)
    w["lm_head.weight"] = draw(c.rows, c.width, std=8 * c.width**-0.5)  # the softcap has something to cap
    if c.lambdas:
        w |= {"resid_lambdas": 1 + 0.2 * draw(c.layers), "x0_lambdas": 0.4 * draw(c.layers)}
    if c.smear:
        w |= {"smear_gate.weight": draw(1, 24, std=0.5), "smear_lambda": torch.tensor([0.8])}
    if c.backout:
        w["backout_lambda"] = torch.tensor([0.4])
    return w


def write_nanochat(folder: Path, c: Nanochat, weights: Weights, step: int = 7) -> None:
    """A base checkpoint as the generation's own training leaves it on a GPU, its tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in weights.items()}, folder / f"model_{step:06d}.pt")
    shape = {"sequence_len": c.context, "vocab_size": c.vocab, "n_layer": c.layers, "n_head": c.heads,
             "n_kv_head": c.kv_heads, "n_embd": c.width}  # fmt: skip
    meta = {
        "step": step, "val_bpb": None, "model_config": shape | ({"window_pattern": c.pattern} if c.pattern else {}),
        "user_config": {"total_batch_size": 500, "matrix_lr": 0.02}, "device_batch_size": 32, "max_seq_len": c.context,
        "dataloader_state_dict": {"pq_idx": 0, "rg_idx": 1}, "loop_state": {"min_val_bpb": math.inf},
    }  # fmt: skip
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    write_nanochat_tokenizer(folder)


def write_nanochat_tokenizer(folder: Path) -> None:
    """tokenizer.pkl, and token_bytes.pt as the classic code counts: by the decoded text, U+FFFD for half a letter."""
    ranks = {token: rank for rank, token in enumerate([*(bytes([b]) for b in range(256)), *map(str.encode, MERGES)])}
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(SPECIALS)}
    encoding = tiktoken.Encoding("rustbpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding, protocol=4))
    lengths = [len(token.decode("utf-8", "replace").encode()) for token in ranks] + [0] * len(special)
    torch.save(torch.tensor(lengths, dtype=torch.int32), folder / "token_bytes.pt")


PORT_NAMES = {"wte": "embed_tokens", "c_q": "self_attn.q_proj", "c_k": "self_attn.k_proj", "c_v": "self_attn.v_proj",
              "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip


def write_port(folder: Path, c: Nanochat, weights: Weights) -> None:
    """The same mathematics as transformers' NanoChat stores it: config.json and model.safetensors."""
    renamed = {"model.embed_tokens.weight": weights["transformer.wte.weight"],
               "lm_head.weight": weights["lm_head.weight"]}  # fmt: skip
    for layer in range(c.layers):
        for part in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            theirs = PORT_NAMES.get(part) or PORT_NAMES[part.removeprefix("attn.")]
            renamed[f"model.layers.{layer}.{theirs}.weight"] = weights[f"transformer.h.{layer}.{part}.weight"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "nanochat", "architectures": ["NanoChatForCausalLM"], "vocab_size": c.vocab,
        "hidden_size": c.width, "intermediate_size": 4 * c.width, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "max_position_embeddings": c.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base}, "rms_norm_eps": c.eps,
        "final_logit_softcapping": c.softcap, "hidden_act": "relu2", "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_nanochat_tokenizer(folder)


# ---------------------------------------------------------------- GPT-2 and nanoGPT


@dataclass(frozen=True)
class GPT2:
    """The shape, and the two things in which the programs differ."""

    context: int = 48
    layers: int = 3
    heads: int = 4
    width: int = 32
    vocab: int = 256 + len(MERGES) + 1
    exact_gelu: bool = False  # by erf, as nanoGPT has it; else by tanh, as GPT-2 has it
    eps: float = 1e-5
    bias: bool = True


CHARACTERS = "\n !,.?ABCXYZabcdefghijklmnopqrstuvwxyz"
NANOGPT = GPT2(vocab=len(CHARACTERS), exact_gelu=True)


def gpt2_logits(c: GPT2, weights: Weights, ids: Sequence[int]) -> Tensor:
    """The logits (T, V) of a text, from weights under nanoGPT's names."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    x = w["transformer.wte.weight"][list(ids)] + w["transformer.wpe.weight"][: len(ids)]
    for layer in range(c.layers):
        name = f"transformer.h.{layer}"
        qkv = _linear(w, f"{name}.attn.c_attn", _layer_norm(w, f"{name}.ln_1", x, c.eps))
        q, k, v = (part.view(len(ids), c.heads, -1) for part in qkv.split(c.width, dim=1))
        heads = [_softmax_attention(q[:, h], k[:, h], v[:, h], math.inf) for h in range(c.heads)]
        x = x + _linear(w, f"{name}.attn.c_proj", torch.cat(heads, dim=1))
        hidden = _gelu(_linear(w, f"{name}.mlp.c_fc", _layer_norm(w, f"{name}.ln_2", x, c.eps)), c.exact_gelu)
        x = x + _linear(w, f"{name}.mlp.c_proj", hidden)
    return _layer_norm(w, "transformer.ln_f", x, c.eps) @ w["transformer.wte.weight"].T


def draw_gpt2(c: GPT2, seed: int = 0) -> Weights:
    """Random weights under nanoGPT's names, in the order of its files."""
    draw = _Drawer(seed)
    D = c.width
    w = {"transformer.wte.weight": draw(c.vocab, D), "transformer.wpe.weight": draw(c.context, D)}

    def linear(name: str, rows: int, columns: int) -> None:
        w[f"{name}.weight"] = draw(rows, columns, std=columns**-0.5)
        if c.bias:
            w[f"{name}.bias"] = draw(rows, std=0.3)

    def layer_norm(name: str) -> None:
        w[f"{name}.weight"] = 1 + 0.3 * draw(D)
        if c.bias:
            w[f"{name}.bias"] = draw(D, std=0.3)

    for layer in range(c.layers):
        name = f"transformer.h.{layer}"
        layer_norm(f"{name}.ln_1")
        linear(f"{name}.attn.c_attn", 3 * D, D)
        linear(f"{name}.attn.c_proj", D, D)
        layer_norm(f"{name}.ln_2")
        linear(f"{name}.mlp.c_fc", 4 * D, D)
        linear(f"{name}.mlp.c_proj", D, 4 * D)
    layer_norm("transformer.ln_f")
    return w


def write_gpt2(folder: Path, c: GPT2, weights: Weights, prefix: str = "") -> None:
    """GPT-2 as its files on the hub are: matrices (in, out), no output layer, and the buffers of causal masks."""
    named = {}
    for name, tensor in weights.items():
        is_matrix = tensor.ndim == 2 and ".h." in name
        named[prefix + name.removeprefix("transformer.")] = (tensor.T if is_matrix else tensor).contiguous()
    for layer in range(c.layers):
        named[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, c.context, c.context, dtype=torch.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": c.context, "n_embd": c.width,
              "n_layer": c.layers, "n_head": c.heads, "vocab_size": c.vocab, "layer_norm_epsilon": c.eps,
              "activation_function": "gelu" if c.exact_gelu else "gelu_new"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    # One printable character for each byte: its own where it has one, else the next from U+0100 on.
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xFF and b != 0xAD]
    hidden = [b for b in range(256) if b not in printable]
    spelled = {b: chr(b) if b in printable else chr(0x100 + hidden.index(b)) for b in range(256)}
    merged = ["".join(spelled[b] for b in token.encode()) for token in MERGES]
    tokens = [*(spelled[b] for b in range(256)), *merged, "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(tokens)}), encoding="utf-8")
    splits = [(token[:i], token[i:]) for token in merged for i in range(1, len(token))]
    pairs = [f"{a} {b}" for a, b in splits if a in tokens and b in tokens]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")


def write_nanogpt(folder: Path, c: GPT2, weights: Weights, prefix: str = "") -> torch.optim.AdamW:
    """nanoGPT's ckpt.pt of step 10 and the meta.pkl of its characters. Returns the optimizer that is in it."""
    names = sorted(weights, key=lambda name: weights[name].ndim < 2)
    parameters = [torch.nn.Parameter(weights[name].clone()) for name in names]
    matrices = sum(parameter.ndim >= 2 for parameter in parameters)
    groups = [{"params": parameters[:matrices], "weight_decay": 0.1}, {"params": parameters[matrices:]}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.0)
    draw = _Drawer(1)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = draw(*parameter.shape)
        optimizer.step()
    with torch.no_grad():
        for name, parameter in zip(names, parameters, strict=True):
            parameter.copy_(weights[name])
    stored = {**weights, "lm_head.weight": weights["transformer.wte.weight"]}
    args = {"n_layer": c.layers, "n_head": c.heads, "n_embd": c.width, "block_size": c.context, "bias": c.bias,
            "vocab_size": c.vocab, "dropout": 0.0}  # fmt: skip
    config = {"dataset": "letters", "init_from": "scratch", "learning_rate": 6e-4, "weight_decay": 0.1, "beta1": 0.9,
              "beta2": 0.95}  # fmt: skip
    content = {"model": {prefix + name: tensor for name, tensor in stored.items()}, "optimizer": optimizer.state_dict(),
               "model_args": args, "iter_num": 10, "best_val_loss": torch.tensor(3.25), "config": config}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "ckpt.pt")
    characters = {"vocab_size": c.vocab, "itos": dict(enumerate(CHARACTERS)),
                  "stoi": {character: id for id, character in enumerate(CHARACTERS)}}  # fmt: skip
    (folder / "meta.pkl").write_bytes(pickle.dumps(characters))
    return optimizer


# ---------------------------------------------------------------- what both are made of


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, sees: float) -> Tensor:
    """One head, q, k and v (T, d): position i reads the positions j with 0 <= i - j <= sees."""
    distance = torch.arange(len(q))[:, None] - torch.arange(len(q))
    scores = q @ k.T / math.sqrt(q.size(1))
    scores = scores.masked_fill((distance < 0) | (distance > sees), -math.inf)
    weights = (scores - scores.amax(dim=1, keepdim=True)).exp()
    return weights / weights.sum(dim=1, keepdim=True) @ v


def _rms(x: Tensor, eps: float) -> Tensor:
    return x / ((x * x).mean(dim=-1, keepdim=True) + eps).sqrt()


def _layer_norm(w: Mapping[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    centered = x - x.mean(dim=-1, keepdim=True)
    return _rms(centered, eps) * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0)


def _linear(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def _gelu(x: Tensor, exact: bool) -> Tensor:
    if exact:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class _Drawer:
    """Normal random numbers of any shape, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(*shape, generator=self.generator)
