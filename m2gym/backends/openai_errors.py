"""Errors of the ``openai`` package by their cause."""

from __future__ import annotations

from typing import Any

from m2gym.core.errors import ContextError, ModelError, RateLimitError

CAUSES = {
    **dict.fromkeys((400, 404, 413, 422), "refused"),
    **dict.fromkeys((401, 402, 403), "auth"),
    **dict.fromkeys((408, 504), "timeout"),
    429: "rate_limit",
}
"""Any other status is the server's fault."""

CONTEXT_WORDS = (
    "context length",
    "context_length",
    "context window",
    "maximum context",
    "too long",
)
"""How servers say that a prompt does not fit."""


def error_of(status: int | None, message: str, headers: Any = None) -> ModelError | ContextError:
    """The error for an HTTP status; without one the connection failed."""
    if status is None:
        return ModelError(message, cause="network")
    if status in (400, 413, 422) and any(word in message.lower() for word in CONTEXT_WORDS):
        return ContextError(f"the prompt is too long for the model: {message}")
    if status == 429 and "insufficient_quota" not in message:
        return RateLimitError(message, retry_after=retry_after(headers))
    cause = "auth" if status == 429 else CAUSES.get(status, "server")
    return ModelError(message, cause=cause, status=status, retry_after=retry_after(headers))


def retry_after(headers: Any) -> float | None:
    """Seconds that ``Retry-After`` (or ``retry-after-ms``) asks to wait."""
    if headers is None:
        return None
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name)) * unit
        except (TypeError, ValueError):
            continue
        if 0 <= seconds < 3600:
            return seconds
    return None
