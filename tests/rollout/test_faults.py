"""Boxes, graders, drivers and engines are killed at random moments: nothing is lost or scored 0."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from m2gym.rollout.records import scan
from m2gym.rollout.run import Run, load_run
from tests.rollout.test_kill import essence
from tests.rollout.tiny import install
from tests.workspaces.own_engine import OwnEngine, can_be_made
from tests.workspaces.small_image import NAME

GRADING = b"sleep 0.2; cat answer.txt"
STARTS = 60
"""How often a driver is started in one run, at most."""


def family() -> dict[int, list[int]]:
    """The children of every process of this machine."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    return children


def words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    for child in children.get(pid, []):
        yield child
        yield from below(child, children)


class Torment:
    """A run whose parts are killed while it goes on, again and again, until it is whole."""

    def __init__(self, folder: Path, env: dict[str, str], workspace: str, seed: int) -> None:
        self.folder, self.env, self.dice = folder, env, random.Random(seed)
        self.workspace, self.given = workspace, Counter[str]()
        self.process: subprocess.Popen[str]
        self.kinds: dict[str, Callable[[], bool]] = {"driver": self.driver}
        self.known = 0

    def start(self, out: str) -> None:
        more = ["--resume"] if (self.folder / out / "run.json").exists() else []
        command = [sys.executable, "-m", "m2gym", "eval", "tiny", "--agent", "slow", "-j", "2"]
        command += ["--workspace", self.workspace, "--seed", "3", "--out", out, *more]
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def undisturbed(self) -> Run:
        self.start("u")
        _, errors = self.process.communicate(timeout=280)
        assert self.process.returncode == 0, errors
        return load_run(self.folder / "u")

    def run(self, out: str, faults: int) -> Run:
        """Disturb a run ``faults`` times (or until it ends), then let it come to its end."""
        self.known, left = 0, faults
        for _ in range(STARTS):
            self.start(out)
            while self.process.poll() is None and left:
                time.sleep(self.dice.random() * 0.8)
                kind = self.dice.choice(sorted(self.kinds))
                if self.process.poll() is None and self.kinds[kind]():
                    self.given[kind] += 1
                    left -= 1
                self.look(out)
            _, errors = self.process.communicate(timeout=280)
            assert "Traceback" not in errors, errors
            self.look(out)
            if (self.folder / out / "run.json").exists():
                run = load_run(self.folder / out)
                if run.complete and all(episode.verdict.reward == 1 for episode in run):
                    return run
        raise AssertionError(f"not whole after {STARTS} starts: {self.given}")

    def look(self, out: str) -> None:
        """No reward but the right one, and no record that was there is gone."""
        path = self.folder / out / "trajectories.jsonl"
        found = list(scan(path)) if path.exists() else []
        assert len(found) >= self.known
        self.known = len(found)
        assert {record.verdict.reward for record in found} <= {1.0, None}
        assert {record.verdict.status for record in found} <= {"ok", "infra_error"}

    def driver(self) -> bool:
        self.process.kill()
        self.process.wait()
        return True

    def boxes(self, *, grading: bool) -> list[int]:
        """Boxes of the driver in which grading goes on, or the others."""
        children = family()
        return [
            box
            for box in children.get(self.process.pid, [])
            if words(box).partition(b"\0")[0].endswith((b"bwrap", b"nsenter"))
            and any(GRADING in words(pid) for pid in below(box, children)) == grading
        ]

    def kill_box(self, *, grading: bool) -> bool:
        for _ in range(100):
            found = self.boxes(grading=grading)
            if found:
                os.kill(self.dice.choice(found), 9)
                return True
            time.sleep(0.02)
        return False

    def nothing_left(self) -> None:
        """After ``doctor --reap``: no process of a box and no folder of a dead owner."""
        reap = [sys.executable, "-m", "m2gym", "doctor", "--reap", "--json"]
        subprocess.run(reap, env=self.env, cwd=self.folder, check=False, capture_output=True)
        mark = f"300.{self.env['TINY_MARK']}".encode()
        for _ in range(200):
            left = [p for p in Path("/proc").glob("[0-9]*") if mark in words(int(p.name))]
            if not left:
                break
            time.sleep(0.1)
        base = Path(self.env["TMPDIR"]) / f"m2gym-{os.getuid()}"
        owners = [path.name for path in base.glob("m2gym-*")]
        assert (left, owners) == ([], [])


@pytest.fixture
def place(tmp_path: Path, bwrap: None) -> Iterator[tuple[Path, dict[str, str]]]:
    temporary = Path(tempfile.mkdtemp(prefix="m2gym-faults-", dir="/tmp"))
    temporary.chmod(0o711)  # a box's user passes through it
    yield (
        tmp_path,
        {
            **os.environ,
            **install(tmp_path),
            "TINY_TASKS": "6",
            "TINY_REWARD": "boxed-answer",
            "TINY_MARK": str(random.getrandbits(40)),
            "TMPDIR": str(temporary),
        },
    )
    shutil.rmtree(temporary)


def in_local(place: tuple[Path, dict[str, str]], seed: int) -> Torment:
    torment = Torment(*place, workspace="local", seed=seed)
    torment.kinds["box"] = lambda: torment.kill_box(grading=False)
    torment.kinds["grader"] = lambda: torment.kill_box(grading=True)
    return torment


def torment_until(torment: Torment, faults: int) -> None:
    """Runs with faults until there were so many, each compared with one that had none."""
    plain = essence(torment.undisturbed())
    runs = 0
    while sum(torment.given.values()) < faults:
        left = faults - sum(torment.given.values())
        run = torment.run(f"r{runs}", min(left, torment.dice.randint(5, 10)))
        assert essence(run) == plain
        runs += 1
    torment.nothing_left()
    print(f"{sum(torment.given.values())} faults in {runs} runs: {dict(torment.given)}")


def test_ten_faults(place: tuple[Path, dict[str, str]]) -> None:
    torment = in_local(place, seed=7)
    torment_until(torment, 10)
    assert set(torment.given) == {"box", "driver", "grader"}


@pytest.mark.heavy
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_faults(place: tuple[Path, dict[str, str]]) -> None:
    """``M2GYM_FAULTS`` names another number."""
    torment_until(in_local(place, seed=11), int(os.environ.get("M2GYM_FAULTS", "1000")))


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_faults_of_containers_and_of_the_engine(place: tuple[Path, dict[str, str]]) -> None:
    if not can_be_made():
        pytest.skip("no container engine can be started here")
    host = OwnEngine()
    try:
        host.start()
        host.import_image()
        place[1].update(DOCKER_HOST=host.socket, M2GYM_DOCKER_IMAGE=NAME)
        torment = Torment(*place, workspace="docker", seed=5)

        def container() -> bool:
            for _ in range(40):
                names = host.docker("ps", "-q", check=False).stdout.decode().split()
                if names:
                    break
                time.sleep(0.05)
            name = torment.dice.choice(names) if names else "none"
            return host.docker("kill", name, check=False).returncode == 0

        def engine() -> bool:
            host.kill()
            time.sleep(torment.dice.random())
            host.start()
            return True

        torment.kinds |= {"container": container, "engine": engine}
        torment_until(torment, int(os.environ.get("M2GYM_ENGINE_FAULTS", "40")))
        assert host.docker("ps", "-aq").stdout == b""
    finally:
        host.close()
