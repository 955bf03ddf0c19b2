"""The battery over environments, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2gym.core.errors import InputError
from m2gym.rollout.attacks import attacks
from m2gym.rollout.attacks.sweep import BEGIN, END, Job, outcomes, sweep, table, write_page
from m2gym.workspaces.bubblewrap import ability
from tests.conftest import require


def test_a_sample_holds_every_package_once() -> None:
    sample = Job.parse("swe-repo@local").sample()
    ids = [task for split in sample.values() for task in split]
    packages = {task.rpartition("-")[0] for task in ids}
    assert len(ids) >= 28
    assert {"train", "test"} == set(sample)
    assert len(packages) >= 27
    assert sum(map(len, Job.parse("swe-repo@docker:3").sample().values())) == 3
    with pytest.raises(InputError, match="ENV@WORKSPACE"):
        Job.parse("swe-repo")


def test_a_sweep_goes_on_where_it_was_and_is_told(tmp_path: Path) -> None:
    require("bwrap", ability().works, ability().reason)
    job = Job.parse("tool-use@local:1")
    sweep(tmp_path, [job], attacks(["judge_text"]), 1)
    sweep(tmp_path, [job], attacks(["judge_text", "many_answers"]), 1)
    rows = list(outcomes(tmp_path))
    assert [row["attack"] for row in rows] == ["judge_text", "many_answers"]
    assert all(row["ok"] for row in rows)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    rows.append({**rows[0], "job": "x in docker", "ok": False, "status": "infra_error"})
    write_page(page, table(rows))
    text = page.read_text()
    assert "| judge_text | 1/1 | 0/1, 1 infra_error |" in text
    assert "| many_answers | 1/1 | – |" in text
    assert "| **all** | 2/2 | 0/1, 1 infra_error |" in text
    assert "old" not in text
    assert text.endswith("after\n")
    with pytest.raises(InputError, match="marks"):
        write_page(tmp_path / "outcomes.jsonl", "")
