"""One request answered: from its bytes to the session's turn and back in its dialect."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from dataclasses import dataclass, replace
from types import ModuleType

from aiohttp import web

from m2gym.core.trajectory import Completion
from m2gym.gateway import responses
from m2gym.gateway.access import Entry
from m2gym.gateway.agents import settle
from m2gym.gateway.blame import fault_of
from m2gym.gateway.call import Call, Encoder
from m2gym.gateway.counting import count_tokens
from m2gym.gateway.fault import Fault
from m2gym.gateway.gemini_answer import ArrayEncoder, GeminiEncoder
from m2gym.gateway.routes import Route
from m2gym.gateway.turns import Turn
from m2gym.gateway.wire import dumps

HOLD = 0.25
"""Seconds a stream's headers wait, so that an early failure still gets its status; the project's
choice. Far below the time-outs of any client."""

PING = 15.0
"""Seconds of silence after which a stream says that it lives; the project's choice."""

BODY_SECONDS = 60.0
"""Seconds in which a request's body must have come."""

AT_ONCE = 256
"""Calls of one session under way at once; the project's choice, far above any agent's need."""

HELD = 32
"""Bodies of the greatest size that a session's calls under way may have together, in bytes; one
whose length is not told beforehand counts as one of them. The project's choice."""

GONE = 499
"""Status noted, and sent to nobody, when the client went away before its answer."""

STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


@dataclass
class Outcome:
    """What became of a request, for whoever watches."""

    session: str
    dialect: str
    model: str = ""
    stream: bool = False
    status: int = 200
    error: str = ""
    seconds: float = 0.0
    usage: tuple[int, int] = (0, 0)


class Exchange:
    """A request of a known session."""

    def __init__(self, request: web.BaseRequest, route: Route, entry: Entry) -> None:
        self.request, self.route, self.entry = request, route, entry
        self.outcome = Outcome(entry.name or entry.id, route.dialect.name)
        self._id = secrets.token_hex(12)

    async def run(self) -> web.StreamResponse:
        """Answer it; every failure has the dialect's form."""
        begun = time.perf_counter()
        entry = self.entry
        entry.calls += 1
        entry.running += 1
        entry.seen = time.time()
        size = self._size()
        entry.held += size
        try:
            return await self._serve()
        except Fault as fault:
            return self._refuse(fault)
        except (asyncio.CancelledError, ConnectionError):
            self.outcome.status, self.outcome.error = GONE, "the client went away"
            raise
        finally:
            entry.running -= 1
            entry.held -= size
            self.outcome.seconds = time.perf_counter() - begun

    def _size(self) -> int:
        """Bytes that the request may take."""
        limit, told = self.request.client_max_size, self.request.content_length
        return limit if told is None else min(told, limit)

    async def _serve(self) -> web.StreamResponse:
        dialect, entry = self.route.dialect, self.entry
        if entry.running > AT_ONCE:
            raise Fault("rate_limit", f"{AT_ONCE} calls of this session are under way already")
        if entry.held > HELD * self.request.client_max_size:
            raise Fault("rate_limit", "this session's calls under way are too large together")
        body = await read_body(self.request)
        call = entry.repeats.read(body, self.route)
        self.outcome.model, self.outcome.stream = call.model, call.stream
        if entry.session is None:
            raise Fault("not_found", "this secret opens an episode's tools, not a model")
        if entry.models and call.model not in entry.models:
            raise Fault(
                "not_found", f"no model {call.model!r} here; known: {', '.join(entry.models)}"
            )
        call = entry.stored.behind(granted(call, entry.granted))
        if self.route.action == "count":
            return _json(dialect.counted(count_tokens(entry.session, call)))
        asked = replace(call.request, streamed=call.stream, constant=True)
        turn = entry.turns.join(entry.session, asked)
        delivered = False
        try:
            if call.stream:
                response = await self._stream(call, turn)
            else:
                response = await self._whole(call, turn, dialect)
            delivered = True
            return response
        finally:
            entry.turns.leave(turn, delivered=delivered)

    async def _whole(self, call: Call, turn: Turn, dialect: ModuleType) -> web.StreamResponse:
        completion = await self._completion(turn)
        created = int(time.time())
        response = _json(dialect.answer(call, completion, self._id, created))
        self.entry.stored.keep(f"resp_{self._id}", call, completion, created)
        await response.prepare(self.request)
        await response.write_eof()
        return response

    async def _completion(self, turn: Turn) -> Completion:
        await turn.finished()
        if turn.completion is None:
            raise fault_of(turn.error)
        used = turn.completion.usage
        self.outcome.usage = (used.prompt_tokens, used.completion_tokens)
        return turn.completion

    async def _stream(self, call: Call, turn: Turn) -> web.StreamResponse:
        await turn.more(0, HOLD)
        if turn.error is not None:
            raise fault_of(turn.error)
        created = int(time.time())
        encoder: Encoder = self.route.dialect.encoder(call, self._id, created)
        headers = STREAM_HEADERS
        if isinstance(encoder, GeminiEncoder) and "alt=sse" not in self.request.raw_path:
            encoder = ArrayEncoder(encoder)
            headers = {**headers, "Content-Type": "application/json"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(self.request)
        pending = [encoder.begin()]
        seen = 0
        while True:
            deltas = turn.deltas
            if seen < len(deltas):
                pending += [encoder.delta(delta) for delta in deltas[seen:]]
                seen = len(deltas)
            if turn.over:
                break
            if data := b"".join(pending):
                await response.write(data)
            pending = []
            await turn.more(seen, PING)
            if seen == len(turn.deltas) and not turn.over:
                pending.append(encoder.ping)
        if turn.completion is not None:
            completion = await self._completion(turn)
            self.entry.stored.keep(f"resp_{self._id}", call, completion, created)
            pending.append(encoder.end(completion))
        else:
            fault = self._note(fault_of(turn.error))
            pending.append(encoder.fail(fault))
        await response.write(b"".join(pending))
        await response.write_eof()
        return response

    def _note(self, fault: Fault) -> Fault:
        settle(fault, self.request.headers.get("User-Agent", ""), self.entry.stop_status)
        self.entry.refused += 1
        self.entry.last_error = self.outcome.error = fault.message
        self.outcome.status = fault.status
        return fault

    def _refuse(self, fault: Fault) -> web.Response:
        return refusal(self._note(fault), self.route.dialect)


def refusal(fault: Fault, dialect: ModuleType) -> web.Response:
    """A fault as a response; every 429 has ``Retry-After``."""
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(fault.retry_after)))
    return _json(dialect.error(fault), fault.status, headers)


def stored_answer(entry: Entry, id: str, method: str) -> web.Response:
    """A stored answer, or what is said when it was deleted.

    Raises:
        Fault: there is none of that id.
    """
    if method == "DELETE":
        return _json(entry.stored.delete(id))
    held = entry.stored.get(id)
    told = responses.answer(held.call, held.completion, id.removeprefix("resp_"), held.created)
    return _json(told)


def _json(
    value: dict[str, object], status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=dumps(value), status=status, headers=headers, content_type="application/json"
    )


async def read_body(request: web.BaseRequest) -> bytes:
    """The whole body.

    Raises:
        Fault: it is too large, or did not come in time.
    """
    limit = request.client_max_size
    if (request.content_length or 0) > limit:
        raise Fault("too_large", f"the body has {request.content_length} bytes; at most {limit}")
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Fault("too_large", f"the body has more than {limit} bytes") from None
    except TimeoutError:
        raise Fault(
            "timeout", f"the body did not come within {BODY_SECONDS:g} s", status=408
        ) from None


def granted(call: Call, names: frozenset[str]) -> Call:
    """The call with those hosted tools that its session was granted.

    An agent that merely lists others beside its own is served without them.

    Raises:
        Fault: it offers nothing else, or forces one of the others.
    """
    if not call.hosted:
        return call
    passed = tuple(tool for tool in call.hosted if tool.name in names)
    withheld = [tool.name for tool in call.hosted if tool.name not in names]
    offers = call.request.tools or passed
    if withheld and (not offers or call.request.tool_choice in withheld):
        raise Fault(
            "invalid",
            f"provider-hosted tools are not granted here: {', '.join(withheld)}; offer function "
            "tools, or grant them to the session",
        )
    return replace(call, request=replace(call.request, hosted=passed))
