"""Success of calls in context without generating: the probability of the one right call.

In a world's transcript every call is the only right one, so the chance that sampling at temperature
1 writes it is exp(sum of its tokens' logprobs). One pass over a document gives it for every number
of examples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2gym.backends.local.pretrain.corpus import TRAINED, Span

SHOTS = 5


def split_rows(rows: NDArray[np.uint16], device: Any) -> tuple[torch.Tensor, ...]:
    """Ids, targets and which targets are trained, each B x (T - 1)."""
    raw = torch.from_numpy(rows.astype(np.int32)).to(device, non_blocking=True)
    ids = raw & (TRAINED - 1)
    return ids[:, :-1].long(), ids[:, 1:].long(), (raw[:, 1:] & TRAINED) != 0


def success(
    nll_B_T: torch.Tensor, spans: Sequence[Sequence[Span]]
) -> dict[str, list[float | None]]:
    """Mean probability of the right call by examples before it (0 to 4), by number of tools.

    ``nats_N``: mean surprise of the right call, likewise; ``None`` where there is none. ``nll_B_T``
    is that of targets: column t - 1 belongs to token t.
    """
    total_B_T = np.cumsum(np.pad(nll_B_T.double().cpu().numpy(), ((0, 0), (1, 0))), 1)
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for total_T, row in zip(total_B_T, spans, strict=True):
        for span in row:
            surprise = float(total_T[span.end - 1] - total_T[span.first - 1])
            found[span.tools, span.shots].append(surprise)
    out: dict[str, list[float | None]] = {}
    for tools in sorted({key[0] for key in found}):
        by_shots = [np.array(found.get((tools, n), [])) for n in range(SHOTS)]
        out[f"success_{tools}"] = [_mean(np.exp(-s), 4) for s in by_shots]
        out[f"nats_{tools}"] = [_mean(s, 3) for s in by_shots]
    return out


def _mean(values: NDArray[np.float64], digits: int) -> float | None:
    return round(float(values.mean()), digits) if len(values) else None
