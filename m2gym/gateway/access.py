"""Who may call: one secret a session, known by its public half and compared in constant time."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from m2gym.core.protocols import Episode, Session
from m2gym.gateway.fault import Fault
from m2gym.gateway.repeats import Repeats
from m2gym.gateway.stored import Stored
from m2gym.gateway.turns import Turns

MARK = "sk-m2gym-"

ENDED_KEPT = 10_000
"""Ended secrets that are still told apart from wrong ones; the project's choice."""

GUESSES = 30
"""Wrong secrets a peer may send in `WINDOW` before it is told to wait; the project's choice."""

WINDOW = 60.0
"""Seconds over which wrong secrets are counted."""

BRANCHES = 100_000
"""Open sessions beyond which no more are made by name; the project's choice."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

PEERS = 4096
"""Peers whose wrong secrets are counted at once."""


@dataclass(frozen=True)
class Access:
    """What a client needs: put ``url`` (with the secret) or ``base_url`` + ``secret`` into it.

    ``url`` serves every dialect without any key; dialects whose clients expect a version in the
    base URL take ``url + "/v1"``. ``mcp`` is the endpoint of the episode's tools.
    """

    secret: str
    base_url: str

    @property
    def prefix(self) -> str:
        """The path below which everything belongs to the session."""
        return f"/s/{self.secret}"

    @property
    def url(self) -> str:
        """Base URL that holds the secret."""
        return self.base_url + self.prefix

    @property
    def mcp(self) -> str:
        """MCP endpoint (streamable HTTP) of the episode's tools."""
        return f"{self.url}/mcp"


@dataclass(eq=False)
class Entry:
    """A session that may be called, and what it is allowed.

    Attributes:
        name: what the session is called, where that is not its id.
        branch: makes the session of ``SECRET.NAME`` when a client first uses it.
        granted: provider-hosted tools that a request may rest on.
        models: names that may be asked for; empty: any.
        stop_status: HTTP status that ends the agent when the session has ended; ``None``: chosen
            by the agent's ``User-Agent``.
    """

    id: str
    secret: str
    session: Session | None
    episode: Episode | None = None
    name: str = ""
    branch: Callable[[str], Session] | None = None
    granted: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    stop_status: int | None = None
    turns: Turns = field(init=False, default_factory=Turns)
    repeats: Repeats = field(init=False, default_factory=Repeats)
    stored: Stored = field(init=False, default_factory=Stored)
    calls: int = 0
    refused: int = 0
    running: int = 0
    held: int = 0
    last_error: str = ""
    seen: float = 0.0


class Keyring:
    """The secrets of open sessions, and those of ended ones."""

    def __init__(self) -> None:
        self._open: dict[str, Entry] = {}
        self._ended: OrderedDict[str, Entry] = OrderedDict()

    def __contains__(self, entry: Entry) -> bool:
        return self._open.get(entry.id) is entry

    def entries(self) -> list[Entry]:
        """Open sessions in the order they were added."""
        return list(self._open.values())

    def new(self, session: Session | None, episode: Episode | None = None) -> Entry:
        """A session with a fresh secret of 192 random bits."""
        id = secrets.token_hex(6)
        entry = Entry(id, f"{MARK}{id}-{secrets.token_urlsafe(24)}", session, episode)
        self._open[id] = entry
        return entry

    def find(self, secret: str) -> Entry | None:
        """The open session of a secret; ``None`` for a wrong one.

        Raises:
            Fault: ``ended``, for the right secret of a session that was removed.
        """
        base, _, name = secret.partition(".")
        id = _public(base)
        entry = self._open.get(id) or self._ended.get(id)
        given = base.encode("utf-8", "replace")
        if entry is None or not hmac.compare_digest(entry.secret.encode(), given):
            return None
        if id not in self._open:
            raise ended(entry)
        return self._branch(entry, name) if name else entry

    def _branch(self, entry: Entry, name: str) -> Entry | None:
        key = f"{entry.id}.{name}"
        if key in self._open or entry.branch is None:
            return self._open.get(key)
        if len(self._open) >= BRANCHES or not _NAME.fullmatch(name):
            raise Fault(
                "invalid", f"no session {name[:80]!r}: a name is up to 64 of A-Z a-z 0-9 _ -"
            )
        child = replace(entry, session=entry.branch(name), name=name, branch=None)
        child.calls = child.refused = child.running = child.held = 0
        child.last_error, child.seen = "", 0.0
        self._open[key] = child
        return child

    def end(self, secret: str) -> list[Entry]:
        """Take a session's secret back; later calls with it are told that it ended.

        Sessions made by name under it end too. What ended is returned.
        """
        id = _public(secret)
        if id not in self._open:
            return []
        gone = [e for key, e in self._open.items() if key == id or key.startswith(f"{id}.")]
        self._open = {key: e for key, e in self._open.items() if e not in gone}
        last = gone[0]
        self._ended[id] = Entry(id, last.secret, None, stop_status=last.stop_status)
        while len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        return gone


def ended(entry: Entry) -> Fault:
    """What a call of an ended session is told."""
    words = "this session has ended; it takes no more calls"
    return Fault("ended", words, status=entry.stop_status)


def _public(secret: str) -> str:
    return secret[len(MARK) :].partition("-")[0] if secret.startswith(MARK) else ""


class GuessLimit:
    """Bounds what a peer that guesses secrets costs. Right secrets are never held up by it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wrong(self, peer: str) -> float | None:
        """Count a wrong secret; the seconds to wait once there were too many."""
        now = self._clock()
        begun, seen = self._peers.pop(peer, (now, 0))
        if now - begun >= WINDOW:
            begun, seen = now, 0
        self._peers[peer] = (begun, seen + 1)
        if len(self._peers) > PEERS:
            self._peers.popitem(last=False)
        return begun + WINDOW - now if seen >= GUESSES else None
