"""What a run was made on: system, processor, memory, graphics cards."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SMI_SECONDS = 10.0
"""How long ``nvidia-smi`` may take before the cards are left out; the project's choice."""

_FIELDS = ("name", "memory.total", "driver_version")


def machine() -> dict[str, Any]:
    """The machine's record in ``run.json``; ``gpus`` only where there are any."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
    }
    cards = gpus()
    return {**found, "gpus": list(cards)} if cards else found


@functools.cache
def gpus() -> tuple[dict[str, Any], ...]:
    """Name, memory and driver of each card.

    ``nvidia-smi`` is asked, or torch where this process has loaded it already: importing it for
    this would take seconds.
    """
    program = shutil.which("nvidia-smi")
    if program is not None:
        ask = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(
                ask, capture_output=True, text=True, timeout=SMI_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return _from_torch()
        if done.returncode == 0:
            return tuple(_card(line) for line in done.stdout.splitlines() if line.strip())
    return _from_torch()


def _card(line: str) -> dict[str, Any]:
    name, memory, driver = (part.strip() for part in line.rsplit(",", 2))
    return {
        "name": name,
        "memory_mb": int(memory) if memory.isdigit() else None,
        "driver": driver,
    }


def _from_torch() -> tuple[dict[str, Any], ...]:
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_available():
        return ()
    cards = (cuda.get_device_properties(n) for n in range(cuda.device_count()))
    return tuple({"name": card.name, "memory_mb": card.total_memory // 2**20} for card in cards)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor()
