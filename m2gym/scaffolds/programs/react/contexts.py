"""What the model is shown of a long history: each policy rewrites it, and says what it did.

A policy is a function ``(history, used, options, ask) -> (history, what)`` or ``None`` for no
change; it is called before each turn. ``history`` begins with the system message and the task;
``used`` is the prompt and answer of the last turn in tokens; ``ask`` asks the model without tools;
``what`` goes on record as the arguments of an action ``context``.

| id | does |
|---|---|
| ``none`` | keeps everything |
| ``sliding-window`` | beyond ``most`` turns, keeps the last ``keep`` |
| ``summary`` | after every ``every`` turns, a summary by the model takes their place |
| ``discard`` | beyond ``fraction`` of ``size`` tokens, drops all answers and tool results |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
History = list[Message]
Ask = Callable[[History], str]
Changed = tuple[History, dict[str, Any]] | None
Policy = Callable[[History, int, dict[str, Any], Ask], Changed]

HEAD = 2
"""The system message and the task are always shown."""

POLICIES: dict[str, Policy] = {}


def policy(name: str) -> Callable[[Policy], Policy]:
    """Register what follows under ``name``."""

    def add(function: Policy) -> Policy:
        POLICIES[name] = function
        return function

    return add


def turns(history: History) -> list[History]:
    """The history after its head, from the first answer on, cut before each answer."""
    found: list[History] = []
    for message in history[HEAD:]:
        if message["role"] == "assistant":
            found.append([])
        if found:
            found[-1].append(message)
    return found


@policy("none")
def keep_all(history: History, used: int, options: dict[str, Any], ask: Ask) -> Changed:
    """Keep everything."""
    return None


@policy("sliding-window")
def sliding_window(history: History, used: int, options: dict[str, Any], ask: Ask) -> Changed:
    """Drop the oldest turns; in one go (``most`` 40 → ``keep`` 20, the project's choice), so that
    the prompts between two cuts extend each other."""
    most, keep = int(options.get("most", 40)), int(options.get("keep", 20))
    past = turns(history)
    if len(past) <= most:
        return None
    kept = [message for turn in past[len(past) - keep :] for message in turn]
    return history[:HEAD] + kept, {"dropped_turns": len(past) - keep, "kept_turns": keep}


@policy("summary")
def summary(history: History, used: int, options: dict[str, Any], ask: Ask) -> Changed:
    """Replace the turns by a summary that the model writes of them (``every`` 30 turns, the
    project's choice)."""
    every = int(options.get("every", 30))
    past = turns(history)
    if len(past) < every:
        return None
    text = ask([*history, {"role": "user", "content": SUMMARISE}])
    note = {"role": "user", "content": f"{SUMMARY}\n\n{text}"}
    return [*history[:HEAD], note], {"summarised_turns": len(past), "summary": text}


SUMMARISE = (
    "Summarise the work so far for yourself: what you found, what you changed and where, what "
    "failed, and what is left to do. Everything above will be dropped; only your summary stays."
)
SUMMARY = "Your own summary of the work so far; the files are as you left them."


@policy("discard")
def discard(history: History, used: int, options: dict[str, Any], ask: Ask) -> Changed:
    """Drop all assistant replies and tool results when the context is fuller than ``fraction`` of
    ``size`` tokens: the policy that M2 was run with on BrowseComp (arXiv 2605.26494: 30 % of the
    maximum context, 196,608 tokens). ``note`` tells the model; the project's choice."""
    size, fraction = int(options.get("size", 196_608)), float(options.get("fraction", 0.3))
    past = turns(history)
    if used <= size * fraction or not past:
        return None
    told = str(options.get("note", DISCARDED))
    kept = [{"role": "user", "content": told}] if told else []
    return history[:HEAD] + kept, {"discarded_turns": len(past), "tokens": used}


DISCARDED = "Earlier work was dropped from your context; the files are as you left them."
