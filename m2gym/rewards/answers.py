"""Rewards of short answers: exact match after normalising, and ICRL's format.

Both look at the response alone. ICRL's released code scores prompt and response together, and its
prompt holds balanced tags, so that untagged garbage gets the whole format reward: that is what
these functions cannot do, since the prompt never reaches them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from m2gym.core.artifacts import Artifacts
from m2gym.core.verdict import Score
from m2gym.rewards.functions import reward

RESPONSE = "response.txt"
TOOLS = ("search", "python", "calculator")
ARTICLES = frozenset({"a", "an", "the"})
FORMAT_PENALTIES = {
    "no answer pair": 0.5,
    "unbalanced answer tags": 0.2,
    "no think pair": 0.15,
    "unbalanced think tags": 0.1,
    "no tool tag": 0.1,
    "nothing extractable": 0.2,
}
"""What each lack takes from 1 (ICRL, arXiv 2603.08068, its released code)."""


@reward("answer")
def answer(artifacts: Artifacts, expected: str) -> Score:
    """1 where the answer is the expected one: as numbers, else as normalised text."""
    text = artifacts.text(RESPONSE)
    found = extract(text)
    said = text if found is None else found
    return Score(value=float(matches(said, expected)), evidence={"answer": said.strip()[:200]})


@reward("icrl-format")
def icrl_format(
    artifacts: Artifacts,
    tools: tuple[str, ...] = TOOLS,
    penalties: Mapping[str, float] = FORMAT_PENALTIES,
) -> Score:
    """1 less the penalties of what the response lacks, at least 0; those that ``penalties`` leaves
    out are the published ones."""
    lacks = format_faults(artifacts.text(RESPONSE), tools)
    costs = {**FORMAT_PENALTIES, **penalties}
    value = max(0.0, 1.0 - sum(costs[name] for name in lacks))
    return Score(value=round(value, 6), evidence={"lacks": lacks})


def extract(response: str) -> str | None:
    """What stands in the last ``<answer>`` pair; ``None`` without one.

    >>> extract("<answer>3</answer> no: <answer> 4 </answer>")
    '4'
    """
    found = re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", response, re.DOTALL)
    return found[-1].strip() if found else None


def matches(said: str, expected: str) -> bool:
    """Equal as numbers, or as texts without case, articles, punctuation and double spaces.

    >>> matches("1,024.0", "1024"), matches("The  Beatles!", "beatles"), matches("", "x")
    (True, True, False)
    """
    one, other = _number(said), _number(expected)
    if one is not None and other is not None:
        return one == other
    return normalised(said) == normalised(expected) and bool(normalised(said))


def normalised(text: str) -> str:
    """As exact match compares answers."""
    words = "".join(c for c in text.lower() if c not in string.punctuation).split()
    return " ".join(word for word in words if word not in ARTICLES)


def format_faults(response: str, tools: tuple[str, ...]) -> list[str]:
    """Names of `FORMAT_PENALTIES` that a response has."""
    answered = extract(response)
    faults = []
    if answered is None:
        faults.append("no answer pair")
    if response.count("<answer>") != response.count("</answer>"):
        faults.append("unbalanced answer tags")
    if not re.search(r"<think>.*?</think>", response, re.DOTALL):
        faults.append("no think pair")
    if response.count("<think>") != response.count("</think>"):
        faults.append("unbalanced think tags")
    if not any(f"<{tool}>" in response for tool in tools):
        faults.append("no tool tag")
    if not answered:
        faults.append("nothing extractable")
    return faults


def _number(text: str) -> Decimal | None:
    plain = text.strip().replace(",", "").removeprefix("$").removesuffix("%").strip()
    if not re.fullmatch(r"[-+]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})", plain):
        return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None
