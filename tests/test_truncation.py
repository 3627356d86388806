"""Conversations that outgrow the context: what stays of them, and what the API reports about it."""

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi")

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.state import Settings
from tests.served import Live, content, events, loaded, random_model, refusal, served

CONTEXT = 128
MAX_TOKENS = 8


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    settings = Settings(temperature=0.0, max_tokens=MAX_TOKENS)
    chats = loaded(Engine(random_model(tokenizer, CONTEXT), slots=2), tokenizer)
    base = loaded(Engine(random_model(tokenizer, CONTEXT), slots=2), tokenizer, "base")
    with served([chats], [base], settings=settings) as server:
        yield server


def conversation(turns: int, system: str = "", last: str = "") -> list[dict]:
    """Question and answer in turn, and a last question. Their lengths differ."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in range(turns):
        messages += [
            {"role": "user", "content": f"Question {turn}{'?' * (turn % 5)}"},
            {"role": "assistant", "content": f"Answer {turn}{'!' * (turn % 3)}"},
        ]
    return [*messages, {"role": "user", "content": last or f"Question {turns}"}]


def by_hand(tokenizer: Tokenizer, messages: list[dict], context: int, max_tokens: int) -> list[dict]:
    """The rule, one pair after the other."""
    kept = list(messages)
    first = 1 if messages[0]["role"] == "system" else 0
    while len(chat.prompt(tokenizer, kept)) > context - min(max_tokens, context // 2) and len(kept) > first + 1:
        del kept[first : first + 2]
    return kept


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("context, max_tokens", [(64, 8), (64, 500), (128, 20), (256, 100), (4096, 100)])
def test_the_oldest_pairs_go_until_the_answer_has_room(tokenizer, system, context, max_tokens) -> None:
    room = chat.prompt_room(context, max_tokens)
    for turns in (0, 1, 2, 7, 20):
        messages = conversation(turns, system)
        kept, ids = chat.newest(messages, lambda each: chat.prompt(tokenizer, each), room)
        assert kept == by_hand(tokenizer, messages, context, max_tokens)
        assert ids == chat.prompt(tokenizer, kept) and len(ids) <= room
    kept, ids = chat.newest(conversation(3, system, "x" * 5000), lambda each: chat.prompt(tokenizer, each), room)
    assert [message["role"] for message in kept] == (["system"] if system else []) + ["user"]
    assert len(ids) > room


def test_a_chat_reports_what_it_dropped(live: Live, tokenizer: Tokenizer) -> None:
    messages = conversation(12, "Be brief.")
    assert refusal(live.post("/v1/chat/completions", {"messages": messages}))["code"] == "context_length_exceeded"
    kept = by_hand(tokenizer, messages, CONTEXT, MAX_TOKENS)
    expected = {
        "prompt_tokens": len(chat.prompt(tokenizer, kept)),
        "messages_dropped": len(messages) - len(kept), "reply_tokens_dropped": 0,
    }  # fmt: skip
    assert expected["messages_dropped"] > 10
    body = {"messages": messages, "truncation": "oldest"}
    whole = live.post("/v1/chat/completions", body).json()
    assert whole["nanochat"].items() >= expected.items()
    assert whole["usage"]["prompt_tokens"] == expected["prompt_tokens"]
    # The answer is that to the kept messages alone.
    alone = live.post("/v1/chat/completions", {"messages": kept}).json()
    assert whole["choices"][0]["message"] == alone["choices"][0]["message"]
    assert "messages_dropped" not in alone["nanochat"]
    chunks = events(live.post("/v1/chat/completions", {**body, "stream": True}))
    assert chunks[0]["nanochat"] == expected and all("nanochat" not in chunk for chunk in chunks[1:])
    assert content(chunks) == whole["choices"][0]["message"]["content"]
    counted = live.post("/tokenize", {"messages": messages, "truncation": "oldest"}).json()
    assert (counted["count"], counted["messages_dropped"]) == tuple(expected.values())[:2]
    assert counted["tokens"] == chat.prompt(tokenizer, kept)
    longer = live.post("/tokenize", {"messages": messages, "truncation": "oldest", "max_tokens": 60}).json()
    assert longer["count"] <= CONTEXT - 60
    fitting = live.post("/v1/chat/completions", {**body, "messages": messages[-1:]}).json()
    assert fitting["nanochat"]["messages_dropped"] == 0


def test_messages_are_counted_as_the_client_sent_them(live: Live) -> None:
    called = {"id": "c", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": "Welcome! " * 8}, {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "one " * 8}, {"role": "user", "content": "two " * 8},
        {"role": "assistant", "tool_calls": [called]}, {"role": "tool", "tool_call_id": "c", "content": "x" * 20},
        {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Thanks"},
    ]  # fmt: skip
    tokenized = live.post("/tokenize", {"messages": messages, "truncation": "oldest", "max_tokens": 70}).json()
    assert tokenized["messages_dropped"] == 6  # all but the developer's message, wherever it stands, and the question
    alone = live.post("/tokenize", {"messages": [messages[1], messages[-1]]}).json()
    assert tokenized["tokens"] == alone["tokens"]


def test_an_answer_as_long_as_the_context_can_be_continued(live: Live, tokenizer: Tokenizer) -> None:
    begun = "".join(f"{number}, " for number in range(100))
    messages = [*conversation(3), {"role": "assistant", "content": begun}]
    assert refusal(live.post("/v1/chat/completions", {"messages": messages}))["code"] == "context_length_exceeded"
    reply = live.post("/v1/chat/completions", {"messages": messages, "truncation": "oldest"}).json()
    figures = reply["nanochat"]
    assert figures["messages_dropped"] == 6 and figures["prompt_tokens"] <= CONTEXT - MAX_TOKENS
    ids = live.post("/tokenize", {"messages": messages, "truncation": "oldest"}).json()["tokens"]
    head = chat.prompt(tokenizer, messages[-2:-1])
    assert ids[: len(head)] == head
    assert tokenizer.encode(begun)[figures["reply_tokens_dropped"] :] == ids[len(head) :]
    # Where the question leaves little room, half of what is left is kept.
    tight = [{"role": "user", "content": "x" * 110}, {"role": "assistant", "content": begun}]
    reply = live.post("/v1/chat/completions", {"messages": tight, "truncation": "oldest"})
    assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] > 0
    for too_long in ([{"role": "user", "content": "x" * 900}], [{"role": "system", "content": "x" * 900}, tight[0]]):
        refused = live.post("/v1/chat/completions", {"messages": too_long, "truncation": "oldest"})
        assert refusal(refused)["code"] == "context_length_exceeded"


def test_a_response_is_truncated_as_openais_are(live: Live) -> None:
    items = conversation(12)
    assert refusal(live.post("/v1/responses", {"input": items}))["code"] == "context_length_exceeded"
    for word in ("auto", "oldest"):
        response = live.post("/v1/responses", {"input": items, "truncation": word, "instructions": "Be brief."}).json()
        assert response["truncation"] == "auto" and response["nanochat"]["messages_dropped"] > 10
        assert response["usage"]["input_tokens"] == response["nanochat"]["prompt_tokens"] <= CONTEXT - MAX_TOKENS
    plain = live.post("/v1/responses", {"input": "Hello!", "truncation": "disabled"}).json()
    assert plain["truncation"] == "disabled" and "nanochat" not in plain
    assert refusal(live.post("/v1/responses", {"input": "Hello!", "truncation": "middle"}))["param"] == "truncation"


def test_a_text_loses_its_beginning(live: Live, tokenizer: Tokenizer) -> None:
    text = "".join(f"{number}, " for number in range(200))
    body = {"model": "base:d1", "prompt": text, "max_tokens": 5}
    assert refusal(live.post("/v1/completions", body))["code"] == "context_length_exceeded"
    reply = live.post("/v1/completions", {**body, "truncation": "oldest"}).json()
    ids = chat.text_prompt(tokenizer, text)
    assert reply["usage"]["prompt_tokens"] == CONTEXT - 5
    assert reply["nanochat"]["prompt_tokens_dropped"] == len(ids) - (CONTEXT - 5)
    last = [ids[0], *ids[-(CONTEXT - 5 - 1) :]]
    alone = live.post("/v1/completions", {**body, "prompt": last}).json()
    assert reply["choices"][0]["text"] == alone["choices"][0]["text"]
    refusal(live.post("/v1/completions", {**body, "truncation": "oldest", "echo": True}))
