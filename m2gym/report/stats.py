"""How sure a score is: intervals clustered by task, pass@k, and paired comparison.

Every function takes rewards grouped by task, ``{task id: [reward, …]}``, of graded episodes only:
an episode without a reward is left out before it comes here and counted by `summary`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m2gym.core.errors import InputError
from m2gym.report.student import normal_quantile, t_quantile

Rewards = Mapping[str, Sequence[float]]

EXACT_PAIRS = 16
"""Up to so many differing tasks every sign pattern is tried; the project's choice."""
PERMUTATIONS = 100_000
"""Random sign patterns beyond that; the project's choice."""


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks and its confidence interval; ``interval`` is ``None`` when none exists.

    ``method`` is ``wilson`` (rewards are all 0 or 1), ``t`` (anything else) or ``none``.
    """

    mean: float
    interval: tuple[float, float] | None
    tasks: int
    episodes: int
    method: str


@dataclass(frozen=True)
class Comparison:
    """``b`` minus ``a`` over the tasks that both have, one difference of means a task.

    ``p_value`` is the two-sided sign-flip permutation test, ``sign_p_value`` the exact sign test;
    ``detectable`` the smallest true difference that as many tasks, as noisy, would have shown with
    80 % power at the interval's level; both need tasks that differ in their difference, else they
    are ``None`` and the tests alone speak. ``better``/``worse``/``equal`` count tasks.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float
    sign_p_value: float
    detectable: float | None
    tasks: int
    better: int
    worse: int
    equal: int
    only_a: int
    only_b: int


def estimate(rewards: Rewards, level: float = 0.95) -> Estimate | None:
    """The mean of the tasks' means with an interval that treats a task as one cluster.

    Attempts at one task are alike, so the interval rests on the spread *between* tasks. For rewards
    of 0 and 1 it is Wilson's score interval (Wilson 1927) at the effective sample size
    p(1 − p)/SE² (Korn & Graubard 1998), held between the number of tasks and of episodes; with one
    attempt a task this is Wilson's own. For other rewards it is mean ± t · sd/√tasks, which needs
    two tasks whose means differ: without spread there is nothing to judge by, and ``interval`` is
    ``None``. The result is ``None`` without any reward.

    >>> e = estimate({"a": [1.0], "b": [0.0], "c": [1.0], "d": [1.0]})
    >>> e.mean, [round(x, 3) for x in e.interval]
    (0.75, [0.301, 0.954])
    """
    means = _task_means(rewards)
    if not len(means):
        return None
    n, episodes = len(means), sum(len(values) for values in rewards.values())
    mean = float(means.mean())
    variance = float(means.var(ddof=1)) / n if n > 1 else None
    if all(value in (0.0, 1.0) for values in rewards.values() for value in values):
        effective = _effective_size(mean, variance, n, episodes)
        return Estimate(mean, wilson(mean, effective, level), n, episodes, "wilson")
    if not variance:
        return Estimate(mean, None, n, episodes, "none")
    half = t_quantile(0.5 + level / 2, n - 1) * math.sqrt(variance)
    return Estimate(mean, (mean - half, mean + half), n, episodes, "t")


def wilson(p: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion ``p`` seen in ``n`` independent trials."""
    z = normal_quantile(0.5 + level / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(rewards: Rewards, k: int) -> float:
    """Chance that at least one of ``k`` attempts has reward 1, unbiased, averaged over tasks.

    1 − C(n − c, k)/C(n, k) with c successes of n attempts (Chen et al. 2021, §2.1). Every task
    needs k graded attempts.

    >>> pass_at_k({"a": [1, 0, 0, 0]}, 2)
    0.5
    """
    return _over_tasks(rewards, k, lambda n, c: 1 - math.comb(n - c, k) / math.comb(n, k))


def pass_hat_k(rewards: Rewards, k: int) -> float:
    """Chance that all ``k`` attempts have reward 1 (pass^k), unbiased: C(c, k)/C(n, k)."""
    return _over_tasks(rewards, k, lambda n, c: math.comb(c, k) / math.comb(n, k))


def estimate_pass(
    rewards: Rewards, k: int, *, every: bool = False, level: float = 0.95
) -> Estimate:
    """pass@k (``every``: pass^k) with an interval clustered by task.

    Each task gives one unbiased value in [0, 1]; the interval is Wilson's at the effective sample
    size of those values, as in `estimate`.

    Raises:
        InputError: a task has fewer than k graded attempts, or nothing was graded.
    """
    one = pass_hat_k if every else pass_at_k
    values = np.array([one({task: got}, k) for task, got in rewards.items()])
    if not len(values):
        raise InputError("no graded episode")
    n, episodes = len(values), sum(len(got) for got in rewards.values())
    mean = float(values.mean())
    variance = float(values.var(ddof=1)) / n if n > 1 else None
    effective = _effective_size(mean, variance, n, episodes)
    return Estimate(mean, wilson(mean, effective, level), n, episodes, "wilson")


def tasks_needed(difference: float, spread: float, power: float = 0.8, level: float = 0.95) -> int:
    """How many tasks show a true paired ``difference`` where tasks' differences have this standard
    deviation: ((z₁ + z₂) · spread / difference)², by the normal approximation.

    >>> tasks_needed(0.1, 0.5)
    197
    """
    if difference <= 0 or spread < 0:
        raise InputError(f"needs a difference above 0 and a spread of at least 0, got {difference}")
    z = normal_quantile(0.5 + level / 2) + normal_quantile(power)
    return max(2, math.ceil((z * spread / difference) ** 2))


def compare(a: Rewards, b: Rewards, level: float = 0.95, seed: int = 0) -> Comparison:
    """``b`` against ``a``, paired by task."""
    a = {task: values for task, values in a.items() if len(values)}
    b = {task: values for task, values in b.items() if len(values)}
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise InputError("the two runs have no graded task in common; compare runs of one taskset")
    difference = np.array([float(np.mean(b[t])) - float(np.mean(a[t])) for t in shared])
    # means of thirds and the like differ by rounding only
    difference[np.abs(difference) < 1e-12] = 0.0
    n, mean = len(shared), float(difference.mean())
    interval = detectable = None
    if n > 1 and difference.var() > 0:
        error = math.sqrt(float(difference.var(ddof=1)) / n)
        t = t_quantile(0.5 + level / 2, n - 1)
        interval = (mean - t * error, mean + t * error)
        detectable = (t + t_quantile(0.8, n - 1)) * error
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return Comparison(
        difference=mean,
        interval=interval,
        p_value=sign_flip_test(difference.tolist(), seed),
        sign_p_value=sign_test(better, worse),
        detectable=detectable,
        tasks=n,
        better=better,
        worse=worse,
        equal=n - better - worse,
        only_a=len(a) - n,
        only_b=len(b) - n,
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact sign test: binomial with p = 1/2 over the tasks that differ.

    For rewards of 0 and 1 with one attempt this is McNemar's exact test.
    """
    n = better + worse
    tail: float = sum(math.comb(n, i) for i in range(min(better, worse) + 1)) / 2**n
    return min(1.0, 2 * tail)


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided permutation test of mean 0: each task's difference may change its sign.

    Exact up to `EXACT_PAIRS` differing tasks, or when all differences are equally large; else
    `PERMUTATIONS` random patterns with the observed one counted in (Phipson & Smyth 2010).
    """
    sizes = np.abs([d for d in differences if d != 0])
    n = len(sizes)
    if n == 0:
        return 1.0
    if np.allclose(sizes, sizes[0]):
        positive = sum(d > 0 for d in differences)
        return sign_test(positive, n - positive)
    observed = abs(float(np.sum(differences))) - 1e-9
    if n <= EXACT_PAIRS:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        sums = np.abs((2 * patterns - 1) @ sizes)
        return float((sums >= observed).mean())
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(10):
        signs = generator.integers(0, 2, (PERMUTATIONS // 10, n), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ sizes) >= observed).sum())
    return (hits + 1) / (PERMUTATIONS + 1)


def _task_means(rewards: Rewards) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([float(np.mean(values)) for values in rewards.values() if len(values)])


def _effective_size(mean: float, variance: float | None, tasks: int, episodes: int) -> float:
    if variance is None or not 0 < mean < 1:
        return tasks
    if variance == 0:
        return episodes
    return min(max(mean * (1 - mean) / variance, tasks), episodes)


def _over_tasks(rewards: Rewards, k: int, chance: Callable[[int, int], float]) -> float:
    values = []
    for task, attempts in rewards.items():
        n, c = len(attempts), sum(reward >= 1 for reward in attempts)
        if not 1 <= k <= n:
            raise InputError(f"k = {k} needs as many graded attempts; task {task!r} has {n}")
        values.append(chance(n, c))
    if not values:
        raise InputError("no graded episode")
    return float(np.mean(values))
