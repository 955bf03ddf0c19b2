"""An episode's tools as an MCP server (streamable HTTP, one JSON answer a request).

For agents that live elsewhere: one secret an episode. Sources: Model Context Protocol, revisions
2025-03-26 to 2025-11-25 (lifecycle, tools, transports). The server keeps no state of its own, so
it gives out no MCP session id, and it pushes nothing, so a GET for a stream is answered 405.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from m2gym import __version__
from m2gym.core.errors import EpisodeOverError, InputError, M2GymError
from m2gym.core.protocols import Episode, Observation
from m2gym.gateway.access import Entry
from m2gym.gateway.exchange import read_body
from m2gym.gateway.fault import Fault
from m2gym.gateway.fields import Object
from m2gym.gateway.wire import dumps

VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Protocol revisions served; a client that asks for another is offered the last."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = (
    -32700,
    -32600,
    -32601,
    -32602,
    -32603,
)


class RpcError(Exception):
    """A JSON-RPC error object."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class McpServer:
    """Answers MCP requests; actions of one episode are done one after the other."""

    def __init__(self) -> None:
        self._locks: weakref.WeakKeyDictionary[Entry, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def handle(self, request: web.BaseRequest, entry: Entry) -> web.Response:
        """One HTTP request.

        Raises:
            Fault: the secret opens no episode, or the body is too large.
        """
        if entry.episode is None:
            raise Fault("not_found", "this secret opens a model, not an episode's tools")
        if request.method == "DELETE":
            return web.Response(status=204)
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST, DELETE"})
        entry.calls += 1
        body = await read_body(request)
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return _answer(_failure(None, PARSE_ERROR, f"no JSON: {error}"), 400)
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return _answer(
                _failure(None, INVALID_REQUEST, "one JSON-RPC 2.0 object a request"), 400
            )
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        id = message["id"]
        try:
            result = await self._call(entry, message)
        except RpcError as error:
            return _answer(_failure(id, error.code, error.message))
        return _answer({"jsonrpc": "2.0", "id": id, "result": result})

    async def _call(self, entry: Entry, message: Object) -> Object:
        episode = entry.episode
        assert episode is not None
        method = message["method"]
        given = message.get("params")
        params: Mapping[str, Any] = given if isinstance(given, dict) else {}
        if method == "initialize":
            return _initialize(episode, params)
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": [_tool(schema) for schema in episode.tools]}
        if method == "tools/call":
            lock = self._locks.setdefault(entry, asyncio.Lock())
            async with lock:
                return await _act(episode, params)
        raise RpcError(METHOD_NOT_FOUND, f"no method {method!r} here")


def _initialize(episode: Episode, params: Mapping[str, Any]) -> Object:
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "m2gym", "version": __version__},
        "instructions": episode.first_observation,
    }


def _tool(schema: Any) -> Object:
    return {
        "name": schema.name,
        "description": schema.description,
        "inputSchema": schema.parameters,
    }


async def _act(episode: Episode, params: Mapping[str, Any]) -> Object:
    name, arguments = params.get("name"), params.get("arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "tools/call needs a name and an object of arguments")
    if name not in {schema.name for schema in episode.tools}:
        raise RpcError(INVALID_PARAMS, f"no tool {name!r} here; list them with tools/list")
    try:
        seen = await episode.act({"name": name, "arguments": arguments})
    except EpisodeOverError as error:
        return _result(str(error), failed=True)
    except InputError as error:
        return _result(str(error), failed=True)
    except M2GymError as error:
        raise RpcError(INTERNAL_ERROR, str(error)) from error
    return _result(_shown(seen))


def _shown(seen: Observation) -> str:
    return f"{seen.text}\n[the episode has ended: {seen.stop}]" if seen.done else seen.text


def _result(text: str, *, failed: bool = False) -> Object:
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def _failure(id: Any, code: int, message: str) -> Object:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}


def _answer(value: Object, status: int = 200) -> web.Response:
    return web.Response(body=dumps(value), status=status, content_type="application/json")
