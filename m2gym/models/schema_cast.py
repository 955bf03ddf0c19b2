"""Values of tool calls written as text, cast by the tool's JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def strict_json(text: str) -> Any:
    """`json.loads` that refuses NaN and infinities, which JSON does not have."""
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def cast(text: str, schema: Mapping[str, Any] | None, root: Mapping[str, Any]) -> Any:
    """The value that ``text`` stands for under ``schema``, whose references are in ``root``.

    A string is taken as it is. Other types are JSON; what does not parse as one of them stays
    text, and the tool says what is wrong with it. Without a schema everything is text.

    >>> cast("3", {"type": "integer"}, {}), cast("3", {"type": "string"}, {})
    (3, '3')
    >>> cast("[1]", {"anyOf": [{"type": "array"}, {"type": "null"}]}, {})
    [1]
    """
    if schema is None:
        return text
    kinds = types_of(schema, root)
    if kinds == {"string"}:
        return text
    try:
        value = strict_json(text.strip())
    except (ValueError, RecursionError):
        if "boolean" in kinds and text.strip() in ("True", "False"):
            return text.strip() == "True"
        return text
    if not kinds:
        return value
    if isinstance(value, float) and "integer" in kinds and value.is_integer():
        return int(value)
    for kind in kinds - {"string"}:
        if isinstance(value, TYPES[kind]) and not (
            isinstance(value, bool) and kind in ("integer", "number")
        ):
            return value
    return text


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """JSON types that a schema allows; empty when it says nothing."""
    if not isinstance(schema, Mapping) or depth > 16:
        return set()
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return types_of(resolve(reference, root), root, depth + 1)
    said = schema.get("type")
    if isinstance(said, str):
        return {said} & {*TYPES, "string"}
    if isinstance(said, list):
        return {kind for kind in said if isinstance(kind, str)} & {*TYPES, "string"}
    values = list(schema.get("enum") or ()) + [schema[k] for k in ("const",) if k in schema]
    if values:
        return {kind_of(value) for value in values}
    found: set[str] = set()
    for branch in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(branch) or ():
            found |= types_of(option, root, depth + 1)
    return found


def resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What ``#/$defs/Name`` points at; ``None`` when there is nothing."""
    at: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(at, Mapping):
            return None
        at = at.get(part.replace("~1", "/").replace("~0", "~"))
    return at


def kind_of(value: Any) -> str:
    """JSON type of a value."""
    if isinstance(value, str):
        return "string"
    for kind, classes in TYPES.items():
        if type(value) in classes:
            return kind
    return "string"
