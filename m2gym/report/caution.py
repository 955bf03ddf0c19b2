"""What a reader must be told before believing a number: samples too small for the claim."""

from __future__ import annotations

from collections.abc import Mapping

from m2gym.report.stats import Comparison, Estimate, tasks_needed

FEW_TASKS = 30
"""Below it, intervals of partial rewards lean on normality; the project's choice."""
WIDE = 0.1
"""Half-widths of an interval above it are told; the project's choice."""
MASKED = 0.02
"""Shares of episodes without a reward above it are told; the project's choice."""


def of_score(
    found: Estimate | None, episodes: int, statuses: Mapping[str, int], masked: int
) -> list[str]:
    """Sentences about one run's score."""
    said: list[str] = []
    if found is None:
        return ["nothing was graded: there is no score"]
    if found.interval is None:
        said.append("no interval: one task, or no spread to judge by")
    else:
        low, high = found.interval
        half = (high - low) / 2
        if half > WIDE:
            spread = (found.mean * (1 - found.mean)) ** 0.5 if found.method == "wilson" else None
            more = ""
            if spread:
                more = f"; ±{WIDE:g} needs about {round((1.96 * spread / WIDE) ** 2)} tasks"
            told = f"{found.tasks} tasks leave" if found.tasks > 1 else "one task leaves"
            said.append(f"{told} ±{half:.2f}{more}")
    if found.method == "t" and found.tasks < FEW_TASKS:
        said.append(
            f"partial rewards of {found.tasks} tasks: the interval trusts that their means are "
            f"about normal, which wants {FEW_TASKS}"
        )
    if episodes and masked / episodes > MASKED:
        graded = episodes - masked
        low = found.mean * graded / episodes
        said.append(
            f"{masked} of {episodes} episodes were not graded: had all of them failed or all "
            f"solved, the score would lie between {low:.2f} and {low + masked / episodes:.2f}"
        )
    if statuses.get("agent_error", 0) > episodes / 5:
        said.append(f"{statuses['agent_error']} episodes ended by an error of the agent's own")
    return said


def of_comparison(found: Comparison, level: float = 0.05) -> list[str]:
    """Sentences about two runs: what was not seen may still be there."""
    said: list[str] = []
    if found.p_value < level:
        if found.tasks < 10:
            said.append(f"a difference on {found.tasks} tasks says little about other tasks")
    elif found.detectable is not None:
        said.append(
            f"no difference is shown (p = {found.p_value:.2f}), but one below "
            f"{found.detectable:.2f} would probably have been missed"
        )
        if found.interval is not None and found.tasks > 1:
            error = found.detectable / 2.8
            spread = error * found.tasks**0.5
            half = found.detectable / 2
            said.append(
                f"to see half of that takes about {tasks_needed(half, spread)} tasks like these"
            )
    else:
        said.append("too few tasks differ to judge by")
    if found.only_a or found.only_b:
        said.append(
            f"{found.only_a + found.only_b} tasks were graded in one run only and are left out"
        )
    return said
