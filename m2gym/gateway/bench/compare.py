"""The gateway and its peers under the same load, in one run.

Each proxy is pinned to one core, upstream and load to another, as far as the machine has two. A
peer that is not installed is left out. LiteLLM's proxy is found as ``litellm`` on the path, or
under the environment variable ``M2GYM_BENCH_LITELLM`` (it wants a virtual environment of its own).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from m2gym.core.errors import InfraError
from m2gym.gateway.bench.load import Load, Measured

CHUNKS = 200
ROUNDS = 3
"""Rounds over all proxies; the median of each figure is shown."""

SECONDS = 3.0
OPEN_SESSIONS = 1000

AIOHTTP, STARLETTE = "aiohttp pass-through", "starlette + httpx pass-through"

START_SECONDS = 300.0
"""How long a proxy may take to start."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy: where it listens and what its sessions' secrets are made of."""

    name: str
    port: int
    pid: int
    secret: str = "sk-bench"
    named: bool = False
    slow: Proxy | None = None
    """What stands before the slow stream, where that is another one."""


@contextlib.contextmanager
def _process(command: list[str], core: int, env: dict[str, str] | None = None) -> Iterator[Any]:
    cores = sorted(os.sched_getaffinity(0))
    pin = {cores[core % len(cores)]}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, **(env or {})}, preexec_fn=lambda: os.sched_setaffinity(0, pin),
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _line(process: Any, what: str) -> str:
    line: str = process.stdout.readline().strip()
    if not line:
        raise InfraError(f"{what} did not start: exit status {process.wait()}")
    return line


@contextlib.contextmanager
def _module(name: str, *arguments: str, core: int) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", f"m2gym.gateway.bench.{name}", *arguments]
    with _process(command, core) as process:
        yield int(_line(process, name)), process.pid


@contextlib.contextmanager
def _ours(upstream: int, model: str = "bench") -> Iterator[Proxy]:
    """The gateway; its sessions' model is one, whatever name a client asks for."""
    spec = f"openai-compatible:http://127.0.0.1:{upstream}/v1#{model}"
    command = [sys.executable, "-m", "m2gym", "serve", "--model", spec, "--port", "0", "--json"]
    with _process([*command, "--quiet"], 0) as process:
        ready = json.loads(_line(process, "m2gym serve"))
        port = int(ready["base_url"].rpartition(":")[2])
        yield Proxy("m2gym", port, process.pid, ready["secret"], named=True)


@contextlib.contextmanager
def _both_of_ours(upstream: int) -> Iterator[Proxy]:
    with _ours(upstream) as proxy, _ours(upstream, "slow") as slow:
        yield replace(proxy, slow=slow)


@contextlib.contextmanager
def _peer(name: str, module: str, upstream: int) -> Iterator[Proxy]:
    with _module(module, str(upstream), core=0) as (port, pid):
        yield Proxy(name, port, pid)


@contextlib.contextmanager
def _litellm(program: str, upstream: int) -> Iterator[Proxy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    route = {
        "model_name": "bench",
        "litellm_params": {
            "model": "openai/bench",
            "api_base": f"http://127.0.0.1:{upstream}/v1",
            "api_key": "none",
        },
    }
    slow = {**route, "model_name": "slow"}
    slow["litellm_params"] = {**slow["litellm_params"], "model": "openai/slow"}  # type: ignore[dict-item]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps({"model_list": [route, slow]}), "utf-8")
        command = [program, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
        with _process([*command, "--num_workers", "1"], 0, quiet) as process:
            _wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
            yield Proxy("LiteLLM proxy", port, process.pid)


def _wait_for(url: str, process: Any) -> None:
    ends = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < ends:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            opener.open(url, timeout=5),
        ):
            return
        if process.poll() is not None:
            raise InfraError(f"the proxy behind {url} ended with {process.returncode}")
        time.sleep(0.3)
    raise InfraError(f"nothing answers at {url} after {START_SECONDS:g} s")


def _drive(load: Load) -> Measured:
    command = [sys.executable, "-m", "m2gym.gateway.bench.load", json.dumps(asdict(load))]
    with _process(command, 1) as process:
        out = process.stdout.read()
    if not out:
        raise InfraError(f"the load generator failed with exit status {process.wait()}")
    measured = Measured(**json.loads(out))
    if measured.failed:
        raise InfraError(f"under load an answer was no 200: {measured.failed[0][:300]}")
    return measured


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0.0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            total += int(line.split()[1]) / 1024
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return total + sum(memory_mb(int(child)) for child in children.read_text().split())


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return own + sum(cpu_seconds(int(child)) for child in children.read_text().split())


def _with_cpu(proxy: Proxy, load: Load) -> tuple[Measured, float]:
    """What came, and the proxy's processor time an answer in ms: it says the same on a busy
    machine."""
    before = cpu_seconds(proxy.pid)
    measured = _drive(load)
    return measured, (cpu_seconds(proxy.pid) - before) / max(1, measured.answers) * 1e3


def _figures(proxy: Proxy, seconds: float) -> dict[str, float]:
    base = Load(proxy.port, secret=proxy.secret, named=proxy.named, seconds=seconds)
    _drive(replace(base, seconds=0.5))
    one = _drive(base)
    many, many_cpu = _with_cpu(proxy, replace(base, connections=64))
    thinking = _drive(replace(base, connections=64, think=1.0, seconds=max(4.0, seconds)))
    streams_one = _drive(replace(base, stream=True))
    streams, streams_cpu = _with_cpu(proxy, replace(base, stream=True, connections=64))
    stands = proxy.slow or proxy
    slowly = replace(base, port=stands.port, secret=stands.secret, stream=True, model="slow")
    slow = _drive(replace(slowly, requests=2, connections=8))
    return {
        "requests/s at 1": one.per_second,
        "requests/s at 64": many.per_second,
        "streams/s at 1": streams_one.per_second,
        "streams/s at 64": streams.per_second,
        "CPU ms a request": many_cpu,
        "CPU ms a stream": streams_cpu,
        "p10 ms at 1": one.p10_ms,
        "p50 ms at 1": one.p50_ms,
        "p99 ms at 1": one.p99_ms,
        "p10 ms, 64 thinking": thinking.p10_ms,
        "p50 ms, 64 thinking": thinking.p50_ms,
        "p99 ms, 64 thinking": thinking.p99_ms,
        "first piece ms": slow.first_ms,
        "memory MB": memory_mb(proxy.pid),
    }


LATENCIES = (
    "p10 ms at 1",
    "p50 ms at 1",
    "p99 ms at 1",
    "p10 ms, 64 thinking",
    "p50 ms, 64 thinking",
    "p99 ms, 64 thinking",
)


def run(rounds: int = ROUNDS, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """One row a proxy. Latencies are added ones: what the upstream itself took is taken off."""
    with _module("upstream", str(CHUNKS), core=1) as (upstream, upstream_pid):
        direct = Proxy("upstream itself", upstream, upstream_pid)
        makers: dict[str, Callable[[], Any]] = {
            direct.name: lambda: contextlib.nullcontext(direct),
            "m2gym": lambda: _both_of_ours(upstream),
            AIOHTTP: lambda: _peer(AIOHTTP, "peer_aiohttp", upstream),
        }
        if all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn", "httpx")):
            makers[STARLETTE] = lambda: _peer(STARLETTE, "peer_starlette", upstream)
        litellm = os.environ.get("M2GYM_BENCH_LITELLM") or shutil.which("litellm")
        if litellm:
            makers["LiteLLM proxy"] = lambda: _litellm(litellm, upstream)
        seen: dict[str, list[dict[str, float]]] = {}
        lost: dict[str, str] = {}
        for _ in range(rounds):
            for name, make in makers.items():
                try:
                    with make() as proxy:
                        seen.setdefault(name, []).append(_figures(proxy, seconds))
                except InfraError as error:
                    if name in (direct.name, "m2gym"):
                        raise
                    lost[name] = str(error)
        rows = _rows(seen)
        rows += [{"proxy": f"{name}: a round failed: {why}"} for name, why in lost.items()]
        with _ours(upstream) as proxy:
            rows.append(_open_sessions(proxy))
    return rows


def _rows(seen: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    medians = {
        name: {key: statistics.median(f[key] for f in figures) for key in figures[0]}
        for name, figures in seen.items()
    }
    direct = next(iter(medians.values()))
    rows: list[dict[str, Any]] = []
    for name, figures in medians.items():
        row: dict[str, Any] = {"proxy": name, **figures}
        if figures is not direct:
            row |= {key: figures[key] - direct[key] for key in (*LATENCIES, "first piece ms")}
        rows.append(row)
    return rows


def _open_sessions(proxy: Proxy) -> dict[str, Any]:
    load = Load(proxy.port, secret=proxy.secret, named=True)
    _drive(replace(load, connections=OPEN_SESSIONS, requests=5))
    name = f"m2gym, {OPEN_SESSIONS} open sessions"
    return {"proxy": name, "memory MB": memory_mb(proxy.pid)}
