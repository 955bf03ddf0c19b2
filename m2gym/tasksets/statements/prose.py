"""Can a statement be understood? It is prose, and it shows what the failing tests call or compare.

Read as text and syntax; what counts as a test's report is the marks that pytest and difflib leave.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator

from m2gym.tasksets.statements.evidence import FailingTests

MIN_WORDS = 4
"""A sentence has at least so many words outside of code; the project's choice."""
MIN_VALUE = 3
"""Shorter strings of a test may stand in any text; the project's choice."""
_FENCE = re.compile(r"```.*?```", re.DOTALL)
_CODE = re.compile(r"```.*?```|``.+?``|`[^`\n]+`|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
_MARKS = re.compile(
    r"^\s*\? [ +^-]+$|^\s*E {2,}\S|AssertionError: assert |^\s*assert .+ (?:==|in|is) |"
    r"^\s*[+-] +where |^_{5,}|^FAILED ",
    re.MULTILINE,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_CHECKS = re.compile(r"assert|fail|raises|warns|fixture|parametrize|mark$|skip", re.IGNORECASE)


def report_marks(statement: str) -> Iterator[str]:
    """Lines that a test's report leaves, code in fences left aside."""
    for match in _MARKS.finditer(_FENCE.sub("", statement)):
        yield match[0].strip()


def is_prose(statement: str) -> bool:
    """Whether some line of it, its code left aside, is a sentence."""
    lines = _CODE.sub(" ", statement).splitlines()
    return any(len(_WORD.findall(line)) >= MIN_WORDS for line in lines)


def shows(statement: str, tests: FailingTests) -> bool:
    """Whether something that the failing tests call, or of a text that they hand over or expect,
    stands in the statement's code. Where they call nothing, nothing is asked."""
    spans = [match[0].strip("` \n") for match in _CODE.finditer(statement)]
    marked = "\n".join(spans)
    names: set[str] = set()
    texts: set[str] = set()
    for nodes in tests.functions.values():
        for node in (n for top in nodes for n in ast.walk(top)):
            if isinstance(node, ast.Call):
                names.add(str(getattr(node.func, "attr", getattr(node.func, "id", ""))))
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts |= {line.strip() for line in node.value.splitlines()}
    names = {n for n in names if n and not hasattr(builtins, n) and not _CHECKS.match(n)}
    texts = {text for text in texts if len(text) >= MIN_VALUE}
    if not names:
        return True
    words = set(re.findall(r"\w+", marked))
    quoted = [span for span in spans if len(span) >= MIN_VALUE]
    return bool(words & names) or any(
        text in marked or repr(text)[1:-1] in marked or any(span in text for span in quoted)
        for text in texts
    )
