"""Parsing from many threads at once gives trees, not interpreter errors."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest

from m2gym.core.syntax import parse_python

SOURCE = "def f(x):\n" + "".join(f"    x = [(x + {n}) * {n}, {{'a': x}}][0]\n" for n in range(400))


def test_threads_can_parse_at_once():
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(parse_python, [SOURCE] * 64))
    assert {len(tree.body[0].body) for tree in trees} == {400}
    assert all(isinstance(tree, ast.Module) for tree in trees)


def test_bad_source_is_a_syntax_error():
    with pytest.raises(SyntaxError):
        parse_python("def (")
