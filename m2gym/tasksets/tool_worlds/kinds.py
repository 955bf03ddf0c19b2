"""What tools do: the roles of their arguments, how one asks for them, what they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from m2gym.tasksets.tool_worlds.words import hashed_word, word

Arguments = tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of tool.

    ``roles`` name the arguments in the order that ``questions`` number them; ``draw`` makes
    arguments (of held-out words where told so); ``answer`` takes the world's salt and them.
    ``held_orders``: orders of arguments that training never sees with this kind.
    """

    name: str
    roles: tuple[str, ...]
    questions: tuple[str, ...]
    draw: Callable[[Random, bool], Arguments]
    answer: Callable[[str, Arguments], str]
    held_orders: tuple[tuple[int, ...], ...] = ()


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
            held_orders=((1, 0),),
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
            held_orders=((2, 0, 1), (1, 2, 0)),
        ),
    )
}
