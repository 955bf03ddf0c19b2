"""Models by their specification: what ``--model`` takes."""

from __future__ import annotations

from pathlib import Path

from m2gym.core.errors import InputError
from m2gym.core.protocols import Model
from m2gym.core.registry import BACKENDS
from m2gym.models import nano

FALLBACK = "litellm"
"""The backend of every name that no other backend's id begins."""


def load_model(spec: str) -> Model:
    """The model that a specification names.

    | specification | model |
    |---|---|
    | ``scripted:FILE`` | says the turns of a JSON or YAML file |
    | ``replay:RUN`` | answers as a recorded run's model did |
    | ``openai-compatible:URL#NAME`` | a server of vLLM, SGLang and the like |
    | ``m2-nano`` | the small model that ships with this package |
    | ``BACKEND:…`` | whatever `BACKENDS` holds under that id |
    | a folder | weights in Hugging Face's format, or a training run's: ``local:FOLDER`` |
    | anything else | a model by LiteLLM's name, such as ``openai/gpt-5`` |

    Raises:
        InputError: the specification is empty or its backend cannot use it.
    """
    name, separator, rest = spec.partition(":")
    if not spec.strip():
        raise InputError("expected a model, such as scripted:FILE or a name of LiteLLM's, got none")
    if spec == nano.NAME:
        return _model("local", spec)
    if separator and name in BACKENDS:
        return _model(name, rest)
    folder = Path(spec)
    if any((folder / file).is_file() for file in ("config.json", "config.yaml")):
        return _model("local", spec)
    return _model(FALLBACK, spec)


def _model(backend: str, spec: str) -> Model:
    model: Model = BACKENDS.get(backend)().model(spec)
    return model
