"""How good is a task's grader? Patches that must score 0 and patches that must score 1.

A wrong patch that a test fails under (in a forked pytest over the task's own judged tests) scores 0
by the rule of ``tests-pass``; one that no test fails under there is graded by the verifier, and a
reward of 1 is a *false pass*. A good patch is graded by the verifier; a reward below 1 is a *false
fail*. A wrong patch may be right after all (an equivalent mutant), so the false-pass rate is an
upper bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from itertools import compress

from pydantic import Field

from m2gym.core.errors import VerifierError
from m2gym.core.task import Frozen, PreparedTask
from m2gym.core.verdict import Verdict
from m2gym.tasksets.outcomes.measure import MakeBox, judged
from m2gym.tasksets.outcomes.screen import Screen
from m2gym.tasksets.quality.patches import (
    WRONG,
    WRONG_AT_MOST,
    Change,
    Patch,
    good_patches,
    wrong_patches,
)
from m2gym.tasksets.swe_repo.recipe import Recipe
from m2gym.tasksets.swe_repo.repository import Repository

MAX_FALSE_PASS = 0.5
"""A task whose grader lets this part of its wrong patches pass, or more, is dropped. Where the
first `WRONG` look like that, all there are (`WRONG_AT_MOST`) are tried and all count."""
MAX_FALSE_FAIL = 0.0
"""A task whose grader fails more than this part of its good patches is dropped."""


Gold = dict[tuple[str, ...], Sequence[Verdict]]
"""Ids judged → verdicts on the mended tree they were asked of, where several tasks share one."""


class Verified(Frozen):
    """What one verification of a task showed."""

    recipe: str = Field(description="hash of the recipe and of its list of green tests")
    gold: tuple[float | None, ...] = Field((), description="rewards of the reference change")
    noop: tuple[float | None, ...] = Field((), description="rewards of doing nothing")
    wrong: tuple[str, ...] = Field((), description="kinds of the first wrong patches tried")
    passed: tuple[str, ...] = Field((), description="of these, the ones that scored 1")
    further: tuple[str, ...] = Field(
        (), description="kinds of the others tried, since so many of the first passed"
    )
    slipped: tuple[str, ...] = Field((), description="of the others, the ones that scored 1")
    good: tuple[str, ...] = Field((), description="kinds of the good patches tried")
    failed: tuple[str, ...] = Field((), description="of these, the ones that did not score 1")
    distance: int | None = None
    seconds: float = Field(0.0, description="seconds one grading of the reference change took")
    spent: float = Field(0.0, description="seconds the verification took")
    error: str = ""

    @property
    def problem(self) -> str | None:
        """Why the task is not fit to be shipped; `None` when it is."""
        if self.error:
            return "cannot be judged"
        if set(self.gold) != {1.0}:
            return "the reference change is not judged 1"
        if set(self.noop) != {0.0}:
            return "doing nothing is not judged 0"
        if not self.wrong:
            return "no wrong patch is known"
        if not self.good:
            return "no good patch is known"
        if _too_many(len(self.passed + self.slipped), len(self.wrong + self.further)):
            return "too many wrong patches pass"
        if len(self.failed) > MAX_FALSE_FAIL * len(self.good):
            return "a good patch fails"
        return None


def _too_many(passed: int, tried: int) -> bool:
    return passed >= MAX_FALSE_PASS * tried


def digest_of(recipe: Recipe, green: Sequence[str]) -> str:
    """A hash of all that a task's verdicts depend on: not of the words of its statement."""
    told = recipe.model_dump_json(exclude={"seconds", "distance", "statement"})
    text = told + json.dumps(list(green))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def verify_task(
    recipe: Recipe,
    green: Sequence[str],
    built: Repository,
    prepared: PreparedTask,
    screen: Screen,
    make_box: MakeBox,
    *,
    digest: str = "",
    runs: int = 1,
    gold: Gold | None = None,
    noop: Sequence[Verdict] = (),
) -> Verified:
    """Judge the reference change, no change, wrong patches and good patches of one task.

    ``screen`` holds the mended tree. Tasks with the same mended tree and the same judged ids (those
    with mistakes injected into one release) have the same verdict on it: passed on in ``gold`` it
    is asked for once. ``noop`` are verdicts on no change that are there already. A grader that
    fails is told in ``error``.

    Raises:
        InfraError: a box failed.
    """
    started = time.monotonic()
    change = await asyncio.to_thread(Change.of, built)
    wrong = await asyncio.to_thread(wrong_patches, recipe, change, most=WRONG_AT_MOST)
    good = await asyncio.to_thread(good_patches, change)
    try:
        known = {} if gold is None else gold
        judged_ids = tuple(test for test in green if test not in recipe.not_kept)
        if judged_ids not in known:
            known[judged_ids] = await judged(prepared, make_box, gold=True, runs=runs)
        mended = known[judged_ids]
        noop = noop or await judged(prepared, make_box, runs=runs)
        tried: list[str] = []
        passed: list[bool] = []
        for patch in wrong:
            if len(tried) >= WRONG and not _too_many(sum(passed[:WRONG]), WRONG):
                break
            tried.append(patch.label)
            caught = await _caught(screen, patch, recipe, green)
            passed.append(not caught and await _reward(prepared, make_box, change, patch) == 1.0)
        lost = [
            patch.label for patch in good if await _reward(prepared, make_box, change, patch) != 1.0
        ]
        distance = recipe.distance
        if distance is None:
            distance = await _distance(screen, recipe, change)
    except VerifierError as error:
        return Verified(recipe=digest, error=str(error)[:400])
    return Verified(
        recipe=digest,
        gold=tuple(v.reward for v in mended),
        noop=tuple(v.reward for v in noop),
        wrong=tuple(tried[:WRONG]),
        passed=tuple(compress(tried[:WRONG], passed)),
        further=tuple(tried[WRONG:]),
        slipped=tuple(compress(tried[WRONG:], passed[WRONG:])),
        good=tuple(patch.label for patch in good),
        failed=tuple(lost),
        distance=distance,
        seconds=round(mended[0].evidence["seconds"]["total"], 2),
        spent=round(time.monotonic() - started, 2),
    )


async def _reward(
    prepared: PreparedTask, make_box: MakeBox, change: Change, patch: Patch
) -> float | None:
    files: Mapping[str, bytes | None] = {**change.after, **patch.files}
    [verdict] = await judged(prepared, make_box, files=files, runs=1)
    return verdict.reward


async def _caught(screen: Screen, patch: Patch, recipe: Recipe, green: Sequence[str]) -> bool:
    """Whether a judged test fails under a patch."""
    out = {*recipe.fail_to_pass, *recipe.not_kept}
    keep = [test for test in green if test not in out]
    budget = 60.0 + 5 * recipe.seconds
    return not await screen.passes(patch.files, recipe.fail_to_pass, keep, budget)


async def _distance(screen: Screen, recipe: Recipe, change: Change) -> int | None:
    """The package's calls between a test that shows the fault and a mended function, fewest."""
    tests = sorted({test.partition("::")[0] for test in recipe.fail_to_pass})
    answer = await screen.ask({}, tests, only=recipe.fail_to_pass, trace=True)
    if not answer.whole:
        return None
    lines = {path: change.lines(path) for path in change.after}
    starts: dict[str, list[int]] = {}
    for path, line in answer.functions:
        starts.setdefault(path, []).append(line)
    mended = {
        (path, max(s for s in starts[path] if s <= line))
        for path, numbers in lines.items()
        for line in numbers
        if any(s <= line for s in starts.get(path, ()))
    }
    depths = [
        depth
        for test in recipe.fail_to_pass
        for number, depth in answer.ran.get(test, ())
        if tuple(answer.functions[number]) in mended
    ]
    return min(depths, default=None)
