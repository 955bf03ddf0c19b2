"""Files of the package registry, by the user's own pip client, pinned by SHA-256.

`pip download` of a source archive would run the archive's build backend on the host. Only pip's
finder and downloader are used here (`pip_client`), in a process of their own: the user's index,
proxies, certificates and credentials are honoured, and nothing of the package is executed.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from m2gym.core.errors import DownloadError
from m2gym.core.task import Frozen
from m2gym.tasksets.registry.cache import Cache, Progress, file_sha256, key_of, silent
from m2gym.tasksets.registry.pip_client import NEWEST


class RegistryFile(Frozen):
    """One file of one release, pinned."""

    project: str
    version: str
    filename: str
    sha256: str


@functools.cache
def pip_python() -> str:
    """An interpreter whose pip works: this one, else the first ``python3`` on PATH that has it.

    Raises:
        DownloadError: there is none; the message says how to get it.
    """
    candidates = [sys.executable, getattr(sys, "_base_executable", None), shutil.which("python3")]
    for candidate in dict.fromkeys(c for c in candidates if c):
        probe = subprocess.run(
            [candidate, "-c", "import pip._internal.cli.main"], capture_output=True, check=False
        )
        if probe.returncode == 0:
            return candidate
    raise DownloadError(
        f"fetching task files needs pip, and neither of {candidates} has it; "
        f"run: {sys.executable} -m ensurepip"
    )


def fetch(
    files: Sequence[RegistryFile], cache: Cache, progress: Progress = silent
) -> dict[str, Path]:
    """File name → path in the cache; only what is missing is downloaded.

    Raises:
        DownloadError: a file is not to be had, or came with another hash.
    """
    distinct = {f.sha256: f for f in files}.values()
    missing = [f for f in distinct if cache.blob(f.sha256) is None]
    if missing:
        with cache.lock("fetch-" + key_of(sorted(f.sha256 for f in missing))[:32]):
            missing = [f for f in missing if cache.blob(f.sha256) is None]
            if missing:
                _download(missing, cache, progress)
    return {f.filename: cache.blob_path(f.sha256) for f in files}


def _download(files: Sequence[RegistryFile], cache: Cache, progress: Progress) -> None:
    wanted = {f.filename: f for f in files}
    with cache.scratch() as folder:
        names = [(f.project, f.filename) for f in files]
        progress(f"fetching {names[0][1]}", 0, len(names))
        for done, (name, path) in enumerate(_run_pip(names, folder), 1):
            cache.add_blob(path, wanted[name].sha256, name)
            progress(f"fetched {name}", done, len(files))


def _run_pip(names: Sequence[tuple[str, str]], folder: Path) -> Iterator[tuple[str, Path]]:
    """File name and path of each, as soon as it has come."""
    log = folder / "pip.log"
    count = 0
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [pip_python(), str(Path(__file__).with_name("pip_client.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(json.dumps({"folder": str(folder), "files": names}))
            client.stdin.close()
            for line in client.stdout:
                count += 1
                answer = json.loads(line)
                if "error" in answer:
                    raise DownloadError(f"{answer['error']}; {_hint(log)}")
                yield answer["file"], Path(answer["path"])
        finally:
            client.kill()
    if count != len(names):
        raise DownloadError(f"pip failed before {names[count][1]}: {_hint(log)}")


def _hint(log: Path) -> str:
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    said = "; pip said: " + " | ".join(last) if last else ""
    return f"check the network and `pip config list`, then run again{said}"


def pin(
    project: str, version: str | None, filename: str | None = None, cache: Cache | None = None
) -> RegistryFile:
    """A file not pinned yet (default: the source archive), its hash taken from what came.

    Without ``version`` it is the newest final release's. For making recipes; what is shipped is
    always fetched by a hash known before.

    Raises:
        DownloadError: it is not to be had.
    """
    cache = cache or Cache()
    wanted = filename or (NEWEST if version is None else f"=={version}")
    with cache.scratch() as folder:
        [(_, path)] = _run_pip([(project, wanted)], folder)
        name, sha256 = path.name, file_sha256(path)
        cache.add_blob(path, sha256, name)
    found = version or _version_of(name)
    return RegistryFile(project=project, version=found, filename=name, sha256=sha256)


def _version_of(archive: str) -> str:
    """The version in a source archive's file name."""
    stem = archive.removesuffix(".zip").removesuffix(".gz").removesuffix(".bz2")
    return stem.removesuffix(".tar").rpartition("-")[2]
