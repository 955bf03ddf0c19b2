"""A small environment of our own, installed as a real package that subprocesses find too."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
"""Say the answer: eight tasks whose file answer.txt must hold the right number."""
import os
import time
from pathlib import Path

from m2gym.core.errors import DownloadError, UnknownIdError
from m2gym.core.task import Limits, PreparedTask, Reference, RewardSpec, Task, WorkspaceSpec
from m2gym.envs.catalog import EnvEntry


def right_answer(artifacts, answer: int):
    if os.environ.get("TINY_VERIFIER") == "broken":
        raise RuntimeError("the ruler broke")
    time.sleep(float(os.environ.get("TINY_GRADING", "0")))
    if "answer.txt" not in artifacts:
        return 0.0
    return float(artifacts.text("answer.txt").strip() == str(answer))


async def boxed_answer(workspace, answer: int):
    result = await workspace.exec("sleep 0.2; cat answer.txt")
    return float(result.stdout.strip() == str(answer).encode())


class Tiny:
    name = "tiny"

    def ids(self, split):
        return [f"t{i}" for i in range(int(os.environ.get("TINY_TASKS", "4")))]

    def task(self, task_id):
        if task_id not in self.ids("test"):
            raise UnknownIdError("task", task_id, self.ids("test"))
        answer = int(task_id[1:]) + int(os.environ.get("TINY_SHIFT", "0"))
        return Task(
            id=task_id,
            instruction=f"Write {answer} to answer.txt",
            rewards=(
                RewardSpec(
                    name=os.environ.get("TINY_REWARD", "right-answer"),
                    parameters={"answer": answer},
                ),
            ),
            limits=Limits(seconds=float(os.environ.get("TINY_SECONDS", "60")), steps=10),
        )

    def prepare(self, task):
        if task.id in os.environ.get("TINY_DOWN", "").split(","):
            raise DownloadError(f"{task.id}: the mirror is down")
        root = Path(os.environ["TINY_ROOT"])
        root.mkdir(parents=True, exist_ok=True)
        (root / "README").write_text("say the answer")
        answer = task.rewards[0].parameters["answer"]
        return PreparedTask(
            task,
            WorkspaceSpec(root=root, limits=task.limits),
            reference=Reference(files={"answer.txt": str(answer).encode(), "README": None}),
        )


ENTRY = EnvEntry("tiny", Tiny, "say the answer")


class Raises:
    name = "raises"

    async def run(self, episode):
        await episode.act(f"echo {episode.task.id[1:]} > answer.txt")
        raise LookupError("lost my way")


class Slow:
    name = "slow"

    async def run(self, episode):
        mark = os.environ.get("TINY_MARK", "")
        await episode.act(f"echo {episode.task.id[1:]} > answer.txt; sleep 300.{mark} &")
        await episode.act("sleep 0.4")
        await episode.submit()


class Forever:
    name = "forever"

    async def run(self, episode):
        import asyncio

        await episode.act(f"echo {episode.task.id[1:]} > answer.txt; sleep 300 & true")
        await asyncio.sleep(600)
'''


def install(folder: Path) -> dict[str, str]:
    """Put the package into ``folder``; the variables a process needs to find and use it."""
    (folder / "tiny_env.py").write_text(SOURCE)
    info = folder / "tiny_env-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-env\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[m2gym.envs]\ntiny = tiny_env:ENTRY\n"
        "[m2gym.rewards]\nright-answer = tiny_env:right_answer\n"
        "boxed-answer = tiny_env:boxed_answer\n"
        "[m2gym.scaffolds]\nslow = tiny_env:Slow\n"
    )
    return {"PYTHONPATH": str(folder), "TINY_ROOT": str(folder / "root")}
