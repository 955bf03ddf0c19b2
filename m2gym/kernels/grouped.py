# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The two grouped products of a mixture: over rows sorted by expert, and summed over them.

Both are persistent: one program a multiprocessor walks the tiles, so that no load of an expert,
however skewed, costs a launch or a host synchronisation. Operands come by tensor-memory-access
descriptors. Every expert's rows are padded to whole tiles (see ``router.Plan``), so nothing is
masked. Sums are in fp32, their order fixed: equal inputs give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from m2gym.kernels.router import Plan
from m2gym.kernels.support import descriptor, precision, programs
from m2gym.kernels.tuning import Product, Tiles, tiles


@triton.jit
def _product(a, b, acc, KN: tl.constexpr, SWAP: tl.constexpr, PRECISION: tl.constexpr):
    MODE: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    if PRECISION == "upcast":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    if SWAP:
        if KN:
            acc = tl.dot(b.T, a.T, acc, input_precision=MODE)
        else:
            acc = tl.dot(b, a.T, acc, input_precision=MODE)
    else:
        if KN:
            acc = tl.dot(a, b, acc, input_precision=MODE)
        else:
            acc = tl.dot(a, b.T, acc, input_precision=MODE)
    return acc


@triton.jit
def _over_rows_kernel(
    a,
    b,
    out,
    kept,
    row_scales,
    channel_scales,
    tile_expert,
    total_rows,
    n_size,
    k_size,
    b_rows,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GLU: tl.constexpr,
    KEEP: tl.constexpr,
    SCALED: tl.constexpr,
    KN: tl.constexpr,
    SWAP: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype
    m_tiles = tl.load(total_rows) // BM
    n_tiles = n_size // BN
    for tile in tl.range(tl.program_id(0), m_tiles * n_tiles, PROGRAMS, warp_specialize=SPECIALIZE):
        first = tile // (GROUP * n_tiles) * GROUP
        width = tl.minimum(m_tiles - first, GROUP)
        m = first + tile % (GROUP * n_tiles) % width
        n = tile % (GROUP * n_tiles) // width
        base = tl.load(tile_expert + m) * b_rows
        if SWAP:
            acc = tl.zeros((BN, BM), tl.float32)
            acc_up = tl.zeros((BN, BM), tl.float32)
        else:
            acc = tl.zeros((BM, BN), tl.float32)
            acc_up = tl.zeros((BM, BN), tl.float32)
        for k in tl.range(0, k_size, BK):
            left = a.load([m * BM, k])
            right = b.load([base + k, n * BN]) if KN else b.load([base + n * BN, k])
            acc = _product(left, right, acc, KN, SWAP, PRECISION)
            if GLU:
                right = b.load([base + n_size + n * BN, k])
                acc_up = _product(left, right, acc_up, KN, SWAP, PRECISION)
        if SWAP:
            acc = acc.T
            acc_up = acc_up.T
        if SCALED:
            channels = channel_scales + base + n * BN + tl.arange(0, BN)
            row_scale = tl.load(row_scales + m * BM + tl.arange(0, BM))[:, None]
            acc = acc * row_scale * tl.load(channels)[None, :]
            if GLU:
                acc_up = acc_up * row_scale * tl.load(channels + n_size)[None, :]
        if GLU:
            if KEEP:
                kept.store([m * BM, n * BN], acc.to(dtype))
                kept.store([m * BM, n_size + n * BN], acc_up.to(dtype))
            acc = acc / (1.0 + tl.exp(-acc)) * acc_up
        out.store([m * BM, n * BN], acc.to(dtype))


@triton.jit
def _sum_rows_kernel(
    left,
    right,
    out,
    counts,
    starts,
    experts,
    m_size,
    n_size,
    column,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    dtype: tl.constexpr = out.dtype
    m_tiles = m_size // BM
    n_tiles = n_size // BN
    each = m_tiles * n_tiles
    for tile in tl.range(tl.program_id(0), experts * each, PROGRAMS, warp_specialize=SPECIALIZE):
        expert = tile // each
        inside = tile % each
        first = inside // (GROUP * n_tiles) * GROUP
        width = tl.minimum(m_tiles - first, GROUP)
        m = first + inside % (GROUP * n_tiles) % width
        n = inside % (GROUP * n_tiles) // width
        start = tl.load(starts + expert)
        stop = start + tl.load(counts + expert)
        acc = tl.zeros((BM, BN), tl.float32)
        for row in tl.range(start, stop, BK):
            p = left.load([row, m * BM])
            q = right.load([row, n * BN])
            acc = _product(p.T, q, acc, True, False, PRECISION)
        out.store([expert * m_size + m * BM, column + n * BN], acc.to(dtype))


def over_rows(
    product: Product,
    rows_R_K: torch.Tensor,
    weight_E: torch.Tensor,
    plan: Plan,
    *,
    transposed: bool = False,
    swiglu: bool = False,
    keep: bool = False,
    scales: tuple[torch.Tensor, torch.Tensor] | None = None,
    cut: Tiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``rows[r] @ weight[expert of r].T`` for every padded row.

    Args:
        product: which product of the mixture this is, for its tiles.
        rows_R_K: (capacity, K), zeros in the rows that pad.
        weight_E: (E, N, K), or (E, K, N) when ``transposed``.
        swiglu: ``weight_E`` holds gate rows, then up rows; the result is silu(gate) · up.
        keep: with ``swiglu``, also return gate and up before the activation, (capacity, 2N).
        scales: of 8-bit operands, the rows' (capacity,) and the weights' channels' (E · N,); the
            result is bf16 then.
        cut: other tiles than the table's.

    Returns:
        The rows (capacity, N) (unwritten beyond the plan's last row), and what ``keep`` kept.
    """
    experts, first, second = weight_E.shape
    cols, depth = (second, first) if transposed else (first // 2 if swiglu else first, second)
    device, dtype = rows_R_K.device, rows_R_K.dtype
    cut = cut or tiles(product, plan.align, cols, depth, dtype, device)
    wide = dtype if scales is None else torch.bfloat16
    out = torch.empty(plan.capacity, cols, dtype=wide, device=device)
    kept = torch.empty(plan.capacity, 2 * cols, dtype=wide, device=device) if keep else out
    row_scales, channel_scales = scales or (plan.starts_E1, plan.starts_E1)
    if not plan.capacity:
        return out, kept if keep else None
    block = (cut.depth, cut.cols) if transposed else (cut.cols, cut.depth)
    count = programs(device)
    _over_rows_kernel[(count,)](
        descriptor(rows_R_K, cut.rows, cut.depth),
        descriptor(weight_E.view(experts * first, second), *block),
        descriptor(out, cut.rows, cut.cols),
        descriptor(kept, cut.rows, cut.cols),
        row_scales,
        channel_scales,
        plan.tile_expert,
        plan.starts_E1[experts:],
        cols,
        depth,
        first,
        BM=cut.rows,
        BN=cut.cols,
        BK=cut.depth,
        GLU=swiglu,
        KEEP=keep,
        SCALED=scales is not None,
        KN=transposed,
        SWAP=cut.swap,
        GROUP=cut.group,
        PROGRAMS=count,
        SPECIALIZE=cut.specialize,
        PRECISION=precision(dtype),
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return out, kept if keep else None


def sum_rows(
    product: Product,
    left_R_M: torch.Tensor,
    right_R_N: torch.Tensor,
    plan: Plan,
    *,
    out: torch.Tensor | None = None,
    column: int = 0,
    cut: Tiles | None = None,
) -> torch.Tensor:
    """``sum over the rows r of expert e of outer(left[r], right[r])``: (E, M, N).

    An expert without rows gets zeros. Rows that pad must hold zeros in both operands.

    Args:
        out, column: write the N columns from ``column`` on of this wider result instead.
    """
    m_size, n_size = left_R_M.shape[1], right_R_N.shape[1]
    device, dtype = left_R_M.device, left_R_M.dtype
    cut = cut or tiles(product, plan.align, n_size, m_size, dtype, device)
    if out is None:
        out = torch.empty(plan.experts, m_size, n_size, dtype=dtype, device=device)
    if not plan.capacity:
        out[..., column : column + n_size].zero_()
        return out
    count = programs(device)
    _sum_rows_kernel[(count,)](
        descriptor(left_R_M, cut.depth, cut.rows),
        descriptor(right_R_N, cut.depth, cut.cols),
        descriptor(out.view(plan.experts * m_size, -1), cut.rows, cut.cols),
        plan.counts_E,
        plan.starts_E1,
        plan.experts,
        m_size,
        n_size,
        column,
        BM=cut.rows,
        BN=cut.cols,
        BK=cut.depth,
        GROUP=cut.group,
        PROGRAMS=count,
        SPECIALIZE=cut.specialize,
        PRECISION=precision(dtype),
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return out
