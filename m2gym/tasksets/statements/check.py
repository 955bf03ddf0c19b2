"""Checks of problem statements: do they give the fix away, and do they say what the tests demand?

``leaks`` and ``sufficiency`` are conservative readers, not judges of prose: each finding names a
place and a reason, and a statement without findings may still be bad. Thresholds are the project's
choice. ``python -m m2gym.tasksets.statements.check [ID …]`` runs both over tasks of ``swe-repo``.
"""

from __future__ import annotations

import asyncio
import builtins
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2gym.tasksets.outcomes.measure import run_once
from m2gym.tasksets.registry.sdist import files_of
from m2gym.tasksets.statements.evidence import WORD, FailingTests, Fix, code, identifiers, said
from m2gym.tasksets.statements.needs import Need, Original, mentions, needs
from m2gym.tasksets.statements.prose import is_prose, report_marks, shows
from m2gym.tasksets.swe_repo.recipe_taskset import RecipeTaskset, build
from m2gym.tasksets.swe_repo.repository import Repository
from m2gym.workspaces import make_workspace

__all__ = [
    "SUFFICIENCY",
    "FailingTests",
    "Finding",
    "Fix",
    "Original",
    "check_statement",
    "check_task",
    "leaks",
    "repository_fix",
    "repository_tests",
    "sufficiency",
]

SUFFICIENCY = {
    "length": "the statement is a text of at least 40 characters",
    "readable": "it is prose: it has a sentence, and no lines of a test's report",
    "shown": "it shows, as code, a call or a value of the failing tests",
    "self-contained": "it does not speak of tests that the agent cannot see",
    "name": "it names what the tests use and the original code does not have",
    "argument": "it names keyword arguments that the original code does not have",
    "exception": "it names exceptions that the tests demand and the original code does not",
    "raised": "it names the exception whose absence made a test fail",
    "message": "it holds the messages that the tests demand and the original code does not have",
    "covered": "something in it refers to each failing test",
}
"""The check list of `sufficiency`: name → what it makes sure of."""

MIN_LENGTH = 40
MIN_RUN = 6
"""So many tokens in a row, shared with a changed line, are a piece of the fix."""
MIN_LINE = 4
"""A changed line of so many tokens is one too."""
_MARKED = re.compile(r"```.*?```|``.+?``|`[^`\n]+`|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
_REPORT = re.compile(r"`[\w.]+(?:Error|Exception|Warning): [^`\n]*`")
_CODE_LIKE = re.compile(r"\w*_\w*|[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*|\w*[a-z]\d\w*")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_OPERATOR = re.compile(r"[()\[\]{}=<>+*/%|&^~@]")
_LANGUAGE = frozenset(
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) or value in (None, True, False, NotImplemented, Ellipsis)
) | {"self", "cls", "args", "kwargs", "isinstance", "repr", "print"}
"""Types, exceptions and constants of the language: behaviour is described in them."""
_SHORT = 3


@dataclass(frozen=True)
class Finding:
    """One fault of a statement: the check it fails, what, where, and why it matters."""

    check: str
    what: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.check}: {self.what!r} ({self.place}): {self.reason}"


def leaks(statement: str, fix: str | Fix, tests: FailingTests) -> list[Finding]:
    """Identifiers, lines and places of the fix in a statement that the failing tests do not show.

    ``fix`` is a unified diff or a `Fix`. An identifier counts where the statement marks it as code
    or where it could not be a plain word; the types, exceptions and constants of the language do
    not count. Places are lines of the statement.
    """
    if isinstance(fix, str):
        fix = Fix.of_diff(fix)
    shown = identifiers(tests.shown)
    found: dict[tuple[str, str], Finding] = {}
    secret = (fix.names | fix.scopes) - shown - _LANGUAGE
    for number, word in _code_words(statement):
        if word not in secret or len(word) < _SHORT:
            continue
        where = "stands in the fix" if word in fix.names else "is where the fix is made"
        reason = f"the name {where} and the failing tests do not show it"
        found.setdefault(("identifier", word), _at("identifier", word, number, reason))
    for finding in (*_lines(statement, fix, tests.shown), *_paths(statement, fix, tests.shown)):
        found.setdefault((finding.check, finding.what), finding)
    return list(found.values())


def sufficiency(
    statement: str, tests: FailingTests, original: Original | Mapping[str, str]
) -> list[Finding]:
    """What the failing tests demand and neither the statement nor the original code says.

    ``original`` is the source the agent starts from, path → text. Each finding's ``check`` is a
    name of `SUFFICIENCY`; its place is a failing test.
    """
    if not isinstance(original, Original):
        original = Original(original)
    found = []
    if len(statement.strip()) < MIN_LENGTH:
        found.append(Finding("length", statement.strip(), "line 1", SUFFICIENCY["length"]))
    found += [
        Finding("readable", line, _line_of(statement, line), "a line of a test's report")
        for line in report_marks(statement)
    ]
    if not is_prose(statement):
        found.append(Finding("readable", statement[:80], "line 1", SUFFICIENCY["readable"]))
    if not shows(statement, tests):
        found.append(Finding("shown", statement[:80], tests.ids[0], SUFFICIENCY["shown"]))
    for name in sorted({t.partition("::")[0] for t in tests.ids}):
        if name.endswith(".py") and re.search(rf"\b{re.escape(Path(name).name)}\b", statement):
            reason = "the file of failing tests is not in the agent's tree as they are"
            found.append(Finding("self-contained", name, _line_of(statement, name), reason))
    words = set(WORD.findall(statement))
    for need in needs(tests):
        if not _met(need, statement, words, original):
            reason = f"a failing test demands it; {_LACK[need.kind]}"
            found.append(Finding(need.kind, need.what, need.place, reason))
    return found + list(_uncovered(statement, tests))


def repository_tests(
    built: Repository, fail_to_pass: Sequence[str], messages: Mapping[str, str] | None = None
) -> FailingTests:
    """The failing tests of a built task, with the texts of its hidden tests."""
    packages = tuple(Path(source).name.removesuffix(".py") for source in built.sources)
    return FailingTests(tuple(fail_to_pass), texts(built.hidden), packages, dict(messages or {}))


def repository_fix(built: Repository) -> Fix:
    """The reference change of a built task."""
    after = texts(built.fixed)
    before = {
        path: text
        for path in (*after, *built.deleted)
        if (text := _text(built.root / path)) is not None
    }
    return Fix.of_files(before, after)


def check_statement(
    statement: str,
    built: Repository,
    fail_to_pass: Sequence[str],
    messages: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Leaks and insufficiencies of a statement for a built task; empty when none is seen.

    ``messages`` are failure reports by test id, as measuring gives them.
    """
    tests = repository_tests(built, fail_to_pass, messages)
    original = {p: t for p, t in texts(built.root).items() if p.endswith((".py", ".pyi"))}
    return [
        *leaks(statement, repository_fix(built), tests),
        *sufficiency(statement, tests, original),
    ]


def texts(folder: Path) -> dict[str, str]:
    """Path → text of every text file below a folder but ``.git``."""
    found = {}
    for path in files_of(folder):
        if not path.startswith(".git/") and (text := _text(folder / path)) is not None:
            found[path] = text
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _at(check: str, what: str, number: int, reason: str) -> Finding:
    return Finding(check, what, f"line {number}", reason)


def _line_of(statement: str, what: str) -> str:
    before = statement.partition(what if what in statement else Path(what).name)[0]
    return f"line {before.count(chr(10)) + 1}"


def _code_words(statement: str) -> Iterator[tuple[int, str]]:
    """Line and identifier, of those that are marked as code or look like it.

    What stands in a quoted error (`` `TypeError: …` ``) was observed and gives nothing away.
    """
    marked = [match.span() for match in _MARKED.finditer(statement)]
    quoted = [match.span() for match in _REPORT.finditer(statement)]
    for match in WORD.finditer(statement):
        if any(start <= match.start() < end for start, end in quoted):
            continue
        inside = any(start <= match.start() < end for start, end in marked)
        called = statement[match.end() :].startswith("(")
        if inside or called or _CODE_LIKE.fullmatch(match[0]):
            yield statement.count("\n", 0, match.start()) + 1, match[0]


def _lines(statement: str, fix: Fix, shown: str) -> Iterator[Finding]:
    said_there, said_by_tests = _joined(statement), _joined(shown)
    for line in dict.fromkeys((*fix.added, *fix.removed)):
        for run in _pieces(_TOKEN.findall(_without_comment(line))):
            piece = f" {' '.join(run)} "
            if piece in said_by_tests or piece not in said_there:
                continue
            which = "adds" if line in fix.added else "removes"
            reason = f"it is part of a line that the fix {which}"
            yield _at("line", line.strip(), _first_line(statement, run), reason)
            break


def _pieces(tokens: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of a line's tokens that are hardly prose: the whole line, where it is long enough or
    opens a block, and `MIN_RUN` tokens with an operator among them."""
    if len(tokens) >= MIN_LINE or (len(tokens) == MIN_LINE - 1 and tokens[-1] == ":"):
        yield tokens
    for start in range(len(tokens) - MIN_RUN + 1):
        run = tokens[start : start + MIN_RUN]
        if _OPERATOR.search("".join(run)):
            yield run


def _without_comment(line: str) -> str:
    return line.partition("#")[0] if "#" in line and "#" not in code(line) else line


def _joined(text: str) -> str:
    return f" {' '.join(_TOKEN.findall(text))} "


def _first_line(statement: str, run: Sequence[str]) -> int:
    pattern = r"\s*".join(map(re.escape, run))
    match = re.search(pattern, statement)
    return statement.count("\n", 0, match.start()) + 1 if match else 1


def _paths(statement: str, fix: Fix, shown: str) -> Iterator[Finding]:
    for path in fix.paths:
        parts = Path(path).with_suffix("").parts
        parts = parts[1:] if parts[0] in ("src", "lib") else parts
        dotted = ".".join(part for part in parts if part != "__init__")
        names = [path, Path(path).name] + ([dotted] if "." in dotted else [])
        if Path(path).name == "__init__.py":
            names = [path]
        if re.search(rf"(?<![\w.]){re.escape(dotted)}\b", shown):
            continue
        package, _, module = dotted.rpartition(".")
        if package and re.search(rf"from\s+{re.escape(package)}\s+import[^\n]*\b{module}\b", shown):
            continue
        for name in names:
            match = re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w/])", statement)
            if match:
                number = statement.count("\n", 0, match.start()) + 1
                yield _at("path", name, number, "the fix is made there; no failing test says so")
                break


_LACK = {
    "name": "neither the statement nor the original code has this name",
    "argument": "neither the statement nor the original code has an argument of this name",
    "exception": "neither the statement nor the original code names this exception",
    "raised": "the test failed for want of it and the statement does not name it",
    "message": "neither the statement nor a string of the original code holds this text",
}


def _met(need: Need, statement: str, words: set[str], original: Original) -> bool:
    if need.kind == "message":
        return mentions(statement, need.what) or original.shows(need.what)
    if need.what in words:
        return True
    return need.kind != "raised" and need.what in original.names


def _uncovered(statement: str, tests: FailingTests) -> Iterator[Finding]:
    """Failing tests to which no word of the statement refers."""
    there = _stems(statement)
    for place, nodes in tests.functions.items():
        alone = FailingTests(
            tuple(t for t in tests.ids if t.split("[")[0] == place), tests.files, tests.packages
        )
        reports = " ".join(said(tests.messages[t]) for t in alone.ids if t in tests.messages)
        if nodes and not there & _stems(f"{place.rpartition('::')[2]} {alone.shown} {reports}"):
            yield Finding("covered", place, place, "no word of the statement refers to this test")


def _stems(text: str) -> set[str]:
    """The first five letters of every word of at least four, compound names taken apart."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|_|\d", " ", text)
    common = {"self", "test", "tests", "assert", "with", "this", "that", "when", "from", "must"}
    words = {word.casefold() for word in re.findall(r"[^\W\d_]{4,}", spaced)}
    return {word[:5] for word in words - common}


def check_task(taskset: RecipeTaskset, task_id: str) -> list[Finding]:
    """`check_statement` of a task made from a recipe.

    Where something is found its failing tests are run once, in a box, and what their failures say
    counts as shown.

    Raises:
        UnknownIdError: there is no such task.
        DownloadError, InfraError: its files are not to be had, or the box failed.
    """
    recipe = taskset.recipe(task_id)
    built = build(recipe, taskset.cache)
    found = check_statement(recipe.statement, built, recipe.fail_to_pass)
    if not found:
        return []
    prepared = taskset.prepare(taskset.task(task_id))
    run = asyncio.run(
        run_once(prepared, recipe.shown_by, recipe.command, make_workspace, fixed=False)
    )
    said_there = {test: run.messages[test] for test in recipe.fail_to_pass if test in run.messages}
    return check_statement(recipe.statement, built, recipe.fail_to_pass, said_there)


def main(arguments: Sequence[str]) -> int:
    """Check tasks of ``swe-repo`` (all, or the ids given); 1 when there are findings."""
    from m2gym.tasksets.swe_repo.shipped import SweRepo, recipes

    taskset = SweRepo()
    wanted = list(arguments) or list(recipes())
    taskset.prefetch(wanted)
    count = 0
    for task_id in wanted:
        for finding in check_task(taskset, task_id):
            print(f"{task_id}: {finding}")
            count += 1
    print(f"{len(wanted)} statements, {count} findings")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
