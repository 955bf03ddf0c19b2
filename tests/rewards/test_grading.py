"""Grading in real boxes: honest work, right and wrong, and what goes wrong around it."""

from __future__ import annotations

import pytest

from m2gym.core.artifacts import Artifacts
from m2gym.core.errors import InfraError, InputError, VerifierError
from m2gym.core.task import Limits, RewardSpec
from m2gym.core.verdict import Score
from m2gym.core.workspace import Workspace
from m2gym.rewards import reward
from tests.rewards.conftest import BROKEN, FAIL_TO_PASS, FILE, FIXED, PASS_TO_PASS, Bench
from tests.rewards.test_attacks import FORGE_REPORTS


def evidence(verdict, name="tests-pass"):
    return verdict.scores[name].evidence


async def test_the_fix_scores_one_and_decoys_fail(bench: Bench) -> None:
    verdict = await bench.grade({"src/calc.py": FIXED})
    assert (verdict.reward, verdict.status, verdict.isolation) == (1.0, "ok", "fresh")
    assert evidence(verdict)["decoys"] == 3
    assert evidence(verdict)["decoys_missing"] == []
    assert evidence(verdict)["exit"] == 1
    assert verdict.evidence["flags"] == []
    assert verdict.evidence["hidden_paths"] == [FILE]
    assert 0 < verdict.evidence["seconds"]["tests"] <= verdict.evidence["seconds"]["total"]


async def test_no_change_scores_zero_without_being_forged(bench: Bench) -> None:
    verdict = await bench.grade()
    assert (verdict.reward, verdict.status) == (0.0, "ok")
    assert evidence(verdict)["fail_to_pass"] == [0, 1]
    assert evidence(verdict)["failed"] == {FAIL_TO_PASS[0]: "failed"}
    assert "assert -1 == 5" in evidence(verdict)["messages"][FAIL_TO_PASS[0]]


async def test_a_syntax_error_scores_zero_without_being_forged(bench: Bench) -> None:
    verdict = await bench.grade({"src/calc.py": "def add(:\n"})
    assert (verdict.reward, verdict.status) == (0.0, "ok")
    assert "SyntaxError" in evidence(verdict)["collection_errors"][FILE]


async def test_a_fix_that_breaks_another_test_scores_zero(bench: Bench) -> None:
    verdict = await bench.grade({"src/calc.py": FIXED.replace("a * b", "a * b + 1")})
    assert verdict.reward == 0.0
    assert evidence(verdict)["fail_to_pass"] == [1, 1]


async def test_every_seed_gives_the_same_verdict(bench: Bench) -> None:
    for bench.seed in range(4):
        assert (await bench.grade({"src/calc.py": FIXED})).reward == 1.0
        assert (await bench.grade()).status == "ok"


async def test_fraction_counts_the_fixed_part_while_nothing_breaks(bench: Bench) -> None:
    bench.name = "tests-fraction"
    bench.tests += "\n\ndef test_sub():\n    assert calc.sub(3, 1) == 2\n"
    bench.fail_to_pass.append(f"{FILE}::test_sub")
    assert (await bench.grade({"src/calc.py": FIXED})).reward == 0.5
    broken = FIXED.replace("a * b", "a + b")
    assert (await bench.grade({"src/calc.py": broken})).reward == 0.0


async def test_two_rewards_share_one_run_and_are_weighted(bench: Bench) -> None:
    parameters = {"fail_to_pass": FAIL_TO_PASS, "pass_to_pass": PASS_TO_PASS}
    bench.rewards = (
        RewardSpec(name="tests-pass", weight=1.0, parameters=parameters),
        RewardSpec(name="tests-fraction", weight=0.5, parameters=parameters),
    )
    verdict = await bench.grade({"src/calc.py": FIXED})
    assert verdict.reward == 1.5
    first, second = (verdict.scores[n].evidence for n in ("tests-pass", "tests-fraction"))
    assert first == second


async def test_a_hanging_test_does_not_stop_the_rest(bench: Bench) -> None:
    bench.parameters = {"timeout": 1.0}
    bench.name = "tests-fraction"
    bench.fail_to_pass = [f"{FILE}::test_hangs", *FAIL_TO_PASS]
    bench.tests += "\n\ndef test_hangs():\n    while calc.add(1, 1):\n        pass\n"
    verdict = await bench.grade({"src/calc.py": FIXED})
    assert verdict.reward == 0.5
    told = evidence(verdict, "tests-fraction")
    assert told["attempts"] == 1
    assert "took longer than 1 seconds" in told["messages"][f"{FILE}::test_hangs"]


async def test_hangs_that_no_signal_ends_and_crashes_cost_one_process_each(bench: Bench) -> None:
    bench.parameters = {"timeout": 0.5}
    bench.name = "tests-fraction"
    bench.tests += (
        "\n\ndef test_deep_hang():\n    import signal\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    while True:\n        pass\n"
        "\n\ndef test_crash():\n    import os\n    os.kill(os.getpid(), 11)\n"
    )
    bench.fail_to_pass = [f"{FILE}::test_crash", f"{FILE}::test_deep_hang", *FAIL_TO_PASS]
    verdict = await bench.grade({"src/calc.py": FIXED})
    told = evidence(verdict, "tests-fraction")
    assert told["failed"] == {
        f"{FILE}::test_crash": "crashed",
        f"{FILE}::test_deep_hang": "timeout",
    }
    assert told["attempts"] in (2, 3)
    assert verdict.reward == pytest.approx(1 / 3)


async def test_graded_code_that_uses_up_the_time_scores_zero(bench: Bench) -> None:
    slow = {"src/calc.py": "import time\ntime.sleep(600)\n" + FIXED}
    for seconds in (2.0, 10.0, 50.0):
        bench.limits = Limits(grade_seconds=seconds)
        try:
            verdict = await bench.grade(slow)
        except VerifierError as error:  # a busy machine: pytest itself did not start so soon
            if "did not start" not in str(error):
                raise
        else:
            break
    assert (verdict.reward, verdict.status) == (0.0, "ok")
    assert "time for grading" in evidence(verdict)["rejected"]


async def test_output_that_floods_is_no_harm(bench: Bench) -> None:
    noisy = "import os\nos.write(1, b'x' * 5_000_000)\n" + FIXED
    assert (await bench.grade({"src/calc.py": noisy})).reward == 1.0


async def test_the_grading_box_holds_exactly_what_the_agent_left(bench: Bench) -> None:
    seen: dict[str, object] = {}

    @reward("test-sees-files")
    async def sees(workspace: Workspace, artifacts: Artifacts) -> bool:
        result = await workspace.exec("find . -type f | sort; stat -c %U:%a keep.sh")
        seen["box"] = result.stdout.decode().splitlines()
        seen["artifacts"] = sorted(artifacts)
        return True

    bench.rewards = (RewardSpec(name="test-sees-files"),)
    bench.root = {"src/calc.py": BROKEN, "gone.txt": "x", "keep.sh": "true", "d/e/f": "y"}
    script = (
        "rm -r gone.txt d; chmod 4755 keep.sh; mkdir -p __pycache__; touch new __pycache__/a.pyc"
    )
    verdict = await bench.grade(script=script)
    assert seen["artifacts"] == ["keep.sh", "new", "src/calc.py"]
    files = ["./keep.sh", "./new", "./src/calc.py", f"./{FILE}"]
    assert seen["box"][:4] == sorted(files)
    assert seen["box"][4].endswith(":755")
    assert verdict.evidence["artifacts"]["files"] == 3


async def test_declared_artifacts_alone_are_taken_over_the_pristine_files(bench: Bench) -> None:
    @reward("test-reads-answer")
    async def reads(workspace: Workspace, artifacts: Artifacts) -> float:
        assert (await workspace.read("src/calc.py")).decode() == BROKEN
        assert (await workspace.exec("test ! -e old/answer.json")).ok
        return float(artifacts.open("answer.json")["value"])

    bench.rewards = (RewardSpec(name="test-reads-answer", weight=2.0),)
    bench.artifacts = ("answer.json", "old")
    bench.root = {"src/calc.py": BROKEN, "old/answer.json": "{}"}
    left = {"src/calc.py": FIXED, "answer.json": '{"value": 0.25}'}
    assert (await bench.grade(left, script="rm -r old")).reward == 0.5

    for bad in ({}, {"answer.json": "{no json"}):
        verdict = await bench.grade(bad, script="rm -r old")
        assert (verdict.reward, verdict.status) == (0.0, "ok")
        assert "answer.json" in evidence(verdict, "test-reads-answer")["error"]


async def test_a_box_that_dies_is_no_reward(bench: Bench) -> None:
    @reward("test-loses-box")
    async def loses(workspace: Workspace) -> bool:
        await workspace.stop()
        return (await workspace.exec("true")).ok

    bench.rewards = (RewardSpec(name="test-loses-box"),)
    with pytest.raises(InfraError):
        await bench.grade()

    async def stop(box: Workspace) -> None:
        await box.stop()

    bench.rewards = None
    with pytest.raises(InfraError):
        await bench.grade(act=stop)


async def test_a_reward_function_that_fails_is_no_reward(bench: Bench) -> None:
    @reward("test-raises")
    def raises() -> float:
        return {}["missing"]

    @reward("test-nan")
    def nan() -> float:
        return float("nan")

    for name, message in (("test-raises", "KeyError"), ("test-nan", "finite")):
        bench.rewards = (RewardSpec(name=name),)
        with pytest.raises(VerifierError, match=message):
            await bench.grade()


async def test_a_forged_score_makes_the_verdict_forged(bench: Bench) -> None:
    @reward("test-forged")
    def forged() -> Score:
        return Score(value=1.0, forged=True)

    bench.rewards = (RewardSpec(name="test-forged"),)
    verdict = await bench.grade()
    assert (verdict.reward, verdict.status) == (0.0, "forged")


async def test_pytest_that_cannot_start_is_the_verifiers_fault(bench: Bench, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o755)
    bench.site = empty
    with pytest.raises(VerifierError, match="pytest did not start"):
        await bench.grade({"src/calc.py": FIXED})


async def test_arguments_that_pytest_refuses_are_the_verifiers_fault(bench: Bench) -> None:
    bench.parameters = {"command": ["--no-such-option"]}
    with pytest.raises(VerifierError, match="no-such-option"):
        await bench.grade({"src/calc.py": FIXED})


async def test_test_files_that_do_not_exist_are_refused(bench: Bench) -> None:
    bench.fail_to_pass, bench.pass_to_pass = ["tests/test_none.py::test_x"], []
    with pytest.raises(InputError, match="test_none"):
        await bench.grade({"src/calc.py": FIXED})


async def test_a_project_that_stops_at_the_first_failure_is_run_whole(bench: Bench) -> None:
    bench.hidden = {"pytest.ini": "[pytest]\naddopts = -x --strict-markers\n"}
    assert (await bench.grade({"src/calc.py": FIXED})).reward == 1.0


async def test_tests_see_the_path_that_the_task_gives(bench: Bench) -> None:
    bench.tests += (
        "\n\ndef test_child():\n    import subprocess, sys\n"
        "    code = 'import calc; print(calc.add(1, 2))'\n"
        "    assert subprocess.check_output([sys.executable, '-c', code]) == b'3\\n'\n"
    )
    bench.fail_to_pass.append(f"{FILE}::test_child")
    assert (await bench.grade({"src/calc.py": FIXED})).reward == 1.0


async def test_without_users_and_sandbox_the_verdicts_are_the_same(bench: Bench) -> None:
    bench.kind = "process"
    verdict = await bench.grade({"src/calc.py": FIXED})
    assert (verdict.reward, evidence(verdict)["users"]) == (1.0, False)
    assert (await bench.grade()).reward == 0.0
    assert (await bench.grade({"src/calc.py": BROKEN + FORGE_REPORTS})).status == "forged"
