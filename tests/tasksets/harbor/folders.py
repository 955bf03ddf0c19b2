"""Harbor task folders as other people write them, made on disk by the tests."""

from __future__ import annotations

from pathlib import Path

TOML = """
schema_version = "1.4"
[task]
name = "org/greeting"
[metadata]
difficulty = "easy"
[environment]
network_mode = "no-network"
memory_mb = 512
[agent]
timeout_sec = 120.0
[verifier]
timeout_sec = 60.0
"""

BASE = "FROM m2gym-base"
"""An image that the engine of the tests has."""

COPYING = "FROM python:3.12-slim\nWORKDIR /app\nCOPY start.txt .\n"
"""A Dockerfile that a box without images can honour."""


def check(condition: str) -> str:
    """A test script that gives 1 where a shell condition holds, else 0."""
    return f"if {condition}; then r=1; else r=0; fi\necho $r > /logs/verifier/reward.txt\n"


def write(folder: Path, toml: str = TOML, **files: str) -> Path:
    """A folder with the files of a task; an empty text leaves one out."""
    texts = {
        "task.toml": toml,
        "instruction.md": "Write a greeting to out.txt",
        "environment/Dockerfile": COPYING,
        "environment/start.txt": "start\n",
        "tests/test.sh": check('[ "$(cat out.txt)" = hello ]'),
        "solution/solve.sh": "echo hello > out.txt\n",
        **files,
    }
    for path, text in texts.items():
        if text:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


STEPS = """
multi_step_reward_strategy = "mean"
[[steps]]
name = "first"
min_reward = 0.5
[[steps]]
name = "second"
[steps.agent]
timeout_sec = 30.0
"""


def write_steps(folder: Path, toml: str = TOML, steps: str = STEPS, **files: str) -> Path:
    """A task of two steps: the second one's files come only when the first is done."""
    own = {
        "instruction.md": "",
        "tests/test.sh": "",
        "tests/common.sh": "give() { echo $1 > /logs/verifier/reward.txt; }\n",
        "solution/solve.sh": "",
        "steps/first/instruction.md": "Write one to a.txt",
        "steps/first/tests/test.sh": (
            '. /tests/common.sh; [ "$(cat a.txt)" = one ] && give 1 || give 0\n'
        ),
        "steps/first/solution/solve.sh": "[ ! -e given.txt ] && echo one > a.txt\n",
        "steps/second/instruction.md": "Put a.txt and given.txt together in b.txt",
        "steps/second/workdir/given.txt": "two\n",
        "steps/second/workdir/setup.sh": "cp given.txt made.txt\n",
        "steps/second/tests/test.sh": (
            ". /tests/common.sh; cat a.txt made.txt | cmp - b.txt && give 1 || give 0\n"
        ),
        "steps/second/solution/solve.sh": "cat a.txt given.txt > b.txt\n",
    }
    return write(folder, steps.strip().split("\n[[", 1)[0] + "\n" + toml + _tables(steps),
                 **own, **files)  # fmt: skip


def _tables(steps: str) -> str:
    _, mark, rest = steps.strip().partition("\n[[")
    return f"{mark}{rest}\n" if mark else "\n"
