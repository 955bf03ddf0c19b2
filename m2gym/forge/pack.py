"""Budgeted packing: samples into micro-batches, so that those with a common prefix meet.

A micro-batch is a forest: its trees share a row and never attend to one another. The budget counts
tokens (memory of activations) *and* attention pairs (work of attention): a long chain may fit the
first and not the second.

Samples are walked in lexicographic order, where siblings are neighbours; a group that fits goes
whole, a larger one is cut into runs of neighbours, each paying its prefix again (`m2gym.forge.cut`
computes such a tree without paying twice); what results is packed by first-fit decreasing. That
neighbours meet and that the fullest goes first is this project's choice: the optimum is NP-hard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from m2gym.core.errors import InputError
from m2gym.forge.tree import Sample, common_prefix, sort_order


@dataclass(frozen=True)
class Budget:
    """Most tokens and attention pairs of one micro-batch; ``pairs=None`` bounds tokens only."""

    tokens: int
    pairs: int | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1 or (self.pairs is not None and self.pairs < 1):
            raise InputError(f"a budget is at least 1, got {self.tokens} tokens, {self.pairs}")

    def holds(self, tokens: int, pairs: int) -> bool:
        """Whether the load fits."""
        return tokens <= self.tokens and (self.pairs is None or pairs <= self.pairs)

    def share(self, tokens: int, pairs: int) -> float:
        """The load as a fraction of the budget, by the scarcer of the two."""
        return max(tokens / self.tokens, 0.0 if self.pairs is None else pairs / self.pairs)


@dataclass(frozen=True)
class MicroBatch:
    """Indices of samples to merge, and what their forest costs."""

    samples: tuple[int, ...]
    tokens: int
    pairs: int


@dataclass(frozen=True)
class Packing:
    """``micro_batches`` cover every sample once, but for the ``masked`` ones over the budget."""

    micro_batches: tuple[MicroBatch, ...]
    masked: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens computed in all."""
        return sum(batch.tokens for batch in self.micro_batches)


def pack(
    samples: Sequence[Sample], budget: Budget, *, oversize: Literal["error", "mask"] = "error"
) -> Packing:
    """Distribute samples over micro-batches.

    Args:
        samples: in any order; indices in the result refer to it.
        budget: of one micro-batch.
        oversize: a sample that alone exceeds the budget is an error, or left out and reported.

    Raises:
        InputError: no sample, or one over the budget with ``oversize="error"``.
    """
    if not samples:
        raise InputError("expected at least one sample to pack, got none")
    masked = []
    chunks: list[MicroBatch] = []
    group: list[MicroBatch] = []
    previous = None
    for index in sort_order(samples):
        ids_T = samples[index].ids_T
        length = len(ids_T)
        alone = MicroBatch((index,), length, length * (length + 1) // 2)
        if not budget.holds(alone.tokens, alone.pairs):
            if oversize == "error":
                raise InputError(
                    f"sample {index} needs {alone.tokens} tokens and {alone.pairs} attention pairs,"
                    f" the budget of a micro-batch is {budget.tokens} and {budget.pairs}; raise it,"
                    f" shorten the trajectory, or pass oversize='mask' to leave it out"
                )
            masked.append(index)
            continue
        shared = 0 if previous is None else common_prefix(samples[previous].ids_T, ids_T)
        last = group[-1] if group and shared else None
        tokens = 0 if last is None else last.tokens + length - shared
        pairs = 0 if last is None else last.pairs + alone.pairs - shared * (shared + 1) // 2
        if last is not None and budget.holds(tokens, pairs):
            group[-1] = MicroBatch((*last.samples, index), tokens, pairs)
        else:
            if last is None:
                chunks, group = chunks + group, []
            group.append(alone)
        previous = index
    return Packing(tuple(_first_fit(chunks + group, budget)), tuple(sorted(masked)))


def _first_fit(chunks: list[MicroBatch], budget: Budget) -> list[MicroBatch]:
    bins: list[MicroBatch] = []
    for chunk in sorted(chunks, key=lambda c: -budget.share(c.tokens, c.pairs)):
        for at, held in enumerate(bins):
            if budget.holds(held.tokens + chunk.tokens, held.pairs + chunk.pairs):
                bins[at] = MicroBatch(
                    held.samples + chunk.samples,
                    held.tokens + chunk.tokens,
                    held.pairs + chunk.pairs,
                )
                break
        else:
            bins.append(chunk)
    return bins
