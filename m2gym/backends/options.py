"""Options in a model's specification: ``NAME?key=value&key=value``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from m2gym.core.errors import InputError

Readers = Mapping[str, Callable[[str], Any]]


def read_options(query: str, readers: Readers) -> dict[str, Any]:
    """The options of a query string, each read by its reader.

    >>> read_options("rpm=60", {"rpm": float})
    {'rpm': 60.0}

    Raises:
        InputError: an unknown option (the nearest is named), or a value that its reader refuses.
    """
    out: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in readers:
            near = difflib.get_close_matches(key, readers, n=1) or sorted(readers)
            raise InputError(f"unknown option {key!r} of a model; known: {', '.join(near)}")
        try:
            out[key] = readers[key](text)
        except ValueError as error:
            raise InputError(f"option {key!r} of a model: {error}") from None
    return out


def yes(text: str) -> bool:
    """A truth value."""
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no"):
        return False
    raise ValueError(f"expected true or false, got {text!r}")


def positive(text: str) -> float:
    """A number above zero."""
    value = float(text)
    if not value > 0:
        raise ValueError(f"expected a number above zero, got {text!r}")
    return value


def count(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise ValueError(f"expected a whole number above zero, got {text!r}")
    return value
