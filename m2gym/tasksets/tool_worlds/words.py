"""Invented words, and which of them are held out of training."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2s
from random import Random

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
ENDS = ("", "", "", "", "l", "n", "r", "s", "m", "k")
SHARE = 8
"""One in so many words, pieces of syntax and syntaxes is held out; the project's choice."""


@lru_cache(maxsize=1 << 18)
def held_out(text: str) -> bool:
    """Whether a text belongs to what training never sees: by hash, the same everywhere.

    >>> held_out("bada"), sum(held_out(f"w{n}") for n in range(8000)) in range(900, 1100)
    (False, True)
    """
    return blake2s(text.encode(), digest_size=2).digest()[0] % SHARE == 0


def word(random: Random, held: bool = False) -> str:
    """A word of two or three syllables."""
    while True:
        count = 2 if random.random() < 0.75 else 3
        found = "".join(_syllable(random) for _ in range(count))
        if held_out(found) == held:
            return found


def hashed_word(*parts: str) -> str:
    """A word that follows from ``parts`` and cannot be guessed.

    >>> hashed_word("a", "b") == hashed_word("a", "b") != hashed_word("b", "a")
    True
    """
    return word(Random("\x1f".join(parts)))


def _syllable(random: Random) -> str:
    return random.choice(CONSONANTS) + random.choice(VOWELS) + random.choice(ENDS)
