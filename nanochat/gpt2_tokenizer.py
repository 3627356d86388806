"""GPT-2's tokenizer, which nanoGPT uses too: fetched from the hub, and recognized."""

from nanochat import foreign_tokenizers, hub
from nanochat.tokenizer import Tokenizer

VOCABULARIES = (50257, 50304)  # GPT-2's tokens, and these rounded up as nanoGPT does
FILES = [name for names in foreign_tokenizers.FILES[:2] for name in names]  # as GPT-2's repositories have them


def load() -> Tokenizer:
    """GPT-2's tokenizer, from the files of its repository on the hub. Raises what `hub.fetch` raises."""
    return Tokenizer.load(hub.fetch(hub.GPT2["gpt2"], FILES))


def is_gpt2s(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is GPT-2's: one with its split pattern and as many tokens is taken for it."""
    return tokenizer.pattern == foreign_tokenizers.GPT2_PATTERN and tokenizer.vocab_size == VOCABULARIES[0]
