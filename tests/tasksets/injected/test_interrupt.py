"""Ctrl-C ends a making or verifying run while a box works, and leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.tasksets.registry.cache import Cache
from tests.tasksets.conftest import Index

SLEEP = 90.0
"""Far longer than an interrupted run is waited for, and shorter than the bound of a run."""
PRODUCE = """\
import asyncio, sys
from pathlib import Path
from m2gym.tasksets.injected import produce
from m2gym.tasksets.registry.cache import Cache
produce.SOURCES = (produce.Source("tally", "1.0", 1, 1),)
produce.Cache = lambda: Cache(sys.argv[1])
sys.exit(produce.main(["--out", sys.argv[2]]))
"""


def sleepers() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"sleep\0{SLEEP}".encode() in line:
                found.add(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_making_ends_while_tests_run(
    number: signal.Signals,
    index: Index,
    wheels: Cache,
    make_box: Callable[[WorkspaceSpec], Workspace],
    tmp_path: Path,
) -> None:
    text = f"import subprocess\ndef test_long(): subprocess.run(['sleep', '{SLEEP}'])\n"
    index.add("tally", "1.0", {"tally/__init__.py": "", "tests/test_tally.py": text})
    before = sleepers()
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", PRODUCE, str(wheels.root), str(out)])
    try:
        limit = time.monotonic() + 60
        while not sleepers() - before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.1)
        assert sleepers() - before, "the tests never began"
        os.kill(process.pid, number)
        assert process.wait(timeout=SLEEP / 3) == 130
    finally:
        process.kill()
        process.wait()
    assert not sleepers() - before
    assert not (out / "funnel.json").exists() or not json.loads((out / "funnel.json").read_text())
