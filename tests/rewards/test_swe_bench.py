"""SWE-bench's verdict rules: the reference verdicts, altered copies of the logs, small logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.rewards.swe_bench import END, START, judge_log
from m2gym.rewards.swe_bench_logs import READERS

NAMES = (
    "getmoto__moto.694ce1f4.pr_7331",
    "pandas-dev__pandas.95280573.pr_53652",
    "pandas-dev__pandas.95280573.pr_53856",
    "pydantic__pydantic.acb0f10f.pr_8316",
)


class Reference:
    """One of the four logs with the reference harness's report."""

    def __init__(self, folder: Path) -> None:
        self.log = (folder / "test_output.txt").read_text(encoding="utf-8")
        self.report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        status = self.report["tests_status"]
        self.fail: list[str] = [x for part in status["FAIL_TO_PASS"].values() for x in part]
        self.keep: list[str] = [x for part in status["PASS_TO_PASS"].values() for x in part]

    def altered(self, test: str, line: str | None) -> str:
        """The log with every line about a test replaced (or left out)."""
        new = []
        for text in self.log.split("\n"):
            if test not in text.split():
                new.append(text)
            elif line is not None:
                new.append(line)
        assert new != self.log.split("\n")
        return "\n".join(new)

    def resolved(self, log: str, **more: Any) -> bool:
        return judge_log(log, self.fail, self.keep, **more).resolved


@pytest.fixture
def logs(shared_dir: Path) -> Path:
    return shared_dir / "data" / "swe-bench" / "logs" / "run_evaluation"


@pytest.fixture(params=[name for name in NAMES if "53856" not in name])
def resolved(request: pytest.FixtureRequest, logs: Path) -> Reference:
    return Reference(logs / request.param)


@pytest.mark.parametrize("name", NAMES)
def test_reference_verdicts(logs: Path, name: str) -> None:
    case = Reference(logs / name)
    verdict = judge_log(case.log, case.fail, case.keep)
    status = case.report["tests_status"]
    assert verdict.rejected is None
    assert verdict.resolved is case.report["resolved"]
    assert sorted(verdict.fixed) == sorted(status["FAIL_TO_PASS"]["success"])
    assert sorted(verdict.not_fixed) == sorted(status["FAIL_TO_PASS"]["failure"])
    assert sorted(verdict.kept) == sorted(status["PASS_TO_PASS"]["success"])
    assert sorted(verdict.broken) == sorted(status["PASS_TO_PASS"]["failure"])


def test_a_skipped_test(resolved: Reference) -> None:
    keep, fail = resolved.keep[0], resolved.fail[0]
    kept = judge_log(resolved.altered(keep, f"{keep} SKIPPED (why)"), resolved.fail, resolved.keep)
    assert kept.resolved
    log = resolved.altered(fail, f"{fail} SKIPPED (why)")
    assert judge_log(log, resolved.fail, resolved.keep).not_fixed == (fail,)


def test_a_missing_test(resolved: Reference) -> None:
    for test in (resolved.keep[0], resolved.fail[0]):
        assert not resolved.resolved(resolved.altered(test, None))


@pytest.mark.parametrize("status", ["FAILED", "ERROR"])
def test_a_failing_test(resolved: Reference, status: str) -> None:
    keep, fail = resolved.keep[-1], resolved.fail[-1]
    log = resolved.altered(keep, f"{keep} {status}  [ 50%]")
    assert judge_log(log, resolved.fail, resolved.keep).broken == (keep,)
    assert not resolved.resolved(resolved.altered(fail, f"{status} {fail} - assert 1 == 2"))


def test_a_later_line_about_a_test_counts(resolved: Reference) -> None:
    keep = resolved.keep[0]
    log = resolved.log.replace(f"+ : '{END}'", f"FAILED {keep} - gone\n+ : '{END}'")
    assert judge_log(log, resolved.fail, resolved.keep).broken == (keep,)


def test_a_nonzero_exit(resolved: Reference) -> None:
    assert resolved.resolved(resolved.log, exit_code=0)
    rejected = judge_log(resolved.log, resolved.fail, resolved.keep, exit_code=1)
    assert not rejected.resolved
    assert "exit code is 1" in str(rejected.rejected)
    written = judge_log(f"{resolved.log}\n>>>>> Test Exit Code: 2", resolved.fail, resolved.keep)
    assert "exit code is 2" in str(written.rejected)
    assert set(written.not_fixed) == set(resolved.fail)
    other = resolved.log.replace(f"+ : '{END}'", f"FAILED not/ours.py::test_x - x\n+ : '{END}'")
    assert resolved.resolved(other, exit_code=1)


def test_a_failing_run_may_exit_with_one(logs: Path) -> None:
    case = Reference(logs / NAMES[2])
    verdict = judge_log(case.log, case.fail, case.keep, exit_code=1)
    assert verdict.rejected is None
    assert len(verdict.not_fixed) == 28


def test_an_id_truncated_in_the_log_or_the_row(logs: Path) -> None:
    case = Reference(logs / NAMES[3])
    whole = "tests/test_utils.py::test_to_snake[CAMELToSnake-camel_to_snake]"
    cut = whole[: whole.index("-")]
    log = case.altered(whole, f"{cut} PASSED")
    assert judge_log(log, case.fail, case.keep).not_fixed == (whole,)
    rows = [cut if test == whole else test for test in case.fail]
    assert judge_log(case.log, rows, case.keep).resolved
    many = "tests/test_utils.py::test_to_snake["
    assert judge_log(case.log, [many], case.keep).resolved
    failing = case.altered(whole, f"{whole} FAILED")
    assert judge_log(failing, [many], []).not_fixed == (many,)
    name = "tests/test_utils.py::test_to_snake"
    assert judge_log(case.log, [name], case.keep).not_fixed == (name,)


@pytest.mark.parametrize(
    "mark", ["Patch Apply Failed", "Reset Failed", "Tests Errored", "Tests Timed Out"]
)
def test_a_log_that_says_it_broke_off(resolved: Reference, mark: str) -> None:
    verdict = judge_log(f"{resolved.log}\n>>>>> {mark}", resolved.fail, resolved.keep)
    assert mark in str(verdict.rejected)
    assert not verdict.resolved


def test_marks(resolved: Reference) -> None:
    assert "one of" in str(judge_log(resolved.log.replace(END, ""), ["a"], []).rejected)
    outside = f"PASSED x::late\n{START}\nPASSED x::inside\n{END}\nPASSED x::after"
    assert judge_log(outside, ["x::inside"], []).resolved
    assert not judge_log(outside, ["x::late"], []).resolved
    assert judge_log(outside, ["x::late", "x::after"], [], whole=True).resolved
    assert judge_log(f"PASSED x::only\n{START}\n{END}", ["x::only"], []).resolved
    assert "no test" in str(judge_log("Segmentation fault", ["a"], []).rejected)


def test_wrong_questions() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'pytest'"):
        judge_log("", ["a"], [], kind="pytst")
    with pytest.raises(InputError, match="both empty"):
        judge_log("PASSED a", [], [])


@pytest.mark.parametrize(
    ("kind", "log", "outcomes"),
    [
        (
            "pytest",
            "PASSED a.py::t[x y]\nSKIPPED [2] a.py:3: why\nFAILED a.py::u - E: no\n"
            "XFAIL a.py::v - known\na.py::w ERROR [ 9%]\nPASSED\nnot FAILED at all\nXPASS a.py::z",
            {"a.py::t[x": "PASSED", "a.py::u": "FAILED", "a.py::v": "XFAIL", "a.py::w": "ERROR",
             "not": "FAILED"},
        ),
        (
            "pytest-options",
            "PASSED a.py::t[/tmp/b/c.txt]\nPASSED a.py::t[//x/y]\nPASSED a.py::t[/x/*]\nPASSED b",
            {"a.py::t[/c.txt]": "PASSED", "a.py::t[//x/y]": "PASSED", "a.py::t[/x/*]": "PASSED",
             "b": "PASSED"},
        ),
        ("pytest-color", "\x1b[32mPASSED\x1b[0m a.py::\x1b[1mt\x1b[0m", {"a.py::t": "PASSED"}),
        ("matplotlib", "PASSED a.py::t[MouseButton.LEFT]", {"a.py::t[1]": "PASSED"}),
        (
            "django",
            "test_a (m.C) ... ok\ntest_b (m.C) ... skipped 'no'\ntest_c (m.C) ... FAIL\n"
            "test_d (m.C) ... ERROR\ntest_e (m.C) ... noise\nok\ntest_f (m.C) ...  OK\n"
            "test_x (m.C) ... expected failure\nFAIL: test_g (m.C)\nERROR: test_h (m.C)\n"
            "test_i (m.C) ... System check identified no issues (0 silenced)\nok",
            {"test_a (m.C)": "PASSED", "test_b (m.C)": "SKIPPED", "test_c (m.C)": "FAILED",
             "test_d (m.C)": "ERROR", "test_e (m.C)": "PASSED", "test_f (m.C)": "PASSED",
             "test_x (m.C)": "XFAIL", "test_g": "FAILED", "test_h": "ERROR",
             "test_i (m.C)": "PASSED"},
        ),
        (
            "sympy",
            "test_a ok\ntest_b F\ntest_c E\n____ sympy/x/test_y.py:test_d ____\nother ok",
            {"test_a": "PASSED", "test_b": "FAILED", "test_c": "ERROR",
             "sympy/x/test_y.py:test_d": "FAILED"},
        ),
    ],
)  # fmt: skip
def test_readers(kind: str, log: str, outcomes: dict[str, str]) -> None:
    assert READERS[kind](log) == outcomes
