"""What verl's processes read when they import verl, and the first import of it here."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from m2gym.backends.verl import PLUGIN


def environment(out: Path) -> dict[str, str]:
    """Environment variables of all processes of a run in ``out``."""
    return {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": PLUGIN,
        "VERL_FILE_LOGGER_PATH": str(out / "verl.jsonl"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def prepare(out: Path) -> None:
    """Set them in this process, import verl with our plugin, and see that it is there.

    Raises:
        InfraError: a registration of ours is missing.
    """
    os.environ.update(environment(out))
    importlib.import_module("verl")
    importlib.import_module(PLUGIN).check_registered()
