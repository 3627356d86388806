"""The API's answers: OpenAI's shapes, streamed and whole, and the settings a client can send."""

import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from tests.scripted import calculating, scripted
from tests.served import Live, content, events, loaded, random_model, served
from tests.served import refusal as error

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
quick = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    """sft:d1 calculates 6*7 and says "é! Rome"; base:d1 and sft:random may say anything; sft:xy never stops."""
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    rambling = scripted(tokenizer, [[tokenizer.special(chat.ASSISTANT_START), x, y, x]], 64)
    with served(
        [loaded(Engine(calculating(tokenizer, "é! Rome", 128), slots=4), tokenizer)],
        [loaded(Engine(random_model(tokenizer), slots=4), tokenizer, "base")],
        [loaded(Engine(random_model(tokenizer, seed=1), slots=4), tokenizer, "sft", "random")],
        [loaded(Engine(rambling, slots=4), tokenizer, "sft", "xy")],
    ) as live:
        yield live


def ask(live: Live, path: str = CHAT, **body) -> dict:
    response = live.post(path, {"messages": HELLO, **body} if path == CHAT else body)
    assert response.status_code == 200, response.text
    return response.json()


def said(reply: dict) -> list[str]:
    """The text of all choices."""
    return [choice["message"]["content"] if "message" in choice else choice["text"] for choice in reply["choices"]]


def counts(reply: dict) -> tuple[int, int, int]:
    usage = reply["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


# ---------------------------------------------------------------- models


def test_the_models_are_listed_with_what_a_page_needs(live: Live) -> None:
    listed = live.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["sft:d1", "base:d1", "sft:random", "sft:xy"]
    first, base = listed["data"][:2]
    assert first["default"] and first["chat"] and first["tools"] == ["calculator"] and not base["chat"]
    assert (first["context_length"], first["step"], first["dtype"]) == (128, 7, "float32")
    assert first["special_tokens"][chat.BOS] == live.state.default.tokenizer.bos
    assert first["defaults"]["temperature"] == 0.8 and first["defaults"]["max_tokens"] == 512
    assert live.get("/v1/models/sft:d1").json() == first
    assert error(live.get("/v1/models/none"), 404)["code"] == "model_not_found"


def test_a_request_names_its_model(live: Live) -> None:
    assert ask(live)["model"] == "sft:d1"
    assert ask(live, model="sft:xy", max_tokens=1)["model"] == "sft:xy"
    assert ask(live, model="sft:xy:7", max_tokens=1)["model"] == "sft:xy"
    refused = error(live.post(CHAT, {"messages": HELLO, "model": "gpt-4"}), 404)
    assert refused["code"] == "model_not_found" and "sft:d1" in refused["message"]


def test_a_base_model_completes_and_refuses_to_chat(live: Live) -> None:
    assert ask(live, COMPLETIONS, model="base:d1", prompt="Ada", max_tokens=3)["usage"]["completion_tokens"] <= 3
    refused = error(live.post(CHAT, {"messages": HELLO, "model": "base:d1"}))
    assert refused["param"] == "model" and "/v1/completions" in refused["message"]


# ---------------------------------------------------------------- replies, whole and streamed


def test_a_chat_has_its_tool_calls_as_parts(live: Live, tokenizer: Tokenizer) -> None:
    reply = ask(live)
    assert reply["object"] == "chat.completion" and reply["system_fingerprint"].startswith("fp_")
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == "é! Rome" and choice["finish_reason"] == "stop"
    assert choice["message"]["parts"] == [
        {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}, {"type": "text", "text": "é! Rome"}
    ]  # fmt: skip
    prompt = len(chat.prompt(tokenizer, HELLO))
    sampled = len(tokenizer.encode("6*7")) + 2 + len(tokenizer.encode("é! Rome")) + 1  # the stop token counts
    assert counts(reply) == (prompt, sampled, prompt + sampled)
    assert reply["nanochat"]["context_length"] == 128


def test_a_stream_begins_with_the_role_and_ends_with_the_usage(live: Live) -> None:
    body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    response = live.post(CHAT, body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
    first, *middle, finish, usage = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert finish["choices"][0]["delta"] == {} and finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == [] and counts(usage) == counts(ask(live))
    assert all(chunk["usage"] is None for chunk in [first, *middle, finish])
    heads = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in [first, *middle, usage]}
    assert len(heads) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in middle]
    assert [delta["part"] for delta in deltas if "part" in delta] == [
        {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}
    ]  # fmt: skip
    assert all("content" not in delta for delta in deltas if "part" in delta)
    assert content([first, *middle, finish]) == "é! Rome"
    assert not any("usage" in chunk for chunk in events(live.post(CHAT, {"messages": HELLO, "stream": True})))


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 2.0]), st.sampled_from([None, "a", ["e", " t"]]))
def test_a_stream_joined_is_the_reply_that_comes_whole(live: Live, seed: int, temperature: float, stop) -> None:
    body = {"model": "sft:random", "messages": HELLO, "seed": seed, "max_tokens": 20, "temperature": temperature,
            "stop": stop, "n": 2}  # fmt: skip
    whole = live.post(CHAT, body).json()
    chunks = events(live.post(CHAT, {**body, "stream": True}))
    for choice in whole["choices"]:
        assert content(chunks, choice["index"]) == choice["message"]["content"]
        reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert reasons[-1] == choice["finish_reason"] and set(reasons[:-1]) == {None}


@quick
@given(texts)
def test_any_unicode_comes_back_as_it_went(live: Live, text: str) -> None:
    reply = live.post(COMPLETIONS, {"prompt": text, "echo": True, "max_tokens": 0})
    if reply.status_code == 400:
        assert reply.json()["error"]["code"] == "context_length_exceeded"
        return
    assert reply.json()["choices"][0]["text"] == text
    ids = live.post("/tokenize", {"text": text}).json()
    assert ids["count"] == len(ids["tokens"]) == len(ids["texts"])
    assert live.post("/detokenize", {"tokens": ids["tokens"]}).json() == {"text": text}
    assert live.post(CHAT, {"messages": [{"role": "user", "content": text}], "max_tokens": 1}).status_code == 200


def test_half_a_surrogate_pair_is_no_reason_to_fall_over(live: Live) -> None:
    body = b'{"prompt": "a\\ud800b", "echo": true, "max_tokens": 0, "stop": "\\udfff", "model": null}'
    assert live.post(COMPLETIONS, body).status_code == 200
    refused = live.post(COMPLETIONS, b'{"model": "\\ud800"}')
    assert error(refused, 404)["code"] == "model_not_found"


# ---------------------------------------------------------------- settings


def test_max_tokens_ends_a_reply_with_length(live: Live) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = ask(live, model="sft:xy", **{name: 5})
        assert said(reply) == ["xyxyx"] and counts(reply)[1] == 5
        assert reply["choices"][0]["finish_reason"] == "length"
    without = ask(live, model="sft:xy")
    assert counts(without)[2] == 65  # the context, and what follows its last token
    assert counts(ask(live, model="sft:xy", max_tokens=10**9)) == counts(without)


@pytest.mark.parametrize("stop", ["yxy", ["Q", "yxy"]])
def test_a_stop_string_over_several_tokens_ends_a_reply(live: Live, stop) -> None:
    reply = ask(live, model="sft:xy", stop=stop)
    assert said(reply) == ["x"] and reply["choices"][0]["finish_reason"] == "stop" and counts(reply)[1] == 4
    streamed = events(live.post(CHAT, {"messages": HELLO, "model": "sft:xy", "stop": stop, "stream": True}))
    assert content(streamed) == "x" and streamed[-1]["choices"][0]["finish_reason"] == "stop"
    assert said(ask(live, COMPLETIONS, model="sft:xy", prompt="x", stop=stop)) == [""]
    live.wait_until_idle()


def test_n_replies_with_a_seed_differ_from_each_other_and_come_again(live: Live) -> None:
    body = {"model": "sft:random", "n": 3, "seed": 5, "max_tokens": 12, "temperature": 1.0}
    replies = ask(live, **body)
    assert len(set(said(replies))) == 3 and said(ask(live, **body)) == said(replies)
    assert [choice["index"] for choice in replies["choices"]] == [0, 1, 2]
    assert counts(replies)[0] == counts(ask(live, model="sft:random", max_tokens=1))[0]
    assert len({*(said(ask(live, model="sft:random", max_tokens=12))[0] for _ in range(4))}) > 1
    assert len(ask(live, n=9)["choices"]) == 9  # more than slots


def test_logit_bias_decides(live: Live, tokenizer: Tokenizer) -> None:
    z = tokenizer.encode("z")[0]
    assert said(ask(live, model="sft:random", logit_bias={str(z): 100}, max_tokens=3)) == ["zzz"]
    for bad in ({"5x": 1}, {"-1": 1}, {"320": 1}, {"5": 101}, {"5": "1"}):
        assert error(live.post(CHAT, {"messages": HELLO, "logit_bias": bad}))["param"] == "logit_bias"


def test_penalties_and_the_other_settings_are_taken(live: Live) -> None:
    settings = {"top_p": 0.5, "min_p": 0.1, "top_k": -1, "repetition_penalty": 1.3, "presence_penalty": 1,
                "frequency_penalty": 2}  # fmt: skip
    greedy = {"model": "sft:xy", "max_tokens": 6, "temperature": 0}
    assert said(ask(live, **greedy)) == ["xyxyxy"] and said(ask(live, **greedy, **settings)) != [""]
    random = {"model": "sft:random", "temperature": 0, "max_tokens": 20}
    each = {"seed": 1, "repetition_penalty": 5, "presence_penalty": 2, "frequency_penalty": 2}
    assert len({said(ask(live, **random, **{name: value}))[0] for name, value in each.items()}) >= 3


def test_log_probabilities_of_a_chat(live: Live, tokenizer: Tokenizer) -> None:
    body = {"logprobs": True, "top_logprobs": 2, "temperature": 0}
    entries = ask(live, **body)["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == "é! Rome"
    assert [entry["token"] for entry in entries[2:]] == [tokenizer.decode([id]) for id in tokenizer.encode("! Rome")]
    for entry in entries:
        assert entry["top_logprobs"][0] == {key: entry[key] for key in ("token", "id", "bytes", "logprob")}  # greedy
        assert len(entry["top_logprobs"]) == 2 and -1e-3 < entry["logprob"] <= 0
    chunks = events(live.post(CHAT, {"messages": HELLO, "stream": True, **body}))
    streamed = [e for chunk in chunks for c in chunk["choices"] if c["logprobs"] for e in c["logprobs"]["content"]]
    assert streamed == entries
    assert ask(live, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert ask(live)["choices"][0]["logprobs"] is None
    assert error(live.post(CHAT, {"messages": HELLO, "top_logprobs": 2}))["param"] == "top_logprobs"


def test_log_probabilities_of_a_completion(live: Live, tokenizer: Tokenizer) -> None:
    body = {"model": "base:d1", "prompt": "Ada the", "echo": True, "logprobs": 3, "max_tokens": 4, "seed": 1}
    choice = ask(live, COMPLETIONS, **body)["choices"][0]
    found = choice["logprobs"]
    prompt = tokenizer.encode("Ada the")
    assert found["tokens"][: len(prompt)] == [tokenizer.decode([id]) for id in prompt]
    assert len(found["tokens"]) == len(prompt) + 4
    assert all(len(top) == 3 for top in found["top_logprobs"])
    nll = live.engines[1].score([[tokenizer.bos, *prompt]])[0].tolist()
    assert found["token_logprobs"][: len(prompt)] == pytest.approx([-each for each in nll], abs=1e-4)
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert token.startswith("bytes:") or choice["text"][offset:].startswith(token)
    chunks = events(live.post(COMPLETIONS, {**body, "stream": True}))
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == choice["text"]
    streamed = [part["logprobs"] for part in parts if part["logprobs"]]
    assert {name: [value for each in streamed for value in each[name]] for name in found} == found
    ids = ask(live, COMPLETIONS, **{**body, "prompt": prompt, "max_tokens": 0})["choices"][0]["logprobs"]
    assert ids["token_logprobs"][0] is None and ids["token_ids"] == prompt
    for top, named in zip(ids["top_logprobs"][1:], ids["top_token_ids"][1:], strict=True):
        assert set(top) == set(named) and len(set(named.values())) == 3
        assert all(key.startswith("bytes:") or key == tokenizer.decode([id]) for key, id in named.items())


def test_a_reply_begins_with_given_tokens(live: Live, tokenizer: Tokenizer) -> None:
    start, end = (tokenizer.special(name) for name in (chat.PYTHON_START, chat.PYTHON_END))
    call = [start, *tokenizer.encode("6*8"), end]  # runs like one that the model has written
    (choice,) = ask(live, begins_with=call)["choices"]
    assert [part["text"] for part in choice["message"]["parts"]] == ["6*8", "48", "é! Rome"]
    half = tokenizer.encode("é")[:1]
    body = {"begins_with": half, "temperature": 0, "logprobs": True, "top_logprobs": 1}
    entry = ask(live, **body)["choices"][0]["logprobs"]["content"][0]
    assert entry["id"] == half[0] != entry["top_logprobs"][0]["id"] and entry["logprob"] < -1  # of the model itself
    (ended,) = ask(live, begins_with=[tokenizer.special(chat.ASSISTANT_END)])["choices"]
    assert (ended["message"]["content"], ended["finish_reason"]) == ("", "stop")
    ada = tokenizer.encode("Ada")
    body = {"model": "base:d1", "prompt": "Hello", "max_tokens": len(ada) + 2, "temperature": 0}
    (text,) = said(ask(live, COMPLETIONS, begins_with=ada, **body))
    whole = [tokenizer.bos, *tokenizer.encode("Hello"), *ada]
    assert text == "Ada" + said(ask(live, COMPLETIONS, **{**body, "prompt": whole, "max_tokens": 2}))[0]
    assert error(live.post(CHAT, {"messages": HELLO, "begins_with": [10**6]}))["param"] == "begins_with"
    both = {"messages": HELLO, "begins_with": ada, "response_format": {"type": "json_object"}}
    assert "cannot be combined" in error(live.post(CHAT, both))["message"]


def test_prompts_of_all_kinds(live: Live, tokenizer: Tokenizer) -> None:
    greedy = {"model": "base:d1", "temperature": 0, "max_tokens": 4}
    ada = tokenizer.encode("Ada")
    (text,) = said(ask(live, COMPLETIONS, prompt="Ada", **greedy))
    assert said(ask(live, COMPLETIONS, prompt=[tokenizer.bos, *ada], **greedy)) == [text]
    assert said(ask(live, COMPLETIONS, prompt=[[tokenizer.bos, *ada], ada], **greedy))[0] == text
    assert counts(ask(live, COMPLETIONS, **greedy))[0] == 1  # what begins a document
    several = ask(live, COMPLETIONS, prompt=["Ada", "Tom"], n=2, **greedy)
    assert said(several)[:2] == [text] * 2 and [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert counts(several)[0] == 2 + len(ada) + len(tokenizer.encode("Tom"))


@pytest.mark.parametrize(
    "prompt", [[], [[]], [1, "a"], ["a", 1], {"a": 1}, 5, [320], [-1], [True], [1.5], [[1], [None]], [""] * 129]
)
def test_a_prompt_of_no_kind_is_refused(live: Live, prompt) -> None:
    refused = error(live.post(COMPLETIONS, {"prompt": prompt, "max_tokens": 1}))
    assert refused["param"] == "prompt" and "prompt" in refused["message"]


def test_a_prompt_beyond_the_context_is_refused_with_its_length(live: Live, tokenizer: Tokenizer) -> None:
    text = "Ada " * 200
    refused = error(live.post(CHAT, {"messages": [{"role": "user", "content": text}]}))
    assert refused["code"] == "context_length_exceeded" and refused["param"] == "messages"
    assert str(len(chat.prompt(tokenizer, [{"role": "user", "content": text}]))) in refused["message"]
    assert "128" in refused["message"]
    assert error(live.post(COMPLETIONS, {"prompt": text}))["code"] == "context_length_exceeded"
    whole = [5] * 128
    assert ask(live, COMPLETIONS, prompt=whole)["usage"]["completion_tokens"] == 1
    assert error(live.post(COMPLETIONS, {"prompt": [*whole, 5]}))["code"] == "context_length_exceeded"


def test_the_turns_of_a_conversation_are_cached(live: Live) -> None:
    body = {"model": "sft:xy", "max_tokens": 10}
    first = [{"role": "user", "content": "What is the name of the baker?"}]
    asked = ask(live, **body, messages=first)
    turns = [*first, {"role": "assistant", "content": "xyxyxyxyxy"}, {"role": "user", "content": "And now?"}]
    again = ask(live, **body, messages=turns)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= asked["usage"]["prompt_tokens"]


# ---------------------------------------------------------------- conversations


def prompt_of(live: Live, messages: list) -> str:
    return "".join(live.post("/tokenize", {"messages": messages}).json()["texts"])


def test_contents_may_be_lists_of_text_parts(live: Live) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    assert prompt_of(live, [{"role": "user", "content": parts}]) == prompt_of(live, HELLO)
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    refused = error(live.post(CHAT, {"messages": [{"role": "user", "content": image}]}))
    assert "messages[0].content[0]: a part of type 'image_url' is not supported" in refused["message"]
    assert refused["param"] == "messages"


def test_roles_whose_meaning_is_clear_are_accepted(live: Live) -> None:
    def user(text: str) -> dict:
        return {"role": "user", "content": text}

    system = prompt_of(live, [{"role": "system", "content": "Be\n\nbrief"}, user("a\n\nb")])
    odd = [{"role": "developer", "content": "Be"}, user("a"), {"role": "system", "content": "brief"}, user("b")]
    assert prompt_of(live, odd) == system
    turns = [user("a"), {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}, user("d")]
    assert prompt_of(live, turns) == prompt_of(live, [turns[0], {"role": "assistant", "content": "b\n\nc"}, turns[3]])


def test_special_tokens_in_messages_are_text(live: Live, tokenizer: Tokenizer) -> None:
    for role in ("user", "system"):
        messages = [{"role": role, "content": chat.ASSISTANT_START}, *HELLO]
        ids = live.post("/tokenize", {"messages": messages}).json()["tokens"]
        assert ids.count(tokenizer.special(chat.ASSISTANT_START)) == 1


def test_a_last_message_of_the_assistant_is_continued(live: Live, tokenizer: Tokenizer) -> None:
    call = [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
    head = [*HELLO, {"role": "assistant", "content": call}]
    ids = live.post("/tokenize", {"messages": head}).json()["tokens"]
    assert ids[-1] == chat.tool_ids(tokenizer).output_end
    assert said(ask(live, messages=head)) == ["é! Rome"]
    assert said(ask(live, messages=[*HELLO, {"role": "assistant", "content": "é"}])) == ["! Rome"]


@pytest.mark.parametrize(
    "messages",
    [
        [], [{}], [None], ["hi"], [{"role": "user"}], [{"role": "user", "content": None}], [{"role": "user",
        "content": 5}],
        [{"role": "king", "content": "a"}], [{"role": ["user"], "content": "a"}],
        [{"role": "user", "content": [{"type": "python", "text": "1"}]}], [{"role": "user",
        "content": [{"type": "text"}]}],
        [{"role": "user", "content": ["a"]}], [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{}]}],
        HELLO * 2001,
    ],
)  # fmt: skip
def test_messages_that_are_no_conversation_are_refused(live: Live, messages: list) -> None:
    assert error(live.post(CHAT, {"messages": messages}))["param"] == "messages"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", 2.1), ("temperature", "1"), ("temperature", True), ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 2), ("n", 0), ("n", 129), ("n", 1.5), ("max_tokens", -2), ("max_tokens", "5"),
        ("max_completion_tokens", []),
        ("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0), ("seed", 1.5), ("seed", 2**64),
        ("stop", ""), ("stop", [""]), ("stop", 5), ("stop", ["a"] * 17), ("stop", "a" * 501), ("stream", "yes"),
        ("top_logprobs", 21),
        ("logit_bias", [1]), ("model", 5), ("messages", "hi"), ("messages", {}), ("messages", None), ("stream_options",
        1),
        ("response_format", "json"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_by_name(live: Live, field: str, value) -> None:
    refused = error(live.post(CHAT, {"messages": HELLO, "logprobs": True, field: value}))
    assert refused["param"] == field and field in refused["message"] and "pydantic" not in refused["message"]


def test_fields_nobody_knows_and_nulls_are_no_trouble(live: Live) -> None:
    names = "model temperature stop n stream tools response_format seed max_tokens logit_bias".split()
    assert ask(live, user="me", store=True, metadata={"a": 1}, **dict.fromkeys(names))


# ---------------------------------------------------------------- JSON


def test_a_reply_keeps_to_a_json_schema(live: Live) -> None:
    properties = {
        "name": {"type": "string", "maxLength": 4},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    }
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    body = {"model": "sft:random", "temperature": 2.0, "top_k": 0, "n": 8, "max_tokens": 200}
    for choice in ask(live, **body, response_format=response_format)["choices"]:
        assert choice["finish_reason"] == "stop"
        found = json.loads(choice["message"]["content"])
        assert set(found) == set(properties) and len(found["name"]) <= 4 and 0 <= found["n"] <= 99
        assert isinstance(found["n"], int) and set(found["tags"]) <= {"a", "b"} and len(found["tags"]) <= 2


def test_json_object_gives_an_object(live: Live) -> None:
    body = {"model": "sft:random", "temperature": 0.5, "n": 8, "response_format": {"type": "json_object"}}
    choices = ask(live, **body, max_tokens=250)["choices"]
    whole = [choice["message"]["content"] for choice in choices if choice["finish_reason"] == "stop"]
    assert all(isinstance(json.loads(text), dict) for text in whole)
    assert all(text.lstrip().startswith("{") for text in said(ask(live, **body, max_tokens=3)))


@pytest.mark.parametrize(
    ("response_format", "reason"),
    [
        ({"type": "xml"}, "response_format.type"), ({}, "response_format.type"), ({"type": "json_schema"}, "schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}, "objekt"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}, "nowhere"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "("}}}, "regex"),
        ({"type": "json_schema", "json_schema": {"schema": {"enum": []}}}, "nsatisfiable"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, "no text satisfies it"),
        ({"type": "json_schema", "json_schema": {"schema": {"description": "x" * 200_000}}}, "characters"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_kept_has_a_reason(live: Live, response_format: dict, reason: str) -> None:
    refused = error(live.post(CHAT, {"messages": HELLO, "response_format": response_format}))
    assert refused["param"] == "response_format" and reason in refused["message"]


# ---------------------------------------------------------------- the older surfaces and the rest


@pytest.mark.parametrize("path", ["/chat/completions", "/chat"])
def test_the_classic_chat_answers_whole_or_with_its_own_events(live: Live, path: str) -> None:
    reply = live.post(path, {"messages": HELLO, "temperature": 0, "top_k": 5, "max_tokens": 50}).json()
    assert reply["choices"][0]["message"]["content"] == "é! Rome"
    for body, headers in (({"stream": True}, {}), ({}, {"Accept": "text/event-stream"})):
        response = live.post(path, {"messages": HELLO, **body}, headers=headers)
        assert response.headers["content-type"].startswith("text/event-stream")
        data = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n") if line]
        assert data[-1] == {"done": True} and all(set(event) == {"token", "gpu"} for event in data[:-1])
        assert "".join(event["token"] for event in data[:-1]) == "é! Rome"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []}, {"messages": HELLO * 501}, {"messages": [{"role": "user", "content": ""}]}, {},
        {"messages": [{"role": "user", "content": "a" * 8001}]},
        {"messages": [{"role": role, "content": "a" * 8000} for role in ("user", "assistant", "user", "assistant",
        "user")]},
        {"messages": HELLO, "temperature": 2.5}, {"messages": HELLO, "top_k": 0}, {"messages": HELLO, "top_k": 201},
        {"messages": HELLO, "max_tokens": 0}, {"messages": HELLO, "max_tokens": 4097},
    ],
)  # fmt: skip
def test_the_classic_chat_has_its_limits(live: Live, body: dict) -> None:
    error(live.post("/chat/completions", body))


def test_generate_continues_a_text(live: Live) -> None:
    assert live.post("/generate", {"prompt": "x", "max_tokens": 4, "model": "sft:xy"}).json() == {"text": "yxyx"}


def test_health_stats_and_metrics(live: Live) -> None:
    health = live.get("/health").json()
    assert health["status"] == "ok" and health["ready"] and health["num_gpus"] == 1 and health["available_workers"] == 4
    ask(live, model="sft:xy", max_tokens=3)
    live.wait_until_idle()
    stats = live.get("/stats").json()
    assert stats["total_workers"] == stats["available_workers"] == 4 and stats["busy_workers"] == 0
    assert [set(worker) for worker in stats["workers"]] == [{"gpu_id", "device", "model"}] * 4
    assert stats["models"]["sft:xy"]["busy_slots"] == 0 and stats["models"]["sft:xy"]["generated_tokens"] >= 3
    metrics = live.get("/metrics").text
    assert 'nanochat_slots{model="sft:xy"} 4.0' in metrics
    assert 'nanochat_replies_total{model="sft:xy",reason="length"}' in metrics
    assert 'nanochat_http_requests_total{route="/v1/chat/completions",status="200"}' in metrics


def test_the_root_is_json_for_programs_and_a_page_for_browsers(live: Live) -> None:
    assert live.get("/").json() == {"status": "ok", "model": "sft:d1", "device": "cpu", "dtype": "float32"}
    page = live.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_api_is_described_without_help_from_elsewhere(live: Live) -> None:
    page = live.get("/docs").text
    described = live.get("/openapi.json").json()
    assert all(path in page for path in described["paths"]) and "https://" not in page
    named = set(re.findall(r'"#/components/schemas/(\w+)"', live.get("/openapi.json").text))
    assert {"ChatRequest", "CompletionRequest", "ErrorReply"} <= named <= set(described["components"]["schemas"])
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    assert not any("422" in operation["responses"] for operation in operations)


def test_unknown_paths_and_methods_are_refused_in_the_envelope(live: Live) -> None:
    error(live.get(CHAT), 405)
    for path in ("/nothing", "/static/../app.py", "/static/%2e%2e/app.py"):
        error(live.get(path), 404)
