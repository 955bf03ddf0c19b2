"""What went wrong with a request, before it is put into a dialect's error form."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "invalid",
    "context",
    "unauthenticated",
    "ended",
    "not_found",
    "too_large",
    "rate_limit",
    "overloaded",
    "timeout",
    "internal",
]
"""``context``: the prompt is too long for the model; a shorter one is welcome. ``ended``: the
session takes no more calls (its budget or its episode ended)."""

STATUS: dict[Kind, int] = {
    "invalid": 400,
    "context": 400,
    "unauthenticated": 401,
    "ended": 0,
    "not_found": 404,
    "too_large": 413,
    "rate_limit": 429,
    "overloaded": 503,
    "timeout": 504,
    "internal": 500,
}
"""HTTP status of each kind; that of ``ended`` is chosen by the agent that is to be ended."""

RETRY_AFTER = 2.0
"""Seconds a client is told to wait when the model names none; the project's choice."""


class Fault(Exception):
    """A request that gets no answer: why, in words for the client.

    Args:
        kind: what sort of failure.
        message: what was expected, what came, what to do.
        retry_after: seconds to wait; always set for ``rate_limit`` and ``overloaded``.
        status: the HTTP status, where it is not the kind's own.
        param, code: the field at fault, and a name for the failure, where the dialect tells them.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message
        if retry_after is None and kind in ("rate_limit", "overloaded"):
            retry_after = RETRY_AFTER
        self.retry_after = retry_after
        self.status = STATUS[kind] if status is None else status
        self.param, self.code = param, code


def invalid(where: str, expected: str, got: object) -> Fault:
    """``where`` held something else than ``expected``."""
    shown = repr(got)
    if len(shown) > 80:
        shown = shown[:77] + "…"
    return Fault("invalid", f"{where}: expected {expected}, got {shown}")
