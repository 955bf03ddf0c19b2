"""Run by a peer's Python: milliseconds an episode of the same trivial task in its own evaluation.

No part of m2gym is imported here.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from typing import Any


def inspect(sizes: dict[str, int]) -> dict[str, dict[str, float]]:
    """Inspect's eval with its own mock model; without a sandbox and with its local one."""
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

    def once(n: int, episodes: int, box: bool) -> float:
        answers = (models.ModelOutput.from_content("mockllm/model", "yes") for _ in range(10**6))
        model = models.get_model("mockllm/model", custom_outputs=answers)
        task = ai.Task(
            dataset=[dataset.Sample(input="Say yes.", target="yes") for _ in range(episodes)],
            solver=leave() if box else solver.generate(),
            scorer=scorer.match(),
            sandbox="local" if box else None,
        )
        with tempfile.TemporaryDirectory() as logs:
            begun = time.perf_counter()
            ai.eval(
                task, model=model, log_dir=logs, display="none", max_samples=n, max_sandboxes=n,
                max_connections=max(n, 10),
            )  # fmt: skip
            return (time.perf_counter() - begun) / episodes * 1e3

    once(4, 4, False)
    return {
        key: {n: once(int(n), episodes, box) for n, episodes in sizes.items()}
        for key, box in (("none", False), ("sandbox", True))
    }


if __name__ == "__main__":
    print(json.dumps({"inspect": inspect}[sys.argv[1]](json.loads(sys.argv[2]))))
