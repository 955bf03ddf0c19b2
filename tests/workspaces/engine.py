"""Whether this machine has a container engine with an image for boxes."""

from __future__ import annotations

import functools

from m2gym.core.errors import InputError, M2GymError
from tests.conftest import bwrap_works, require


@functools.cache
def engine_trouble() -> str:
    """Why docker boxes cannot be made here; empty where they can."""
    from m2gym.core.task import WorkspaceSpec
    from m2gym.workspaces.docker_box import capabilities
    from m2gym.workspaces.docker_engine import engine
    from m2gym.workspaces.docker_images import image_of

    try:
        capabilities()
        image_of(engine(), WorkspaceSpec())
    except (M2GymError, InputError) as error:
        return f"no docker workspace here: {error}"
    return ""


def need_engine() -> None:
    """Skip without an engine; fail where ``M2GYM_REQUIRE`` names docker."""
    trouble = engine_trouble()
    require("docker", not trouble, trouble)


def able(kind: str) -> str:
    """``kind``, where boxes of it run; else the test is skipped."""
    if kind == "docker":
        need_engine()
    else:
        require("bwrap", bwrap_works(), "bubblewrap does not work here")
    return kind
