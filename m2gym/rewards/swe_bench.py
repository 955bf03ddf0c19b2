"""``swe-bench``: a test command's log, judged by SWE-bench's rules.

*Resolved* means that every fail-to-pass and every pass-to-pass test is fine. A test passes with
``PASSED`` or ``XFAIL``; a pass-to-pass test may also be skipped, a fail-to-pass test may not; a
test that the log does not hold fails. A log is rejected as a whole when it says that the run broke
off, or when it shows no failure beside a non-zero exit of the test command: then somebody else
wrote it. Source: SWE-bench's public evaluation harness (`m2gym.rewards.swe_bench_logs`).

The log is printed by the graded code, so this is weaker evidence than `tests-pass`: it exists to
give the verdicts that SWE-bench gives.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2gym.core.errors import InputError, UnknownIdError, VerifierError
from m2gym.core.verdict import Score
from m2gym.core.workspace import User
from m2gym.rewards.functions import reward
from m2gym.rewards.grading import Grading
from m2gym.rewards.protect import protect
from m2gym.rewards.swe_bench_logs import READERS, Outcomes

START, END = ">>>>> Start Test Output", ">>>>> End Test Output"
"""Lines around the test command's own output in a log of the harness."""
BROKEN = (
    ">>>>> Patch Apply Failed",
    ">>>>> Reset Failed",
    ">>>>> Tests Errored",
    ">>>>> Tests Timed Out",
)
_EXIT = re.compile(r">>>>> Test Exit Code: *(-?\d+)")
PATCH = ".m2gym-hidden/test.patch"
"""Where the test patch lies in the grading box when it has to be applied there."""


@dataclass(frozen=True)
class LogVerdict:
    """What a log says: ids by what became of them, or why it says nothing (``rejected``)."""

    fixed: tuple[str, ...]
    not_fixed: tuple[str, ...]
    kept: tuple[str, ...]
    broken: tuple[str, ...]
    outcomes: Mapping[str, str]
    rejected: str | None = None

    @property
    def resolved(self) -> bool:
        """Every fail-to-pass and every pass-to-pass test is fine, and the log is believed."""
        return self.rejected is None and not self.not_fixed and not self.broken


def judge_log(
    log: str,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str],
    *,
    kind: str = "pytest",
    exit_code: int | None = None,
    whole: bool = False,
) -> LogVerdict:
    """The verdict of a test log.

    ``exit_code`` is the test command's; without it the one written in the log, if any, counts.
    Where the log has the harness's two marks only what stands between them is read, unless that
    holds no test at all; ``whole`` says that the log is the test command's output and no more, so
    that marks in it mean nothing.

    Raises:
        UnknownIdError: there is no reader for logs of this ``kind``.
        InputError: there is no test to judge by.
    """
    if kind not in READERS:
        raise UnknownIdError("kind of test log", kind, READERS)
    if not fail_to_pass and not pass_to_pass:
        raise InputError("fail_to_pass and pass_to_pass are both empty: nothing can be judged")
    written = _EXIT.search(log)
    if exit_code is None and written:
        exit_code = int(written[1])
    outcomes = {} if whole else READERS[kind](_between(log))
    outcomes = outcomes or READERS[kind](log)
    reason = (None if whole else _broken_off(log)) or _unbelieved(outcomes, exit_code)
    if reason is not None:
        outcomes = {}
    passing = {test: _outcome(test, outcomes) in ("PASSED", "XFAIL") for test in fail_to_pass}
    kept = {
        test: _outcome(test, outcomes) in ("PASSED", "XFAIL", "SKIPPED") for test in pass_to_pass
    }
    return LogVerdict(
        fixed=tuple(test for test, fine in passing.items() if fine),
        not_fixed=tuple(test for test, fine in passing.items() if not fine),
        kept=tuple(test for test, fine in kept.items() if fine),
        broken=tuple(test for test, fine in kept.items() if not fine),
        outcomes=outcomes,
        rejected=reason,
    )


@reward("swe-bench")
async def swe_bench_reward(
    grading: Grading,
    fail_to_pass: list[str],
    pass_to_pass: list[str],
    command: str,
    kind: str = "pytest",
    test_files: list[str] | None = None,
    removed: list[str] | None = None,
    base_commit: str = "",
) -> Score:
    """1 when the log of ``command``, run in the grading box, says resolved, else 0.

    ``kind`` names the reader of the log. ``test_files`` come from the test patch, ``removed`` are
    deleted by it; ``base_commit`` is where they are reset to before a patch is applied in the box.

    Raises:
        VerifierError: the test patch cannot be applied.
        InfraError: the box failed.
    """
    box = grading.workspace
    user: User | None = "root" if "users" in box.capabilities else None
    await protect(grading, test_files or [])
    if PATCH not in grading.hidden:
        if removed:
            await box.exec(["rm", "-f", "--", *removed], user=user)
    else:
        script = _apply_script([*(test_files or []), *(removed or [])], base_commit)
        done = await box.exec(script, timeout=max(grading.budget(), 1.0))
        if not done.ok:
            raise VerifierError(f"the test patch cannot be applied: {done.output[-400:]!r}")
    budget = max(grading.budget(), 1.0)
    result = await box.exec(f"exec 2>&1\n{command}", timeout=budget)
    grading.seconds_tests += result.seconds
    log = result.stdout.decode("utf-8", "replace")
    verdict = judge_log(
        log, fail_to_pass, pass_to_pass, kind=kind, exit_code=result.exit_code, whole=True
    )
    evidence = {
        "fail_to_pass": [len(verdict.fixed), len(fail_to_pass)],
        "pass_to_pass": [len(verdict.kept), len(pass_to_pass)],
        "failed": {
            test: verdict.outcomes.get(test, "missing")
            for test in (*verdict.not_fixed, *verdict.broken)[:50]
        },
        "exit": result.exit_code,
        "timed_out": result.timed_out,
        "truncated": result.truncated,
    }
    if not verdict.resolved:
        evidence["output"] = log[-1500:]
    if verdict.rejected is not None:
        evidence["rejected"] = verdict.rejected
    return Score(value=float(verdict.resolved and not result.timed_out), evidence=evidence)


def _between(log: str) -> str:
    """What stands between the harness's marks; the whole where they are absent."""
    return log.partition(START)[2].partition(END)[0] if START in log and END in log else log


def _broken_off(log: str) -> str | None:
    broken = [mark for mark in BROKEN if mark in log]
    if broken:
        return f"the log says {broken[0].removeprefix('>>>>> ')!r}"
    if (START in log) != (END in log):
        return "the log breaks off: it has only one of the harness's two marks"
    return None


def _unbelieved(outcomes: Outcomes, exit_code: int | None) -> str | None:
    if not outcomes:
        return "the log holds no test"
    failures = any(status in ("FAILED", "ERROR") for status in outcomes.values())
    if exit_code not in (None, 0) and not failures:
        return f"the test command's exit code is {exit_code}, but the log shows no failure"
    return None


def _outcome(test: str, outcomes: Outcomes) -> str | None:
    """A test's outcome. An id cut off within its parameters stands for all ids that it begins.

    Those must agree on passing or not; whole ids are compared exactly.
    """
    if test in outcomes:
        return outcomes[test]
    if test.count("[") <= test.count("]"):
        return None
    found = [status for name, status in outcomes.items() if name.startswith(test)]
    agree = len({status in ("PASSED", "XFAIL") for status in found}) == 1
    return found[0] if agree else None


def _apply_script(files: Sequence[str], base_commit: str) -> str:
    """Resets the test files to the base commit and applies the test patch.

    The repository's git settings are the agent's, so it runs as the user whose code is graded.
    """
    git = "git -c safe.directory='*'"
    lines = ["set -e"]
    for path in files:
        where = f"{shlex.quote(base_commit)} -- {shlex.quote(path)}"
        lines.append(f"{git} checkout -q {where} 2>/dev/null || rm -f -- {shlex.quote(path)}")
    lines.append(f"{git} apply --whitespace=nowarn {PATCH}")
    return "\n".join(lines)
