"""Files of a SWE-bench instance from the user's checkouts: the base tree, and patches over it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import InfraError, InputError
from m2gym.tasksets.registry.cache import Cache, key_of
from m2gym.tasksets.statements.evidence import Fix
from m2gym.tasksets.swe_bench_rows.rows import SweBenchRow
from m2gym.tasksets.swe_repo.repository import commit_tree

_FORMAT = 2


@dataclass(frozen=True)
class Instance:
    """An instance's files on disk: the agent's tree, and the files that each patch leaves."""

    root: Path
    tests: Path
    fixed: Path


def find_checkout(checkouts: Path, row: SweBenchRow) -> Path:
    """The folder of an instance, or of its repository, below ``checkouts``.

    Raises:
        InputError: there is none; the message names where it was looked for.
    """
    owner, name = row.repo.split("/")
    wanted = [row.instance_id, f"{owner}__{name}", f"{owner}/{name}", name]
    wanted += [f"{path}.git" for path in wanted[1:]]
    for path in wanted:
        if (checkouts / path).is_dir():
            return checkouts / path
    raise InputError(
        f"{row.instance_id}: repo: no checkout of {row.repo} in {checkouts}; expected one of the "
        f"folders {', '.join(wanted)}"
    )


def build_instance(row: SweBenchRow, checkout: Path, cache: Cache) -> Instance:
    """The instance's files, from the cache or built from a checkout.

    A git repository gives ``base_commit``; a folder that is none is taken as it is.

    Raises:
        InputError: the repository lacks ``base_commit``, or a patch does not apply; the message
            names the field.
        InfraError: git cannot be run.
    """
    plain = not _is_repository(checkout)
    state = _state(checkout) if plain else row.base_commit
    key = key_of("swe-bench", _FORMAT, row.repo, state, row.patch, row.test_patch)

    def build(folder: Path) -> None:
        for name in ("root", "tests", "fixed"):
            (folder / name).mkdir()
        if plain:
            ignored = shutil.ignore_patterns(".git", "__pycache__")
            shutil.copytree(
                checkout, folder / "root", symlinks=True, dirs_exist_ok=True, ignore=ignored
            )
        else:
            _check_out(row, checkout, folder / "root")
        for field, patch, name in (
            ("test_patch", row.test_patch, "tests"),
            ("patch", row.patch, "fixed"),
        ):
            _patched(f"{row.instance_id}: {field}", patch, folder / "root", folder / name)
        commit_tree(folder / "root")

    folder = cache.folder("tasks", key, build)
    return Instance(folder / "root", folder / "tests", folder / "fixed")


def changed(patch: str) -> list[str]:
    """Paths a git diff changes, both names of what it moves."""
    moved = [
        line.split(" ", 2)[2]
        for line in patch.splitlines()
        if line.startswith(("rename from ", "rename to ", "copy to "))
    ]
    headers = [
        line.rpartition(" b/")[2] for line in patch.splitlines() if line.startswith("diff --git ")
    ]
    return list(dict.fromkeys([*headers, *Fix.of_diff(patch).paths, *moved]))


def _state(checkout: Path) -> list[tuple[str, int, int]]:
    found = []
    for folder, folders, names in os.walk(checkout):
        folders[:] = sorted(f for f in folders if f not in (".git", "__pycache__"))
        for name in sorted(names):
            status = Path(folder, name).lstat()
            found.append((str(Path(folder, name)), status.st_size, status.st_mtime_ns))
    return found


def _is_repository(path: Path) -> bool:
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def _git(
    arguments: list[str], cwd: Path, text: bytes | None = None, **more: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CEILING_DIRECTORIES": str(cwd.parent),
        **more,
    }
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        return subprocess.run(
            command, cwd=cwd, env=environment, input=text, capture_output=True, check=False
        )
    except OSError as error:
        raise InfraError(
            f"git is needed for SWE-bench tasks, and cannot be run: {error}"
        ) from error


def _check_out(row: SweBenchRow, checkout: Path, target: Path) -> None:
    """The tree of ``base_commit``; neither the repository nor its work tree is touched."""
    with tempfile.TemporaryDirectory() as scratch:
        index = f"{scratch}/index"
        read = _git(["read-tree", row.base_commit], checkout, GIT_INDEX_FILE=index)
        if read.returncode:
            raise InputError(
                f"{row.instance_id}: base_commit: {checkout} has no commit {row.base_commit}: "
                f"{read.stderr.decode('utf-8', 'replace').strip()}"
            )
        arguments = ["-c", "core.bare=false", "-c", "core.autocrlf=false", "checkout-index", "-a"]
        where = {"GIT_INDEX_FILE": index, "GIT_WORK_TREE": str(target)}
        if (checkout / ".git").exists():
            where["GIT_DIR"] = str(checkout / ".git")
        else:
            where["GIT_DIR"] = str(checkout)
        done = _git([*arguments, f"--prefix={target}/"], target, None, **where)
        if done.returncode:
            raise InfraError(
                f"{row.instance_id}: the files of {row.base_commit} could not be written: "
                f"{done.stderr.decode('utf-8', 'replace').strip()}"
            )


def _patched(where: str, patch: str, root: Path, target: Path) -> None:
    """Put the files that a patch leaves into ``target``."""
    if not patch.strip():
        return
    for path in changed(patch):
        if path.startswith("/") or ".." in path.split("/"):
            raise InputError(f"{where}: the path {path!r} leaves the repository")
        if (root / path).is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, target / path)
    _git(["init", "-q"], target)
    done = _git(["apply", "--whitespace=nowarn", "-"], target, patch.encode())
    shutil.rmtree(target / ".git")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise InputError(f"{where}: does not apply to the base commit: {said[:400]}")
