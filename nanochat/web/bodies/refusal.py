"""Why a body was refused, in one sentence: the field as a client spells it, what it holds, what is expected there."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from nanochat.web.errors import ApiError, bad_request

Place = tuple[int | str, ...]
Error = Mapping[str, Any]  # as pydantic describes it
NOUNS = {
    "string_type": "a string", "int_type": "an integer", "int_from_float": "an integer", "int_parsing": "an integer",
    "float_type": "a number", "finite_number": "a finite number", "bool_type": "true or false", "list_type": "a list",
    "dict_type": "an object", "model_type": "an object", "model_attributes_type": "an object",
}  # fmt: skip
# What a value is, but for its type: for these the branch of a union was the right one.
LIMITS: dict[str, Callable[[Any, dict], str]] = {
    "string_too_short": lambda value, limit: "is empty",
    "too_short": lambda value, limit: "is empty",
    "string_too_long": lambda value, limit: f"has {len(value)} characters; at most {limit['max_length']}",
    "too_long": lambda value, limit: f"has {len(value)} {_entries(value)}; at most {limit['max_length']}",
    "string_pattern_mismatch": lambda value, limit: f"is {_shown(value)}; expected a match of {limit['pattern']}",
    "greater_than": lambda value, limit: f"is {_shown(value)}; expected more than {_number(limit['gt'])}",
    "greater_than_equal": lambda value, limit: f"is {_shown(value)}; expected {_number(limit['ge'])} or more",
    "less_than": lambda value, limit: f"is {_shown(value)}; expected less than {_number(limit['lt'])}",
    "less_than_equal": lambda value, limit: f"is {_shown(value)}; expected at most {_number(limit['le'])}",
}


def refusal(error: ValidationError, kind: type[BaseModel], body: bytes) -> ApiError:
    """The ApiError for the first thing that is wrong in a body, which was to be a `kind`."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return bad_request(f"the body is not JSON in UTF-8: {reason}")
    if not first["loc"]:
        is_object = first["type"] == "value_error"
        return bad_request(_message(first) if is_object else "the body must be a JSON object")
    content = json.loads(body)
    best = _best(errors, content)
    place, found = best[0].place, best[0].error
    field, param = spelled(place), str(place[0])
    if found["type"] == "extra_forbidden":
        known = f"; known are {', '.join(names)}" if (names := _known(kind, place[:-1])) else ""
        return bad_request(f"{field[:60]!r} is an unknown field{known}", param[:40], "unknown_parameter")
    if found["type"] == "missing":
        return bad_request(f"{field} is missing", param, "missing_required_parameter")
    return bad_request(f"{field}{_fault([each.error for each in best])}", param, "invalid_value")


def _known(kind: type[BaseModel], place: Place) -> list[str]:
    """The names of the fields that an object in a body may have; none where that is not clear."""
    for name in place:
        annotation = kind.model_fields[str(name)].annotation
        kind = next((each for each in (annotation, *get_args(annotation)) if isinstance(each, type)), BaseModel)
    return [field.alias or name for name, field in kind.model_fields.items()]


def spelled(place: Place) -> str:
    """messages[0].content, and logit_bias["x"]: its names are a client's."""
    text = str(place[0])
    for part in place[1:]:
        dotted = isinstance(part, str) and part.isidentifier() and place[0] != "logit_bias"
        text += f".{part}" if dotted else f"[{json.dumps(part)}]"
    return text


def _fault(errors: Sequence[Error]) -> str:
    """What is wrong with a field; there are several errors where each of a union's types was tried in vain."""
    first = errors[0]
    kind, value = first["type"], first["input"]
    if first["loc"][-1] == "[key]":
        return ": the name is no token id"
    if kind in LIMITS:
        return f" {LIMITS[kind](value, first.get('ctx', {}))}"
    nouns = list(dict.fromkeys(noun for each in errors if (noun := _noun(each))))
    if nouns:
        return f" is {_shown(value)}; expected {_listed(nouns)}"
    return f": {_message(first)}"


def _message(error: Error) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _noun(error: Error) -> str | None:
    return error["ctx"]["expected"] if error["type"] == "literal_error" else NOUNS.get(error["type"])


def _listed(nouns: Sequence[str]) -> str:
    comma = "," if len(nouns) > 2 or any(" or " in noun for noun in nouns) else ""
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])}{comma} or {nouns[-1]}"


def _entries(value: Sequence[Any]) -> str:
    return "strings" if all(isinstance(each, str) for each in value) else "entries"


def _number(limit: float) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Wrong(NamedTuple):
    """One of pydantic's errors."""

    error: Error
    place: Place
    union: int | None
    """how much of pydantic's own place lies before the name of one of a union's types, which is no place in the body"""

    @property
    def progress(self) -> tuple[bool, list[int]]:
        """How far pydantic got with a type before it found the error: the type that the client meant gets furthest."""
        steps = [part if isinstance(part, int) else 0 for part in self.place]
        return _noun(self.error) is None, steps


def _located(error: Error, content: Any) -> _Wrong:
    place: list[int | str] = [error["loc"][0]]
    content = content.get(place[0])
    union = None
    for number, part in enumerate(error["loc"][1:], 1):
        is_missing = error["type"] == "missing" and number == len(error["loc"]) - 1
        if isinstance(content, dict) and (part in content or is_missing):
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int):
            content = content[part]
        else:
            union = number if union is None else union
            continue
        place.append(part)
    return _Wrong(error, tuple(place), union)


def _best(errors: Sequence[Error], content: Any) -> list[_Wrong]:
    """The first error; of a union's types the error of the one that the client meant, or of all that it may have."""
    located = [_located(error, content) for error in errors]
    loc, union = located[0].error["loc"], located[0].union
    if union is None or loc[-1] == "[key]":
        return located[:1]
    tried: dict[Any, _Wrong] = {}  # the first error of each type
    for each in located:
        if each.error["loc"][:union] == loc[:union] and len(each.error["loc"]) > union:
            tried.setdefault(each.error["loc"][union], each)
    furthest = max(each.progress for each in tried.values())
    return [each for each in tried.values() if each.progress == furthest]
