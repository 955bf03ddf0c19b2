"""Ray's processes as the operating system sees them."""

from __future__ import annotations

import time
from pathlib import Path


def ray_processes(name: bytes = b"") -> set[int]:
    """Pids whose command line is Ray's and holds ``name``."""
    found = set()
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            line = (place / "cmdline").read_bytes()
        except OSError:
            continue
        is_ray = b"raylet" in line or b"gcs_server" in line or line.startswith(b"ray::")
        if is_ray and name in line:
            found.add(int(place.name))
    return found


def gone(before: set[int], seconds: float = 60.0) -> bool:
    """Whether no Ray process is left that was not there before."""
    end = time.monotonic() + seconds
    while ray_processes() - before:
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True
