# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The logits of a chunk: statistics in the product's epilogue, their gradient in place.

    product    z = hidden @ weight.T, fp32 in registers; of every tile: the largest z, the sum of
               exp(z − largest) and of (z − largest) · exp(z − largest), the target's z; kept, if a
               gradient is wanted, is only z − largest of its tile, in 16 bits
    finish     the statistics of a row's tiles together: log-probability, entropy, and the loss's
               slopes, all from fp32
    gradient   the 16 kept bits of every logit overwritten with the 16 bits of its gradient

What is rounded is the distance to the tile's largest logit: the likelier a token, the less. The
fp32 logits of the usual way (written once, read twice) are never in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from m2gym.kernels.support import KernelRefusal, descriptor, precision, programs
from m2gym.kernels.tuning import logits_tiles

GIVEN, CISPO, PPO = 0, 1, 2
# Logits a program of the gradient takes, and its warps: measured on an H100.
_GRADIENT_BLOCK, _GRADIENT_WARPS = 4096, 4


@triton.jit
def _product_kernel(
    hidden, weight, kept, targets, picked, stats, rows, size, width, inverse_temperature,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KEEP: tl.constexpr,
    PROGRAMS: tl.constexpr, SPECIALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    MODE: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    m_tiles = tl.cdiv(rows, BM)
    n_tiles = tl.cdiv(size, BN)
    for tile in tl.range(tl.program_id(0), m_tiles * n_tiles, PROGRAMS, warp_specialize=SPECIALIZE):
        m = tile % m_tiles
        n = tile // m_tiles
        acc = tl.zeros((BM, BN), tl.float32)
        for k in tl.range(0, width, BK):
            a = hidden.load([m * BM, k])
            b = weight.load([n * BN, k])
            if PRECISION == "upcast":
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            acc = tl.dot(a, b.T, acc, input_precision=MODE)
        row = m * BM + tl.arange(0, BM)
        col = n * BN + tl.arange(0, BN)
        z = tl.where(col[None, :] < size, acc * inverse_temperature, float("-inf"))
        target = tl.load(targets + row, mask=row < rows, other=-1)
        hit = col[None, :] == target[:, None]
        here = (target >= n * BN) & (target < tl.minimum(n * BN + BN, size)) & (row < rows)
        tl.store(picked + row, tl.sum(tl.where(hit, z, 0.0), 1), mask=here)
        top = tl.max(z, 1)
        z = z - top[:, None]
        if KEEP:
            kept.store([m * BM, n * BN], z.to(kept.dtype))
        e = tl.exp(z)
        at = stats + n * rows + row
        tl.store(at, top, mask=row < rows)
        tl.store(at + n_tiles * rows, tl.sum(e, 1), mask=row < rows)
        # exp(-inf) · -inf is no number; a NaN logit reaches the row through the sum.
        tl.store(at + 2 * n_tiles * rows, tl.sum(tl.where(e > 0.0, e * z, 0.0), 1), mask=row < rows)


@triton.jit
def _finish_kernel(
    stats, picked, targets, advantages, old, scales, logprobs, entropies, losses, norms, slopes,
    entropy_slopes, given, given_entropy, rows, tiles, inverse_temperature, low, high,
    entropy_coefficient, ignore,
    OBJECTIVE: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = row < rows
    line = tl.arange(0, LINES)[:, None]
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    for n in range(0, tiles, LINES):
        here = (n + line < tiles) & mask[None, :]
        tops = tl.load(stats + (n + line) * rows + row[None, :], mask=here, other=float("-inf"))
        top = tl.maximum(top, tl.max(tops, 0))
    top = tl.where(mask, top, 0.0)
    total = tl.zeros([BLOCK], tl.float32)
    mean = tl.zeros([BLOCK], tl.float32)
    for n in range(0, tiles, LINES):
        here = (n + line < tiles) & mask[None, :]
        at = stats + (n + line) * rows + row[None, :]
        distance = tl.load(at, mask=here, other=float("-inf")) - top[None, :]
        share = tl.exp(distance)
        part = tl.load(at + tiles * rows, mask=here, other=0.0)
        total += tl.sum(share * part, 0)
        inner = tl.load(at + 2 * tiles * rows, mask=here, other=0.0) + distance * part
        mean += tl.sum(tl.where(share > 0.0, share * inner, 0.0), 0)
    total = tl.where(mask, total, 1.0)
    spread = tl.log(total)
    norm = top + spread
    entropy = spread - mean / total
    live = (tl.load(targets + row, mask=mask, other=0) != ignore) & mask
    logp = tl.load(picked + row, mask=mask, other=0.0) - norm
    tl.store(logprobs + row, tl.where(live, logp, 0.0), mask=mask)
    tl.store(entropies + row, tl.where(live, entropy, 0.0), mask=mask)
    if GRADIENT:
        if OBJECTIVE == 0:
            slope = tl.load(given + row, mask=mask, other=0.0)
            entropy_slope = tl.load(given_entropy + row, mask=mask, other=0.0)
        else:
            advantage = tl.load(advantages + row, mask=mask, other=0.0)
            scale = tl.load(scales + row, mask=mask, other=0.0)
            ratio = tl.exp(logp - tl.load(old + row, mask=mask, other=0.0))
            if OBJECTIVE == 1:
                weight = tl.minimum(ratio, 1.0 + high)
                loss = -weight * advantage * logp
                slope = -weight * advantage
            else:
                clipped = tl.minimum(tl.maximum(ratio, 1.0 - low), 1.0 + high)
                loss = -tl.minimum(ratio * advantage, clipped * advantage)
                slope = tl.where(ratio * advantage <= clipped * advantage, -ratio * advantage, 0.0)
            loss = (loss - entropy_coefficient * entropy) * scale
            tl.store(losses + row, tl.where(live, loss, 0.0), mask=mask)
            slope = slope * scale
            entropy_slope = -entropy_coefficient * scale
        tl.store(norms + row, norm, mask=mask)
        tl.store(slopes + row, tl.where(live, slope, 0.0) * inverse_temperature, mask=mask)
        entropy_slope = tl.where(live, entropy_slope, 0.0) * inverse_temperature
        tl.store(entropy_slopes + row, entropy_slope, mask=mask)


@triton.jit
def _gradient_kernel(
    kept, gradient, stats, targets, entropies, norms, slopes, entropy_slopes, rows, size, stride,
    HAS_ENTROPY: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    col = tile[:, None] * BN + tl.arange(0, BN)[None, :]
    at = row.to(tl.int64) * stride
    mask = col < size
    top = tl.load(stats + tile * rows + row, mask=tile * BN < size, other=0.0) - tl.load(
        norms + row
    )
    logs = tl.load(kept + at + col, mask=mask, other=0.0).to(tl.float32) + top[:, None]
    p = tl.exp(logs)
    slope = tl.load(slopes + row)
    d = tl.where(col == tl.load(targets + row), slope, 0.0) - slope * p
    if HAS_ENTROPY:
        entropy = tl.load(entropies + row)
        d -= tl.load(entropy_slopes + row) * tl.where(p > 0.0, p * (logs + entropy), 0.0)
    tl.store(gradient + at + col, d.to(gradient.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Head:
    """The operands of one pass over the rows, and room for one chunk.

    Attributes:
        hidden_T_H, weight_V_H, targets_T: contiguous, on one device.
        rows: rows of a chunk.
    """

    hidden_T_H: torch.Tensor
    weight_V_H: torch.Tensor
    targets_T: torch.Tensor
    temperature: float
    ignore: int
    rows: int

    def chunks(self) -> list[tuple[int, int]]:
        total = self.hidden_T_H.shape[0]
        return [(a, min(a + self.rows, total)) for a in range(0, total, self.rows)]

    def buffer(self) -> torch.Tensor:
        """Room for the kept logits, and then the gradient, of a chunk; rows a little wider than V,
        so that they start where copies by descriptor may."""
        rows = min(self.rows, self.hidden_T_H.shape[0])
        width = -(-self.weight_V_H.shape[0] // 16) * 16
        kind = self.hidden_T_H
        return torch.empty(rows, width, dtype=kind.dtype, device=kind.device)


def check_width(kernel: str, hidden_T_H: torch.Tensor) -> None:
    """Refuse rows that no descriptor can copy.

    Raises:
        KernelRefusal: rows of a length that is no multiple of 16 bytes.
    """
    if hidden_T_H.shape[1] * hidden_T_H.element_size() % 16:
        raise KernelRefusal(
            f"{kernel}: rows of hidden must be multiples of 16 bytes, got {hidden_T_H.shape[1]} "
            f"of {hidden_T_H.dtype}; pad the width"
        )


def logits_pass(
    head: Head, first: int, last: int, outputs: dict[str, torch.Tensor], *,
    objective: int = GIVEN, scalars: tuple[float, float, float] = (0.0, 0.0, 0.0),
    inputs: dict[str, torch.Tensor] | None = None, buffer: torch.Tensor | None = None,
) -> torch.Tensor | None:  # fmt: skip
    """Rows [first, last): values into ``outputs``, and the logits' gradient where asked for.

    Args:
        outputs: ``logprobs``, ``entropies``, ``losses``, each (T,) fp32.
        scalars: lower clip, upper clip, entropy coefficient.
        inputs: ``advantages``, ``old`` and ``scales``, or with ``GIVEN`` ``slopes`` and
            ``entropy_slopes``: fp32 (T,).
        buffer: from ``Head.buffer``; None: values only.

    Returns:
        The gradient of these rows' logits (rows, V), a view of ``buffer``.
    """
    hidden, device = head.hidden_T_H[first:last], head.hidden_T_H.device
    rows, vocabulary = last - first, head.weight_V_H.shape[0]
    cut = logits_tiles(hidden.dtype, device)
    tiles = triton.cdiv(vocabulary, cut.cols)
    stats = torch.empty(3, tiles, rows, dtype=torch.float32, device=device)
    # A target outside the vocabulary is in no tile: its log-probability stays no number.
    picked = torch.full((rows,), float("nan"), dtype=torch.float32, device=device)
    targets = head.targets_T[first:last]
    inverse = 1.0 / head.temperature
    half = torch.float16 if hidden.element_size() == 2 else torch.float32
    kept = None if buffer is None else buffer[:rows].view(half)
    count = programs(device)
    _product_kernel[(count,)](
        descriptor(hidden, cut.rows, cut.depth),
        descriptor(head.weight_V_H, cut.cols, cut.depth),
        descriptor(hidden, cut.rows, cut.depth) if kept is None
        else descriptor(kept, cut.rows, cut.cols),
        targets, picked, stats, rows, vocabulary, hidden.shape[1], inverse,
        BM=cut.rows, BN=cut.cols, BK=cut.depth, KEEP=kept is not None, PROGRAMS=count,
        SPECIALIZE=cut.specialize, PRECISION=precision(hidden.dtype), num_warps=cut.warps,
        num_stages=cut.stages,
    )  # fmt: skip
    given = {name: tensor[first:last] for name, tensor in (inputs or {}).items()}
    mine = {name: tensor[first:last] for name, tensor in outputs.items()}
    norms, slopes, entropy_slopes = torch.empty(3, rows, dtype=torch.float32, device=device)
    low, high, entropy_coefficient = scalars
    block = 8
    _finish_kernel[(triton.cdiv(rows, block),)](
        stats, picked, targets, given.get("advantages", norms), given.get("old", norms),
        given.get("scales", norms), mine["logprobs"], mine["entropies"],
        mine.get("losses", norms), norms, slopes, entropy_slopes, given.get("slopes", norms),
        given.get("entropy_slopes", norms), rows, tiles, inverse, low, high, entropy_coefficient,
        head.ignore, OBJECTIVE=objective, GRADIENT=buffer is not None, BLOCK=block,
        LINES=128, num_warps=4,
    )  # fmt: skip
    if buffer is None or kept is None:
        return None
    gradient = buffer[:rows]
    together = max(1, _GRADIENT_BLOCK // cut.cols)
    _gradient_kernel[(rows, triton.cdiv(tiles, together))](
        kept, gradient, stats, targets, mine["entropies"], norms, slopes, entropy_slopes, rows,
        vocabulary, gradient.stride(0),
        HAS_ENTROPY=objective == GIVEN or entropy_coefficient != 0, TILES=together, BN=cut.cols,
        num_warps=_GRADIENT_WARPS,
    )  # fmt: skip
    return gradient[:, :vocabulary]
