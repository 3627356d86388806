"""Replies that are JSON: response_format as a Constraint of the Engine, by llguidance."""

import asyncio
import functools
import json
from collections.abc import Set
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from nanochat.engine.request import Constraint
from nanochat.tokenizer import Tokenizer
from nanochat.web.errors import ApiError, bad_request

PARAM = "response_format"
MAX_SCHEMA = 100_000  # characters
# At most one space between two tokens of JSON: with more allowed, a weak model may write nothing else.
STYLE = {"whitespace_flexible": True, "whitespace_pattern": " ?"}


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
    """Makes Constraints for one model. Safe in any thread."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Set[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids

    async def constraint(self, response_format: dict[str, Any] | None) -> Constraint | None:
        """The Constraint for a `response_format`, None where it demands nothing. Raises ApiError for a bad one.

        Made in a thread, because a schema can take a second to prepare.
        """
        schema = _schema(response_format)
        return None if schema is None else await asyncio.to_thread(self._grammar, schema)

    def _grammar(self, schema: dict[str, Any] | bool) -> "Grammar":
        if not self._stop_ids:
            message = "this model has no token that ends a text, so its replies cannot follow a format"
            raise bad_request(message, PARAM, "unsupported_parameter")
        try:
            text = json.dumps(schema)
            if len(text) > MAX_SCHEMA:
                raise _wrong(f"the schema has {len(text)} characters; the limit is {MAX_SCHEMA}")
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=STYLE)  # type: ignore[arg-type]
        except ValueError as error:
            raise _wrong(str(error)) from None
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise _wrong(matcher.get_error())
        constraint = Grammar(matcher, self._stop_ids, self._tokenizer.vocab_size)
        begin = constraint.copy().mask()
        begin[list(self._stop_ids)] = False
        if not begin.any():
            raise _wrong("no text satisfies it")
        return constraint

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


def _schema(response_format: dict[str, Any] | None) -> dict[str, Any] | bool | None:
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise bad_request("response_format.type must be text, json_object or json_schema", PARAM, "invalid_value")
    given = response_format.get("json_schema")
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, (dict, bool)):
        raise bad_request('response_format.json_schema must be an object with a "schema"', PARAM, "invalid_value")
    return schema


def _wrong(reason: str) -> ApiError:
    short = " ".join(reason.split())[:300]
    return bad_request(f"response_format.json_schema.schema cannot be used: {short}", PARAM, "invalid_json_schema")
