"""Tiny models that learned to copy random tokens that come twice, which makes induction heads (Olsson et al. 2022)."""

import served
import torch

import nanochat
from nanochat.engine.engine import Engine
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

LETTERS = "".join(map(chr, range(0x4E00, 0x4E00 + 40)))  # the vocabulary: 40 characters
HALF = 12  # tokens that come twice in training
OURS = GPTConfig(
    sequence_len=40, vocab_size=40, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, window_pattern="L", ve_gate_channels=8,
    bigram_rows=64, key_offset=True, pad_vocab_to=8,
)  # fmt: skip
# What GPT-2 is, in small.
GPT2 = GPTConfig(
    sequence_len=40, vocab_size=40, n_layer=2, n_head=4, n_kv_head=4, n_embd=32, window_pattern="L", lambdas=False,
    value_embeds=False, smear=False, backout=False, learned_positions=True, layer_norm=True, bias=True,
    activation="gelu_tanh", qk_norm=False, embed_norm=False, tied=True, softcap=0.0, qk_scale=1.0, pad_vocab_to=8,
)  # fmt: skip


def sequences(rows: int, generator: torch.Generator, half: int = HALF) -> torch.Tensor:
    """(rows, 2 * half) ids: the second half repeats the first."""
    first = torch.stack([torch.randperm(len(LETTERS), generator=generator)[:half] for _ in range(rows)])
    return torch.cat([first, first], dim=1)


def trained(config: GPTConfig, steps: int, rate: float, rows: int = 32) -> GPT:
    """A model that learned to repeat."""
    torch.manual_seed(0)
    model = GPT(config)
    generator = torch.Generator().manual_seed(1)
    adam = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, (step + 1) / 20, 2 * (1 - step / steps)))
    for _ in range(steps):
        half = int(torch.randint(4, config.sequence_len // 2 + 1, (1,), generator=generator))
        ids = sequences(rows, generator, half)
        adam.zero_grad()
        model(ids[:, :-1], ids[:, 1:])[:, half - 1 :].mean().backward()
        adam.step()
        schedule.step()
    return model.eval()


def as_model(model: GPT, name: str = "tiny") -> nanochat.Model:
    """The model as `nanochat.open` gives one, with a tokenizer of characters."""
    return nanochat.Model(name, served.loaded(Engine(model, slots=2), Tokenizer.characters(LETTERS), "base"))
