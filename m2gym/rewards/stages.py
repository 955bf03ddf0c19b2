"""The verdict of a task done in stages, from the verdicts of its stages.

Each stage gives numbers: those of its ``reward.json``, else its reward alone. By ``mean`` every
number is averaged over the stages, one that a stage does not name counting 0 there; by ``final``
the last stage's stand. A stage that was not begun because an earlier one missed its threshold does
not count; one that the agent never came to, because a limit of ours ended it, counts 0. Source:
Harbor's multi-step tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from m2gym.core.verdict import Score, Stop, Verdict
from m2gym.rewards.script import one_reward


def numbers(verdict: Verdict) -> dict[str, float]:
    """What a stage's verifier said, by name."""
    found: dict[str, float] = {}
    for score in verdict.scores.values():
        found |= score.evidence.get("rewards", {})
    return found or {"reward": verdict.reward or 0.0}


def reached(verdict: Verdict, least: Mapping[str, float]) -> bool:
    """Whether every number that must be reached is."""
    found = {"reward": verdict.reward or 0.0, **numbers(verdict)}
    return all(found.get(name, float("-inf")) >= bound for name, bound in least.items())


def combined(
    judged: Mapping[str, Verdict],
    strategy: Literal["mean", "final"],
    *,
    never: Sequence[str] = (),
    stop: Stop | None = None,
) -> Verdict:
    """The task's verdict from its stages' in their order; ``never`` names those counted as 0.

    Raises:
        VerifierError: the stages give several numbers and none is named ``reward``.
    """
    told = [numbers(verdict) for verdict in judged.values()]
    if strategy == "final":
        values = dict.fromkeys(told[-1], 0.0) if never else told[-1]
    else:
        names = {name for each in told for name in each}
        count = len(told) + len(never)
        values = {name: sum(each.get(name, 0.0) for each in told) / count for name in names}
    statuses = {verdict.status for verdict in judged.values()}
    forged = "forged" in statuses
    scores = {
        name: Score(
            value=verdict.reward or 0.0,
            forged=verdict.status == "forged",
            evidence={
                "status": verdict.status,
                "stop": verdict.stop,
                "scores": {key: score.evidence for key, score in verdict.scores.items()},
                **verdict.evidence,
            },
        )
        for name, verdict in judged.items()
    }
    shared = any(verdict.isolation == "shared" for verdict in judged.values())
    return Verdict(
        reward=0.0 if forged else one_reward(values),
        scores=scores,
        status="forged" if forged else "agent_error" if "agent_error" in statuses else "ok",
        stop=stop,
        isolation="shared" if shared else "fresh",
        evidence={"stages": {n: v.reward for n, v in judged.items()}, "not_reached": list(never)},
    )
