"""An episode's completions as root-to-leaf chains: one row of verl's batch each.

::

    completions   A ─► B ─► C          rows   A B C      C's chain: A, B and C trained
                   └──► D                     A D        D's chain: only D is, A was already

A chain's prompt is that of its root; what follows is answers (mask 1) and what the environment
wrote between them (mask 0). Every completion is trained on in exactly one chain. The chain that
holds the last completion comes last: verl takes an episode's reward from its last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2gym.forge.records import PoolCompletion


@dataclass(frozen=True)
class Chain:
    """A row: ``mask``, ``logprobs`` and ``versions`` have one entry a token of ``response_ids``.

    Where the mask is 0 the logprob is 0 and the version that of the answer before. ``answers`` is
    the number of completions trained on in it.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    versions: list[int]
    answers: int


def parents(completions: Sequence[PoolCompletion]) -> list[int | None]:
    """The longest earlier completion whose prompt and answer each one's prompt begins with."""
    whole = [np.concatenate([c.prompt_ids, c.response_ids]) for c in completions]
    found: list[int | None] = []
    for n, completion in enumerate(completions):
        prompt, best, length = completion.prompt_ids, None, 0
        for m in range(n):
            size = len(whole[m])
            if length < size < len(prompt) and np.array_equal(prompt[:size], whole[m]):
                best, length = m, size
        found.append(best)
    return found


def chains(completions: Sequence[PoolCompletion]) -> list[Chain]:
    """See the module; at least one completion.

    >>> a = PoolCompletion(*(np.array(x) for x in ([1], [2], [-0.5], [0])))
    >>> b = PoolCompletion(*(np.array(x) for x in ([1, 2, 3], [4], [-0.25], [1])))
    >>> row, = chains([a, b]); row.response_ids, row.mask, row.versions
    ([2, 3, 4], [1, 0, 1], [0, 0, 1])
    """
    above = parents(completions)
    leaves = [n for n in range(len(completions)) if n not in above]
    trained: set[int] = set()
    rows = []
    for leaf in leaves:
        path: list[int] = []
        at: int | None = leaf
        while at is not None:
            path.append(at)
            at = above[at]
        rows.append(_row(completions, path[::-1], trained))
        trained.update(path)
    return rows


def _row(completions: Sequence[PoolCompletion], path: Sequence[int], trained: set[int]) -> Chain:
    first = completions[path[0]]
    prompt = first.prompt_ids.tolist()
    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    versions: list[int] = []
    for n in path:
        completion = completions[n]
        between = completion.prompt_ids[len(prompt) + len(ids) :].tolist()
        own = n not in trained
        last = versions[-1] if versions else 0
        ids += between + completion.response_ids.tolist()
        mask += [0] * len(between) + [int(own)] * len(completion.response_ids)
        logprobs += [0.0] * len(between)
        logprobs += completion.logprobs_T.tolist() if own else [0.0] * len(completion.response_ids)
        versions += [last] * len(between) + completion.versions_T.tolist()
    return Chain(prompt, ids, mask, logprobs, versions, sum(n not in trained for n in path))
