"""Objects of a JSON schema have the declared properties only, and schemas that apply together stay satisfiable."""

import json

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from nanochat.web.bodies.closing import close_objects


class Bytes:
    """A vocabulary of the 256 bytes and an end."""

    def __init__(self) -> None:
        self.eos_token_id = self.bos_token_id = 256
        self.tokens = [*(bytes([i]) for i in range(256)), b"<end>"]
        self.special_token_ids = [256]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


VOCABULARY = LLTokenizer(TokenizerWrapper(Bytes()))


def keeps(schema: dict, value: object) -> bool:
    """Whether a value, as compact JSON, keeps to the closed schema."""
    matcher = LLMatcher(VOCABULARY, LLMatcher.grammar_from_json_schema(json.dumps(close_objects(schema))), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = list(json.dumps(value, separators=(",", ":")).encode())
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def thing(*required: str, **properties: object) -> dict:
    return {"type": "object", "properties": properties, "required": list(required)}


INT, TEXT = {"type": "integer"}, {"type": "string"}
TREES = {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
BASE = {"$defs": {"Base": thing("b", b=INT), "Tree": thing(v=INT, kids=TREES)}}


@pytest.mark.parametrize(
    ("schema", "kept", "refused"),
    [
        (thing(a=INT), [{"a": 1}, {}], [{"a": 1, "c": 2}]),
        (thing(), [{}], [{"a": 1}]),
        ({"type": "object"}, [{}, {"a": 1}], []),
        (thing(a=thing(b={"type": "array", "items": thing(c=INT)})), [{"a": {"b": [{"c": 1}]}}],
         [{"a": {"d": 1}}, {"a": {"b": [{"d": 1}]}}]),
        ({**thing(a=INT), "additionalProperties": TEXT}, [{"a": 1, "c": "x"}], [{"c": 1}]),
        ({**thing(), "patternProperties": {"^x": thing(q=INT)}}, [{"x": {"q": 1}}], [{"x": {"r": 1}}]),
        (thing("a", "z", a=INT), [{"a": 1, "z": [1]}], [{"a": 1, "z": 1, "c": 1}]),
        ({"enum": [{"properties": {"a": 1}}]}, [{"properties": {"a": 1}}], []),
        (thing(properties=thing(items=INT)), [{"properties": {"items": 1}}], [{"properties": {"x": 1}}]),
        # together
        ({"allOf": [thing("a", a=INT), thing("b", b=TEXT)]}, [{"a": 1, "b": "x"}],
         [{"a": 1}, {"a": 1, "b": "x", "c": 1}]),
        ({"allOf": [thing(a=INT), {"type": "object", "additionalProperties": True}]}, [{"a": 1, "c": 2}], []),
        ({**thing("p", p=INT), "anyOf": [thing("x", x=INT), thing("y", y=INT)]}, [{"p": 1, "x": 1}, {"p": 1, "y": 1}],
         [{"p": 1}, {"p": 1, "x": 1, "y": 1}, {"p": 1, "x": 1, "z": 1}]),
        ({**thing("a", a=INT), "anyOf": [{"required": ["b"]}, {"required": ["c"]}]}, [{"a": 1, "b": 2}],
         [{"a": 1, "d": 2}]),
        ({"oneOf": [thing("k", k={"const": "a"}, x=INT), thing("k", k={"const": "b"})]},
         [{"k": "a", "x": 1}, {"k": "b"}], [{"k": "b", "x": 1}]),
        # references
        ({**BASE, **thing(x={"$ref": "#/$defs/Base", "description": "d"})}, [{"x": {"b": 1}}],
         [{"x": {"b": 1, "c": 1}}]),
        ({**BASE, "allOf": [{"$ref": "#/$defs/Base"}, thing("a", a=INT)]}, [{"b": 1, "a": 2}],
         [{"b": 1}, {"b": 1, "a": 2, "c": 3}]),
        ({**BASE, "$ref": "#/$defs/Tree"}, [{"v": 1, "kids": [{"v": 2}]}], [{"kids": [{"x": 1}]}]),
        ({**BASE, "allOf": [{"$ref": "#/$defs/Tree"}], **thing("n", n=INT)}, [{"v": 1, "kids": [{"v": 2}], "n": 1}],
         [{"v": 1}, {"kids": [{"n": 1}], "n": 1}]),
        (thing(a={"$ref": "#/properties/b~1c"}, **{"b/c": thing(d=INT)}), [{"a": {"d": 1}}], [{"a": {"e": 1}}]),
    ],
)  # fmt: skip
def test_objects_have_the_declared_properties_only(schema: dict, kept: list, refused: list) -> None:
    original = json.dumps(schema)
    assert all(keeps(schema, value) for value in kept)
    assert not any(keeps(schema, value) for value in refused)
    assert json.dumps(schema) == original


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": 1, "allOf": 2, "anyOf": {}, "$ref": 3, "required": "a", "$defs": [], "items": None},
        {"$ref": "#/a/0/b"}, {"$ref": "elsewhere.json"}, {"allOf": [{"$ref": "#"}], "properties": {"a": {}}},
        {"properties": {"a": {"$ref": "#"}}, "allOf": [True, 5]},
    ],
)  # fmt: skip
def test_whatever_else_a_schema_holds_is_left_to_the_compiler(schema: dict) -> None:
    assert close_objects(schema).keys() - {"$defs", "additionalProperties"} <= schema.keys()


def test_combinations_without_end_are_refused() -> None:
    def both(i: int) -> dict:
        return {"anyOf": [{"allOf": [{"$ref": f"#/$defs/{i + 1}"}, thing(**{f"{name}{i}": INT})]} for name in "ab"]}

    with pytest.raises(ValueError, match="combines more than 20000 schemas"):
        close_objects({"$ref": "#/$defs/0", "$defs": {**{str(i): both(i) for i in range(20)}, "20": thing(z=INT)}})


names = st.sets(st.sampled_from("abc"), max_size=2).map(sorted)
objects = st.builds(
    lambda declared, required, more: {
        "type": "object", "properties": dict.fromkeys(declared, INT), "required": required,
        **({"additionalProperties": more} if more is not None else {}),
    },
    names, names, st.sampled_from([None, None, None, True, False, TEXT]),
)  # fmt: skip
plain = st.recursive(
    objects | st.just({"$ref": "#/$defs/Other"}),
    lambda inner: st.builds(lambda one, more: {**one, "allOf": more}, inner, st.lists(inner, min_size=1, max_size=2)),
    max_leaves=4,
)
branching = plain | st.builds(
    lambda one, more: {**one, "anyOf": more}, plain, st.lists(plain, min_size=1, max_size=2)
)  # fmt: skip
values = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1) | st.just("x"))


def declared(schema: dict, definitions: dict) -> set[str] | None:
    """The names that a schema and those in it mention; None where one says itself which others there may be."""
    if schema.get("additionalProperties", False) is not False:
        return None
    found = {*schema.get("properties", {}), *schema.get("required", [])}
    inner = [*schema.get("allOf", []), *([definitions["Other"]] if "$ref" in schema else [])]
    for each in [declared(one, definitions) for one in inner]:
        if each is None:
            return None
        found |= each
    return found


@given(branching, objects, values)
def test_closing_only_takes_away(schema: dict, other: dict, value: dict) -> None:
    whole = {**schema, "$defs": {"Other": other}}
    if jsonschema_rs.is_valid(close_objects(whole), value):
        assert jsonschema_rs.is_valid(whole, value)


@given(plain, objects, values)
def test_closing_takes_away_undeclared_properties_alone(schema: dict, other: dict, value: dict) -> None:
    whole = {**schema, "$defs": {"Other": other}}
    known = declared(schema, {"Other": other})
    kept = jsonschema_rs.is_valid(whole, value) and (known is None or value.keys() <= known)
    assert jsonschema_rs.is_valid(close_objects(whole), value) == kept
