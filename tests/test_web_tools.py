"""Functions that a client offers to the model: calls out, results in, in OpenAI's shapes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.text import merged
from nanochat.tokenizer import Tokenizer
from nanochat.web.bodies import messages, toolcalls
from nanochat.web.bodies.schemas import Call
from tasks.customjson import CustomJSON
from tests.scripted import taught
from tests.served import Live, content, events, loaded, random_model, served
from tests.served import refusal as error

CHAT = "/v1/chat/completions"


def function(name: str, about: str | None = None, **properties: object) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def named(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


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


@pytest.fixture(scope="module")
def taught_from(tmp_path_factory: pytest.TempPathFactory) -> CustomJSON:
    """LEARNED as the file for chat_sft that the guide describes: with the tools in the system text."""
    file = tmp_path_factory.mktemp("data") / "tools.jsonl"
    rows = [messages.training({"messages": turns, "tools": TOOLS}) for turns in LEARNED]
    file.write_text("".join(json.dumps(row["messages"]) + "\n" for row in rows), encoding="utf-8")
    return CustomJSON(file)


@pytest.fixture(scope="module")
def words(taught_from: CustomJSON) -> Tokenizer:
    """A tokenizer that spells tools in few tokens."""
    text = "\n".join(str(row) for row in taught_from) + str(LEARNED) + ' {"a": {"b": 1}}</tool_call></tool_response>'
    return Tokenizer.train(iter([text] * 8), 520, chat.SPECIALS)


@pytest.fixture(scope="module")
def live(words: Tokenizer, taught_from: CustomJSON) -> Iterator[Live]:
    """sft:d1 knows LEARNED by heart; sft:random, sft:other and base:plain may say anything."""
    with served(
        [loaded(Engine(taught(words, list(taught_from), 640), slots=4), words)],
        [loaded(Engine(random_model(words, 640, seed=3), slots=4), words, "sft", "random")],
        [loaded(Engine(random_model(words, 640, seed=5), slots=4), words, "sft", "other")],
        [loaded(Engine(random_model(words, 640, seed=7), slots=4), words, "base", "plain")],
        plain=True,
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


def prompt_of(live: Live, turns: Sequence[object], **body: object) -> str:
    response = live.post("/tokenize", {"messages": turns, **body})
    assert response.status_code == 200, response.text
    return "".join(response.json()["texts"])


def made(choice: dict) -> list[tuple[str, str]]:
    """The calls of a choice: names and arguments."""
    return [(call["function"]["name"], call["function"]["arguments"]) for call in choice["message"]["tool_calls"]]


def meant(choice: dict) -> list[tuple[str, object]]:
    """The same, whatever white space a model that was not taught this call writes."""
    return [(name, json.loads(arguments)) for name, arguments in made(choice)]


def joined(chunks: list[dict], index: int = 0) -> dict:
    """A choice as the chunks of a stream make it."""
    message: dict = {"content": content(chunks, index), "tool_calls": []}
    finish = None
    for choice in (choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index):
        finish = choice["finish_reason"] or finish
        for piece in choice["delta"].get("tool_calls", []):
            if "id" in piece:
                assert piece["index"] == len(message["tool_calls"]) and piece["type"] == "function"
                message["tool_calls"].append(piece | {"function": dict(piece["function"])})
            else:
                message["tool_calls"][piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return {"message": message, "finish_reason": finish}


# ---------------------------------------------------------------- calls, whole and streamed


def test_a_call_comes_whole_and_streamed(live: Live) -> None:
    (choice,) = ask(live, ASK)["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls" and message["content"] == "Let me see."
    (called,) = message["tool_calls"]
    assert called.pop("id").startswith("call_")
    assert called == {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    chunks = streamed(live, ASK)
    assert content(chunks) == "Let me see." and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    head, *pieces = [c["tool_calls"] for chunk in chunks if "tool_calls" in (c := chunk["choices"][0]["delta"])]
    assert head[0].pop("id").startswith("call_")
    assert head == [{"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}}]
    assert all(set(piece) == {"index", "function"} for (piece,) in pieces) and len(pieces) > 1
    assert "".join(piece["function"]["arguments"] for (piece,) in pieces) == '{"city": "Rome"}'


def test_several_calls_follow_each_other_unless_the_client_wants_one(live: Live) -> None:
    (choice,) = ask(live, BOTH)["choices"]
    assert made(choice) == [("get_weather", '{"city": "Oslo"}'), ("clock", "{}")]
    assert choice["message"]["content"] is None and choice["message"]["parts"] == []
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == 2
    assert made(joined(streamed(live, BOTH))) == made(choice)
    (one,) = ask(live, BOTH, parallel_tool_calls=False)["choices"]
    assert made(one) == made(choice)[:1] and one["finish_reason"] == "tool_calls"


def test_openais_client_calls_sends_the_result_and_reads_the_answer(live: Live) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
        body: dict = {"model": "sft:d1", "tools": TOOLS, "temperature": 0}
        turns: list = [BOTH]
        first = client.chat.completions.create(messages=turns, **body)
        message = first.choices[0].message
        assert message.tool_calls and first.usage
        results = {"get_weather": "21 degrees", "clock": "noon"}
        turns.append(message)
        turns += [
            {"role": "tool", "tool_call_id": call.id, "content": results[call.function.name]}
            for call in reversed(message.tool_calls)  # the ids say which is whose
        ]
        second = client.chat.completions.create(messages=turns, **body)
        assert second.choices[0].message.content == "Cold, and noon." and second.choices[0].finish_reason == "stop"
        # The prompt continues with the very tokens that the model generated.
        assert second.usage and second.usage.prompt_tokens_details
        read = first.usage.total_tokens - 1  # all but the token that ended the reply
        assert second.usage.prompt_tokens_details.cached_tokens == read
        with client.chat.completions.stream(messages=[ASK], **body) as stream:
            streamed = stream.get_final_completion().choices[0]
        assert streamed.finish_reason == "tool_calls" and streamed.message.tool_calls
        assert streamed.message.tool_calls[0].function.arguments == '{"city": "Rome"}'
        assert streamed.message.content == "Let me see."


def test_the_calculator_stays_and_its_call_is_kept_in_the_next_prompt(live: Live) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
        body: dict = {"model": "sft:d1", "tools": TOOLS, "temperature": 0}
        first = client.chat.completions.create(messages=[SUM], **body)
        message = first.choices[0].message
        assert message.content == "So: It is 42." and not message.tool_calls and first.usage
        turns: list = [SUM, message, THANKS]  # with message.parts
        again = client.chat.completions.create(messages=turns, **body)
        assert again.choices[0].message.content == "Bye." and again.usage and again.usage.prompt_tokens_details
        forced = 3  # the calculator's 42 between its two tokens was not sampled
        assert again.usage.prompt_tokens_details.cached_tokens >= first.usage.total_tokens + forced - 1
    sent = message.model_dump()
    kept = "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>"
    assert f"So: {kept}It is 42." in prompt_of(live, [SUM, sent, THANKS])
    assert f"So: {kept}It is 42." in prompt_of(live, [SUM, {**sent, "content": None}, THANKS])
    edited = prompt_of(live, [SUM, {**sent, "content": "43!"}, THANKS])
    assert "43!" in edited and "python_start" not in edited  # what the client says counts


# ---------------------------------------------------------------- what may be called


def test_a_named_tool_is_called_whatever_the_model_wants(live: Live) -> None:
    for choose in (
        named("clock"), {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("clock")]}}
    ):  # fmt: skip
        (choice,) = ask(live, ASK, tool_choice=choose, parallel_tool_calls=False)["choices"]
        assert meant(choice) == [("clock", {})] and choice["message"]["content"] is None
        assert choice["finish_reason"] == "tool_calls"


def test_required_never_calculates_and_never_talks(live: Live) -> None:
    (choice,) = ask(live, SUM, tool_choice="required", max_tokens=200)["choices"]
    assert choice["message"]["content"] is None and choice["message"]["parts"] == [] and made(choice)


def test_a_base_model_that_chats_plainly_calls_as_well(live: Live) -> None:
    body = {"model": "base:plain", "tool_choice": "required", "parallel_tool_calls": False}
    (choice,) = ask(live, ASK, ROME, WARM, THANKS, tools=[CLOCK], **body)["choices"]
    assert meant(choice) == [("clock", {})] and choice["finish_reason"] == "tool_calls"
    assert meant(joined(streamed(live, ASK, tools=[CLOCK], **body))) == [("clock", {})]
    ask(live, ASK, model="base:plain", max_tokens=5)
    text = prompt_of(live, [ASK, ROME, WARM], tools=TOOLS, model="base:plain")
    assert "You can use these tools" in text and text.endswith(
        "\nUser: How warm is Rome?\n"
        'Assistant: Let me see.<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>\n'
        "User: <tool_response>21 degrees</tool_response>\nAssistant:"
    )


def test_tools_that_are_not_allowed_are_described_but_not_called(live: Live) -> None:
    choose = {"type": "allowed_tools", "allowed_tools": {"tools": [named("clock")]}}
    limited, free = ask(live, BOTH, tool_choice=choose), ask(live, BOTH)
    assert limited["usage"]["prompt_tokens"] == free["usage"]["prompt_tokens"]
    calls = limited["choices"][0]["message"].get("tool_calls", [])
    assert all(call["function"]["name"] == "clock" for call in calls)


def test_none_means_that_there_are_no_tools(live: Live) -> None:
    without = ask(live, ASK, tools=[])
    none = ask(live, ASK, tool_choice="none")
    assert none["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"]
    assert none["choices"][0]["message"] == without["choices"][0]["message"]
    assert "tool_calls" not in none["choices"][0]["message"]
    assert ask(live, ASK, tools=[], tool_choice="auto") and ask(live, ASK, tools=None, tool_choice="none")


PROPERTIES = st.dictionaries(
    st.sampled_from(["a", "b c", "é", "q\"x"]),
    st.sampled_from([
        {"type": "integer", "minimum": -9, "maximum": 99}, {"enum": ["x", 1, None, "}</tool_call>", '\\"']},
        {"type": "string", "maxLength": 3}, {"type": "boolean"},
        {"type": "array", "items": {"enum": [1, "]"]}, "maxItems": 2},
        {"type": "object", "properties": {"in": {"enum": ["{", 2]}}, "required": ["in"]},
    ]),
    max_size=3,
)  # fmt: skip


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(PROPERTIES, min_size=1, max_size=3), st.sampled_from(["random", "other"]), st.integers(0, 99),
    st.booleans(), st.sampled_from([0.0, 1.0, 2.0]),
)  # fmt: skip
def test_a_required_call_always_keeps_to_its_schema(
    live: Live, schemas: list, model: str, seed: int, parallel: bool, temperature: float
) -> None:
    """Models that may say anything; what comes streamed is what comes whole."""
    tools = [function(f"f{number}", **properties) for number, properties in enumerate(schemas)]
    body = {"tools": tools, "model": f"sft:{model}", "seed": seed, "n": 2, "temperature": temperature, "top_k": 0,
            "max_tokens": 300, "tool_choice": "required", "parallel_tool_calls": parallel}  # fmt: skip
    whole = ask(live, ASK, **body)
    chunks = streamed(live, ASK, **body)
    for choice in whole["choices"]:
        calls = made(choice)
        assert made(joined(chunks, choice["index"])) == calls
        assert joined(chunks, choice["index"])["finish_reason"] == choice["finish_reason"]
        assert parallel or len(calls) == 1
        cut = choice["finish_reason"] == "length"  # many calls, or the last is not whole
        for name, arguments in calls[:-1] if cut else calls:
            schema = tools[int(name[1:])]["function"]["parameters"] | {"additionalProperties": False}
            assert jsonschema_rs.is_valid(schema, json.loads(arguments)), arguments
        assert cut or (calls and choice["finish_reason"] == "tool_calls")
        assert choice["message"]["content"] is None or cut


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 99), st.sampled_from([0.7, 2.0]), st.sampled_from([None, ["e", " t"]]))
def test_with_auto_any_model_writes_text_and_then_whole_calls(live: Live, seed: int, temperature: float, stop) -> None:
    tag = live.post("/tokenize", {"text": "<tool_call>"}).json()["tokens"]
    body = {"model": "sft:other", "seed": seed, "temperature": temperature, "top_k": 0, "max_tokens": 40, "stop": stop,
            "n": 2, "logit_bias": {str(id): 3 for id in tag}}  # fmt: skip
    whole = ask(live, ASK, **body)
    chunks = streamed(live, ASK, **body)
    for choice in whole["choices"]:
        again = joined(chunks, choice["index"])
        assert again["message"]["content"] == (choice["message"]["content"] or "")
        assert again["finish_reason"] == choice["finish_reason"]
        assert [call["function"] for call in again["message"]["tool_calls"]] == [
            call["function"] for call in choice["message"].get("tool_calls", [])
        ]


# ---------------------------------------------------------------- with everything else that a request can ask for


def test_a_call_that_is_cut_comes_as_far_as_it_was_written(live: Live, words: Tokenizer) -> None:
    whole = len(words.encode('Let me see.<tool_call>{"name": "get_weather", "arguments": {"city"'))
    (choice,) = ask(live, ASK, max_tokens=whole)["choices"]
    assert choice["finish_reason"] == "length" and choice["message"]["content"] == "Let me see."
    ((name, arguments),) = made(choice)
    assert name == "get_weather" and arguments.startswith('{"city"') and "Rome" not in arguments
    assert made(joined(streamed(live, ASK, max_tokens=whole))) == made(choice)
    (choice,) = ask(live, BOTH, max_tokens=len(words.encode('<tool_call>{"name": "get_w')))["choices"]
    assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]  # no name is half a name
    for limit in (1, 3):  # within <tool_call>
        (choice,) = ask(live, BOTH, max_tokens=limit, tool_choice="required")["choices"]
        assert choice["message"]["content"] == "" and choice["finish_reason"] == "length"


def test_stop_strings_end_text_but_no_call(live: Live) -> None:
    (choice,) = ask(live, ASK, stop=["city", '"', "Rome", "tool_call"])["choices"]
    assert made(choice) == [("get_weather", '{"city": "Rome"}')] and choice["finish_reason"] == "tool_calls"
    (choice,) = ask(live, ASK, stop=["see", "city"])["choices"]
    assert choice["message"]["content"] == "Let me " and choice["finish_reason"] == "stop"


def test_logprobs_usage_and_several_choices_come_with_calls(live: Live, words: Tokenizer) -> None:
    body = {"n": 3, "logprobs": True, "top_logprobs": 2}
    reply = ask(live, ASK, **body)
    for choice in reply["choices"]:
        assert made(choice) == [("get_weather", '{"city": "Rome"}')]
        scored = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in scored) == "Let me see."
    *chunks, usage = streamed(live, ASK, **body, stream_options={"include_usage": True})
    assert usage["choices"] == [] and usage["usage"] == reply["usage"] | {"prompt_tokens_details": usage["usage"][
        "prompt_tokens_details"]}  # fmt: skip
    for index in range(3):
        assert made(joined(chunks, index)) == [("get_weather", '{"city": "Rome"}')]
        scores = [c["logprobs"]["content"] for chunk in chunks for c in chunk["choices"]
                  if c["index"] == index and c["logprobs"]]  # fmt: skip
        assert "".join(token["token"] for each in scores for token in each) == "Let me see."


def test_a_stream_of_calls_can_be_read_again(live: Live) -> None:
    body = {"messages": [BOTH], "tools": TOOLS, "temperature": 0, "stream": True}
    with live.client.stream("POST", CHAT, json=body, headers={"X-Nanochat-Resumable": "1"}) as response:
        id = response.headers["x-stream-id"]
        first = response.read().decode()
    later = live.get(f"/v1/streams/{id}?after=4").text
    assert later and first.endswith(later) and '"clock"' in later


def test_the_log_of_replies_has_the_calls(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live.state, "settings", replace(live.state.settings, log_prompts=True))
    with caplog.at_level("INFO", "nanochat.web"):
        ask(live, ASK)
        live.wait_until_idle()
    logged = [json.loads(record.message) for record in caplog.records if record.message.startswith('{"what": "reply"')]
    assert [entry["content"] for entry in logged] == [['Let me see.get_weather{"city": "Rome"}']]


def test_a_reply_that_the_client_has_begun_goes_on_with_text_or_a_call(live: Live) -> None:
    begun = {"role": "assistant", "content": "Let me"}
    (choice,) = ask(live, ASK, begun)["choices"]
    assert choice["message"]["content"] == " see." and made(choice) == [("get_weather", '{"city": "Rome"}')]
    (choice,) = ask(live, ASK, begun, tool_choice=named("clock"), parallel_tool_calls=False)["choices"]
    assert choice["message"]["content"] is None and meant(choice) == [("clock", {})]
    schema = {"type": "object", "properties": {"text": {"const": "<tool_call>"}}, "required": ["text"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    json_begun = {"role": "assistant", "content": '{"text": "'}
    (choice,) = ask(live, ASK, json_begun, response_format=wanted)["choices"]
    assert choice["message"]["content"].rstrip() in ('<tool_call>"}', '<tool_call>" }')
    assert "tool_calls" not in choice["message"]


def test_a_schema_for_the_answer_leaves_calls_possible(live: Live) -> None:
    properties = {"text": {"enum": ["<tool_call>", "hi"]}}
    schema = {"type": "object", "properties": properties, "required": ["text"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    (choice,) = ask(live, BOTH, response_format=wanted)["choices"]
    assert made(choice)[0][0] == "get_weather" and choice["finish_reason"] == "tool_calls"
    body = {"model": "sft:random", "top_k": 0, "temperature": 2, "n": 8, "seed": 0, "max_tokens": 300}
    kinds = set()
    for choice in ask(live, ASK, response_format=wanted, **body)["choices"]:
        if "tool_calls" in choice["message"]:
            kinds.add("calls")
            assert choice["message"]["content"] is None
        elif choice["finish_reason"] == "stop":
            kinds.add("text")
            assert json.loads(choice["message"]["content"])["text"] in ("<tool_call>", "hi")
    assert "text" in kinds
    refused = error(live.post(CHAT, {"messages": [ASK], "tools": TOOLS, "guided_regex": "a+"}))
    assert "guided_regex and tools" in refused["message"]


# ---------------------------------------------------------------- the older form


def test_functions_are_answered_in_their_own_shape(live: Live) -> None:
    functions = [tool["function"] for tool in TOOLS]
    (choice,) = ask(live, ASK, tools=[], functions=functions, function_call="auto")["choices"]
    assert choice["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    deltas = [chunk["choices"][0] for chunk in streamed(live, ASK, tools=[], functions=functions)]
    pieces = [delta["delta"]["function_call"] for delta in deltas if "function_call" in delta["delta"]]
    assert pieces[0] == {"name": "get_weather", "arguments": ""}
    assert "".join(piece["arguments"] for piece in pieces) == '{"city": "Rome"}'
    assert deltas[-1]["finish_reason"] == "function_call"
    (choice,) = ask(live, ASK, tools=[], functions=functions, function_call={"name": "clock"})["choices"]
    assert choice["message"]["function_call"]["name"] == "clock"
    assert json.loads(choice["message"]["function_call"]["arguments"]) == {}
    result = {"role": "function", "name": "get_weather", "content": "21 degrees"}
    called = {"role": "assistant", "content": "Let me see.", "function_call": {
        "name": "get_weather", "arguments": '{"city": "Rome"}'}}  # fmt: skip
    reply = ask(live, ASK, called, result, tools=[], functions=functions)
    assert reply["choices"][0]["message"]["content"] == "It is warm."


# ---------------------------------------------------------------- what is refused


def schema_of(**parameters: object) -> dict:
    return {"type": "function", "function": {"name": "g", "parameters": parameters}}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"tools": [CLOCK, {"type": "function"}]}, "tools", "tools[1].function is missing"),
        ({"tools": [CLOCK, named("")]}, "tools", 'tools[1].function.name is ""; expected a match of'),
        ({"tools": [named("a b")]}, "tools", "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools", 'tools[0].type is "web_search"; expected \'function\''),
        ({"tools": [CLOCK, WEATHER, CLOCK]}, "tools", "tools[2].function.name: 'clock' is also the name of tools[0]"),
        ({"tools": [CLOCK, schema_of(type="string")]}, "tools", "tools[1].function.parameters.type is 'string'"),
        ({"tools": [CLOCK, schema_of(properties={"a": {"type": "objekt"}})]}, "tools",
         "tools[1].function.parameters cannot be used: Invalid type: objekt"),
        ({"tools": [schema_of(properties={"a": {"enum": []}}, required=["a"])]}, "tools",
         "tools[0].function.parameters cannot be used"),
        ({"tools": [schema_of(description="x" * 100_000)]}, "tools",
         "tools[0].function.parameters cannot be used: it has"),
        ({"tools": [named(f"f{n}") for n in range(129)]}, "tools", "at most 128"),
        ({"tools": {}}, "tools", "tools is {}; expected a list"),
        ({"tools": TOOLS, "tool_choice": named("time")}, "tool_choice",
         "names 'time'; the tools are get_weather, clock"),
        ({"tool_choice": named("time")}, "tool_choice", "names 'time'; there are no tools"),
        ({"tool_choice": "required"}, "tool_choice", "asks for a call, but there are no tools"),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice", "expected 'auto', 'none' or 'required'"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", "tool_choice.function is missing"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [named("x")]}}},
         "tool_choice", "names 'x'"),
        ({"tools": TOOLS, "functions": [{"name": "f"}]}, "functions", "either tools or functions"),
        ({"functions": [{"name": "f"}, {"name": "f"}]}, "functions", "functions[1].name: 'f' is also"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call", "names 'g'"),
        ({"messages": [ASK, ROME]}, "messages", "messages[1] calls a tool and no result follows"),
        ({"messages": [ASK | {"tool_calls": [call("clock")]}]}, "messages", "only the assistant's messages"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages",
         "messages[1].tool_calls[0].function is missing"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, WARM]},
         "messages", "messages[1].tool_calls[0].function.arguments"),
    ],
)  # fmt: skip
def test_a_tool_that_makes_no_sense_is_refused_at_its_place(live: Live, body: dict, param: str, message: str) -> None:
    refused = error(live.post(CHAT, {"messages": [ASK], **body}))
    assert refused["param"] == param and message in refused["message"], refused


def test_a_context_that_the_tools_fill_is_refused_with_their_size(live: Live) -> None:
    tools = [function(f"f{number}", "It does many things. " * 5) for number in range(30)]
    refused = error(live.post(CHAT, {"messages": [ASK], "tools": tools}))
    assert refused["code"] == "context_length_exceeded" and "the tools' description has" in refused["message"]
    long = error(live.post(CHAT, {"messages": [{"role": "user", "content": "long " * 999}]}))
    assert "description" not in long["message"]


# ---------------------------------------------------------------- the text of calls


def test_the_prompt_holds_tools_calls_and_results_as_text(live: Live) -> None:
    turns = [{"role": "system", "content": "Be brief."}, BOTH, OSLO, NOON, WARM]
    text = prompt_of(live, turns, tools=TOOLS)
    system, rest = text.split("<|system_end|>")
    assert system.startswith("<|bos|><|system_start|>Be brief.\n\nYou can use these tools")
    for tool in TOOLS:
        described = {name: value for name, value in tool["function"].items() if value is not None}
        assert f"\n{json.dumps(described)}\n" in system
    assert rest == (
        "<|user_start|>And Oslo, and when?<|user_end|><|assistant_start|>"
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
        '<tool_call>{"name": "clock", "arguments": {}}</tool_call><|assistant_end|><|user_start|>'
        "<tool_response>21 degrees</tool_response>\n\n<tool_response>noon</tool_response><|user_end|>"
        "<|assistant_start|>"
    )
    two = [{"role": "assistant", "content": "Let me see."}, {**OSLO, "tool_calls": OSLO["tool_calls"][:1]}]
    assert "Let me see.<tool_call>" in prompt_of(live, [BOTH, *two, WARM])  # as the model writes it
    assert "tools[1].function.name: 'clock' is also" in error(
        live.post("/tokenize", {"messages": [ASK], "tools": [CLOCK, CLOCK]})
    )["message"]  # fmt: skip


def test_training_data_reads_as_the_server_speaks(live: Live, taught_from: CustomJSON, words: Tokenizer) -> None:
    for turns, conversation in zip(LEARNED, taught_from, strict=True):
        ids, _ = chat.render(words, conversation)
        asked = live.post("/tokenize", {"messages": turns[:-1], "tools": TOOLS}).json()["tokens"]
        assert ids[: len(asked)] == asked
        chat.check(conversation)


ARGUMENTS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=6)
        | st.sampled_from(['"}</tool_call>', "\\", '\\"', "{[", "<tool_call>"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["f", "get_x", "a.b"]), ARGUMENTS), min_size=1, max_size=3), st.data())
def test_any_call_comes_apart_as_it_was_put_together(calls: list, data: st.DataObject) -> None:
    spaces = data.draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    written = [(name, json.dumps(arguments, separators=spaces)) for name, arguments in calls]
    text = toolcalls.call_text(
        Call.model_validate({"function": {"name": name, "arguments": arguments}}) for name, arguments in written
    )
    parser, chunks = toolcalls.CallParser(), []
    while text:
        size = data.draw(st.integers(1, 12))
        chunks += parser.add(text[:size])
        text = text[size:]
    assert toolcalls.calls(chunks) == written == toolcalls.calls(merged(chunks))


# ---------------------------------------------------------------- conversations that clients send


def test_conversations_of_the_case_roles_are_answered(live: Live) -> None:
    """shared/cases/serving/roles"""
    system = [{"role": "system", "content": "Be brief."}]
    greeted = [{"role": "assistant", "content": "Hi, I am Bot"}, {"role": "user", "content": "Hello!"}]
    for turns in (system, greeted, system + greeted):
        ask(live, *turns, tools=None, max_tokens=3)
    start = "<|assistant_start|>"
    assert prompt_of(live, system) == f"<|bos|><|system_start|>Be brief.<|system_end|>{start}"
    answered = f"{start}Hi, I am Bot<|assistant_end|><|user_start|>Hello!<|user_end|>{start}"
    assert prompt_of(live, greeted) == f"<|bos|>{answered}"
    assert prompt_of(live, system + greeted) == f"<|bos|><|system_start|>Be brief.<|system_end|>{answered}"


def test_odd_conversations_are_read_in_the_plainest_way(live: Live) -> None:
    start, end = "<|user_start|>", "<|user_end|><|assistant_start|>"
    response = "<tool_response>noon</tool_response>"
    # a history that was cut before the call, and a result that answers no call
    assert prompt_of(live, [NOON]) == f"<|bos|>{start}{response}{end}"
    assert prompt_of(live, [{"role": "tool", "content": "noon"}, THANKS]) == f"<|bos|>{start}{response}\n\nThanks!{end}"
    for empty in ({"content": ""}, {"content": None}, {"content": []}, {}):
        said = prompt_of(live, [ASK, {"role": "assistant", **empty}, THANKS])
        assert "<|assistant_start|><|assistant_end|><|user_start|>Thanks!" in said
        begun = prompt_of(live, [ASK, {"role": "assistant", **empty}])
        assert begun == prompt_of(live, [ASK])
    named = {**ASK, "name": "Ada"}
    assert prompt_of(live, [named]) == prompt_of(live, [ASK])
    refused = {"role": "assistant", "content": None, "refusal": "I cannot."}
    content = [{"type": "refusal", "refusal": "I can"}, {"type": "output_text", "text": "not."}]
    parts = {"role": "assistant", "content": content}
    assert prompt_of(live, [ASK, refused, THANKS]) == prompt_of(live, [ASK, parts, THANKS])
    assert "I cannot.<|assistant_end|>" in prompt_of(live, [ASK, parts, THANKS])
    typed = {"role": "user", "content": [{"type": "input_text", "text": ASK["content"]}]}
    assert prompt_of(live, [typed]) == prompt_of(live, [ASK])
    result = {**NOON, "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "on"}]}
    assert prompt_of(live, [result]) == prompt_of(live, [NOON])
    assert prompt_of(live, [{"role": "system", "content": ""}]) == "<|bos|><|assistant_start|>"


@pytest.mark.parametrize("kind", ["image_url", "input_image", "input_audio", "file"])
def test_what_is_no_text_is_refused_by_its_place(live: Live, kind: str) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {}}]
    refused = error(live.post(CHAT, {"messages": [THANKS, {"role": "user", "content": parts}]}))
    assert f"messages[1].content[1]: a part of type '{kind}' is not supported" in refused["message"]


def test_the_guides_example_runs(live: Live) -> None:
    page = (Path(__file__).parent.parent / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
    example = page.split("## Tools of your own")[1].split("```python\n")[1].split("```")[0]
    program = example.replace("http://localhost:8000", live.url).replace("sft:d3", "sft:random")
    names: dict[str, Any] = {}
    exec(compile(program, "serving.md", "exec"), names)
    assert names["call"].function.name == "roll" and 1 <= names["result"] <= 20
    assert names["answer"].usage.prompt_tokens_details.cached_tokens > 0
