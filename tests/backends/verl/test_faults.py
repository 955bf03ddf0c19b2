"""What dies, dies alone: an agent, its box, a reward."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.backends.verl import words
from tests.backends.verl.needs import config, verl_here
from tests.backends.verl.processes import gone, ray_processes

pytestmark = [pytest.mark.verl, pytest.mark.timeout(2400)]

PROGRAM = """
import json, os, signal, sys, time, urllib.request

url, instruction = sys.argv[1:]
if instruction.startswith("dies"):
    os.kill(os.getpid(), signal.SIGKILL)
if instruction.startswith("box"):
    time.sleep(600)
body = {"model": "m", "messages": [{"role": "user", "content": instruction}]}
request = urllib.request.Request(
    url + "/v1/chat/completions",
    json.dumps(body).encode(),
    {"Content-Type": "application/json", "Authorization": "Bearer k"},
)
with urllib.request.urlopen(request) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"])
"""
KINDS = ["fine", "nan", "good", "dies", "well", "box"]


def status_of(pid: int) -> tuple[bytes, int]:
    """Command line of a process, and its parent; nothing of one that is gone."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return b"", 0
    return line, parent


def kill_boxes(over: threading.Event, killed: list[int]) -> None:
    """Kill each box, from outside, in which the program plays a task of kind ``box``."""
    while not over.wait(0.2):
        for place in Path("/proc").iterdir():
            if not place.name.isdigit():
                continue
            line, pid = status_of(int(place.name))
            if b"agent.py" not in line or b"\0box-" not in line:
                continue
            box = 0
            while pid > 1:
                line, parent = status_of(pid)
                if line.split(b"\0")[0].endswith(b"bwrap"):
                    box = pid
                pid = parent
            if box and box not in killed:
                os.kill(box, signal.SIGKILL)
                killed.append(box)


@contextmanager
def boxes_die() -> Iterator[list[int]]:
    over, killed = threading.Event(), []
    thread = threading.Thread(target=kill_boxes, args=(over, killed))
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_a_dead_agent_a_dead_box_and_a_nan_are_masked_and_counted(
    bwrap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verl_here()
    import m2gym

    words.install(tmp_path / "package", monkeypatch)
    before = ray_processes()
    rows: list[dict[str, Any]] = []
    cfg = config(
        tmp_path / "run",
        env={"id": "words", "kinds": KINDS, "number": 1, "workspace": "local"},
        agent={
            "id": "command",
            "command": "python3 ~/agent.py {base_url} {instruction}",
            "files": {"~/agent.py": PROGRAM},
        },
        train={"steps": 2, "groups": 2, "group_size": 2, "max_tokens": 32, "lr": 1e-3},
    )
    with boxes_die() as killed:
        result = m2gym.train(cfg, told=rows.append)
    last = rows[-1]
    assert killed, "no box was killed"
    assert last["dropped_groups"] >= 3, "one group each: all of its episodes failed"
    assert "× infra_error" in last["dropped_why"]
    assert "nan" in last["dropped_why"] or "verifier_error" in last["dropped_why"]
    for row in rows:
        assert row["episodes"] == 4, "none of a failed group is in a baseline"
        assert 0 < row["reward"] <= 1
    assert result.model.is_dir()
    assert gone(before), "no Ray process is left"
