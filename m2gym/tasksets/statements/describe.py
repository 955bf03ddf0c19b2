"""Write a problem statement from what failing tests saw: what was called, what came, what should.

The facts are those of `m2gym.tasksets.outcomes.explain_failure`, one set a failing test. The words
are generated here, their choice is seeded; nothing of the fix is known to the writer. There is no
statement where the facts do not show a behaviour (a helper that only says "failed", a value nobody
can read).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]

_LACKING = (
    r"(AttributeError: .* has no attribute |NameError: |ImportError: |ModuleNotFoundError: |"
    r"TypeError: .* object is not callable|TypeError: .*unexpected keyword argument )"
)

EXAMPLES = 3
SHORT = 110
CONTEXT = 40
MORE = 4

_TITLES = {
    "value": (
        "{api} gives wrong results.",
        "What {api} gives is not right in some cases.",
        "Wrong results come out of {api}.",
        "There are cases in which {api} does not give what it should.",
    ),
    "raised": (
        "{api} fails where it should work.",
        "An unexpected error comes out of {api}.",
        "In some cases {api} ends in an error although nothing is wrong with the input.",
        "{api} breaks with an exception nobody expects.",
    ),
    "accepted": (
        "{api} lets through what it has to refuse.",
        "A mistake that {api} should report goes unnoticed.",
        "{api} does not raise the error that it should.",
    ),
    "other": (
        "The error that {api} reports is not the right one.",
        "{api} refuses bad input with the wrong error.",
    ),
}
_KINDS = {
    "compared": "value",
    "truth": "value",
    "printed": "value",
    "raised": "raised",
    "accepted": "accepted",
    "other-exception": "other",
    "message": "other",
}
_SIGNS = {
    "Lt": "less than",
    "LtE": "at most",
    "Gt": "greater than",
    "GtE": "at least",
    "Is": "the very object",
}


def describe(
    package: str, failures: Mapping[str, Facts], seed: int = 0, examples: int = EXAMPLES
) -> str | None:
    """A statement for the failures of a task's tests (test id → facts), or `None`.

    It shows at most so many ``examples``.
    """
    rng = random.Random(f"{package}:{seed}")
    told: list[tuple[str, Facts, str]] = []
    for facts in failures.values():
        text = _sentence(facts, rng)
        if text and all(text != other for _, _, other in told):
            told.append((_KINDS[facts["kind"]], facts, text))
    told = [entry for entry in told if _clear(entry[1])]
    if not told:
        return None
    chosen = _choose(told, examples)
    kind = Counter(k for k, _, _ in chosen).most_common(1)[0][0]
    lines = [rng.choice(_TITLES[kind]).format(api=_subject(package, failures, chosen))]
    lines[0] = lines[0][0].upper() + lines[0][1:] if not lines[0].startswith("`") else lines[0]
    if len(chosen) == 1:
        lines += ["", chosen[0][2]]
    else:
        lines += ["", *(f"- {text}" for _, _, text in chosen)]
    rest = _rest(told, chosen, failures)
    if rest:
        lines += ["", rest]
    notes = {n: t for _, facts, _ in chosen for n, t in facts.get("notes", {}).items()}
    if notes:
        named = listed([code(name) for name in notes])
        lines += ["", f"{named} {'is' if len(notes) == 1 else 'are'} the caller's own:", ""]
        lines += ["```python", *"\n\n".join(notes.values()).splitlines(), "```"]
    return "\n".join(lines)


def tellable(facts: Facts) -> bool:
    """Whether a failure can be told in one sentence."""
    return (
        facts.get("kind") in _KINDS and _clear(facts) and bool(_sentence(facts, random.Random(0)))
    )


def is_lacking(facts: Facts) -> bool:
    """Whether a test failed because what it uses is not there yet, so that the rest of it says what
    this must do."""
    if facts.get("kind") != "raised":
        return False
    raised = facts["raised"]
    text = f"{_bare(raised['type'])}: {raised['message']}"
    return re.match(_LACKING, text) is not None


def _clear(facts: Facts) -> bool:
    """Whether something in the example is explained: names alone of the tests say nothing."""
    return facts["kind"] == "printed" or any(
        facts.get(x) for x in ("api", "kinds", "origins", "notes")
    )


def _choose(told: list[tuple[str, Facts, str]], most: int) -> list[tuple[str, Facts, str]]:
    """A few short examples that differ in what is called."""
    bare = [entry for entry in told if not entry[1].get("notes")]
    ranked = sorted(bare or told, key=lambda t: (not t[1].get("api"), _length(t)))
    chosen: list[tuple[str, Facts, str]] = []
    seen: set[tuple[str, ...]] = set()
    for fresh in (True, False):
        for entry in ranked:
            mark = (entry[0], *entry[1].get("api", [])[:1])
            again = any(_same(entry[1], other) for _, other, _ in chosen)
            if again or len(chosen) >= most or (fresh and mark in seen):
                continue
            chosen.append(entry)
            seen.add(mark)
    return chosen


def _length(entry: tuple[str, Facts, str]) -> int:
    """Of an example, with the helpers that have to be shown for it."""
    return len(entry[2]) + sum(map(len, entry[1].get("notes", {}).values()))


def _same(one: Facts, other: Facts) -> bool:
    """Whether two failures show the same: words that were chosen differently do not count."""
    keys = ("call", "origins", "steps", "kind")
    return all(one.get(key) == other.get(key) for key in keys)


def _subject(
    package: str, failures: Mapping[str, Facts], chosen: list[tuple[str, Facts, str]]
) -> str:
    """The package's callable that most failures have in common."""
    count = Counter(_plain(api) for facts in failures.values() for api in facts.get("api", []))
    named = [_plain(api) for _, facts, _ in chosen for api in facts.get("api", [])]
    if not named:
        return package
    best = max(dict.fromkeys(named), key=lambda api: (count[api], -named.index(api)))
    return code(best)


def _rest(
    told: list[tuple[str, Facts, str]],
    chosen: list[tuple[str, Facts, str]],
    failures: Mapping[str, Facts],
) -> str:
    """A sentence on the failures that are not among the examples."""
    known = {_plain(facts["call"]) for _, facts, _ in chosen}
    notes = {name for _, facts, _ in chosen for name in facts.get("notes", {})}
    others = [facts for entry in told if entry not in chosen for facts in [entry[1]]]
    bare = [f for f in others if not f.get("origins") and not f.get("kinds")]
    bare = [f for f in bare if f.get("notes", {}).keys() <= notes]
    calls = [c for f in bare if (c := _plain(f["call"])) not in known and len(c) <= SHORT]
    shown = [code(call) for call in dict.fromkeys(calls)][:MORE]
    if shown:
        return f"The same trouble shows in {listed(shown)}."
    apis = {_plain(a) for f in failures.values() for a in f.get("api", [])}
    apis -= {_plain(a) for _, f, _ in chosen for a in f.get("api", [])}
    if len(failures) > len(chosen) and apis:
        return f"It is also seen through {listed([code(a) for a in sorted(apis)[:MORE]])}."
    return ""


def _sentence(facts: Facts, rng: random.Random) -> str | None:
    call = _plain(facts.get("call") or "")
    if not call or facts["kind"] not in _KINDS or len(call) > 2 * SHORT or facts.get("open"):
        return None
    if not re.search(r"[\w\])]\(|[\w\])]\.\w|[\w\])]\[", call) and facts["kind"] != "printed":
        return None
    if re.match(r"assert\w*\(|fail\(", call) or "/tmp/" in f"{call}{facts.get('got')}":
        return None
    origins = {_plain(k): _plain(v) for k, v in facts.get("origins", {}).items()}
    used = [f"`{name} = {value}`" for name, value in origins.items() if _used(name, call, origins)]
    kinds = [
        f"{_article(kind)} `{kind}` as `{name}`"
        for name, kind in facts.get("kinds", {}).items()
        if re.search(rf"\b{re.escape(name)}\b", " ".join([call, *origins.values()]))
    ]
    used = [*kinds, *used]
    steps = [code(_plain(step)) for step in facts.get("steps", [])]
    before = f"With {listed(used)}, " if used else ""
    if used and steps:
        before = f"With {listed(used)}, and after {listed(steps)}, "
    if len(before) > 6 * SHORT:
        return None
    told = happens(facts, code(call), rng)
    if told is None:
        return None
    text = before + told
    return text[0].upper() + text[1:]


def happens(facts: Facts, call: str, rng: random.Random | None = None) -> str | None:
    """A clause on what came of a call (marked as code) and what should; `None` where the facts do
    not say. ``rng`` chooses among equal wordings."""
    rng = rng or random.Random(0)
    kind = facts["kind"]
    if kind == "compared":
        return _compared(facts, call, rng)
    if kind == "printed":
        got, expected = _both(facts["got"], facts["expected"])
        return f"{call} shows {got} instead of {expected}."
    if kind == "truth":
        if _empty(facts["got"]):
            return None
        truth = "true" if facts["wanted"] else "false"
        if facts["got"] in ("True", "False"):
            return f"{call} is {facts['got'].lower()}, where it should be {truth}."
        return f"{call} gives {value(facts['got'])}, where something {truth} is expected."
    raised = facts["raised"]
    error = code(f"{_bare(raised['type'])}: {_one_line(raised['message'])}"[:SHORT].rstrip(": "))
    if kind == "raised":
        wanted = facts.get("expected")
        if wanted and len(wanted) <= SHORT and not _empty(wanted):
            return f"{call} raises {error}; it should give {value(wanted)}."
        verb = rng.choice(("is not expected to fail", "should work", "should raise nothing"))
        return f"{call} raises {error}; it {verb}."
    if kind == "accepted":
        wanted = code(_plain(facts["wanted"]))
        return rng.choice(
            (
                f"{call} goes through without an error, where {wanted} is expected.",
                f"{call} should raise {wanted} and raises nothing.",
            )
        )
    if kind == "other-exception":
        return f"{call} raises {error}, where {code(_plain(facts['wanted']))} is expected."
    return _message(raised["message"], call)


def _compared(facts: Facts, call: str, rng: random.Random) -> str | None:
    sign, got, expected = facts["sign"], facts.get("got", ""), facts.get("expected", "")
    if _empty(got) or _empty(expected):
        return None
    if sign == "Eq" or (sign == "Is" and expected in ("None", "True", "False")):
        if got == expected and facts["got_type"] == facts["expected_type"]:
            return None
        if "part" in facts:
            return _part(call, *facts["part"])
        if "texts" in facts and len(got) + len(expected) > SHORT:
            return _texts(call, *facts["texts"])
        have, want = _both(got, expected)
        if have == want:
            return None
        return rng.choice(
            (
                f"{call} gives {have}, where {want} is expected.",
                f"{call} should give {want} but gives {have}.",
                f"for {call} the result is {have}; it ought to be {want}.",
            )
        )
    if sign in ("In", "NotIn"):
        verb = "must contain" if sign == "In" else "must not contain"
        return f"{call} {verb} {value(expected)}, and it is {value(got)}."
    if sign == "Among":
        return f"{call} gives {value(got)}, where one of {value(expected)} is expected."
    if sign in ("NotEq", "IsNot", "NotAmong"):
        return f"{call} gives {value(got)}, which is just what it must not be."
    if sign == "Is":
        return f"{call} gives {value(got)}, which is not the very object that is expected."
    return f"{call} gives {value(got)}, where a value {_SIGNS[sign]} {value(expected)} is expected."


def _texts(call: str, got: str, expected: str) -> str | None:
    """Two long texts: where they part, and what stands there."""
    at = next(
        (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
        min(len(got), len(expected)),
    )
    start = max(0, at - CONTEXT)
    have = got[start : at + CONTEXT]
    want = expected[start : at + CONTEXT]
    if have == want:
        return None
    where = "from its beginning" if at < 2 else f"from character {at + 1} on"
    return (
        f"the text that {call} gives is wrong {where}: it has {code(repr(have))} where "
        f"{code(repr(want))} is expected."
    )


def _part(call: str, path: str, got: str, expected: str) -> str | None:
    """Two long values that differ in one place."""
    if _empty(got) or _empty(expected) or got == expected:
        return None
    have, want = _both(got, expected)
    at = f" at {code(path)}" if path else ""
    if have == "`{}`":
        return f"what {call} gives lacks {want}{at}."
    if want == "`{}`":
        return f"what {call} gives has {have}{at}, which does not belong there."
    if not path:
        return f"what {call} gives is not all right: {have} is in it, in the place of {want}."
    return f"what {call} gives is wrong at {code(path)}: {have} is there, {want} is expected."


def _message(text: str, call: str) -> str | None:
    wanted = re.search(r"(?:Regex|Expected regex): (.+)", text)
    came = re.search(r"(?:Input|Actual message): (.+)", text)
    if not wanted or not came:
        return None
    return (
        f"the exception that {call} raises says {code(came[1][:SHORT].strip())}; its text should "
        f"match {code(wanted[1][:SHORT].strip())}."
    )


def _both(got: str, expected: str) -> tuple[str, str]:
    """Two values, cut to where they differ when they are long."""
    if len(got) <= SHORT and len(expected) <= SHORT:
        return value(got), value(expected)
    at = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), 0)
    start = max(0, at - CONTEXT)
    return _cut(got, start), _cut(expected, start)


def _cut(text: str, start: int) -> str:
    end = start + 2 * CONTEXT
    return value(f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}")


def value(text: str) -> str:
    """A value as code, bounded."""
    return code(text if len(text) <= SHORT else text[: SHORT - 1] + "…")


def code(text: str) -> str:
    """Text marked as code, on one line."""
    flat = _one_line(text)
    return f"`` {flat} ``" if "`" in flat else f"`{flat}`"


def _used(name: str, call: str, origins: Mapping[str, str]) -> bool:
    texts = [call, *(v for k, v in origins.items() if k != name)]
    return any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts)


def _article(word: str) -> str:
    return "an" if word[0] in "AEIOU" else "a"


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()


def _plain(text: str) -> str:
    """Without the test case's ``self``."""
    return re.sub(r"\b(self|cls)\.", "", text)


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def _empty(shown: str) -> bool:
    """Whether a shown value tells nothing: an object without a text of its own."""
    return not shown or re.fullmatch(r"<[\w. ]*object[\w. ]*>|a \w+", shown) is not None


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
