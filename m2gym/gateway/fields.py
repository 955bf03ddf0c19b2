"""Reading values out of a client's JSON: what is there is checked, what is missing has a default.

Every function takes ``where``, the place in the request, for the error's words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from m2gym.core.protocols import Sampling
from m2gym.gateway.fault import invalid

Object = dict[str, Any]


def an_object(value: Any, where: str) -> Object:
    """A JSON object."""
    if not isinstance(value, dict):
        raise invalid(where, "an object", value)
    return value


def a_list(value: Any, where: str) -> list[Any]:
    """A list; nothing and null count as an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(where, "a list", value)
    return value


def objects(value: Any, where: str) -> Iterator[tuple[str, Object]]:
    """A list's members, each an object, with its place."""
    for number, member in enumerate(a_list(value, where)):
        place = f"{where}[{number}]"
        yield place, an_object(member, place)


def a_string(value: Any, where: str, default: str | None = None) -> str:
    """Text; nothing and null give ``default`` where there is one."""
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise invalid(where, "a string", value)
    return value


def a_name(value: Any, where: str) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value:
        raise invalid(where, "a non-empty string", value)
    return value


def number(value: Any, where: str, default: float, low: float, high: float) -> float:
    """A number within bounds; nothing and null give ``default``."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid(where, f"a number from {low:g} to {high:g}", value)
    return float(value)


def count(value: Any, where: str, low: int = 0) -> int | None:
    """A whole number of at least ``low``; nothing and null give ``None``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise invalid(where, "a whole number", value)
    if value < low:
        raise invalid(where, f"at least {low}", value)
    return int(value)


def strings(value: Any, where: str) -> tuple[str, ...]:
    """A string or a list of them."""
    if isinstance(value, str):
        return (value,)
    return tuple(a_string(v, f"{where}[{n}]") for n, v in enumerate(a_list(value, where)))


def sampling(
    source: Object, *, max_tokens: str, stop: str, top_p: str = "top_p", top_k: str = "top_k"
) -> Sampling:
    """The sampling fields of a request under the dialect's names."""
    most = count(source.get(max_tokens), max_tokens, 1)
    return Sampling(
        temperature=number(source.get("temperature"), "temperature", 1.0, 0.0, 2.0),
        top_p=number(source.get(top_p), top_p, 1.0, 0.0, 1.0),
        top_k=count(source.get(top_k), top_k) or 0,
        max_tokens=most,
        seed=count(source.get("seed"), "seed", -(2**63)),
        stop=strings(source.get(stop), stop),
    )
