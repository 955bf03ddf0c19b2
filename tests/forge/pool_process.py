"""Run as a process of its own by the crash tests: a writer, or a trainer that checkpoints."""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from m2gym.forge.pool import DataPool, PoolBusyError
from m2gym.forge.records import PoolCompletion, PoolTrajectory


def trajectory(key: str, tokens: int = 16, group: str | None = None) -> PoolTrajectory:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    ids = rng.integers(0, 1000, tokens).astype(np.int32)
    completion = PoolCompletion(
        ids[:4], ids, -rng.random(tokens).astype(np.float32), np.full(tokens, 3, np.int32)
    )
    return PoolTrajectory(key, (completion,), 1.0, group=group)


def write(path: str, name: str, count: int, acknowledged: str) -> None:
    """Put one by one; a key is acknowledged only after `put` returned."""
    with DataPool(path) as pool, Path(acknowledged).open("a") as log:
        for n in range(count):
            key = f"{name}-{n}"
            pool.put([trajectory(key)])
            log.write(key + "\n")
            log.flush()


def train(path: str, checkpoint: str, finished: str) -> None:
    """Claim, 'train' (append the keys to the weights), checkpoint atomically, commit."""
    saved = Path(checkpoint)
    state = json.loads(saved.read_text()) if saved.exists() else {"keys": [], "claims": []}
    pool = DataPool(path)
    while True:
        try:
            lease = pool.attach(f"trainer-{os.getpid()}", trained=state["claims"], lease=0.5)
            break
        except PoolBusyError:
            time.sleep(0.02)
    while True:
        claim = lease.claim(5)
        if claim is None:
            if Path(finished).exists():
                return
            time.sleep(0.005)
            continue
        state["keys"] += [t.key for t in claim.trajectories]
        state["claims"].append(claim.id)
        part = saved.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(state))
        part.replace(saved)
        lease.commit(claim.id)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        train(sys.argv[2], sys.argv[3], sys.argv[4])
