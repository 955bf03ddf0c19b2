"""The main job on a real repository: the fault shows, the right change scores, a wrong one not."""

from __future__ import annotations

import pytest

import m2gym

pytestmark = pytest.mark.usefixtures("bwrap")


@pytest.fixture
def env():
    made = m2gym.make("swe-repo")
    yield made
    made.close()


def test_the_reference_scores_one_and_nothing_scores_zero(env):
    env.reset(seed=0)
    idle, right = env.fork(2)
    assert idle.submit()[1] == 0.0
    for path, data in right.episode.prepared.reference.files.items():
        m2gym.core.background.run_sync(right.episode.workspace.write(path, data))
    *_, reward, terminated, _, info = right.submit()
    assert (reward, terminated) == (1.0, True)
    assert info["verdict"].scores["tests-pass"].evidence
    idle.close()
    right.close()


def test_breaking_what_worked_scores_zero_and_is_not_forged(env):
    env.reset(seed=1)
    env.step("git ls-files '*.py' | while read f; do echo 'def broken(:' >> \"$f\"; done")
    *_, reward, _, _, info = env.submit()
    assert reward == 0.0
    assert info["verdict"].status == "ok"


def test_the_box_shows_neither_hidden_tests_nor_the_fix(env):
    env.reset(seed=2)
    reference = env.episode.prepared.reference.files
    path, fixed = next((p, d) for p, d in reference.items() if d is not None and p.endswith(".py"))
    m2gym.core.background.run_sync(env.episode.workspace.write("/tmp/fixed", fixed))
    found = env.step(
        f"find / -xdev -name '{path.rsplit('/')[-1]}' -not -path '/proc/*' 2>/dev/null"
        ' | while read f; do cmp -s "$f" /tmp/fixed && echo "$f"; done; true'
    )[0]
    assert found == ""
