"""SWE-bench rows as tasks, judged by SWE-bench's rules (`m2gym.rewards.swe_bench`).

A row says what to do and how it is judged, not where its files are: the user gives a folder of
checkouts, or the name of a container image for each instance.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import (
    Limits,
    Mount,
    PreparedTask,
    Reference,
    RewardSpec,
    Split,
    Task,
    WorkspaceSpec,
)
from m2gym.rewards.swe_bench import PATCH
from m2gym.rewards.swe_bench_logs import KINDS, READERS
from m2gym.tasksets.registry import site
from m2gym.tasksets.registry.cache import Cache, Progress, key_of, silent
from m2gym.tasksets.registry.pinned import PYTEST, pinned
from m2gym.tasksets.registry.sdist import files_of
from m2gym.tasksets.swe_bench_rows.files import build_instance, changed, find_checkout
from m2gym.tasksets.swe_bench_rows.rows import Rows, SweBenchRow, read_rows
from m2gym.workspaces.supervised import PATH

WORKDIR = "/testbed"
"""Where SWE-bench's images have the repository."""

_COMMANDS = {
    "django": "./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1 {modules}",
    "sympy": "bin/test -C --verbose {files}",
}
_PYTEST_COMMAND = "python3 -m pytest -rA --color=no {files}"
_ACTIVATE = "[ ! -f /opt/miniconda3/bin/activate ] || . /opt/miniconda3/bin/activate testbed\n"
_IMAGE_PATH = f"/opt/miniconda3/envs/testbed/bin:/opt/miniconda3/bin:{PATH}"
"""SWE-bench's images have the repository's packages in a conda environment of this name."""

_RULES = (
    "The work folder is a checkout of {repo}. Change its code so that the issue is solved; tests "
    "you cannot see decide."
)
Choice = str | Callable[[SweBenchRow], str] | None


class SweBench:
    """SWE-bench rows in the order given; ``split`` puts them all in one split, else both.

    Args:
        rows: a ``.json``, ``.jsonl`` or ``.parquet`` file, or mappings (`read_rows`).
        checkouts: folder with, for each row, a folder named by its ``instance_id`` or a clone of
            its repository (``owner__name``, ``owner/name`` or ``name``, bare or not).
        image: name of a container image, with ``{instance_id}``, ``{docker_id}`` (the instance in
            the names of SWE-bench's published images), ``{repo}`` and ``{version}`` to be filled,
            or a function of the row; for workspaces that have images. A conda environment
            ``testbed`` in it, as those images have, is activated where it is there.
        command: the test command, as ``image``, also with ``{files}``; by default pytest, Django's
            or SymPy's runner over the Python files of the test patch.
        log: kind of the log (a name in `READERS`), as ``image``; by default by repository.
        hints: whether the agent is shown ``hints_text``.
        mounts, env: what the tests need in the box beside pytest and the repository.

    Raises:
        InputError: a row cannot be used, or neither checkouts nor images are given.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        checkouts: str | Path | None = None,
        image: Choice = None,
        command: Choice = None,
        log: Choice = None,
        hints: bool = False,
        split: Split | None = None,
        name: str = "swe-bench",
        mounts: Sequence[Mount] = (),
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        cache: Cache | None = None,
        progress: Progress = silent,
    ) -> None:
        self.name = name
        self._rows = {row.instance_id: row for row in read_rows(rows)}
        if (checkouts is None) == (image is None):
            raise InputError(
                "a SWE-bench row does not hold its repository: give either checkouts=FOLDER or "
                "image=NAME"
            )
        if checkouts is not None and not Path(checkouts).is_dir():
            raise InputError(f"checkouts: expected a folder, {str(checkouts)!r} is none")
        self.checkouts = None if checkouts is None else Path(checkouts)
        self._image, self._command, self._log = image, command, log
        self._hints, self._split = hints, split
        self._mounts, self._env = tuple(mounts), dict(env or {})
        self._limits = limits or Limits(grade_seconds=1800)
        self.cache, self.progress = cache or Cache(), progress

    def ids(self, split: Split) -> Sequence[str]:
        """Instance ids in the rows' order."""
        return list(self._rows) if self._split in (None, split) else []

    def row(self, task_id: str) -> SweBenchRow:
        """The row a task is made from.

        Raises:
            UnknownIdError: there is no such instance; the message names the nearest.
        """
        if task_id not in self._rows:
            raise UnknownIdError(f"task of {self.name}", task_id, self._rows)
        return self._rows[task_id]

    def task(self, task_id: str) -> Task:
        """The task; needs no files.

        Raises:
            UnknownIdError: there is no such instance, or no such kind of log.
            InputError: a choice has a placeholder that is not known.
        """
        row = self.row(task_id)
        text = f"{row.problem_statement.strip()}\n\n{_RULES.format(repo=row.repo)}"
        if self._hints and row.hints_text.strip():
            text += f"\n\nHints:\n{row.hints_text.strip()}"
        metadata: dict[str, Any] = {
            "repo": row.repo,
            "base_commit": row.base_commit,
            "version": row.version,
            "created_at": row.created_at,
            "kind": "swe-bench",
        }
        if self._split is not None:
            metadata["split"] = self._split
        return Task(
            id=row.instance_id,
            instruction=text,
            rewards=(RewardSpec(name="swe-bench", parameters=self._parameters(row)),),
            limits=self._limits,
            metadata=metadata,
        )

    def prepare(self, task: Task) -> PreparedTask:
        """The task's files, from a checkout, or the image in which they are.

        Raises:
            InputError: no checkout of the repository, no such commit, or a patch that does not
                apply; the message names the field.
            InfraError: git or the cache failed.
        """
        row = self.row(task.id)
        if self.checkouts is None:
            return self._with_image(task, row)
        built = build_instance(row, find_checkout(self.checkouts, row), self.cache)
        files = {path: (built.fixed / path).read_bytes() for path in files_of(built.fixed)}
        gone = dict.fromkeys(path for path in changed(row.patch) if path not in files)
        packages = site.site_folder([pinned()[name] for name in PYTEST], self.cache, self.progress)
        spec = WorkspaceSpec(
            root=built.root,
            workdir=WORKDIR,
            mounts=(
                *site.interpreter_mounts(),
                Mount(source=packages, target=site.TARGET),
                *self._mounts,
            ),
            env={**site.box_environment([WORKDIR]), **self._env, **task.env},
            network=task.network,
            limits=task.limits,
        )
        return PreparedTask(task, spec, built.tests, Reference({**files, **gone}))

    def _with_image(self, task: Task, row: SweBenchRow) -> PreparedTask:
        spec = WorkspaceSpec(
            image=self._chosen(self._image, row),
            workdir=WORKDIR,
            mounts=self._mounts,
            env={"PATH": _IMAGE_PATH, **self._env, **task.env},
            network=task.network,
            limits=task.limits,
        )

        def build(folder: Path) -> None:
            (folder / PATCH).parent.mkdir()
            (folder / PATCH).write_text(row.test_patch, encoding="utf-8")

        hidden = self.cache.folder("files", key_of("test-patch", row.test_patch), build)
        packed = base64.b64encode(row.patch.encode()).decode()
        script = f"base64 -d <<'END' | git apply --whitespace=nowarn -\n{packed}\nEND"
        return PreparedTask(
            task, spec, hidden if row.test_patch.strip() else None, Reference(script=script)
        )

    def _parameters(self, row: SweBenchRow) -> dict[str, Any]:
        kind = self._chosen(self._log, row) or KINDS.get(row.repo, "pytest")
        if kind not in READERS:
            raise UnknownIdError("kind of test log", kind, READERS)
        touched = changed(row.test_patch)
        gone = _removed(row.test_patch)
        files = [path for path in touched if path not in gone]
        run = [path for path in files if path.endswith(".py")] or _files_of_ids(row)
        command = self._chosen(self._command, row, run) or self._chosen(
            _COMMANDS.get(kind, _PYTEST_COMMAND), row, run
        )
        if self.checkouts is None:
            command = _ACTIVATE + command
        parameters = {
            "fail_to_pass": list(row.FAIL_TO_PASS),
            "pass_to_pass": list(row.PASS_TO_PASS),
            "command": command,
            "kind": kind,
            "test_files": files,
            "removed": gone,
        }
        if self.checkouts is None:
            parameters["base_commit"] = row.base_commit
        return parameters

    def _chosen(self, choice: Choice, row: SweBenchRow, files: Sequence[str] = ()) -> str:
        if choice is None:
            return ""
        if callable(choice):
            return choice(row)
        modules = [f.removeprefix("tests/").removesuffix(".py").replace("/", ".") for f in files]
        known = {
            "instance_id": row.instance_id,
            "docker_id": row.instance_id.lower().replace("__", "_1776_"),
            "repo": row.repo,
            "version": row.version,
            "files": " ".join(map(shlex.quote, files)),
            "modules": " ".join(modules),
        }
        try:
            return choice.format(**known)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"{choice!r}: the placeholders are {', '.join(f'{{{k}}}' for k in known)}: {error}"
            ) from error


swe_bench = SweBench
"""The taskset as a call: ``m2gym.tasksets.swe_bench(rows, checkouts=…)``."""


def _removed(patch: str) -> list[str]:
    """Paths that a git diff deletes or moves away."""
    gone, path = [], ""
    for line in patch.splitlines():
        if line.startswith("diff --git "):
            path = line.rpartition(" b/")[2]
        elif line.startswith("deleted file mode"):
            gone.append(path)
        elif line.startswith("rename from "):
            gone.append(line.removeprefix("rename from "))
    return gone


def _files_of_ids(row: SweBenchRow) -> list[str]:
    """Files named by the tests, for rows whose test patch changes no Python file."""
    files = (test.partition("::")[0] for test in (*row.FAIL_TO_PASS, *row.PASS_TO_PASS))
    return list(dict.fromkeys(file for file in files if file.endswith(".py")))
