"""Whose fault an exception is, as a client is told."""

from __future__ import annotations

from m2gym.core.errors import InputError, M2GymError
from m2gym.gateway.fault import Fault


def fault_of(error: BaseException | None) -> Fault:
    """The fault of what a session raised.

    An error that nobody foresaw is ``internal`` and names only its class: its words may hold what
    is not the client's to see.
    """
    if isinstance(error, Fault):
        return error
    if isinstance(error, InputError):
        return Fault("invalid", str(error))
    if isinstance(error, TimeoutError):
        return Fault("timeout", str(error) or "the model did not answer in time")
    if isinstance(error, M2GymError | OSError):
        return Fault("internal", str(error) or type(error).__name__)
    return Fault("internal", f"the model failed: {type(error).__name__}")
