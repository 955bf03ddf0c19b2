# ruff: noqa: PT028
"""``tests-pass`` and ``tests-fraction``: a repository's own tests as the reward."""

from __future__ import annotations

from m2gym.core.errors import InputError
from m2gym.core.verdict import Score
from m2gym.rewards.functions import reward
from m2gym.rewards.grading import Grading
from m2gym.rewards.pytest_runner import run_tests


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
    fraction = await tests_fraction(
        grading, fail_to_pass, pass_to_pass, command, test_files, timeout, python, decoys
    )
    return fraction.model_copy(update={"value": float(fraction.value == 1.0)})


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

    Without ``fail_to_pass`` it is 1 or 0. The parameters are those of `tests_pass`.
    """
    ids = list(dict.fromkeys([*fail_to_pass, *pass_to_pass]))
    if not ids:
        raise InputError("fail_to_pass and pass_to_pass are both empty: there is nothing to run")
    run = await run_tests(
        grading,
        ids,
        command=command or (),
        test_files=test_files,
        timeout=timeout,
        python=python,
        decoys=decoys,
    )
    fixed = sum(run.passed(test) for test in fail_to_pass)
    kept = sum(run.kept(test) for test in pass_to_pass)
    evidence = {
        "fail_to_pass": [fixed, len(fail_to_pass)],
        "pass_to_pass": [kept, len(pass_to_pass)],
        **run.evidence,
    }
    if run.forged:
        return Score(value=0.0, evidence=evidence, forged=True)
    if kept < len(pass_to_pass) or run.rejected:
        return Score(value=0.0, evidence=evidence)
    return Score(value=fixed / len(fail_to_pass) if fail_to_pass else 1.0, evidence=evidence)
