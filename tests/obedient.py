"""A real GPT that follows orders: a word anywhere in the prompt decides how the reply begins.

For clients that call a tool and come back, what a model says must depend on the conversation, and under a grammar it
must have a will of its own. The weights are set by hand: one attention layer averages over all positions, so that the
residual holds which of the words of interest were there; everything else a position sees is its own token.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from nanochat import chat
from nanochat.gpt import GPT
from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer
from tests.scripted import scripted

WEAK = 3.0  # beside the 10 of a chain: what to take where the grammar forbids the next token of it
SEEN, VETO = 1e4, 1e10  # a word that was there outweighs all this, and a veto outweighs that
# A piece of text that is a token as it stands is not split, so that replies are chains of tokens that all differ.
WORDS = """Good It sunny >sunny "sunny Once weather extract <tool _call >{" {" city ": "} Rome get _weather final Hello
string type properties required object title name json arguments function description number value answer the""".split()
SPACED = [" morning", " is", " sunny", " outside", " upon", " a", " time", " weather", " extract", ' "']
ORDERS = {"weather": "<tool", "extract": '{"', "sunny": "It"}  # word: how the reply begins; later ones count more


def tokenizer() -> Tokenizer:
    """Bytes, WORDS and SPACED."""
    tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in WORDS + SPACED]
    return Tokenizer({token: rank for rank, token in enumerate(tokens)}, chat.SPECIALS, SPLIT_PATTERN)


def obedient(tokenizer: Tokenizer, context: int = 4096) -> GPT:
    """Says "Good morning". Asked for the weather it begins a tool call; when it is sunny, it says that it is; asked to
    extract, it writes {"city": "Rome"}. Under a grammar every string is "Rome", and of the tools it prefers get_weather
    until it is sunny. It continues "Once" by " upon a time"."""
    said = ("Good morning", '<tool_call>{"', "It is sunny outside", '{"city": "Rome"}', "Once upon a time")
    chains = [tokenizer.encode(text) for text in said]
    start = tokenizer.special(chat.ASSISTANT_START)
    rome, quote, get, final = (tokenizer.encode(word)[0] for word in ("Rome", '"', "get", "final"))
    chains += [[start, chains[0][0]], [quote, rome]]
    model = scripted(tokenizer, chains, context)
    model.config = replace(model.config, softcap=0.0)
    with torch.no_grad():
        weights = model.lm_head.weight
        weights[quote] += WEAK
        weights[get] += WEAK / 2
        weights[final] += WEAK / 4
        seen = _attend_to(model, [_spelled(tokenizer, word) for word in ORDERS])
        weights[:, seen] = 0.0
        firsts = [tokenizer.encode(first)[0] for first in ORDERS.values()]
        for first in firsts:  # it begins a reply, and nothing else
            weights[first] = -VETO
            weights[first, [start, *seen]] = 0.0
        for number, first in enumerate(firsts):
            strength = SEEN * 100.0**number
            weights[[chains[0][0], *firsts[:number]], seen[number]] = -100.0 * strength
            weights[first, seen[number]] = strength
        weights[get, seen[-1]] = -SEEN
    return model


def _attend_to(model: GPT, tokens: Sequence[Sequence[int]]) -> list[int]:
    """Make attention write, for each group of tokens, how much of the past they are; returns the groups' channels."""
    attention = model.transformer.blocks[0].attn
    for matrix in (attention.c_q, attention.c_k, attention.c_v):
        matrix.weight.zero_()  # a query and a key of zeros: every position counts the same
    channels = [0xFF - number for number in range(len(tokens))]  # those of bytes that no text has
    for number, ids in enumerate(tokens):
        attention.c_v.weight[number, list(ids)] = 1.0
        attention.c_proj.weight[channels[number], number] = 1.0
    return channels


def _spelled(tokenizer: Tokenizer, word: str) -> list[int]:
    """The tokens of a word, whatever sign but an underscore stands before it."""
    tokens = {id: tokenizer.tokens[id] for id in range(256, tokenizer.first_special)}
    return [id for id, token in tokens.items() if token.endswith(word.encode()) and not token.startswith(b"_")]
