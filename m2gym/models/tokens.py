"""Whole prompts out of a record that holds each token and message once."""

from __future__ import annotations

from collections.abc import Sequence

from m2gym.core.trajectory import Completion
from m2gym.models.messages import Message


def path(completions: Sequence[Completion], index: int | None) -> list[int]:
    """Indices from the root down to ``index``; empty for ``None``."""
    found: list[int] = []
    while index is not None:
        found.append(index)
        index = completions[index].parent
    found.reverse()
    return found


def full_prompt(completions: Sequence[Completion], index: int) -> list[int]:
    """Every token id that the model saw before it answered completion ``index``."""
    return [*held(completions, completions[index].parent), *completions[index].prompt_ids]


def held(completions: Sequence[Completion], index: int | None) -> list[int]:
    """Ids of a completion's whole prompt and answer; empty for ``None``."""
    ids: list[int] = []
    for at in path(completions, index):
        ids += completions[at].prompt_ids
        ids += completions[at].response_ids
    return ids


def full_messages(completions: Sequence[Completion], index: int) -> list[Message]:
    """Every message that the model saw before it answered completion ``index``."""
    messages: list[Message] = []
    for at in path(completions, index):
        messages += completions[at].messages
        if at != index:
            messages.append(completions[at].message)
    return messages


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many leading tokens are the same; by halving, so mostly comparisons of whole slices."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
