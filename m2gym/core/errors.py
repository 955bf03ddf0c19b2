"""Errors, attributed once: the user's input, the infrastructure, or the verifier.

An infrastructure or verifier error becomes a verdict without a reward (``infra_error``,
``verifier_error``); it never becomes a reward of 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2gym.core.verdict import Stop


class M2GymError(Exception):
    """Base of every error m2gym raises on purpose."""


class InputError(M2GymError, ValueError):
    """What the caller passed cannot be used; the message says what was expected."""


class UnknownIdError(InputError, LookupError):
    """No such id; the message names the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
        elif self.known:
            shown = ", ".join(self.known[:12]) + (", …" if len(self.known) > 12 else "")
            hint = f"known: {shown}"
        else:
            hint = "none is registered"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class UngradableError(InputError):
    """The agent left what cannot be taken out or read (too much, too deep): graded 0, its doing."""


class EpisodeOverError(InputError):
    """The episode has ended (or none was begun): call ``reset`` first."""


class CapabilityError(InputError):
    """A task asks for a capability that the chosen workspace does not have."""


class InfraError(M2GymError):
    """A box, a download, a disk or an engine failed; never the agent's fault, never a reward."""


class WorkspaceLostError(InfraError):
    """The box died or could not be started."""


class DownloadError(InfraError):
    """Files of a task could not be fetched, or what came has another hash."""


class VerifierError(M2GymError):
    """Grading itself failed; the episode has no reward."""


class ModelError(InfraError):
    """A model did not answer: ``cause`` is one word (``server``, ``network``, ``timeout``,
    ``rate_limit``, ``auth``, ``refused``, ``broken``), ``status`` the upstream's HTTP status."""

    def __init__(
        self,
        message: str,
        *,
        cause: str = "server",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.cause, self.status, self.retry_after = cause, status, retry_after


class RateLimitError(ModelError):
    """The provider asks to wait: ``retry_after`` seconds, where it says so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, cause="rate_limit", status=429, retry_after=retry_after)


class SessionEndedError(InputError):
    """The session takes no more calls: its episode or its budget has ended."""


class BudgetError(SessionEndedError):
    """A budget is used up; ``stop`` is ``tokens``, ``cost`` or ``context``, as in a verdict."""

    def __init__(self, message: str, stop: Stop) -> None:
        super().__init__(message)
        self.stop: Stop = stop


class ContextError(BudgetError):
    """A prompt does not fit the model's context. The session goes on: an agent may shorten it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "context")
