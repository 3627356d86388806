"""The Transformer, from token ids to logits. Read from top to bottom: the parts come first, `GPT` puts them together.

Every number that changes a logit is in `GPTConfig`; the code knows features, not generations of nanochat. Read with the
defaults it is modern nanochat, which takes many ideas from modded-nanogpt (Jordan et al., the speedrun that trains
GPT-2 small); with the last group of switches it is GPT-2.

Shapes: B rows, T time, D channels (n_embd), H query heads, K key/value heads, d head size (D / H), V vocabulary,
L layers. Matrices are (out, in). Parameter names are those of nanochat's checkpoints, and of nanoGPT's for what only
GPT-2 has.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanochat.attention import Documents, Rotary, attend, documents_in, offset, rotary_for, rotate
from nanochat.kv_cache import CacheRows
from nanochat.loss import Rows, Soft, chunk_rows, summed_nll
from nanochat.paged_cache import PagedRows

Cached = CacheRows | PagedRows  # what a forward pass continues
Tap = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # q, k, v and the result of attention -> its result
SMEAR_CHANNELS = 24  # inputs of smear_gate in every checkpoint that has one


@dataclass(frozen=True)
class GPTConfig:
    """The architecture. The defaults of the switches are those of new runs ("modern" nanochat).

    The last group is what GPT-2 (Radford et al. 2019) and nanoGPT do differently.
    """

    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"  # repeated over the layers; the last layer is always L
    short_window: int = 0  # positions an S layer looks back; 0 = no limit
    long_window: int = 0  # positions an L layer looks back; 0 = no limit
    rope_base: float = 100000.0
    rope_in_bfloat16: bool = False  # round cos and sin to bfloat16 whatever the compute dtype
    qk_scale: float = 1.2  # factor on q and on k after their norm
    softcap: float = 15.0
    norm_eps: float = torch.finfo(torch.float32).eps
    lambdas: bool = True  # per-layer scales of the residual stream and of the first layer's input
    value_embeds: bool = True  # in every second layer, the last one included
    ve_gate_channels: int = 12
    ve_gate_range: float = 3.0
    smear: bool = True  # add a gated fraction of the previous token's embedding to each
    backout: bool = True  # subtract a fraction of the middle layer's output at the end
    bigram_rows: int = 0  # of a table of hashed pairs of tokens, added to the embeddings; 0 = none; new runs have it
    key_offset: bool = False  # take the slow half of each key's channels from the previous position
    pad_vocab_to: int = 64  # rows of the vocabulary matrices are rounded up to a multiple of this

    learned_positions: bool = False  # a learned vector per position, for sequence_len positions, instead of RoPE
    layer_norm: bool = False  # LayerNorm (Ba et al. 2016) with learned weights instead of RMS norm without
    bias: bool = False  # in linears and LayerNorms
    activation: str = "relu2"  # of the MLP: relu2, gelu (exact) or gelu_tanh
    qk_norm: bool = True
    embed_norm: bool = True
    tied: bool = False  # the output layer's matrix is the embedding's
    dropout: float = 0.0  # during training

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab_size // self.pad_vocab_to) * self.pad_vocab_to

    def window(self, layer: int) -> int:
        """How many positions layer `layer` looks back; 0 = no limit.

        Sliding-window attention (Child et al. 2019, Beltagy et al. 2020): most layers attend to the recent past only,
        which is cheaper; information from farther back passes through the layers in between that see everything.
        """
        is_short = self.window_pattern[layer % len(self.window_pattern)] in "sS" and layer != self.n_layer - 1
        return self.short_window if is_short else self.long_window

    def has_value_embed(self, layer: int) -> bool:
        return self.value_embeds and layer % 2 == (self.n_layer - 1) % 2


# ---------------------------------------------------------------- parts


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input; float32 weights are cast at each product.

    So weights, gradients and optimizer state are float32 while the products are, say, bfloat16.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = False):
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Do nothing: GPT.init_weights draws all parameters."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)

    def factors(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """An input and a matrix (outputs, inputs) whose product the layer computes."""
        return input, self.weight


class Gate(Linear):
    """Numbers in (0, 1) that a token's own channels decide: the sigmoid of a small linear layer."""

    def forward(self, input: Tensor, exactly: bool = False) -> Tensor:
        """With `exactly`, for decoding on a CPU, the last bits do not depend on the number of rows.

        The vectorised exp differs from the scalar one in the last bits; computed in float64 and rounded they agree.
        """
        if exactly and input.device.type == "cpu":
            return torch.sigmoid(F.linear(input.double(), self.weight.double())).to(input.dtype)
        return torch.sigmoid(super().forward(input))


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Do nothing: GPT.init_weights draws all parameters."""

    def while_whole(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args), which reads this table. A rank that has a part of it (`sharded`) has all of it meanwhile."""
        return function(*args)


class Norm(nn.Module):
    """RMS norm without parameters, or LayerNorm with them, over the last axis of (..., D)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.empty(config.n_embd)) if config.layer_norm else None
        self.bias = nn.Parameter(torch.empty(config.n_embd)) if config.layer_norm and config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return norm(x, self.eps)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


class Attention(nn.Module):
    """Causal self-attention: each position looks at itself and at earlier ones (Vaswani et al. 2017).

    With K < H, groups of query heads share a key/value head, which makes the cache smaller (grouped-query attention,
    Ainslie et al. 2023).
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config = config
        self.layer = layer
        self.window = config.window(layer)
        D, d = config.n_embd, config.head_size
        self.c_q = Linear(D, config.n_head * d, config.bias)
        self.c_k = Linear(D, config.n_kv_head * d, config.bias)
        self.c_v = Linear(D, config.n_kv_head * d, config.bias)
        self.c_proj = Linear(D, D, config.bias)
        self.qkv: nn.Module | None = None  # c_q, c_k and c_v in one matrix, once `engine.cpu_weights.pack` joined them
        self.ve_gate = Gate(config.ve_gate_channels, config.n_kv_head) if config.has_value_embed(layer) else None
        self.tap: Tap | None = None  # sees what attention works on, and may replace its result; see `inspection`

    def forward(self, x: Tensor, value: Tensor | None, beside: "Beside") -> Tensor:
        """x (B, T, D) is normed; value (B, T, K*d) is this layer's value embedding -> (B, T, D)."""
        cos_sin, cache = beside.cos_sin, beside.cache
        B, T, D = x.shape
        c = self.config
        # (B, T, D) -> q (B, T, H, d), k and v (B, T, K, d)
        if self.qkv is None:
            v = self.c_v(x)
            q = self._rope_and_norm(self.c_q(x).view(B, T, -1, c.head_size), cos_sin)
            k = self._rope_and_norm(self.c_k(x).view(B, T, -1, c.head_size), cos_sin)
        else:  # the same in fewer and larger operations
            qk, v = self.qkv(x).split([(c.n_head + c.n_kv_head) * c.head_size, c.n_kv_head * c.head_size], dim=-1)
            q, k = self._rope_and_norm(qk.view(B, T, -1, c.head_size), cos_sin).split([c.n_head, c.n_kv_head], dim=2)
        v = v.view(B, T, c.n_kv_head, c.head_size)
        # Value embeddings: the token itself, looked up in a table of this layer's own, is added to what attention
        # hands on, by a gate per head. They add parameters at almost no compute. From modded-nanogpt, inspired by value
        # residual learning (Zhou et al. 2024).
        if self.ve_gate is not None and value is not None:
            gate = c.ve_gate_range * self.ve_gate(x[..., : c.ve_gate_channels], exactly=cache is not None)
            v = v + gate[..., None] * value.view(B, T, c.n_kv_head, c.head_size)
        if cache is None:
            k = offset(k, beside.documents) if c.key_offset else k  # a cache does so as it stores them
            y = attend(q, k, v, self.window, dropout_rate(self), beside.documents)
            y = y if self.tap is None else self.tap(q, k, v, y)
        else:
            y = cache.attend(self.layer, q, k, v, self.window)
        return self.c_proj(y.reshape(B, T, D))  # (B, T, H, d) -> (B, T, D)

    def _rope_and_norm(self, heads: Tensor, cos_sin: Rotary | None) -> Tensor:
        """Queries or keys (B, T, heads, d), rotated by their positions, then normed and scaled.

        RoPE (Su et al. 2021) rotates pairs of channels by angles that grow with the position, so that the product of a
        query and a key depends on how far apart they are. QK norm (Henry et al. 2020) bounds the attention scores,
        which keeps training stable; qk_scale sets how sharp attention can be.
        """
        c = self.config
        if cos_sin is not None:
            heads = rotate(heads, cos_sin)
        return norm(heads, c.norm_eps, c.qk_scale) if c.qk_norm else heads


class MLP(nn.Module):
    """(B, T, D) -> (B, T, 4 D) -> (B, T, D), on each position by itself."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.activation = config.activation
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.activation == "relu2":  # relu(x)^2: found by Primer's search (So et al. 2021), and cheaper than GELU
            x = F.relu(x).square()
        else:
            x = F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.c_proj(x)


class Beside(NamedTuple):
    """What every block sees besides the residual stream."""

    ids: Tensor  # (B, T)
    first: Tensor  # (B, T, D), the first block's input
    cos_sin: Rotary | None
    cache: Cached | None
    documents: Documents | None = None  # those of each row, where they are not to see each other
    recompute: bool = False  # keep only a block's input, and compute it anew in the backward pass (Chen et al. 2016)


class Block(nn.Module):
    """Attention, which mixes positions, then the MLP; each reads a normed x and adds to it (pre-norm)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config = config
        self.ln_1 = Norm(config)
        self.attn = Attention(config, layer)
        self.ln_2 = Norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, scales: tuple[Tensor, Tensor] | None, table: Tensor | None, beside: Beside) -> Tensor:
        """x (B, T, D) -> (B, T, D). scales are two scalars; table (V, K*d) holds the layer's value embeddings.

        All that belongs to a layer happens here, so that a layer can be compiled, or recomputed, by itself.
        """
        if beside.recompute:
            return cast(Tensor, checkpoint(self._computed, x, scales, table, beside, use_reentrant=False))
        return self._computed(x, scales, table, beside)

    def _computed(
        self, x: Tensor, scales: tuple[Tensor, Tensor] | None, table: Tensor | None, beside: Beside
    ) -> Tensor:
        # Residual scalars: each layer scales the residual stream, and adds the first layer's input x0 again, so that
        # deep layers still see the tokens themselves. From modded-nanogpt.
        if scales is not None:
            x = scales[0] * x + scales[1] * beside.first
        value = None if table is None else F.embedding(beside.ids, table).to(x.dtype)
        x = x + dropped(self.attn(self.ln_1(x), value, beside), self)
        return x + dropped(self.mlp(self.ln_2(x)), self)


class Trunk(nn.Module):
    """Embeddings, blocks and last norm, a module of its own because checkpoints name its tensors "transformer.*"."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.wte = Embedding(config.padded_vocab, config.n_embd)
        self.wpe = Embedding(config.sequence_len, config.n_embd) if config.learned_positions else None
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = Norm(config)

    @property
    def blocks(self) -> list[Block]:
        return cast(list[Block], list(self.h))


# ---------------------------------------------------------------- the model


class GPT(nn.Module):
    """`model(ids)` gives logits, `model(ids, targets)` negative log likelihoods, `model(ids, cache=rows)` decodes."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype = torch.float32):
        """dtype is that of the activations; the weights keep their own, float32 at first.

        On the meta device nothing is initialised: the tensors of a checkpoint are put in later.
        """
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.document_bos: int | None = None  # in training: the id that begins a document, which sees no earlier ones
        self.recompute = False  # compute each block anew in the backward pass, instead of keeping what it computed
        V, D, L = config.padded_vocab, config.n_embd, config.n_layer
        self.transformer = Trunk(config)
        # Untied: the output layer has a matrix of its own. Tying it to the embedding (Press & Wolf 2017), as GPT-2
        # does, saves parameters, but embedding and output layer then cannot learn at different rates.
        self.lm_head: nn.Module | None = None if config.tied else Linear(D, V)
        if config.lambdas:
            self.resid_lambdas = nn.Parameter(torch.ones(L))
            self.x0_lambdas = nn.Parameter(torch.zeros(L))
        if config.value_embeds:
            width = config.n_kv_head * config.head_size
            with_value = [layer for layer in range(L) if config.has_value_embed(layer)]
            self.value_embeds = nn.ModuleDict({str(layer): Embedding(V, width) for layer in with_value})
        if config.bigram_rows:
            self.bigram = Embedding(config.bigram_rows, D)
        if config.smear:
            self.smear_gate = Gate(SMEAR_CHANNELS, 1)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.zeros(1))
        if not self.transformer.wte.weight.is_meta:
            self.init_weights()

    @property
    def device(self) -> torch.device:
        return self.transformer.wte.weight.device

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, cache: Cached | None = None, last_only: bool = False
    ) -> Tensor:
        """ids (B, T) -> logits (B, T, V) float32; with targets (B, T) -> negative log likelihoods (B, T) float32.

        With a cache the ids continue what its rows hold; with last_only only the last id's logits are computed,
        (B, 1, V). Raises ValueError when the cache has no room for the ids, or for positions beyond the learned ones.
        """
        x = GPT.hidden(self, ids, cache, last_only)  # not self.hidden: FSDP watches both, and calls must not nest
        return self._logits(x) if targets is None else self.nll(x, targets)

    def nll(self, x: Tensor, targets: Tensor) -> Tensor:
        """The negative log likelihoods (...), float32, of targets (...) int64, of what `hidden` returned, (..., D)."""
        flat, chosen = x.flatten(0, -2), targets.flatten()
        # A few rows at a time, so that the logits of all positions are never in memory together; their gradient would
        # need them all, which is why training takes `loss`.
        rows = len(flat) if torch.is_grad_enabled() else chunk_rows(len(flat), self.config.vocab_size, x.device)
        parts = zip(flat.split(rows), chosen.split(rows), strict=True)
        return torch.cat([F.cross_entropy(self._logits(x), at, reduction="none") for x, at in parts]).view_as(targets)

    def loss(
        self, x: Tensor, targets: Tensor, weights: Tensor, trained: Tensor | None = None, rows: Rows | None = None,
        soft: Soft | None = None,
    ) -> Tensor:  # fmt: skip
        """The sum of nll * weight, a float32 scalar to be differentiated once, of what `hidden` returned.

        x (B, T, D), targets (B, T) int64, weights (B, T) float32; the rest as in `loss.summed_nll`.
        """
        c, (x, matrix) = self.config, self.factors(x)
        return summed_nll(x, matrix, targets, weights, trained, c.softcap, c.vocab_size, rows, soft)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., D) of what `hidden` returned and the output layer's matrix (V, D), whose product are the raw logits.

        With an adapter on the output layer both are wider.
        """
        return (x, self.transformer.wte.weight) if self.lm_head is None else cast(Linear, self.lm_head).factors(x)

    def hidden(self, ids: Tensor, cache: Cached | None = None, last_only: bool = False) -> Tensor:
        """ids (B, T) -> what the output layer reads, (B, T, D), or (B, 1, D) with last_only. Raises as `forward`."""
        c = self.config
        x, cos_sin, documents = self.transformer.wte.while_whole(self._enter, ids, cache)
        # A view, because a block whose x and x0 are one tensor would be a kind of its own to torch.compile.
        recompute = self.recompute and torch.is_grad_enabled()
        middle, beside = x, Beside(ids, x.view_as(x), cos_sin, cache, documents, recompute)
        scales = None
        if c.lambdas:
            scales = self.resid_lambdas.to(x.dtype).unbind(), self.x0_lambdas.to(x.dtype).unbind()
        for layer, block in enumerate(self.transformer.blocks):
            own = None if scales is None else (scales[0][layer], scales[1][layer])
            x = self._through(layer, block, x, own, beside)
            if layer == c.n_layer // 2:
                middle = x
        if cache is not None:
            cache.finish(ids)
        return self._leave(x, middle, cache, last_only)

    def _through(
        self, layer: int, block: Block, x: Tensor, scales: tuple[Tensor, Tensor] | None, beside: Beside
    ) -> Tensor:
        """What a block makes of x (B, T, D), with the table of its layer's value embeddings if there is one."""
        if not self.config.has_value_embed(layer):
            return block(x, scales, None, beside)
        table = cast(Embedding, self.value_embeds[str(layer)])
        return table.while_whole(lambda x: block(x, scales, table.weight, beside), x)

    def _enter(self, ids: Tensor, cache: Cached | None) -> tuple[Tensor, Rotary | None, Documents | None]:
        """ids (B, T) -> the first block's input (B, T, D), cos and sin of RoPE, documents."""
        c = self.config
        positions = torch.arange(ids.size(1), device=ids.device)[None] if cache is None else cache.begin(ids.size(1))
        cos_sin = rotary_for(c, positions, self.dtype) if cache is None else cache.cos_sin()
        x = self.embed(ids)  # (B, T) -> (B, T, D)
        documents = None
        if self.document_bos is not None and cache is None:
            documents = documents_in(ids, self.document_bos)
        if c.smear or c.bigram_rows:
            before = previous(ids, documents) if cache is None else cache.previous(ids)
            smeared = self._smear(x, before, shifted=cache is None) if c.smear else x
            x = smeared + self._pairs(before, ids) if c.bigram_rows else smeared
        if self.transformer.wpe is not None:
            if cache is None and ids.size(1) > c.sequence_len:
                raise ValueError(f"{ids.size(1)} tokens exceed the {c.sequence_len} positions that this model has")
            x = x + self.transformer.wpe(positions).to(x.dtype)
        return dropped(x, self), cos_sin, documents

    def _leave(self, x: Tensor, middle: Tensor, cache: Cached | None, last_only: bool) -> Tensor:
        """What the last and the middle block gave, (B, T, D) -> what the output layer reads."""
        # Backout: what the middle layers wrote for later layers to read need not be in the prediction, so a learned
        # fraction of it is subtracted. From modded-nanogpt.
        if self.config.backout:
            x = x - self.backout_lambda.to(x.dtype) * middle
        if last_only:
            x = x[:, -1:] if cache is None else cache.newest(x)
        return self.transformer.ln_f(x)

    def lens(self, x: Tensor, middle: Tensor | None = None) -> Tensor:
        """The logit lens (nostalgebraist 2020): logits (B, T, V), float32, as if a block's result were the last one's.

        x (B, T, D) is that result, middle the middle block's, None for an x from before it.
        """
        return self._logits(self.transformer.ln_f(x) if middle is None else self._leave(x, middle, None, False))

    def embed(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., D), normed if the model does that, without smear and positions."""
        x = F.embedding(ids, self.transformer.wte.weight).to(self.dtype)
        return norm(x, self.config.norm_eps) if self.config.embed_norm else x

    def _smear(self, embedded: Tensor, before: Tensor, shifted: bool) -> Tensor:
        """Smear: add a gated fraction of the previous token's embedding (B, T, D); the first token has none before it.

        `shifted` says that the tokens `before` are those of `embedded`, so they need not be looked up again.

        Pairs of neighbours are visible from the first layer on, which otherwise takes an attention layer; compare the
        smeared keys of Olsson et al. 2022. From modded-nanogpt.
        """
        if shifted:
            earlier = torch.cat([torch.zeros_like(embedded[:, :1]), embedded[:, :-1]], dim=1)
        else:
            earlier = self.embed(before.clamp_min(0))
        gate = self.smear_gate(embedded[..., :SMEAR_CHANNELS], exactly=not shifted)
        return embedded + self.smear_lambda.to(embedded.dtype) * gate * (earlier * (before >= 0)[..., None])

    def _pairs(self, before: Tensor, ids: Tensor) -> Tensor:
        """A learned vector (B, T, D) for each token with the one before it, (B, T) both; 0 for the first.

        The pairs share the table's rows by a hash. What usually follows two tokens is then known without any layer,
        which saves a small model many steps: from modded-nanogpt.
        """
        vectors = self.bigram((before * 36313 ^ ids * 27191) % self.config.bigram_rows)
        return vectors.to(self.dtype) * (before >= 0)[..., None]

    def _logits(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> logits (B, T, V) in float32, without the padding rows of the vocabulary.

        The softcap, cap * tanh(z / cap), keeps them within ±cap and training stable (Gemma 2, 2024).
        """
        cap = self.config.softcap
        if self.lm_head is None:
            z = F.linear(x, self.transformer.wte.weight.to(x.dtype)).float()
        else:
            z = self.lm_head(x).float()
        # tanh(z) = 2 sigmoid(2 z) - 1; inductor's CPU code for sigmoid is vectorised where tanh is not.
        z = cap * (2 * torch.sigmoid(z * (2 / cap)) - 1) if cap else z
        return z[..., : self.config.vocab_size]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw every parameter from the global random generator.

        Matrices that write to the residual stream start at zero, so at first the blocks add nothing.
        """
        c = self.config
        if c.learned_positions:
            return self._init_as_gpt2()
        bound = (3 / c.n_embd) ** 0.5  # of a uniform distribution with standard deviation D^-0.5
        nn.init.normal_(self.transformer.wte.weight, std=0.8)
        if isinstance(self.lm_head, Linear):
            nn.init.normal_(self.lm_head.weight, std=0.001)
        for block in self.transformer.blocks:
            for matrix in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
                nn.init.uniform_(matrix.weight, -bound, bound)
            nn.init.uniform_(block.mlp.c_fc.weight, -0.4 * bound, 0.4 * bound)
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
            if block.attn.ve_gate is not None:
                nn.init.uniform_(block.attn.ve_gate.weight, 0, 0.02)
        if c.lambdas:
            self.resid_lambdas.copy_(torch.linspace(1.15, 1.05, c.n_layer))
            self.x0_lambdas.copy_(torch.linspace(0.20, 0.05, c.n_layer))
        if c.value_embeds:
            for embedding in self.value_embeds.parameters():
                nn.init.uniform_(embedding, -bound, bound)
        if c.bigram_rows:
            nn.init.zeros_(self.bigram.weight)
        if c.smear:
            nn.init.uniform_(self.smear_gate.weight, 0, 0.02)
            nn.init.zeros_(self.smear_lambda)
        if c.backout:
            nn.init.constant_(self.backout_lambda, 0.2)

    def _init_as_gpt2(self) -> None:
        """N(0, 0.02), divided by sqrt(2 L) where 2 L layers add to the residual stream (Radford et al. 2019, 2.3)."""
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:  # a LayerNorm's weight
                nn.init.ones_(parameter)
            else:
                into_residual = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.n_layer) ** 0.5 if into_residual else 0.02)


# ---------------------------------------------------------------- functions


def previous(ids: Tensor, documents: Documents | None) -> Tensor:
    """The id before each of ids (B, T); -1 where a row or a document begins."""
    before = F.pad(ids[:, :-1], (1, 0), value=-1)
    return before if documents is None else torch.where(documents.continues, before, -1)


def dropout_rate(module: Attention | Block | GPT) -> float:
    """The dropout probability now: 0 unless the module trains."""
    rate = module.config.dropout
    return rate if rate and module.training and torch.is_grad_enabled() else 0.0


def dropped(x: Tensor, module: Block | GPT) -> Tensor:
    """x with dropout (Srivastava et al. 2014) while training, as GPT-2 and nanoGPT have it."""
    rate = dropout_rate(module)
    return F.dropout(x, rate) if rate else x


def norm(x: Tensor, eps: float, scale: float = 1.0) -> Tensor:
    """RMS norm over the last axis (Zhang & Sennrich 2019), without a learned weight, times `scale`."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        y = F.rms_norm(x, (x.size(-1),), eps=eps)
        return y if scale == 1 else y * scale
    # The same in 5 operations instead of rms_norm's 12 on a CPU: while decoding, starting one costs more than its work.
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    factor = torch.addcmul(_constant(eps / scale**2), length, length, value=1 / (x.size(-1) * scale**2)).rsqrt_()
    return torch.mul(x, factor, out=torch.empty_like(x))


@functools.cache
def _constant(value: float) -> Tensor:
    """A tensor that is made once, not at every call."""
    return torch.tensor(value, device="cpu")


def count_parameters(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
