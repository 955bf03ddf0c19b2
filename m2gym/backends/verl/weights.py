"""Weights from verl's engine into a model of transformers, strictly.

verl streams the experts of a mixture one by one (``experts.3.gate_proj.weight``), transformers 5
holds them fused (``experts.gate_up_proj``: expert × (gate, up) × hidden). A load that is not strict
would keep the old experts without a word, so here every weight is put in or the whole is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from m2gym.core.errors import InputError

ONE_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$")
ROLES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
"""M2's own names of the three matrices of an expert."""

SHOWN = 3


class WeightMismatchError(InputError):
    """Weights are missing, unexpected or of another shape."""


def fused(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights with experts fused; names that hold no single expert stay.

    Raises:
        WeightMismatchError: an expert lacks one of its three matrices, or a number is left out.
    """
    out: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for name, value in weights.items():
        one = ONE_EXPERT.match(name)
        if one is None:
            out[name] = value
            continue
        place, number, part = one[1].replace("block_sparse_moe", "mlp"), int(one[2]), one[3]
        experts.setdefault(place, {}).setdefault(number, {})[ROLES.get(part, part)] = value
    for place, by_number in experts.items():
        if sorted(by_number) != list(range(len(by_number))):
            raise WeightMismatchError(f"{place} has experts {sorted(by_number)}, some left out")
        parts = [by_number[n] for n in range(len(by_number))]
        for n, part_of in enumerate(parts):
            lacking = {"gate_proj", "up_proj", "down_proj"} - set(part_of)
            if lacking:
                raise WeightMismatchError(f"{place}.{n} lacks {', '.join(sorted(lacking))}")
        out[f"{place}.gate_up_proj"] = torch.stack(
            [torch.cat([p["gate_proj"], p["up_proj"]]) for p in parts]
        )
        out[f"{place}.down_proj"] = torch.stack([p["down_proj"] for p in parts])
    return out


@torch.no_grad()
def load_strictly(model: Any, weights: Mapping[str, torch.Tensor]) -> int:
    """Copy every weight into ``model``; how many.

    A weight that the model ties to another (a head tied to the embeddings) may be left out.

    Raises:
        WeightMismatchError: anything is missing, unexpected or of another shape; the model is
            unchanged then.
    """
    given = fused(weights)
    own: dict[str, torch.Tensor] = model.state_dict(keep_vars=False)
    places: dict[tuple[int, int], set[str]] = {}
    for name, value in own.items():
        places.setdefault((value.data_ptr(), value.numel()), set()).add(name)
    held = {name for names in places.values() if names & set(given) for name in names}
    missing, unexpected = sorted(set(own) - held), sorted(set(given) - set(own))
    shapes = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(given))
        if own[name].shape != given[name].shape
    ]
    if missing or unexpected or shapes:
        told = [f"missing {_some(missing)}"] if missing else []
        told += [f"unexpected {_some(unexpected)}"] if unexpected else []
        told += shapes[:SHOWN]
        raise WeightMismatchError(f"the weights do not fit the model: {'; '.join(told)}")
    for name, value in given.items():
        own[name].copy_(value)
    return len(given)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
