"""The E2B SDK, met on first use, and its errors in our words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from m2gym.core.errors import CapabilityError, InfraError, WorkspaceLostError


def sdk() -> Any:
    """The module ``e2b``.

    Raises:
        CapabilityError: it is not installed, or no key is set.
    """
    try:
        import e2b
    except ImportError:
        raise CapabilityError(
            "the e2b workspace needs the E2B SDK; run: pip install 'm2gym[e2b]'"
        ) from None
    if not os.environ.get("E2B_API_KEY"):
        raise CapabilityError(
            "the e2b workspace needs a key; make one at e2b.dev/dashboard and run: "
            "export E2B_API_KEY=…"
        )
    return e2b


@contextlib.contextmanager
def failures(what: str) -> Iterator[None]:
    """Turn the SDK's errors into `InfraError`, each with what mends it."""
    e2b = sdk()
    import httpx

    try:
        yield
    except e2b.RateLimitException as error:
        raise InfraError(
            f"{what} failed: E2B asks to wait (429): {error}; make fewer boxes at once "
            "(M2GYM_BOXES, M2GYM_BOXES_PER_SECOND)"
        ) from error
    except e2b.AuthenticationException as error:
        raise InfraError(
            f"{what} failed: E2B refuses the key: {error}; set another: export E2B_API_KEY=…"
        ) from error
    except e2b.NotEnoughSpaceException as error:
        raise InfraError(
            f"{what} failed: the sandbox's disk is full: {error}; build a template with more"
        ) from error
    except (e2b.TimeoutException, e2b.SandboxNotFoundException) as error:
        raise WorkspaceLostError(
            f"{what} failed: the sandbox ended or is out of reach: {error}"
        ) from error
    except (e2b.SandboxException, httpx.HTTPError, OSError) as error:
        raise InfraError(f"{what} failed: {error}{_mend(error)}") from error


def _mend(error: BaseException) -> str:
    text = str(error).lower()
    if "template" in text:
        return "; build it (e2b template build) or name another as the task's image"
    if not hasattr(error, "status_code"):
        return "; look whether E2B can be reached from here (E2B_DOMAIN)"
    return "; see status.e2b.dev"
