"""Replies that follow a grammar: what a request demands of its reply as a Constraint of the Engine, by llguidance.

A JSON schema, a regular expression, a list of choices or a grammar may come in the fields of several servers: OpenAI's
`response_format`, llama.cpp's `json_schema` and `grammar`, vLLM's `guided_...` and `structured_outputs`.
"""

import asyncio
import functools
import json
import re
from collections.abc import Iterator, Set
from typing import Any, Literal, NamedTuple

import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark
from torch import Tensor

from nanochat.engine.request import Constraint
from nanochat.tokenizer import Tokenizer
from nanochat.web.bodies.closing import close_objects
from nanochat.web.bodies.schemas import Sampling
from nanochat.web.errors import ApiError, bad_request

MAX_GRAMMAR = 100_000  # characters
# At most one space between two tokens of JSON: with more allowed, a weak model may write nothing else.
SPACE = " ?"
# Otherwise llguidance reads on for as long as only one byte may follow: for ever in a grammar such as `A "b"` with
# `A: "b"*`. The last such line counts.
END = '\n%llguidance {"no_forcing": true}\n'

Kind = Literal["json", "regex", "choice", "grammar", "lark"]


class Wanted(NamedTuple):
    """One demand of a request."""

    field: str
    """as the client spells it, such as "structured_outputs.regex\""""
    kind: Kind
    value: Any
    space: str | None = SPACE
    """for JSON: the regular expression of what may stand between two tokens, None for nothing"""
    closed: bool = True
    """for JSON: whether objects that declare properties have no others"""

    def error(self, reason: str) -> ApiError:
        code = "invalid_json_schema" if self.kind == "json" else "invalid_value"
        return bad_request(f"{self.field} cannot be used: {' '.join(reason.split())[:300]}", self.param, code)

    @property
    def param(self) -> str:
        return self.field.partition(".")[0]


class Grammar:
    """A Constraint: the tokens that a grammar allows next."""

    def __init__(self, matcher: LLMatcher, stop_ids: Set[int], vocabulary: int) -> None:
        self._matcher = matcher
        self._stop_ids = stop_ids
        self._vocabulary = vocabulary

    def mask(self) -> Tensor:
        """bool (V,) on the CPU. Where the matcher gave up because of its limits, only a stop token is allowed."""
        if not self._matcher.is_error():
            allowed = self._matcher.compute_logit_bias()
            if not self._matcher.is_error():
                return torch.frombuffer(bytearray(allowed), dtype=torch.uint8)[: self._vocabulary] > 0
        mask = torch.zeros(self._vocabulary, dtype=torch.bool)
        mask[list(self._stop_ids)] = True
        return mask

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    def copy(self) -> "Grammar":
        return Grammar(self._matcher.deep_copy(), self._stop_ids, self._vocabulary)


class Grammars:
    """Makes Constraints for one model, each in a thread, because a schema can take a second. Safe in any thread."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Set[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._matcher = functools.lru_cache(maxsize=32)(self._new_matcher)  # agents send the same grammar every time

    async def constraint(self, body: Sampling, prefill: str = "") -> Constraint | None:
        """The Constraint for what a request demands, None where it demands nothing.

        prefill: the text that the reply continues and that the demand holds for, too. Raises ApiError for a demand that
        cannot be met, for two at once, and for a beginning that does not follow it.
        """
        wanted = demand(body)
        return None if wanted is None else await self.make(wanted, prefill)

    async def lark(self, text: str, param: str, prefill: str = "") -> Constraint:
        """The Constraint for a grammar in llguidance's dialect of Lark. Raises ApiError about `param`."""
        return await self.make(Wanted(param, "lark", text), prefill)

    async def make(self, wanted: Wanted, prefill: str = "") -> Constraint:
        """The Constraint for one demand. Raises ApiError."""
        return await asyncio.to_thread(self._grammar, wanted, prefill)

    def _grammar(self, wanted: Wanted, prefill: str) -> "Grammar":
        if not self._stop_ids:
            message = f"this model has no token that ends a text, so its replies cannot follow {wanted.field}"
            raise bad_request(message, wanted.param, "unsupported_parameter")
        try:
            matcher = self._matcher(_compiled(wanted)).deep_copy()
        except (ValueError, RecursionError) as error:
            nested = isinstance(error, RecursionError)
            raise wanted.error("it is nested too deeply" if nested else str(error)) from None
        if matcher.is_error():
            raise wanted.error(_reason(matcher.get_error()))
        constraint = Grammar(matcher, self._stop_ids, self._tokenizer.vocab_size)
        first = constraint.copy().mask()
        first[list(self._stop_ids)] = False
        if not first.any():
            raise wanted.error("no text satisfies it")
        ids = self._tokenizer.encode(prefill)
        if matcher.try_consume_tokens(ids) < len(ids):
            message = f"{wanted.field} does not allow the beginning of the reply that the last message gives"
            raise bad_request(message, "messages", "invalid_value")
        return constraint

    def _new_matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)

    @functools.cached_property
    def _vocabulary(self) -> LLTokenizer:
        """The tokenizer as llguidance wants it, built on first use."""
        stops = sorted(self._stop_ids)
        return LLTokenizer(TokenizerWrapper(_Wrapped(self._tokenizer, stops[0])), eos_token=stops)


class _Wrapped:
    """The attributes that llguidance reads."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id = end
        self.bos_token_id = tokenizer.bos
        self.tokens = [*tokenizer.tokens, *(name.encode() for name in tokenizer.specials)]
        self.special_token_ids = list(tokenizer.specials.values())
        self._encode = tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def demand(body: Sampling) -> Wanted | None:
    """What a request demands of its reply. Raises ApiError for two demands at once."""
    demands = list(_demands(body))
    if len(demands) > 1:
        one, other = demands[:2]
        names = (one.field, other.field) if one.param == other.param else (one.param, other.param)
        raise bad_request(f"{names[0]} and {names[1]} cannot both be kept; send one of them", one.param)
    return demands[0] if demands else None


def _demands(body: Sampling) -> Iterator[Wanted]:
    """All that a request demands of its reply."""
    if body.response_format is not None:
        yield from _response_format(body.response_format)
    yield from _fields(
        [
            ("json_schema", "json", body.json_schema), ("grammar", "grammar", body.grammar),
            ("guided_json", "json", body.guided_json), ("guided_regex", "regex", body.guided_regex),
            ("guided_choice", "choice", body.guided_choice), ("guided_grammar", "grammar", body.guided_grammar),
        ],
        SPACE if body.guided_whitespace_pattern is None else body.guided_whitespace_pattern,
    )  # fmt: skip
    if (given := body.structured_outputs) is not None:
        space = SPACE if given.whitespace_pattern is None else given.whitespace_pattern
        yield from _fields(
            [
                ("structured_outputs.json", "json", given.json_),
                ("structured_outputs.json_object", "json", {"type": "object"} if given.json_object else None),
                ("structured_outputs.regex", "regex", given.regex),
                ("structured_outputs.choice", "choice", given.choice),
                ("structured_outputs.grammar", "grammar", given.grammar),
            ],
            None if given.disable_any_whitespace else space,
            given.disable_additional_properties,
        )


def _fields(fields: list[tuple[str, Kind, Any]], space: str | None, closed: bool = True) -> Iterator[Wanted]:
    # An empty string means none: llama.cpp's own clients send it.
    return (Wanted(*field, space, closed) for field in fields if field[2] not in (None, ""))


def _response_format(given: dict[str, Any]) -> Iterator[Wanted]:
    """OpenAI's field; the schema may also stand where llama.cpp, Together and text-generation-inference take it."""
    kind = given.get("type")
    if kind == "text":
        return
    if kind not in ("json_object", "json_schema", "json", "regex"):
        message = f"response_format.type is {json.dumps(kind)[:60]}; expected text, json_object or json_schema"
        raise bad_request(message, "response_format", "invalid_value")
    inner = given.get("json_schema") if kind == "json_schema" else None
    places = {
        "response_format.json_schema.schema": inner.get("schema") if isinstance(inner, dict) else None,
        "response_format.schema": given.get("schema"),
        "response_format.value": given.get("value"),
    }
    found = next(((field, value) for field, value in places.items() if value is not None), None)
    if found is None and kind in ("json_schema", "regex"):
        lacks = 'json_schema must be an object with a "schema"' if kind == "json_schema" else "value is missing"
        raise bad_request(f"response_format.{lacks}", "response_format", "invalid_value")
    field, value = found or ("response_format", {"type": "object"})
    if kind == "regex" and not isinstance(value, str):
        raise bad_request(f"{field} must be a string", "response_format", "invalid_value")
    yield Wanted(field, "regex" if kind == "regex" else "json", value)


def _compiled(wanted: Wanted) -> str:
    """The demand in llguidance's dialect of Lark. Raises ValueError and RecursionError."""
    kind, value = wanted.kind, wanted.value
    size = len(value if isinstance(value, str) else json.dumps(value))
    if size > MAX_GRAMMAR:
        raise ValueError(f"it has {size} characters; the limit is {MAX_GRAMMAR}")
    if kind == "json":
        lark = "start: %json " + json.dumps(styled(value, wanted.space, wanted.closed))
    elif kind == "regex":
        lark = f"start: /{regex_to_lark(value, '')}/"
    elif kind == "choice":
        lark = "start: " + " | ".join(json.dumps(choice) for choice in value)
    else:
        lark = value if kind == "lark" else _lark(value)
    return lark + END


def _reason(error: str) -> str:
    """llguidance's error without where it is in a grammar that the client has not written."""
    without_context = re.sub(r"\n +\d+ \|.*", "", error, flags=re.DOTALL)
    return re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", without_context)


def styled(schema: Any, space: str | None = SPACE, closed: bool = True) -> dict[str, Any]:
    """A JSON schema, or its text, as llguidance is to read it, also behind %json in Lark. Raises ValueError."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise ValueError("expected a JSON schema: an object")
    given = schema.get("x-guidance")
    style = {"whitespace_flexible": space is not None, "whitespace_pattern": space}
    style = {**(given if isinstance(given, dict) else {}), **style}
    return {**(close_objects(schema) if closed else schema), "x-guidance": style}


def _lark(grammar: str) -> str:
    """A grammar in Lark or, as llama.cpp and vLLM take it, in GBNF, as Lark."""
    try:
        lark = any_to_lark(grammar)
    except RecursionError:
        raise
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"it is neither GBNF nor Lark: {error}") from None
    # Without recursion, all of it is one regular expression. As several terms, each of which takes all it can,
    # `[a-z]* "x"` would never reach its end.
    whole = re.sub(r"^start:", "start: WHOLE_TEXT\nWHOLE_TEXT:", lark, count=1, flags=re.MULTILINE)
    is_gbnf = lark != grammar
    return whole if is_gbnf and not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(whole + END)) else lark
