"""A statement of last resort: what pytest says of failing tests, in plain sentences.

Used where the failing tests cannot be explained call by call (`m2gym.tasksets.describe`): tests
that cannot be collected, or that compare through helpers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from m2gym.tasksets.statement_evidence import said

MAX_TESTS = 6
MAX_TEXT = 700


def retell(package: str, tests: Sequence[str], messages: Mapping[str, str]) -> str:
    """What is tried and what comes of it, a paragraph a failing test."""
    lines = [f"{package} does not behave as its users expect. This was seen:"]
    seen: set[str] = set()
    for test in tests:
        path, _, name = test.partition("::")
        report = messages.get(test) or messages.get(path)
        if report is None or said(report) in seen or len(seen) >= MAX_TESTS:
            continue
        text = said(report).strip()[:MAX_TEXT]
        seen.add(said(report))
        lines += ["", f"- When checking “{_words(name)}”, the outcome is:", "", *_block(text)]
    if len(seen) < len(tests):
        rest = [_words(test.partition("::")[2]) for test in tests]
        listed = ", ".join(f"“{name}”" for name in dict.fromkeys(rest))[:MAX_TEXT]
        lines += ["", f"All of these must work: {listed}."]
    return "\n".join(lines)


def _words(name: str) -> str:
    """A test's name as words; its parameters stay as they are.

    >>> _words("TestThing::test_empty_input[a-1]")
    'empty input [a-1]'
    """
    function, bracket, parameters = name.rpartition("::")[2].partition("[")
    plain = re.sub(r"^test_?", "", function).replace("_", " ").strip() or function
    return f"{plain} [{parameters}" if bracket else plain


def _block(text: str) -> list[str]:
    return [f"      {line}" for line in text.splitlines()]
