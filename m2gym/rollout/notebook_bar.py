"""The progress of an evaluation below a notebook's cell; needs no widgets."""

from __future__ import annotations

import html
import importlib
from typing import Any


class NotebookBar:
    """One line of HTML that is replaced as it changes; may be driven from any thread."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._display: Any = importlib.import_module("IPython.display")
        self._handle: Any = None

    def show(self, done: int, note: str) -> None:
        """Show so many episodes done, and what else there is to say."""
        shown = self._display.HTML(
            f"<b>{html.escape(self._label)}</b> "
            f'<progress max="{self._total}" value="{done}"></progress> '
            f"{done}/{self._total} {html.escape(note)}"
        )
        if self._handle is None:
            self._handle = self._display.display(shown, display_id=True)
        else:
            self._handle.update(shown)
