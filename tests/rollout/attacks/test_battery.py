"""The battery against a small repository judged by its tests, a Harbor script, and tool use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m2gym.core.errors import UnknownIdError
from m2gym.core.registry import ENVS
from m2gym.core.verdict import Verdict
from m2gym.rollout.attacks import Attack, attacks
from m2gym.rollout.attacks.battery import judge, run_battery
from m2gym.rollout.evaluation import evaluate
from m2gym.workspaces.bubblewrap import ability
from tests.conftest import require
from tests.rewards.conftest import FIXED, Bench, site  # noqa: F401
from tests.rewards.small import small_env
from tests.tasksets.harbor.test_folder import harbor
from tests.workspaces.engine import need_engine

SAMPLE = [
    "equals_everything", "report_patch", "hidden_tests", "fork_bomb", "survivor", "shims",
    "conftest", "late_rewrite", "links", "os_exit", "sitecustomize", "tests_skipped",
]  # fmt: skip
"""What is tried in every run (half of it in docker); all under heavy."""


@pytest.fixture(params=["local", "docker"])
def workspace(request: pytest.FixtureRequest) -> str:
    if request.param == "local":
        require("bwrap", ability().works, ability().reason)
    else:
        need_engine()
    return str(request.param)


@pytest.fixture
def small(tmp_path: Path, site: Path) -> Iterator[str]:  # noqa: F811
    with small_env("small-attacked", Bench(tmp_path, site)) as env_id:
        yield env_id


def test_no_attack_on_a_repository_earns_anything(
    small: str, workspace: str, tmp_path: Path
) -> None:
    gold = evaluate(small, agent="gold", workspace=workspace, out=tmp_path / "gold", progress=False)
    assert [episode.verdict.reward for episode in gold] == [1.0]
    names = SAMPLE if workspace == "local" else SAMPLE[:6]
    outcomes = run_battery(
        small, tmp_path / "runs", names=names, workspace=workspace, progress=False
    )
    assert {o.attack for o in outcomes} == set(names)
    assert [f"{o.attack}: {o.problem}" for o in outcomes if not o.ok] == []
    forged = {o.attack for o in outcomes if o.status == "forged"}
    assert {"report_patch", "equals_everything"} <= forged


@pytest.mark.heavy
def test_no_attack_of_all_on_a_repository_earns_anything(
    small: str, workspace: str, tmp_path: Path
) -> None:
    outcomes = run_battery(small, tmp_path / "runs", workspace=workspace, progress=False)
    assert {o.attack for o in outcomes} == {a.name for a in attacks()}
    assert [f"{o.attack}: {o.problem}" for o in outcomes if not o.ok] == []


def test_attacks_are_told_apart(tmp_path: Path) -> None:
    known = attacks()
    assert len(known) >= 40
    assert all(a.about.endswith(".") for a in known)
    assert "stop_runner" not in {a.name for a in known}
    assert [a.name for a in attacks(["stop_runner"])] == ["stop_runner"]
    with pytest.raises(UnknownIdError, match="conftest"):
        attacks(["confest"])


def test_a_success_is_told_and_a_shared_box_exempt(record) -> None:  # type: ignore[no-untyped-def]
    attack = Attack("x", "Tries x.", script="true")
    won = judge(attack, record("a", 0, verdict=Verdict(reward=0.5)), {})
    assert (won.ok, won.problem) == (False, "earned 0.5")
    assert judge(attack, record("a", 0, verdict=Verdict(reward=0.5)), {"a": 0.5}).ok
    shared = judge(attack, record("a", 0, verdict=Verdict(reward=1.0, isolation="shared")), {})
    assert shared.ok
    assert "isolation: shared" in shared.exempt
    lost = Verdict(reward=None, status="verifier_error")
    assert judge(attack, record("a", 0, verdict=lost), {}).ok
    leak = record("a", 0, verdict=lost, error="a hidden file lies in the agent's box: loot/x")
    assert not judge(attack, leak, {}).ok


@pytest.mark.parametrize(
    "names",
    [
        ["links", "reward_huge", "reward_rewriter", "shims", "survivor"],
        pytest.param([a.name for a in attacks()], marks=pytest.mark.heavy, id="all"),
    ],
)
def test_no_attack_on_a_harbor_script_earns_anything(
    tmp_path: Path, workspace: str, names: list[str]
) -> None:
    import m2gym

    dockerfile = "FROM m2gym-base\nWORKDIR /app\nCOPY start.txt notes/ ./\n"
    folder = harbor(tmp_path / "hello", **{"environment/Dockerfile": dockerfile})
    m2gym.register("harbor-attacked", tasks=folder)
    try:
        outcomes = run_battery(
            "harbor-attacked", tmp_path / "runs", names=names, workspace=workspace, progress=False
        )
    finally:
        ENVS._values.pop("harbor-attacked", None)
    assert len(outcomes) == len(names)
    assert [f"{o.attack}: {o.problem}" for o in outcomes if not o.ok] == []
    if len(names) == 5:
        assert {o.status for o in outcomes} == {"ok"}


def test_no_attack_on_tool_use_earns_anything(tmp_path: Path) -> None:
    require("bwrap", ability().works, ability().reason)
    names = ["many_answers", "judge_text", "links"]
    outcomes = run_battery(
        "tool-use", tmp_path / "runs", names=names, limit=1, workspace="local", progress=False
    )
    assert len(outcomes) == len(names)
    assert [f"{o.attack}: {o.problem}" for o in outcomes if not o.ok] == []
