"""What tests share: the shared data, and skips that ``M2GYM_REQUIRE`` turns into failures."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def require(what: str, present: bool, reason: str) -> None:
    """Skip unless ``present``; fail instead where ``M2GYM_REQUIRE`` names ``what``."""
    if present:
        return
    if what in os.environ.get("M2GYM_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here: {reason}")
    pytest.skip(reason)


def bwrap_works() -> bool:
    """Whether bubblewrap can make a box here."""
    if shutil.which("bwrap") is None:
        return False
    probe = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared data, outside the project."""
    path = Path(os.environ.get("M2GYM_SHARED", REPOSITORY.parent / "shared"))
    require("shared", (path / "data").is_dir(), f"no shared data at {path} (set M2GYM_SHARED)")
    return path


@pytest.fixture(scope="session")
def bwrap() -> None:
    """Needs a working bubblewrap."""
    require("bwrap", bwrap_works(), "bubblewrap does not work here: see `m2gym doctor`")
