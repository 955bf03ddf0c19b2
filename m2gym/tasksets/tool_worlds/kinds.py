"""What tools do: the roles of their arguments, how one asks for them, what they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from m2gym.tasksets.tool_worlds.words import hashed_word, word

Arguments = tuple[str, ...]

HELD_ORDERS = ((2, 0, 1), (1, 2, 0))
"""Orders of three arguments that no tool has in training; two have too few orders to hold any."""

INVENTED = "invented"
FORMS = {
    2: (
        "{w} {{0}} {v} {{1}}?",
        "{w} {{1}} {v} {{0}}.",
        "{{0}} {w}, {{1}} {v}.",
        "{w}: {{1}}, {{0}}?",
    ),
    3: (
        "{w} {{0}} {v} {{1}} {u} {{2}}?",
        "{{2}} {w} {{0}}, {v} {{1}}.",
        "{w} {{1}}: {{2}} {v} {{0}}?",
    ),
}
"""How one asks for an invented kind; w, v and u are words of its own."""


@dataclass(frozen=True)
class Kind:
    """A kind of tool.

    ``roles`` name the arguments in the order that ``questions`` number them; ``draw`` makes
    arguments (of held-out words where told so); ``answer`` takes the world's salt and them.
    """

    name: str
    roles: tuple[str, ...]
    questions: tuple[str, ...]
    draw: Callable[[Random, bool], Arguments]
    answer: Callable[[str, Arguments], str]

    @property
    def held_orders(self) -> tuple[tuple[int, ...], ...]:
        """Orders of its arguments that training never sees."""
        return HELD_ORDERS if len(self.roles) == 3 else ()


def _words(count: int) -> Callable[[Random, bool], Arguments]:
    return lambda random, held: tuple(word(random, held) for _ in range(count))


def _number(random: Random) -> str:
    return str(random.randrange(10, 100))


def _secret_word(salt: str, arguments: Arguments) -> str:
    return hashed_word(salt, *arguments)


def _secret_number(salt: str, arguments: Arguments) -> str:
    return _number(Random("\x1f".join((salt, *arguments))))


def _two_numbers(random: Random, held: bool) -> Arguments:
    return _number(random), _number(random)


def _measure(random: Random, held: bool) -> Arguments:
    return _number(random), word(random, held), word(random, held)


def invented(random: Random, held: bool) -> Kind:
    """A kind that is only of one world: roles, and a way or two of asking, in made-up words."""
    count = 2 if random.random() < 0.7 else 3
    own = {name: word(random, held) for name in "wvu"}
    forms = random.sample(FORMS[count], random.choice((1, 2)))
    return Kind(
        INVENTED,
        tuple(word(random, held) for _ in range(count)),
        tuple(form.format(**own) for form in forms),
        _words(count),
        _secret_word,
    )


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "lookup",
            ("key", "table"),
            (
                "What does table {1} hold for {0}?",
                "Which value has {0} in table {1}?",
                "Look {0} up in table {1}.",
            ),
            _words(2),
            _secret_word,
        ),
        Kind(
            "search",
            ("relation", "subject"),
            ("What is the {0} of {1}?", "Tell me of {1}: its {0}.", "Of {1} I want the {0}."),
            _words(2),
            _secret_word,
        ),
        Kind(
            "shell",
            ("file", "folder"),
            (
                "How long is file {0} in folder {1}?",
                "In folder {1}, how long is file {0}?",
                "Count the lines of file {0}, folder {1}.",
            ),
            _words(2),
            _secret_number,
        ),
        Kind(
            "minus",
            ("a", "b"),
            ("What is {0} minus {1}?", "Take {1} from {0}.", "Subtract {1} from {0}."),
            _two_numbers,
            lambda salt, a: str(int(a[0]) - int(a[1])),
        ),
        Kind(
            "times",
            ("a", "b"),
            ("What is {0} times {1}?", "Multiply {0} by {1}."),
            _two_numbers,
            lambda salt, a: str(int(a[0]) * int(a[1])),
        ),
        Kind(
            "backwards",
            ("word",),
            ("Spell {0} backwards.", "What is {0} from end to start?"),
            _words(1),
            lambda salt, a: a[0][::-1],
        ),
        Kind(
            "convert",
            ("amount", "from", "to"),
            (
                "How many {2} are {0} {1}?",
                "Turn {0} {1} into {2}.",
                "I have {0} {1}. What is that in {2}?",
            ),
            _measure,
            _secret_number,
        ),
    )
}
