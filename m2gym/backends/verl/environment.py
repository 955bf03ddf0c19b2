"""What verl's processes read when they import verl, and the first import of it here."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from m2gym.backends.verl import PLUGIN
from m2gym.core.errors import InputError

FIND = """
import sys
from m2gym.core.registry import SCAFFOLDS
from m2gym.envs.catalog import env_entry
env_entry(sys.argv[1]), SCAFFOLDS.get(sys.argv[2])
"""


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


def check_found(env: str, agent: str) -> None:
    """See that another process finds an environment and an agent by their ids, as verl's will.

    Raises:
        InputError: it does not; what is registered by a call is known to this process only.
    """
    command = [sys.executable, "-c", FIND, env, agent]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"verl's processes do not find {env!r} or {agent!r}: {done.stderr.strip()[-300:]}; "
            "what was registered by a call is known to this process only: offer it from an "
            "installed package, by the entry points m2gym.envs, m2gym.scaffolds and m2gym.rewards"
        )
