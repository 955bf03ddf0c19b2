# ruff: noqa: F811
"""SWE-bench rows over an image, laid out as SWE-bench's own: the repository in ``/testbed``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.tasksets.registry import site
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.pinned import PYTEST, pinned
from m2gym.workspaces.docker_engine import engine
from tests.tasksets.swe_bench_rows.test_taskset import made  # noqa: F401  (a fixture)
from tests.workspaces.engine import need_engine

TAG = "m2gym-test-swe-bench:{}"


@pytest.fixture(scope="module")
def image(
    made: tuple[Path, dict[str, Any]],
    registry: None,
    real_cache: Cache,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The row's image, with pytest beside the repository; there is no conda in it."""
    need_engine()
    checkouts, row = made
    folder = tmp_path_factory.mktemp("image")
    shutil.copytree(checkouts / "someone__calc", folder / "testbed", symlinks=True)
    packages = site.site_folder([pinned()[name] for name in PYTEST], real_cache)
    shutil.copytree(packages, folder / "site", ignore=shutil.ignore_patterns("bin"))
    (folder / "Dockerfile").write_text(
        "FROM m2gym-base\nCOPY site/ /opt/site/\nCOPY testbed/ /testbed/\nWORKDIR /testbed\n"
        f"RUN git -C /testbed checkout -q {row['base_commit']}\nENV PYTHONPATH=/testbed:/opt/site\n"
    )
    name = TAG.format("{docker_id}")
    tag = TAG.format("someone_1776_calc-1")
    building = engine().api.build(
        path=str(folder), tag=tag, rm=True, decode=True, network_mode="none"
    )
    for step in building:
        assert "error" not in step, step
    yield name
    engine().api.remove_image(tag, force=True)


def judged(env: str, agent: str, out: Path) -> Any:
    run = m2gym.evaluate(env, agent=agent, workspace="docker", out=out, progress=False)
    (episode,) = run
    assert episode.error is None, episode.error
    return episode.verdict


def test_gold_is_resolved_and_no_change_is_not(
    made: tuple[Path, dict[str, Any]],
    image: str,
    tmp_path: Path,
) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([made[1]]))
    env = f"swe-bench:{rows},{image}"
    gold, noop = (judged(env, agent, tmp_path / agent) for agent in ("gold", "noop"))
    assert (gold.reward, noop.reward) == (1.0, 0.0), gold
    assert gold.scores["swe-bench"].evidence["fail_to_pass"] == [1, 1]
    told = noop.scores["swe-bench"].evidence
    assert (told["fail_to_pass"], told["pass_to_pass"]) == ([0, 1], [1, 1])


def test_an_agent_works_in_the_checkout(
    made: tuple[Path, dict[str, Any]],
    image: str,
) -> None:
    env = m2gym.make("swe-bench", rows=[made[1]], image=image, workspace="docker")
    try:
        seen, _ = env.reset(seed=0)
        assert "add(2, 3) gives -1." in seen
        assert env.step("git status --short; pwd; ls")[0].split() == [
            "/testbed", "README.md", "calc.py", "old.py", "tests",
        ]  # fmt: skip
        env.step("sed -i 's/a - b/a + b/' calc.py; echo 'PASSED tests/test_calc.py::test_add'")
        *_, info = env.submit()
        assert info["verdict"].reward == 1.0
    finally:
        env.close()


@pytest.mark.parametrize("id", ["swe-bench:rows.json", "swe-bench:,x", "swe-bench:rows.json,"])
def test_an_id_names_rows_and_their_place(id: str) -> None:
    with pytest.raises(InputError, match="swe-bench:FILE,IMAGE"):
        m2gym.make(id)


def test_without_rows_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="swe-bench needs rows"):
        m2gym.make("swe-bench")
