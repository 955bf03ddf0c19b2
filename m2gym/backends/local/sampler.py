"""From logits to a token and its logprob, many sequences at once.

The logprob is that of the temperature-scaled full distribution, whatever top-k and top-p leave of
it; of a greedy token (temperature 0) it is that of temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from m2gym.core.errors import InputError
from m2gym.core.protocols import Sampling


@dataclass(frozen=True)
class Draw:
    """How one sequence's next token is taken; ``u`` in [0, 1) is its random number."""

    temperature: float
    top_p: float
    top_k: int
    u: float


def check_sampling(sampling: Sampling) -> None:
    """`InputError` names the field that cannot be used."""
    t, p, k, n = sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens
    if not (math.isfinite(t) and t >= 0):
        raise InputError(f"temperature is a number from 0, got {t}")
    if not 0 < p <= 1:
        raise InputError(f"top_p lies in (0, 1], got {p}")
    if k < 0:
        raise InputError(f"top_k is at least 0 (0: all), got {k}")
    if n is not None and n < 1:
        raise InputError(f"max_tokens is at least 1, got {n}")


def draw(logits_B_V: torch.Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
    """A token of each row and its logprob; logits are fp32 or wider.

    A row's token depends on its own logits and ``u`` only: by the inverse of the cumulative
    distribution, summed in float64.
    """
    kind, device = logits_B_V.dtype, logits_B_V.device
    scale = torch.tensor([d.temperature or 1.0 for d in draws], dtype=kind, device=device)
    scaled_B_V = logits_B_V if bool((scale == 1).all()) else logits_B_V / scale[:, None]
    lse_B = torch.logsumexp(scaled_B_V, -1)
    token_B = torch.empty(len(draws), dtype=torch.long, device=device)
    greedy = [n for n, d in enumerate(draws) if d.temperature == 0]
    cut = [n for n, d in enumerate(draws) if d.temperature > 0 and (d.top_p < 1 or d.top_k)]
    plain = [n for n, d in enumerate(draws) if d.temperature > 0 and d.top_p == 1 and not d.top_k]
    if greedy:
        token_B[greedy] = scaled_B_V[greedy].argmax(-1)
    if plain:
        rows = scaled_B_V if len(plain) == len(draws) else scaled_B_V[plain]
        token_B[plain] = _inverse(torch.exp(rows - lse_B[plain, None]), [draws[n].u for n in plain])
    for n in cut:
        token_B[n] = _cut(torch.exp(scaled_B_V[n] - lse_B[n]), draws[n])
    logprob_B = scaled_B_V.gather(1, token_B[:, None])[:, 0] - lse_B
    return token_B.tolist(), logprob_B.clamp(max=0).tolist()


def _inverse(p_B_V: torch.Tensor, u: Sequence[float]) -> torch.Tensor:
    total_B_V = torch.cumsum(p_B_V, -1, dtype=torch.float64)
    aim = torch.tensor(u, dtype=torch.float64, device=p_B_V.device)[:, None] * total_B_V[:, -1:]
    found = torch.searchsorted(total_B_V, aim, right=True)[:, 0]
    return found.clamp(max=p_B_V.shape[-1] - 1)


def _cut(p_V: torch.Tensor, how: Draw) -> torch.Tensor:
    kept = min(how.top_k or len(p_V), len(p_V))
    p, ids = torch.topk(p_V, kept)
    if how.top_p < 1:
        before = torch.cumsum(p, -1, dtype=torch.float64) - p
        p = torch.where(before < how.top_p * float(p.sum(dtype=torch.float64)), p, 0.0)
    return ids[_inverse(p[None], [how.u])[0]]
