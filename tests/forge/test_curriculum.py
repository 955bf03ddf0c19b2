"""Stages by steps and by success, examples, mixing, dynamic sampling."""

from __future__ import annotations

import doctest
import json
from collections import Counter

import numpy as np
import pytest

from m2gym.core.errors import InputError
from m2gym.forge import curriculum
from m2gym.forge.curriculum import (
    SUCCESS_WINDOW,
    Curriculum,
    DynamicSampling,
    ShotPool,
    Stage,
    draw_domain,
    icrl,
)


def test_doctest():
    assert doctest.testmod(curriculum).failed == 0


def test_published_schedule_resets_at_each_stage():
    walk = Curriculum(icrl(steps=100))
    seen, transitions = [], []
    while not walk.done:
        seen.append(walk.stage.shots)
        change = walk.step(0.0)
        if change is not None:
            transitions.append(change)
    assert Counter(seen) == {3: 100, 2: 100, 0: 100}
    assert [t.reset_reference and t.reset_optimizer for t in transitions] == [True, True, False]
    assert transitions[-1].stage is None
    with pytest.raises(InputError, match="has ended"):
        walk.step(0.0)


def test_success_ends_a_stage_early_but_not_by_one_lucky_step():
    walk = Curriculum([Stage(3, steps=100, success=0.8), Stage(0, steps=5)])
    assert walk.step(1.0) is None
    changes = [walk.step(0.9) for _ in range(SUCCESS_WINDOW - 1)]
    assert changes[:-1] == [None] * (SUCCESS_WINDOW - 2)
    assert changes[-1].stage.shots == 0
    assert "success" in changes[-1].reason


def test_state_survives_a_checkpoint():
    walk = Curriculum([Stage(3, steps=3), Stage(0, steps=3)])
    for _ in range(4):
        walk.step(0.5)
    again = Curriculum(walk.stages)
    again.load(json.loads(json.dumps(walk.state())))
    assert again.stage.shots == 0
    assert again.step(0.5) is None
    assert again.step(0.5).stage is None
    with pytest.raises(InputError, match="stage 9"):
        again.load({"index": 9, "steps_in_stage": 0, "recent": []})


def test_shots_never_show_the_task_itself_nor_one_twice():
    rng = np.random.default_rng(0)
    pool = ShotPool({"search": [(f"t{n}", n) for n in range(4)]})
    for _ in range(50):
        drawn = pool.draw("search", "t1", 3, rng)
        assert sorted(drawn) == [0, 2, 3]
    with pytest.raises(InputError, match="asked for 4 examples"):
        pool.draw("search", "t1", 4, rng)


def test_own_successes_are_preferred_as_asked_and_bounded():
    rng = np.random.default_rng(0)
    pool = ShotPool({"d": [("g", "given")]}, keep=2)
    for n in range(5):
        pool.add("d", f"o{n}", f"own{n}")
    assert set(pool.draw("d", "x", 2, rng, own=1.0)) == {"own3", "own4"}
    assert pool.draw("d", "x", 1, rng) == ["given"]


def test_domains_follow_the_weights():
    rng = np.random.default_rng(0)
    stage = Stage(0, 1, domains={"code": 3.0, "search": 1.0, "off": 0.0})
    counts = Counter(draw_domain(stage, rng) for _ in range(4000))
    assert counts["code"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert counts["off"] == 0
    with pytest.raises(InputError, match="no domains"):
        draw_domain(Stage(0, 1), rng)


def test_dynamic_sampling_keeps_groups_that_teach():
    sampling = DynamicSampling(needed=2)
    assert not sampling.offer([1.0, 1.0])
    assert not sampling.offer([None, None])
    assert not sampling.offer([None, 0.0])
    assert sampling.offer([1.0, None, 0.0])
    assert (sampling.kept, sampling.equal, sampling.empty, sampling.missing) == (1, 2, 1, 1)


@pytest.mark.parametrize(
    "kw",
    [
        {"shots": -1, "steps": 1},
        {"shots": 0, "steps": 0},
        {"shots": 0, "steps": 1, "success": 1.5},
        {"shots": 0, "steps": 1, "domains": {"a": -1.0}},
        {"shots": 0, "steps": 1, "domains": {"a": 0.0}},
    ],
)
def test_bad_stage(kw):
    with pytest.raises(InputError):
        Stage(**kw)


def test_bad_curriculum():
    with pytest.raises(InputError, match="at least one stage"):
        Curriculum([])
    with pytest.raises(InputError, match="success rate"):
        Curriculum(icrl()).step(2.0)
