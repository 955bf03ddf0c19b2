"""A loop that calls tools: think, act, observe, until it submits.

The model's thinking stays in the history between its calls (interleaved thinking). Settings:
``system`` (the system message), ``turns`` (most turns), ``context`` (a policy of `contexts`, with
its options as ``{"id": …}``), ``thinking`` (false drops it from the history), ``sampling``.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from contexts import POLICIES
from m2gym_agent import Ended, Refused, connect

SYSTEM = (
    "You work on a task in a computer's file system by calling tools. Look before you change, run "
    "the tests or the program to see that it works, and call `submit` when you are done."
)
NUDGE = "You called no tool. Go on with the task by calling one, or call `submit` if it is done."
PATIENCE = 3
"""Answers in a row without a call, after which the work is submitted; the project's choice."""


def main() -> None:
    """Work on the episode until it is over."""
    episode = connect()
    settings = episode.settings
    options = settings.get("context") or {"id": "none"}
    change = POLICIES[options["id"]]
    history: list[dict[str, Any]] = [
        {"role": "system", "content": settings.get("system") or SYSTEM},
        {"role": "user", "content": episode.first_observation},
    ]
    used = silent = 0
    sampling = settings.get("sampling") or {}

    def ask(messages: list[dict[str, Any]]) -> str:
        said = episode.complete(messages, episode.tools, tool_choice="none", **sampling)
        return str(said.message.get("content") or "")

    for _ in range(int(settings.get("turns", 200))):
        changed = change(history, used, options, ask)
        if changed is not None:
            history, what = changed
            episode.note("context", {"policy": options["id"], **what})
        answer = episode.complete(history, episode.tools, **sampling)
        used = answer.prompt_tokens + answer.completion_tokens
        message = answer.message
        if settings.get("thinking") is False:
            hidden = ("reasoning_content", "reasoning_opaque")
            message = {key: value for key, value in message.items() if key not in hidden}
        history.append(message)
        calls = message.get("tool_calls") or []
        silent = 0 if calls else silent + 1
        for call in calls:
            text, done = do(episode, call)
            if done:
                return
            history.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        if silent >= PATIENCE:
            break
        if not calls:
            history.append({"role": "user", "content": NUDGE})
    episode.submit()


def do(episode: Any, call: dict[str, Any]) -> tuple[str, bool]:
    """What a call gives, and whether it ended the episode."""
    function = call.get("function")
    if function is None:
        return "error: only function tools can be called", False
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError as error:
        return f"error: the arguments are not JSON: {error}", False
    try:
        seen = episode.act({"name": function["name"], "arguments": arguments})
    except Refused as error:
        return f"error: {error}", False
    return seen.text, seen.done


if __name__ == "__main__":
    with contextlib.suppress(Ended):
        main()
