"""GPT-2s of toy size with random weights, in the files of transformers and of nanoGPT, for those who load them."""

import json
from pathlib import Path

import torch
import transformers

from extras.nanogpt import ckpt
from nanochat.checkpoint import gpt2, manager
from nanochat.foreign_tokenizers import byte_characters
from nanochat.tokenizer import Tokenizer

MERGES = ["h e", "l l", "Ġ t", "Ġt he", "a n", "Ġ c", "a t", "Ġc at"]
END = "<|endoftext|>"


def write_gpt2(folder: Path, context: int = 32) -> transformers.GPT2LMHeadModel:
    """A transformers folder: weights, config.json, vocab.json and merges.txt. Returns transformers' model."""
    model = _random(write_tokenizer(folder), context, "gelu_new")
    model.save_pretrained(folder)
    return model


def write_tokenizer(folder: Path) -> int:
    """Its vocab.json and merges.txt alone. Returns the number of tokens."""
    tokens = [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES), END]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    return len(tokens)


def write_nanogpt(folder: Path, text: str, context: int = 32) -> transformers.GPT2LMHeadModel:
    """nanoGPT's ckpt.pt and meta.pkl for the characters of a text. Returns transformers' model of the same weights."""
    model = _random(len(set(text)), context, "gelu")
    config, state = gpt2.from_hf(model.config.to_dict(), model.state_dict(), folder)
    ours = manager.build(config, state, folder)
    ckpt.write(folder / "ckpt.pt", ours, {"steps": 0, "state": {}}, {"dataset": "letters"}, 5, 1.5)
    (folder / "meta.pkl").write_bytes(Tokenizer.characters(text).pickled())
    return model


def _random(vocab_size: int, context: int, activation: str) -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=context, n_embd=32, n_layer=2, n_head=2, activation_function=activation,
        initializer_range=0.3, bos_token_id=vocab_size - 1, eos_token_id=vocab_size - 1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()
