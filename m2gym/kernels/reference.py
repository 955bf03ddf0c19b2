"""Plain torch versions of every kernel: short, differentiable, in the dtype they are given.

Give float64 to get the truth the kernels are measured against.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def route(
    logits_T_E: torch.Tensor, bias_E: torch.Tensor | None, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """M2's router: sigmoid scores, the ``top_k`` of score + bias, weights without the bias.

    Source: The MiniMax-M2 Series (arXiv 2605.26494), architecture; transformers ``minimax_m2``.

    Returns:
        Weights (T, K) that sum to 1 a token, and expert ids (T, K), best first.
    """
    scores = torch.sigmoid(logits_T_E)
    choice = scores if bias_E is None else scores + bias_E.to(scores.dtype)
    index = torch.topk(choice, top_k, dim=-1).indices
    weights = scores.gather(1, index)
    return weights / weights.sum(dim=-1, keepdim=True), index


def experts(
    hidden_T_H: torch.Tensor,
    gate_up_E_2I_H: torch.Tensor,
    down_E_H_I: torch.Tensor,
    index_T_K: torch.Tensor,
    weights_T_K: torch.Tensor,
) -> torch.Tensor:
    """The mixture, one expert after the other: sum_k w_k · down(silu(gate(x)) · up(x)).

    An id outside ``[0, E)`` drops that slot.
    """
    out = torch.zeros_like(hidden_T_H)
    for expert in range(gate_up_E_2I_H.shape[0]):
        token, slot = torch.where(index_T_K == expert)
        if not len(token):
            continue
        gate, up = (hidden_T_H[token] @ gate_up_E_2I_H[expert].T).chunk(2, dim=-1)
        y = (functional.silu(gate) * up) @ down_E_H_I[expert].T
        out = out.index_add(0, token, (y * weights_T_K[token, slot, None]).to(out.dtype))
    return out


def token_logprobs(
    hidden_T_H: torch.Tensor,
    weight_V_H: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every target and entropy (nats) of every row; 0 at ignored targets."""
    keep = targets_T != ignore_index
    logp = torch.log_softmax((hidden_T_H @ weight_V_H.T) / temperature, dim=-1)
    picked = logp.gather(1, targets_T.clamp(min=0)[:, None])[:, 0]
    entropy = -(logp.exp() * logp).sum(dim=-1)
    zero = torch.zeros_like(picked)
    return torch.where(keep, picked, zero), torch.where(keep, entropy, zero)


def tree_mask(starts: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
    """The dense mask (T, T) of a token tree: a token sees its ancestors and its own past.

    Args:
        starts: first row of every node, and the number of rows.
        parents: a node's parent, -1 for a root; parents come before their children.
    """
    total = starts[-1]
    sees = torch.zeros(total, total, dtype=torch.bool)
    for node, parent in enumerate(parents):
        first, last = starts[node], starts[node + 1]
        if parent >= 0:
            sees[first:last] = sees[starts[parent + 1] - 1]
        sees[first:last, first:last] = torch.ones(last - first, last - first).tril().bool()
    return sees


def attention(
    query_T_N_D: torch.Tensor,
    key_T_M_D: torch.Tensor,
    value_T_M_D: torch.Tensor,
    sees_T_T: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Masked attention with grouped heads: query head n reads key head n // (N / M)."""
    group = query_T_N_D.shape[1] // key_T_M_D.shape[1]
    key = key_T_M_D.repeat_interleave(group, dim=1)
    value = value_T_M_D.repeat_interleave(group, dim=1)
    scores = torch.einsum("qnd,knd->nqk", query_T_N_D, key) * scale
    scores = scores.masked_fill(~sees_T_T, float("-inf"))
    return torch.einsum("nqk,knd->qnd", torch.softmax(scores, dim=-1), value)
