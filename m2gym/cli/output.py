"""Results go to stdout, all else to the error stream."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, NoReturn, cast

import typer
from rich.console import Console, RenderableType

from m2gym.core.blocking import SIGNALS
from m2gym.core.errors import InputError
from m2gym.core.task import Split


def show(result: RenderableType) -> None:
    """A result for a person; plain text keeps its lines."""
    plain = isinstance(result, str)
    Console(highlight=False).print(result, markup=not plain, soft_wrap=plain)


def show_json(result: Any) -> None:
    """A result for a machine."""
    json.dump(result, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def note(text: str) -> None:
    """A line beside the result."""
    print(text, file=sys.stderr)


def stopped(text: str) -> NoReturn:
    """End after Ctrl-C: say so, and let no further one tear what is left to be put away."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    note(f"m2gym: stopped; {text}")
    raise typer.Exit(130)


def split_name(text: str) -> Split:
    """``train`` or ``test``."""
    if text not in ("train", "test"):
        raise InputError(f"a split is 'train' or 'test', got {text!r}")
    return cast(Split, text)
