"""``tool-use``: short questions with Python, a calculator and search at hand, in a box."""

from __future__ import annotations

import ast
import importlib
import json
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2gym.core.errors import InputError
from m2gym.core.task import Taskset
from m2gym.core.tools import Tool
from m2gym.envs.catalog import EnvEntry

if TYPE_CHECKING:
    from m2gym.envs.episode import WorkspaceEpisode

BITS = 4096
"""Bits of a number that the calculator goes on with; the project's choice."""

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def tool_use_tools(episode: WorkspaceEpisode) -> list[Tool]:
    """``python``, ``calculator``, ``search`` where the task has passages, and ``answer``."""

    async def python(code: str) -> str:
        """Run a Python program in the box; what it prints is shown."""
        if "\0" in code:
            raise InputError("a program cannot hold a NUL character")
        limit = episode.task.limits.exec_seconds
        done = await episode.workspace.exec(
            ["python3", "-I", "-"], stdin=code.encode("utf-8", "replace"), timeout=limit
        )
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        return f"{text}\n[stopped after {limit:g} s]" if done.timed_out else text

    async def calculator(expression: str) -> str:
        """The value of an arithmetic expression: numbers, + - * / // % ** and parentheses."""
        return calculate(expression)

    async def search(query: str) -> str:
        """The passages that fit a query best."""
        told = episode.task.metadata
        return _index(told["corpus"]).search(query, told["passages"], told["words"])

    async def answer(response: str) -> str:
        """Give the answer, and end the episode. In it, `<answer>…</answer>` counts where it is."""
        data = response.encode("utf-8", "replace")
        await episode.workspace.write("response.txt", data)
        await episode.submit()
        return "answered"

    functions: list[Callable[..., Any]] = [python, calculator, answer]
    if "corpus" in episode.task.metadata:
        functions.insert(2, search)
    return [Tool(function) for function in functions]


def calculate(expression: str) -> str:
    """The value as text; `InputError` says what cannot be calculated.

    >>> calculate("(1 + 2) * 3 / 2"), calculate("2 ** 10")
    ('4.5', '1024')
    """
    if len(expression) > 1000:
        raise InputError(f"an expression has at most 1000 characters, got {len(expression)}")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not an arithmetic expression: {expression[:80]!r}") from None
    except (ArithmeticError, TypeError) as error:
        raise InputError(f"cannot calculate {expression[:80]!r}: {error}") from None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value)


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value: Any = node.value
    elif isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        value = OPERATORS[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        value = _power(_value(node.left), _value(node.right))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        value = OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    else:
        raise InputError(f"{ast.unparse(node)[:80]!r} is no arithmetic")
    if isinstance(value, int) and value.bit_length() > BITS:
        raise InputError(f"a number has more than {BITS} bits")
    return value


def _power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and max(1, base.bit_length()) * abs(exponent) > BITS:
        raise InputError(f"a number has more than {BITS} bits")
    return base**exponent


class _Bm25:
    """Passages by BM25."""

    def __init__(self, corpus: Path) -> None:
        try:
            bm25s: Any = importlib.import_module("bm25s")
        except ModuleNotFoundError as error:
            raise InputError("search needs bm25s: pip install 'm2gym[search]'") from error
        titled: dict[str, list[str]] = json.loads(corpus.read_text("utf-8"))
        self.passages = [f"{t}: {''.join(s)}" for t, s in titled.items()]
        self._tokens: Callable[[str], list[str]] = lambda text: re.findall(r"\w+", text.lower())
        self._bm25: Any = bm25s.BM25()
        self._bm25.index([self._tokens(p) for p in self.passages], show_progress=False)

    def search(self, query: str, passages: int, words: int) -> str:
        asked = self._tokens(query)
        if not asked:
            raise InputError("a query holds at least one word")
        count = min(passages, len(self.passages))
        found, _ = self._bm25.retrieve([asked], k=count, show_progress=False)
        text = "\n".join(self.passages[int(n)] for n in found[0])
        kept = text.split(" ")
        return text if len(kept) <= words else " ".join(kept[:words]) + " …"


@lru_cache(maxsize=4)
def _index(corpus: str) -> _Bm25:
    return _Bm25(Path(corpus))


def _tasks(**settings: Any) -> Taskset:
    from m2gym.tasksets.tool_use import tool_use

    return tool_use(**settings)


ENTRY = EnvEntry(
    "tool-use",
    _tasks,
    "short questions with Python, a calculator and search at hand",
    tools=tool_use_tools,
)
