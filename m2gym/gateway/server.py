"""The gateway: sessions behind HTTP in four dialects, each under a secret of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any

from aiohttp import web

from m2gym.core.errors import InputError
from m2gym.core.protocols import Episode, Session
from m2gym.gateway import gemini, messages
from m2gym.gateway.access import Access, Entry, GuessLimit, Keyring, ended
from m2gym.gateway.agents import settle
from m2gym.gateway.exchange import Exchange, Outcome, refusal, stored_answer
from m2gym.gateway.fault import Fault
from m2gym.gateway.mcp import McpServer
from m2gym.gateway.models_list import models_list
from m2gym.gateway.routes import Route, route, split_secret

MAX_BODY = 32 * 2**20
"""Bytes a request may have; Anthropic's own limit, the highest of the four providers."""

CONNECTIONS = 4096
"""Connections to a gateway at once; the project's choice. More are closed as they come."""

IN_BOX = 512
"""The same for a socket that a box handed out: no box takes the descriptors of all."""

Watcher = Callable[[Outcome], None]


class Gateway:
    """Serves sessions to programs that speak a model provider's protocol.

    ```python
    gateway = Gateway()
    await gateway.start()
    access = gateway.add(session)      # OPENAI_BASE_URL=access.url + "/v1", any key
    ...
    await gateway.stop()
    ```

    Args:
        max_body: bytes a request may have.
        watch: told of every request that was answered.
    """

    def __init__(self, *, max_body: int = MAX_BODY, watch: Watcher | None = None) -> None:
        self.max_body = max_body
        self.base_url = ""
        self._watch = watch
        self._keys = Keyring()
        self._guesses = GuessLimit()
        self._mcp = McpServer()
        self._runners: list[web.ServerRunner] = []
        self._handed: dict[str, web.ServerRunner] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes any free one, which `base_url` then names."""
        runner = await self._runner(self._handle)
        await web.TCPSite(runner, host, port, backlog=1024).start()
        self._runners.append(runner)
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{shown}:{bound}"

    async def serve_socket(
        self, sock: socket.socket, session: Session | None = None
    ) -> Access | None:
        """Serve on a socket that listens already, such as one a box handed out.

        With a session, whoever reaches the socket is that session, whatever key it sends: only
        the box's own processes can. `remove` the access to close it.
        """
        entry = None if session is None else self._keys.new(session)
        handle = self._handle if entry is None else partial(self._handle, pinned=entry)
        runner = await self._runner(handle, None if entry is None else IN_BOX)
        await web.SockSite(runner, sock, backlog=1024).start()
        if entry is None:
            self._runners.append(runner)
            return None
        self._handed[entry.secret] = runner
        host, port = sock.getsockname()[:2]
        return Access(entry.secret, f"http://{host}:{port}")

    async def stop(self) -> None:
        """Stop listening and every call under way."""
        for entry in self._keys.entries():
            self.remove(entry.secret)
        for runner in [*self._runners, *self._handed.values()]:
            await runner.cleanup()
        self._runners.clear()
        self._handed.clear()

    def add(
        self,
        session: Session | None = None,
        *,
        episode: Episode | None = None,
        granted: Iterable[str] = (),
        models: Iterable[str] = (),
        stop_status: int | None = None,
        branch: Callable[[str], Session] | None = None,
        name: str = "",
    ) -> Access:
        """Open a session to clients.

        Args:
            session: answers model calls.
            episode: whose tools the MCP endpoint offers.
            granted: provider-hosted tools (``web_search``, …) that a request may rest on.
            models: names that may be asked for; empty: any.
            stop_status: HTTP status that ends the agent once the session has ended; by default
                chosen from its ``User-Agent``.
            branch: makes a session of its own for each ``SECRET.NAME`` that a client uses as its
                secret, when it first does.
            name: what the session is called before whoever watches.
        """
        if not self.base_url:
            raise InputError("start the gateway before sessions are added: await gateway.start()")
        entry = self._keys.new(session, episode)
        entry.granted, entry.models = frozenset(granted), tuple(models)
        entry.stop_status, entry.branch, entry.name = stop_status, branch, name
        return Access(entry.secret, self.base_url)

    def remove(self, secret: str) -> None:
        """Close a session to clients: its calls are cancelled, later ones are told it ended."""
        for entry in self._keys.end(secret):
            entry.turns.cancel()

    async def remove_socket(self, access: Access) -> None:
        """`remove`, and close the socket that was handed out for it."""
        self.remove(access.secret)
        runner = self._handed.pop(access.secret, None)
        if runner is not None:
            await runner.cleanup()

    def entries(self) -> list[Entry]:
        """Open sessions with their counts."""
        return self._keys.entries()

    async def _runner(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        most: int | None = None,
    ) -> web.ServerRunner:
        def make_request(message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
            loop = server._loop
            return web.BaseRequest(
                message, payload, protocol, writer, task, loop, client_max_size=self.max_body
            )

        server = _Bounded(
            handle, request_factory=make_request, handler_cancellation=True, access_log=None
        )
        server.most = most or CONNECTIONS
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        return runner

    async def _handle(
        self, request: web.BaseRequest, pinned: Entry | None = None
    ) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        prefix_secret, path = split_secret(path)
        where = route(request.method, path)
        if where.action == "hello":
            return web.Response(text="m2gym gateway\n")
        if where.action == "upgrade":
            return refusal(
                Fault("invalid", "no websocket here: use POST", status=426), where.dialect
            )
        dialect = _listed_dialect(where, request) if where.action == "models" else where.dialect
        try:
            entry = self._who(request, prefix_secret, pinned)
            if where.action == "mcp":
                return await self._mcp.handle(request, entry)
            if where.action == "models":
                return models_list(dialect, entry, where.model)
            if where.action == "stored":
                return stored_answer(entry, where.model, request.method)
            if where.action == "unknown":
                raise Fault("not_found", f"no endpoint {request.method} {path}")
        except Fault as fault:
            agent = request.headers.get("User-Agent", "")
            response = refusal(settle(fault, agent), dialect)
            if fault.kind == "rate_limit":
                response.force_close()
            return response
        exchange = Exchange(request, where, entry)
        try:
            return await exchange.run()
        finally:
            if self._watch is not None:
                self._watch(exchange.outcome)

    def _who(self, request: web.BaseRequest, prefix: str, pinned: Entry | None) -> Entry:
        if pinned is not None:
            if pinned not in self._keys:
                raise ended(pinned)
            return pinned
        given = [prefix] if prefix else _secrets(request)
        for secret in given:
            entry = self._keys.find(secret)
            if entry is not None:
                return entry
        wait = self._guesses.wrong(request.remote or "")
        if wait is not None:
            raise Fault("rate_limit", "too many wrong secrets", retry_after=wait)
        if not given:
            raise Fault("unauthenticated", "a session's secret is missing: send it as the API key")
        raise Fault("unauthenticated", "no session has this secret")


class _Bounded(web.Server):
    """Takes only so many connections at once."""

    most = CONNECTIONS

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Close one too many before a byte of it is read."""
        super().connection_made(handler, transport)
        if len(self._connections) > self.most:
            transport.abort()


def _secrets(request: web.BaseRequest) -> list[str]:
    """What may be a secret, in any dialect's place for it."""
    headers = request.headers
    found = []
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        found.append(token.strip())
    for name in ("x-api-key", "x-goog-api-key"):
        if name in headers:
            found.append(headers[name])
    if "key=" in request.raw_path and (key := request.query.get("key")):
        found.append(key)
    return found


def _listed_dialect(where: Route, request: web.BaseRequest) -> ModuleType:
    """Whose list of models is asked for: the path does not tell, headers do."""
    if "anthropic-version" in request.headers:
        return messages
    if "x-goog-api-key" in request.headers:
        return gemini
    return where.dialect
