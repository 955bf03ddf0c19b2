"""Run in a box, never imported: every test's outcome, as one JSON object on stdout.

Reads ``{"arguments": [...], "timeout": seconds}`` from stdin. Used only to measure releases while
tasks are made; episodes are judged by the verifier's own runner.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator
from typing import Any

import pytest


class Outcomes:
    """Collects one outcome a test; a test that takes longer than ``timeout`` seconds fails."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.inside = False
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid
        if report.failed:
            self.outcomes[name] = "failed"
            self.messages[name] = str(report.longrepr)[-4000:]
        elif hasattr(report, "wasxfail"):
            self.outcomes[name] = "xfailed" if report.skipped else "xpassed"
        elif report.skipped:
            self.outcomes.setdefault(name, "skipped")
        elif report.when == "call":
            self.outcomes.setdefault(name, "passed")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.messages[report.nodeid] = str(report.longrepr)[-4000:]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, None, None]:
        def ring(signum: int, frame: object) -> None:
            if self.inside:
                pytest.fail(f"took longer than {self.timeout} seconds")

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.timeout, 1.0)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Code of the test is running: elsewhere an alarm would end the whole run."""
        self.inside = True
        yield
        self.inside = False

    pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


def main() -> None:
    """Run pytest and report."""
    job = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    plugin = Outcomes(job["timeout"])
    code = pytest.main(job["arguments"], plugins=[plugin])
    answer = {"exit": int(code), "outcomes": plugin.outcomes, "messages": plugin.messages}
    json.dump(answer, report)


if __name__ == "__main__":
    main()
