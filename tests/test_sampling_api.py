"""What a client may demand of a reply: structured output, where it ends, and what is refused."""

import json
from collections.abc import Iterator

import pytest

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from tests.scripted import scripted
from tests.served import Live, content, events, loaded, random_model, refusal, served

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello!"}]
ANYTHING = {"temperature": 2.0, "top_k": 0, "max_tokens": 200}  # a random model says anything


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    """sft:random may say anything; sft:short says "x.", sft:xy never stops, base:xy continues x by y and y by x."""
    start, end = tokenizer.special(chat.ASSISTANT_START), tokenizer.special(chat.ASSISTANT_END)
    x, y, dot = (tokenizer.encode(letter)[0] for letter in "xy.")
    with served(
        [loaded(Engine(random_model(tokenizer, seed=1), slots=8), tokenizer, "sft", "random")],
        [loaded(Engine(scripted(tokenizer, [[start, x, dot, end]]), slots=4), tokenizer, "sft", "short")],
        [loaded(Engine(scripted(tokenizer, [[start, x, y, x]]), slots=4), tokenizer, "sft", "xy")],
        [loaded(Engine(scripted(tokenizer, [[x, y, x]]), slots=4), tokenizer, "base", "xy")],
    ) as live:
        yield live


def replies(live: Live, n: int = 8, **body) -> list[str]:
    """The texts of replies that all ended by themselves."""
    response = live.post(CHAT, {"messages": HELLO, "n": n, "seed": 3, **ANYTHING, **body})
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * n
    return [choice["message"]["content"] for choice in choices]


PERSON = {
    "type": "object", "properties": {"ok": {"type": "boolean"}, "mood": {"enum": ["good", "bad"]}},
    "required": ["ok", "mood"],
}  # fmt: skip
WRAPPED = {"name": "Answer", "strict": True, "schema": PERSON}


@pytest.mark.parametrize(
    "demand",
    [
        {"response_format": {"type": "json_schema", "json_schema": WRAPPED}},
        {"response_format": {"type": "json_schema", "schema": PERSON}},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"response_format": {"type": "json_object", "value": PERSON}},
        {"response_format": {"type": "json", "value": PERSON}},
        {"json_schema": PERSON}, {"guided_json": PERSON}, {"guided_json": json.dumps(PERSON)},
        {"structured_outputs": {"json": PERSON}},
    ],
)  # fmt: skip
def test_json_of_a_schema_has_the_declared_keys_only(live: Live, demand: dict) -> None:
    """serving/json-extra-keys: the schema says nothing of additionalProperties."""
    for text in replies(live, **demand):
        assert set(json.loads(text)) == {"ok", "mood"}


@pytest.mark.parametrize(
    ("demand", "allowed"),
    [
        ({"grammar": 'root ::= ("yes" | "no") "!"'}, {"yes!", "no!"}),
        ({"grammar": 'root ::= [ab]? rest\nrest ::= "b"'}, {"b", "ab", "bb"}),
        ({"grammar": 'root ::= many "b"\nmany ::= [b]*', "max_tokens": 250}, None),
        ({"grammar": 'start: "yes" | "no"'}, {"yes", "no"}),
        ({"grammar": 'root ::= "(" root ")" | "x"', "max_tokens": 250}, None),
        ({"guided_choice": ["né", 'a "b"', "x\\"]}, {"né", 'a "b"', "x\\"}),
        ({"guided_regex": "^[ab]{2}$"}, {"aa", "ab", "ba", "bb"}),
        ({"response_format": {"type": "regex", "value": "[ab]"}}, {"a", "b"}),
        ({"guided_grammar": 'root ::= "q"'}, {"q"}),
        ({"structured_outputs": {"regex": "[xy]"}}, {"x", "y"}),
        ({"structured_outputs": {"choice": ["one"]}}, {"one"}),
        ({"structured_outputs": {"grammar": 'root ::= "z"'}}, {"z"}),
        ({"structured_outputs": {"json": {"enum": [[1, 2]]}, "disable_any_whitespace": True}}, {"[1,2]"}),
        ({"guided_json": {"enum": [[1, 2]]}, "guided_whitespace_pattern": "_"}, None),
    ],
)  # fmt: skip
def test_a_grammar_a_choice_and_a_regular_expression_are_followed(live: Live, demand: dict, allowed: set) -> None:
    said = set(replies(live, **demand))
    assert said <= allowed if allowed else all(said)


@pytest.mark.parametrize(
    "demand",
    [
        {"grammar": 'start: MANY "bb"\nMANY: /b+/'},
        {"grammar": '%llguidance {"no_forcing": false}\nstart: MANY "bb"\nMANY: /b+/'},
        {"grammar": 'root ::= "a" root'},
        {"guided_json": {"x-guidance": {"key_separator": '"+'}, "required": ["a"], **{
            "type": "object", "properties": {"a": {"type": "string"}}}}},
        {"structured_outputs": {"json": {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
                                "disable_any_whitespace": True}},
    ],
)  # fmt: skip
def test_a_grammar_that_never_ends_does_not_hold_up_the_server(live: Live, demand: dict) -> None:
    response = live.post(CHAT, {"messages": HELLO, **ANYTHING, "seed": 3, "n": 4, "max_tokens": 12, **demand})
    assert "length" in {choice["finish_reason"] for choice in response.json()["choices"]}


def test_an_object_may_be_left_open(live: Live) -> None:
    schema = {"type": "object", "properties": {}}
    assert {text.replace(" ", "") for text in replies(live, json_schema=schema)} == {"{}"}
    body = {"messages": HELLO, "structured_outputs": {"json": schema, "disable_additional_properties": False}}
    choices = live.post(CHAT, {**body, "n": 8, "seed": 3, **ANYTHING, "max_tokens": 3}).json()["choices"]
    assert any('"' in choice["message"]["content"] for choice in choices)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("demand", "words"),
    [
        ({"grammar": "nonsense"}, "grammar cannot be used: it is neither GBNF nor Lark"),
        ({"grammar": "root ::= " + "(" * 5000}, "grammar cannot be used: it is nested too deeply"),
        ({"guided_regex": "a(?=b)"}, "guided_regex cannot be used"),
        ({"guided_json": "{"}, "guided_json cannot be used: it is not JSON"),
        ({"guided_json": "[1]"}, "guided_json cannot be used: expected a JSON schema"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structural_tag"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex cannot be used"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "structural_tag"),
        ({"json_schema": {"not": {}}}, 'json_schema cannot be used: Unimplemented keys: ["not"]'),
        ({"guided_regex": "a" * 200_000}, "200000 characters; the limit is 100000"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex and guided_choice cannot both be kept"),
        ({"grammar": "a", "response_format": {"type": "json_object"}}, "response_format and grammar cannot both"),
        ({"structured_outputs": {"regex": "a", "json_object": True}},
         "structured_outputs.json_object and structured_outputs.regex"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_its_name(live: Live, path: str, demand: dict, words: str) -> None:
    begin = {"messages": HELLO} if path == CHAT else {"prompt": "x"}
    refused = refusal(live.post(path, {**begin, **demand}))
    assert words in refused["message"] and refused["param"] in demand


def test_nothing_demanded_is_no_demand(live: Live) -> None:
    nothing = {"grammar": "", "guided_json": None, "response_format": {"type": "text"}, "structured_outputs": {}}
    assert live.post(CHAT, {"messages": HELLO, "max_tokens": 1, **nothing}).status_code == 200


# ---------------------------------------------------------------- where a reply ends


def ask(live: Live, model: str = "sft:short", path: str = CHAT, **body) -> tuple[str, str, int]:
    """The text of a reply, why it ended and how many tokens it has."""
    begin = {"messages": HELLO} if path == CHAT else {"prompt": "x"}
    response = live.post(path, {"model": model, "temperature": 0, **begin, **body})
    assert response.status_code == 200, response.text
    reply = response.json()
    (choice,) = reply["choices"]
    text = choice["message"]["content"] if path == CHAT else choice["text"]
    return text, choice["finish_reason"], reply["usage"]["completion_tokens"]


def test_a_reply_has_no_limit_the_operators_or_openais(live: Live) -> None:
    for field in ("max_tokens", "max_completion_tokens", "n_predict"):
        for path, model in ((CHAT, "sft:xy"), (COMPLETIONS, "base:xy")):
            response = live.post(path, {"model": model, "messages": HELLO, "prompt": "x", field: -1}).json()
            assert response["usage"]["total_tokens"] == 65  # the context, and what follows its last token
            assert ask(live, model, path, **{field: 5})[2] == 5
    assert ask(live, "base:xy", COMPLETIONS)[1:] == ("length", 16)
    assert ask(live, "base:xy", COMPLETIONS, min_tokens=20)[2] == 20
    assert ask(live, "sft:xy")[2] > 16


def test_tokens_of_the_client_end_a_reply_and_the_models_own_may_not(live: Live, tokenizer: Tokenizer) -> None:
    dot, y = tokenizer.encode(".")[0], tokenizer.encode("y")[0]
    assert ask(live) == ("x.", "stop", 3)
    assert ask(live, stop_token_ids=[dot]) == ("x", "stop", 2)
    assert ask(live, stop_token_ids=[dot], include_stop_str_in_output=True) == ("x.", "stop", 2)
    assert ask(live, "base:xy", COMPLETIONS, stop_token_ids=[y]) == ("", "stop", 1)
    assert ask(live, ignore_eos=True, max_tokens=9) == ("x.", "length", 9)
    assert ask(live, ignore_eos=True, max_tokens=9, stop_token_ids=[dot])[:2] == ("x", "stop")
    text, _, tokens = ask(live, min_tokens=7, max_tokens=9)
    assert text.startswith("x.") and tokens >= 7
    assert ask(live, stop=["."], include_stop_str_in_output=True) == ("x.", "stop", 2)
    assert ask(live, "sft:xy", stop=["y"], min_tokens=3, max_tokens=9)[0] == "xyx"
    chunks = events(live.post(CHAT, {"model": "sft:short", "messages": HELLO, "stop": ".", "stream": True,
                                     "include_stop_str_in_output": True}))  # fmt: skip
    assert content(chunks) == "x."


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"stop_token_ids": [320]}, "stop_token_ids", "outside the model's vocabulary"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "more than max_tokens"),
        ({"min_tokens": -1}, "min_tokens", "expected 0 or more"),
        ({"ignore_eos": True, "guided_regex": "a"}, "ignore_eos", "cannot be kept together with a format"),
        ({"max_completion_tokens": 5, "max_tokens": 4}, "max_completion_tokens", "mean the same and differ"),
    ],
)  # fmt: skip
def test_ends_that_contradict_each_other_are_refused(live: Live, body: dict, param: str, words: str) -> None:
    for path, begin in ((CHAT, {"messages": HELLO}), (COMPLETIONS, {"prompt": "x"})):
        refused = refusal(live.post(path, {**begin, **body}))
        assert refused["param"] == param and words in refused["message"]


def test_a_seed_of_minus_one_is_none(live: Live) -> None:
    settings = {**ANYTHING, "max_tokens": 20}
    assert len({ask(live, "sft:random", seed=-1, **settings)[0] for _ in range(3)}) > 1
    assert len({ask(live, "sft:random", seed=-2, **settings)[0] for _ in range(3)}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_half_a_character_at_the_end_is_left_out(live: Live, tokenizer: Tokenizer, stream: bool) -> None:
    ids = [tokenizer.tokens.index(bytes([byte])) for byte in "é🙂".encode()]
    body = {"model": "base:xy", "prompt": "x", "temperature": 0, "max_tokens": 4, "stream": stream}
    # The bias makes the bytes follow each other: each is the likeliest but for those that have come.
    bias = {str(id): 100 - number / 10 for number, id in enumerate(ids)}
    body |= {"logit_bias": bias, "frequency_penalty": 2}
    response = live.post(COMPLETIONS, body)
    texts = [chunk["choices"][0]["text"] for chunk in (events(response) if stream else [response.json()])]
    assert "".join(texts) == "é"  # and two bytes of the smile


# ---------------------------------------------------------------- prefilled replies


def prompt_tokens(live: Live, messages: list, **body) -> int:
    response = live.post(CHAT, {"messages": messages, "model": "sft:short", "max_tokens": 1, **body})
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens"]


def test_the_last_message_of_the_assistant_is_continued_unless_told_otherwise(live: Live, tokenizer: Tokenizer) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "x"}]
    continued = len(chat.prefilled_prompt(tokenizer, turns))
    for settings in ({}, {"continue_final_message": True}, {"continue_final_message": True,
                     "add_generation_prompt": False}):  # fmt: skip
        assert prompt_tokens(live, turns, **settings) == continued
    for settings in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        assert prompt_tokens(live, turns, **settings) == continued + 2  # the turn's end, and the start of the next
        assert prompt_tokens(live, HELLO, **settings) == len(chat.prompt(tokenizer, HELLO))


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"continue_final_message": True, "messages": HELLO}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"add_generation_prompt": False, "continue_final_message": False}, "add_generation_prompt"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
    ],
)  # fmt: skip
def test_settings_of_the_last_message_that_contradict_are_refused(live: Live, settings: dict, param: str) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "x"}]
    assert refusal(live.post(CHAT, {"messages": turns, **settings}))["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_holds_for_the_beginning_and_the_reply_together(live: Live, stream: bool) -> None:
    turns = [*HELLO, {"role": "assistant", "content": '{"ok": tr'}]
    body = {"messages": turns, "json_schema": PERSON, "n": 4, "seed": 5, "logprobs": True, "stream": stream, **ANYTHING}
    response = live.post(CHAT, body)
    if stream:
        texts = [content(events(response), index) for index in range(4)]
    else:
        choices = response.json()["choices"]
        texts = [choice["message"]["content"] for choice in choices]
        spelled = ["".join(each["token"] for each in choice["logprobs"]["content"]) for choice in choices]
        assert spelled == texts
    assert all(json.loads('{"ok": tr' + text)["ok"] is True for text in texts)


def test_a_beginning_that_the_schema_does_not_allow_is_refused(live: Live) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Sure! {"}]
    refused = refusal(live.post(CHAT, {"messages": turns, "json_schema": PERSON}))
    assert refused["param"] == "messages"
    assert refused["message"] == "json_schema does not allow the beginning of the reply that the last message gives"
    # As a turn of its own it is no beginning.
    response = live.post(CHAT, {"messages": turns, "json_schema": PERSON, "continue_final_message": False, **ANYTHING})
    assert set(json.loads(response.json()["choices"][0]["message"]["content"])) == {"ok", "mood"}


def test_a_finished_beginning_may_end_at_once(live: Live) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "yes"}]
    assert ask(live, "sft:random", messages=turns, guided_choice=["yes"]) == ("", "stop", 1)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_prompt_that_is_too_long_is_told_as_clients_recognise_it(live: Live, path: str) -> None:
    """serving/litellm-context: litellm looks for the words, langchain for the code."""
    long = "robot star " * 400
    body = {"messages": [{"role": "user", "content": long}]} if path == CHAT else {"prompt": long}
    refused = refusal(live.post(path, body))
    assert refused["code"] == "context_length_exceeded" and refused["param"] == next(iter(body))
    start, _, end = refused["message"].partition(" tokens, but the prompt has ")
    assert start == "this model's maximum context length is 256" and end.endswith(" tokens; shorten the prompt")
