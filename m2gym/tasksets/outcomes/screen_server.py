# ruff: noqa: PTH103, PTH107, PTH109, PTH110, PTH118, PTH120, PTH123
"""Run in a box, never imported: a pytest that is loaded once and forks for every question.

Reads JSON lines from stdin: first ``{"modules": {name: source}, "packages": [...],
"sources": [...], "stamp": s}``, then questions (`screen.Screen.ask` names their fields),
each answered by one line. ``files`` lie in the tree only while the question is answered.
Answers sift candidates; what counts is measured in fresh boxes by the verifier.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Generator
from typing import Any

import pytest

MEMORY = 3 * 2**30


class Plugin:
    """Outcomes, explanations and (when asked) which functions each test runs."""

    def __init__(self, order: dict[str, Any], setup: dict[str, Any]) -> None:
        self.order, self.setup = order, setup
        self.only = set(order["only"]) if order["only"] is not None else None
        self.outcomes: dict[str, str] = {}
        self.lost: set[str] = set()
        self.inside = False
        self.facts: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self.codes: dict[types.CodeType, int] = {}
        self.ran: dict[str, dict[int, int]] = {"": {}}
        self.here = self.ran[""]
        self.roots = tuple(os.path.join(os.getcwd(), s) for s in setup["sources"])

    def profile(self, frame: types.FrameType, event: str, arg: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        number = self.codes.get(code)
        if number is None:
            if not code.co_filename.startswith(self.roots):
                return
            number = self.codes[code] = len(self.codes)
        if number not in self.here:
            depth, above = 0, frame.f_back
            while above is not None:
                depth += above.f_code in self.codes
                above = above.f_back
            self.here[number] = depth

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        if self.only is not None:
            items[:] = [item for item in items if item.nodeid in self.only]

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid
        if report.failed:
            if self.outcomes.get(name) != "timeout":
                self.outcomes[name] = "failed"
            self.lost.add(name.partition("[")[0])
        elif hasattr(report, "wasxfail"):
            self.outcomes[name] = "xfailed" if report.skipped else "xpassed"
        elif report.skipped:
            self.outcomes.setdefault(name, "skipped")
        elif report.when == "call":
            self.outcomes.setdefault(name, "passed")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.errors[report.nodeid] = str(report.longrepr)[-600:]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, None, None]:
        yield
        if call.excinfo is None or not self.order["explain"] or item.nodeid in self.facts:
            return
        if issubclass(call.excinfo.type, pytest.skip.Exception):
            return
        explainer = self.setup["module"]
        try:
            facts = explainer.explain(item, call.excinfo.value, self.setup["packages"])
        except (*explainer.FOREIGN, KeyboardInterrupt) as error:
            facts = {"kind": "unclear", "why": repr(error)[:300]}
        self.facts[item.nodeid] = facts

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, None, None]:
        def ring(signum: int, frame: object) -> None:
            if not self.inside:
                return
            self.outcomes[item.nodeid] = "timeout"
            pytest.fail(f"took longer than {self.order['timeout']} seconds")

        if self.order["trace"]:
            self.here = self.ran.setdefault(item.nodeid, {})
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.order["timeout"], 1.0)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.here = self.ran[""]
        if self.order["most"] is not None and len(self.lost) > self.order["most"]:
            item.session.shouldstop = "enough tests fail"

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Code of the test is running: elsewhere an alarm would end the whole run."""
        self.inside = True
        yield
        self.inside = False

    pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup

    def answer(self, code: int) -> dict[str, Any]:
        answer = {
            "exit": code,
            "outcomes": self.outcomes,
            "facts": self.facts,
            "errors": self.errors,
        }
        if self.order["trace"]:
            base = len(os.getcwd()) + 1
            names = [[c.co_filename[base:], c.co_firstlineno] for c in self.codes]
            ran = {test: sorted(codes.items()) for test, codes in self.ran.items()}
            answer |= {"functions": names, "ran": ran}
        return answer


def ask(order: dict[str, Any], setup: dict[str, Any], out: int) -> None:
    """In the forked child: run the tests, write the answer, end."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.dont_write_bytecode = not order["write"]
    plugin = Plugin(order, setup)
    arguments = [
        "-q",
        "-o",
        "cache_dir=/tmp/pytest-cache",
        "--continue-on-collection-errors",
        "--tb=no",
    ]
    if order["trace"]:
        threading.setprofile(plugin.profile)
        sys.setprofile(plugin.profile)
    code = pytest.main([*arguments, *order["command"], *order["tests"]], plugins=[plugin])
    sys.setprofile(None)
    data = json.dumps(plugin.answer(int(code))).encode()
    while data:
        data = data[os.write(out, data) :]
    os._exit(0)


def question(order: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait within the budget, and leave no process of the child behind."""
    started = time.monotonic()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            ask(order, setup, write)
        finally:
            os._exit(1)
    os.close(write)
    parts: list[bytes] = []
    late = False
    while not late:
        left = started + order["budget"] - time.monotonic()
        late = left <= 0 or not select.select([read], [], [], left)[0]
        data = b"" if late else os.read(read, 1 << 20)
        if not late and not data:
            break
        parts.append(data)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(read)
    answer: dict[str, Any] = {"late": late, "status": status}
    try:
        answer |= json.loads(b"".join(parts))
    except ValueError:
        answer["died"] = True
    return {**answer, "seconds": time.monotonic() - started}


def put(files: dict[str, bytes | None], stamp: int | None) -> None:
    """Write files (`None` removes one), with this time of change where one is given."""
    for path, data in files.items():
        if data is None:
            if os.path.exists(path):
                os.remove(path)
            continue
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)
        if stamp is not None:
            os.utime(path, (stamp, stamp))


def read(path: str) -> bytes | None:
    """A file's bytes, `None` when there is none."""
    if not os.path.exists(path):
        return None
    with open(path, "rb") as stream:
        return stream.read()


def main() -> None:
    """Answer until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines = sys.stdin
    setup = json.loads(lines.readline())
    for name, source in setup.pop("modules").items():
        module = setup["module"] = types.ModuleType(name)
        sys.modules[f"m2gym.tasksets.outcomes.{name}"] = module
        exec(compile(source, f"{name}.py", "exec"), vars(module))
    print(json.dumps({"ready": pytest.__version__}), file=out, flush=True)
    for line in lines:
        order = json.loads(line)
        files = {
            path: None if text is None else base64.b64decode(text)
            for path, text in order["files"].items()
        }
        before = {path: read(path) for path in files}
        put(files, None)
        answer = question(order, setup)
        put(before, setup["stamp"])
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
