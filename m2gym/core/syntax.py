"""Python source → syntax tree, from several threads at once.

CPython 3.11 keeps the recursion depth of tree building in one place for all threads and fails with
"AST constructor recursion depth mismatch" when two of them parse at the same time.
"""

from __future__ import annotations

import ast
import threading

_parsing = threading.Lock()


def parse_python(source: str | bytes) -> ast.Module:
    """The module's tree; raises what `ast.parse` raises."""
    with _parsing:
        return ast.parse(source)
