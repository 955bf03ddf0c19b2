"""What is known of agents by their ``User-Agent``: which status ends each.

No one status ends them all: 401 ends mini-swe-agent, aider, OpenHands, Gemini CLI, opencode and
qwen-code after one call, but Claude Code tries again and wants 403, Codex CLI wants 400.
"""

from __future__ import annotations

from m2gym.gateway.fault import Fault

ENDING = (("codex", 400), ("claude-cli", 403), ("claude-code", 403))
"""Part of the name, and the status after which the agent gives up at once."""

OTHERS = 401


def ending_status(user_agent: str) -> int:
    """The status that ends the agent which calls itself so."""
    name = user_agent.lower()
    return next((status for part, status in ENDING if part in name), OTHERS)


def settle(fault: Fault, user_agent: str, stop_status: int | None = None) -> Fault:
    """Give an ``ended`` fault its status: the session's own, else the one the agent obeys."""
    if fault.kind == "ended" and not fault.status:
        fault.status = stop_status or ending_status(user_agent)
    return fault
