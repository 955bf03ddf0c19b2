"""What an episode left is kept, and graded again from the run folder alone."""

import io
import json
import tarfile
from pathlib import Path

import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.report.flakes import flake_rate
from m2gym.rollout.artifacts import FOLDER, ArtifactStore
from m2gym.rollout.records import scan
from m2gym.rollout.regrade import GRADINGS, read_gradings, regrade
from m2gym.scaffolds.scripted import Scripted

pytestmark = pytest.mark.usefixtures("tiny")

SCRIPT = {
    "t0": ["echo 0 > answer.txt; rm README; mkdir d; printf '\\0\\1' > d/b; ln -s d/b l"],
    "t1": ["echo 7 > answer.txt; chmod +x README; echo more >> README"],
    "*": ["true"],
}


def run(**more):
    return m2gym.evaluate("tiny", agent=Scripted(SCRIPT), out="r", progress=False, **more)


def test_what_differs_is_kept_and_shown():
    result = run()
    store = ArtifactStore(Path("r"))
    left = {e.task: store.load(e.id) for e in result}
    assert left["t0"].deleted == ["README"]
    assert left["t0"].files == {"answer.txt": b"0\n", "d/b": b"\0\1"}
    assert "+0\n" in left["t0"].diff
    assert "--- a/README\n+++ /dev/null" in left["t0"].diff
    assert "Binary or large file d/b differs: 0 → 2 bytes" in left["t0"].diff
    with tarfile.open(fileobj=io.BytesIO(left["t0"].tar)) as tar:
        assert tar.getmember("l").linkname == "d/b"
    assert "-say the answer\n\\ No newline at end of file\n+say the answermore\n" in left["t1"].diff
    assert left["t2"] is None
    assert store.kept(next(e.id for e in result if e.task == "t2"))


def test_the_same_verdicts_come_again_and_are_counted():
    result = run()
    found = regrade("r", times=2)
    assert (len(found.gradings), found.changed, found.skipped) == (8, [], 0)
    flakes = flake_rate(m2gym.load_run("r").verdicts())
    assert (flakes.rate.mean, flakes.episodes, flakes.gradings) == (0, 4, 12)
    assert flakes.rate.interval[1] > 0
    assert len(list(read_gradings(Path("r")))) == 8
    assert m2gym.load_run("r").score == result.score
    assert sum(1 for _ in scan(Path("r/trajectories.jsonl"))) == 4


def test_a_mended_grader_changes_verdicts_only_when_applied(monkeypatch):
    before = run()
    assert before.score == 0.25
    monkeypatch.setenv("TINY_SHIFT", "6")
    with pytest.raises(InputError, match="content of tasks differs from the run's: t0, t1"):
        regrade("r")
    found = regrade("r", changed_tasks=True)
    changed = {old.task: (old.verdict.reward, new.verdict.reward) for old, new in found.changed}
    assert changed == {"t0": (1, 0), "t1": (0, 1)}
    assert m2gym.load_run("r").rewards()["t1"] == [0]
    regrade("r", changed_tasks=True, apply=True, tasks=["t1"])
    after = m2gym.load_run("r")
    assert after.rewards() == {"t0": [1], "t1": [1], "t2": [0], "t3": [0]}
    assert {e.task: len(e.steps) for e in after}["t1"] == 1


def test_a_broken_verifier_is_mended_without_running_the_agent(monkeypatch):
    monkeypatch.setenv("TINY_VERIFIER", "broken")
    assert run().score is None
    monkeypatch.delenv("TINY_VERIFIER")
    regrade("r", apply=True)
    mended = m2gym.load_run("r")
    assert (mended.score, mended.summary.masked) == (0.25, 0)
    assert all(e.error is None and e.cause is None for e in mended)


def test_without_artifacts_it_says_so(monkeypatch):
    run(keep_artifacts=False)
    assert not Path("r", FOLDER).exists()
    with pytest.raises(InputError, match="kept no artifacts"):
        regrade("r")
    with pytest.raises(InputError, match="no task t9"):
        regrade("r", tasks=["t9"])


def test_orphans_of_a_kill_are_swept_and_damage_is_told():
    result = run()
    orphan, part = Path("r", FOLDER, "0123.tar.gz"), Path("r", FOLDER, "4.part")
    orphan.write_bytes(b"x")
    part.write_bytes(b"x")
    run(resume=True)
    assert not orphan.exists()
    assert not part.exists()
    changed = next(e.id for e in result if e.task == "t0")
    file = Path("r", FOLDER, f"{changed}.tar.gz")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="is damaged"):
        ArtifactStore(Path("r")).load(changed)
    lines = Path("r", GRADINGS)
    lines.write_text(json.dumps({"id": "x"}) + "\n" + json.dumps({"id": "y"}) + "\n")
    with pytest.raises(InputError, match="damaged: line 1"):
        list(read_gradings(Path("r")))
