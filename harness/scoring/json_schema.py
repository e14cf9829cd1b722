"""Checks of a JSON value against a JSON schema (draft 2020-12)."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

NOTHING: Registry[Any] = Registry()  # no schema is fetched from elsewhere


def problem(schema: Any) -> str | None:
    """Return why a schema cannot be checked, None if it can."""
    try:
        Draft202012Validator.check_schema(schema)
        resolver = NOTHING.with_resource("", DRAFT202012.create_resource(schema)).resolver()
        missing = next((place for place in _references(schema) if not _found(resolver, place)), None)
    except SchemaError as error:
        return f"the schema is wrong: {error.message}"
    return f"the schema refers to {missing}, which it has not" if missing else None


def fits(value: Any, schema: Any) -> bool:
    """Return whether a JSON value fits a schema that has no `problem`."""
    return bool(Draft202012Validator(schema, registry=NOTHING).is_valid(value))


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal; 1 and 1.0 are, true and 1 are not."""
    return fits(one, {"const": other})


def _found(resolver: Any, place: str) -> bool:
    try:
        resolver.lookup(place)
    except Unresolvable:
        return False
    return True


def _references(schema: Any) -> Iterator[str]:
    """Yield where the parts of a schema refer to."""
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _references(part)
