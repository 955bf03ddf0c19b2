"""The sessions of a gateway, as a table that a person watches."""

from __future__ import annotations

import time

from rich.markup import escape
from rich.table import Table

from m2gym.gateway.access import Entry
from m2gym.gateway.fields import Object

SHOWN = 20
"""Sessions shown at once, those that called last; the project's choice."""


def summary(entry: Entry) -> Object:
    """A session's counts, for machines."""
    session = entry.session
    usage = getattr(session, "usage", None)
    return {
        "session": entry.name or entry.id,
        "calls": entry.calls,
        "running": entry.running,
        "turns": 0 if session is None else len(session.completions),
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
        "cost_usd": usage.cost_usd if usage else 0.0,
        "refused": entry.refused,
        "last_error": entry.last_error,
    }


def table(entries: list[Entry], now: float | None = None) -> Table:
    """One row a session, the one that called last first."""
    now = time.time() if now is None else now
    called = sorted((e for e in entries if e.calls), key=lambda e: -e.seen)
    title = f"{len(called)} sessions"
    if len(called) > SHOWN:
        title += f", the last {SHOWN} to call"
    out = Table(
        "session",
        "calls",
        "running",
        "turns",
        "in",
        "out",
        "USD",
        "idle",
        "last error",
        title=title,
    )
    for entry in called[:SHOWN]:
        row = summary(entry)
        idle = "" if entry.running else f"{now - entry.seen:.0f} s"
        out.add_row(
            escape(str(row["session"])),
            str(row["calls"]),
            str(row["running"] or ""),
            str(row["turns"]),
            f"{row['prompt_tokens']:,}",
            f"{row['completion_tokens']:,}",
            f"{row['cost_usd']:.4f}",
            idle,
            escape(entry.last_error[:60]),
        )
    return out
