"""Data pool: a durable store of trajectories between many agents and one trainer.

::

     writers (many processes)                      one trainer at a time
     put ──► ready ──claim──► leased ──commit──► consumed
       │                        │  ▲
       │                        └──┘ release, or the next trainer's attach: ready again
       └───► masked (not graded, shared box, invalid, too long): counted by reason, never handed out

     group of G:  ready when all G members are in and at least one is not masked

Everything is one SQLite file in WAL mode, so a kill -9 of any process at any point loses nothing
that `put` returned from, and leaves nothing half-written. A key put twice is stored once.

**Exactly once.** A trainer claims, trains, writes the claim's id *into its checkpoint* with the new
weights, then commits. When it dies, the next one attaches with the ids found in the checkpoint it
loads: those are committed, every other claim is released. So what the surviving weights were
trained on, they were trained on once. While a trainer's lease lasts, a second is refused; after
it has run out and another has attached, the first one's calls raise `LeaseLostError`.

With ``durable=True`` every `put` also survives a power loss (fsync per transaction).
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import InfraError, InputError
from m2gym.forge.records import PoolTrajectory, from_blobs, to_blobs

SCHEMA = 1
PAGE = 32_768
"""Bytes a page: completions are blobs of tens of KiB, and small pages would chain them."""
WAL_BYTES = 64 * 2**20
"""Size of the write-ahead log at which it is folded into the file."""
READY, LEASED, CONSUMED, MASKED, OPEN = "ready", "leased", "consumed", "masked", "open"
_TABLES = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups(
  id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, size INTEGER NOT NULL,
  members INTEGER NOT NULL, usable INTEGER NOT NULL, state TEXT NOT NULL, claim INTEGER);
CREATE INDEX IF NOT EXISTS ready_groups ON groups(id) WHERE state = 'ready';
CREATE INDEX IF NOT EXISTS claimed_groups ON groups(claim) WHERE state = 'leased';
CREATE TABLE IF NOT EXISTS episodes(
  id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, grp INTEGER NOT NULL, task TEXT NOT NULL,
  status TEXT NOT NULL, isolation TEXT NOT NULL, reward REAL, fault TEXT);
CREATE INDEX IF NOT EXISTS by_group ON episodes(grp);
CREATE INDEX IF NOT EXISTS faults ON episodes(fault) WHERE fault IS NOT NULL;
CREATE TABLE IF NOT EXISTS completions(
  episode INTEGER NOT NULL, turn INTEGER NOT NULL, process REAL NOT NULL, prompt BLOB NOT NULL,
  response BLOB NOT NULL, logprobs BLOB NOT NULL, versions BLOB NOT NULL,
  PRIMARY KEY(episode, turn));
CREATE TABLE IF NOT EXISTS claims(id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL,
  state TEXT NOT NULL);
"""


_EXTRAS = """
CREATE TABLE IF NOT EXISTS extras(episode INTEGER PRIMARY KEY, data TEXT NOT NULL)
"""


class PoolCorruptError(InfraError):
    """The file is no pool, or is damaged."""


class PoolBusyError(InputError):
    """Another trainer holds the pool."""


class LeaseLostError(InfraError):
    """This trainer's lease ran out and another took over: stop, and do not publish weights."""


@dataclass(frozen=True, eq=False)
class Claim:
    """Handed to a trainer: groups, each with its members that are not masked.

    ``id`` belongs into the checkpoint of the weights trained on it.
    """

    id: int
    groups: tuple[tuple[PoolTrajectory, ...], ...]

    @property
    def trajectories(self) -> tuple[PoolTrajectory, ...]:
        """All members, group after group."""
        return tuple(member for group in self.groups for member in group)


class DataPool:
    """A pool file; one object per process (open it again after a fork).

    Args:
        path: of the SQLite file, made if absent.
        group_size: members of a group; 1 makes each trajectory a unit of its own.
        vocabulary: ids at or above it are out of range.
        max_tokens: longer completions (prompt and response) are masked.
        durable: survive a power loss too, not only the death of processes.

    Raises:
        PoolCorruptError: the file is damaged, or not a pool.
        InputError: the pool was made with another group size.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        group_size: int = 1,
        vocabulary: int | None = None,
        max_tokens: int | None = None,
        durable: bool = False,
    ) -> None:
        if group_size < 1:
            raise InputError(f"group_size is at least 1, got {group_size}")
        self.path = Path(path)
        self.group_size, self.vocabulary, self.max_tokens = group_size, vocabulary, max_tokens
        self._pid = os.getpid()
        with self._guard():
            self._connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
            self._connection.execute("PRAGMA busy_timeout = 60000")
            self._connection.execute(f"PRAGMA page_size = {PAGE}")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE}")
            sync = "FULL" if durable else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {sync}")
            self._connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        self._prepare()

    def _prepare(self) -> None:
        with self._write() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                values = (("schema", SCHEMA), ("group_size", self.group_size), ("epoch", 0))
                db.executemany("INSERT INTO meta VALUES (?, ?)", values)
            db.execute(_EXTRAS)
            found = dict(db.execute("SELECT name, value FROM meta").fetchall())
            if found.get("schema") != SCHEMA:
                raise PoolCorruptError(
                    f"{self.path}: schema {found.get('schema')}, this version reads {SCHEMA}; "
                    f"export the pool with the version that wrote it"
                )
            if found["group_size"] != self.group_size:
                raise InputError(
                    f"{self.path} holds groups of {found['group_size']}, opened with "
                    f"group_size={self.group_size}"
                )

    def close(self) -> None:
        """Close the file; the pool stays."""
        self._connection.close()

    def __enter__(self) -> DataPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, trajectories: Iterable[PoolTrajectory]) -> int:
        """Store graded episodes in one transaction; returns how many were new.

        Those unfit for training are stored masked, with the reason. When this returns, the episodes
        survive the death of any process.
        """
        new = 0
        with self._write() as db:
            for trajectory in trajectories:
                new += self._put(db, trajectory)
        return new

    def _put(self, db: sqlite3.Connection, trajectory: PoolTrajectory) -> int:
        if db.execute("SELECT 1 FROM episodes WHERE key = ?", (trajectory.key,)).fetchone():
            return 0
        if trajectory.group is None and self.group_size > 1:
            raise InputError(
                f"{trajectory.key!r} names no group, but this pool hands out groups of "
                f"{self.group_size}"
            )
        fault = trajectory.fault(self.vocabulary, self.max_tokens)
        name = trajectory.key if trajectory.group is None else trajectory.group
        row = db.execute(
            "INSERT INTO groups(name, size, members, usable, state) VALUES (?, ?, 1, ?, ?) "
            "ON CONFLICT(name) DO UPDATE SET members = members + 1, "
            "usable = usable + excluded.usable RETURNING id, members, usable, state",
            (name, self.group_size, int(fault is None), OPEN),
        ).fetchone()
        group, members, usable, state = row
        if state != OPEN:
            raise InputError(
                f"group {name!r} already has its {self.group_size} members; {trajectory.key!r} "
                f"belongs to a new group"
            )
        if members == self.group_size:
            state = READY if usable else MASKED
            db.execute("UPDATE groups SET state = ? WHERE id = ?", (state, group))
        episode = db.execute(
            "INSERT INTO episodes(key, grp, task, status, isolation, reward, fault) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                trajectory.key,
                group,
                trajectory.task,
                trajectory.status,
                trajectory.isolation,
                trajectory.reward,
                fault,
            ),
        ).lastrowid
        if trajectory.extra:
            values = (episode, json.dumps(trajectory.extra))
            db.execute("INSERT INTO extras VALUES (?, ?)", values)
        db.executemany(
            "INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (episode, turn, completion.process_reward, *to_blobs(completion))
                for turn, completion in enumerate(trajectory.completions)
            ),
        )
        return 1

    def attach(
        self,
        owner: str,
        *,
        trained: Iterable[int] = (),
        lease: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> TrainerLease:
        """Become the trainer.

        Args:
            owner: who, for messages.
            trained: claim ids found in the checkpoint that was loaded: they are committed, all
                other open claims are released.
            lease: seconds without a call after which another trainer may take over.
            clock: seconds since the epoch.

        Raises:
            PoolBusyError: another trainer's lease has not run out.
            InputError: an id in ``trained`` that this pool never gave out.
        """
        if lease <= 0:
            raise InputError(f"a lease is above 0 seconds, got {lease}")
        with self._write() as db:
            meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
            until = meta.get("until", 0.0)
            if until > clock():
                raise PoolBusyError(
                    f"trainer {meta.get('owner')!r} holds {self.path} for another "
                    f"{until - clock():.0f} s; stop it (detach), or wait"
                )
            epoch = meta["epoch"] + 1
            for claim in trained:
                if not db.execute("SELECT 1 FROM claims WHERE id = ?", (claim,)).fetchone():
                    raise InputError(
                        f"the checkpoint names claim {claim}, which {self.path} never gave out: "
                        f"checkpoint and pool do not belong together"
                    )
                self._end_claim(db, claim, CONSUMED)
            for (claim,) in db.execute(
                "SELECT id FROM claims WHERE state = ?", (LEASED,)
            ).fetchall():
                self._end_claim(db, claim, READY)
            for name, value in (("epoch", epoch), ("owner", owner), ("until", clock() + lease)):
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        return TrainerLease(self, owner, epoch, lease, clock)

    @staticmethod
    def _end_claim(db: sqlite3.Connection, claim: int, state: str) -> None:
        released = None if state == READY else claim
        db.execute(
            "UPDATE groups SET state = ?, claim = ? WHERE claim = ? AND state = ?",
            (state, released, claim, LEASED),
        )
        db.execute("UPDATE claims SET state = ? WHERE id = ? AND state = ?", (state, claim, LEASED))

    def counts(self) -> dict[str, int]:
        """Groups by state (open, ready, leased, consumed, masked)."""
        with self._guard():
            rows = self._db.execute("SELECT state, COUNT(*) FROM groups GROUP BY state").fetchall()
        return dict.fromkeys((OPEN, READY, LEASED, CONSUMED, MASKED), 0) | dict(rows)

    def faults(self) -> dict[str, int]:
        """Masked episodes by reason."""
        with self._guard():
            return dict(
                self._db.execute(
                    "SELECT fault, COUNT(*) FROM episodes WHERE fault IS NOT NULL GROUP BY fault"
                ).fetchall()
            )

    def trajectories(self) -> Iterator[PoolTrajectory]:
        """All episodes in the order they came, masked and consumed ones too; bounded memory."""
        last = 0
        while True:
            with self._guard():
                rows = self._db.execute(
                    "SELECT id FROM episodes WHERE id > ? ORDER BY id LIMIT 256", (last,)
                ).fetchall()
            if not rows:
                return
            for (episode,) in rows:
                yield self._read(episode)
            last = rows[-1][0]

    def check(self) -> None:
        """Read the whole file for damage; `PoolCorruptError` says what was found."""
        with self._guard():
            found = self._db.execute("PRAGMA integrity_check(5)").fetchall()
        if found != [("ok",)]:
            raise PoolCorruptError(f"{self.path}: {'; '.join(str(row[0]) for row in found)}")

    def _read(self, episode: int) -> PoolTrajectory:
        with self._guard():
            key, group, task, status, isolation, reward = self._db.execute(
                "SELECT key, name, task, status, isolation, reward FROM episodes "
                "JOIN groups ON groups.id = grp WHERE episodes.id = ?",
                (episode,),
            ).fetchone()
            rows = self._db.execute(
                "SELECT prompt, response, logprobs, versions, process FROM completions "
                "WHERE episode = ? ORDER BY turn",
                (episode,),
            ).fetchall()
            extra = self._db.execute(
                "SELECT data FROM extras WHERE episode = ?", (episode,)
            ).fetchone()
        return PoolTrajectory(
            key,
            tuple(from_blobs(row[:4], row[4]) for row in rows),
            reward,
            status,
            isolation,
            group if group != key or self.group_size > 1 else None,
            task,
            {} if extra is None else json.loads(extra[0]),
        )

    @property
    def _db(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:
            raise InputError("the pool was opened before a fork; open it again in this process")
        return self._connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._guard():
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InfraError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise PoolCorruptError(
                f"{self.path}: {error}; it is no pool or is damaged: move it (with its -wal file) "
                f"aside, recover what is readable with `sqlite3 FILE .recover`, start a new pool"
            ) from error


class TrainerLease:
    """The one trainer of a pool; made by `DataPool.attach`. Every call renews the lease."""

    def __init__(
        self, pool: DataPool, owner: str, epoch: int, lease: float, clock: Callable[[], float]
    ) -> None:
        self.pool, self.owner, self.epoch = pool, owner, epoch
        self._lease, self._clock = lease, clock

    def claim(self, groups: int) -> Claim | None:
        """Up to ``groups`` ready groups, the oldest first; ``None`` when none is ready."""
        if groups < 1:
            raise InputError(f"expected at least one group to claim, got {groups}")
        pool = self.pool
        with pool._write() as db:
            self._hold(db)
            ids = db.execute(
                "SELECT id FROM groups WHERE state = 'ready' ORDER BY id LIMIT ?", (groups,)
            ).fetchall()
            if not ids:
                return None
            claim = db.execute(
                "INSERT INTO claims(epoch, state) VALUES (?, ?)", (self.epoch, LEASED)
            ).lastrowid
            assert claim is not None
            db.executemany(
                "UPDATE groups SET state = 'leased', claim = ? WHERE id = ?",
                ((claim, group) for (group,) in ids),
            )
        with pool._guard():
            members = [
                pool._db.execute(
                    "SELECT id FROM episodes WHERE grp = ? AND fault IS NULL ORDER BY id", group
                ).fetchall()
                for group in ids
            ]
        return Claim(claim, tuple(tuple(pool._read(e) for (e,) in group) for group in members))

    def commit(self, claim: int) -> None:
        """The claim is trained and in a checkpoint: consumed for good. Again is harmless."""
        self._end(claim, CONSUMED)

    def release(self, claim: int) -> None:
        """Give the claim back untrained."""
        self._end(claim, READY)

    def renew(self) -> None:
        """Show that this trainer lives, in a long step."""
        with self.pool._write() as db:
            self._hold(db)

    def detach(self) -> None:
        """Stop being the trainer; open claims are released by the next `DataPool.attach`."""
        with self.pool._write() as db:
            self._hold(db)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('until', 0.0)")

    def _end(self, claim: int, state: str) -> None:
        with self.pool._write() as db:
            self._hold(db)
            row = db.execute("SELECT state FROM claims WHERE id = ?", (claim,)).fetchone()
            if row is None or row[0] not in (LEASED, state):
                raise InputError(
                    f"claim {claim} is {'unknown' if row is None else row[0]}, expected {LEASED}"
                )
            self.pool._end_claim(db, claim, state)

    def _hold(self, db: sqlite3.Connection) -> None:
        epoch, owner = (
            db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]
            for name in ("epoch", "owner")
        )
        if epoch != self.epoch:
            raise LeaseLostError(
                f"{self.owner!r} lost {self.pool.path} to {owner!r}: its lease of {self._lease} s "
                f"ran out; discard the step since the last checkpoint and attach again"
            )
        until = self._clock() + self._lease
        db.execute("INSERT OR REPLACE INTO meta VALUES ('until', ?)", (until,))
