"""Statement checks: what they find, what they leave alone, and all shipped statements."""

from __future__ import annotations

import re

import pytest

from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.statements.check import (
    FailingTests,
    Finding,
    Fix,
    check_statement,
    check_task,
    leaks,
    main,
    repository_fix,
    sufficiency,
)
from m2gym.tasksets.swe_repo.shipped import SweRepo, build, recipes
from tests.tasksets.conftest import QUICK

EVERY = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.heavy) for name in recipes() if name not in QUICK),
]
DIFF = """\
diff --git a/src/shop/_basket.py b/src/shop/_basket.py
--- a/src/shop/_basket.py
+++ b/src/shop/_basket.py
@@ -10,7 +10,8 @@ def _sum_items(items):
     rounding = context
-    return sum(item.price * item.number for item in items) - rebate
+    # a rebate_comment only here
+    net = sum(item.price * item.number for item in items)
+    return max(net - rebate, ZERO_FLOOR)
"""

TEST = """\
import pytest
from shop import Basket, total

LIMIT = 3


@pytest.fixture
def basket():
    return Basket(price=4)


class TestTotal:
    def setup_method(self):
        self.rebate = 5

    @pytest.mark.parametrize("number", [1, 2])
    def test_rebate(self, basket, number):
        basket.add_many(number, LIMIT)
        assert total(basket, rebate=self.rebate) == 0

    def test_other(self):
        assert unseen_elsewhere == 1
"""

TESTS = FailingTests(
    ("tests/test_b.py::TestTotal::test_rebate[1]",), {"tests/test_b.py": TEST}, ("shop",)
)
ORIGINAL = {"src/shop/__init__.py": "from ._basket import *", "src/shop/_basket.py": """
class Basket:
    def add_many(self, number, limit):
        raise ValueError(f"the basket holds at most {limit} items of a kind")
def total(basket, rebate, price=0): ...
"""}  # fmt: skip
GOOD = "A `rebate` that is higher than the price gives a total below 0; `total()` must then give 0."


def what(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.check, f.what) for f in findings]


def test_a_statement_of_behaviour_leaks_nothing_and_is_sufficient() -> None:
    assert leaks(GOOD, DIFF, TESTS) == []
    assert sufficiency(GOOD, TESTS, ORIGINAL) == []


@pytest.mark.parametrize(
    ("addition", "found"),
    [
        ("Use `ZERO_FLOOR`.", ("identifier", "ZERO_FLOOR")),
        ("Take ZERO_FLOOR as the least.", ("identifier", "ZERO_FLOOR")),
        ("It is wrong in `_sum_items`.", ("identifier", "_sum_items")),
        ("A call of max() is missing, and net() is new.", ("identifier", "max")),
        ("Write\n\n    return max(net -  rebate, x)\n\nthere.", ("identifier", "net")),
        ("See src/shop/_basket.py.", ("path", "src/shop/_basket.py")),
        ("See `_basket.py`, please.", ("path", "_basket.py")),
        ("It lies in shop._basket somewhere.", ("path", "shop._basket")),
    ],
)
def test_leaks_are_found_at_their_place(addition: str, found: tuple[str, str]) -> None:
    findings = leaks(f"{GOOD}\n\n{addition}", DIFF, TESTS)
    assert found in what(findings)
    line = {f.what: f.place for f in findings}[found[1]]
    assert line in ("line 3", "line 5")


@pytest.mark.parametrize("line", ["if salt is None:", "if headers:", "'DIV': tokens.Operator,"])
def test_a_whole_short_line_of_the_fix_is_a_leak(line: str) -> None:
    fix = Fix((), (f"        {line}  # why",))
    assert ("line", f"{line}  # why") in what(leaks(f"Write\n\n    {line}\n", fix, TESTS))
    assert leaks("If salt is none, if headers and DIV: tokens.", fix, TESTS) == []


def test_a_pattern_or_other_string_of_the_fix_is_a_leak() -> None:
    fix = Fix((), (r"RE = r'(\*)\1(?!\1)([^*]+?)'",))
    assert [f.check for f in leaks(r"Match (\*)\1(?!\1) then.", fix, TESTS)] == ["line"]


def test_a_piece_of_a_fixed_line_is_a_leak_even_of_shown_names() -> None:
    shown = FailingTests(TESTS.ids, {"tests/test_b.py": TEST + "# item price number items sum"})
    text = "Now sum(item . price*item.number for all) is given back."
    assert ("line", "return sum(item.price * item.number for item in items) - rebate") in what(
        leaks(text, DIFF, shown)
    )


@pytest.mark.parametrize(
    "text",
    [
        "The net price is what max may sum, context and rounding aside.",  # plain words
        "A `rebate` in `Basket` and `LIMIT`: `TestTotal` shows them.",  # shown by the test
        "`ValueError`, `None` and `float` belong to the language.",
        "The `rebate_comment` stands in a comment only.",
        "`unrelated_name` and `rounding` are not in changed lines.",
    ],
)
def test_what_is_no_leak(text: str) -> None:
    assert leaks(text, DIFF, TESTS) == []


def test_names_of_other_tests_of_the_file_are_not_shown() -> None:
    fix = Fix((), ("    unseen_elsewhere = basket",))
    assert what(leaks("`unseen_elsewhere`", fix, TESTS)) == [("identifier", "unseen_elsewhere")]
    other = FailingTests(("tests/test_b.py::TestTotal::test_other",), TESTS.files)
    assert leaks("`unseen_elsewhere`", fix, other) == []


def test_failure_messages_show_names_but_not_the_code_they_went_through() -> None:
    report = "src/shop/_basket.py:11: in _sum_items\n    ZERO_FLOOR\nE   got rounding_x for 3"
    tests = FailingTests(TESTS.ids, TESTS.files, ("shop",), {TESTS.ids[0]: report})
    fix = Fix((), ("rounding_x = ZERO_FLOOR",))
    assert what(leaks("rounding_x and ZERO_FLOOR", fix, tests)) == [("identifier", "ZERO_FLOOR")]


def test_fix_of_files_names_the_definitions_around_the_change() -> None:
    before = {
        "a.py": "class A:\n    def f(self):\n        return 1\n    def g(self):\n        return 2\n"
    }
    after = {"a.py": before["a.py"].replace("2", "two")}
    fix = Fix.of_files(before, after)
    assert fix.scopes == {"A", "g"}
    assert (fix.removed, fix.added) == (("        return 2",), ("        return two",))
    assert Fix.of_files(before, {}).paths == ("a.py",)


@pytest.mark.parametrize(
    ("line", "found", "cure"),
    [
        ("from shop import refund", ("name", "refund"), "`refund`"),
        ("basket.give_back(1)", ("name", "give_back"), "`give_back`"),
        ("total(basket, currency='x')", ("argument", "currency"), "`currency`"),
        ("pytest.raises(shop.EmptyError)", ("exception", "EmptyError"), "`EmptyError`"),
        ("pytest.raises(LookupError)", ("exception", "LookupError"), "`LookupError`"),
        (
            "pytest.raises(ValueError, match=r'^no items \\(0\\) in it')",
            ("message", " no items (0) in it"),
            "the message `no items (0) in it`",
        ),
        (
            "assert str(error.value) == 'the basket is empty now'",
            ("message", "the basket is empty now"),
            "'The basket is empty now'",
        ),
    ],
)
def test_what_a_failing_test_demands_must_be_said(
    line: str, found: tuple[str, str], cure: str
) -> None:
    body = f"import pytest, shop\nfrom shop import total\n\ndef test_price(basket):\n    {line}\n"
    tests = FailingTests(("t.py::test_price",), {"t.py": body}, ("shop",))
    statement = "The price of a basket is not what was agreed upon with the customers."
    findings = sufficiency(statement, tests, ORIGINAL)
    assert found in what(findings)
    assert findings[0].place == "t.py::test_price"
    assert found not in what(sufficiency(f"{statement} See {cure}.", tests, ORIGINAL))


@pytest.mark.parametrize(
    "line",
    [
        "basket.add_many(1, 2)",  # the original has it
        "'a'.casefold().partition(' ')",  # the language has it
        "json.dumps(basket, indent=3).x.y",  # others have it
        "pytest.raises(ValueError, match='basket holds at most 3 items of a kind')",
        "assert str(error) == 'the basket holds at most 12 items of a kind'",
        "out = subprocess.run(basket, check=True); out.returncode",
    ],
)
def test_what_the_original_and_others_show_need_not_be_said(line: str) -> None:
    body = f"import pytest, json, subprocess\n\ndef test_price(basket):\n    {line}\n"
    tests = FailingTests(("t.py::test_price",), {"t.py": body}, ("shop",))
    findings = sufficiency("The price is not what was agreed upon, it is lower.", tests, ORIGINAL)
    assert {f.check for f in findings} <= {"shown"}


def test_every_failing_test_is_referred_to() -> None:
    body = "def test_price():\n    assert total() == 3\n\ndef test_unicode():\n    assert x('ä')\n"
    tests = FailingTests(("t.py::test_price", "t.py::test_unicode"), {"t.py": body})
    findings = sufficiency("The price, `total()`, is not what was agreed upon.", tests, ORIGINAL)
    assert what(findings) == [("covered", "t.py::test_unicode")]


def test_the_exception_that_did_not_come_must_be_named() -> None:
    report = "E   Failed: DID NOT RAISE <class 'ValueError'>"
    tests = FailingTests(TESTS.ids, TESTS.files, ("shop",), {TESTS.ids[0]: report})
    assert what(sufficiency(GOOD, tests, ORIGINAL)) == [("raised", "ValueError")]
    assert sufficiency(f"{GOOD} Else a ValueError.", tests, ORIGINAL) == []


def test_short_texts_and_hidden_files_are_refused() -> None:
    findings = sufficiency("Make test_b.py pass: rebate", TESTS, ORIGINAL)
    assert {f.check for f in findings} == {"length", "self-contained", "shown"}


def test_unparsable_test_files_are_read_as_text() -> None:
    tests = FailingTests(("tests/test_old.py::test_x",), {"tests/test_old.py": "print 'a_name'"})
    fix = Fix((), ("a_name = b_name",))
    assert what(leaks("a_name, b_name", fix, tests)) == [("identifier", "b_name")]
    assert sufficiency("A text that is long enough to say what is wrong.", tests, ORIGINAL) == []


SUBCLASS = (
    "from semver import Version\n\n"
    "def test_replace_from_subclass():\n"
    "    version = Prefixed.parse('v1.1.0').replace(prerelease='dev.0')\n"
    "    assert str(version) == 'v1.1.0-dev.0'\n"
)


def test_a_report_of_a_test_is_no_statement() -> None:
    """Seen once: the words of a test's name, and what pytest wrote below."""
    text = (
        "semver does not behave as its users expect. This was seen:\n\n"
        "- When checking “replace from subclass”, the outcome is:\n\n"
        "      AssertionError: assert '1.1.0-dev.0' == 'v1.1.0-dev.0'\n      \n"
        "      - v1.1.0-dev.0\n      ? -\n      + 1.1.0-dev.0\n"
    )
    tests = FailingTests(("t.py::test_replace_from_subclass",), {"t.py": SUBCLASS}, ("semver",))
    found = what(sufficiency(text, tests, {}))
    assert ("readable", "AssertionError: assert") in found
    good = (
        "Where a subclass has a `parse` of its own, `replace` loses it: with `parse('v1.1.0')` the "
        "text of `replace(prerelease='dev.0')` is '1.1.0-dev.0'."
    )
    assert not {"readable", "shown"} & {f.check for f in sufficiency(good, tests, {})}


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("```\nversion.replace(prerelease='dev.0')\n```\n`parse`", "readable"),
        ("Something about versions of subclasses is wrong, replace gives another.", "shown"),
        ("The version of a subclass is wrong with `something_else(1)`, see below.", "shown"),
    ],
)
def test_what_nobody_can_understand_is_found(text: str, check: str) -> None:
    tests = FailingTests(("t.py::test_replace_from_subclass",), {"t.py": SUBCLASS}, ("semver",))
    assert check in {f.check for f in sufficiency(text, tests, {})}


def test_a_quoted_error_is_an_observation() -> None:
    fix = Fix((), ("def process(text, parse_it=False):",))
    assert leaks("It ends in `TypeError: process() got 'parse_it'`.", fix, TESTS) == []
    assert what(leaks("Give it `parse_it`.", fix, TESTS)) == [("identifier", "parse_it")]


def test_data_files_are_shown_by_tests_made_from_them() -> None:
    fix = Fix((), ("return '<b class=\"x\">' + new_name",))
    files = {"tests/test_d.py": "load('d.txt', Cases)", "tests/d.txt": '<b class="x">', "c.py": ""}
    text = 'The page gets `<b class="x">`, not `new_name`.'
    made = FailingTests(("tests/test_d.py::Cases::test_1",), files)
    assert what(leaks(text, fix, made)) == [("identifier", "new_name")]
    written = FailingTests(TESTS.ids, {**TESTS.files, **files})
    assert {f.check for f in leaks(text, fix, written)} == {"identifier", "line"}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("task_id", EVERY)
def test_shipped_statements(task_id: str, real_cache: Cache) -> None:
    taskset = SweRepo(real_cache)
    assert check_task(taskset, task_id) == []
    recipe = taskset.recipe(task_id)
    built = build(recipe, real_cache)
    fix = repository_fix(built)
    changed = [line.strip() for line in fix.added or fix.removed]
    secret = max(changed, key=lambda line: (not line.startswith("#"), "(" in line, len(line)))
    if len(re.findall(r"\w+|\S", secret)) < 3:
        return
    given_away = f"{recipe.statement}\n\n    {secret}"
    assert check_statement(given_away, built, recipe.fail_to_pass) != []


@pytest.mark.usefixtures("registry")
def test_the_command_prints_what_it_finds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(QUICK[:1]) == 0
    assert capsys.readouterr().out == "1 statements, 0 findings\n"
