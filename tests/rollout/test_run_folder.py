import subprocess
import sys
import textwrap

import pytest

from m2gym.core.errors import InputError
from m2gym.rollout.records import encode
from m2gym.rollout.run import load_run
from m2gym.rollout.run_folder import RECORDS, RunWriter, read_records
from tests.descriptors import open_files


def test_nothing_is_lost_and_nothing_counts_twice(tmp_path, record, info):
    with RunWriter(tmp_path, info()) as writer:
        writer.append(record("a", 0))
        writer.append(record("b", 0, reward=None, status="infra_error", error="no disk"))
    with RunWriter(tmp_path, info(), resume=True) as writer:
        assert writer.done == {("a", 0)}
        writer.append(record("b", 0, reward=0.0))
    assert [(t.task, t.verdict.reward) for t in read_records(tmp_path)] == [("a", 1), ("b", 0)]
    run = load_run(tmp_path)
    assert run.score == 0.5
    assert not run.complete
    assert run.summary.statuses == {"ok": 2}


def test_a_torn_line_is_cut_aside_and_kept(tmp_path, record, info):
    with RunWriter(tmp_path, info()) as writer:
        writer.append(record("a", 0))
    torn = encode(record("b", 0))[:100]
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(torn)
    assert load_run(tmp_path).summary.episodes == 1
    with RunWriter(tmp_path, info(), resume=True) as writer:
        assert writer.done == {("a", 0)}
        writer.append(record("b", 0))
    assert [t.task for t in read_records(tmp_path)] == ["a", "b"]
    assert (tmp_path / "torn.jsonl").read_bytes() == torn + b"\n"


def test_a_used_folder_is_refused_without_resume(tmp_path, info):
    RunWriter(tmp_path, info()).close()
    with pytest.raises(InputError, match="already holds a run"):
        RunWriter(tmp_path, info())


def test_another_configuration_is_refused_with_the_difference(tmp_path, info):
    RunWriter(tmp_path, info()).close()
    with pytest.raises(InputError, match="attempts: 2 → 3"):
        RunWriter(tmp_path, info(attempts=3), resume=True)
    changed = info().model_copy(update={"task_hashes": {"a": "h", "b": "other"}})
    with pytest.raises(InputError, match="content of tasks: b"):
        RunWriter(tmp_path, changed, resume=True)
    RunWriter(tmp_path, info(), resume=True).close()


def test_two_writers_one_is_refused_and_named(tmp_path, info):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from m2gym.rollout.run_folder import RunWriter, read_info
        writer = RunWriter(Path(sys.argv[1]), read_info(Path(sys.argv[1])), resume=True)
        print("locked", flush=True)
        sys.stdin.read()
        """
    )
    RunWriter(tmp_path, info()).close()
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match=f"process {other.pid} is writing"):
        RunWriter(tmp_path, info(), resume=True)
    other.communicate("")
    RunWriter(tmp_path, info(), resume=True).close()


def test_a_record_that_does_not_fit_leaves_the_file_as_it_was(tmp_path, record, info):
    # a file-size limit stands in for a full disk: write() is short, then fails
    program = textwrap.dedent(
        f"""
        import resource, signal, sys
        from pathlib import Path
        from m2gym.core.errors import InfraError
        from m2gym.core.trajectory import Step, Trajectory
        from m2gym.core.verdict import Verdict
        from m2gym.rollout.run_folder import RunWriter, read_info
        path = Path({str(tmp_path)!r})
        writer = RunWriter(path, read_info(path), resume=True)
        def record(task, size):
            return Trajectory(id=task, env="e", task=task, task_hash="h", agent="g",
                steps=(Step(action="x", observation="y" * size),), verdict=Verdict(reward=1.0))
        writer.append(record("a", 10))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            writer.append(record("b", 50_000))
        except InfraError as error:
            print(error)
        writer.append(record("c", 10))
        """
    )
    RunWriter(tmp_path, info()).close()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert [t.task for t in read_records(tmp_path)] == ["a", "c"]


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        load_run(tmp_path / "nothing")
    (tmp_path / "run.json").write_text('{"config": {"env": "e", "agnet": 1}}')
    with pytest.raises(InputError, match=r"run\.json: config"):
        load_run(tmp_path)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path, info):
    newer = info().model_copy(update={"schema_version": 99})
    (tmp_path / "run.json").write_text(newer.model_dump_json())
    with pytest.raises(InputError, match="upgrade m2gym"):
        load_run(tmp_path)


def test_many_records_are_read_with_flat_memory(tmp_path, record, info):
    tasks = tuple(f"t{i}" for i in range(3000))
    with RunWriter(tmp_path, info(tasks=tasks, attempts=1)):
        pass
    big = record(steps=(record().steps[0].model_copy(update={"observation": "x" * 20_000}),))
    with (tmp_path / RECORDS).open("wb") as file:
        for task in tasks:
            file.write(encode(big.model_copy(update={"task": task})))
    program = (
        "import resource, sys; from m2gym.rollout.run import load_run;"
        "load_run(sys.argv[1]).summary;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for path in (tmp_path, tmp_path / "small"):
        if path != tmp_path:
            with RunWriter(path, info()) as writer:
                writer.append(record())
        output = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(output.stdout))
    assert peaks[0] - peaks[1] < 20_000  # KiB, for a file of 60 MB


def test_the_run_shows_itself(tmp_path, record, info):
    with RunWriter(tmp_path, info()) as writer:
        for task, reward in (("a", 1.0), ("b", 0.0)):
            for attempt in range(2):
                writer.append(record(task, attempt, reward=reward))
    run = load_run(tmp_path)
    assert run.complete
    assert run.interval[0] < 0.5 < run.interval[1]
    assert run.pass_at(2) == 0.5
    assert "0.500" in str(run)
    assert "score=0.500" in repr(run)
    assert "<table>" in run._repr_html_()
    assert run.compare(run).difference == 0


def test_to_df_has_a_row_an_episode_or_says_what_is_missing(tmp_path, record, info):
    with RunWriter(tmp_path, info()) as writer:
        writer.append(record("a", 0))
    try:
        import pandas  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(InputError, match="pip install pandas"):
            load_run(tmp_path).to_df()
        return
    frame = load_run(tmp_path).to_df()
    assert frame.loc[0, "reward"] == 1.0
    assert frame.loc[0, "steps"] == 1


def test_no_descriptor_leaks(tmp_path, info):
    RunWriter(tmp_path, info()).close()
    before = open_files()
    for _ in range(20):
        with pytest.raises(InputError):
            RunWriter(tmp_path, info())
    assert open_files() <= before
