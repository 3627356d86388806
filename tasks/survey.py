"""Counts the conversations that are too long for a context length, which are cut or left out."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat import chat
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

SAMPLE = 50_000  # at most so many conversations are rendered, evenly spread; takes some seconds
LOST = 0.05  # warn if a larger fraction of the conversations is too long


@dataclass(frozen=True)
class Survey:
    """Of `conversations`, `looked_at` were rendered. Of those, `cut` lose turns at their end and `left_out` do not even
    fit with their first exchange; `tokens` remain. With a context length of `needed` at most LOST would be too long.
    """

    conversations: int
    looked_at: int
    tokens: int
    cut: int
    left_out: int
    max_seq_len: int
    needed: int

    @property
    def is_lossy(self) -> bool:
        """Whether so many are too long that the user should be warned."""
        return self.cut + self.left_out > LOST * self.looked_at

    def __str__(self) -> str:
        """One line to print."""
        whole = self.looked_at == self.conversations
        tokens = round(self.tokens * self.conversations / self.looked_at)
        summary = f"{self.conversations:,} conversations, {'' if whole else 'about '}{tokens:,} tokens"
        if not self.cut + self.left_out:
            return summary if whole else f"{summary} (of a sample of {self.looked_at:,})"
        too_long = f"{self.cut + self.left_out:,}" + ("" if whole else f" of a sample of {self.looked_at:,}")
        return (
            f"{summary}; {too_long} are longer than {self.max_seq_len:,} tokens: {self.cut:,} lose turns at their end, "
            f"{self.left_out:,} are left out"
        )

    def remedy(self, context: int) -> str:
        """Advice how to keep more of them with a model of this context length."""
        if self.max_seq_len < context:
            enough = "" if self.needed <= context else " keeps more of them"
            return f"--max_seq_len={min(self.needed, context)}{enough}"
        return f"shorten them, or start from a model whose context has {self.needed:,} tokens"


def survey(conversations: Sequence[dict], tokenizer: Tokenizer, max_seq_len: int, context: int) -> Survey:
    """Count before training in rows of max_seq_len tokens; `context` is the model's context length.

    Raises UserError if all conversations would be left out.
    """
    total = len(conversations)
    looked_at = min(total, SAMPLE)
    tokens = cut = left_out = 0
    lengths = []
    for n in range(looked_at):
        conversation = conversations[n * total // looked_at]
        length = len(chat.render(tokenizer, conversation)[0])
        lengths.append(length)
        if length > max_seq_len + 1:  # a row has one token more than a context, the last one's target
            kept = chat.render(tokenizer, conversation, max_seq_len + 1)
            cut, left_out = cut + (kept is not None), left_out + (kept is None)
            length = 0 if kept is None else len(kept[0])
        tokens += length
    needed = sorted(lengths)[-1 - int(LOST * looked_at)] - 1
    found = Survey(total, looked_at, tokens, cut, left_out, max_seq_len, needed)
    if left_out == looked_at:
        firsts = (_first_exchange(conversations[n * total // looked_at]) for n in range(looked_at))
        shortest = min(len(chat.render(tokenizer, first)[0]) for first in firsts) - 1
        advice = f"shorten them, or start from a model whose context has {needed:,} tokens"
        raise UserError(
            f"none of the {total:,} conversations fits into {max_seq_len:,} tokens, not even with its first exchange "
            f"alone; {found.remedy(context) if shortest <= context else advice}"
        )
    return found


def _first_exchange(conversation: dict) -> dict:
    messages = conversation["messages"]
    end = next(n for n, message in enumerate(messages, 1) if message["role"] == "assistant")
    return {"messages": messages[:end]}
