"""m2-nano: a MiniMax-M2 model of 3.7M parameters, trained by this project; see docs/m2-nano.md.

from m2gym.models import nano
model, tokenizer = nano.load()
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

NAME = "m2-nano"
"""What ``model:`` and ``--model`` call it."""


def folder() -> Path:
    """Where its files lie, in Hugging Face's format."""
    return Path(__file__).parent / "data"


def load() -> tuple[Any, Any]:
    """Model (fp32, on the CPU) and tokenizer, without a network."""
    transformers: Any = importlib.import_module("transformers")
    place = str(folder())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        place, dtype="float32", local_files_only=True
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
