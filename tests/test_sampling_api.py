"""What a client may demand of a reply: structured output, where it ends, and what is refused."""

import json
from collections.abc import Iterator

import pytest

from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from tests.served import Live, loaded, random_model, refusal, served

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello!"}]
ANYTHING = {"temperature": 2.0, "top_k": 0, "max_tokens": 200}  # a random model says anything


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    """sft:random may say anything."""
    with served([loaded(Engine(random_model(tokenizer, seed=1), slots=8), tokenizer, "sft", "random")]) as live:
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
        ({"grammar": 'root ::= [b]* "b"', "max_tokens": 250}, None),
        ({"grammar": 'start: "yes" | "no"'}, {"yes", "no"}),
        ({"grammar": 'root ::= "(" root ")" | "x"', "max_tokens": 250}, None),
        ({"guided_choice": ["né", 'a "b"', "x\\"]}, {"né", 'a "b"', "x\\"}),
        ({"guided_regex": "^[ab]{2}$"}, {"aa", "ab", "ba", "bb"}),
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
