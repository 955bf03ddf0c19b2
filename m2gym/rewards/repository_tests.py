# ruff: noqa: PT028
"""``tests-pass`` and ``tests-fraction``: a repository's own tests as the reward."""

from __future__ import annotations

from m2gym.core.errors import InputError
from m2gym.core.verdict import Score
from m2gym.rewards.functions import reward
from m2gym.rewards.grading import Grading
from m2gym.rewards.pytest_runner import TestRun, run_tests


@reward("tests-pass")
async def tests_pass(
    grading: Grading,
    fail_to_pass: list[str],
    pass_to_pass: list[str],
    command: list[str] | None = None,
    test_files: list[str] | None = None,
    timeout: float = 60.0,
    python: str = "python3",
    decoys: int = 3,
) -> Score:
    """1 when every ``fail_to_pass`` passes and every ``pass_to_pass`` passes or is skipped, else 0.

    Ids are pytest's, compared exactly. ``timeout`` bounds one test in seconds. See the room's
    README for the other parameters.
    """
    ids = _ids(fail_to_pass, pass_to_pass)
    run = await run_tests(
        grading,
        ids,
        command=command or (),
        test_files=test_files,
        timeout=timeout,
        python=python,
        decoys=decoys,
    )
    return _score(run, fail_to_pass, pass_to_pass, fraction=False)


@reward("tests-fraction")
async def tests_fraction(
    grading: Grading,
    fail_to_pass: list[str],
    pass_to_pass: list[str],
    command: list[str] | None = None,
    test_files: list[str] | None = None,
    timeout: float = 60.0,
    python: str = "python3",
    decoys: int = 3,
) -> Score:
    """The passed part of ``fail_to_pass``, or 0 when a ``pass_to_pass`` is broken.

    Without ``fail_to_pass`` it is 1 or 0, as `tests_pass`.
    """
    ids = _ids(fail_to_pass, pass_to_pass)
    run = await run_tests(
        grading,
        ids,
        command=command or (),
        test_files=test_files,
        timeout=timeout,
        python=python,
        decoys=decoys,
    )
    return _score(run, fail_to_pass, pass_to_pass, fraction=True)


def _ids(fail_to_pass: list[str], pass_to_pass: list[str]) -> list[str]:
    ids = list(dict.fromkeys([*fail_to_pass, *pass_to_pass]))
    if not ids:
        raise InputError("fail_to_pass and pass_to_pass are both empty: there is nothing to run")
    return ids


def _score(run: TestRun, fail: list[str], keep: list[str], *, fraction: bool) -> Score:
    fixed = sum(run.passed(test) for test in fail)
    kept = sum(run.kept(test) for test in keep)
    evidence = {
        "fail_to_pass": [fixed, len(fail)],
        "pass_to_pass": [kept, len(keep)],
        **run.evidence,
    }
    if run.forged:
        return Score(value=0.0, evidence=evidence, forged=True)
    value = fixed / len(fail) if fail else 1.0
    if kept < len(keep) or run.rejected or (not fraction and value < 1.0):
        value = 0.0
    return Score(value=value, evidence=evidence)
