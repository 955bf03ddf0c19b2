"""Prefix tree of a batch: every shared prefix of token ids is laid out, and computed, once.

Completions of one group share the prompt; the turns of one episode extend each other; a rewritten
history or a fork shares what comes before it. With causal attention the state at a position depends
on the tokens up to it only, so equal prefixes have equal states and one copy serves all (Forge,
"Prefix-tree merging"; Tree Training, arXiv 2511.00413).

::

    sample 0   P P P P a a a            row  P P P P │ a a a │ b │ c c │ d
    sample 1   P P P P b c c      ──►         root     own    own  1    2
    sample 2   P P P P b d               position    4 5 6   4   5 6   5
                                         b is predicted at the last P, as a is

Sharing is on token ids, never on text. Order of the row is lexicographic, so it does not depend on
the order of the samples. Building sorts the samples as big-endian bytes and walks their longest
common prefixes once: linear in the tokens but for the sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory
from m2gym.forge.layout import Ints, Layout

Floats = NDArray[np.float64]
MAX_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Sample:
    """A token sequence and which of its tokens are trained.

    ``ids_T``: token ids. ``trained_T``: whether the token is in the loss (never the first: nothing
    predicts it; never what an environment wrote). ``old_logprobs``: of the trained tokens, under
    the policy that generated them, or ``None``.
    """

    ids_T: Ints
    trained_T: NDArray[np.bool_]
    old_logprobs: Floats | None = None

    def __post_init__(self) -> None:
        if self.ids_T.ndim != 1 or len(self.ids_T) == 0:
            raise InputError(f"a sample is a non-empty row of ids, got shape {self.ids_T.shape}")
        if self.trained_T.shape != self.ids_T.shape:
            raise InputError(
                f"expected one mark a token, got {len(self.trained_T)} for {len(self.ids_T)}"
            )
        if self.trained_T[0]:
            raise InputError("the first token of a sample has no predecessor and is never trained")
        if self.old_logprobs is not None:
            _check_logprobs(self.old_logprobs, int(self.trained_T.sum()))

    @classmethod
    def of(
        cls,
        prompt: Sequence[int] | Ints,
        response: Sequence[int] | Ints,
        logprobs: Sequence[float] | Floats | None = None,
    ) -> Sample:
        """A (state, action) pair: the whole response is trained, the prompt is not.

        >>> Sample.of([5, 6], [7], [-0.5]).trained_T.tolist()
        [False, False, True]
        """
        if len(prompt) == 0:
            raise InputError("an empty prompt: nothing predicts the first response token")
        ids_T = np.concatenate([np.asarray(prompt, np.int64), np.asarray(response, np.int64)])
        trained_T = np.arange(len(ids_T)) >= len(prompt)
        old = None if logprobs is None else np.asarray(logprobs, dtype=np.float64)
        return cls(ids_T, trained_T, old)


def _check_logprobs(logprobs: Floats, expected: int) -> None:
    if len(logprobs) != expected:
        raise InputError(f"expected {expected} logprobs, one a trained token, got {len(logprobs)}")
    bad = np.flatnonzero(~np.isfinite(logprobs) | (logprobs > 1e-3))
    if len(bad):
        raise InputError(
            f"logprob {int(bad[0])} is {logprobs[bad[0]]}; expected finite numbers not above 0"
        )


def samples_of(trajectory: Trajectory) -> list[Sample]:
    """One sample a completion that has a prompt and a response; checks the parents.

    Raises:
        InputError: a completion whose parent does not come before it (a cycle), or whose logprobs
            have another length than its response.
    """
    samples = []
    for index, completion in enumerate(trajectory.completions):
        if completion.parent is not None and not 0 <= completion.parent < index:
            raise InputError(
                f"completion {index} of {trajectory.id!r} has parent {completion.parent}: a parent "
                f"comes before its children, so the completions hold a cycle"
            )
        if not completion.response_ids:
            continue
        if prompt := trajectory.full_prompt(index):
            samples.append(Sample.of(prompt, completion.response_ids, completion.logprobs or None))
    return samples


@dataclass(frozen=True, eq=False)
class Tree:
    """Samples merged into one row.

    ``ids_T``: the row. ``layout``: its nodes. ``pieces``: for every sample, in the order given, the
    stretches (row start, length) that spell it.
    """

    samples: tuple[Sample, ...]
    ids_T: Ints
    layout: Layout
    pieces: tuple[tuple[tuple[int, int], ...], ...]

    def rows(self, sample: int) -> Ints:
        """Row index of each token of a sample: exact un-packing, ``ids_T[rows(s)] == s.ids_T``."""
        return np.concatenate([np.arange(at, at + n) for at, n in self.pieces[sample]])

    @property
    def tokens(self) -> int:
        """Tokens in the row."""
        return len(self.ids_T)

    @cached_property
    def unmerged_tokens(self) -> int:
        """Tokens of the samples laid end to end."""
        return sum(len(sample.ids_T) for sample in self.samples)

    @cached_property
    def unmerged_pairs(self) -> int:
        """Attention pairs of the samples laid end to end."""
        return sum(len(s.ids_T) * (len(s.ids_T) + 1) // 2 for s in self.samples)


def sort_order(samples: Sequence[Sample]) -> list[int]:
    """Indices of the samples in lexicographic order of their ids."""
    keys = [sample.ids_T.astype(">u4").tobytes() for sample in samples]
    return sorted(range(len(samples)), key=keys.__getitem__)


def common_prefix(a: Ints, b: Ints) -> int:
    """Number of leading tokens two rows share.

    >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    differs = a[:n] != b[:n]
    first = int(differs.argmax())
    return first if differs[first] else n


def build_tree(samples: Sequence[Sample], *, vocabulary: int | None = None) -> Tree:
    """Merge samples into a prefix tree.

    Raises:
        InputError: no sample, or an id outside ``[0, vocabulary)`` (of 32 bits, if not given).
    """
    if not samples:
        raise InputError("expected at least one sample, got none (an empty group or batch)")
    limit = MAX_ID if vocabulary is None else vocabulary
    for index, sample in enumerate(samples):
        if sample.ids_T.min() < 0 or sample.ids_T.max() >= limit:
            bad = sample.ids_T[(sample.ids_T < 0) | (sample.ids_T >= limit)][0]
            raise InputError(f"sample {index} holds token id {bad}, outside [0, {limit})")
    runs = _Runs()
    previous: Ints = np.empty(0, dtype=np.int64)
    pieces: list[tuple[tuple[int, int], ...]] = [()] * len(samples)
    for index in sort_order(samples):
        ids_T = samples[index].ids_T
        runs.add(ids_T, common_prefix(previous, ids_T))
        pieces[index] = runs.spelling()
        previous = ids_T
    return Tree(tuple(samples), np.concatenate(runs.ids), runs.layout(), tuple(pieces))


class _Runs:
    """Each sample in sorted order adds one run, its tokens beyond the prefix shared with the last.

    The stack holds the runs that spell the last sample: (run, depth it starts at, depth used).
    """

    def __init__(self) -> None:
        self.ids: list[Ints] = []
        self.stack: list[tuple[int, int, int]] = []
        self.start: list[int] = []  # row index of a run
        self.origin: list[int] = []  # depth of a run's first token
        self.parent: list[int] = []  # run it branches from
        self.cuts: list[set[int]] = []  # depths at which later runs branch off
        self.total = 0

    def add(self, ids_T: Ints, shared: int) -> None:
        while self.stack and self.stack[-1][1] >= shared:
            self.stack.pop()
        if self.stack:
            run, origin, _ = self.stack[-1]
            self.stack[-1] = (run, origin, shared)
        if shared == len(ids_T):
            return
        parent = self.stack[-1][0] if self.stack else -1
        if parent >= 0:
            self.cuts[parent].add(shared)
        self.stack.append((len(self.ids), shared, len(ids_T)))
        self.start.append(self.total)
        self.origin.append(shared)
        self.parent.append(parent)
        self.cuts.append(set())
        self.ids.append(ids_T[shared:])
        self.total += len(ids_T) - shared

    def spelling(self) -> tuple[tuple[int, int], ...]:
        return tuple((self.start[run], used - origin) for run, origin, used in self.stack)

    def layout(self) -> Layout:
        """Cut the runs at their branch points; a lone continuation stays one node."""
        children: dict[tuple[int, int], int] = {}
        for run, parent in enumerate(self.parent):
            if parent >= 0:
                key = (parent, self.origin[run])
                children[key] = children.get(key, 0) + 1
        node_ending: dict[tuple[int, int], int] = {}
        parents: list[int] = []
        lengths: list[int] = []
        for run, ids_T in enumerate(self.ids):
            end = self.origin[run] + len(ids_T)
            key = (self.parent[run], self.origin[run])
            above = node_ending[key] if key[0] >= 0 else -1
            depth = self.origin[run]
            for cut in sorted({*self.cuts[run], end}):
                alone = above >= 0 and above == len(parents) - 1 and children.get(key, 0) == 1
                if depth == self.origin[run] and alone and key[1] == self._end(key[0]):
                    lengths[above] += cut - depth
                else:
                    parents.append(above)
                    lengths.append(cut - depth)
                    above = len(parents) - 1
                node_ending[run, cut] = above
                depth = cut
        return Layout.from_parents(parents, lengths)

    def _end(self, run: int) -> int:
        return self.origin[run] + len(self.ids[run])
