"""A body that is wrong is refused in one sentence: the field, what it holds, and which rule failed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.web.bodies import unsupported
from nanochat.web.bodies.items import ResponsesRequest, as_chat
from nanochat.web.bodies.schemas import (
    BODIES,
    Body,
    ChatRequest,
    ClassicRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    InspectRequest,
    TokenizeRequest,
    validated,
)
from nanochat.web.errors import ApiError

HELLO = [{"role": "user", "content": "Hello!"}]
COMPLETE: dict[type[Body], dict[str, Any]] = {
    ChatRequest: {"messages": HELLO}, ClassicRequest: {"messages": HELLO}, CompletionRequest: {},
    GenerateRequest: {"prompt": "x"}, ResponsesRequest: {"input": "x"},
    TokenizeRequest: {"text": "x"}, DetokenizeRequest: {"tokens": [1]}, InspectRequest: {"text": "x"},
}  # fmt: skip


def refused(kind: type[Body], **fields: Any) -> dict:
    with pytest.raises(ApiError) as caught:
        validated(kind, json.dumps({**COMPLETE[kind], **fields}).encode())
    return caught.value.envelope["error"]


CHAT_AND_COMPLETION = [
    ("stop", 5, "stop is 5; expected a string or a list"),
    ("stop", "", "stop is empty"),
    ("stop", [""], "stop[0] is empty"),
    ("stop", ["a", "", 3], "stop[1] is empty"),
    ("stop", ["a", 3], "stop[1] is 3; expected a string"),
    ("stop", ["a"] * 20, "stop has 20 strings; at most 16"),
    ("stop", ["a", "b" * 501], "stop[1] has 501 characters; at most 500"),
    ("stop", "b" * 501, "stop has 501 characters; at most 500"),
    ("stop", {"a": 1}, 'stop is {"a": 1}; expected a string or a list'),
    ("logit_bias", [1], "logit_bias is [1]; expected an object"),
    ("logit_bias", {"x": 1}, 'logit_bias["x"]: the name is no token id'),
    ("logit_bias", {"-1": 1}, 'logit_bias["-1"]: the name is no token id'),
    ("logit_bias", {"5": "a"}, 'logit_bias["5"] is "a"; expected a number'),
    ("logit_bias", {"5": 101}, 'logit_bias["5"] is 101; expected at most 100'),
    ("json_schema", 5, "json_schema is 5; expected an object, true or false, or a string"),
    ("guided_json", [], "guided_json is []; expected an object, true or false, or a string"),
    ("guided_choice", [], "guided_choice is empty"),
    ("guided_choice", ["a", 1], "guided_choice[1] is 1; expected a string"),
    ("structured_outputs", {"json": 5}, "structured_outputs.json is 5; expected an object, true or false, or a string"),
    ("structured_outputs", {"regex": 5}, "structured_outputs.regex is 5; expected a string"),
    ("structured_outputs", 5, "structured_outputs is 5; expected an object"),
    ("stop_token_ids", ["a"], 'stop_token_ids[0] is "a"; expected an integer'),
    ("max_tokens", -2, "max_tokens is -2; expected -1 or more"),
    ("temperature", 2.5, "temperature is 2.5; expected at most 2"),
    ("repeat_penalty", 0, "repeat_penalty is 0; expected more than 0"),
    ("top_p", "1", 'top_p is "1"; expected a number'),
    ("n", 1.5, "n is 1.5; expected an integer"),
    ("seed", 2**64, f"seed is {2**64}; expected less than {2**64}"),
    ("stream", "yes", 'stream is "yes"; expected true or false'),
    ("stream_options", {"include_usage": 1}, "stream_options.include_usage is 1; expected true or false"),
]  # fmt: skip
OTHERS = [
    (CompletionRequest, "prompt", 5, "prompt is 5; expected a string or a list"),
    (CompletionRequest, "prompt", [], "prompt is empty"),
    (CompletionRequest, "prompt", [[]], "prompt[0] is empty"),
    (CompletionRequest, "prompt", [1, "a"], 'prompt[1] is "a"; expected an integer'),
    (CompletionRequest, "prompt", ["a", 1], "prompt[1] is 1; expected a string"),
    (CompletionRequest, "prompt", [[1, 2], [3, None]], "prompt[1][1] is null; expected an integer"),
    (CompletionRequest, "prompt", [1.5], "prompt[0] is 1.5; expected an integer, a string, or a list"),
    (CompletionRequest, "prompt", ["a"] * 129, "prompt has 129 strings; at most 128"),
    (CompletionRequest, "prompt", [[1]] * 129, "prompt has 129 entries; at most 128"),
    (ChatRequest, "messages", "hi", 'messages is "hi"; expected a list'),
    (ChatRequest, "messages", [5], "messages[0] is 5; expected an object"),
    (ChatRequest, "messages", [*HELLO, {"content": "x"}], "messages[1].role is missing"),
    (ChatRequest, "messages", [{"role": "user"}], "messages[0]: it has no content"),
    (ChatRequest, "messages", [{"role": "user", "content": 5}],
     "messages[0].content: expected a string or a list of parts"),
    (ChatRequest, "messages", [{"role": "user", "content": [{"type": "image_url"}]}],
     "messages[0].content[0]: a part of type 'image_url' is not supported: the models here read text only"),
    (ChatRequest, "messages", [{"role": "user", "content": [{"type": "text", "text": 5}]}],
     "messages[0].content[0].text is 5; expected a string"),
    (ChatRequest, "tool_choice", "any", "tool_choice is \"any\"; expected 'auto', 'none' or 'required', or an object"),
    (ChatRequest, "tool_choice", {"type": "function"}, "tool_choice.function is missing"),
    (ChatRequest, "tool_choice", {"type": "function", "function": {"name": 5}},
     "tool_choice.function.name is 5; expected a string"),
    (ChatRequest, "tool_choice", {"type": "allowed_tools", "allowed_tools": {"tools": []}},
     "tool_choice.allowed_tools.tools is empty"),
    (ChatRequest, "function_call", "f", "function_call is \"f\"; expected 'auto' or 'none', or an object"),
    (ChatRequest, "function_call", {}, "function_call.name is missing"),
    (ResponsesRequest, "input", 5, "input is 5; expected a string or a list"),
    (ResponsesRequest, "input", ["x"], 'input[0] is "x"; expected an object'),
    (ResponsesRequest, "tool_choice", "x", "tool_choice is \"x\"; expected 'auto', 'none' or 'required', or an object"),
    (ResponsesRequest, "tool_choice", {"type": "function"}, "tool_choice.name is missing"),
    (ResponsesRequest, "max_output_tokens", 0, "max_output_tokens is 0; expected 1 or more"),
    (ClassicRequest, "messages", [], "messages is empty"),
    (ClassicRequest, "messages", [{"role": "user", "content": "a" * 8001}],
     "messages[0].content has 8001 characters; at most 8000"),
    (ClassicRequest, "top_k", 201, "top_k is 201; expected at most 200"),
    (GenerateRequest, "stop", [1], "stop[0] is 1; expected a string"),
    (GenerateRequest, "max_tokens", 0, "max_tokens is 0; expected 1 or more"),
    (TokenizeRequest, "text", 5, "text is 5; expected a string"),
    (DetokenizeRequest, "tokens", ["a"], 'tokens[0] is "a"; expected an integer'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [(kind, *case) for kind in (ChatRequest, CompletionRequest) for case in CHAT_AND_COMPLETION] + OTHERS,
)
def test_a_refusal_names_the_field_and_the_rule(kind: type[Body], field: str, value: Any, message: str) -> None:
    error = refused(kind, **{field: value})
    assert error["message"] == message
    assert error["param"] == field and error["code"] in ("invalid_value", "missing_required_parameter")


def test_unknown_fields_are_refused_where_people_write_by_hand() -> None:
    error = refused(GenerateRequest, num_tokens=5)
    assert error["message"].startswith("'num_tokens' is an unknown field; known are model, prompt, max_tokens")
    error = refused(ChatRequest, structured_outputs={"structural_tag": "x"})
    expected = "'structured_outputs.structural_tag' is an unknown field; known are json, json_object, regex"
    assert error["message"].startswith(expected) and error["param"] == "structured_outputs"


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"[]", "must be a JSON object"), (b'"x"', "must be a JSON object"), (b"", "not JSON in UTF-8"),
     (b'{"a": 1,}', "not JSON in UTF-8: trailing comma"), (b"\xff", "not JSON in UTF-8")],
)  # fmt: skip
def test_what_is_no_object_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=words):
        validated(ChatRequest, body)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n_predict", "response_format"])
def test_the_responses_api_has_names_of_its_own(field: str) -> None:
    value = {"type": "text"} if field == "response_format" else 3
    with pytest.raises(ApiError, match=f"{field} is called "):
        as_chat(validated(ResponsesRequest, json.dumps({"input": "x", field: value}).encode()))
    translated = as_chat(validated(ResponsesRequest, b'{"input": "x", "max_output_tokens": 3}'))
    assert translated.length == 3


# ---------------------------------------------------------------- fields of other servers


@pytest.mark.parametrize("name", unsupported.FIELDS)
def test_a_field_that_would_change_the_reply_is_refused_and_its_neutral_value_ignored(name: str) -> None:
    kind = ChatRequest if name == "echo" else CompletionRequest
    for value in unsupported.FIELDS[name].without_effect:
        assert validated(kind, json.dumps({**COMPLETE[kind], name: value}).encode())
    error = refused(kind, **{name: 0.25})
    assert name in error["message"] and error["param"] == name and error["code"] == "unsupported_parameter"


def test_penalties_have_no_window_and_one_name() -> None:
    for body in (b'{"repeat_last_n": 64}', b'{"repeat_last_n": -1, "repeat_penalty": 1.1}'):
        assert validated(CompletionRequest, body)
    assert refused(CompletionRequest, repeat_last_n=64, repeat_penalty=1.1)["param"] == "repeat_last_n"
    same = validated(CompletionRequest, b'{"repeat_penalty": 1.2, "repetition_penalty": 1.2, "n_predict": 3}')
    assert (same.repetition, same.length) == (1.2, 3)
    error = refused(CompletionRequest, repetition_penalty=1.2, repeat_penalty=1.1)
    assert error["message"] == "repetition_penalty and repeat_penalty mean the same and differ; send one of them"
    with pytest.raises(ApiError, match="max_completion_tokens and max_tokens mean the same and differ"):
        print(validated(CompletionRequest, b'{"max_completion_tokens": 1, "max_tokens": 2}').length)


def test_what_openais_clients_send_besides_is_ignored() -> None:
    sent = {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto", "prompt_cache_key": "k",
            "reasoning_effort": "low", "verbosity": "low", "safety_identifier": "s", "modalities": ["text"],
            "prediction": {"type": "content", "content": "x"}, "guided_decoding_backend": "outlines"}  # fmt: skip
    assert validated(ChatRequest, json.dumps({"messages": HELLO, **sent}).encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6,
)  # fmt: skip


@given(st.sampled_from(BODIES), st.data())
def test_any_body_is_taken_or_refused_with_a_field(kind: type[Body], data: st.DataObject) -> None:
    body = {name: data.draw(values) for name in data.draw(st.sets(st.sampled_from([*kind.model_fields]), max_size=3))}
    try:
        validated(kind, json.dumps({**COMPLETE[kind], **body}).encode())
    except ApiError as error:
        assert error.envelope["error"]["param"] in {*kind.model_fields} and error.status == 400
