"""A server's JSON and event streams over aiohttp: what a gateway's upstream must be, fast.

The ``openai`` package builds an object a chunk, which costs more than all else of a call; here a
chunk stays the dictionary it came as, and all that came in one read are given together.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import orjson

from m2gym.backends.openai_errors import error_of
from m2gym.backends.plain_chunks import PlainChunks
from m2gym.core.errors import ModelError

CONNECT_SECONDS = 30.0
"""How long making a connection may take; the project's choice."""

LONGEST_LINE = 64 * 2**20
"""Bytes of one event beyond which a stream counts as broken; the project's choice."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class EventClient:
    """Posts JSON to a server; connections are kept, one pool an event loop.

    Args:
        base_url: what paths are put behind.
        api_key: sent as a bearer token.
        timeout: seconds without a byte after which a call has failed.
    """

    def __init__(self, base_url: str, *, api_key: str, timeout: float) -> None:
        self.base_url, self.timeout = base_url.rstrip("/"), timeout
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[list[dict[str, Any] | str], None]:
        """The answer's objects as they come: a stream's chunks, or the one of a whole answer.

        A chunk that is one more piece of text and nothing else is only its text.

        Raises:
            ModelError: by cause; `RateLimitError` and `ContextError` where the server says so.
        """
        with self._errors():
            url = f"{self.base_url}/{path}"
            async with self._http().post(url, data=orjson.dumps(body)) as answer:
                if answer.status >= 400:
                    text = await answer.text(errors="replace")
                    raise error_of(answer.status, _message(text), answer.headers)
                if answer.content_type != "text/event-stream":
                    yield [_object(await answer.read())]
                    return
                rest, plain = b"", PlainChunks()
                async for data in answer.content.iter_any():
                    *lines, rest = (rest + data).split(b"\n")
                    if len(rest) > LONGEST_LINE:
                        raise ModelError(f"{self.base_url} sent an endless line", cause="broken")
                    if chunks := _chunks(lines, plain):
                        yield chunks
                if _holds(rest):
                    yield [_object(rest[5:])]

    def _http(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=self.timeout
            )
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                headers=self._headers,
                timeout=limits,
                read_bufsize=2**18,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=any(os.environ.get(n) or os.environ.get(n.upper()) for n in PROXIES),
            )
            weakref.finalize(self, _drop, self._session)
        return self._session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ModelError(
                f"{self.base_url} did not answer in {self.timeout:g} s", cause="timeout"
            ) from error
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError) as error:
            raise ModelError(
                f"the answer of {self.base_url} broke off: {error}", cause="broken"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ModelError(f"cannot reach {self.base_url}: {error}", cause="network") from error
        except orjson.JSONDecodeError as error:
            raise ModelError(
                f"{self.base_url} sent what is not its protocol: {error}", cause="broken"
            ) from error


def _drop(session: aiohttp.ClientSession) -> None:
    """Close what is left of a pool whose owner, and maybe loop, is gone."""
    connector = session.connector
    if connector is not None:
        session.detach()
        # its first step closes all connections; what it then waits for needs a running loop
        closing = connector.close().__await__()
        next(closing, None)
        closing.close()


def _chunks(lines: list[bytes], plain: PlainChunks) -> list[dict[str, Any] | str]:
    out: list[dict[str, Any] | str] = []
    for line in lines:
        text = plain.text(line)
        if text is not None:
            out.append(text)
        elif _holds(line):
            chunk = _object(line[5:])
            plain.learn(line, chunk)
            out.append(chunk)
    return out


def _holds(line: bytes) -> bool:
    return line.startswith(b"data:") and line[5:].strip() not in (b"", b"[DONE]")


def _object(data: bytes) -> dict[str, Any]:
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise ModelError(f"expected a JSON object, got {data[:80]!r}", cause="broken")
    if value.get("error") and not value.get("choices"):
        raise ModelError(_told(value["error"]), cause="server")
    return value


def _message(text: str) -> str:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.strip()[:500] or "no reason given"
    return _told(value.get("error", value) if isinstance(value, dict) else value)


def _told(error: Any) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return str(error)[:500]
