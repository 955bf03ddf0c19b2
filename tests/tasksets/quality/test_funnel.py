"""The funnel of the shipped set adds up: all that was tried is shipped, or dropped for a reason."""

import json
from collections import Counter
from pathlib import Path

from m2gym.cli.tasks_page import tables
from m2gym.tasksets.quality.funnel import BY_HAND, Account, cause, pairs, releases, total
from m2gym.tasksets.swe_repo.shipped import recipes
from m2gym.tasksets.swe_repo.tried import DATA, dropped, read_rows


def test_every_candidate_for_an_injected_bug_is_accounted_for() -> None:
    found = releases(recipes().values())
    assert {name: a.missing for name, a in found.items() if a.missing} == {}
    shipped = sum(recipe.fixed is None for recipe in recipes().values())
    assert total(found.values()).shipped == shipped
    assert found[BY_HAND].tried == found[BY_HAND].shipped


def test_every_part_of_every_pair_is_accounted_for() -> None:
    found = pairs(recipes().values())
    accounts = {key: a for key, a in found.items() if isinstance(a, Account)}
    assert {key: a.missing for key, a in accounts.items() if a.missing} == {}
    shipped = sum(recipe.fixed is not None for recipe in recipes().values())
    assert total(accounts.values()).shipped == shipped
    assert all(kind for kind in found.values() if isinstance(kind, str))


def test_every_shipped_pair_has_one_row() -> None:
    rows = Counter((row["package"], row["old"], row["new"]) for row in read_rows(DATA))
    assert set(rows.values()) == {1}
    shipped = {
        (r.package, r.source.version, r.fixed.version) for r in recipes().values() if r.fixed
    }
    assert shipped <= rows.keys()


def test_nothing_is_both_shipped_and_taken_out() -> None:
    assert not dropped().keys() & recipes().keys()


def test_every_known_pair_has_a_row(shared_dir: Path) -> None:
    path = shared_dir / "data/version-diff/pairs.json"
    known = {(p["package"], p["A"], p["B"]) for p in json.loads(path.read_text())["pairs"]}
    assert known <= pairs(recipes().values()).keys()


def test_what_is_missing_is_seen(tmp_path: Path) -> None:
    funnel = {"a-1": {"tried": 9, "dropped": {"no test fails": 5}}}
    (tmp_path / "funnel.json").write_text(json.dumps(funnel))
    row = {"package": "b", "old": "1", "new": "2", "parts": 2, "dropped": {"b-2-1": "too many"}}
    refused = {"package": "b", "old": "2", "new": "3", "kind": "no failing test"}
    (tmp_path / "pairs.json").write_text(json.dumps([row, refused]))
    (tmp_path / "dropped.json").write_text(json.dumps({"a-1-x": ["injected-bug", "unfit"]}))
    (tmp_path / "tasks").mkdir()
    found = releases([], tmp_path)
    assert found == {"a-1": Account(9, 0, {"no test fails": 5, "when verified: unfit": 1})}
    assert found["a-1"].missing == 3
    steps = pairs([], tmp_path)
    assert steps == {
        ("b", "1", "2"): Account(2, 0, {"too many": 1}),
        ("b", "2", "3"): refused["kind"],
    }
    one = steps["b", "1", "2"]
    assert isinstance(one, Account)
    assert one.missing == 1


def test_causes_have_no_numbers_of_one_case() -> None:
    assert cause("43 tests belong together, too many") == "its tests belong together, too many"
    assert cause("it cannot be judged: 3 of x") == "it cannot be judged"


def test_the_page_says_that_nothing_is_missing() -> None:
    written = tables()
    assert "| not accounted for | 0 |" in written["reasons"]
    assert "| parts not accounted for | 0 |" in written["pairs"]
    page = Path(__file__).parents[3].joinpath("docs/swe-repo.md").read_text(encoding="utf-8")
    for name in ("funnel", "reasons", "pairs", "steps"):
        assert written[name] in page, f"write the page anew: m2gym tasks page ({name})"
