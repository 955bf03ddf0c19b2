"""Rewards beside the verdict in training: of each completion's form, and of an episode's speed.

r_t = alpha·process + beta·speed + performance (M2, arXiv 2605.26494, §6); `m2gym.forge.rewards`
has the parts. A completion's own reward is stored with it; verdict and speed come with the last.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m2gym.backends.train_config import AlgorithmConfig, ProcessConfig
from m2gym.core.trajectory import Completion
from m2gym.forge.advantages import EPSILON, group_baselines, reward_to_go
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.rewards import (
    ProcessSignals,
    combine,
    language_mixing,
    process_reward,
    speed_reward,
)


def reward_of(completion: Completion, config: ProcessConfig) -> float:
    """The process reward of one answer, from its message."""
    message = completion.message
    malformed = len(message.get("malformed") or ())
    thinking, text = str(message.get("reasoning_content") or ""), str(message.get("content") or "")
    calls = len(message.get("tool_calls") or ()) + malformed
    said = f"{thinking}\n{text}"
    signals = ProcessSignals(
        calls=calls,
        malformed=malformed,
        mixing=language_mixing(said, frozenset(config.scripts)),
        structured=bool(thinking.strip()) and (bool(text.strip()) or calls > malformed),
    )
    return process_reward(
        signals,
        malformed=config.malformed,
        mixing=config.mixing,
        structure=config.structure,
    )


def completion_advantages(
    groups: Sequence[Sequence[PoolTrajectory]], config: AlgorithmConfig, process: ProcessConfig
) -> NDArray[np.float64]:
    """Advantage of every completion, in order: the reward from it on, less the group's mean return.

    ``normalised`` divides by the deviation of the group's returns; ``leave_one_out`` is centred
    like ``centred`` here.
    """
    rewards: list[float] = []
    owner: list[int] = []
    group_of: list[int] = []
    for number, group in enumerate(groups):
        seconds = [float(e.extra.get("seconds", 0.0)) for e in group]
        usual = statistics.median(seconds) if seconds else 0.0
        for episode, spent in zip(group, seconds, strict=True):
            speed = speed_reward(spent, usual) if process.beta and usual > 0 else 0.0
            last = len(episode.completions) - 1
            for n, completion in enumerate(episode.completions):
                rewards.append(
                    combine(
                        float(episode.reward or 0.0) if n == last else 0.0,
                        completion.process_reward,
                        speed if n == last else 0.0,
                        alpha=process.alpha,
                        beta=process.beta,
                    )
                )
                owner.append(len(group_of))
            group_of.append(number)
    returns = np.bincount(owner, weights=rewards, minlength=len(group_of))
    baselines = config.fraction * group_baselines(returns, group_of)
    value_C = reward_to_go(rewards, owner, baselines)
    if config.advantage != "normalised":
        return value_C
    deviation = {
        number: float(np.std(returns[np.array(group_of) == number], ddof=1))
        if group_of.count(number) > 1
        else 0.0
        for number in set(group_of)
    }
    scale = np.array([deviation[group_of[o]] for o in owner])
    return np.where(scale > 0, value_C / (scale + EPSILON), value_C)
