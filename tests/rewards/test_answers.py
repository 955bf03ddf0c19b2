"""Short answers and ICRL's format, each on the response alone."""

from __future__ import annotations

import pytest

from m2gym.core.artifacts import Artifacts
from m2gym.rewards.answers import answer, extract, icrl_format, matches
from m2gym.scaffolds.icrl import INSTRUCTIONS

GOOD = "<think>why</think>\n<search>q</search>\n<think>so</think>\n<answer>42</answer>"


def scores(text, expected="42"):
    files = Artifacts({"response.txt": text.encode()})
    return answer(files, expected).value, icrl_format(files).value


def total(text):
    accuracy, form = scores(text)
    return 0.8 * accuracy + 0.2 * form


def test_the_published_defect_untagged_garbage_gets_no_format_reward():
    """The released code scored the prompt too, whose tags are balanced: garbage got 0.2 in all."""
    assert INSTRUCTIONS.count("<answer>") == INSTRUCTIONS.count("</answer>") == 1
    assert total("garbage without a tag") == pytest.approx(0.2 * 0.05)
    assert icrl_format(Artifacts({"response.txt": (INSTRUCTIONS + GOOD).encode()})).value == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (GOOD, 1.0),
        (GOOD.replace("<search>q</search>", ""), 0.9),
        (GOOD.replace("<think>why</think>", "<think>why"), 0.9),
        (GOOD.replace("think", "thought"), 0.85),
        (GOOD.replace("</answer>", ""), 0.1),
        (GOOD + "</answer>", 0.8),
        (GOOD.replace("42", " "), 0.8),
        ("", 0.05),
    ],
)
def test_each_lack_costs_what_is_published(text, value):
    assert scores(text)[1] == pytest.approx(value)


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        ("42", "42", True), ("42.0", "42", True), ("$1,200", "1200", True), ("-3", "-3", True),
        ("3", "-3", False), ("The Beatles", "beatles!", True), ("", "", False), ("a", "the", False),
        ("1e999999999", "1", False), ("NaN", "nan", True), ("42 apples", "42", False),
        ("9" * 5000, "9", False), ("½", "0.5", False),
    ],
)  # fmt: skip
def test_exact_match(said, expected, same):
    assert matches(said, expected) is same


def test_the_last_answer_counts_and_text_without_tags_is_the_answer():
    assert extract("<answer>1</answer><answer>2</answer>") == "2"
    assert extract("<answer><answer>3</answer>") == "3"
    assert extract("<answer>4") is None
    assert scores("42")[0] == 1.0
    assert scores("it is <answer>41</answer> or 42")[0] == 0.0
