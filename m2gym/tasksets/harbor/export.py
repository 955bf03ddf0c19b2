"""Our own tasks as Harbor folders, which Harbor runs without m2gym and m2gym reads back.

```
TASK/ task.toml  instruction.md
      environment/ Dockerfile  work/ → the work folder   site/, dist/ → what its tests import
      tests/       test.sh → judge.py, box_runner.py, report_plugin.py   m2gym.json   hidden/
      solution/    solve.sh  files/
```

Nothing is installed when the image is built and no network is needed: the packages that the tests
import are in the folder. They are for the Python that m2gym runs by, so the base image must have
that one (and git, where agents are to use it); it must not hold a release of the package that the
task is about.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.task import PreparedTask, Task
from m2gym.tasksets.harbor import judge
from m2gym.tasksets.harbor.parts import OWN, OWN_HIDDEN
from m2gym.tasksets.registry import site

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = f"python:{VERSION}-bookworm"
"""The image that folders build on, unless another is named."""

KINDS = ("tests-pass", "tests-fraction")
"""Rewards that a script in the folder can give; others need m2gym."""

SOURCE = "m2gym"
_SHOWN = PurePosixPath(site.TARGET).parent
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def export_task(prepared: PreparedTask, folder: Path, *, base: str = BASE) -> None:
    """Write a task as a Harbor folder.

    Raises:
        InputError: a reward of the task needs m2gym, or there is something at ``folder``.
    """
    task = prepared.task
    other = [spec.name for spec in task.rewards if spec.name not in KINDS]
    if other or prepared.workspace.root is None or prepared.stages:
        why = f"its reward {other[0]!r} needs m2gym" if other else "it has no files of its own"
        raise InputError(
            f"task {task.id!r} cannot be a Harbor folder: {why}; those judged by "
            f"{' or '.join(KINDS)} over files can"
        )
    if folder.exists():
        raise InputError(f"{folder} is there already: remove it, or name another with --out")
    folder.mkdir(parents=True)
    (folder / "instruction.md").write_text(task.instruction, encoding="utf-8")
    _environment(prepared, folder / "environment", base)
    _tests(prepared, folder / "tests")
    _solution(prepared, folder / "solution")
    (folder / "task.toml").write_text(_settings(prepared, base), encoding="utf-8")


def _environment(prepared: PreparedTask, folder: Path, base: str) -> None:
    spec = prepared.workspace
    assert spec.root is not None
    shutil.copytree(spec.root, folder / "work", symlinks=True)
    lines = [f"FROM {base}", f"WORKDIR {spec.workdir}", "COPY --chown=1000:1000 work/ ./"]
    for mount in spec.mounts:
        target = PurePosixPath(mount.target)
        if target.parent != _SHOWN or mount.target == site.PYTHON or not mount.source.is_dir():
            continue  # the interpreter, and what hides the packages of this machine
        place = folder / target.name
        shutil.copytree(mount.source, place, symlinks=True, ignore=_IGNORED)
        for link in (place / "bin").glob("python*"):
            link.unlink()
        lines.append(f"COPY {target.name}/ {mount.target}/")
    variables = {k: v for k, v in spec.env.items() if k != "LD_LIBRARY_PATH"}
    lines += [f"ENV {name}={_quoted(value)}" for name, value in variables.items()]
    (folder / "Dockerfile").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _tests(prepared: PreparedTask, folder: Path) -> None:
    folder.mkdir()
    rewards = Path(judge.__file__).parents[2] / "rewards"
    scripts = {
        "judge.py": Path(judge.__file__),
        "box_runner.py": rewards / "box_runner.py",
        "report_plugin.py": rewards / "report_plugin.py",
    }
    for name, source in scripts.items():
        shutil.copyfile(source, folder / name)
    if prepared.hidden is not None:
        shutil.copytree(prepared.hidden, folder / OWN_HIDDEN, symlinks=True)
    task = prepared.task
    told = {
        "rewards": [spec.model_dump() for spec in task.rewards],
        "seconds": task.limits.grade_seconds,
    }
    (folder / OWN).write_text(json.dumps(told, indent=1), encoding="utf-8")
    (folder / "test.sh").write_text(
        "#!/bin/sh\nexec python3 -I -S /tests/judge.py\n", encoding="utf-8"
    )
    (folder / "test.sh").chmod(0o755)


def _solution(prepared: PreparedTask, folder: Path) -> None:
    reference = prepared.reference
    if reference is None:
        return
    lines = ["#!/bin/sh", "set -e", f"cd {_quoted(prepared.workspace.workdir)}"]
    for path, data in reference.files.items():
        if data is None:
            lines.append(f"rm -f -- {_quoted(path)}")
            continue
        (folder / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / path).write_bytes(data)
    if (folder / "files").is_dir():
        lines.append('cp -R "$(dirname "$0")"/files/. .')
    folder.mkdir(exist_ok=True)
    text = "\n".join([*lines, reference.script or "", ""])
    (folder / "solve.sh").write_text(text, encoding="utf-8")
    (folder / "solve.sh").chmod(0o755)


def _settings(prepared: PreparedTask, base: str) -> str:
    task, workdir = prepared.task, PurePosixPath(prepared.workspace.workdir)
    limits = task.limits
    artifacts = [str(workdir / path) for path in task.artifacts]
    metadata = {**task.metadata, "source": SOURCE, "python": VERSION, "base": base}
    environment: dict[str, Any] = {"workdir": str(workdir), **_network(task)}
    if limits.memory_mb is not None:
        environment["memory_mb"] = limits.memory_mb
    if limits.disk_mb is not None:
        environment["storage_mb"] = limits.disk_mb
    if limits.cpus is not None:
        environment["cpus"] = limits.cpus
    agent = {} if limits.seconds is None else {"timeout_sec": limits.seconds}
    tables = {
        "task": {"name": f"{SOURCE}/{re.sub(r'[^A-Za-z0-9._-]+', '-', task.id).strip('.-')}"},
        "metadata": metadata,
        "environment": {**environment, "env": dict(task.env)} if task.env else environment,
        "agent": agent,
        "verifier": {
            "environment_mode": "separate",
            "timeout_sec": limits.grade_seconds + _margin(limits.grade_seconds),
            "network_mode": "no-network",
        },
    }
    head = f'schema_version = "1.4"\nartifacts = {_toml(artifacts)}\n'
    body = [f"\n[{name}]\n{_lines(table)}" for name, table in tables.items()]
    return "".join([head, *body])


def _margin(seconds: float) -> float:
    """Seconds beyond the tests' own in which the verifier starts and writes its number."""
    return max(30.0, 0.1 * seconds)


def _network(task: Task) -> dict[str, Any]:
    if task.network == "allowlist":
        return {"network_mode": "allowlist", "allowed_hosts": list(task.allowed_hosts)}
    return {"network_mode": "public" if task.network == "public" else "no-network"}


def _lines(table: Mapping[str, Any]) -> str:
    kept = ((key, value) for key, value in table.items() if value is not None)
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in kept)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _toml(value: Any) -> str:
    """A value as TOML; ``None`` within a table is left out, for TOML has no word for it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        kept = [(k, v) for k, v in value.items() if v is not None]
        return "{" + ", ".join(f"{_key(str(k))} = {_toml(v)}" for k, v in kept) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value if item is not None) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _quoted(value: str) -> str:
    """A word for a Dockerfile and for a shell: neither fills anything in."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"'
