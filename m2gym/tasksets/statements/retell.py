"""The generated statement of a version-diff: what each failing test shows, sentence by sentence.

A failure whose names are all explained becomes a sentence (`describe`); of any other
the lines that lead to it are shown (`scene`), and of a test that uses what is not
there yet all lines. Cases of one test function count once.
"""

from __future__ import annotations

from collections.abc import Mapping

from m2gym.tasksets.statements.describe import Facts, describe, is_lacking, listed, tellable
from m2gym.tasksets.statements.evidence import FailingTests
from m2gym.tasksets.statements.scene import scene, title

EXAMPLES = 10
MAX_TEXT = 6000
"""A statement that is longer names what is left by the tests' titles; the project's choice."""


def retell(package: str, tests: FailingTests, facts: Mapping[str, Facts], seed: int = 0) -> str:
    """What is tried, what comes of it and what should, for every failing test function.

    ``tests`` has the tests' code and failure reports, ``facts`` what they saw, as far as known.
    """
    seen = {test: facts[test] for test in tests.ids if test in facts}
    told = {t: f for t, f in seen.items() if tellable(f) and not is_lacking(f)}
    text = describe(package, told, seed, EXAMPLES)
    known = {test.partition("[")[0] for test in told} if text else set()
    parts = [text or f"{package} does not behave as it should. This was seen:"]
    left: list[str] = []
    for test in tests.ids:
        place = test.partition("[")[0]
        if place in known:
            continue
        known.add(place)
        paragraph = scene(tests, test, facts.get(test))
        if paragraph is None or sum(map(len, parts)) + len(paragraph) > MAX_TEXT:
            left.append(f"“{title(place)}”")
        elif paragraph not in parts:
            parts.append(paragraph)
    if text and len(parts) > 1:
        parts.insert(1, "Seen as well:")
    if left:
        parts.append(f"The same goes for what the titles of these cases say: {listed(left)}.")
    return "\n\n".join(parts)
