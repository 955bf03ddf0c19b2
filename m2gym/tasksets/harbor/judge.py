# ruff: noqa: PTH100, PTH103, PTH109, PTH110, PTH118, PTH120, PTH123
"""Judges a task that m2gym wrote as a Harbor folder; lies in its ``tests``, standard library only.

``test.sh`` runs it as root in the verifier's box: the hidden files are laid over the work folder,
``box_runner.py`` runs the wanted tests as the user who owns the work folder, and the number goes to
``/logs/verifier/reward.json``, which that user cannot write. What the graded process reports is
believed only where its exit code agrees. Weaker than m2gym's own verifier, which reads the same
``m2gym.json``: no decoys are planted, and configuration files among the artifacts stay.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = "/logs/verifier"
FINE = ("passed", "xfailed", "xpassed")


def main() -> None:
    """Judge, and write the number."""
    with open(os.path.join(HERE, "m2gym.json"), encoding="utf-8") as file:
        task = json.load(file)
    shutil.copytree(os.path.join(HERE, "hidden"), ".", dirs_exist_ok=True, symlinks=True)
    total, notes = 0.0, {}
    for reward in task["rewards"]:
        value, report = tests(reward, task["seconds"])
        total += reward["weight"] * value
        notes[reward["name"]] = report
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "report.json"), "w", encoding="utf-8") as file:
        json.dump(notes, file, indent=1)
    with open(os.path.join(OUT, "reward.json"), "w", encoding="utf-8") as file:
        json.dump({"reward": total}, file)


def tests(reward: dict[str, Any], seconds: float) -> tuple[float, dict[str, Any]]:
    """What ``tests-pass`` or ``tests-fraction`` gives, and the runner's report."""
    wanted = reward["parameters"]
    failing, passing = wanted["fail_to_pass"], wanted["pass_to_pass"]
    ids = list(dict.fromkeys([*failing, *passing]))
    files = wanted.get("test_files") or list(dict.fromkeys(i.split("::")[0] for i in ids))
    with open(os.path.join(HERE, "report_plugin.py"), encoding="utf-8") as file:
        plugin = file.read()
    arguments = ["-q", "--no-header", "--tb=short", "--color=no", "--rootdir=."]
    arguments += ["--continue-on-collection-errors", "-o", "cache_dir=/tmp/pytest-cache"]
    job = {
        "plugin": plugin,
        "args": [*arguments, *wanted.get("command", []), "--maxfail=0"],
        "files": [path for path in files if os.path.exists(path)],
        "ids": ids,
        "workdir": os.getcwd(),
        "env": {},
        "timeout": wanted.get("timeout", 60.0),
        "budget": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", os.path.join(HERE, "box_runner.py")],
        input=json.dumps(job).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    last, found = report["attempts"][-1], report["outcomes"]
    if not report["attempts"][0]["ready"]:
        sys.exit(f"pytest did not start: {last['output'][-2000:]}")
    fixed = sum(found.get(test) in FINE for test in failing)
    kept = all(found.get(test) in (*FINE, "skipped") for test in passing)
    if doubted(last) or not kept:
        return 0.0, report
    if reward["name"] == "tests-pass":
        return float(fixed == len(failing)), report
    return fixed / len(failing) if failing else 1.0, report


def doubted(last: dict[str, Any]) -> bool:
    """Whether the exit code says something else than the report, or the report breaks off."""
    code, failures = last["exit"], last["failures"]
    if last["late"] or last["stalled"] or not last["ended"]:
        return last["late"] or last["current"] is None
    return (code == 0 and failures > 0) or (code not in (0, 5) and failures == 0)


if __name__ == "__main__":
    main()
