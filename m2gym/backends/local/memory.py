"""Memory of short-lived tensors on a CPU.

glibc gives freed memory back to the system as soon as a little of it lies at the end of a thread's
heap, and gets it again, page by page and zeroed, for the next tensor: up to a third of the time in
which m2-nano reads its prompts. `keep_freed` has it keep some; `give_back` lets all of it go.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

TRIM, MMAP = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""

KEPT, BLOCK = 256 * 2**20, 64 * 2**20
"""Bytes kept at the end of a heap, and those from which a block is given back at once; ours."""


@cache
def keep_freed() -> bool:
    """Have this process keep freed memory for its next tensors; whether its C library can."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(what, n) for what, n in ((TRIM, KEPT), (MMAP, BLOCK))
    )


def give_back() -> bool:
    """Have the system get all freed memory of this process; whether its C library can."""
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
