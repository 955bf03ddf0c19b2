"""The ``openai`` package's client, one an event loop, its errors translated."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from m2gym.backends.event_client import EventClient
from m2gym.backends.openai_errors import error_of
from m2gym.core.errors import InputError, ModelError

TIMEOUT = 600.0
"""Seconds without a byte after which a call has failed; the project's choice."""

KEY_VARIABLE = "M2GYM_API_KEY"
"""The environment variable with the server's key; not OpenAI's own, which another server must not
see."""


class Client:
    """A server's address, and the client that talks to it."""

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout: float = TIMEOUT
    ) -> None:
        self.base_url, self.timeout = base_url.rstrip("/"), timeout
        self._key = api_key or os.environ.get(KEY_VARIABLE) or "none"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._events: EventClient | None = None
        self._module: Any = None

    @property
    def events(self) -> EventClient:
        """For calls that stream, or that there are many of: no object a chunk is made."""
        if self._events is None:
            self._events = EventClient(self.base_url, api_key=self._key, timeout=self.timeout)
        return self._events

    @property
    def openai(self) -> Any:
        """The package.

        Raises:
            InputError: it is not installed.
        """
        if self._module is None:
            try:
                self._module = importlib.import_module("openai")
            except ModuleNotFoundError as error:
                raise InputError(
                    "self-hosted models need the openai package: pip install 'm2gym[models]'"
                ) from error
        return self._module

    @property
    def api(self) -> Any:
        """An ``AsyncOpenAI`` of the running loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._loop = loop
            self._client = self.openai.AsyncOpenAI(
                base_url=self.base_url, api_key=self._key, max_retries=0, timeout=self.timeout
            )
        return self._client

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Failures of a call as `ModelError`, `RateLimitError` or `ContextError` (context)."""
        openai = self.openai
        try:
            yield
        except openai.APITimeoutError as error:
            raise ModelError(
                f"{self.base_url} did not answer in {self.timeout:g} s", cause="timeout"
            ) from error
        except openai.APIStatusError as error:
            raise error_of(error.status_code, str(error.message), error.response.headers) from error
        except openai.APIConnectionError as error:
            raise ModelError(
                f"cannot reach {self.base_url}: {error.__cause__ or error}", cause="network"
            ) from error
        except openai.APIError as error:
            raise ModelError(f"{self.base_url}: {error.message}", cause="broken") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.base_url} sent what is not its protocol: {error}", cause="broken"
            ) from error
        except OSError as error:
            raise ModelError(f"{self.base_url}: {error}", cause="network") from error
        except _http_errors() as error:
            raise ModelError(
                f"the answer of {self.base_url} broke off: {error}", cause="broken"
            ) from error

    async def close(self) -> None:
        """Close the running loop's connections; a later call opens new ones."""
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._client = None

    async def only_model(self) -> str:
        """The name of the one model that the server has.

        Raises:
            InputError: it has several, or none.
        """
        with self.errors():
            page = await self.api.models.list()
            names = [model.id for model in page.data]
        if len(names) != 1:
            raise InputError(
                f"{self.base_url} serves {', '.join(names) or 'no model'}; name one: "
                f"openai-compatible:{self.base_url}#NAME"
            )
        return str(names[0])


def _http_errors() -> tuple[type[Exception], ...]:
    """What the HTTP libraries under the package raise while an answer is read."""
    found = []
    for name in ("httpx", "httpx2"):
        with suppress(ModuleNotFoundError):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)
