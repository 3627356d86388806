"""nanochat's Transformer for transformers, with all features of its architectures since January 2026.

An export copies this file into its folder, so it imports only torch and transformers. Parameters and settings have the
names of nanochat's own checkpoints; nanochat/gpt.py explains them.

Shapes: B rows, T new positions, S positions seen so far, D = n_embd, H query heads, K key/value heads, d = D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

SMEAR_CHANNELS = 24


class NanoChatGPTConfig(PretrainedConfig):
    model_type = "nanochat_gpt"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "max_position_embeddings": "sequence_len",
    }
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"
    short_window: int = 0
    long_window: int = 0
    rope_base: float = 100000.0
    rope_in_bfloat16: bool = False
    qk_scale: float = 1.2
    softcap: float = 15.0
    norm_eps: float = torch.finfo(torch.float32).eps
    lambdas: bool = True
    value_embeds: bool = True
    ve_gate_channels: int = 12
    ve_gate_range: float = 3.0
    smear: bool = True
    backout: bool = True
    bigram_rows: int = 0
    key_offset: bool = False
    tie_word_embeddings: bool = False

    def window(self, layer: int) -> int:
        short = self.window_pattern[layer % len(self.window_pattern)] in "sS" and layer != self.n_layer - 1
        return self.short_window if short else self.long_window

    def has_value_embed(self, layer: int) -> bool:
        return self.value_embeds and layer % 2 == (self.n_layer - 1) % 2


class Attention(nn.Module):
    def __init__(self, config: NanoChatGPTConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        self.head_size = config.n_embd // config.n_head
        self.c_q = nn.Linear(config.n_embd, config.n_head * self.head_size, bias=False)
        self.c_k = nn.Linear(config.n_embd, config.n_kv_head * self.head_size, bias=False)
        self.c_v = nn.Linear(config.n_embd, config.n_kv_head * self.head_size, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        if config.has_value_embed(layer):
            self.ve_gate = nn.Linear(config.ve_gate_channels, config.n_kv_head, bias=False)

    def forward(
        self, x: Tensor, value: Tensor | None, cos_sin: tuple[Tensor, Tensor], mask: Tensor,
        attention_mask: Tensor | None, cache, weights: list[Tensor] | None,
    ) -> Tensor:  # fmt: skip
        """x (B, T, D) is normed; value (B, T, K*d); mask (B or 1, 1, T, S) is true where a query sees a key.

        A list `weights` gets the attention weights (B, H, T, S) in float32, which the kernel does not keep. The cache
        holds each position's own keys, so whatever reorders or crops it does no harm to key_offset.
        """
        c = self.config
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_size)) for linear in (self.c_q, self.c_k, self.c_v))
        q, k = (norm(rotate(heads, cos_sin), c.norm_eps) * c.qk_scale for heads in (q, k))
        if value is not None:
            gate = c.ve_gate_range * torch.sigmoid(self.ve_gate(x[..., : c.ve_gate_channels]))
            v = v + gate[..., None] * value.view_as(v)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        if c.key_offset:
            k = offset(k, attention_mask)
        if weights is not None:
            scores = q.float() @ k.float().repeat_interleave(c.n_head // c.n_kv_head, dim=1).mT * self.head_size**-0.5
            weights.append(scores.masked_fill(~mask, -torch.inf).softmax(-1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=c.n_head != c.n_kv_head)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: NanoChatGPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config: NanoChatGPTConfig, layer: int):
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, *beside) -> Tensor:
        """x (B, T, D); the rest is what attention is given besides -> (B, T, D)."""
        x = x + self.attn(norm(x, self.eps), *beside)
        return x + self.mlp(norm(x, self.eps))


class Trunk(nn.Module):
    def __init__(self, config: NanoChatGPTConfig):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))


class NanoChatGPTForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = NanoChatGPTConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: NanoChatGPTConfig):
        super().__init__(config)
        V, D, L = config.vocab_size, config.n_embd, config.n_layer
        self.transformer = Trunk(config)
        self.lm_head = nn.Linear(D, V, bias=False)
        if config.lambdas:
            self.resid_lambdas = nn.Parameter(torch.ones(L))
            self.x0_lambdas = nn.Parameter(torch.zeros(L))
        if config.value_embeds:
            width = config.n_kv_head * (D // config.n_head)
            with_value = [layer for layer in range(L) if config.has_value_embed(layer)]
            self.value_embeds = nn.ModuleDict({str(layer): nn.Embedding(V, width) for layer in with_value})
        if config.bigram_rows:
            self.bigram = nn.Embedding(config.bigram_rows, D)
        if config.smear:
            self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """input_ids (B, T), attention_mask (B, S) with 0 on padding -> logits (B, T, V) in float32.

        With a cache the ids follow what it holds. Rows of different lengths are padded on the left. The hidden states
        are the input of the first layer and what each layer gives, the last of them normed as the output layer sees it;
        the attentions are each layer's weights (B, H, T, S), in float32.
        """
        c = self.config
        weights = [] if (c.output_attentions if output_attentions is None else output_attentions) else None
        cache = DynamicCache() if use_cache and past_key_values is None else past_key_values
        if not isinstance(cache, DynamicCache | None):
            raise ValueError(f"this model decodes with a DynamicCache only, not with a {type(cache).__name__}")
        past, T = 0 if cache is None else cache.get_seq_length(), input_ids.size(1)
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + T, device=input_ids.device)[None]
        windows = [c.window(layer) for layer in range(c.n_layer)]
        masks = {window: visible(window, past, T, attention_mask, input_ids.device) for window in set(windows)}
        x = self._embed(input_ids)
        cos_sin = rotary(position_ids, c.n_embd // c.n_head, c.rope_base, c.rope_in_bfloat16, x.dtype)
        if c.smear or c.bigram_rows:
            x = self._with_previous(x, input_ids, past, position_ids, cache)
        first = middle = x
        states = [x]
        for layer, block in enumerate(self.transformer.h):
            if c.lambdas:
                x = self.resid_lambdas[layer].to(x.dtype) * x + self.x0_lambdas[layer].to(x.dtype) * first
            value = self.value_embeds[str(layer)](input_ids).to(x.dtype) if c.has_value_embed(layer) else None
            x = block(x, value, cos_sin, masks[windows[layer]], attention_mask, cache, weights)
            if layer == c.n_layer // 2:
                middle = x
            states.append(x)
        if c.backout:
            x = x - self.backout_lambda.to(x.dtype) * middle
        x = norm(x, c.norm_eps)
        wanted = c.output_hidden_states if output_hidden_states is None else output_hidden_states
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, kept]).float()
        if c.softcap:
            logits = c.softcap * torch.tanh(logits / c.softcap)
        loss = None if labels is None else self.loss_function(logits, labels, c.vocab_size, **kwargs)
        hidden = (*states[:-1], x) if wanted else None
        attentions = None if weights is None else tuple(weights)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=cache, hidden_states=hidden, attentions=attentions
        )

    def _embed(self, ids: Tensor) -> Tensor:
        return norm(self.transformer.wte(ids), self.config.norm_eps)

    def _with_previous(self, x: Tensor, ids: Tensor, past: int, position_ids: Tensor, cache) -> Tensor:
        """Add what the previous token gives, (B, T, D): smear and pairs; the first token of a sequence has none.

        The cache keeps the ids, exact in float32, as the keys of one layer more, so that whatever reorders or crops it
        does so with them, too.
        """
        c, before = self.config, torch.zeros_like(ids[:, :1])
        if cache is not None:
            while len(cache.layers) <= c.n_layer:
                cache.layers.append(DynamicLayer())
            seen, _ = cache.update(ids[:, None, :, None].float(), x[:, None, :, :0], c.n_layer)
            before = seen[:, 0, past - 1 : past, 0].long() if past else before
        before, has = torch.cat([before, ids[:, :-1]], dim=1), (position_ids > 0)[..., None]
        if c.smear:
            gate = torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))
            x = x + self.smear_lambda.to(x.dtype) * gate * (self._embed(before) * has)
        if c.bigram_rows:
            x = x + self.bigram((before * 36313 ^ ids * 27191) % c.bigram_rows).to(x.dtype) * has
        return x


def norm(x: Tensor, eps: float) -> Tensor:
    """RMS norm over the last axis, without a learned weight."""
    return F.rms_norm(x, (x.size(-1),), eps=eps)


def rotary(positions: Tensor, head_size: int, base: float, in_bfloat16: bool, dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (B or 1, T, 1, d/2) for positions (B or 1, T)."""
    frequencies = 1.0 / base ** (torch.arange(0, head_size, 2, device=positions.device).float() / head_size)
    angles = positions[..., None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    if in_bfloat16:
        cos, sin = cos.bfloat16(), sin.bfloat16()
    return cos.to(dtype), sin.to(dtype)


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves (a, b) of each head by minus the position's angle."""
    cos, sin = cos_sin
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def offset(k: Tensor, attention_mask: Tensor | None) -> Tensor:
    """k (B, K, S, d) with the slower half of the rotated pairs from the position before it; 0 where there is none."""
    own = k.unflatten(-1, (2, -1))
    fast = own.size(-1) // 2
    before = F.pad(own[:, :, :-1, :, fast:], (0, 0, 0, 0, 1, 0))
    if attention_mask is not None:  # what comes before the first token is padding
        before = before * F.pad(attention_mask[:, :-1], (1, 0))[:, None, :, None, None].to(k.dtype)
    return torch.cat([own[..., :fast], before], dim=-1).flatten(-2)


def visible(window: int, past: int, T: int, attention_mask: Tensor | None, device) -> Tensor:
    """Which of past + T keys each of the T queries sees, (B or 1, 1, T, S); window 0: no limit."""
    keys = torch.arange(past + T, device=device)
    distance = keys[past:, None] - keys
    seen = (distance >= 0) & (distance <= window) if window else distance >= 0
    if attention_mask is None:
        return seen[None, None]
    # A padding position sees itself at least: softmax needs a key.
    return (seen & attention_mask[:, None, None, :].bool()) | (distance == 0)
