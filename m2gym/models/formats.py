"""Chat formats by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from m2gym.core.errors import UnknownIdError
from m2gym.models import chatml, minimax_m2
from m2gym.models.chat_format import TurnFormat
from m2gym.models.tokenizer import ByteTokenizer, HfTokenizer, Tokenizer


def _qwen(tokenizer: Tokenizer, **options: Any) -> TurnFormat:
    return chatml.ChatML(tokenizer, **{"tool_role": "user", **options})


FORMATS: dict[str, Callable[..., TurnFormat]] = {
    "minimax-m2": minimax_m2.MiniMaxM2,
    "chatml": chatml.ChatML,
    "hermes": chatml.ChatML,
    "qwen": _qwen,
}


def load_format(name: str, tokenizer: Tokenizer, **options: Any) -> TurnFormat:
    """A format over a tokenizer; `UnknownIdError` names the known ones."""
    if name not in FORMATS:
        raise UnknownIdError("chat format", name, FORMATS)
    return FORMATS[name](tokenizer, **options)


def guess_format(tokenizer: HfTokenizer, **options: Any) -> TurnFormat:
    """The format that the tokenizer's tokens tell of; `UnknownIdError` where they tell of none."""
    if tokenizer.special(minimax_m2.END) is not None:
        return load_format("minimax-m2", tokenizer, **options)
    if tokenizer.special(chatml.END) is not None:
        return load_format("chatml", tokenizer, **options)
    raise UnknownIdError("chat format of a tokenizer without", f"{chatml.END}", FORMATS)


def byte_format(name: str = "minimax-m2", **options: Any) -> TurnFormat:
    """A format over bytes, for models that have no tokenizer of their own."""
    marks = minimax_m2.MARKS if name == "minimax-m2" else chatml.MARKS
    return load_format(name, ByteTokenizer([str(mark) for mark in marks]), **options)
