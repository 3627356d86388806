"""JSON schemas whose objects have the declared properties only.

A schema that says nothing of other properties allows any, and a small model then writes keys for ever. So an object
that declares `properties`, and has no keyword about further ones, is closed, wherever in the schema it stands.

Schemas that apply to one object together (`allOf`, `anyOf`, `oneOf`, `$ref` and the keywords beside them) each get the
names that the others declare, too: one that lacked them would forbid them.
"""

from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]
Names = tuple[str, ...] | None  # None: any name, where a schema allows others

ABOUT_OTHERS = ("additionalProperties", "patternProperties", "unevaluatedProperties")
PLACES = ("additionalProperties", "items", "prefixItems", "additionalItems")  # of schemas for other values
MAPS = ("properties", "patternProperties", "$defs", "definitions")  # of such places
MAX_SCHEMAS = 20_000


def close_objects(schema: Schema) -> Schema:
    """A copy of the schema whose objects are closed. Raises ValueError where that would be too large."""
    return _Closing(schema).result


class _Closing:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._copies: dict[tuple[str, Names], str] = {}  # of schemas that are referred to beside others: their names
        self._definitions: Schema = {}  # and those copies
        self._visited = 0
        self.result = self._close(root, ())
        if self._definitions:
            self.result["$defs"] = {**self.result.get("$defs", {}), **self._definitions}

    def _close(self, schema: Any, beside: Names) -> Any:
        """The schema, closed but for the names that schemas beside it declare."""
        if not isinstance(schema, dict):
            return schema
        # What each part of the schema declares. Of anyOf and oneOf only one alternative applies: they are one part.
        parts: dict[tuple[str, int], Names] = {("", 0): _own_names(schema)}
        parts |= {("allOf", i): self._names(each) for i, each in enumerate(_list(schema, "allOf"))}
        for key in ("anyOf", "oneOf"):
            parts[key, 0] = _joined(*(self._names(each) for each in _list(schema, key)))
        parts["$ref", 0] = self._names(self._target(schema))

        def others(key: str, index: int = 0) -> Names:
            return _joined(beside, *(names for part, names in parts.items() if part != (key, index)))

        closed: Schema = {}
        for key, value in schema.items():
            if key == "allOf" and isinstance(value, list):
                closed[key] = [self._close(each, others(key, i)) for i, each in enumerate(value)]
            elif key in ("anyOf", "oneOf") and isinstance(value, list):
                closed[key] = [self._close(each, others(key)) for each in value]
            elif key == "$ref":
                closed[key] = self._reference(schema, others(key))
            else:
                closed[key] = self._within(key, value)
        names = _joined(others(""), _own_names(schema))
        if isinstance(schema.get("properties"), dict) and names is not None and not _says(schema):
            closed["properties"] = closed["properties"] | {n: True for n in names if n not in schema["properties"]}
            closed["additionalProperties"] = False
        return closed

    def _within(self, key: str, value: Any) -> Any:
        """The value of a keyword, with the schemas for other values in it closed."""
        if key in MAPS and isinstance(value, dict):
            return {name: self._close(each, ()) for name, each in value.items()}
        if key in PLACES:
            return [self._close(each, ()) for each in value] if isinstance(value, list) else self._close(value, ())
        return value

    def _reference(self, schema: Schema, beside: Names) -> Any:
        """Its $ref, to a copy of the target where the target must allow further names."""
        reference, target = schema["$ref"], self._target(schema)
        if beside == () or target is None:
            return reference
        if (reference, beside) not in self._copies:
            taken = {**_map(self._root, "$defs"), **self._definitions}
            name = next(name for i in range(len(taken) + 1) if (name := f"closed-{i}") not in taken)
            self._copies[reference, beside] = name
            self._definitions[name] = True  # holds the name while the target, which may refer to itself, is closed
            self._definitions[name] = self._close(target, beside)
        return f"#/$defs/{self._copies[reference, beside]}"

    def _names(self, schema: Any, seen: tuple[str, ...] = ()) -> Names:
        """What a schema and those beside it declare."""
        self._visited += 1
        if self._visited > MAX_SCHEMAS:
            raise ValueError(f"it combines more than {MAX_SCHEMAS} schemas")
        if not isinstance(schema, dict):
            return ()
        combined = [each for key in ("allOf", "anyOf", "oneOf") for each in _list(schema, key)]
        names = [_own_names(schema), *(self._names(each, seen) for each in combined)]
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            names.append(self._names(self._target(schema), (*seen, reference)))
        return _joined(*names)

    def _target(self, schema: Schema) -> Any:
        """What its $ref points to; None if it has none, or one that leads out of the document."""
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return None
        found: Any = self._root
        for step in reference.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict):
                found = found.get(step)
            else:
                return None
        return found


def _says(schema: Schema) -> bool:
    """Whether a schema says itself which other properties an object may have."""
    return any(key in schema for key in ABOUT_OTHERS)


def _own_names(schema: Schema) -> Names:
    """What a schema's own keywords declare."""
    if any(schema.get(key, False) is not False for key in ABOUT_OTHERS):
        return None
    return (*_map(schema, "properties"), *(name for name in _list(schema, "required") if isinstance(name, str)))


def _joined(*names: Names) -> Names:
    several = [each for each in names if each is not None]
    return tuple(dict.fromkeys(name for each in several for name in each)) if len(several) == len(names) else None


def _list(schema: Schema, key: str) -> list:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _map(schema: Schema, key: str) -> dict:
    value = schema.get(key)
    return value if isinstance(value, dict) else {}
