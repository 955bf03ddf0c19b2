"""One row of the Forge's figures."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def row(
    bench: str, case: str, ours: float, peer: float | None, unit: str, note: str, *, less: bool
) -> Row:
    """One figure; ``less``: smaller is better."""
    ratio = None
    if peer is not None and ours and peer:
        ratio = peer / ours if less else ours / peer
    return {
        "bench": bench,
        "case": case,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "ratio": ratio,
        "note": note,
    }
