# ruff: noqa: E402, PTH120
"""The graded process: starts pytest before any graded file can be imported, and reports frames.

Sent to the box as text and run by ``python -s -c``. pytest, its parts and this plugin are loaded
from the trusted part of PYTHONPATH; only then do the work folder's entries go to the front of
``sys.path``. Nothing said here is believed alone: see `m2gym.rewards.pytest_runner`.
"""

from __future__ import annotations

import sys

sys.path[:] = [entry for entry in sys.path if entry]

import json
import os
import signal
from types import FrameType
from typing import Any

import pytest


class Reporter:
    """A pytest plugin: runs the wanted tests, bounds each in time, sends one frame a test."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.fd, self.timeout = order["fd"], order["timeout"]
        self.wanted = set(order["ids"])
        self.pid = os.getpid()
        self.parts: dict[str, str] = {}
        self.pending = b""
        self.catcher = vars(pytest.CallInfo)["from_call"].__func__.__code__

    def send(self, *, flush: bool = True, **frame: object) -> None:
        """Write one frame, soon or now; children of the graded process stay silent."""
        if os.getpid() != self.pid:
            return
        self.pending += json.dumps(frame).encode() + b"\n"
        while flush and self.pending:
            self.pending = self.pending[os.write(self.fd, self.pending) :]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        chosen: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            base = item.nodeid.split("[")[0]
            known = item.nodeid in self.wanted or base in self.wanted
            (chosen if known else others).append(item)
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = chosen

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.send(kind="collect", id=report.nodeid, message=report.longreprtext[-600:])

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self.parts = {}
        self.send(kind="start", id=nodeid)
        signal.signal(signal.SIGALRM, self.ring)
        signal.setitimer(signal.ITIMER_REAL, self.timeout, 1.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome: str = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if outcome == "skipped" else "xpassed"
        if outcome == "failed":
            self.parts.setdefault("message", report.longreprtext[-600:])
            outcome = "failed" if report.when == "call" else "error"
        seen = self.parts.setdefault(report.when, outcome)
        if seen in ("passed", "skipped") and outcome in ("failed", "error"):
            self.parts[report.when] = outcome

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        parts = [self.parts.get(when, "absent") for when in ("setup", "call", "teardown")]
        if "error" in parts:
            outcome = "error"
        elif parts[0] == "skipped":
            outcome = "skipped"
        elif parts[0] in ("xfailed", "xpassed"):
            outcome = parts[0]
        else:
            outcome = parts[1]
        message = self.parts.get("message", "")
        self.send(flush=False, kind="test", id=nodeid, outcome=outcome, message=message)

    def ring(self, signum: int, frame: FrameType | None) -> None:
        """Fail the test that runs too long; each second again, should it catch that.

        Only below pytest's ``CallInfo.from_call`` is an exception a failure of the test.
        """
        while frame is not None:
            if frame.f_code is self.catcher:
                pytest.fail(f"took longer than {self.timeout:g} seconds", pytrace=False)
            frame = frame.f_back

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self.send(kind="end", exit=int(exitstatus))


def main() -> int:
    """Read the order from standard input, run pytest, give its exit code."""
    order = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.set_inheritable(order["fd"], False)
    reporter = Reporter(order)
    reporter.send(kind="ready", pytest=pytest.__version__)
    path = os.path.dirname(pytest.__file__) + "/__main__.py"
    sys.argv[:] = [path, *order["args"]]
    sys.modules["__main__"].__file__ = path
    sys.path[:0] = order["graded"]
    entries = order["graded"] + [e for e in [os.environ.get("PYTHONPATH")] if e]
    os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    return pytest.main(order["args"], plugins=[reporter])


if __name__ == "__main__":
    sys.exit(main())
