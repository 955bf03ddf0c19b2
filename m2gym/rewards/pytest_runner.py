"""Runs a repository's tests in the grading box and judges what it hears.

No report of the graded process is believed alone. Three witnesses: the report, through a pipe that
the graded uid cannot reach once its process has ended; the exit code, which must agree with it; and
decoys (`m2gym.rewards.decoys`), which must not pass.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from m2gym.core.errors import InputError, VerifierError
from m2gym.rewards.decoys import Planted, plant
from m2gym.rewards.flags import rewires
from m2gym.rewards.grading import Grading
from m2gym.rewards.protect import configuration_text, graded_sources, protect

SIGNALLED = 128
"""Exit codes above it stand for a signal."""

MARGIN = 30.0
"""Seconds that the runner in the box gets beyond the tests' budget (the project's choice)."""

Outcome = Literal[
    "passed", "failed", "error", "skipped", "xfailed", "xpassed", "timeout", "crashed", "missing"
]


@dataclass
class TestRun:
    """What one run of the tests showed; ``outcomes`` holds every wanted id."""

    __test__ = False

    outcomes: dict[str, str]
    messages: dict[str, str] = field(default_factory=dict)
    rejected: str | None = None
    forged: list[str] = field(default_factory=list)
    decoys: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    def passed(self, test: str) -> bool:
        """Passed, or failed where its author expects it may."""
        return self.rejected is None and self.outcomes[test] in ("passed", "xfailed", "xpassed")

    def kept(self, test: str) -> bool:
        """Passed or skipped: what a test that passed before must still do."""
        return self.passed(test) or (self.rejected is None and self.outcomes[test] == "skipped")


async def run_tests(
    grading: Grading,
    ids: Sequence[str],
    *,
    command: Sequence[str] = (),
    test_files: Sequence[str] | None = None,
    timeout: float = 60.0,
    python: str = "python3",
    decoys: int = 3,
) -> TestRun:
    """Run the tests ``ids`` once (the same arguments again give the same run).

    Raises:
        VerifierError: pytest could not be started, or the runner in the box failed.
        InfraError: the box failed.
    """
    key = repr((list(ids), list(command), test_files, timeout, python, decoys))
    if key not in grading.cache:
        files = list(test_files or dict.fromkeys(test.split("::")[0] for test in ids))
        grading.cache[key] = await _run(grading, ids, command, files, timeout, python, decoys)
    run: TestRun = grading.cache[key]
    return run


async def _run(
    grading: Grading,
    ids: Sequence[str],
    command: Sequence[str],
    files: list[str],
    timeout: float,
    python: str,
    decoys: int,
) -> TestRun:
    box, spec = grading.workspace, grading.workspace.spec
    restored = await protect(grading, files)
    sources = graded_sources(grading, files)
    lost = [path for path in files if sources[path] is None]
    if len(lost) == len(files):
        raise InputError(f"none of the test files {files[:5]} exists in the task's files")
    rng = random.Random(f"{grading.seed}:{grading.prepared.task.id}")
    texts = {path: data for path, data in sources.items() if data is not None}
    steering = " ".join(command) + configuration_text(grading)
    planted = plant(texts, ids, decoys, rng, avoid=steering)
    for path, data in planted.files.items():
        await box.write(path, data, user="grader")
    selected = [*ids, *planted.ids]
    rng.shuffle(selected)
    budget = max(grading.budget(), 1.0)
    cache = "/tmp/pytest-cache"
    job = {
        "plugin": _script("report_plugin.py"),
        "args": ["-q", "--no-header", "--tb=short", "--color=no", "--rootdir=.",
                 "--continue-on-collection-errors", "-o", f"cache_dir={cache}", *command,
                 "--maxfail=0"],
        "files": [path for path in files if path not in lost],
        "ids": selected,
        "workdir": spec.workdir,
        "env": {**spec.env, **grading.prepared.task.env},
        "timeout": timeout,
        "budget": budget,
    }  # fmt: skip
    users = "users" in box.capabilities
    result = await box.exec(
        [python, "-I", "-S", "-c", _script("box_runner.py")],
        user="root" if users else None,
        stdin=json.dumps(job).encode(),
        timeout=budget + MARGIN,
    )
    if result.oom and not result.ok:
        return TestRun(dict.fromkeys(ids, "crashed"), rejected="the tests ran out of memory")
    if not users and result.exit_code > SIGNALLED and not result.timed_out:
        why = "the test runner was killed by the code it ran, whose user it shares"
        return TestRun(dict.fromkeys(ids, "crashed"), rejected=why, evidence={"rejected": why})
    try:
        report = json.loads(result.stdout)
    except ValueError:
        raise VerifierError(
            f"the test runner gave no result (exit code {result.exit_code}, timed out: "
            f"{result.timed_out}): {result.output[-400:]!r}"
        ) from None
    grading.seconds_tests += report["seconds"]
    run = _judge(report, ids, planted)
    if reaching := rewires(grading.artifacts, grading.prepared.workspace.root):
        run.evidence["rewires"] = reaching
        run.forged += [f"{path} imports _pytest" for path in reaching]
    run.evidence["users"] = users
    if restored:
        run.evidence["restored"] = restored
    return run


def _judge(report: dict[str, Any], ids: Sequence[str], planted: Planted) -> TestRun:
    attempts = report["attempts"]
    first, last = attempts[0], attempts[-1]
    if not first["ready"]:
        raise VerifierError(
            "pytest did not start in the grading box; mount it and put it on PYTHONPATH: "
            f"{first['output'][-400:]!r}"
        )
    if last["exit"] == 4 and "error: unrecognized arguments" in last["output"]:
        raise VerifierError(f"pytest refuses its arguments: {last['output'][-400:]!r}")
    reported: dict[str, str] = report["outcomes"]
    names = {name.split("[")[0] for name, outcome in reported.items() if outcome == "passed"}
    run = TestRun({test: reported.get(test, "missing") for test in ids})
    run.decoys = {
        decoy: outcome
        for name, outcome in reported.items()
        if (decoy := name if name in planted.ids else name.split("[")[0]) in planted.ids
    }
    run.forged = sorted(d for d, outcome in run.decoys.items() if outcome in ("passed", "xpassed"))
    run.messages = {t: m for t, m in report["messages"].items() if t in run.outcomes}
    run.rejected = _disagreement(attempts)
    silent = [d for d, test in planted.ids.items() if d not in run.decoys and test in names]
    if silent and run.rejected is None:
        run.rejected = f"{len(silent)} decoys did not run, but the tests they copy are said to pass"
    fine = ("passed", "xfailed", "xpassed", "skipped")
    bad = [test for test in ids if run.outcomes[test] not in fine]
    run.evidence = {
        "exit": last["exit"],
        "attempts": len(attempts),
        "tests": len(ids),
        "failed": {test: run.outcomes[test] for test in bad[:50]},
        "messages": {test: run.messages[test] for test in bad[:10] if test in run.messages},
        "decoys": len(planted.ids),
        "decoys_missing": sorted(set(planted.ids) - set(run.decoys)),
    }
    if report["collect"]:
        run.evidence["collection_errors"] = dict(list(report["collect"].items())[:5])
    if run.rejected:
        run.evidence |= {"rejected": run.rejected, "output": last["output"][-1500:]}
    if run.forged:
        run.evidence["forged"] = run.forged
    return run


def _disagreement(attempts: Sequence[dict[str, Any]]) -> str | None:
    """Why the report is not believed: the exit code says something else, or it breaks off."""
    last = attempts[-1]
    code, failures = last["exit"], last["failures"]
    if last["late"]:
        return "the tests took longer than the time for grading"
    if last["stalled"]:
        return None if last["current"] else "the tests hung outside of any test"
    if not last["ended"]:
        return None if last["current"] else f"the test process ended early, exit code {code}"
    if code == 0 and failures:
        return f"exit code 0 beside {failures} reported failures"
    if code not in (0, 5) and not failures:
        return f"exit code {code} beside a report without failures"
    return None


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text()
