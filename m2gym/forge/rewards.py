"""Reward of a step: r = alpha * process + beta * speed + performance [M2 (arXiv 2605.26494) 6].

Process punishes malformed tool calls and mixed languages and rewards well-formed reasoning; speed
is h(T / T_baseline) with h decreasing; performance is the verdict. alpha, beta, h and T_baseline
are undisclosed: the constants below are this project's choice, and every function takes its own.

Only the response is scored, never prompt and response together: a prompt that holds balanced tags
would lend them to a response that has none (a defect of ICRL's released code).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from m2gym.core.errors import InputError

ALPHA = 0.1
"""Weight of the process reward: this project's choice."""
BETA = 0.1
"""Weight of the speed reward: this project's choice."""
MALFORMED_CALL = -1.0
"""Process reward of a completion all of whose tool calls are malformed: this project's choice."""
LANGUAGE_MIXING = -0.5
"""Process reward of a response half of whose letters are foreign: this project's choice."""
STRUCTURE = 0.2
"""Process reward of well-formed reasoning: this project's choice."""


@dataclass(frozen=True)
class ProcessSignals:
    """What the process reward looks at, of one response.

    ``calls``: tool calls attempted; ``malformed``: those that did not parse or validate;
    ``mixing``: share of letters in a script not asked for; ``structured``: reasoning well-formed.
    """

    calls: int
    malformed: int
    mixing: float
    structured: bool

    def __post_init__(self) -> None:
        if not 0 <= self.malformed <= self.calls or not 0 <= self.mixing <= 1:
            raise InputError(
                f"expected 0 <= malformed <= calls and mixing in [0, 1], got {self.malformed}, "
                f"{self.calls}, {self.mixing}"
            )


def script_of(letter: str) -> str:
    """First word of the letter's Unicode name: LATIN, CYRILLIC, CJK, HIRAGANA …

    >>> script_of("a"), script_of("я")
    ('LATIN', 'CYRILLIC')
    """
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0]


def language_mixing(response: str, allowed: frozenset[str] = frozenset({"LATIN"})) -> float:
    """Share of the response's letters whose script is not ``allowed``; 0 without letters.

    Greek letters are allowed always: mathematics uses them.
    """
    letters = [c for c in response if c.isalpha()]
    foreign = [c for c in letters if script_of(c) not in allowed and script_of(c) != "GREEK"]
    return len(foreign) / len(letters) if letters else 0.0


def reasoning_structure(response: str, opened: bool = True) -> bool:
    """Whether ``<think>`` is closed exactly once, with something in it and something after it.

    ``opened``: the prompt ended with ``<think>``, as MiniMax-M2's generation prompt does.
    """
    opens, closes = response.count("<think>"), response.count("</think>")
    if closes != 1 or opens != (0 if opened else 1):
        return False
    before, _, after = response.partition("</think>")
    if not opened and not before.lstrip().startswith("<think>"):
        return False
    return bool(before.replace("<think>", "").strip()) and bool(after.strip())


def process_reward(
    signals: ProcessSignals,
    *,
    malformed: float = MALFORMED_CALL,
    mixing: float = LANGUAGE_MIXING,
    structure: float = STRUCTURE,
) -> float:
    """Weighted sum of the signals; mixing counts in full from one half foreign letters on.

    >>> process_reward(ProcessSignals(calls=2, malformed=1, mixing=0.0, structured=True))
    -0.3
    """
    share = signals.malformed / signals.calls if signals.calls else 0.0
    value = malformed * share + mixing * min(1.0, 2 * signals.mixing)
    return value + (structure if signals.structured else 0.0)


def halving(x: float) -> float:
    """h(x) = 2 ** -x: 1 at once, one half at the baseline's time. This project's choice."""
    return math.exp2(-x)


def speed_reward(
    seconds: float, baseline_seconds: float, h: Callable[[float], float] = halving
) -> float:
    """h(T / T_baseline); the baseline is this project's choice: the group's median time.

    >>> speed_reward(30.0, 30.0)
    0.5
    """
    if not (math.isfinite(seconds) and seconds >= 0 and baseline_seconds > 0):
        raise InputError(
            f"expected a time >= 0 and a baseline > 0, got {seconds} and {baseline_seconds}"
        )
    return h(seconds / baseline_seconds)


def combine(
    performance: float,
    process: float = 0.0,
    speed: float = 0.0,
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    speed_needs_success: bool = True,
) -> float:
    """alpha * process + beta * speed + performance.

    ``speed_needs_success`` (this project's choice): a speed reward is paid in proportion to the
    performance, so that failing fast earns nothing.
    """
    for name, value in (("performance", performance), ("process", process), ("speed", speed)):
        if not math.isfinite(value):
            raise InputError(f"the {name} reward is {value}; mask the trajectory instead")
    paid = speed * max(0.0, min(1.0, performance)) if speed_needs_success else speed
    return alpha * process + beta * paid + performance
