"""Runs that are killed at any moment and resumed equal one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2gym.rollout.records import scan
from m2gym.rollout.run import load_run
from tests.rollout.tiny import install


@pytest.fixture
def place(tmp_path, bwrap):
    variables = install(tmp_path)
    return tmp_path, {
        **os.environ,
        **variables,
        "TINY_TASKS": "6",
        "TINY_MARK": str(random.getrandbits(40)),
    }


def start(place, *more, file_kib=None):
    """``file_kib``: no file may grow larger, as on a disk that is full."""
    folder, variables = place
    command = [sys.executable, "-m", "m2gym", "eval", *more]
    if file_kib is not None:
        command = ["bash", "-c", f'ulimit -f {file_kib}; exec "$@"', "bash", *command]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(folder):
    return sum(1 for _ in scan(folder / "r" / "trajectories.jsonl"))


def wait_for(condition, process):
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def boxes_left(place):
    """Processes of this test's boxes: each episode leaves one that sleeps for minutes."""
    mark = f"300.{place[1]['TINY_MARK']}".encode()
    left = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in words:
            left.append(entry.parent.name)
    return left


def wait_until_gone(place):
    until = time.monotonic() + 20
    while boxes_left(place):
        assert time.monotonic() < until, boxes_left(place)
        time.sleep(0.05)


def check_whole(folder, attempts=2):
    run = load_run(folder / "r")
    assert run.complete
    assert sorted((e.task, e.attempt) for e in run) == [
        (f"t{i}", k) for i in range(6) for k in range(attempts)
    ]
    assert run.score == 1
    assert records(folder) == 6 * attempts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(place, number):
    folder, _ = place
    process = start(place, "tiny", "--agent", "slow", "-k", "2", "--out", "r", "-j", "2")
    wait_for(lambda: (folder / "r/trajectories.jsonl").exists() and records(folder) >= 2, process)
    wait_for(lambda: boxes_left(place), process)
    process.send_signal(number)
    for _ in range(20):  # people press it again; nothing may be torn by that
        time.sleep(0.1)
        if process.poll() is None:
            process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "m2gym eval --resume --out r" in errors
    assert "Traceback" not in errors
    assert (folder / "r/trajectories.jsonl").read_bytes().endswith(b"\n")
    assert boxes_left(place) == []
    assert 2 <= records(folder) < 12
    process = start(place, "--resume", "--out", "r")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "1.000" in output
    check_whole(folder)


def essence(run):
    """All of a run that does not tell of this machine's time."""
    return {
        (e.task, e.attempt): (
            e.seed,
            e.task_hash,
            [(step.action, step.observation, step.info) for step in e.steps],
            [c.message for c in e.completions],
            e.verdict.reward,
            e.verdict.status,
            e.verdict.stop,
            {name: score.value for name, score in e.verdict.scores.items()},
        )
        for e in run
    }


def test_killed_ten_times_at_random_and_resumed_equals_an_undisturbed_run(place):
    """Each kill comes at any moment from the process's first to well after a further record."""
    folder, _ = place
    arguments = ["tiny", "--agent", "slow", "-k", "5", "-j", "2", "--seed", "3"]
    undisturbed = start(place, *arguments, "--out", "u")
    _, errors = undisturbed.communicate(timeout=200)
    assert undisturbed.returncode == 0, errors
    dice = random.Random(5)
    grown = []
    for number in range(10):
        before = records(folder)
        more = ["--resume"] if (folder / "r/run.json").exists() else []
        process = start(place, *arguments, "--out", "r", *more)
        if number % 2:
            wait_for(lambda before=before: records(folder) > before, process)
        time.sleep(dice.random() * 0.6)
        process.kill()
        process.communicate()
        wait_until_gone(place)
        grown.append(records(folder) - before)
        if number == 4:
            with (folder / "r/trajectories.jsonl").open("ab") as file:
                file.write(b'{"schema_version":2,"id":"torn')
    assert sum(grown) >= 4, grown
    process = start(place, *arguments, "--resume", "--out", "r")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    check_whole(folder, 5)
    disturbed, plain = load_run(folder / "r"), load_run(folder / "u")
    assert essence(disturbed) == essence(plain)
    assert disturbed.summary.estimate == plain.summary.estimate
    kept = {file.name.split(".")[0] for file in (folder / "r/artifacts").iterdir()}
    assert kept == {episode.id for episode in disturbed}


def test_a_disk_that_fills_up_ends_the_run_and_a_resume_finishes_it(place):
    folder, _ = place
    arguments = ["tiny", "--agent", "gold", "-k", "2", "--out", "r", "-j", "2"]
    process = start(place, *arguments, file_kib=8)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "free space, --resume" in errors
    assert "Traceback" not in errors
    kept = records(folder)
    assert kept > 0
    assert not load_run(folder / "r").complete
    assert (folder / "r/trajectories.jsonl").read_bytes().endswith(b"\n")
    process = start(place, *arguments, "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    run = load_run(folder / "r")
    assert run.complete
    assert len(run.trajectories) == 12
    assert run.score == 1


def test_two_runs_into_one_folder(place):
    folder, _ = place
    arguments = ["tiny", "--agent", "slow", "--out", "r"]
    first = start(place, *arguments)
    wait_for(lambda: (folder / "r/run.json").exists(), first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = start(place, *arguments, "--resume")
        _, errors = second.communicate(timeout=120)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert f"process {first.pid} is writing" in errors
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert records(folder) == 6
