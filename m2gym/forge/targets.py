"""What a merged row predicts: (position, target, coefficient) triples.

A branch point predicts several tokens, and the same token of two samples may carry different old
logprobs and advantages. So a loss never takes "labels" of the row: it takes every trained token of
every sample (flat, length M, samples in the order given), clips per sample, and only then are the
coefficients of equal (position, target) pairs summed.

::

    logits at position_P ──log_softmax──► logprob of target_P ──pair_M──► per sample, length M
                                                                             │ objective
    coefficient_P  ◄──────────────────── summed over equal pairs ◄───────────┘

A predicted token of the row has one predecessor and one id, so a pair *is* a token of the row, and
finding the pairs needs no sort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from m2gym.core.errors import InputError
from m2gym.forge.layout import Ints
from m2gym.forge.tree import Floats, Tree


@dataclass(frozen=True, eq=False)
class Targets:
    """Pairs (length P, unique) and the flat tokens (length M) that share them.

    ``position_P``: row index whose logits predict; ``target_P``: the token id predicted;
    ``pair_M``: pair of each flat token; ``sample_M``: its sample; ``old_logprobs_M``: NaN where a
    sample has none.
    """

    position_P: Ints
    target_P: Ints
    pair_M: Ints
    sample_M: Ints
    old_logprobs_M: Floats

    def split(self, values_M: torch.Tensor) -> list[torch.Tensor]:
        """Flat values taken apart by sample."""
        samples = int(self.sample_M[-1]) + 1 if len(self.sample_M) else 0
        counts = np.bincount(self.sample_M, minlength=samples).tolist()
        return list(torch.split(values_M, counts))


def targets_of(tree: Tree) -> Targets:
    """Every trained token of every sample; `InputError` when nothing is trained."""
    predicted, sample_of, old = [], [], []
    for index, sample in enumerate(tree.samples):
        rows = tree.rows(index)[sample.trained_T]
        predicted.append(rows)
        sample_of.append(np.full(len(rows), index))
        known = sample.old_logprobs
        old.append(np.full(len(rows), np.nan) if known is None else known)
    predicted_M = np.concatenate(predicted)
    if len(predicted_M) == 0:
        raise InputError("no token of the batch is trained: every mask is empty")
    marked_T = np.zeros(tree.tokens, dtype=bool)
    marked_T[predicted_M] = True
    predicted_P = np.flatnonzero(marked_T)
    pair_T = np.cumsum(marked_T) - 1
    return Targets(
        position_P=tree.layout.previous_T[predicted_P],
        target_P=tree.ids_T[predicted_P],
        pair_M=pair_T[predicted_M],
        sample_M=np.concatenate(sample_of),
        old_logprobs_M=np.concatenate(old),
    )


class Scores(NamedTuple):
    """Of every flat trained token: its logprob, and the entropy of its distribution."""

    logprobs_M: torch.Tensor
    entropy_M: torch.Tensor


def score(logits_T_V: torch.Tensor, targets: Targets, *, temperature: float = 1.0) -> Scores:
    """Logprobs and entropies of the trained tokens, from the logits of the row.

    The distribution is that of the temperature-scaled logits, as the one sampled from.
    """
    device = logits_T_V.device
    position_P = torch.as_tensor(targets.position_P, device=device)
    target_P = torch.as_tensor(targets.target_P, device=device)
    pair_M = torch.as_tensor(targets.pair_M, device=device)
    logits_P_V = logits_T_V[position_P]
    if logits_P_V.dtype in (torch.bfloat16, torch.float16):
        logits_P_V = logits_P_V.float()
    logp_P_V = torch.log_softmax(logits_P_V / temperature, dim=-1)
    logp_P = logp_P_V.gather(1, target_P[:, None])[:, 0]
    entropy_P = -(logp_P_V.exp() * logp_P_V).sum(-1)
    return Scores(logp_P[pair_M], entropy_P[pair_M])


def sum_coefficients(coefficient_M: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Coefficients of equal pairs summed: length P, for a kernel that takes triples.

    ``(coefficient_P * logprob_P).sum() == (coefficient_M * logprob_M).sum()``.
    """
    if coefficient_M.shape != targets.pair_M.shape:
        raise InputError(
            f"expected one coefficient a trained token, {targets.pair_M.shape}, got "
            f"{tuple(coefficient_M.shape)}"
        )
    pair_M = torch.as_tensor(targets.pair_M, device=coefficient_M.device)
    out_P = coefficient_M.new_zeros(len(targets.target_P))
    return out_P.index_add(0, pair_M, coefficient_M)
