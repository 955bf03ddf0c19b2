"""How a world writes its calls: an open set of frames, separators and orders.

open name after_name argument between argument close        <<kolu|mira;tabo>>
open argument between argument after_name name close        [mira, tabo to kolu]
with keys: key sign argument                                kolu(key=mira, table=tabo)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from m2gym.tasksets.tool_worlds.words import held_out, word

MARKS = "!#$%&*+,-./:;<=>?@[]^_{|}~()\"'\\"
MIRROR = str.maketrans("()[]{}<>/\\", ")(][}{><\\/")
COMMON = (" ", ", ")
NAME = "{name}"


@dataclass(frozen=True)
class Syntax:
    """One way of writing calls; ``close`` may hold ``{name}``, the tool's name.

    >>> s = Syntax("<<", ">>", "|", ";")
    >>> s.write("kolu", [("key", "mira"), ("table", "tabo")])
    '<<kolu|mira;tabo>>'
    >>> s.parse("<<kolu|mira;tabo>>", "kolu", ["key", "table"])
    ('mira', 'tabo')
    """

    open: str
    close: str
    after_name: str
    between: str
    sign: str | None = None
    name_last: bool = False

    def write(self, name: str, arguments: Sequence[tuple[str, str]]) -> str:
        """A call of ``name`` with (key, value) in the order in which they stand."""
        said = self.between.join(
            value if self.sign is None else key + self.sign + value for key, value in arguments
        )
        inner = (
            f"{said}{self.after_name}{name}" if self.name_last else f"{name}{self.after_name}{said}"
        )
        return f"{self.open}{inner}{self.close.replace(NAME, name)}"

    def parse(self, text: str, name: str, keys: Sequence[str]) -> tuple[str, ...] | None:
        """The values of a call of ``name`` that is all of ``text``; ``None`` where it is none."""
        found = _pattern(self, name, tuple(keys)).fullmatch(text.strip())
        return None if found is None else found.groups()

    @property
    def pieces(self) -> tuple[str, ...]:
        """Its parts, as a key of the whole."""
        last = "last" if self.name_last else "first"
        return self.open, self.close, self.after_name, self.between, self.sign or "", last


@lru_cache(maxsize=4096)
def _pattern(syntax: Syntax, name: str, keys: tuple[str, ...]) -> re.Pattern[str]:
    slot = "\0"
    written = re.escape(syntax.write(name, [(key, slot) for key in keys]))
    return re.compile(written.replace(re.escape(slot), "([A-Za-z0-9]+)"))


def draw_syntax(random: Random, held: bool = False) -> Syntax:
    """A syntax whose frame, separators and sign are all held out, or all not."""
    opened, closed, after = _frame(random, held)
    if after is None:
        after = _separator(random, held)
    sign = _kept(random, held, lambda: _marks(random, 1)) if random.random() < 0.2 else None
    last = NAME not in closed and random.random() < 0.15
    return Syntax(opened, closed, after, _separator(random, held), sign, last)


def _frame(random: Random, held: bool) -> tuple[str, str, str | None]:
    kind = random.random()
    if kind < 0.4:
        opened = _kept(random, held, lambda: _marks(random, random.choice((1, 2, 2, 3, 4))))
        return opened, _closing(random, held, opened), None
    if kind < 0.5:
        opened = _kept(random, held, lambda: _bracket(random))
        return opened, opened[::-1].translate(MIRROR), None
    if kind < 0.64:
        left, right = _kept(
            random, held, lambda: random.choice(("< >", "[ ]", "{ }", _pair(random), _pair(random)))
        ).split(" ")
        return left, f"{left}/{NAME}{right}", right
    if kind < 0.76:
        tag = word(random, held)
        return f"<{tag}>", f"</{tag}>", None
    if kind < 0.92:
        opened = word(random, held) + _kept(
            random, held, lambda: random.choice((" ", ":", ": ", "> ", _marks(random, 1)))
        )
        return opened, random.choice(("", "", _kept(random, held, lambda: _marks(random, 1)))), None
    pair = _kept(random, held, lambda: random.choice(("( )", _pair(random), _pair(random))))
    left, right = pair.split(" ")
    return "", right, left


def _closing(random: Random, held: bool, opened: str) -> str:
    kind = random.random()
    if kind < 0.6:
        return opened[::-1].translate(MIRROR)
    if kind < 0.75:
        return opened
    if kind < 0.95:
        return _kept(random, held, lambda: _marks(random, random.choice((1, 2))))
    return ""


def _separator(random: Random, held: bool) -> str:
    kind = random.random()
    if kind < 0.22 and not held:
        return random.choice(COMMON)
    if kind < 0.8:
        return _kept(
            random,
            held,
            lambda: _marks(random, random.choice((1, 1, 2, 2, 3))) + random.choice(("", "", " ")),
        )
    return f" {word(random, held)} "


def _bracket(random: Random) -> str:
    bracket = random.choice("([{<")
    if random.random() < 0.5:
        return bracket * random.choice((1, 2, 3))
    return random.choice(MARKS) + bracket if random.random() < 0.5 else bracket + _marks(random, 1)


def _pair(random: Random) -> str:
    left = _marks(random, random.choice((1, 2)))
    return f"{left} {left[::-1].translate(MIRROR)}"


def _marks(random: Random, count: int) -> str:
    return "".join(random.choice(MARKS) for _ in range(count))


def _kept(random: Random, held: bool, draw: Callable[[], str]) -> str:
    """Drawn until it is on the wanted side of the split; what is common is never held out."""
    while True:
        found = draw()
        if found in COMMON or found == " " or found == "< >":
            if not held:
                return found
        elif held_out(found) == held:
            return found
