"""How fast local workspaces are, beside the plain alternative: ``m2gym bench workspace``."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import InfraError, InputError
from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.workspaces.local import LocalWorkspace

Row = dict[str, Any]
"""name, value, unit, target (``None``: no target), baseline (what the value is compared with)."""


def run(only: Iterable[str] | None = None) -> list[Row]:
    """Every figure, medians of one run; ``only`` names some of `BENCHES`.

    ``docker`` needs an engine and ``swe-rex`` a Python that has it, named by
    ``M2GYM_PEERS_PYTHON``; without them they run only when they are named, and then say so.
    """
    wanted = [n for n in BENCHES if _possible(n)] if only is None else list(only)
    unknown = sorted(set(wanted) - set(BENCHES))
    if unknown:
        raise InputError(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHES)}")
    return [row for name in wanted for row in asyncio.run(BENCHES[name]())]


def _possible(name: str) -> bool:
    if name == "docker":
        from m2gym.workspaces.docker_box import capabilities

        try:
            capabilities()
        except (InfraError, InputError):
            return False
    return name != "swe-rex" or bool(os.environ.get("M2GYM_PEERS_PYTHON"))


def _row(name: str, value: float, unit: str, target: str | None, baseline: str = "") -> Row:
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "target": target,
        "baseline": baseline,
    }


def _bare(program: Sequence[str] = ("bash", "-c", "true")) -> float:
    began = time.perf_counter()
    subprocess.run(program, check=True)
    return time.perf_counter() - began


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def commands(rounds: int = 200) -> list[Row]:
    """A shell step and a fresh command beside a bare ``bash -c true``, taken in turn."""
    box = LocalWorkspace(WorkspaceSpec())
    await box.start()
    try:
        shell = await box.shell()
        bare, fresh, step = [], [], []
        for _ in range(rounds):
            bare.append(_bare())
            fresh.append(await _timed(lambda: box.exec("true")))
            step.append(await _timed(lambda: shell.run("true")))
    finally:
        await box.stop()
    one, two, three = (statistics.median(values) for values in (bare, fresh, step))
    base = f"bash -c true: {one * 1e3:.3f} ms"
    return [
        _row("shell step / bare process", three / one, "x", "<= 0.2", base),
        _row("shell step", three * 1e3, "ms", None, base),
        _row("fresh command / bare process", two / one, "x", "<= 1.2", base),
        _row("fresh command", two * 1e3, "ms", None, base),
    ]


async def starting(rounds: int = 20) -> list[Row]:
    """Start and stop of a box, and of bubblewrap alone."""
    up, down, bare = [], [], []
    program = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--", "true"]
    for _ in range(rounds):
        box = LocalWorkspace(WorkspaceSpec())
        up.append(await _timed(box.start))
        down.append(await _timed(box.stop))
        bare.append(_bare(program))
    base = f"bwrap … true: {statistics.median(bare) * 1e3:.1f} ms"
    return [
        _row("local start", statistics.median(up) * 1e3, "ms", "< 25", base),
        _row("local stop", statistics.median(down) * 1e3, "ms", None),
    ]


async def forking(megabytes: int = 500, n: int = 8) -> list[Row]:
    """fork(n) of a tree, with and without the forks' first command, beside one ``cp -a``."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number in range(megabytes):
            folder = root / f"d{number % 20}"
            folder.mkdir(exist_ok=True)
            (folder / f"f{number}").write_bytes(bytes([number % 251]) * (1 << 20))
        with tempfile.TemporaryDirectory() as other:
            copied = _bare(["cp", "-a", name, other])
        box = LocalWorkspace(WorkspaceSpec(root=root, limits=Limits(disk_mb=None)))
        await box.start()
        try:
            await box.exec("echo changed > d1/f1; rm d2/f2; mkdir new; echo 1 > new/x")
            times, used = [], []
            for _ in range(5):
                began = time.perf_counter()
                forks = await box.fork(n)
                times.append(time.perf_counter() - began)
                await asyncio.gather(*(fork.exec("true") for fork in forks))
                used.append(time.perf_counter() - began)
                for fork in forks:
                    await fork.stop()
        finally:
            await box.stop()
    what = f"fork({n}) of {megabytes} MB"
    base = f"cp -a: {copied * 1e3:,.0f} ms a copy, {n} copies {n * copied * 1e3:,.0f} ms"
    return [
        _row(what, statistics.median(times) * 1e3, "ms", "< 20", base),
        _row(f"{what} and a command in each", statistics.median(used) * 1e3, "ms", None, base),
    ]


async def crowd(count: int = 200) -> list[Row]:
    """Many boxes at once: failures, time to start and stop, memory when idle; beside as many bare
    ``sleep`` processes."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files[1], 65536), files[1]))
    boxes = [LocalWorkspace(WorkspaceSpec()) for _ in range(count)]
    began = time.perf_counter()
    results = await asyncio.gather(*(box.start() for box in boxes), return_exceptions=True)
    up = time.perf_counter() - began
    try:
        answers = await asyncio.gather(*(b.exec("true") for b in boxes), return_exceptions=True)
        memory = statistics.median(_memory(box) for box in boxes if box.running)
    finally:
        began = time.perf_counter()
        await asyncio.gather(*(box.stop() for box in boxes))
        down = time.perf_counter() - began
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
    failed = sum(isinstance(item, BaseException) for item in (*results, *answers))
    start, stop, each = await asyncio.to_thread(_sleepers, count)
    many = f"{count} bare sleep processes"
    return [
        _row(f"{count} boxes at once, failed", failed, "boxes", "0"),
        _row(
            f"{count} boxes at once, start each",
            up / count * 1e3,
            "ms",
            None,
            f"{many}: {start * 1e3:.2f} ms each",
        ),
        _row(
            f"{count} boxes at once, stop all",
            down * 1e3,
            "ms",
            None,
            f"{many}: {stop * 1e3:.0f} ms",
        ),
        _row("memory of an idle box", memory, "MB", "< 2", f"a bare sleep: {each:.2f} MB"),
    ]


def _sleepers(count: int) -> tuple[float, float, float]:
    """Bare processes: seconds to start each, seconds to end all, median memory (MB)."""
    began = time.perf_counter()
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(count)]
    up = time.perf_counter() - began
    try:
        memory = statistics.median(_pss(process.pid) for process in processes)
    finally:
        began = time.perf_counter()
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
    return up / count, time.perf_counter() - began, memory


def _memory(box: LocalWorkspace) -> float:
    """Proportional set size of a box's processes, MB (supervisor and bubblewrap)."""
    return sum(map(_pss, box.host_pids()))


def _pss(pid: int) -> float:
    """Proportional set size of a process, MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def throughput(count: int = 32, each: int = 60) -> list[Row]:
    """Fresh commands a second over many boxes."""
    boxes = [LocalWorkspace(WorkspaceSpec()) for _ in range(count)]
    try:
        await asyncio.gather(*(box.start() for box in boxes))

        async def work(box: LocalWorkspace) -> None:
            for _ in range(each):
                await box.exec("true")

        began = time.perf_counter()
        await asyncio.gather(*map(work, boxes))
        seconds = time.perf_counter() - began
    finally:
        await asyncio.gather(*(box.stop() for box in boxes))
    began = time.perf_counter()
    for _ in range(100):
        _bare()
    base = f"bare processes, one after another: {100 / (time.perf_counter() - began):.0f}/s"
    rate = count * each / seconds
    return [_row(f"commands over {count} boxes", rate, "1/s", ">= 1300", base)]


async def docker() -> list[Row]:
    """Docker boxes beside the engine's exec and run."""
    from m2gym.workspaces.docker_bench import figures

    return [_row(*figure) for figure in await figures()]


async def swe_rex(rounds: int = 20) -> list[Row]:
    """SWE-ReX's local runtime, which has no sandbox, beside a local box of ours, in one run.

    Raises:
        InputError: no Python is named, or it has no ``swerex``.
    """
    python = os.environ.get("M2GYM_PEERS_PYTHON")
    if python is None:
        raise InputError("name a Python that has swe-rex: M2GYM_PEERS_PYTHON=…/bin/python")
    script = str(Path(__file__).with_name("bench_swerex.py"))
    done = await asyncio.to_thread(
        subprocess.run, [python, script, str(rounds)], capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"{python} cannot run SWE-ReX: {done.stderr[-300:]}")
    theirs = json.loads(done.stdout)
    box = LocalWorkspace(WorkspaceSpec())
    start = await _timed(box.start)
    try:
        shell = await box.shell()
        step = statistics.median([await _timed(lambda: shell.run("true")) for _ in range(rounds)])
        fresh = statistics.median([await _timed(lambda: box.exec("true")) for _ in range(rounds)])
    finally:
        await box.stop()
    ours = {"start": start, "command": step, "execute": fresh}
    names = {
        "start": "SWE-ReX session start / box start",
        "command": "SWE-ReX command in a session / shell step",
        "execute": "SWE-ReX command without one / fresh command",
    }
    return [
        _row(what, theirs[key] / ours[key], "x", None,
             f"{theirs[key] * 1e3:.2f} ms and {ours[key] * 1e3:.2f} ms")
        for key, what in names.items()
    ] + [_row(f"SWE-ReX commands given up, of {rounds}", theirs["failed"], "", None)]  # fmt: skip


BENCHES: dict[str, Callable[[], Coroutine[Any, Any, list[Row]]]] = {
    "commands": commands,
    "starting": starting,
    "forking": forking,
    "crowd": crowd,
    "throughput": throughput,
    "docker": docker,
    "swe-rex": swe_rex,
}
