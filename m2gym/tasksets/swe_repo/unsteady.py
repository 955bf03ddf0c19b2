"""Tests that pass three times in a row and still race: they judge no task.

Runs that agree show what is flaky often; what fails once in many runs, or only on a busy machine,
they miss. Such tests are named here, with the reason, when a verification sees one.
"""

from __future__ import annotations

from collections.abc import Iterable

UNSTEADY: dict[str, dict[str, str]] = {
    "click": {
        "tests/test_utils.py::test_echo_via_pager": (
            "what it prints races with the pager's own process; seen to fail on a busy machine"
        )
    }
}
"""Package → test function → why it is not to be relied on."""


def unsteady(package: str, ids: Iterable[str]) -> set[str]:
    """The tests among ``ids`` that race, whatever their parameters.

    >>> unsteady("click", ["tests/test_utils.py::test_echo_via_pager[a]", "tests/test_a.py::test"])
    {'tests/test_utils.py::test_echo_via_pager[a]'}
    """
    named = UNSTEADY.get(package, {})
    return {test for test in ids if test.partition("[")[0] in named}
