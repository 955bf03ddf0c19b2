"""A small image of this machine's own bash and a few commands: no Python, made in a second."""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

NAMES = """
bash cat chmod cp dd env find grep head id kill ln ls mkdir mkfifo mv nohup pkill printf rm seq
setsid sh sleep sort stat test timeout touch tr true wc
"""
PROGRAMS = tuple(NAMES.split())
NAME = "m2gym-test-bash"


@functools.cache
def make_image() -> str:
    """Give the engine the image; its name."""
    made = subprocess.run(["docker", "import", "-", NAME], input=tar_of_bash(), capture_output=True)
    assert made.returncode == 0, made.stderr
    return NAME


def tar_of_bash(programs: tuple[str, ...] = PROGRAMS) -> bytes:
    """A root file system with those programs and the libraries that they name."""
    files: dict[str, Path] = {}
    for name in programs:
        path = shutil.which(name, path="/usr/bin:/bin")
        assert path is not None, f"this machine has no {name}"
        files[f"bin/{name}"] = Path(path)
        told = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            files[library.lstrip("/")] = Path(library)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("tmp", "root", "proc", "usr", "usr/bin", "etc"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        for inner, path in sorted(files.items()):
            data = Path(os.path.realpath(path)).read_bytes()
            info = tarfile.TarInfo(inner)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
