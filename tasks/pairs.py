"""Pairs of answers to learn preferences from, in JSON files of the user's own."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat import chat
from nanochat.data.shards import Split
from nanochat.errors import UserError
from tasks.customjson import CustomJSON, divided, overlap
from tasks.mixture import Mixture

SIDES = ("chosen", "rejected")


class PairsJSON(CustomJSON):
    """One pair per line, in one of the shapes that TRL reads:

        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
        {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}
        {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [the same, ...]}

    "messages" may stand for "prompt"; other keys are ignored. Items are of the second shape.
    """

    noun, column = "pair", "chosen"
    example = '{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}'

    def parse(self, value: object) -> dict:
        return pair(value)

    def key(self, row: dict) -> int:
        """A hash whose first half is the prompt's, so that all pairs of a prompt are held out, or none."""
        halves = (row["prompt"], [row[side] for side in SIDES])
        digests = (hashlib.blake2b(json.dumps(half, sort_keys=True).encode(), digest_size=4) for half in halves)
        return int.from_bytes(b"".join(digest.digest() for digest in digests), "big")


def pairs(data_path: Sequence[Path], val_data_path: Sequence[Path], split: Split, most: int | None = None) -> Mixture:
    """The pairs of one split, at most `most`.

    Validation uses the files of `val_data_path`, else a held-out part of the others.
    """
    if not data_path:
        raise UserError(
            "there are no pairs to learn from; name a file of them with --data_path, or write one with "
            "python -m scripts.make_pairs"
        )
    own = [PairsJSON(path) for path in data_path]
    given = [PairsJSON(path) for path in val_data_path]
    if not given:
        found = divided(own, split)
    else:
        found = Mixture(own) if split == "train" else Mixture(given, overlap(own, given))
    if most is not None:
        del found.order[most:]  # they are shuffled, so the first are as good as any
    return found


def pair(value: object) -> dict:
    """A pair as {"prompt", "chosen", "rejected"}, each a list of messages.

    Raises ValueError with one clause that names what is wrong with it.
    """
    if not isinstance(value, dict):
        raise ValueError("a pair must be an object such as " + PairsJSON.example)
    for side in SIDES:
        if side not in value:
            raise ValueError(f"the pair has no {side}; expected such as {PairsJSON.example}")
    prompt = value.get("prompt", value.get("messages"))
    chosen, rejected = (_conversation(value[side], prompt, side) for side in SIDES)
    same = 0  # messages at the beginning that both have
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == len(chosen) == len(rejected):
        raise ValueError("chosen and rejected are the same; leave the pair out")
    ends = [messages[same] for messages in (chosen, rejected) if same < len(messages)]
    if len(ends) < 2 or any(message["role"] != "assistant" for message in ends):
        raise ValueError("chosen and rejected do not answer the same question: they differ in what comes before")
    return {"prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}


def _conversation(answer: object, prompt: object, side: str) -> list[dict]:
    """The messages of the prompt with one of its answers, or those of an answer that has the prompt in itself."""
    if isinstance(answer, str):
        answer = {"role": "assistant", "content": answer}
    messages: Any = [answer] if isinstance(answer, dict) else answer
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{side} must be a text or a list of messages")
    if isinstance(messages[0], dict) and messages[0].get("role") == "assistant":
        if prompt is None:
            raise ValueError(f"the pair has no prompt; expected such as {PairsJSON.example}")
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = [*before, *messages] if isinstance(before, list) else before
    try:
        chat.check({"messages": messages})
    except ValueError as error:
        raise ValueError(f"{side}: {error}") from None
    return [{"role": message["role"], "content": message["content"]} for message in messages]
