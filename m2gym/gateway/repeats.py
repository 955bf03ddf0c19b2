"""A request that repeats an earlier one's beginning is read at the cost of what is new in it.

    kept      {"model":"m","messages":[ m0 , m1 , m2 , m3        behind each turn a piece ends
    body      {"model":"m","messages":[ m0 , m1 , m2 , m3 , m4 , m5 ],"stream":true}
              └─ equal, byte for byte (memcmp) ──────────┘
    read      {"model":"m","messages":[ MARK , m4 , m5 ],"stream":true}

An agent sends its whole history with each turn. What is equal to the kept bytes was read before:
its messages are taken from then, and of the body only the rest is parsed. Where a client changed
something (moved a cache mark), all before it is still shared. What cannot be told for certain is
read whole, so the call is always that of the whole body.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from types import ModuleType

import orjson

from m2gym.gateway.call import Call
from m2gym.gateway.reader import Past
from m2gym.gateway.routes import Route
from m2gym.gateway.wire import parse_body

KEPT = 4
"""Bodies of a session kept: a main line and sub-agents; the project's choice."""

SMALL = 4096
"""Bytes below which a body is read whole: it costs no more; the project's choice."""

REWRITTEN = 4
"""Last members that a client may write anew (cache marks move) and still continue the same
conversation, whose kept body the new one then replaces; the project's choice."""

PIECES = 32
"""Pieces of a body that are put together when there are more; the project's choice."""

_MARK = secrets.token_hex(16)
_MARKED = f'"{_MARK}"'.encode()
_SPACE = re.compile(rb"[ \t\n\r]*")
_TEXT_SPACE = re.compile(r"[ \t\n\r]*")
_scan = json.JSONDecoder().raw_decode


@dataclass(eq=False, slots=True)
class _Body:
    """The bytes of a body up to the end of its last member, and what was read of them.

    ``opened`` is where its list begins; ``ends`` has, a piece, the ends of its members.
    """

    dialect: ModuleType
    opened: int
    pieces: list[bytes]
    ends: list[list[int]]
    past: Past

    def shared(self, body: bytes) -> tuple[int, int]:
        """How many members a body begins with too, and where the last of them ends."""
        at = members = 0
        for piece, ends in zip(self.pieces, self.ends, strict=True):
            if body.startswith(piece, at):
                at += len(piece)
                members += len(ends)
                continue
            # True sorts behind False: the number of ends up to which the piece is the body's
            same = bisect_right(ends, False, key=lambda end: not body.startswith(piece[:end], at))
            return (members + same, at + ends[same - 1]) if same else (members, at)
        return members, at

    def until(self, members: int) -> tuple[list[bytes], list[list[int]]]:
        """Pieces and ends of the first so many members; many pieces become one."""
        pieces, ends, left = [], [], members
        for piece, held in zip(self.pieces, self.ends, strict=True):
            if left >= len(held):
                pieces.append(piece)
                ends.append(held)
                left -= len(held)
                continue
            if left:
                pieces.append(piece[: held[left - 1]])
                ends.append(held[:left])
            break
        if len(pieces) > PIECES:
            starts = [0]
            for piece in pieces[:-1]:
                starts.append(starts[-1] + len(piece))
            whole = [s + end for s, held in zip(starts, ends, strict=True) for end in held]
            return [b"".join(pieces)], [whole]
        return pieces, ends


class Repeats:
    """The last bodies of a session."""

    def __init__(self, small: int = SMALL) -> None:
        self._small = small
        self._kept: deque[_Body] = deque(maxlen=KEPT)

    def read(self, body: bytes, route: Route) -> Call:
        """The call of a body, as its dialect reads it whole.

        Raises:
            Fault: it is malformed.
        """
        if len(body) < self._small:
            return _whole(body, route, Past())
        best: _Body | None = None
        members = at = 0
        for kept in self._kept:
            if kept.dialect is route.dialect:
                shared, end = kept.shared(body)
                if shared > members:
                    best, members, at = kept, shared, end
        if best is not None:
            call = self._go_on(best, members, at, body, route)
            if call is not None:
                return call
        past = Past()
        call = _whole(body, route, past)
        if past.marks and (opened := _opened(body, route.dialect.MEMBERS)):
            self._keep(_Body(route.dialect, opened, [], [], past), body, opened, 0)
        return call

    def _go_on(self, kept: _Body, members: int, at: int, body: bytes, route: Route) -> Call | None:
        """The call, where ``members`` of a kept body come first; ``None``: read it whole."""
        rest = _behind(body, at)
        if rest is None:
            return None
        comma = b"" if body[rest] == _CLOSE else b","
        short = b"".join((body[: kept.opened], _MARKED, comma, body[rest:]))
        try:
            value = orjson.loads(short)
        except orjson.JSONDecodeError:
            return None  # the whole body's error names its place
        listed = value[kept.dialect.MEMBERS]
        if not isinstance(listed, list) or not listed or listed[0] != _MARK:
            return None  # the key stands there twice, and the last one counts
        del listed[0]
        past = kept.past.until(members)
        call: Call = route.dialect.parse(value, route.model, route.stream, past)
        pieces, ends = kept.until(members)
        known = len(kept.past.marks)
        if known - members <= REWRITTEN and 2 * members >= known:
            self._kept.remove(kept)
        self._keep(_Body(kept.dialect, kept.opened, pieces, ends, past), body, rest, at)
        return call

    def _keep(self, kept: _Body, body: bytes, begin: int, at: int) -> None:
        """Keep a body whose members from ``begin`` on are new, as a piece that begins ``at``."""
        if body[begin] != _CLOSE:
            ends = _ends(body, begin, at)
            if ends is None or sum(map(len, kept.ends)) + len(ends) != len(kept.past.marks):
                return
            kept.pieces.append(body[at : at + ends[-1]])
            kept.ends.append(ends)
        self._kept.append(kept)


_CLOSE = ord("]")


def _whole(body: bytes, route: Route, past: Past) -> Call:
    call: Call = route.dialect.parse(parse_body(body), route.model, route.stream, past)
    return call


def _skip(body: bytes, at: int) -> int:
    found = _SPACE.match(body, at)
    return at if found is None else found.end()


def _behind(body: bytes, at: int) -> int | None:
    """Where the member behind the one that ends ``at`` begins, or the list's closing bracket."""
    at = _skip(body, at)
    if body[at : at + 1] == b"]":
        return at
    if body[at : at + 1] != b",":
        return None
    at = _skip(body, at + 1)
    return at if body[at : at + 1] == b"{" else None


def _opened(body: bytes, key: str) -> int | None:
    """Where the first member of a valid body's list ``key`` begins.

    The bytes are read as Latin-1, in which places are those of the bytes, and JSON's own signs
    are what they are in UTF-8.
    """
    text = body.decode("latin-1")
    try:
        at = _text_skip(text, text.index("{") + 1)
        while text[at] == '"':
            found, at = _scan(text, at)
            at = _text_skip(text, _text_skip(text, at) + 1)
            if found == key:
                return _text_skip(text, at + 1) if text[at] == "[" else None
            _, at = _scan(text, at)
            at = _text_skip(text, _text_skip(text, at) + 1)
    except (ValueError, IndexError, RecursionError):
        return None  # beyond what Python's own scanner takes
    return None


def _ends(body: bytes, begin: int, base: int) -> list[int] | None:
    """Ends of a valid list's members from ``begin`` on, counted from ``base``."""
    text = body[begin:].decode("latin-1")
    at, out, offset = 0, [], begin - base
    try:
        while True:
            _, at = _scan(text, at)
            out.append(offset + at)
            at = _text_skip(text, at)
            if text[at] == "]":
                return out
            at = _text_skip(text, at + 1)
    except (ValueError, IndexError, RecursionError):
        return None


def _text_skip(text: str, at: int) -> int:
    found = _TEXT_SPACE.match(text, at)
    return at if found is None else found.end()
