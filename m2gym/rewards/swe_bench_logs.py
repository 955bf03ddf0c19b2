"""Test logs → test outcomes, one reader a test framework, by the rules of SWE-bench's harness.

A reader gives id → ``PASSED``, ``FAILED``, ``ERROR``, ``SKIPPED`` or ``XFAIL``; of two lines about
one id the later counts. The harness ends an id at its first space, and its rows hold such ids; so
do these readers. Source: SWE-bench (Jimenez et al. 2024), its public evaluation harness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Outcomes = dict[str, str]
Reader = Callable[[str], Outcomes]

STATUSES = ("FAILED", "PASSED", "SKIPPED", "ERROR", "XFAIL")
_STATUS = "|".join(STATUSES)
_SUMMARY = re.compile(rf"({_STATUS})\s+(\S+)")
_VERBOSE = re.compile(rf"(\S+)\s+({_STATUS})(?:\s|$)")
_COUNT = re.compile(r"\[\d+\]")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x01-\x08\x0b-\x1f]")
_UNITTEST = re.compile(
    r"(?P<test>.+?) \.\.\. +(?P<word>ok|OK|FAIL|ERROR|skipped\b.*|expected failure)$"
)
_LATE_OK = re.compile(
    r"^(.*?) \.\.\. (?:Testing against Django installed in .*? silenced\)\.|"
    r"Internal Server Error: /.*?/|System check identified no issues \(0 silenced\)\.?)\nok$",
    re.MULTILINE,
)
_SYMPY_TITLE = re.compile(r"^_+ (.+\.py:\S+) _+$", re.MULTILINE)


def pytest_log(log: str) -> Outcomes:
    """pytest's summary (``-rA``: outcome first) and its verbose lines (id first)."""
    return dict(_pytest_lines(log.split("\n")))


def pytest_options_log(log: str) -> Outcomes:
    """As `pytest_log`; a parameter that is an absolute path keeps only its last part."""
    return {_short_path(test): status for test, status in _pytest_lines(log.split("\n"))}


def pytest_color_log(log: str) -> Outcomes:
    """As `pytest_log`, after control characters and colours are taken out."""
    return dict(_pytest_lines(_ESCAPE.sub("", line) for line in log.split("\n")))


def matplotlib_log(log: str) -> Outcomes:
    """As `pytest_log`; mouse buttons in parameters are written as their numbers."""
    return pytest_log(log.replace("MouseButton.LEFT", "1").replace("MouseButton.RIGHT", "3"))


def unittest_log(log: str) -> Outcomes:
    """Verbose unittest and Django: ``test (module.Class) ... ok``, and the titles of failures.

    An ``ok`` that other output has pushed to a later line counts for the last test begun.
    """
    found: Outcomes = {}
    begun = ""
    words = {"ok": "PASSED", "OK": "PASSED", "FAIL": "FAILED", "ERROR": "ERROR"}
    for line in map(str.strip, log.split("\n")):
        if " ... " in line:
            begun = line.partition(" ... ")[0]
        match = _UNITTEST.fullmatch(line)
        if match:
            word = match["word"]
            status = words.get(word, "XFAIL" if word.startswith("expected") else "SKIPPED")
            found[match["test"]] = status
        elif title := re.match(r"(FAIL|ERROR): (\S+)", line):
            found[title[2]] = words[title[1]]
        elif line.startswith("ok") and begun:
            found[begun] = "PASSED"
    found |= {match[1]: "PASSED" for match in _LATE_OK.finditer(log)}
    return found


def sympy_log(log: str) -> Outcomes:
    """SymPy's own runner: ``test_name ok``, ``F`` or ``E``, and titles ``___ file.py:test ___``."""
    found = {match[1]: "FAILED" for match in _SYMPY_TITLE.finditer(log)}
    words = {"ok": "PASSED", "F": "FAILED", "E": "ERROR", "s": "SKIPPED"}
    for line in map(str.strip, log.split("\n")):
        first, _, last = line.partition(" ")
        word = last.rpartition(" ")[2]
        if first.startswith("test_") and word in words:
            found[first] = words[word]
    return found


READERS: dict[str, Reader] = {
    "pytest": pytest_log,
    "pytest-options": pytest_options_log,
    "pytest-color": pytest_color_log,
    "matplotlib": matplotlib_log,
    "unittest": unittest_log,
    "django": unittest_log,
    "sympy": sympy_log,
}
"""Reader by name of the log's kind; one's own is added here."""

KINDS = {
    "astropy/astropy": "pytest-color",
    "django/django": "django",
    "matplotlib/matplotlib": "matplotlib",
    "psf/requests": "pytest-options",
    "pydicom/pydicom": "pytest-options",
    "pylint-dev/pylint": "pytest-options",
    "scikit-learn/scikit-learn": "pytest-color",
    "sphinx-doc/sphinx": "pytest-color",
    "sympy/sympy": "sympy",
}
"""Repository → kind of its logs, where it is not ``pytest``."""


def _pytest_lines(lines: Iterator[str] | list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if match := _SUMMARY.match(line):
            if match[1] != "SKIPPED" or not _COUNT.match(match[2]):
                yield match[2], match[1]
        elif match := _VERBOSE.match(line):
            yield match[1], match[2]


def _short_path(test: str) -> str:
    main, bracket, option = test.partition("[")
    inner = option.partition("]")[0]
    if not bracket or "]" not in option or not inner.startswith("/") or inner.startswith("//"):
        return test
    return test if "*" in inner else f"{main}[/{inner.rpartition('/')[2]}]"
