"""Which split a package's tasks belong to: a fixed table, so that ``train`` never shows a package
of ``test``, whoever makes the task and whenever. The choice is the project's.
"""

from __future__ import annotations

from m2gym.core.task import Split

TEST_PACKAGES = frozenset(
    {
        "click",
        "humanize",
        "itsdangerous",
        "jinja2",
        "parse",
        "pathspec",
        "sqlparse",
        "tabulate",
        "voluptuous",
        "xmltodict",
    }
)


def split_of(package: str) -> Split:
    """The split of a package's tasks; what is not in the table belongs to ``train``.

    >>> split_of("click"), split_of("markdown")
    ('test', 'train')
    """
    return "test" if package in TEST_PACKAGES else "train"
