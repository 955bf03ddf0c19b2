"""The pool: exactly once through real kills, masking, leases, damage, bounded memory."""

from __future__ import annotations

import doctest
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from m2gym.core.errors import InfraError, InputError
from m2gym.core.trajectory import Completion, Trajectory
from m2gym.core.verdict import Verdict
from m2gym.forge import records
from m2gym.forge.parquet import export_parquet, import_parquet
from m2gym.forge.pool import DataPool, LeaseLostError, PoolBusyError, PoolCorruptError
from m2gym.forge.records import PoolCompletion, PoolTrajectory
from tests.forge.pool_process import trajectory

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.forge.pool_process", *map(str, arguments)], cwd=ROOT
    )


def same(a: PoolTrajectory, b: PoolTrajectory) -> bool:
    return (a.key, a.reward, a.status, a.task, a.group) == (
        b.key, b.reward, b.status, b.task, b.group
    ) and all(
        (getattr(x, f) == getattr(y, f)).all()
        for x, y in zip(a.completions, b.completions, strict=True)
        for f in ("prompt_ids", "response_ids", "logprobs_T", "versions_T")
    )  # fmt: skip


def test_doctest():
    assert doctest.testmod(records).failed == 0


def test_what_goes_in_comes_out(tmp_path):
    completion = Completion(
        prompt_ids=(1, 2), response_ids=(3, 4, 5), logprobs=(-0.1, -0.2, -0.3),
        weight_versions=(7, 7, 8),
    )  # fmt: skip
    record = Trajectory(
        id="e1", env="e", task="t", task_hash="", agent="a", completions=(completion,) * 2,
        verdict=Verdict(reward=0.5),
    )  # fmt: skip
    with DataPool(tmp_path / "p.db") as pool:
        stored = PoolTrajectory.of(record)
        assert pool.put([stored]) == 1
        assert pool.put([stored]) == 0, "a key put twice is stored once"
        claim = pool.attach("me").claim(10)
    assert claim is not None
    (got,) = claim.trajectories
    assert same(got, stored)
    assert got.completions[0].versions_T.tolist() == [7, 7, 8]


def test_claim_commit_release(tmp_path):
    with DataPool(tmp_path / "p.db") as pool:
        pool.put(trajectory(f"k{n}") for n in range(5))
        lease = pool.attach("me")
        first, second = lease.claim(2), lease.claim(2)
        assert [t.key for t in first.trajectories] == ["k0", "k1"]
        assert [t.key for t in second.trajectories] == ["k2", "k3"]
        lease.commit(first.id)
        lease.commit(first.id)
        lease.release(second.id)
        assert pool.counts() == {"open": 0, "ready": 3, "leased": 0, "consumed": 2, "masked": 0}
        assert [t.key for t in lease.claim(9).trajectories] == ["k2", "k3", "k4"]
        assert lease.claim(9) is None
        with pytest.raises(InputError, match="is consumed"):
            lease.release(first.id)
        with pytest.raises(InputError, match="unknown"):
            lease.commit(99)


def test_groups_are_consumed_together_without_their_masked_members(tmp_path):
    with DataPool(tmp_path / "p.db", group_size=3) as pool:
        pool.put([trajectory("a0", group="a"), trajectory("b0", group="b")])
        lease = pool.attach("me")
        assert lease.claim(1) is None
        lost = PoolTrajectory("a1", (), None, "infra_error", group="a")
        pool.put([lost, trajectory("a2", group="a")])
        claim = lease.claim(5)
        assert [[t.key for t in group] for group in claim.groups] == [["a0", "a2"]]
        pool.put([PoolTrajectory(f"c{n}", (), None, "cancelled", group="c") for n in range(3)])
        assert pool.counts()["masked"] == 1, "a group with no usable member is never handed out"
        assert pool.faults() == {"infra_error": 1, "cancelled": 3}
        with pytest.raises(InputError, match="already has its 3 members"):
            pool.put([trajectory("a3", group="a")])
        with pytest.raises(InputError, match="names no group"):
            pool.put([trajectory("alone")])
        assert pool.counts()["open"] == 1


def invalid() -> dict[str, PoolTrajectory]:
    good = trajectory("x").completions[0]
    n = len(good.response_ids)
    ids, lp, v = good.response_ids, good.logprobs_T, good.versions_T

    def one(response=ids, logprobs=lp, versions=v, **kw):
        return PoolTrajectory(
            "bad", (PoolCompletion(good.prompt_ids, response, logprobs, versions),),
            kw.pop("reward", 1.0), **kw,
        )  # fmt: skip

    nan = lp.copy()
    nan[3] = np.nan
    return {
        "logprobs": one(logprobs=lp[:-1]),
        "versions": one(versions=v[:-1]),
        "not finite": one(logprobs=nan),
        "out of range": one(response=np.full(n, 5000, np.int32)),
        "token id -1": one(response=np.full(n, -1, np.int32)),
        "more than 100": one(
            np.zeros(200, np.int32), np.zeros(200, np.float32), np.zeros(200, int)
        ),
        "empty": one(ids[:0], lp[:0], v[:0]),
        "no completion": PoolTrajectory("bad", (), 1.0),
        "reward nan": one(reward=float("nan")),
        "reward inf": one(reward=float("inf")),
        "shared": one(isolation="shared"),
        "verifier_error": one(reward=None, status="verifier_error"),
    }


@pytest.mark.parametrize("reason", invalid())
def test_invalid_trajectories_are_masked_and_counted(tmp_path, reason):
    with DataPool(tmp_path / "p.db", vocabulary=1000, max_tokens=100) as pool:
        assert pool.put([invalid()[reason], trajectory("good")]) == 2
        (fault,) = pool.faults()
        assert reason in fault
        assert [t.key for t in pool.attach("me").claim(9).trajectories] == ["good"]


def test_forged_is_trained_on(tmp_path):
    with DataPool(tmp_path / "p.db") as pool:
        pool.put([PoolTrajectory("f", trajectory("f").completions, 0.0, "forged")])
        assert pool.counts()["ready"] == 1


class TestLeases:
    def test_two_trainers_on_one_pool(self, tmp_path):
        now = [100.0]
        with DataPool(tmp_path / "p.db") as a, DataPool(tmp_path / "p.db") as b:
            a.put(trajectory(f"k{n}") for n in range(4))
            first = a.attach("first", lease=10, clock=lambda: now[0])
            claim = first.claim(2)
            with pytest.raises(PoolBusyError, match="'first' holds"):
                b.attach("second", clock=lambda: now[0])
            now[0] = 109.0
            first.renew()
            now[0] = 118.0
            with pytest.raises(PoolBusyError):
                b.attach("second", clock=lambda: now[0])
            now[0] = 120.0
            second = b.attach("second", clock=lambda: now[0])
            assert len(second.claim(9).trajectories) == 4, "the first's claim was released"
            for call in (lambda: first.commit(claim.id), first.renew, lambda: first.claim(1)):
                with pytest.raises(LeaseLostError, match="'first' lost"):
                    call()

    def test_checkpoint_decides_what_was_trained(self, tmp_path):
        with DataPool(tmp_path / "p.db") as pool:
            pool.put(trajectory(f"k{n}") for n in range(3))
            lease = pool.attach("me")
            trained, untrained = lease.claim(1), lease.claim(1)
            assert untrained is not None
            lease.detach()
            again = pool.attach("me", trained=[trained.id])
            assert [t.key for t in again.claim(9).trajectories] == ["k1", "k2"]
            assert pool.counts()["consumed"] == 1

    def test_foreign_checkpoint_is_refused(self, tmp_path):
        with DataPool(tmp_path / "p.db") as pool, pytest.raises(InputError, match="never gave out"):
            pool.attach("me", trained=[7])


def test_kill_9_of_writers_loses_nothing_acknowledged(tmp_path):
    path, logs = tmp_path / "p.db", [tmp_path / f"w{n}.log" for n in range(3)]
    DataPool(path).close()
    rng = random.Random(0)
    writers = [start("write", path, f"w{n}", 10**6, logs[n]) for n in range(3)]
    deadline = time.monotonic() + 60
    while not all(log.exists() and log.stat().st_size > 500 for log in logs):
        assert time.monotonic() < deadline, "the writers did not start"
        time.sleep(0.02)
    for writer in writers:
        time.sleep(rng.random() * 0.2)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    acknowledged = [key for log in logs for key in log.read_text().splitlines()]
    with DataPool(path) as pool:
        pool.check()
        stored = {t.key: t for t in pool.trajectories()}
    assert set(acknowledged) <= set(stored)
    assert len(stored) - len(acknowledged) <= 3, "at most one put a writer was not acknowledged"
    assert all(len(t.completions) == 1 for t in stored.values()), "nothing is half-written"


def test_kill_9_of_trainers_trains_each_exactly_once(tmp_path):
    path, checkpoint, finished = (tmp_path / n for n in ("p.db", "checkpoint.json", "finished"))
    total, kills = 400, 6
    rng = random.Random(1)
    with DataPool(path) as pool:
        pool.put(trajectory(f"k{n}") for n in range(total // 2))
        trainer = start("train", path, checkpoint, finished)
        killed = 0
        deadline = time.monotonic() + 100
        for kill in range(kills):
            before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            pool.put(trajectory(f"late{kill}-{n}") for n in range(total // 2 // kills))
            while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline, "the trainer did not start"
                assert trainer.poll() is None
                time.sleep(0.001)
            time.sleep(rng.random() * 0.01)
            os.kill(trainer.pid, signal.SIGKILL)
            trainer.wait()
            killed += 1
            trainer = start("train", path, checkpoint, finished)
        finished.touch()
        assert trainer.wait(timeout=60) == 0
        pool.check()
        stored = sorted(t.key for t in pool.trajectories())
        state = json.loads(checkpoint.read_text())
        assert sorted(state["keys"]) == stored, "none lost, none twice"
        assert pool.counts()["consumed"] == len(stored)
    assert killed == kills


class TestDamage:
    def test_not_a_database(self, tmp_path):
        (tmp_path / "p.db").write_bytes(b"this is not a pool" * 1000)
        with pytest.raises(PoolCorruptError, match="no pool or is damaged"):
            DataPool(tmp_path / "p.db")

    def test_truncated(self, tmp_path):
        path = tmp_path / "p.db"
        with DataPool(path) as pool:
            pool.put(trajectory(f"k{n}", tokens=500) for n in range(200))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(PoolCorruptError):  # noqa: PT012 (whichever touches the hole first)
            pool = DataPool(path)
            pool.check()

    def test_overwritten_page_is_found(self, tmp_path):
        path = tmp_path / "p.db"
        with DataPool(path) as pool:
            pool.put(trajectory(f"k{n}", tokens=500) for n in range(200))
        data = bytearray(path.read_bytes())
        data[20 * 4096 : 40 * 4096] = os.urandom(20 * 4096)
        path.write_bytes(data)
        with pytest.raises(PoolCorruptError):
            DataPool(path).check()

    def test_other_schema_or_group_size(self, tmp_path):
        path = tmp_path / "p.db"
        with DataPool(path, group_size=2) as pool:
            with pytest.raises(InputError, match="groups of 2"):
                DataPool(path, group_size=4)
            pool._connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema'")
        with pytest.raises(PoolCorruptError, match="schema 99"):
            DataPool(path, group_size=2)

    def test_unwritable_folder_is_infrastructure(self, tmp_path):
        with pytest.raises(InfraError, match="unable to open"):
            DataPool(tmp_path / "absent" / "p.db")


def test_a_fork_must_open_its_own(tmp_path):
    pool = DataPool(tmp_path / "p.db")
    queue = multiprocessing.get_context("fork").Queue()

    def child():
        try:
            pool.counts()
        except InputError as error:
            queue.put(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert "open it again" in queue.get(timeout=5)
    pool.close()


def test_failed_put_leaves_nothing(tmp_path):
    with DataPool(tmp_path / "p.db") as pool:

        def broken():
            yield trajectory("a")
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError):
            pool.put(broken())
        assert sum(pool.counts().values()) == 0


def test_parquet_round_trip(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is in an extra")
    with (
        DataPool(tmp_path / "a.db", group_size=2) as a,
        DataPool(tmp_path / "b.db", group_size=2) as b,
    ):
        items = [trajectory(f"k{n}", group=f"g{n // 2}") for n in range(6)]
        items[3] = PoolTrajectory("k3", items[3].completions, None, "infra_error", group="g1")
        a.put(items)
        assert export_parquet(a, tmp_path / "a.parquet", rows=4) == 6
        assert import_parquet(b, tmp_path / "a.parquet", episodes=4) == 6
        assert all(same(x, y) for x, y in zip(a.trajectories(), b.trajectories(), strict=True))
        assert b.counts() == a.counts()
        assert b.faults() == a.faults()
        assert import_parquet(b, tmp_path / "a.parquet") == 0


@pytest.mark.heavy
def test_a_million_completions_in_bounded_memory(tmp_path):
    """1,000,000 completions of 64 tokens in and out; growth of the process below 300 MB."""
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ids = np.arange(64, dtype=np.int32)
    completion = PoolCompletion(ids, ids, np.zeros(64, np.float32), np.zeros(64, np.int32))
    with DataPool(tmp_path / "p.db") as pool:
        lease = pool.attach("me", lease=3600)
        seen = 0
        for part in range(1000):
            pool.put(PoolTrajectory(f"{part}-{n}", (completion,), 1.0) for n in range(1000))
            claim = lease.claim(1000)
            seen += len(claim.trajectories)
            lease.commit(claim.id)
        assert seen == 1_000_000
        assert pool.counts()["consumed"] == 1_000_000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    assert grown < 300_000, f"grew by {grown / 1000:.0f} MB"
