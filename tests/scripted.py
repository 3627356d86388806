"""A real GPT whose weights are set by hand, so that a test knows what it will say."""

import itertools
from collections.abc import Iterable, Sequence

import torch

from nanochat import chat
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer


def scripted(tokenizer: Tokenizer, chains: Iterable[Sequence[int]], context: int = 64, n_kv_head: int = 1) -> GPT:
    """Each token of a chain follows the one before it; after any other token comes assistant_end."""
    vocabulary = tokenizer.vocab_size
    config = GPTConfig(
        sequence_len=context, vocab_size=vocabulary, n_layer=1, n_head=4, n_kv_head=n_kv_head, n_embd=vocabulary,
        window_pattern="L", lambdas=False, value_embeds=False, smear=False, backout=False,
    )  # fmt: skip
    model = GPT(config)  # the matrices that write to the residual are zero, so a position sees itself alone
    follows = {token: tokenizer.special(chat.ASSISTANT_END) for token in range(vocabulary)}
    follows |= {token: following for chain in chains for token, following in itertools.pairwise(chain)}
    with torch.no_grad():
        model.get_parameter("transformer.wte.weight").copy_(torch.eye(config.padded_vocab, vocabulary))
        model.lm_head.weight.zero_()
        for token, following in follows.items():
            model.lm_head.weight[following, token] = 10.0
    return model


def calculating(tokenizer: Tokenizer, says: str, context: int = 64) -> GPT:
    """Answers any question by the calculator's 6*7 and then `says`, whose tokens must all differ."""
    ids = chat.tool_ids(tokenizer)
    call = [tokenizer.special(chat.ASSISTANT_START), ids.python_start, *tokenizer.encode("6*7"), ids.python_end]
    return scripted(tokenizer, [call, [ids.output_end, *tokenizer.encode(says)]], context)


def taught(tokenizer: Tokenizer, conversations: Sequence[chat.Conversation], context: int) -> GPT:
    """Knows the assistant's messages of these conversations by heart."""
    rows = [chat.render(tokenizer, conversation) for conversation in conversations]
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    learned = torch.tensor([mask + [0] * (longest - len(mask)) for _, mask in rows])[:, 1:]
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(sequence_len=context, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)
    )
    model.init_weights()
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    for _ in range(1000):
        losses = model(ids[:, :-1], ids[:, 1:]) * learned
        if losses.max() < 0.3:  # each token has three quarters of the probability
            return model
        (losses.sum() / learned.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("the model did not learn the conversations")
