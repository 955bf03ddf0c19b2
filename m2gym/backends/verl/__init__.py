"""Backend ``verl``: the same training under verl, which owns queue, workers and weight sync.

::

    TrainConfig ─ translate ─► verl's configuration ─► Ray ─► trainer (one)
                                                              │  window of forge over verl's buffer
          agent loops ── episodes ──► TransferQueue ◄─────────┤  advantages and objective of forge
              │ token ids                                     ▼
          rollout server (local engine) ◄── weights ── verl's FSDP engine

``plugin`` is what verl loads in each of its processes; ``api`` holds every import from verl.
"""

import importlib
import os

PLUGIN = "m2gym.backends.verl.plugin"
"""What ``VERL_USE_EXTERNAL_MODULES`` names in verl's processes."""

if os.environ.get("VERL_USE_EXTERNAL_MODULES") == PLUGIN:
    # One of verl's processes: verl comes first and loads the plugin, whichever module of ours was
    # asked for; the other way round the two would import each other half-made.
    importlib.import_module("verl")
