"""The commands as a person types them: real processes, their output and exit codes."""

import json
import os
import subprocess
import sys

import pytest

from m2gym import __version__ as m2gym_version
from m2gym.cli.demo import sample_of
from m2gym.core.task import Task
from m2gym.tasksets.memory import ListTaskset
from tests.rollout.tiny import install


@pytest.fixture(scope="module")
def place(tmp_path_factory, bwrap):
    folder = tmp_path_factory.mktemp("cli")
    return folder, {**os.environ, **install(folder), "COLUMNS": "160"}


@pytest.fixture
def m2gym(place):
    folder, variables = place

    def run(*arguments, code=0, stdin="", **more):
        done = subprocess.run(
            [sys.executable, "-m", "m2gym", *arguments],
            cwd=folder,
            env={**variables, **more},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def one_line(done):
    """The error is one line and no traceback."""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("m2gym: ")
    return lines[0]


def test_help_names_every_command(m2gym):
    text = m2gym("--help").stdout
    for name in ("demo", "list", "doctor", "validate", "eval", "compare", "bench"):
        assert name in text
        assert "--json" in m2gym(name, "--help").stdout


def test_list(m2gym):
    assert "say the answer" in m2gym("list", "envs").stdout
    envs = json.loads(m2gym("list", "envs", "--json").stdout)
    assert {"id": "tiny", "about": "say the answer"} in envs
    tasks = json.loads(m2gym("list", "tasks", "tiny", "--json").stdout)
    [row] = [row for row in tasks if (row["id"], row["split"]) == ("t2", "test")]
    assert row["about"] == "Write 2 to answer.txt"
    assert isinstance(row["metadata"], dict)
    scaffolds = {
        row["id"]: row["about"] for row in json.loads(m2gym("list", "scaffolds", "--json").stdout)
    }
    assert {"gold", "noop", "scripted", "random", "human", "slow"} <= set(scaffolds)
    assert "reference" in scaffolds["gold"]
    boxes = {
        row["id"]: row["about"] for row in json.loads(m2gym("list", "workspaces", "--json").stdout)
    }
    assert "sandbox" in boxes["local"]
    assert "No sandbox" in boxes["process"]
    assert "docstring" not in m2gym("list", "workspaces").stdout
    assert "swe-repo" in m2gym("list", "tasksets").stdout
    for kind in ("rewards", "backends"):
        json.loads(m2gym("list", kind, "--json").stdout)
    assert {"kind": "envs", "id": "tiny"} in json.loads(m2gym("list", "--json").stdout)


def test_list_says_what_it_lists(m2gym):
    assert "tasks ENV" in one_line(m2gym("list", "tsks", code=1))
    assert "m2gym list tasks ENV" in one_line(m2gym("list", "tasks", code=1))
    assert "did you mean 'tiny'" in one_line(m2gym("list", "tasks", "tinny", code=1))


def test_eval_prints_a_table_and_where_the_run_lies(m2gym, place):
    done = m2gym("eval", "tiny", "--agent", "gold", "--out", "gold-run")
    assert "1.000" in done.stdout
    assert "run: gold-run" in done.stderr
    assert (place[0] / "gold-run" / "run.json").exists()


def test_eval_json_is_alone_on_stdout(m2gym):
    done = m2gym("eval", "tiny", "-a", "noop", "-n", "2", "-k", "2", "--json")
    result = json.loads(done.stdout)
    assert (result["score"], result["episodes"], result["complete"]) == (0, 4, True)
    assert result["pass_at"] == {"2": 0}
    assert result["path"].startswith("runs/")


def test_eval_errors_are_one_line(m2gym):
    assert "did you mean 'tiny'" in one_line(m2gym("eval", "tinyy", "-a", "gold", code=1))
    assert "did you mean 'gold'" in one_line(m2gym("eval", "tiny", "-a", "gild", code=1))
    assert "ENV --agent" in one_line(m2gym("eval", "tiny", code=1))
    assert "--out RUN" in one_line(m2gym("eval", "--resume", code=1))
    assert "'train' or 'test'" in one_line(
        m2gym("eval", "tiny", "-a", "gold", "--split", "dev", code=1)
    )
    assert "unknown workspace" in one_line(
        m2gym("eval", "tiny", "-a", "gold", "-w", "locl", code=1)
    )
    assert "'nowhere'" in m2gym("eval", "tiny", "-a", "gold", "-t", "nowhere", code=1).stderr
    assert "Traceback" in m2gym("eval", "tinyy", "-a", "gold", "--debug", code=1).stderr
    assert m2gym("eval", "tiny", "--agnt", "gold", code=2).stdout == ""


def test_resume_refuses_what_would_change_the_run(m2gym):
    m2gym("eval", "tiny", "-a", "noop", "-n", "1", "--out", "r-run")
    for extra in (["-k", "2"], ["--split", "train"], ["-t", "t1"], ["--seed", "3"], ["-n", "2"]):
        text = one_line(m2gym("eval", "--resume", "--out", "r-run", *extra, code=1))
        assert "leave out" in text
    done = json.loads(m2gym("eval", "--resume", "--out", "r-run", "-j", "1", "--json").stdout)
    assert done["episodes"] == 1
    only = one_line(m2gym("eval", "tiny", "--resume", "--out", "r-run", code=1))
    assert "--agent" in only
    other = one_line(m2gym("eval", "tiny", "-a", "gold", "--resume", "--out", "r-run", code=1))
    assert "agent" in other


def test_version(m2gym):
    assert m2gym("--version").stdout == f"m2gym {m2gym_version}\n"


def test_eval_that_grades_nothing_fails_with_the_cause(m2gym):
    done = m2gym("eval", "tiny", "-a", "noop", "-n", "1", code=1, TINY_DOWN="t0")
    assert "t0: the mirror is down" in done.stderr
    assert "1 infra_error" in done.stdout


def test_a_run_folder_that_cannot_be_made(m2gym, place):
    (place[0] / "file").write_text("")
    assert "file" in one_line(m2gym("eval", "tiny", "-a", "noop", "--out", "file/run", code=1))


def test_human_at_a_prompt(m2gym):
    lines = '{"name": "nonsense"}\n\ncat README\necho 0 > answer.txt\n'
    done = m2gym("eval", "tiny", "-a", "human", "-n", "1", "--json", stdin=lines)
    assert json.loads(done.stdout)["score"] == 1
    assert "Write 0 to answer.txt" in done.stderr
    assert "say the answer" in done.stderr
    assert "nonsense" in done.stderr


def test_scripted_from_a_file(m2gym, place):
    (place[0] / "script.yaml").write_text("t1: ['echo 1 > answer.txt']\n'*': []\n")
    done = m2gym("eval", "tiny", "-a", "scripted:script.yaml", "--json")
    assert json.loads(done.stdout)["score"] == 0.25


def test_compare(m2gym):
    m2gym("eval", "tiny", "-a", "gold", "--out", "c-gold")
    m2gym("eval", "tiny", "-a", "noop", "--out", "c-noop")
    found = json.loads(m2gym("compare", "c-noop", "c-gold", "--json").stdout)
    assert (found["difference"], found["better"], found["tasks"]) == (1, 4, 4)
    assert found["sign_p_value"] == 0.125
    text = m2gym("compare", "c-noop", "c-gold").stdout
    assert "+1.000" in text
    assert "4 / 0 / 0" in text
    assert "is not a run folder" in one_line(m2gym("compare", "c-gold", "nothing", code=1))


def test_validate(m2gym):
    done = m2gym("validate", "tiny", "-k", "2")
    assert "4 of 4 tasks are right" in done.stderr
    result = json.loads(m2gym("validate", "tiny", "-k", "2", "-n", "2", "--json").stdout)
    assert result["ok"]
    assert result["tasks"][0]["gold"] == [1, 1]
    assert result["tasks"][0]["noop"] == [0, 0]


def test_validate_names_the_task_that_fails(m2gym):
    done = m2gym("validate", "tiny", "-k", "1", "-n", "2", "--json", code=1, TINY_DOWN="t1")
    [good, bad] = json.loads(done.stdout)["tasks"]
    assert good["ok"]
    assert "the mirror is down" in bad["problems"][0]


def test_a_sample_is_of_many_packages_and_kinds_and_quick():
    def task(name, package, kind, seconds):
        told = {"package": package, "kind": kind, "grade_seconds": seconds, "split": "test"}
        return Task(id=name, instruction="x", metadata=told)

    tasks = [
        task("a1", "a", "injected-bug", 1.0),
        task("a2", "a", "version-diff", 9.0),
        task("a3", "a", "injected-bug", 0.5),
        task("b1", "b", "injected-bug", 2.0),
        task("b2", "b", "version-diff", 3.0),
    ]
    taskset = ListTaskset("some", tasks)
    assert sample_of(taskset, 2) == ["a3", "b2"]
    assert sample_of(taskset, 4) == ["a3", "b2", "a1", "b1"]
    assert len(sample_of(taskset, 9)) == 5
    plain = ListTaskset("plain", [Task(id=name, instruction="x") for name in ("z", "y")])
    assert sample_of(plain, 1) == ["z"]


def test_demo(m2gym):
    done = m2gym("demo", "--env", "tiny", "-n", "2", "--updates", "0", "--out", "demo-run")
    for text in ("gold", "noop", "scripted", "1.000", "demo-run", "m2gym compare"):
        assert text in done.stdout
    result = json.loads(
        m2gym("demo", "--env", "tiny", "-n", "1", "--updates", "0", "--json").stdout
    )
    assert [run["score"] for run in result["runs"]] == [1, 0, 0]
    assert result["learnt"] is None


def test_doctor(m2gym):
    found = {row["name"]: row for row in json.loads(m2gym("doctor", "--json").stdout)}
    assert found["local workspace"]["state"] == "ok"
    for row in found.values():
        assert row["state"] in ("ok", "limited", "missing")
        assert row["detail"]
    text = m2gym("doctor").stdout
    assert "local workspace" in text
    assert "[green]" not in text


def test_doctor_without_bubblewrap_names_the_mend_and_fails(m2gym, tmp_path):
    done = m2gym("doctor", "--json", code=1, PATH=str(tmp_path))
    [box] = [row for row in json.loads(done.stdout) if row["name"] == "local workspace"]
    assert box["state"] == "missing"
    assert "bubblewrap" in box["mend"]


def test_bench_episode(m2gym):
    done = m2gym("bench", "episode", "--env", "tiny", "-n", "1", "-k", "1", "--json")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["reset of a cached task"]["value"] > 0
    assert found["graded gold episodes a minute and core"]["value"] > 0
    assert "did you mean 'episode'" in one_line(m2gym("bench", "episodes", code=1))
