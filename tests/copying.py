"""Tiny models that learned to copy random tokens that come again, which makes induction heads (Olsson et al. 2022)."""

from collections.abc import Callable

import served
import torch
import torch.nn.functional as F

import nanochat
from nanochat.engine.engine import Engine
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

LETTERS = "".join(map(chr, range(0x4E00, 0x4E00 + 40)))  # the vocabulary: 40 characters
T = 24
OURS = GPTConfig(
    sequence_len=T, vocab_size=40, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, window_pattern="L", ve_gate_channels=8,
    bigram_rows=64, key_offset=True, pad_vocab_to=8,
)  # fmt: skip
# What GPT-2 is, in small.
GPT2 = GPTConfig(
    sequence_len=T, vocab_size=40, n_layer=2, n_head=4, n_kv_head=4, n_embd=32, window_pattern="L", lambdas=False,
    value_embeds=False, smear=False, backout=False, learned_positions=True, layer_norm=True, bias=True,
    activation="gelu_tanh", qk_norm=False, embed_norm=False, tied=True, softcap=0.0, qk_scale=1.0, pad_vocab_to=8,
)  # fmt: skip


def sequences(rows: int, generator: torch.Generator, period: int) -> torch.Tensor:
    """(rows, T) ids: `period` different tokens, again and again."""
    first = torch.stack([torch.randperm(len(LETTERS), generator=generator)[:period] for _ in range(rows)])
    return first.repeat(1, -(-T // period))[:, :T]


def trained(config: GPTConfig) -> GPT:
    """A model that learned to repeat.

    With key_offset one layer can. GPT-2's way takes two, of which the first has to look at the token before, and long;
    so its first layer learns that in a lesson of its own, and its matrices begin larger than 0.02, which is little for
    this width.
    """
    torch.manual_seed(0)
    model = GPT(config)
    generator = torch.Generator().manual_seed(1)
    if config.key_offset:
        _learn(model, 150, 1e-2, lambda: _loss_of_repeats(model, sequences(16, generator, _period(generator))))
        return model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    _learn(model, 60, 1e-2, lambda: _loss_of_the_token_before(model, generator))
    _learn(model, 350, 6e-3, lambda: _loss_of_repeats(model, sequences(32, generator, _period(generator))))
    return model.eval()


def _period(generator: torch.Generator) -> int:
    return int(torch.randint(4, T // 2 + 1, (1,), generator=generator))


def _learn(model: GPT, steps: int, rate: float, loss: Callable[[], torch.Tensor]) -> None:
    adam = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1.5 * min(0.67, 1 - step / steps))
    for _ in range(steps):
        adam.zero_grad()
        loss().backward()
        adam.step()
        schedule.step()


def _loss_of_repeats(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """The loss on tokens that came before."""
    period = int((ids[0] == ids[0, 0]).nonzero()[1])
    return model(ids[:, :-1], ids[:, 1:])[:, period - 1 :].mean()


def _loss_of_the_token_before(model: GPT, generator: torch.Generator) -> torch.Tensor:
    """How badly the first layer's attention alone predicts, of random tokens, the one before each."""
    ids = torch.randint(len(LETTERS), (32, T), generator=generator)
    seen: list[torch.Tensor] = []
    handle = model.transformer.h[0].attn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.hidden(ids)
    handle.remove()
    return F.cross_entropy(model.lens(seen[0])[:, 1:].flatten(0, 1), ids[:, :-1].flatten())


def as_model(model: GPT, name: str = "tiny") -> nanochat.Model:
    """The model as `nanochat.open` gives one, with a tokenizer of characters."""
    return nanochat.Model(name, served.loaded(Engine(model, slots=2), Tokenizer.characters(LETTERS), "base"))
