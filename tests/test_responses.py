"""OpenAI's Responses API: items in and out, events as OpenAI's own package knows them."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from nanochat.chat import SPECIALS
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.bodies import messages
from nanochat.web.state import Settings
from tests.scripted import calculating, scripted, taught
from tests.served import Live, loaded, random_model, refusal, served

PATH = "/v1/responses"
EVENT: pydantic.TypeAdapter = pydantic.TypeAdapter(ResponseStreamEvent)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FLAT: list[Any] = [
    {"type": "function", "name": "get_weather", "description": "Weather now", "parameters": CITY},
    {"type": "function", "name": "clock"},
]
TOOLS = [{"type": "function", "function": {key: tool[key] for key in tool if key != "type"}} for tool in FLAT]
ASK = {"role": "user", "content": "How warm is Rome?"}
BOTH = {"role": "user", "content": "And Oslo, and when?"}
OUTPUT = {"type": "function_call_output", "output": "21 degrees"}


def call(name: str, arguments: str) -> dict:
    return {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}


LEARNED = [
    [ASK, {"role": "assistant", "content": "Let me see.", "tool_calls": [call("get_weather", '{"city": "Rome"}')]},
     {"role": "tool", "content": "21 degrees"}, {"role": "assistant", "content": "It is warm."}],
    [BOTH, {"role": "assistant", "tool_calls": [call("get_weather", '{"city": "Oslo"}'), call("clock", "{}")]},
     {"role": "tool", "content": "21 degrees", "tool_call_id": "get_weather"},
     {"role": "tool", "content": "noon", "tool_call_id": "clock"},
     {"role": "assistant", "content": "Cold, and noon."}],
]  # fmt: skip
CONVERSATIONS = [messages.training({"messages": turns, "tools": TOOLS}) for turns in LEARNED]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A tokenizer that spells tools in few tokens."""
    return Tokenizer.train(iter([str(CONVERSATIONS) + ' {"a": 1}}</tool_call></tool_response>'] * 8), 420, SPECIALS)


@pytest.fixture(scope="module")
def live(words: Tokenizer, tokenizer: Tokenizer) -> Iterator[Live]:
    """sft:d1 knows LEARNED by heart, sft:random may say anything, sft:six calculates 6*7 and says "é! Rome"."""
    with served(
        [loaded(Engine(taught(words, CONVERSATIONS, 640), slots=4), words)],
        [loaded(Engine(random_model(words, 640, seed=3), slots=4), words, "sft", "random")],
        [loaded(Engine(calculating(tokenizer, "é! Rome", 128), slots=4), tokenizer, "sft", "six")],
        settings=Settings(temperature=0),
    ) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def ask(live: Live, input: object, **body: Any) -> dict:
    """A whole response, checked against OpenAI's own model of it."""
    answer = live.post(PATH, {"input": input, **body})
    assert answer.status_code == 200, answer.text
    Response.model_validate(answer.json(), strict=True)
    return answer.json()


def streamed(live: Live, input: object, **body: Any) -> list[dict]:
    """The events of a stream, each checked against OpenAI's own model of it."""
    answer = live.post(PATH, {"input": input, **body, "stream": True})
    assert answer.status_code == 200, answer.text
    events = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        kind, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
        EVENT.validate_python(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: list[dict]) -> list[str]:
    """The types of the events, each run of deltas as one."""
    types = [event["type"].removeprefix("response.") for event in events]
    return [kind for kind, before in zip(types, ["", *types], strict=False) if kind != before or "delta" not in kind]


def without_ids(value: Any) -> Any:
    """A response without what differs from one to the next."""
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if isinstance(value, dict):
        random = ("id", "call_id", "item_id", "created_at", "completed_at")
        return {key: without_ids(each) for key, each in value.items() if key not in random}
    return value


TEXT_EVENTS = [
    "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
    "content_part.done", "output_item.done", "completed",
]  # fmt: skip
CALL_EVENTS = [
    "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
]  # fmt: skip


# ---------------------------------------------------------------- text


def test_a_text_is_answered_by_a_message(live: Live) -> None:
    told = ask(live, "Hello!", model="sft:six", instructions="Be brief.", metadata={"a": "b"})
    (message,) = told["output"]
    assert (message["role"], message["status"], message["content"][0]["text"]) == ("assistant", "completed", "é! Rome")
    assert (told["status"], told["model"], told["metadata"]) == ("completed", "sft:six", {"a": "b"})
    assert told["instructions"] == "Be brief." and told["store"] is False and told["temperature"] == 0
    usage = told["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > usage["output_tokens"] > 0


def test_the_events_of_a_text(live: Live) -> None:
    events = streamed(live, "Hello!", model="sft:six")
    assert kinds(events) == TEXT_EVENTS
    assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == "é! Rome"
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == [] and events[-2]["item"] == events[-1]["response"]["output"][0]
    whole = ask(live, "Hello!", model="sft:six")
    ended = without_ids(events[-1]["response"])
    assert {**ended, "usage": None} == {**without_ids(whole), "usage": None}


def test_a_reply_without_text_is_an_empty_message(tokenizer: Tokenizer) -> None:
    with served([loaded(Engine(scripted(tokenizer, []), slots=1), tokenizer)]) as live:
        assert ask(live, "Hello!")["output"][0]["content"][0]["text"] == ""
        assert kinds(streamed(live, "Hello!")) == [kind for kind in TEXT_EVENTS if kind != "output_text.delta"]


def test_a_reply_that_reaches_its_limit_is_incomplete(live: Live) -> None:
    told = ask(live, "Hello!", model="sft:six", max_output_tokens=8)
    assert told["status"] == told["output"][0]["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "max_output_tokens"} and told["max_output_tokens"] == 8
    events = streamed(live, "Hello!", model="sft:six", max_output_tokens=8)
    assert kinds(events)[-1] == "incomplete" and events[-1]["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    "items, turns",
    [
        ([ASK], [ASK]),
        ([{"type": "message", **ASK}], [ASK]),
        ([{"role": "user", "content": [{"type": "input_text", "text": ASK["content"]}]}], [ASK]),
        ([{"role": "developer", "content": "Be brief."}, ASK], [{"role": "system", "content": "Be brief."}, ASK]),
        ([ASK, {"type": "reasoning", "id": "rs_1", "summary": []}], [ASK]),
        ([ASK, {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}]}, ASK],
         [ASK, {"role": "assistant", "content": "Hi."}, ASK]),
        ([ASK, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, ASK],
         [ASK, {"role": "assistant", "content": "No."}, ASK]),
    ],
)  # fmt: skip
def test_items_become_the_same_prompt_as_messages(live: Live, items: list, turns: list) -> None:
    counted = live.post("/tokenize", {"messages": turns}).json()["count"]
    assert ask(live, items, max_output_tokens=1)["usage"]["input_tokens"] == counted
    with_system = [{"role": "system", "content": "Rhyme."}, *turns]
    counted = live.post("/tokenize", {"messages": with_system}).json()["count"]
    told = ask(live, items, instructions="Rhyme.", max_output_tokens=1)
    assert told["usage"]["input_tokens"] == counted


def test_the_calculators_calls_come_back_with_the_next_turn(live: Live, client: openai.OpenAI) -> None:
    first = ask(live, "Hello!", model="sft:six")
    parts = first["output"][0]["parts"]
    assert [part["type"] for part in parts] == ["python", "python_output", "text"]
    turns = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": parts}, ASK]
    counted = live.post("/tokenize", {"model": "sft:six", "messages": turns}).json()["count"]
    parsed = client.responses.create(model="sft:six", input="Hello!")
    items = [{"role": "user", "content": "Hello!"}, *(item.model_dump() for item in parsed.output), ASK]
    assert ask(live, items, model="sft:six")["usage"]["input_tokens"] == counted


def test_log_probabilities(live: Live) -> None:
    body = {"model": "sft:six", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    scored = ask(live, "Hello!", **body)["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in scored).endswith("! Rome") and len(scored[0]["top_logprobs"]) == 2
    events = streamed(live, "Hello!", **body)
    deltas = [token for event in events if event["type"].endswith("text.delta") for token in event["logprobs"]]
    assert deltas == scored == events[-1]["response"]["output"][0]["content"][0]["logprobs"]


# ---------------------------------------------------------------- functions


def test_a_call_its_result_and_the_answer(live: Live) -> None:
    first = ask(live, [ASK], tools=FLAT)
    message, made = first["output"]
    assert message["content"][0]["text"] == "Let me see." and made["name"] == "get_weather"
    assert json.loads(made["arguments"]) == {"city": "Rome"} and first["status"] == "completed"
    assert first["tools"][0]["name"] == "get_weather" and first["tool_choice"] == "auto"
    again = ask(live, [ASK, message, made, {**OUTPUT, "call_id": made["call_id"]}], tools=FLAT)
    assert again["output"][0]["content"][0]["text"] == "It is warm."
    # The same as a chat's prompt.
    counted = live.post("/tokenize", {"messages": LEARNED[0][:-1], "tools": TOOLS}).json()["count"]
    assert again["usage"]["input_tokens"] == counted


def test_the_events_of_calls(live: Live) -> None:
    events = streamed(live, [ASK], tools=FLAT)
    assert kinds(events) == [*TEXT_EVENTS[:-1], *CALL_EVENTS, "completed"]
    pieces = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert json.loads("".join(pieces)) == {"city": "Rome"}
    assert without_ids(events[-1]["response"]["output"]) == without_ids(ask(live, [ASK], tools=FLAT)["output"])
    done = next(event for event in events if event["type"].endswith("arguments.done"))
    assert (done["name"], done["output_index"]) == ("get_weather", 1)
    both = streamed(live, "And Oslo, and when?", tools=FLAT)
    assert kinds(both) == ["created", "in_progress", *CALL_EVENTS, *CALL_EVENTS, "completed"]
    assert [item["name"] for item in both[-1]["response"]["output"]] == ["get_weather", "clock"]


def test_items_of_several_calls_come_back(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    output = ask(live, "And Oslo, and when?", tools=FLAT)["output"]
    results = {"get_weather": "21 degrees", "clock": "noon"}
    answers = [{**OUTPUT, "call_id": made["call_id"], "output": results[made["name"]]} for made in output]
    bare = [{key: made[key] for key in ("type", "call_id", "name", "arguments")} for made in output]  # as pydantic-ai
    pool, prompts = live.state.models["sft:d1"].pool, set()
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda job: (prompts.add(tuple(job.requests[0].prompt)), submit(job)))
    for calls in (output, bare):
        for order in (answers, answers[::-1]):
            told = ask(live, [BOTH, *calls, *order], tools=FLAT)
            assert told["output"][0]["content"][0]["text"] == "Cold, and noon."
    counted = live.post("/tokenize", {"messages": LEARNED[1][:-1], "tools": TOOLS}).json()
    assert prompts == {tuple(counted["tokens"])}  # results stand in the order of their calls
    parts = [{**each, "output": [{"type": "input_text", "text": each["output"]}]} for each in answers]
    assert ask(live, [BOTH, *output, *parts], tools=FLAT)["output"][0]["content"][0]["text"] == "Cold, and noon."


@pytest.mark.parametrize(
    "choice, names",
    [
        ("none", []), ("required", ["get_weather", "clock"]), ({"type": "function", "name": "clock"}, ["clock"]),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}, ["clock"]),
    ],
)  # fmt: skip
def test_tool_choice(live: Live, choice: object, names: list[str]) -> None:
    body = {"model": "sft:random", "tools": FLAT, "tool_choice": choice, "parallel_tool_calls": False,
            "max_output_tokens": 60}  # fmt: skip
    told = ask(live, [ASK], **body)
    called = [item["name"] for item in told["output"] if item["type"] == "function_call"]
    assert set(called) <= set(names) and len(called) == bool(names) and told["tool_choice"] == choice


def test_a_call_that_is_cut_off_is_incomplete(live: Live) -> None:
    body = {"model": "sft:random", "tools": FLAT[:1], "tool_choice": "required", "temperature": 1, "seed": 1}
    events = streamed(live, [ASK], **body, max_output_tokens=14)
    assert kinds(events)[-1] == "incomplete"
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


# ---------------------------------------------------------------- structured output


class Mood(BaseModel):
    mood: bool


def test_openai_parses(client: openai.OpenAI) -> None:
    told = client.responses.parse(model="sft:random", input="How are you?", text_format=Mood)
    assert isinstance(told.output_parsed, Mood)


@pytest.mark.parametrize("form", [
    {"type": "json_object"},
    {"type": "json_schema", "name": "n", "schema": {"type": "object", "properties": {"n": {"enum": [1]}},
                                                    "required": ["n"]}},
])  # fmt: skip
def test_formats(live: Live, form: dict) -> None:
    told = ask(live, "Hello!", model="sft:random", text={"format": form}, temperature=1, seed=2)
    text = told["output"][0]["content"][0]["text"]
    assert told["text"]["format"] == form
    assert told["status"] == "incomplete" or isinstance(json.loads(text), dict)


def test_openai_streams_text_functions_and_formats(client: openai.OpenAI) -> None:
    with client.responses.stream(model="sft:six", input="Hello!") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(texts) == stream.get_final_response().output_text == "é! Rome"
    with client.responses.stream(model="sft:d1", input=[ASK], tools=FLAT) as stream:  # type: ignore[list-item]
        final = stream.get_final_response()
        assert [item.type for item in final.output] == ["message", "function_call"]
    with client.responses.stream(model="sft:random", input="How are you?", text_format=Mood) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Mood)
    chunks = list(client.responses.create(model="sft:six", input="Hello!", stream=True))
    assert chunks[-1].type == "response.completed"


def test_a_base_url_without_v1(live: Live) -> None:
    with openai.OpenAI(base_url=live.url, api_key="-", max_retries=0) as client:
        assert client.responses.create(model="sft:six", input="Hello!").output_text == "é! Rome"


# ---------------------------------------------------------------- what is refused, and what is taken


def test_settings_of_no_consequence_are_taken(live: Live) -> None:
    harmless = {
        "include": [], "tools": [], "store": False, "background": False, "truncation": "auto", "user": "me",
        "reasoning": {"effort": "low"}, "text": {"verbosity": "low"}, "service_tier": "auto", "prompt_cache_key": "k",
        "stream_options": {"include_obfuscation": False}, "parallel_tool_calls": True, "tool_choice": "auto",
        "previous_response_id": None, "conversation": None, "safety_identifier": "s", "top_p": 1, "seed": 1,
    }  # fmt: skip
    told = ask(live, "Hello!", model="sft:six", **harmless)
    assert told["output"][0]["content"][0]["text"] == "é! Rome" and told["text"]["verbosity"] == "low"


@pytest.mark.parametrize(
    "body, param, said",
    [
        ({"store": True}, "store", "keeps no responses; send the whole conversation"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"conversation": "conv_1"}, "conversation", "keeps no responses"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "keeps no responses"),
        ({"background": True}, "background", "stream the reply instead"),
        ({"prompt": {"id": "p"}}, "prompt", "prompts"),
        ({"max_tokens": 5}, "max_tokens", "max_output_tokens"), ({"n": 2}, "n", "one reply"),
        ({"response_format": {"type": "text"}}, "response_format", "text.format"),
        ({"input": [{"id": "msg_1", "type": "item_reference"}]}, "input", "input[0] refers to a stored item"),
        ({"input": [{"id": "msg_1"}]}, "input", "input[0] refers to a stored item"),
        ({"input": [ASK, {"type": "web_search_call"}]}, "input", "input[1] is of type 'web_search_call'; expected mes"),
        ({"input": [{"role": "robot", "content": ""}]}, "input", "input[0].role"),
        ({"input": [{"role": "user"}]}, "input", "input[0]: it has no content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input", "text only"),
        ({"input": [{"type": "function_call", "call_id": "1"}]}, "input", "input[0].name"),
        ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input", "input[0].output"),
        ({"input": [ASK, {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}]}, "input",
         "input[1] calls a tool"),
        ({"input": []}, "input", "input is empty"), ({"input": 5}, "input", "input is 5; expected a string or a list"),
        ({"input": None}, "input", "input is missing"), ({"input": "a b " * 999}, "input", "context"),
        ({"tools": [{"type": "web_search"}]}, "tools", "'web_search' is not supported"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools", "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]}, "tools",
         "tools[0].parameters"),
        ({"tools": FLAT, "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "'g'"),
        ({"tools": FLAT, "tool_choice": {"type": "file_search"}}, "tool_choice", "'allowed_tools' or 'function'"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "no"}}}}, "text.format",
         "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens"),
        ({"temperature": 3}, "temperature", "temp"),
        ({"metadata": {"a": 1}}, "metadata", "metadata"), ({"model": "gpt-4o"}, "model", "no model"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(live: Live, body: dict, param: str, said: str) -> None:
    error = refusal(live.post(PATH, {"input": "Hello!", **body}), 404 if "model" in body else 400)
    assert said in error["message"] and error["param"] == param, error
    assert "messages[" not in error["message"] and "response_format" not in error["message"].replace(param, "")


VALUES = ["", "x", 1, 1.5, float("nan"), None, True, [], {}, [1], {"a": float("inf")}, "message", "function_call",
          "user", "function_call_output", "assistant", "system", [{"type": "input_text", "text": "a"}],
          [{"type": "refusal"}], "reasoning"]  # fmt: skip
FIELDS = ["type", "role", "content", "name", "arguments", "call_id", "output", "parts", "id"]
odd_items = st.lists(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES), max_size=5), max_size=3)
odd_forms = st.sampled_from([None, *({"type": kind, "x": x} for kind in ("text", "json_object") for x in VALUES[3:5])])
odd_tools = st.sampled_from([None, [], *([{"type": "function", "name": "f", "parameters": {"x": x}}] for x in VALUES)])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd_items, odd_forms, odd_tools, st.sampled_from([None, {}, *VALUES[:5]]))
def test_odd_items_are_answered_or_refused(live: Live, items: list, form: object, tools: object, odd: object) -> None:
    body = {"model": "sft:random", "input": items, "text": {"format": form}, "tools": tools, "response_format": odd,
            "max_output_tokens": 1}  # fmt: skip
    answer = live.post(PATH, json.dumps(body).encode())
    assert answer.status_code in (200, 400), answer.text
    assert answer.status_code == 200 or refusal(answer)["message"]


@pytest.mark.parametrize(
    "field, value",
    [("text", {"format": {"type": "text", "x": float("nan")}}),
     ("tools", [{"type": "function", "name": "f", "parameters": {"x-note": float("inf")}}])],
)  # fmt: skip
def test_what_is_sent_back_must_be_json(live: Live, field: str, value: object) -> None:
    body = {"model": "sft:random", "input": "Hello!", field: value, "max_output_tokens": 1}
    error = refusal(live.post(PATH, json.dumps(body).encode()))
    assert "not finite" in error["message"] and error["param"] == field


def test_there_are_no_stored_responses(client: openai.OpenAI) -> None:
    for ask_for in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="keeps no responses"):
            ask_for("resp_1")


def test_an_engine_that_stops_fails_the_response(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = live.state.models["sft:six"].pool
    monkeypatch.setattr(pool, "submit", lambda generation: generation.fail("the engine has stopped"))
    events = streamed(live, "Hello!", model="sft:six")
    assert kinds(events) == ["created", "in_progress", "failed"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "the engine has stopped"}
    assert refusal(live.post(PATH, {"input": "Hello!", "model": "sft:six"}), 500)["message"] == "the engine has stopped"


def test_a_stream_can_be_resumed(live: Live) -> None:
    headers = {"X-Nanochat-Resumable": "1"}
    answer = live.post(PATH, {"input": "Hello!", "model": "sft:six", "stream": True}, headers=headers)
    again = live.get(f"/v1/streams/{answer.headers['x-stream-id']}?after=3").text
    assert answer.text.endswith(again) and again.startswith("id: 4\nevent: response.output_text.delta\n")
