import ast
import random
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.tasksets.edits.mutate import mutate, places
from m2gym.tasksets.edits.operators import OPERATORS

STDLIB = Path(sysconfig.get_path("stdlib"))
REAL = [STDLIB / name for name in ("textwrap.py", "heapq.py", "shlex.py", "json/decoder.py")]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_mutant_parses_and_differs_at_its_place_only(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(REAL)).read_bytes()
    name = data.draw(st.sampled_from(sorted(OPERATORS)))
    found = places(source, name)
    if not found:
        return
    number = data.draw(st.integers(0, len(found) - 1))
    seed = data.draw(st.integers(0, 5))
    mutant = mutate(source, name, number, seed)
    where = found[number]
    assert ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(source))
    assert mutant[: where.start] == source[: where.start]
    assert mutant[len(mutant) - (len(source) - where.end) :] == source[where.end :]
    assert mutate(source, name, number, seed) == mutant


def test_every_operator_finds_places_in_real_code() -> None:
    sources = [path.read_bytes() for path in (*REAL, STDLIB / "argparse.py")]
    for name in OPERATORS:
        assert sum(len(places(source, name)) for source in sources) > 2, name


def test_at_least_ten_operators() -> None:
    assert len(OPERATORS) >= 10


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("comparison", "if a  <  b: pass", {"if a  <=  b: pass", "if a  >  b: pass"}),
        ("comparison", "x = a is not b", {"x = a is b"}),
        ("comparison", "x = a not in b", {"x = a in b"}),
        ("off-by-one", "x = y[1:]", {"x = y[2:]", "x = y[0:]"}),
        ("wrong-variable", "def f(a, b):\n    return a", {"def f(a, b):\n    return b"}),
        (
            "dropped-guard",
            "def f(a):\n    if a:\n        return 1\n    return 2\n",
            {"def f(a):\n    return 2\n"},
        ),
        ("dropped-guard", "for i in j:\n    if i: break\n", {"for i in j:\n    pass\n"}),
        ("swapped-arguments", "f(a,  b + 1)", {"f(b + 1,  a)"}),
        ("negated-condition", "x = 1 if y else 2", {"x = 1 if not y else 2"}),
        ("negated-condition", "while not y: pass", {"while y: pass"}),
        ("wrong-default", "def f(a=True): pass", {"def f(a=False): pass"}),
        ("lost-return", "def f(): return g()", {"def f(): g()"}),
        (
            "wrong-exception",
            "raise KeyError('a')",
            {
                f"raise {e}('a')"
                for e in ("ValueError", "TypeError", "IndexError", "AttributeError")
            },
        ),
        ("removed-copy", "x = list(y)", {"x = y"}),
        ("removed-copy", "x = y[:]", {"x = y"}),
        ("removed-copy", "x = copy.copy(y)", {"x = y"}),
        ("and-or", "x = a and b", {"x = a or b"}),
    ],
)
def test_operators(name: str, source: str, expected: set[str]) -> None:
    mutants = {mutate(source.encode(), name, 0, seed).decode() for seed in range(40)}
    assert mutants == expected


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dropped-guard", "if a:\n    return_()\n"),
        ("dropped-guard", "def f(a):\n    if a:\n        return 1\n    else:\n        b()\n"),
        ("dropped-guard", "def f(a):\n    if b: c()\n    elif a:\n        return 1\n"),
        ("wrong-variable", "def f(a):\n    return a"),
        ("swapped-arguments", "f(*a, b)"),
        ("off-by-one", "x = 1"),
        ("removed-copy", "x = list(y, z)"),
        ("removed-copy", "del y[:]"),
        ("removed-copy", "y[:] = z"),
        ("wrong-default", "def f(a=None): pass"),
    ],
)
def test_where_an_operator_has_no_place(name: str, source: str) -> None:
    assert places(source.encode(), name) == []


def test_text_before_a_place_may_be_of_many_bytes() -> None:
    source = "x = 'äöü€' if a < 1 else '漢字'\r\ny = 2\r\n".encode()
    assert "x = 'äöü€' if a <= 1" in {
        mutate(source, "comparison", 0, seed).decode()[: len("x = 'äöü€' if a <= 1")]
        for seed in range(9)
    }


@pytest.mark.parametrize(
    "source",
    [
        b"x = = 1",
        b"# -*- coding: latin-1 -*-\nx = a < '\xe4'\n",
        b"\n# vim: set fileencoding=cp1252 :\nx = a < b\n",
        b"x = a < '\xe4'",
        b"\xef\xbb\xbfx = a < b",
        b"x = a < b\0",
    ],
)
def test_what_is_no_python_in_utf8_has_no_places(source: bytes) -> None:
    assert places(source, "comparison") == []


def test_utf8_may_be_declared() -> None:
    assert len(places(b"# -*- coding: utf-8 -*-\nx = a < b\n", "comparison")) == 1


def test_an_unknown_operator_names_the_nearest_and_a_place_beyond_the_last_is_refused() -> None:
    with pytest.raises(UnknownIdError, match="'comparison'"):
        places(b"", "comparisn")
    with pytest.raises(InputError, match="has 1 places"):
        mutate(b"a < b", "comparison", random.randint(1, 9))
