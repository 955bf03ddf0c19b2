"""The next token of each sequence, and its logprob.

The logprob is that of the temperature-scaled full distribution, also under top-k and top-p: what
training compares with. Temperature 0 takes the likeliest token; its logprob is that of temperature
1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from m2gym.core.errors import InputError
from m2gym.core.protocols import Sampling

BLOCK = 256
"""Tokens whose probabilities are summed at once."""

BELOW_1 = 1 - 2.0**-50
"""A share of a sum that no rounding lifts to the whole."""


@dataclass(frozen=True)
class Draw:
    """How one sequence's next token is taken; ``u`` in [0, 1) is its random number."""

    temperature: float
    top_p: float
    top_k: int
    u: float

    @property
    def cut(self) -> bool:
        """Whether tokens are left out."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0)


class Draws:
    """How the same sequences' next tokens are taken, pass after pass."""

    def __init__(self, samplings: Iterable[Sampling]) -> None:
        self.samplings = list(samplings)
        self._cut = any(self._draw(n, 0.0).cut for n in range(len(self.samplings)))
        self._temperature_B = torch.tensor(
            [how.temperature for how in self.samplings], dtype=torch.float64
        )

    def of(self, logits_B_V: torch.Tensor, u: Sequence[float]) -> tuple[list[int], list[float]]:
        """`draw`, with a random number for each row."""
        if self._cut:
            return draw(logits_B_V, [self._draw(n, one) for n, one in enumerate(u)])
        device = logits_B_V.device
        self._temperature_B = self._temperature_B.to(device)
        u_B = torch.tensor(u, dtype=torch.float64, device=device)
        token_B, logprob_B = sample(logits_B_V, self._temperature_B, u_B)
        return token_B.tolist(), logprob_B.tolist()

    def _draw(self, n: int, u: float) -> Draw:
        how = self.samplings[n]
        return Draw(how.temperature, how.top_p, how.top_k, u)


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
    """A token of each row and its logprob; logits are fp32 or wider."""
    wanted = torch.tensor([[d.temperature, d.u] for d in draws], dtype=torch.float64)
    temperature_B, u_B = wanted.to(logits_B_V.device).unbind(1)
    token_B, logprob_B = sample(logits_B_V, temperature_B, u_B)
    for n, how in enumerate(draws):
        if how.cut:
            logp_V = torch.log_softmax(logits_B_V[n] / how.temperature, -1)
            token_B[n] = _cut(logp_V.exp(), how)
            logprob_B[n] = logp_V[token_B[n]]
    return token_B.tolist(), logprob_B.tolist()


def sample(
    logits_B_V: torch.Tensor, temperature_B: torch.Tensor, u_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their logprobs, from all tokens; nothing is read back from the device.

    A row's token depends on its own logits and ``u_B`` (float64) only: by the inverse of the
    cumulative distribution, summed in float64.
    """
    greedy_B = temperature_B == 0
    scale_B = torch.where(greedy_B, 1.0, temperature_B).to(logits_B_V.dtype)
    scaled_B_V = logits_B_V / scale_B[:, None]
    lse_B = torch.logsumexp(scaled_B_V, -1)
    drawn_B = _inverse(torch.exp(scaled_B_V - lse_B[:, None]), u_B)
    token_B = torch.where(greedy_B, scaled_B_V.argmax(-1), drawn_B)
    logprob_B = scaled_B_V.gather(1, token_B[:, None])[:, 0] - lse_B
    return token_B, logprob_B.clamp(max=0)


def _inverse(p_B_V: torch.Tensor, u_B: torch.Tensor) -> torch.Tensor:
    """The block in which the share ``u_B`` of the sum is reached, then the token within it."""
    rows, size = p_B_V.shape
    blocks = -(-size // BLOCK)
    p_B_N_n = torch.nn.functional.pad(p_B_V, (0, blocks * BLOCK - size)).view(rows, blocks, BLOCK)
    mass_B_N = p_B_N_n.sum(-1, dtype=torch.float64)
    upto_B_N = mass_B_N.cumsum(-1)
    aim_B = u_B.clamp(max=BELOW_1) * upto_B_N[:, -1]
    block_B = torch.searchsorted(upto_B_N, aim_B[:, None], right=True).clamp(max=blocks - 1)
    before_B = (upto_B_N - mass_B_N).gather(1, block_B)[:, 0]
    p_B_n = p_B_N_n.gather(1, block_B[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    within_B_n = p_B_n.cumsum(-1, dtype=torch.float64)
    left_B = torch.minimum((aim_B - before_B).clamp(min=0), within_B_n[:, -1] * BELOW_1)
    found_B = torch.searchsorted(within_B_n, left_B[:, None], right=True)
    return (block_B * BLOCK + found_B)[:, 0].clamp(max=size - 1)


def _cut(p_V: torch.Tensor, how: Draw) -> torch.Tensor:
    kept = min(how.top_k or len(p_V), len(p_V))
    p, ids = torch.topk(p_V, kept)
    if how.top_p < 1:
        before = torch.cumsum(p, -1, dtype=torch.float64) - p
        p = torch.where(before < how.top_p * float(p.sum(dtype=torch.float64)), p, 0.0)
    u_B = torch.tensor([how.u], dtype=torch.float64, device=p.device)
    return ids[_inverse(p[None], u_B)[0]]
