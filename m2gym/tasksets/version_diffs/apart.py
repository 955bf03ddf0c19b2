"""Faults that the splitter leaves together, since their changes meet in one function.

`split` leaves out whole functions. For these parts one hunk after another was left out instead: the
tests below miss different hunks (they may share others), so each group is a task of its own, whose
reference change `narrow` finds.
"""

from __future__ import annotations

from collections.abc import Sequence

from m2gym.tasksets.version_diffs.split import Part

Faults = Sequence[Sequence[str]]

_MD = "tests/test_syntax/extensions/test_md_in_html.py::TestMdInHTML::test_md1_"

FAULTS: dict[str, Faults] = {
    "click-8.1.4": (
        ("tests/test_command_decorators.py::test_custom_command_no_parens",),
        ("tests/test_commands.py::test_abort_exceptions_with_disabled_standalone_mode",),
        ("tests/test_defaults.py::test_multiple_flag_default",),
        ("tests/test_formatting.py::test_truncating_docstring_no_help",),
    ),
    "jinja2-3.1.3": (
        ("tests/test_ext.py::TestInternationalization::test_nested_trans_error",),
        ("tests/test_ext.py::TestInternationalization::test_trans_block_error",),
    ),
    "markdown-3.8": (
        (
            f"{_MD}code_cdata",
            f"{_MD}code_comment",
            f"{_MD}code_pi",
            f"{_MD}code_void_tag",
            f"{_MD}code_void_tag_multiline",
        ),
        (
            f"{_MD}oneliner_block",
            f"{_MD}oneliner_block_complex_start_tail",
            f"{_MD}oneliner_block_mixed",
            f"{_MD}oneliner_block_span",
            f"{_MD}oneliner_block_span_start",
            f"{_MD}oneliner_block_start",
            f"{_MD}oneliner_block_tail",
            f"{_MD}oneliner_span_block_start",
        ),
    ),
    "sqlparse-0.4.3": (
        ("tests/test_grouping.py::test_grouping_alias_ctas",),
        ("tests/test_grouping.py::test_grouping_create_table",),
    ),
}
"""Step (its package and newer release) → test functions, by the fault that they show."""


def by_fault(part: Part, faults: Faults) -> list[Part]:
    """A part in as many parts as it shows of the faults; tests of none stay with the first.

    >>> whole = Part(("a.py::x[1]", "a.py::x[2]", "a.py::y"), ((),))
    >>> [one.fail_to_pass for one in by_fault(whole, [["a.py::x"], ["a.py::y"], ["a.py::z"]])]
    [('a.py::x[1]', 'a.py::x[2]'), ('a.py::y',)]
    """
    number = {test: n for n, tests in enumerate(faults) for test in tests}
    functions = {test: test.partition("[")[0] for test in part.fail_to_pass}
    shown = sorted({number[name] for name in functions.values() if name in number})
    if len(shown) < 2:
        return [part]
    fault = {test: number.get(name, shown[0]) for test, name in functions.items()}
    return [
        Part(tuple(test for test in part.fail_to_pass if fault[test] == n), part.references)
        for n in shown
    ]
