"""Run by a peer's Python: milliseconds an episode of the same trivial task in its own evaluation.

    bench_peers.py PEER none|sandbox CONCURRENCY EPISODES  →  {"ms": …, "cpu": …}

No part of m2gym is imported here. A small run comes before the one that is timed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.machinery
import json
import resource
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any


class Clock:
    """Wall time, and the processor time of this process and of those it has waited for."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), _cpu()

    def each(self, count: int) -> dict[str, float]:
        """Milliseconds since then, for each of ``count``."""
        wall, cpu = time.perf_counter() - self.wall, _cpu() - self.cpu
        return {"ms": wall / count * 1e3, "cpu": cpu / count * 1e3}


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def inspect(box: bool, n: int, episodes: int) -> dict[str, float]:
    """Inspect's eval with its own mock model; without a sandbox or with its local one."""
    ai: Any = importlib.import_module("inspect_ai")
    dataset: Any = importlib.import_module("inspect_ai.dataset")
    models: Any = importlib.import_module("inspect_ai.model")
    scorer: Any = importlib.import_module("inspect_ai.scorer")
    solver: Any = importlib.import_module("inspect_ai.solver")
    util: Any = importlib.import_module("inspect_ai.util")

    @solver.solver  # type: ignore[untyped-decorator]
    def leave() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            state = await generate(state)
            await util.sandbox().write_file("answer.txt", state.output.completion)
            return state

        return solve

    def once(count: int) -> dict[str, float]:
        answers = (models.ModelOutput.from_content("mockllm/model", "yes") for _ in range(10**6))
        model = models.get_model("mockllm/model", custom_outputs=answers)
        task = ai.Task(
            dataset=[dataset.Sample(input="Say yes.", target="yes") for _ in range(count)],
            solver=leave() if box else solver.generate(),
            scorer=scorer.match(),
            sandbox="local" if box else None,
        )
        with tempfile.TemporaryDirectory() as logs:
            clock = Clock()
            ai.eval(
                task, model=model, log_dir=logs, display="none", max_samples=n, max_sandboxes=n,
                max_connections=max(n, 10),
            )  # fmt: skip
            return clock.each(count)

    once(4)
    return once(episodes)


def verifiers(box: bool, n: int, episodes: int) -> dict[str, float]:
    """verifiers' episodes with a harness in this process, and a client that answers at once."""
    if box:
        raise SystemExit("not measured: its own harnesses start a program in their box")
    vf: Any = importlib.import_module("verifiers.v1")
    clients: Any = importlib.import_module("verifiers.v1.clients.eval")
    store: Any = importlib.import_module("verifiers.v1.utils.trace_store")
    httpx: Any = importlib.import_module("httpx")
    message = {"role": "assistant", "content": "yes"}
    said = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }  # fmt: skip

    async def answer(self: Any, dialect: Any, *_: Any, **__: Any) -> Any:
        response = dialect.parse_response(dialect.validate_response(said))
        response.raw = said
        return response

    clients.EvalClient.get_response = answer
    held: dict[str, Any] = {}

    class SayYes(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
        @vf.reward  # type: ignore[untyped-decorator]
        async def right(self, trace: Any) -> float:
            return float("yes" in str(trace.branches[-1].messages[-1].content))

    class Rows(vf.Taskset[SayYes, vf.TasksetConfig]):  # type: ignore[misc]
        def load(self) -> Any:
            data = [vf.TaskData(prompt="Say yes.") for _ in range(held["count"])]
            return [SayYes(one, self.config.task) for one in data]

    class OneCall(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
        EXECUTES_CODE = NEEDS_CONTAINER = False

        async def launch(
            self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, urls: Any,
            data: Any, tool_interception_url: Any = None,
        ) -> Any:  # fmt: skip
            asked = [{"role": "user", "content": data.prompt}]
            done = await held["client"].post(
                f"{endpoint}/chat/completions",
                json={"model": ctx.model, "messages": asked},
                headers={"Authorization": f"Bearer {secret}"},
            )
            done.raise_for_status()
            return vf.ProgramResult(0, "", "")

    name = "m2gym_bench_peer"
    plugin: Any = types.ModuleType(name)
    plugin.__spec__ = importlib.machinery.ModuleSpec(name, None)
    plugin.Rows, plugin.OneCall, plugin.__all__ = Rows, OneCall, ["Rows", "OneCall"]
    sys.modules[name] = plugin

    async def once(count: int) -> dict[str, float]:
        held["count"] = count
        seat = {"harness": {"id": name}, "runtime": {"type": "subprocess"}}
        env = vf.SingleAgentEnv(vf.SingleAgentEnvConfig(taskset={"id": name}, agent=seat))
        ctx = vf.ModelContext(model="m", client=vf.EvalClientConfig(base_url="http://none/v1"))
        gate, lock = asyncio.Semaphore(n), asyncio.Lock()
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(limits=limits, timeout=None) as client, env.serving():
                held["client"] = client
                slots = [slot for task in env.taskset for slot in env.slots(task)]
                done = await asyncio.gather(
                    *(
                        env.run_slot(
                            slot, ctx, gate,
                            lambda one: store.append_episode(Path(folder), one, lock),
                        )
                        for slot in slots
                    )
                )  # fmt: skip
            spent = clock.each(count)
        failed = [one for one in done if not one.ok]
        if failed:
            raise SystemExit(str(failed[0].errors or failed[0].traces[0].errors))
        return spent

    async def measured() -> dict[str, float]:
        await once(4)
        return await once(episodes)

    return asyncio.run(measured())


if __name__ == "__main__":
    peer = {"inspect": inspect, "verifiers": verifiers}[sys.argv[1]]
    print(json.dumps(peer(sys.argv[2] == "sandbox", int(sys.argv[3]), int(sys.argv[4]))))
