"""Functions that a client offers to the model: calls out, results in, in OpenAI's shapes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web import messages, toolcalls
from nanochat.web.schemas import ChatRequest
from tests.scripted import taught
from tests.served import Live, content, events, loaded, random_model, served

CHAT = "/v1/chat/completions"


def function(name: str, about: str | None = None, **properties: object) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


WEATHER = function("get_weather", "Weather now", city={"type": "string"})
CLOCK = function("clock")
TOOLS = [WEATHER, CLOCK]
ASK = {"role": "user", "content": "How warm is Rome?"}
BOTH = {"role": "user", "content": "And Oslo, and when?"}
SUM = {"role": "user", "content": "What is 6*7?"}
THANKS = {"role": "user", "content": "Thanks!"}


def call(name: str, **arguments: object) -> dict:
    return {"id": f"id_{name}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


ROME = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("get_weather", city="Rome")]}
OSLO = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", city="Oslo"), call("clock")]}
CALCULATED = {"role": "assistant", "content": [
    {"type": "text", "text": "So: "}, {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"},
    {"type": "text", "text": "It is 42."},
]}  # fmt: skip
WARM = {"role": "tool", "tool_call_id": "id_get_weather", "content": "21 degrees"}
NOON = {"role": "tool", "tool_call_id": "id_clock", "content": "noon"}
LEARNED = [
    [ASK, ROME, WARM, {"role": "assistant", "content": "It is warm."}],
    [BOTH, OSLO, WARM, NOON, {"role": "assistant", "content": "Cold, and noon."}],
    [SUM, CALCULATED, THANKS, {"role": "assistant", "content": "Bye."}],
]


def rendered(turns: list, tools: list | None = None) -> list[dict]:
    body = ChatRequest.model_validate({"messages": turns, "tools": tools or []})
    return messages.conversation(body.messages, toolcalls.description(tool.function for tool in body.tools))


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A tokenizer that spells tools in few tokens."""
    lines = [json.dumps(turns) for turns in LEARNED] + [str(rendered([ASK], TOOLS))]
    text = "\n".join(lines).replace("\\", "") + ' {"a": 1}}</tool_call><tool_response></tool_response>'
    return Tokenizer.train(iter([text] * 8), 420, chat.SPECIALS)


@pytest.fixture(scope="module")
def live(words: Tokenizer) -> Iterator[Live]:
    """sft:d1 knows LEARNED by heart, sft:random may say anything."""
    model = taught(words, [{"messages": rendered(turns, TOOLS)} for turns in LEARNED], 640)
    with served(
        [loaded(Engine(model, slots=4), words)],
        [loaded(Engine(random_model(words, 640, seed=3), slots=4), words, "sft", "random")],
    ) as live:
        yield live


def ask(live: Live, *turns: object, **body: Any) -> dict:
    body = {"messages": [*turns], "tools": TOOLS, "temperature": 0, **body}
    response = live.post(CHAT, body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(live: Live, *turns: object, **body: Any) -> list[dict]:
    response = live.post(CHAT, {"messages": [*turns], "tools": TOOLS, "temperature": 0, **body, "stream": True})
    assert response.status_code == 200, response.text
    return events(response)


def test_a_call_comes_whole_and_streamed(live: Live) -> None:
    (choice,) = ask(live, ASK)["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls" and message["content"] == "Let me see."
    (made,) = message["tool_calls"]
    assert made.pop("id").startswith("call_")
    assert made == {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    chunks = streamed(live, ASK)
    assert content(chunks) == "Let me see." and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    head, *pieces = [c["tool_calls"] for chunk in chunks if "tool_calls" in (c := chunk["choices"][0]["delta"])]
    assert head[0].pop("id").startswith("call_")
    assert head == [{"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}}]
    assert all(set(piece) == {"index", "function"} for (piece,) in pieces) and len(pieces) > 1
    assert "".join(piece["function"]["arguments"] for (piece,) in pieces) == '{"city": "Rome"}'
