"""Models behind one session: chat formats, the recorder, scripted and replayed models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2gym.models.budget import Budget
    from m2gym.models.formats import load_format
    from m2gym.models.load import load_model
    from m2gym.models.replay import ReplayModel
    from m2gym.models.scripted import ScriptedModel, Turn
    from m2gym.models.session import RecordedSession
    from m2gym.models.token_model import TokenModel

_LAZY = {
    "Budget": "budget",
    "RecordedSession": "session",
    "ReplayModel": "replay",
    "ScriptedModel": "scripted",
    "TokenModel": "token_model",
    "Turn": "scripted",
    "load_format": "formats",
    "load_model": "load",
}

__all__ = [
    "Budget",
    "RecordedSession",
    "ReplayModel",
    "ScriptedModel",
    "TokenModel",
    "Turn",
    "load_format",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'm2gym.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"m2gym.models.{_LAZY[name]}"), name)
