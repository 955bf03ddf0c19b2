"""What is said of a failing test whose expression alone says too little."""

from typing import Any

from m2gym.tasksets.statements.evidence import FailingTests
from m2gym.tasksets.statements.retell import retell
from m2gym.tasksets.statements.scene import MAX_HELPER_LINES, scene, title

LONG = "\n".join(f"    def m{n}(self):\n        return {n}" for n in range(MAX_HELPER_LINES))
TEXT = f'''import pytest
from tiny import Version, size

LIMIT = 4


class Prefixed(Version):
    """Says v."""

    def __str__(self):
        """Its text."""
        return "v" + super().__str__()


class Long(Version):
{LONG}


class TestVersion:
    def setUp(self):
        self.start = Version(1)

    def test_replace(self):
        """No word of this."""
        version = Prefixed(LIMIT)
        assert version.number == 4
        dev = version.replace(self.start)
        assert str(dev) == "v1"

    def test_long(self):
        assert Long(1).text == "x"


@pytest.mark.parametrize("n", [1, 2])
def test_sizes(n):
    for k in range(n):
        assert size(k) == k


def test_deep():
    check(size(1))


def check(value):
    assert value == 2
'''
COMPARED: dict[str, Any] = {
    "kind": "compared",
    "sign": "Eq",
    "got": "'1'",
    "expected": "'v1'",
    "got_type": "str",
    "expected_type": "str",
    "open": ["Prefixed"],
}


def _tests(*names: str, **messages: str) -> FailingTests:
    ids = tuple(f"t.py::{name}" for name in names)
    reports = {f"t.py::{name}": text for name, text in messages.items()}
    return FailingTests(ids, {"t.py": TEXT}, ("tiny",), reports)


def _line(text: str) -> int:
    return next(n for n, line in enumerate(TEXT.splitlines(), 1) if text in line)


def test_the_lines_that_lead_to_a_failure_are_shown_with_their_helpers() -> None:
    facts = {**COMPARED, "raw": "str(dev)", "line": _line("assert str(dev)")}
    test = "TestVersion::test_replace"
    text = scene(_tests(test), f"t.py::{test}", facts)
    assert text is not None
    assert "**Replace.**" in text
    assert "class Prefixed(Version):" in text
    assert "LIMIT = 4" in text
    assert "start = Version(1)" in text
    assert "dev = version.replace(start)" in text
    assert "`str(dev)`" in text
    assert "`'1'`" in text
    assert "`'v1'`" in text
    for noise in ("Says v", "No word", "assert ", "self.start", "import"):
        assert noise not in text


def test_a_long_helper_is_told_by_what_it_is() -> None:
    facts = {**COMPARED, "raw": "Long(1).text", "line": _line("Long(1).text")}
    text = scene(_tests("TestVersion::test_long"), "t.py::TestVersion::test_long", facts)
    assert text is not None
    assert "`Long` is the caller's own: a subclass of `Version` with `m0`, `m1`" in text
    assert "def m3" not in text


def test_a_loop_and_what_a_test_was_given_are_shown() -> None:
    facts = {**COMPARED, "raw": "size(k)", "line": _line("assert size(k)"), "given": {"n": "2"}}
    text = scene(_tests("test_sizes[2]"), "t.py::test_sizes[2]", facts)
    assert text is not None
    assert "**Sizes [2].**" in text
    assert "n = 2\n  for k in range(n):" in text


def test_what_a_helper_saw_is_told_by_the_report() -> None:
    tests = _tests("test_deep", test_deep="value = 1\nE   assert 1 == 2\nE    +  where 1 = f()")
    text = scene(tests, "t.py::test_deep", {**COMPARED, "raw": "value", "line": 45, "deep": True})
    assert text is not None
    assert "where" not in text
    assert "`assert 1 == 2`" in text


def test_an_import_that_fails_is_told_with_what_must_work() -> None:
    report = "E   ImportError: cannot import name 'size' from 'tiny' (/workspace/tiny.py)"
    tests = FailingTests(("t.py::test_deep",), {"t.py": TEXT}, ("tiny",), {"t.py": report})
    text = retell("tiny", tests, {})
    assert "`from tiny import size` fails: there is no such name yet." in text
    assert "check(size(1))" in text
    assert "/workspace" not in text


def test_sentences_come_first_and_other_failures_after_them() -> None:
    tests = _tests("TestVersion::test_replace", "TestVersion::test_long", "other")
    plain = {**COMPARED, "call": "size(1)", "api": ["size"], "open": [], "raw": "size(1)"}
    facts = {"t.py::TestVersion::test_replace": plain}
    text = retell("tiny", tests, facts)
    first, _, rest = text.partition("Seen as well:")
    assert "`size(1)`" in first
    assert "**Long.**" in rest
    assert "“Other”" in rest


def test_a_test_that_a_class_inherits_is_found() -> None:
    text = TEXT + "\n\nclass TestMore(TestVersion):\n    pass\n"
    test = "t.py::TestMore::test_replace"
    tests = FailingTests((test,), {"t.py": text}, ("tiny",))
    facts = {**COMPARED, "raw": "str(dev)", "line": _line("assert str(dev)")}
    said = scene(tests, test, facts)
    assert said is not None
    assert "dev = version.replace(start)" in said


def test_what_a_check_says_of_itself_is_quoted() -> None:
    tests = _tests("gone", gone="E   AssertionError: got 3 but expected one of {4}")
    said = scene(tests, "t.py::gone", None)
    assert said == "- **Gone.** The check fails and says: `got 3 but expected one of {4}`."


def test_titles() -> None:
    assert title("t.py::TestX::test_emptyInput_two[a b]") == "Empty Input two [a b]"
    assert title("t.py::test") == "Test"
