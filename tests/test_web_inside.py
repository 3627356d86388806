"""POST /inspect: what the page shows of a model's inside, and what programs get."""

from collections.abc import Iterator

import pytest
import torch
from served import Live, loaded, random_model, refusal, served

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.inspection import inspect
from nanochat.tokenizer import Tokenizer

TEXT = "The cat sleeps on the warm oven."
TALK = [{"role": "user", "content": "Where is the cat?"}, {"role": "assistant", "content": "On the oven."}]


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    models = [loaded(Engine(random_model(tokenizer, context=64, seed=seed), slots=2), tokenizer, source)
              for seed, source in enumerate(("sft", "base"))]  # fmt: skip
    with served([models[0]], [models[1]]) as live:
        yield live


def test_it_is_what_the_model_computes(live: Live, tokenizer: Tokenizer) -> None:
    ids = chat.text_prompt(tokenizer, TEXT)
    seen = inspect(live.engines[1].model, ids)
    reply = live.post("/inspect", {"model": "base:d1", "text": TEXT, "layer": 0, "head": 1, "top": 2}).json()
    assert reply["ids"] == ids and reply["tokens"] == [tokenizer.decode([id]) for id in ids]
    assert (reply["layers"], reply["heads"], reply["earlier_tokens"]) == (2, 2, 0)
    assert (torch.tensor(reply["attention"]) - seen["attention"][0][1]).abs().max() < 1e-4
    for layer, logits in zip(reply["logit_lens"], seen["logit_lens"], strict=True):
        best = logits.softmax(-1).topk(2)
        for given, values, chosen in zip(layer, best.values.tolist(), best.indices.tolist(), strict=True):
            assert [each["text"] for each in given] == [tokenizer.decode([id]) for id in chosen]
            assert [each["probability"] for each in given] == pytest.approx(values, abs=1e-4)


def test_the_last_tokens_of_a_conversation(live: Live, tokenizer: Tokenizer) -> None:
    """By default of the last layer, and the mean of its heads; what comes earlier is one number."""
    ids = chat.prefilled_prompt(tokenizer, TALK)
    expected = inspect(live.engines[0].model, ids, ["attention"])["attention"][-1].mean(0)[-5:]
    reply = live.post("/inspect", {"messages": TALK, "last": 5}).json()
    assert reply["ids"] == ids[-5:] and reply["earlier_tokens"] == len(ids) - 5 and reply["layer"] == 1
    assert (torch.tensor(reply["attention"]) - expected[:, -5:]).abs().max() < 1e-4
    assert reply["attention_to_earlier"] == pytest.approx(expected[:, :-5].sum(-1).tolist(), abs=1e-4)
    assert len(live.post("/inspect", {"text": "a", "last": 256}).json()["tokens"]) == 2


@pytest.mark.parametrize("body, message", [
    ({}, "give either text or messages"),
    ({"text": "a", "messages": TALK}, "give either text or messages"),
    ({"text": "a", "layer": 2}, "layer is 2; this model has 2, numbered from 0"),
    ({"text": "a", "head": -1}, "head"),
    ({"text": "a", "last": 257}, "last"),
    ({"text": "a " * 100}, "64"),
    ({"model": "base:d1", "messages": TALK}, "is a base model"),
], ids=str)  # fmt: skip
def test_what_cannot_be_shown_is_refused(live: Live, body: dict, message: str) -> None:
    assert message in refusal(live.post("/inspect", body))["message"]
    assert live.get("/health").json()["ready"]
