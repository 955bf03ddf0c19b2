"""Whose fault an exception is, as a client is told."""

from __future__ import annotations

from m2gym.core.errors import (
    ContextError,
    InputError,
    M2GymError,
    ModelError,
    SessionEndedError,
)
from m2gym.gateway.fault import Fault, Kind

CAUSES: dict[str, Kind] = {
    "rate_limit": "rate_limit",
    "timeout": "timeout",
    "auth": "unauthenticated",
    "refused": "invalid",
}
"""What a model's failure is to the client; other causes are ``internal``.

A provider that refuses *our* key is told as 401 too: trying again would not mend it.
"""

TOO_LONG = "prompt is too long"
"""Anthropic's words, by which its clients know that they are to shorten their history."""

REFUSED_KEY = "the model's provider refuses the key that the gym calls it with"

OVERLOADED = (503, 529)


def fault_of(error: BaseException | None) -> Fault:
    """The fault of what a session raised.

    An error that nobody foresaw is ``internal`` and names only its class: its words may hold what
    is not the client's to see.
    """
    if isinstance(error, Fault):
        return error
    if isinstance(error, ContextError):
        return Fault("context", f"{TOO_LONG}: {error}")
    if isinstance(error, SessionEndedError):
        return Fault("ended", str(error))
    if isinstance(error, ModelError):
        kind = CAUSES.get(error.cause, "internal")
        if kind == "unauthenticated":
            return Fault(kind, REFUSED_KEY)  # a provider's own words may hold the key
        if error.status in OVERLOADED:
            kind = "overloaded"
        return Fault(kind, str(error), retry_after=error.retry_after)
    if isinstance(error, InputError):
        return Fault("invalid", str(error))
    if isinstance(error, TimeoutError):
        return Fault("timeout", str(error) or "the model did not answer in time")
    if isinstance(error, M2GymError | OSError):
        return Fault("internal", str(error) or type(error).__name__)
    return Fault("internal", f"the model failed: {type(error).__name__}")
