from typing import Any

import pytest

from m2gym.tasksets.statements.describe import describe

WRONG: dict[str, Any] = {
    "kind": "compared",
    "sign": "Eq",
    "call": "f(1)",
    "api": ["f"],
    "got": "2",
    "expected": "3",
    "got_type": "int",
    "expected_type": "int",
}


def test_the_same_facts_and_seed_give_the_same_words() -> None:
    texts = {describe("p", {"t": WRONG}, seed) for seed in range(30)}
    assert len(texts) > 3
    assert describe("p", {"t": WRONG}, 1) == describe("p", {"t": WRONG}, 1)
    for text in texts:
        assert text is not None
        assert "`f(1)`" in text
        assert "`2`" in text
        assert "`3`" in text


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": "failed", "call": "f(1)", "api": ["f"]},
        {**WRONG, "got": "<p.Thing object>", "expected": "<p.Thing object>"},
        {**WRONG, "open": ["x"]},
        {**WRONG, "call": "x"},
        {**WRONG, "api": []},
        {"kind": "raised", "raised": {"type": "ValueError", "message": "no"}},
        {**WRONG, "got": "3"},
    ],
)
def test_what_shows_no_behaviour_is_not_told(facts: dict[str, Any]) -> None:
    assert describe("p", {"t": facts}) is None


def test_many_failures_are_a_few_examples_and_a_mention_of_others() -> None:
    facts = {f"t{n}": {**WRONG, "call": f"f({n})", "got": str(n)} for n in range(10, 18)}
    text = describe("p", facts)
    assert text is not None
    assert text.count("\n- ") == 3
    assert "same trouble" in text


def test_long_texts_are_shown_where_they_part() -> None:
    got, expected = "a" * 300 + "X" + "b" * 300, "a" * 300 + "Y" + "b" * 300
    text = describe(
        "p",
        {"t": {**WRONG, "got": repr(got), "expected": repr(expected), "texts": [got, expected]}},
    )
    assert text is not None
    assert "character 301" in text
    assert len(text) < 400


def test_backticks_in_values_keep_the_markup_whole() -> None:
    text = describe("p", {"t": {**WRONG, "got": "'`a`'"}})
    assert text is not None
    assert "`` '`a`' ``" in text


SHOWN = "def twice(g, n):\n    return g(n)"


def test_a_helper_is_shown_only_where_no_other_example_does() -> None:
    helped = {
        **WRONG,
        "call": "twice(f, 1)",
        "notes": {"twice": SHOWN},
    }
    alone = describe("p", {"t": helped})
    assert alone is not None
    assert f"`twice` is the caller's own:\n\n```python\n{SHOWN}\n```" in alone
    both = describe("p", {"t": helped, "u": {**WRONG, "call": "f(22)"}})
    assert both is not None
    assert "```" not in both
    assert "twice" not in both


def test_the_same_failure_is_told_once() -> None:
    text = describe("p", {f"t{n}": {**WRONG, "call": "f(1)"} for n in range(9)})
    assert text is not None
    assert text.count("f(1)") == 1


def test_what_needs_an_explanation_is_not_mentioned_without_it() -> None:
    facts = {f"t{n}": {**WRONG, "call": f"f({n})"} for n in range(3)}
    facts["u"] = {**WRONG, "call": "f(text)", "origins": {"text": repr("x" * 120)}}
    text = describe("p", facts)
    assert text is not None
    assert "f(text)" not in text


@pytest.mark.parametrize(
    ("path", "got", "expected", "said"),
    [
        ("['a']", "{}", "{'b': 1}", "lacks `{'b': 1}` at `['a']`"),
        ("", "{}", "{'b': 1}", "lacks `{'b': 1}`."),
        ("", "{'c': 2}", "{}", "has `{'c': 2}`, which does not belong there"),
        ("", "{'c': 2}", "{'b': 1}", "`{'c': 2}` is in it, in the place of `{'b': 1}`"),
    ],
)
def test_items_that_are_lacking_are_named(path: str, got: str, expected: str, said: str) -> None:
    facts = {**WRONG, "got": f"{got} ", "expected": expected, "part": [path, got, expected]}
    text = describe("p", {"t": facts})
    assert text is not None
    assert said in text
