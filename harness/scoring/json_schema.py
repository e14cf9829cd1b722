"""Checks of a JSON value against a JSON schema (draft 2020-12), for the keywords that structured output uses."""

from collections.abc import Callable, Mapping
from typing import Any

import regex

from harness.errors import suggestion

SECONDS = 1.0  # time limit of a pattern on one text
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == int(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
NOTES = {"title", "description", "default", "examples", "format", "$schema", "$id", "$comment", "$defs", "definitions"}
LIMITS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any], bool]]] = {
    "minimum": (TYPES["number"], lambda value, limit: value >= limit),
    "maximum": (TYPES["number"], lambda value, limit: value <= limit),
    "exclusiveMinimum": (TYPES["number"], lambda value, limit: value > limit),
    "exclusiveMaximum": (TYPES["number"], lambda value, limit: value < limit),
    "minLength": (TYPES["string"], lambda value, limit: len(value) >= limit),
    "maxLength": (TYPES["string"], lambda value, limit: len(value) <= limit),
    "minItems": (TYPES["array"], lambda value, limit: len(value) >= limit),
    "maxItems": (TYPES["array"], lambda value, limit: len(value) <= limit),
    "required": (TYPES["object"], lambda value, names: set(names) <= value.keys()),
    "pattern": (TYPES["string"], lambda value, text: regex.search(text, value, timeout=SECONDS) is not None),
}
"""Keywords by the values that they are about, and whether such a value meets them."""
SINGLE = ("items", "additionalProperties")
SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
KNOWN = {*LIMITS, *SINGLE, *SEVERAL, *NOTES, "type", "enum", "const", "properties", "$ref"}


def problem(schema: Any, root: Any = None) -> str | None:
    """Return why a schema cannot be checked, None if it can."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        return "a schema must be an object"
    for name, value in schema.items():
        if name not in KNOWN:
            return f"the keyword '{name}' of the schema is not known.{suggestion(name, KNOWN)}".rstrip(".")
        if name == "type" and (wrong := set(_listed(value)) - TYPES.keys()):
            return f"there is no type '{min(wrong)}', only {', '.join(TYPES)}"
        if name == "$ref" and _target(value, root) is None:
            return f"the schema refers to {value}, which it has not"
        if name == "pattern":
            try:
                regex.compile(value)
            except (regex.error, TypeError) as error:
                return f"the pattern {value!r} is not a regular expression ({error})"
    below = [schema[name] for name in SINGLE if name in schema]
    for name in ("properties", "$defs", "definitions"):
        below += schema.get(name, {}).values()
    for name in SEVERAL:
        below += schema.get(name, ())
    return next((found for one in below if (found := problem(one, root))), None)


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    """Return whether a JSON value fits a schema that has no `problem`."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema

    def inner(one: Any, part: Any) -> bool:
        return fits(one, part, root)
    if "$ref" in schema and not inner(value, _target(schema["$ref"], root)):
        return False
    if "type" in schema and not any(TYPES[kind](value) for kind in _listed(schema["type"])):
        return False
    if "enum" in schema and not any(same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not same(value, schema["const"]):
        return False
    limits = {name: LIMITS[name] for name in schema.keys() & LIMITS.keys()}
    if any(about(value) and not meets(value, schema[name]) for name, (about, meets) in limits.items()):
        return False
    return _parts_fit(value, schema, inner) and all(inner(value, one) for one in schema.get("allOf", ())) \
        and ("anyOf" not in schema or any(inner(value, one) for one in schema["anyOf"])) \
        and ("oneOf" not in schema or sum(inner(value, one) for one in schema["oneOf"]) == 1)


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal; 1 and 1.0 are, true and 1 are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _parts_fit(value: Any, schema: Mapping[str, Any], inner: Callable[[Any, Any], bool]) -> bool:
    """Return whether the properties of an object and the items of a list fit."""
    if isinstance(value, dict):
        own, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(inner(part, own.get(key, others)) for key, part in value.items())
    if isinstance(value, list):
        first, rest = schema.get("prefixItems", ()), schema.get("items", True)
        return all(inner(part, first[place] if place < len(first) else rest) for place, part in enumerate(value))
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _target(reference: str, root: Any) -> Any:
    """Return the part of the schema that a reference such as `#/$defs/name` names; None if there is none."""
    first, *keys = reference.split("/")
    for key in keys if first == "#" else ():
        root = root.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(root, dict) else None
    return root if first == "#" else None
