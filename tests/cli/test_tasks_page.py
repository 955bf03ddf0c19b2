"""The tables of the page on swe-repo, from what is shipped."""

import re
from pathlib import Path

from m2gym.cli.tasks_page import set_tables, tables
from m2gym.tasksets.swe_repo.shipped import recipes

PAGE = Path(__file__).parents[2] / "docs/swe-repo.md"


def test_every_table_has_its_place_on_the_page_and_the_page_no_other():
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- (\w+) -->", text)) == set(tables())


def test_tables_are_set_between_their_marks_and_again():
    text = "a\n<!-- set -->\nold\n<!-- /set -->\nb\n"
    once = set_tables(text)
    assert once.startswith("a\n<!-- set -->\n| kind |")
    assert once.endswith("\n<!-- /set -->\nb\n")
    assert "old" not in once
    assert set_tables(once) == once


def test_counts_are_those_of_the_recipes():
    shipped = recipes().values()
    made = tables()
    assert f"| all |  | {len(shipped)} | {len({r.package for r in shipped})} |" in made["set"]
    for kind in ("version-diff", "injected-bug"):
        listed = [int(n) for n in re.findall(rf"\| {kind} \| \w+ \| (\d+) \|", made["set"])]
        assert sum(listed) == sum(r.kind == kind for r in shipped)
    mistakes = [int(n) for n in re.findall(r"\| [\w-]+ \| (\d+) \|", made["operators"])]
    assert sum(mistakes) == sum(len(r.mutations) for r in shipped)
    for table in made.values():
        widths = {line.count("|") for line in table.splitlines()}
        assert len(widths) == 1, table
