"""OpenAI's error form, shared by its two dialects."""

from __future__ import annotations

from m2gym.gateway.fault import Fault, Kind
from m2gym.gateway.fields import Object

TYPES: dict[Kind, tuple[str, str | None]] = {
    "invalid": ("invalid_request_error", None),
    "context": ("invalid_request_error", "context_length_exceeded"),
    "unauthenticated": ("authentication_error", "invalid_api_key"),
    "ended": ("insufficient_quota", "session_ended"),
    "not_found": ("invalid_request_error", "not_found"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "rate_limit": ("rate_limit_error", "rate_limit_exceeded"),
    "overloaded": ("server_error", "server_is_overloaded"),
    "timeout": ("server_error", "timeout"),
    "internal": ("server_error", "server_error"),
}
"""Type and code of each kind."""


def error_body(fault: Fault) -> Object:
    """The body of a refused request."""
    type, code = TYPES[fault.kind]
    told = {"message": fault.message, "type": type, "param": fault.param}
    return {"error": {**told, "code": fault.code or code}}
