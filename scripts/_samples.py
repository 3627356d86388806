"""Texts that a model writes, for people to look at."""

from collections.abc import Sequence

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.gpt import GPT
from nanochat.terminal import printable
from nanochat.tokenizer import Tokenizer


def write_samples(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 96,
    temperature: float = 0.7,
    top_k: int = 50,
    seed: int = 42,
) -> list[dict[str, str]]:
    """Print and return [{"prompt", "text"}]: the continuation of each prompt, up to the end of the document.

    An empty prompt gives a document from its beginning. Each sample has its own random numbers, drawn from `seed`.
    """
    requests = [
        Request(
            chat.text_prompt(tokenizer, prompt),
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            sample=i,
            stop_ids=chat.stop_ids(tokenizer),
        )
        for i, prompt in enumerate(prompts)
    ]
    replies = Engine(model, slots=max(1, len(requests))).generate(requests)
    samples = []
    for prompt, reply in zip(prompts, replies, strict=True):
        text = tokenizer.decode(reply.tokens, cut_off=True)
        print(f"\n--- {prompt or '(no prompt)'}\n{prompt}{printable(text)}", flush=True)
        samples.append({"prompt": prompt, "text": text})
    return samples
