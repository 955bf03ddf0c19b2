"""Advantages: how much better a trajectory did than what is expected of its group.

==================  ==================================================================
``normalised``      (R - mean) / (std + eps): GRPO, M1 (arXiv 2506.13585), ICRL
``centred``         R - fraction * mean; ``fraction=0`` is the reward itself
``leave_one_out``   R - mean of the others: unbiased (RLOO, arXiv 2402.14740)
==================  ==================================================================

A group whose rewards are equal has advantages 0 when centred fully: it teaches nothing, and is
counted. ``fraction`` below 1 keeps a signal there, which the few-shot stages of a curriculum need
(a group that always succeeds with examples must still pull its calls into the weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2gym.core.errors import InputError

Kind = Literal["normalised", "centred", "leave_one_out"]
EPSILON = 1e-6
"""Added to the deviation (ICRL's code)."""


@dataclass(frozen=True, eq=False)
class Advantages:
    """``value_S``: one a sample, 0 where masked. ``kept_S``: false for masked samples.

    ``groups``, ``equal``, ``lone``, ``empty``: numbers of groups, of those with equal rewards, with
    one usable member, and with none.
    """

    value_S: NDArray[np.float64]
    kept_S: NDArray[np.bool_]
    groups: int
    equal: int
    lone: int
    empty: int


def group_advantages(
    rewards: ArrayLike,
    groups: Sequence[object] | NDArray[np.int64],
    *,
    kind: Kind = "normalised",
    fraction: float = 1.0,
    valid: ArrayLike | None = None,
    not_finite: Literal["error", "mask"] = "error",
) -> Advantages:
    """Advantage of each sample within its group.

    Args:
        rewards: one a sample; ignored where ``valid`` is false (infrastructure, cancelled).
        groups: group id of each sample, in any order.
        kind: see the module.
        fraction: share of the group's mean that is subtracted, in [0, 1]. Of equal rewards what is
            left is not divided by their deviation, which is 0.
        valid: samples that were really graded; the others are masked and no member of the mean.
        not_finite: what a NaN or infinite reward of a valid sample is: an error, or masked.

    Raises:
        InputError: no sample, other lengths, a fraction outside [0, 1], a reward not finite.

    >>> group_advantages([1, 0, 1, 1], [0, 0, 1, 1], kind="centred").value_S.tolist()
    [0.5, -0.5, 0.0, 0.0]
    """
    reward_S = np.asarray(rewards, dtype=np.float64)
    if reward_S.ndim != 1 or len(reward_S) == 0:
        raise InputError(f"expected one reward a sample, got shape {reward_S.shape} (empty group?)")
    if len(groups) != len(reward_S):
        raise InputError(f"expected {len(reward_S)} group ids, got {len(groups)}")
    if not 0.0 <= fraction <= 1.0:
        raise InputError(f"fraction of the mean lies in [0, 1], got {fraction}")
    if kind not in ("normalised", "centred", "leave_one_out"):
        raise InputError(f"kind is normalised, centred or leave_one_out, got {kind!r}")
    kept_S = np.ones(len(reward_S), bool) if valid is None else np.array(valid, dtype=bool)
    if kept_S.shape != reward_S.shape:
        raise InputError(f"expected {len(reward_S)} marks in valid, got shape {kept_S.shape}")
    bad = np.flatnonzero(kept_S & ~np.isfinite(reward_S))
    if len(bad) and not_finite == "error":
        raise InputError(
            f"reward of sample {bad[0]} is {reward_S[bad[0]]}; a trajectory without a real verdict "
            f"is marked in valid, never given a number"
        )
    kept_S[bad] = False
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    value_S = np.zeros(len(reward_S))
    equal = lone = empty = 0
    for indices in members.values():
        usable = [i for i in indices if kept_S[i]]
        if not usable:
            empty += 1
            continue
        r = reward_S[usable]
        lone += len(r) == 1
        equal += len(r) > 1 and bool((r == r[0]).all())
        value_S[usable] = _advantage(r, kind, fraction)
    return Advantages(value_S, kept_S, len(members), int(equal), int(lone), empty)


def _advantage(r: NDArray[np.float64], kind: Kind, fraction: float) -> NDArray[np.float64]:
    n = len(r)
    if (r == r[0]).all():
        return (1 - fraction) * r  # exact: a rounded mean must not become a signal
    if kind == "leave_one_out":
        return np.asarray(r - fraction * (r.sum() - r) / (n - 1))
    centred = r - fraction * r.mean()
    return np.asarray(centred / (r.std(ddof=1) + EPSILON)) if kind == "normalised" else centred


def reward_to_go(
    rewards_C: ArrayLike, trajectories_C: Sequence[int] | NDArray[np.int64], baselines: ArrayLike
) -> NDArray[np.float64]:
    """A_t = sum of r_p for p >= t, minus B_i [M2 (arXiv 2605.26494) 6].

    Args:
        rewards_C: reward of each completion (or token), in order within its trajectory.
        trajectories_C: trajectory of each, from 0.
        baselines: B of each trajectory: undisclosed; the mean of the group's returns is this
            project's default (`group_baselines`).

    >>> reward_to_go([1, 2, 3, 5], [0, 0, 0, 1], [1, 0]).tolist()
    [5.0, 4.0, 2.0, 5.0]
    """
    r = np.asarray(rewards_C, dtype=np.float64)
    t = np.asarray(trajectories_C, dtype=np.int64)
    b = np.asarray(baselines, dtype=np.float64)
    if r.shape != t.shape or (len(t) and (t.min() < 0 or t.max() >= len(b))):
        raise InputError(
            f"expected one trajectory in 0..{len(b) - 1} a reward, got {t.shape} for {r.shape}"
        )
    if not np.isfinite(r).all() or not np.isfinite(b).all():
        raise InputError("a reward or baseline is not finite; mask the trajectory instead")
    total = np.bincount(t, weights=r, minlength=len(b))
    out = np.empty(len(r))
    spent = np.zeros(len(b))
    for index, trajectory in enumerate(t.tolist()):
        out[index] = total[trajectory] - spent[trajectory] - b[trajectory]
        spent[trajectory] += r[index]
    return out


def group_baselines(returns: ArrayLike, groups: Sequence[object]) -> NDArray[np.float64]:
    """Mean return of each trajectory's group: B_i by this project's choice."""
    r = np.asarray(returns, dtype=np.float64)
    return np.asarray(r - group_advantages(r, groups, kind="centred").value_S)
