"""The same driver over a real Ray cluster of two nodes, one of which is lost in the middle."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import pytest

from m2gym.core.errors import InputError
from m2gym.rollout.executors import make_executor
from m2gym.rollout.run_info import RunConfig
from tests.conftest import REPOSITORY, require
from tests.rollout.tiny import install

PROGRAM = textwrap.dedent(
    """
    import json, sys, threading, time
    from pathlib import Path
    import ray
    from ray.cluster_utils import Cluster
    import m2gym
    from m2gym.rollout.records import scan
    from m2gym.rollout.artifacts import FOLDER

    quiet = {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **quiet})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    out = Path("r")

    def lose():
        file, node = out / "trajectories.jsonl", second.node_id
        while not file.exists() or not any(scan(file)):
            time.sleep(0.05)
        before = set(Path(".").glob(f"on-{node}-*"))
        while set(Path(".").glob(f"on-{node}-*")) == before:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)

    loser = threading.Thread(target=lose)
    loser.start()
    run = m2gym.evaluate(
        "tiny", agent="lazy:Lazy", attempts=3, concurrency=3, out=out, progress=False,
        executor=f"ray:{cluster.address}",
    )
    loser.join()
    alive = sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else None
    episodes = list(run)
    print(json.dumps({
        "score": run.score, "complete": run.complete, "episodes": len(episodes),
        "lines": sum(1 for _ in scan(out / "trajectories.jsonl")),
        "retries": [r["cause"] for e in episodes for r in e.retries],
        "kept": len(list((out / FOLDER).iterdir())),
        "errors": [e.error for e in episodes if e.error],
    }))
    cluster.shutdown()
    """
)

LAZY = """
import asyncio, os
from pathlib import Path
import ray

class Lazy:
    name = "lazy"

    async def run(self, episode):
        node = ray.get_runtime_context().get_node_id()
        (Path(os.environ["TINY_ROOT"]).parent / f"on-{node}-{episode.id}").touch()
        await episode.act(f"echo {episode.task.id[1:]} > answer.txt")
        await asyncio.sleep(1)
        await episode.submit()
"""


def test_a_lost_node_costs_a_retry_and_nothing_else(tmp_path, bwrap):
    require("ray", importlib.util.find_spec("ray") is not None, "no ray: pip install 'm2gym[ray]'")
    variables = {**os.environ, **install(tmp_path), "RAY_DEDUP_LOGS": "0"}
    (tmp_path / "lazy.py").write_text(LAZY)
    variables["PYTHONPATH"] += os.pathsep + str(REPOSITORY)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["errors"] == []
    assert (told["score"], told["complete"]) == (1, True)
    assert told["episodes"] == told["lines"] == told["kept"] == 12
    assert told["retries"]
    assert set(told["retries"]) == {"node"}


def test_what_cannot_travel_is_refused():
    config = RunConfig(env="e", agent="a")
    with pytest.raises(InputError, match="an executor is 'local'"):
        make_executor("slurm", config, "gold", None)
    with pytest.raises(InputError, match="named by text"):
        make_executor("ray", config, object(), None)
