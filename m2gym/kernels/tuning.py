"""Tile shapes of the grouped products, by card.

``python -m m2gym.kernels.bench --tune`` measures them. A card that is not in the table works with
Hopper's, cut down to its shared memory, and says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from m2gym.kernels.support import fit

Product = Literal["up", "down", "d_inner", "d_rows", "d_down", "d_gate_up"]


@dataclass(frozen=True)
class Tiles:
    """How a grouped product is cut.

    Attributes:
        rows: rows of an output tile (for the products over rows: the plan's ``align``).
        cols: columns of an output tile.
        depth: elements of one step along the summed dimension.
        warps: warps of a program; stages: steps in flight.
        specialize: separate warps for copies (Triton's ``warp_specialize``).
        swap: compute the transpose, weights first: for tiles of fewer than 64 rows.
        group: row tiles that share the columns' weights before the next columns.
    """

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int
    specialize: bool = False
    swap: bool = False
    group: int = 8


_HOPPER: dict[tuple[Product, int], Tiles] = {
    ("up", 128): Tiles(128, 128, 64, 8, 4, specialize=True),
    ("down", 128): Tiles(128, 256, 64, 8, 3, group=4),
    ("d_inner", 128): Tiles(128, 256, 64, 8, 3, group=4),
    ("d_rows", 128): Tiles(128, 256, 64, 8, 3),
    ("d_down", 128): Tiles(128, 256, 64, 8, 3),
    ("d_gate_up", 128): Tiles(128, 256, 64, 8, 3),
    ("up", 64): Tiles(64, 128, 64, 4, 3),
    ("down", 64): Tiles(64, 256, 64, 4, 3),
    ("d_inner", 64): Tiles(64, 256, 64, 4, 3),
    ("d_rows", 64): Tiles(64, 256, 64, 4, 3),
    ("d_down", 64): Tiles(128, 256, 64, 8, 3),
    ("d_gate_up", 64): Tiles(128, 256, 64, 8, 3),
    ("up", 16): Tiles(16, 64, 128, 4, 5, swap=True, group=1),
    ("down", 16): Tiles(16, 128, 128, 4, 4, swap=True, group=1),
    ("d_inner", 16): Tiles(16, 128, 64, 4, 5, swap=True, group=1),
    ("d_rows", 16): Tiles(16, 128, 64, 4, 5, swap=True, group=1),
    ("d_down", 16): Tiles(128, 256, 16, 8, 3),
    ("d_gate_up", 16): Tiles(128, 256, 16, 8, 3),
}
# Measured on an H100 (docs/kernels.md); where not named, what both cards share.
_H100: dict[tuple[Product, int], Tiles] = _HOPPER | {
    ("up", 128): Tiles(128, 128, 64, 8, 4, specialize=True, group=4),
    ("d_rows", 128): Tiles(128, 256, 64, 8, 3, group=4),
    ("d_down", 128): Tiles(128, 256, 64, 8, 3, specialize=True),
    ("d_gate_up", 128): Tiles(128, 256, 64, 8, 3, specialize=True),
}
_LOGITS = Tiles(128, 256, 64, 8, 3, group=1)
TABLES: dict[str, dict[tuple[Product, int], Tiles]] = {
    "NVIDIA H100": _H100,
    "NVIDIA H200": _HOPPER,
}
_said: set[str] = set()


def row_tile(slots: int, experts: int) -> int:
    """Rows of a tile that fit the average load: 16, 64 or 128.

    >>> row_tile(256 * 8, 256), row_tile(2048 * 8, 256), row_tile(16384 * 8, 256)
    (16, 64, 128)
    """
    mean = slots / experts
    if mean <= 24:
        return 16
    return 64 if mean <= 96 else 128


def tuned(device: torch.device) -> str | None:
    """The name in `TABLES` of the card that ``device`` is; None, said once, where it has none.

    Every kernel whose tiles were measured asks here: experts, log-probabilities, tree attention.
    """
    name = torch.cuda.get_device_name(device)
    for known in TABLES:
        if name.startswith(known):
            return known
    if name not in _said:
        _said.add(name)
        warnings.warn(
            f"m2gym.kernels: {name} is untuned: it works with Hopper's tiles, cut down to its "
            "shared memory. `python -m m2gym.kernels.bench --tune` measures the experts' here.",
            stacklevel=2,
        )
    return None


def within(cut: Tiles, itemsize: int, limit: int, *, pair: bool = False) -> Tiles:
    """``cut`` with fewer stages, then smaller sides, until its shared memory is below ``limit``.

    Counted are the operands of all stages and the output tile, as Triton lays them out on Hopper
    and later; earlier cards take less.

    Args:
        itemsize: bytes of an operand's element; of an output's at least two.
        pair: two right operands a step, as gate and up have.

    >>> within(Tiles(128, 256, 64, 8, 3), 2, 101_376)
    Tiles(rows=128, cols=128, depth=64, warps=8, stages=2, specialize=False, swap=False, group=8)
    """

    def taken(cut: Tiles) -> int:
        operands = cut.stages * (cut.rows + cut.cols * (1 + pair)) * cut.depth * itemsize
        return operands + cut.rows * cut.cols * max(itemsize, 2)

    while taken(cut) > limit - 2048:  # barriers
        if cut.stages > 2:
            cut = replace(cut, stages=cut.stages - 1)
        elif cut.cols > 32:
            cut = replace(cut, cols=cut.cols // 2)
        elif cut.depth > 32:
            cut = replace(cut, depth=cut.depth // 2)
        else:
            break
    return cut


def _fitting(cut: Tiles, dtype: torch.dtype, device: torch.device, *, pair: bool = False) -> Tiles:
    """A tuned card's tiles are as measured, an untuned one's cut down to its shared memory."""
    if device.type != "cuda" or tuned(device) is not None:
        return cut
    card: Any = torch.cuda.get_device_properties(device)
    return within(cut, dtype.itemsize, card.shared_memory_per_block_optin, pair=pair)


def _table(device: torch.device) -> Mapping[tuple[Product, int], Tiles]:
    known = tuned(device) if device.type == "cuda" else None
    return TABLES[known] if known else _HOPPER


def tiles(
    product: Product, align: int, cols: int, depth: int, dtype: torch.dtype, device: torch.device
) -> Tiles:
    """The tiles of one product, cut down to divide its ``cols`` and ``depth``.

    For the products that sum over rows (``d_down``, ``d_gate_up``) pass the output's rows as
    ``depth``: they bound ``Tiles.rows``, and ``align`` bounds the step.
    """
    size = min((128, 64, 16), key=lambda known: (known > align, abs(known - align)))
    found = _table(device)[product, size]
    if dtype == torch.float32:
        # The same tile in fp32 takes twice the shared memory, and IEEE products no tensor cores.
        found = replace(
            found, rows=min(found.rows, 64), cols=64, depth=min(found.depth, 32), stages=2,
            specialize=False,
        )  # fmt: skip
    if dtype == torch.float8_e4m3fn:
        found = replace(found, depth=2 * found.depth)  # as many bytes a step
        if (product, size) == ("up", 128):
            found = replace(found, stages=3, specialize=False, group=4)  # measured on an H100
    if product in ("d_down", "d_gate_up"):
        found = replace(
            found, rows=fit(found.rows, depth), cols=fit(found.cols, cols),
            depth=min(found.depth, align),
        )  # fmt: skip
    else:
        found = replace(
            found, rows=align, cols=fit(found.cols, cols), depth=fit(found.depth, depth)
        )
    return _fitting(found, dtype, device, pair=product == "up")


def logits_tiles(dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles of the product with the output head."""
    if device.type != "cuda":
        return Tiles(16, 32, 16, 4, 1)
    return _fitting(Tiles(64, 64, 32, 4, 2) if dtype == torch.float32 else _LOGITS, dtype, device)
